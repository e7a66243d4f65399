//! `exec`: the input and output of the command are forwarded, and its exit code is returned.

use ostler::api::exec::{CreatedExec, ExecStatus};

use crate::support::cli::{FakeDaemon, frame};

fn executing(stream: &[u8], codes: &[Option<i32>]) -> FakeDaemon {
    let daemon = FakeDaemon::start();
    daemon.answers("POST /workspaces/builder/exec", 201, &CreatedExec { id: "e1".into() });
    for &exit_code in codes {
        daemon.answers("GET /exec/e1", 200, &ExecStatus { exit_code });
    }
    daemon.executes(stream);
    daemon
}

#[test]
fn exec_passes_through_stdout_stderr_and_exit_code() {
    let stream = [frame(1, "one\n"), frame(2, "oops\n"), frame(1, "two\n")].concat();
    let daemon = executing(&stream, &[None, Some(42)]);
    let ran = daemon.run(&["exec", "builder", "--", "sh", "-c", "exit 42"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (42, "one\ntwo\n", "oops\n"));
    assert_eq!(
        daemon.requests()[..2],
        [
            r#"POST /workspaces/builder/exec {"command":["sh","-c","exit 42"],"tty":false,"stdin":false,"env":{},"user":null}"#,
            "POST /exec/e1/start?tty=false&stays=true",
        ]
    );
}

#[test]
fn exec_forwards_all_stdin_with_interactive_flag() {
    let daemon = executing(&frame(1, "done"), &[Some(0)]);
    let input = "line\n".repeat(50_000);
    let ran =
        daemon.run_with_input(&["exec", "-i", "-e", "A=1", "-u", "0:0", "builder", "cat", "-n"], &input);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "done"), "{}", ran.stderr);
    assert_eq!(daemon.exec_input().len(), input.len());
    assert!(
        daemon.requests()[0]
            .ends_with(r#"{"command":["cat","-n"],"tty":false,"stdin":true,"env":{"A":"1"},"user":"0:0"}"#),
        "{:?}",
        daemon.requests()
    );
}

#[test]
fn exec_fails_when_stream_is_not_framed() {
    let ran = executing(b"HTTP/1.1 garbage", &[Some(0)]).run(&["exec", "builder", "ls"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.starts_with("error: the stream cannot be read: a frame begins with"),
        "{}",
        ran.stderr
    );
}

#[test]
fn exec_tty_and_shell_are_refused_without_terminal() {
    for args in [&["exec", "-t", "builder", "top"] as &[&str], &["shell", "builder"]] {
        let daemon = executing(b"", &[Some(0)]);
        let ran = daemon.run(args);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert_eq!(daemon.requests(), [] as [String; 0], "a request was sent without a terminal");
    }
}

/// Podman reports lost output only in the stream; the exit code is 0.
#[test]
fn exec_fails_when_engine_lost_output_despite_exit_code_0() {
    let lost = "Error: read unixpacket @->/proc/self/fd/16/attach: read: connection reset by peer\n";
    for (code, expected) in [(0, 1), (7, 7)] {
        let ran =
            executing(&frame(2, lost), &[Some(code)]).run_with_input(&["exec", "-i", "builder", "ls"], "x");
        assert_eq!(ran.code, expected, "{}", ran.stderr);
        assert_eq!(ran.stderr.contains("its output may be incomplete"), code == 0, "{}", ran.stderr);
    }
}

#[test]
fn exec_fails_when_stream_ends_within_a_frame() {
    let mut stream = frame(1, "whole");
    stream.truncate(stream.len() - 1);
    let ran = executing(&stream, &[Some(0)]).run(&["exec", "builder", "ls"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, "whol"));
    assert!(ran.stderr.contains("cut off"), "{}", ran.stderr);
}

/// The input belongs to the script or loop that runs `ostler exec`, and must stay unread.
#[test]
fn exec_leaves_stdin_unread_without_interactive_flag() {
    let daemon = executing(&frame(1, "done"), &[Some(0)]);
    let ran = daemon.run_with_input(&["exec", "builder", "cat"], "for the loop\n");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "done"), "{}", ran.stderr);
    assert_eq!(daemon.exec_input(), "");
}
