//! Invalid input and failing disks: the message names the error and the next step, and nothing is left half created.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    HASTY, creation, make,
    truth::{assert_truthful, containers, converge, text, volumes},
};
use crate::support::{
    assert_root,
    daemon::{CommandOutput, Site},
    podman::image,
};

/// Asserts that a command failed with this exit code and that its message contains all of these words.
#[track_caller]
fn assert_refused(output: &CommandOutput, code: i32, words: &[&str]) {
    assert_eq!(output.code, code, "{output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "`{word}` is missing: {output:?}");
    }
}

/// Asserts that the site has no rows, containers or volumes.
#[track_caller]
fn assert_nothing_made(site: &Site) {
    assert_eq!(site.json(["ls"]).as_array().unwrap().len(), 0, "a row was created");
    let instance = site.instance();
    assert!(containers(&instance).is_empty(), "a container was created");
    let made: Vec<_> =
        volumes(&instance).into_iter().filter(|name| *name != format!("ostler-{instance}")).collect();
    assert!(made.is_empty(), "volumes were created: {made:?}");
}

#[test]
fn invalid_commands_are_refused_without_creating_anything() {
    let mut site = Site::new(HASTY);
    site.serve();
    converge(&site);
    let long = "n".repeat(70);
    for (arguments, code, words) in [
        (vec!["create", "bad/name", "--image", image()], 2, vec!["bad/name", "'/'", "position 4"]),
        (vec!["create", "-", "--image", image()], 2, vec!["'-'", "position 1"]),
        (vec!["create", "two  spaces", "--image", image()], 2, vec!["two  spaces", "position 5"]),
        (vec!["create", &long, "--image", image()], 2, vec!["70 characters", "63"]),
        (vec!["create", "w"], 2, vec!["image", "--image"]),
        (vec!["create", "w", "--image", "two words"], 2, vec!["two words", "white space"]),
        (vec!["create", "w", "--image", image(), "--parent", "absent"], 3, vec!["parent", "absent"]),
        (vec!["create", "w", "--image", image(), "--parent", "w"], 3, vec!["parent", "`w`"]),
        (vec!["create", "w", "--image", image(), "--tier", "9"], 2, vec!["9"]),
        (vec!["create", "w", "--image", image(), "--runtime", "nonesuch"], 2, vec!["nonesuch", "plain"]),
        (vec!["create", "w", "--image", image(), "--env", "=x"], 2, vec!["name"]),
        (vec!["create", "w", "--image", image(), "--dir", "/no/such/dir"], 2, vec!["/no/such/dir"]),
        (vec!["create", "w", "--image", image(), "--tier", "1", "--dir", "/tmp"], 2, vec!["tier 1", "--dir"]),
        (vec!["show", "absent"], 3, vec!["absent", "ostler ls"]),
        (vec!["start", "../health"], 3, vec!["../health"]),
        (vec!["rm", "00000000-0000-0000-0000-000000000000"], 3, vec!["00000000"]),
        (vec!["restart", "a b?c#d%41"], 3, vec!["a b?c#d%41"]),
        (vec!["trash", "restore", "no-entry"], 3, vec!["no-entry", "trash ls"]),
        (vec!["sweep", "run", "tidy"], 3, vec!["tidy", "reap_removed"]),
    ] {
        assert_refused(&site.ostler(arguments.iter().copied()), code, &words);
    }
    assert_nothing_made(&site);
}

#[test]
fn create_with_unavailable_image_fails_with_next_step() {
    let mut site = Site::new(HASTY);
    site.serve();
    converge(&site);
    for (name, image) in [("missing", "localhost/ostler-no-such:1"), ("malformed", "localhost/UPPER:@@")] {
        let output = site.ostler(["create", name, "--image", image]);
        assert_refused(&output, 1, &[image, "is not on this machine", "podman images", "ostler why"]);
        let row = site.show(name);
        assert_eq!((text(&row["status"]), text(&row["failure"])), ("failed".into(), "start_error".into()));
        site.ostler(["rm", name]).well();
    }
    converge(&site);
    assert_nothing_made(&site);
    assert_eq!(
        site.json(["trash", "ls"]).as_array().unwrap().len(),
        0,
        "a workspace without a container is in the trash"
    );
}

