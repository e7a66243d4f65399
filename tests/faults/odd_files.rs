//! Unusual files in the config volume, by which an agent could prevent its own start: directories, FIFOs, links and
//! unusual modes.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use crate::support::{
    daemon::Site,
    hasty::HASTY,
    podman::{directory_of, image},
};

fn fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
    assert!(made.success(), "no FIFO at {}", path.display());
}

fn clear(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).expect("the directory can be removed");
    } else {
        let _absent = fs::remove_file(path);
    }
}

/// A site with a workspace that has a configuration, and the directory of its config volume.
fn site() -> (Site, std::path::PathBuf) {
    let mut site = Site::new(HASTY);
    let config = site.directory().join("config.yaml");
    fs::write(&config, "model: local\n").expect("a configuration is written");
    site.serve();
    let create = ["create", "worker", "--image", image(), "--config-file", config.to_str().expect("UTF-8")];
    let idle = ["--", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"];
    site.ostler(create.into_iter().chain(idle)).well();
    let id = site.show("worker")["id"].as_str().expect("an id").to_owned();
    let directory = directory_of(&format!("ostler-{id}-config"));
    (site, directory)
}

#[test]
fn restart_succeeds_despite_unusual_config_file() {
    let (site, directory) = site();
    let config = directory.join("config.yaml");
    let odd: [(&str, &dyn Fn()); 4] = [
        ("a FIFO", &|| fifo(&config)),
        ("a directory", &|| fs::create_dir_all(config.join("full")).expect("a directory is made")),
        ("a link to nowhere", &|| symlink("/nowhere", &config).expect("a link is made")),
        ("longer than 1 MiB", &|| fs::write(&config, vec![b'#'; 2 << 20]).expect("a file is written")),
    ];
    for (what, make) in odd {
        clear(&config);
        make();
        let output = site.ostler(["restart", "worker"]);
        let row = site.show("worker");
        assert_eq!((output.code, &row["status"]), (0, &"online".into()), "{what}: {output:?} {row}");
        if what == "longer than 1 MiB" {
            assert_eq!(
                fs::metadata(&config).expect("the file exists").len(),
                2 << 20,
                "the agent's own file was replaced"
            );
        } else {
            assert_eq!(
                fs::read_to_string(&config).expect("the configuration is a file"),
                "model: local\n",
                "{what}"
            );
        }
    }
}

#[test]
fn restart_succeeds_despite_unusual_token_file() {
    let (site, directory) = site();
    let token = directory.join(".auth_token");
    let odd: [(&str, &dyn Fn()); 5] = [
        ("a FIFO", &|| fifo(&token)),
        ("a directory", &|| fs::create_dir_all(token.join("full")).expect("a directory is made")),
        ("a link to nowhere", &|| symlink("/nowhere", &token).expect("a link is made")),
        ("a link to a file", &|| symlink("config.yaml", &token).expect("a link is made")),
        ("unreadable", &|| fs::write(&token, "x").expect("a file is written")),
    ];
    for (what, make) in odd {
        clear(&token);
        make();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o000)).expect("root may change modes");
        let output = site.ostler(["restart", "worker"]);
        let row = site.show("worker");
        assert_eq!((output.code, &row["status"]), (0, &"online".into()), "{what}: {output:?} {row}");
        assert!(site.live_instance_token_matches("worker"), "{what}: the token is not valid");
        let kept = fs::read_to_string(directory.join("config.yaml")).expect("the configuration is there");
        assert_eq!(kept, "model: local\n", "{what}: the token was written through the link");
    }
}
