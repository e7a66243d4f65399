//! The official a2a-sdk, unmodified: as a server in real containers, and as a client of ostler's proxy.
//!
//! The image with the SDK is built from Debian's python3 and the SDK's wheels. If a download fails, the test fails and
//! reports what is missing: a skipped test would prove nothing.

#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

use std::{
    env, fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
};

use serde_json::{Value, json};

use crate::support::{
    daemon::Site,
    podman::{configuration, podman, socket_path},
};

const IMAGE: &str = "localhost/ostler-test-sdk-agent:latest";

/// Number of messages to a hibernated workspace, and number of messages right after `create`; set by
/// `OSTLER_TEST_SDK_ROUNDS`.
fn rounds() -> usize {
    env::var("OSTLER_TEST_SDK_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2)
}

/// The SDK's image, rebuilt if its inputs have changed. Downloads are cached below `target`.
fn image() -> &'static str {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        socket_path();
        let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sdk-agent");
        fs::create_dir_all(&cache).expect("the cache directory is created");
        let lock = fs::File::create(cache.join("lock")).expect("a lock file");
        lock.lock().expect("the lock is acquired");
        let mut build = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/sdk-agent/build"));
        build.arg(IMAGE).arg(&cache).env_remove("OSTLER_ENGINE_SOCKET").env_remove("CONTAINER_HOST");
        if let Some(configuration) = configuration() {
            build.env("CONTAINERS_CONF", configuration);
        }
        let made = build.output().expect("the build runs");
        let stderr = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "the image of the a2a-sdk was not built: {stderr}");
    });
    IMAGE
}

fn hello(text: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": "1", "method": "message/send", "params": { "message": {
        "kind": "message", "messageId": text, "role": "user", "parts": [{ "kind": "text", "text": text }],
    } } })
}

fn create(site: &Site, name: &str) -> String {
    let body = json!({
        "name": name, "runtime": "agent", "image": image(),
        // The agent's server listens only some time after the agent has registered, as with existing agents.
        "env": { "LISTEN_AFTER": "1" },
    });
    let made = site.admin("POST", "/workspaces", body).expect(201).json();
    made["id"].as_str().expect("an id").to_owned()
}

/// Checks that a message was answered by the agent itself; the error is the actual answer.
fn answered(site: &Site, id: &str, text: &str) -> Result<(), String> {
    let answer = site.admin("POST", &format!("/workspaces/{id}/a2a"), hello(text));
    let expected = format!("echo: {text}");
    let printed = format!("{answer:?}");
    if printed.contains(&expected) { Ok(()) } else { Err(printed) }
}

/// Prints a count and asserts that there are no failures.
fn report(what: &str, failures: &[String], of: usize) {
    eprintln!("{what}: {} of {of} messages answered", of - failures.len());
    assert!(failures.is_empty(), "{what}: {failures:#?}");
}

#[test]
fn sdk_agent_answers_after_create_and_after_wake_up() {
    let mut site = Site::new("");
    site.serve();
    let (rounds, mut failures) = (rounds(), Vec::new());
    for round in 0..rounds {
        let name = format!("new-{round}");
        let id = create(&site, &name);
        failures.extend(answered(&site, &id, &format!("created {round}")).err());
        site.ostler(["rm", "--purge", &name]).well();
    }
    report("right after create", &failures, rounds);
    let id = create(&site, "idle");
    site.until_status("idle", "online");
    for round in 0..rounds {
        let path = format!("/workspaces/{id}/hibernate");
        let hibernated = site.admin("POST", &path, Value::Null).expect(200).json();
        assert_eq!(hibernated["status"], "hibernated", "{hibernated}");
        failures.extend(answered(&site, &id, &format!("hibernated {round}")).err());
    }
    report("to a hibernated workspace", &failures, rounds);
    sdk_client_reads_answers_through_the_proxy(&site, &id);
}

/// The SDK's own client, in both protocol versions that it supports.
fn sdk_client_reads_answers_through_the_proxy(site: &Site, id: &str) {
    site.ostler(["create", "phone", "--external"]).well();
    let token = site.ostler(["token", "issue", "phone"]).well();
    let token = token.trim();
    let url = format!("http://127.0.0.1:{}/workspaces/{id}/a2a", site.network_port());
    let mut client = podman()
        .args(["run", "--rm", "-i", "--network", "host", image(), "python3", "/opt/client"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client runs");
    let asks = [("1.0", token), ("0.3", token), ("1.0", "no-token")];
    let asks = asks.map(|(version, token)| format!("{version} {url} {token} by {version}")).join("\n");
    let mut input = client.stdin.take().expect("a pipe");
    input.write_all((asks + "\n").as_bytes()).expect("the client reads its input");
    drop(input);
    let output = client.wait_with_output().expect("the client exits");
    let printed = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = printed.lines().collect();
    // The SDK prints a refusal on several lines.
    assert!(lines.len() >= 3, "{printed}");
    assert_eq!(&lines[..2], ["echo: by 1.0", "echo: by 0.3"], "{printed}");
    assert!(lines[2].starts_with("failed: "), "a client without a token got an answer: {printed}");
    eprintln!("the a2a-sdk's client: answered in protocol 1.0 and 0.3; without a token {}", lines[2]);
}