#[test]
fn create_with_missing_program_fails_and_points_to_logs() {
    // Each restart fails too. The first is enough here, and the backoff of the next ones adds up to minutes.
    let mut site = Site::new(&format!("{HASTY}[restart]\npark_after_exits = 2\n"));
    site.serve();
    let output = site.ostler(["create", "lost", "--image", image(), "--", "/no/such"]);
    // The init process starts; the container log reports the missing program.
    assert_refused(&output, 1, &["lost", "exit code", "ostler why", "ostler logs lost"]);
    let log = site.ostler(["logs", "lost"]);
    assert!(format!("{}{}", log.stdout, log.stderr).contains("No such file"), "{log:?}");
    assert_eq!(text(&site.show("lost")["status"]), "offline");
    converge(&site);
    assert_truthful(&site);
    site.ostler(["rm", "--purge", "lost"]).well();
    converge(&site);
}

/// A configuration with a single port that is free now.
fn one_port() -> (String, u16) {
    // The kernel assigns the port from its ephemeral range, which no other site's range includes.
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    (format!("ports = \"{port}-{port}\"\n{HASTY}"), port)
}

#[test]
fn start_fails_when_host_port_was_taken_while_paused() {
    let (config, port) = one_port();
    let mut site = Site::new(&config);
    site.serve();
    make(&site, "paused");
    site.ostler(["stop", "paused"]).well();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let output = site.ostler(["start", "paused"]);
    assert_refused(&output, 1, &["is in use", &port.to_string(), "ostler start"]);
    converge(&site);
    assert_truthful(&site);
    drop(listener);
    site.ostler(["start", "paused"]).well();
    converge(&site);
    assert_truthful(&site);
}

#[test]
fn create_fails_with_reason_when_port_range_is_exhausted() {
    let (config, port) = one_port();
    let mut site = Site::new(&config);
    site.serve();
    make(&site, "first");
    let output = site.ostler(creation("second", &[]));
    assert_refused(&output, 1, &["no port is free", &port.to_string(), "ports"]);
    assert_eq!(text(&site.show("second")["failure"]), "start_error");
    assert_eq!(text(&site.show("first")["status"]), "online");
    converge(&site);
    assert_truthful(&site);
    site.ostler(["rm", "first"]).well();
    converge(&site);
    site.ostler(["rm", "second"]).well();
    converge(&site);
    assert_truthful(&site);
}

/// A file system mounted on a site's data directory.
struct Mounted(PathBuf);

impl Mounted {
    fn on(site: &Site, arguments: &[&str]) -> Self {
        let location = site.data_dir();
        fs::create_dir_all(&location).unwrap();
        mount(arguments, &location);
        Self(location)
    }
}

