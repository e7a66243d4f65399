//! A config volume is rebuilt automatically; a work volume is never replaced silently.

use std::{fs, path::Path};

use crate::support::{
    daemon::Site,
    podman::{directory_of, has_volume, podman_output},
};

fn volumes(site: &Site, name: &str) -> [String; 2] {
    let row = site.show(name);
    let id = row["id"].as_str().unwrap();
    [format!("ostler-{id}-config"), format!("ostler-{id}-work")]
}

fn wipe(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.unwrap();
    }
}

#[track_caller]
fn assert_starts_restored(site: &Site, name: &str, what: &str) {
    site.ostler(["start", name]).well();
    assert_eq!(site.show(name)["status"], "online", "with {what}");
    assert!(site.live_instance_token_matches(name), "with {what}, the token was not restored");
    let read = site.ostler(["exec", name, "--", "cat", "/configs/config.yaml", "/configs/.auth_token"]);
    assert!(read.well().starts_with("model: local\n"), "with {what}, the configuration was not restored");
}

#[test]
fn wiped_config_volume_is_rebuilt_on_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.yaml");
    fs::write(&config, "model: local\n").unwrap();
    let mut site = Site::new("");
    site.serve();
    site.create("worker", &["--config-file", config.to_str().unwrap()]);
    site.ostler(["exec", "worker", "--", "sh", "-c", "echo work > /workspace/work"]).well();
    let container = site.show("worker")["container_id"].clone();
    let [config, _] = volumes(&site, "worker");

    site.ostler(["stop", "worker"]).well();
    wipe(&directory_of(&config));
    assert_starts_restored(&site, "worker", "its contents deleted");

    site.ostler(["stop", "worker"]).well();
    fs::remove_dir_all(directory_of(&config)).unwrap();
    assert_starts_restored(&site, "worker", "its directory deleted");

    // Podman deletes a volume that a container mounts only with `--force`, and then deletes the container too.
    assert_eq!(site.show("worker")["container_id"], container);
    assert_eq!(site.ostler(["exec", "worker", "--", "cat", "/workspace/work"]).well(), "work\n");
}

#[test]
fn missing_work_volume_is_replaced_only_with_new_volume_flag() {
    let mut site = Site::new("");
    site.serve();
    site.create_all(&[("directory", None), ("volume", None)]);
    let [_, of_directory] = volumes(&site, "directory");
    let [_, of_volume] = volumes(&site, "volume");
    site.ostler(["stop", "directory"]).well();
    site.ostler(["stop", "volume"]).well();
    // In the first workspace, the directory of the work volume is missing, as with an unmounted disk. In the second,
    // the volume itself is deleted together with the container.
    fs::remove_dir_all(directory_of(&of_directory)).unwrap();
    let container = site.show("volume")["container_id"].as_str().unwrap().to_owned();
    podman_output(["rm", &container]);
    podman_output(["volume", "rm", &of_volume]);

    let doctor = site.ostler(["doctor"]);
    let lost =
        doctor.stdout.lines().find(|line| line.contains("the work volume is missing")).unwrap_or_default();
    assert!(
        lost.starts_with("warn") && lost.contains(&of_directory) && lost.contains(&of_volume),
        "{doctor:?}"
    );

    for name in ["directory", "volume"] {
        let refused = site.ostler(["start", name]);
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.stderr.contains("--new-volume"), "{name}: {refused:?}");
        // A paused workspace stays paused: it was not started, and a start is not retried automatically.
        let row = site.show(name);
        assert!(["paused", "failed"].contains(&row["status"].as_str().unwrap()), "{row}");
    }
    site.sweep_all();
    assert!(!directory_of(&of_directory).exists(), "a lost work volume was replaced silently");
    assert!(!has_volume(&of_volume), "a lost work volume was replaced silently");

    for name in ["directory", "volume"] {
        site.ostler(["start", name, "--new-volume"]).well();
        site.ostler(["exec", name, "--", "sh", "-c", "echo new > /workspace/work"]).well();
        assert!(site.live_instance_token_matches(name));
    }
}

#[test]
fn offline_workspace_fails_to_start_when_work_volume_is_missing() {
    let mut site = Site::new("");
    site.serve();
    let made = site.create("worker", &[]);
    let [_, work] = volumes(&site, "worker");
    podman_output(["rm", "--force", "--time=0", made["container_id"].as_str().unwrap()]);
    podman_output(["volume", "rm", &work]);
    site.sweep_until("check_containers", |_| site.show("worker")["status"] == "offline");

    let refused = site.ostler(["start", "worker"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let row = site.show("worker");
    assert_eq!((&row["status"], &row["failure"]), (&"failed".into(), &"start_error".into()), "{row}");
    assert!(row["status_detail"].as_str().unwrap().contains("--new-volume"), "{row}");
    assert!(site.ostler(["why", "worker"]).stdout.contains("--new-volume"));
    site.sweep_all();
    assert!(!has_volume(&work));
    assert_eq!(
        site.show("worker")["status"],
        "failed",
        "a sweep started a workspace that only an operator may start"
    );
    site.ostler(["start", "worker", "--new-volume"]).well();
}
