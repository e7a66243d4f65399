//! Commands in a workspace's container, run through the daemon and the real Podman.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use crate::support::{
    daemon::{Site, until},
    podman::podman_output,
};

/// Runs a shell on this host with `$OSTLER` set to the site's binary, and with the given input.
#[track_caller]
fn host_shell(site: &Site, script: &str, input: &str) -> Output {
    let ostler = site.command();
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).env("OSTLER", ostler.get_program());
    for (name, value) in ostler.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let mut shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell starts");
    // Writing fails if the script ended without reading its input.
    let _ended = shell.stdin.take().expect("the input of the shell is a pipe").write_all(input.as_bytes());
    shell.wait_with_output().expect("the shell ends")
}

#[track_caller]
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// Number of processes in a container with `command` in their command line.
fn running(container: &str, command: &str) -> usize {
    let listed = podman_output(["top", container, "args"]);
    listed.lines().filter(|line| line.contains(command)).count()
}

#[test]
fn exec_keeps_output_and_leaves_script_input_unread() {
    let mut site = Site::new("");
    site.serve();
    site.create("w", &[]);
    for _ in 0..12 {
        assert_eq!(printed(&host_shell(&site, "echo x | $OSTLER exec w -- echo hello", "")), "hello\n");
    }
    let each = "while read line; do $OSTLER exec w -- echo \"got $line\"; done";
    assert_eq!(printed(&host_shell(&site, each, "a\nb\nc\n")), "got a\ngot b\ngot c\n");
    let script = "$OSTLER exec w -- echo one\n$OSTLER exec w -- echo two\n";
    assert_eq!(printed(&host_shell(&site, "exec sh -s", script)), "one\ntwo\n");
    let unread = "head -c 20000000 /dev/zero | $OSTLER exec w -- true";
    assert_eq!(printed(&host_shell(&site, unread, "")), "");
    let read = "head -c 20000000 /dev/zero | $OSTLER exec -i w -- wc -c";
    assert_eq!(printed(&host_shell(&site, read, "")).trim(), "20000000");
    // Podman loses output of a command that ends before it has read its input. Such a run must not report success.
    for _ in 0..6 {
        let output = host_shell(&site, "echo x | $OSTLER exec -i w -- echo hello", "");
        let complete = output.stdout == b"hello\n";
        assert!(complete || output.status.code() == Some(1), "{output:?}");
    }
}

#[test]
fn exec_command_is_terminated_when_client_is_killed() {
    let mut site = Site::new("");
    site.serve();
    let container = site.create("w", &[])["container_id"].as_str().expect("a container").to_owned();
    // The shell waits for its child process, which must be terminated too.
    let mut client = site.command();
    client.args(["exec", "w", "--", "sh", "-c", "sleep 4711; true"]);
    let mut client = client.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the client starts");
    until("the command runs", || (running(&container, "sleep 4711") == 2).then_some(()));
    client.kill().expect("the client is killed");
    client.wait().expect("the client ends");
    until("the command has ended", || (running(&container, "sleep 4711") == 0).then_some(()));
    assert_eq!(site.show("w")["status"], "online", "the workspace was affected, not only its command");
}

#[test]
fn container_has_configured_log_size_limit() {
    let mut site = Site::new("[engine]\nlog_size = \"1MiB\"\n");
    site.serve();
    let container = site.create("w", &[])["container_id"].as_str().expect("a container").to_owned();
    let inspected =
        ["inspect", "--format", "{{.HostConfig.LogConfig.Type}} {{.HostConfig.LogConfig.Size}}", &container];
    assert_eq!(podman_output(inspected).trim(), "k8s-file 1.049MB");
}