fn mount(arguments: &[&str], location: &Path) {
    let mounted = Command::new("mount").args(arguments).arg(location).output().expect("mount runs");
    assert!(mounted.status.success(), "root cannot mount here: {}", String::from_utf8_lossy(&mounted.stderr));
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Unmounted lazily, because the daemon of a failed test may still use the file system.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn fill(directory: &Path) -> PathBuf {
    let path = directory.join("filling");
    let mut file = fs::File::create(&path).unwrap();
    let piece = [0; 4096];
    while std::io::Write::write_all(&mut file, &piece).is_ok() {}
    path
}

#[test]
fn create_on_full_disk_fails_and_leaves_nothing_half_created() {
    assert_root();
    let mut site = Site::new(HASTY);
    let _disk = Mounted::on(&site, &["-t", "tmpfs", "-o", "size=8m", "ostler-test"]);
    site.serve();
    converge(&site);
    make(&site, "before");
    let filling = fill(&site.data_dir());
    // SQLite may still have space in its write-ahead log, so workspaces are created until a create fails.
    for number in 0.. {
        let name = format!("during-{number}");
        let output = site.ostler(creation(&name, &["--no-wait"]));
        let shown = site.ostler(["show", &name]);
        if output.code == 0 {
            assert_eq!(shown.code, 0, "a workspace reported as created does not exist: {shown:?}");
            continue;
        }
        assert_refused(&output, 1, &["disk"]);
        assert_eq!(shown.code, 3, "a refused workspace exists: {shown:?}");
        break;
    }
    let listed = site.ostler(["ls"]);
    assert!(listed.stdout.contains("before"), "{listed:?}");
    assert!(
        listed.stderr.contains("out of date"),
        "`ls` does not report that the registry cannot be written: {listed:?}"
    );
    let instance = site.instance();
    let rows = site.json(["ls"]);
    let known = |workspace: &str| rows.as_array().unwrap().iter().any(|row| row["id"] == workspace);
    assert!(containers(&instance).iter().all(|container| known(&container.workspace)));

    site.kill();
    if let Err(why) = site.try_serve() {
        assert!(why.contains("Free some disk space") && !why.contains("damaged"), "{why}");
        fs::remove_file(filling).unwrap();
        site.serve();
    } else {
        fs::remove_file(filling).unwrap();
    }
    converge(&site);
    assert_eq!(site.ostler(["ls"]).stderr, "", "`ls` still prints a warning");
    assert_truthful(&site);
    make(&site, "after");
    converge(&site);
    assert_truthful(&site);
    site.kill();
}

#[test]
fn daemon_start_on_full_disk_does_not_report_damaged_database() {
    assert_root();
    let mut site = Site::new(HASTY);
    let _disk = Mounted::on(&site, &["-t", "tmpfs", "-o", "size=4m", "ostler-test"]);
    let filling = fill(&site.data_dir());
    let assert_reports_full_disk = |why: &str| {
        assert!(why.contains("disk is full") || why.contains("Free some disk space"), "{why}");
        assert!(!why.contains("damaged") && !why.contains("Report this"), "{why}");
    };
    assert_reports_full_disk(&site.try_serve().expect_err("a registry was created on a full disk"));
    fs::remove_file(filling).unwrap();
    site.serve();
    let instance = site.instance();
    site.stop();
    let filling = fill(&site.data_dir());
    if let Err(why) = site.try_serve() {
        assert_reports_full_disk(&why);
    }
    fs::remove_file(filling).unwrap();
    site.kill();
    site.serve();
    assert_eq!(site.instance(), instance);
    site.stop();
}

#[test]
fn create_is_rolled_back_when_mirror_cannot_be_written() {
    let mut site = Site::new(HASTY);
    site.serve();
    converge(&site);
    let blocking_directory = site.data_dir().join("instance.json.new");
    fs::create_dir(&blocking_directory).unwrap();
    let output = site.ostler(creation("unmirrored", &[]));
    assert_refused(&output, 1, &["mirror", "writable"]);
    converge(&site);
    assert_nothing_made(&site);
    fs::remove_dir(&blocking_directory).unwrap();
    make(&site, "unmirrored");
    converge(&site);
    assert_truthful(&site);
}

#[test]
fn daemon_refuses_to_start_on_read_only_data_directory() {
    assert_root();
    let mut site = Site::new(HASTY);
    site.serve();
    make(&site, "kept");
    site.stop();
    let data = site.data_dir().display().to_string();
    let read_only = Mounted::on(&site, &["--bind", &data]);
    mount(&["-o", "remount,bind,ro"], &site.data_dir());
    let why = site.try_serve().expect_err("a daemon started on a read-only data directory");
    assert!(why.contains(&data) && why.contains("Read-only") && why.contains("writable"), "{why}");
    drop(read_only);
    site.serve();
    assert_eq!(site.show("kept")["status"], "online");
    converge(&site);
    assert_truthful(&site);
}
