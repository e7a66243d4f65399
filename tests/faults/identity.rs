//! At most one daemon runs with one registry.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use super::{
    HASTY, make,
    truth::{assert_truthful, converge},
};
use crate::support::{
    assert_root,
    daemon::{CommandOutput, Site},
};

/// Runs a daemon that must refuse to start.
#[track_caller]
fn refused(command: &mut Command) -> CommandOutput {
    let ended = command.arg("serve").stdin(Stdio::null()).output().expect("the binary runs");
    let output = CommandOutput {
        code: ended.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&ended.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&ended.stderr).into_owned(),
    };
    assert_eq!(output.code, 1, "a daemon that must not start did not exit with code 1: {output:?}");
    output
}

/// Copies a site's data directory to another site, like `cp -a`.
fn copy(from: &Site, to: &Site) {
    let copied = Command::new("cp").arg("-a").arg(from.data_dir()).arg(to.data_dir()).status();
    assert!(copied.expect("cp runs").success());
}

fn at_runtime_dir<'a>(command: &'a mut Command, site: &Site) -> &'a mut Command {
    command.env("OSTLER_RUNTIME_DIR", site.directory().join("run"))
}

#[test]
fn second_daemon_on_same_data_directory_is_refused_with_pid() {
    let mut site = Site::new(HASTY);
    site.serve();
    let output = refused(&mut site.command());
    assert!(output.stderr.contains(&site.data_dir().display().to_string()), "{output:?}");
    assert!(output.stderr.contains(&format!("process {}", site.pid())), "{output:?}");
    assert!(output.stderr.contains("--data-dir"), "no next step: {output:?}");
    site.ostler(["ls"]).well();
    let copy = site.ostler(["doctor", "--accept-copy"]);
    assert!(copy.code != 0 && copy.stderr.contains(&format!("process {}", site.pid())), "{copy:?}");
}

#[test]
fn copied_data_directory_is_refused_until_operator_accepts_it() {
    let (mut original, mut copied) = (Site::new(HASTY), Site::new(HASTY));
    original.serve();
    make(&original, "kept");
    original.stop();
    copy(&original, &copied);
    let output = refused(&mut copied.command());
    for expected in [copied.data_dir().display().to_string().as_str(), "is a copy", "doctor --accept-copy"] {
        assert!(output.stderr.contains(expected), "`{expected}` is missing: {output:?}");
    }
    let doctor = copied.ostler(["doctor"]);
    assert!(doctor.stdout.contains("is a copy"), "the doctor does not report the copy: {doctor:?}");
    assert!(!doctor.stdout.contains("start it: `ostler serve`"), "{doctor:?}");

    // The copy is accepted, but the original is being served: only one of them runs.
    original.serve();
    copied.ostler(["doctor", "--accept-copy"]).well();
    let output = refused(at_runtime_dir(&mut copied.command(), &original));
    assert!(output.stderr.contains(&original.instance()), "{output:?}");
    assert!(output.stderr.contains(&format!("process {}", original.pid())), "{output:?}");
    assert_eq!(original.show("kept")["status"], "online");

    original.stop();
    copied.serve();
    assert_eq!(copied.show("kept")["status"], "online");
    let output = refused(at_runtime_dir(&mut original.command(), &copied));
    assert!(output.stderr.contains(&format!("process {}", copied.pid())), "{output:?}");
    // The original continued meanwhile. The copy does not contain the later changes, and is recovering.
    let doctor = copied.ostler(["doctor"]);
    assert!(doctor.stdout.contains("recovering since"), "{doctor:?}");
    copied.ostler(["adopt", "--all"]).well();
    converge(&copied);
    assert_truthful(&copied);
}

#[test]
fn stale_socket_of_killed_daemon_does_not_block_start() {
    let mut site = Site::new(HASTY);
    site.serve();
    site.kill();
    assert!(Path::new(&site.data_dir().join("ostler.sock")).exists());
    let output = site.ostler(["ls"]);
    assert_eq!(output.code, 5, "{output:?}");
    assert!(output.stderr.contains("ostler serve"), "no next step: {output:?}");
    site.serve();
    site.ostler(["ls"]).well();
}

#[test]
fn doctor_reports_data_directory_owned_by_another_user() {
    assert_root();
    let mut site = Site::new(HASTY);
    std::fs::create_dir(site.data_dir()).expect("the directory is made");
    std::fs::set_permissions(site.data_dir(), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .expect("the mode of the directory can be set");
    site.run_as(65_534);
    let doctor = site.ostler(["doctor"]);
    assert_eq!(doctor.code, 1, "{doctor:?}");
    assert!(doctor.stdout.contains("Permission denied"), "{doctor:?}");
    for wrong in ["start it:", "none yet", "ok    registry"] {
        assert!(!doctor.stdout.contains(wrong), "{wrong:?}: {doctor:?}");
    }
}

#[test]
fn doctor_reports_missing_database() {
    let mut site = Site::new(HASTY);
    site.serve();
    let instance = site.instance();
    site.stop();
    site.lose_database();
    let doctor = site.ostler(["doctor"]);
    assert!(
        doctor.stdout.contains(&instance) && doctor.stdout.contains("the database is missing"),
        "{doctor:?}"
    );
    assert!(!doctor.stdout.contains("none yet"), "{doctor:?}");
}
