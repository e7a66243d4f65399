//! Exit codes: each class of failure has its own exit code. The message gives the failure, the reason and the next
//! step.

use insta::assert_snapshot;
use ostler::api::error::ErrorBody;
use serde_json::json;

use crate::support::cli::{FakeDaemon, home, run_in};

#[test]
fn daemon_error_maps_to_exit_code_and_keeps_its_message() {
    for (status, code) in [(400, 2), (422, 2), (404, 3), (410, 3), (409, 4), (401, 1), (500, 1), (503, 1)] {
        let daemon = FakeDaemon::start();
        let error = "there is no workspace `bilder`: did you mean `builder`?".to_owned();
        daemon.answers("GET /workspaces/bilder?removed=true", status, &ErrorBody { error });
        let ran = daemon.run(&["show", "bilder"]);
        assert_eq!(ran.code, code, "for status {status}");
        assert_eq!(ran.stderr, "error: there is no workspace `bilder`: did you mean `builder`?\n");
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn missing_daemon_socket_is_reported_with_start_instructions() {
    let home = home();
    let ran = run_in(&home, &["ls"], &[], "");
    assert_eq!(ran.code, 5);
    assert_snapshot!("unreachable", ran.transcript());
}

#[test]
fn socket_without_listener_exits_as_daemon_unreachable() {
    let home = home();
    drop(std::os::unix::net::UnixListener::bind(home.path().join("ostler.sock")).unwrap());
    assert_eq!(run_in(&home, &["ls"], &[], "").code, 5);
}

#[test]
fn daemon_that_closes_connection_is_reported_as_unreachable() {
    let home = home();
    let listener = std::os::unix::net::UnixListener::bind(home.path().join("ostler.sock")).unwrap();
    let gone = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let ran = run_in(&home, &["ls"], &[], "");
    gone.join().unwrap();
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    assert!(
        ran.stderr.starts_with(
            "error: the daemon at [HOME]/ostler.sock closed the connection before it responded\n"
        ),
        "{}",
        ran.stderr
    );
}

#[test]
fn response_of_incompatible_daemon_version_is_explained() {
    let daemon = FakeDaemon::start();
    daemon.answers("GET /workspaces", 200, &json!({ "surprise": 1 }));
    assert_snapshot!("other_version", daemon.run(&["ls"]).transcript());
}

#[test]
fn invalid_arguments_exit_with_usage_code() {
    let home = home();
    for args in [
        &["lss"] as &[&str],
        &["create"],
        &["show", ""],
        &["create", "x", "--tier", "7"],
        &["create", "x", "--url", "http://x"],
        &["adopt", "x", "--all"],
        &["token", "issue", "x", "--expires", "soon"],
    ] {
        let ran = run_in(&home, args, &[], "");
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "of {args:?}: {}", ran.stderr);
    }
    let ran = run_in(&home, &["lss"], &[], "");
    assert!(ran.stderr.contains("'ls'"), "the similar command is not suggested: {}", ran.stderr);
}

#[test]
fn invalid_input_exits_with_usage_code_before_any_request() {
    let daemon = FakeDaemon::start();
    for (args, message) in [
        (
            &["create", "x", "--env", "NOT_THERE"] as &[&str],
            "error: --env NOT_THERE: this variable is not set in the environment, or not valid UTF-8\n  next: pass a value: `--env NOT_THERE=VALUE`\n",
        ),
        (&["create", "x", "--env", "=1"], "error: --env: the name before `=` is empty\n"),
        (
            &["create", "x", "--dir", "/no/such"],
            "error: --dir /no/such cannot be used\n  caused by: No such file or directory (os error 2)\n",
        ),
        (&["create", "x", "--dir", "/dev/null"], "error: --dir /dev/null is not a directory\n"),
        (
            &["create", "x", "--config-file", "/no/such"],
            "error: /no/such cannot be read\n  caused by: No such file or directory (os error 2)\n",
        ),
        (&["--json", "exec", "x", "ls"], "error: this command does not support `--json`\n"),
    ] {
        let ran = daemon.run(args);
        assert_eq!((ran.code, ran.stderr.as_str()), (2, message), "of {args:?}");
    }
    assert_eq!(daemon.requests(), [] as [String; 0]);
}

#[test]
fn env_file_line_without_value_is_refused_with_line_number() {
    let daemon = FakeDaemon::start();
    let dir = home();
    let file = dir.path().join("test.env");
    std::fs::write(&file, "A=1\nhunter2\n").unwrap();
    let ran = daemon.run(&["create", "x", "--env-file", file.to_str().unwrap()]);
    assert_eq!(ran.code, 2);
    assert_eq!(ran.stderr, format!("error: {}:2: expected KEY=VALUE\n", file.display()));
}

#[test]
fn negative_number_is_refused_as_option_value() {
    let daemon = FakeDaemon::start();
    for args in [
        &["create", "x", "--hibernate-after", "-5"][..],
        &["set", "x", "--hibernate-after", "-5"],
        &["set", "x", "--tier", "-5"],
        &["logs", "x", "--tail", "-5"],
    ] {
        let ran = daemon.run(args);
        assert_eq!(ran.code, 2, "of {args:?}");
        assert!(ran.stderr.contains("invalid value '-5'"), "of {args:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("-- -5"), "the tip is wrong: {}", ran.stderr);
    }
}
