//! Agents that register before their server listens. Such an agent is online as soon as it has registered, and no
//! message to it is lost.

use std::{
    env,
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
};

use serde_json::Value;

use super::{Agent, answer_text, creation, message, report};
use crate::support::{daemon::Site, podman::demo_image};

/// Number of messages to hibernated workspaces, and number of messages right after `create`. `OSTLER_LATE_LISTENERS=50`
/// runs the full test.
const MESSAGES: usize = 4;
/// Number of concurrent workspaces.
const AT_ONCE: usize = 4;
const LATE: &str = "DEMO_LISTEN_AFTER_SECONDS=3";

#[test]
fn messages_are_answered_when_agents_listen_3_s_after_they_register() {
    let mut site = Site::new("");
    site.serve();
    demo_image();
    let rounds_wanted =
        env::var("OSTLER_LATE_LISTENERS").ok().and_then(|text| text.parse().ok()).unwrap_or(MESSAGES);
    let (site, mut created, mut woken, mut latencies) = (&site, 0, 0, Vec::new());
    for first in (0..rounds_wanted).step_by(AT_ONCE) {
        let numbers = first..rounds_wanted.min(first + AT_ONCE);
        thread::scope(|scope| {
            let rounds: Vec<_> = numbers.map(|number| scope.spawn(move || round(site, number))).collect();
            for round in rounds {
                let (after_create, after_sleep, latency) = round.join().expect("a round ends");
                created += usize::from(after_create);
                woken += usize::from(after_sleep);
                latencies.push(latency);
            }
        });
    }
    eprintln!(
        "answered: {created} of {rounds_wanted} first messages after create, \
         {woken} of {rounds_wanted} to hibernated workspaces"
    );
    report("from a message to a hibernated workspace that listens late to its answer", latencies);
    assert_eq!((created, woken), (rounds_wanted, rounds_wanted), "a message was lost: {}", site.log());
}

/// Tests one workspace. Returns whether the first message after `create` was answered, whether a message to the
/// hibernated workspace was answered, and the latency of this second message.
fn round(site: &Site, number: usize) -> (bool, bool, u128) {
    let name = format!("late-{number}");
    // Half of the workspaces are ready when they run, the others at their first heartbeat. Neither means that the
    // server listens.
    let made = if number.is_multiple_of(2) {
        site.ostler(creation(&name, &["-e", LATE]))
    } else {
        site.ostler(["create", &name, "--image", demo_image(), "-e", LATE])
    };
    made.well();
    let agent = Agent::of(site, &name);
    let is_answered = |text: &str| {
        let answer = agent.send_as_admin(site, text);
        let answered = answer.status == 200 && answer_text(&answer).ends_with(&format!(" heard: {text}"));
        if !answered {
            eprintln!("{name}, {text}: {answer:?}");
        }
        answered
    };
    let after_create = is_answered("first");
    site.admin("POST", &format!("/workspaces/{}/hibernate", agent.id), Value::Null).expect(200);
    let asked_at = super::now();
    let after_sleep = is_answered("wake");
    let latency = asked_at.elapsed().as_millis();
    // The workspace is deleted permanently: in the trash it would keep its port, and a test has few ports.
    site.ostler(["rm", "--purge", &name]).well();
    (after_create, after_sleep, latency)
}

#[test]
fn message_error_names_port_when_agent_does_not_listen() {
    let mut site = Site::new("");
    site.serve();
    for (name, setting) in [("never", "DEMO_LISTEN_AFTER_SECONDS=never"), ("elsewhere", "DEMO_PORT=8001")] {
        site.ostler(["create", name, "--image", demo_image(), "-e", setting]).well();
    }
    site.create("silent", &[]);
    for name in ["never", "elsewhere", "silent"] {
        let answer = message_with_timeout_of_2_s(&site, name);
        assert!(answer.starts_with("HTTP/1.0 503 "), "{answer}");
        assert!(answer.to_lowercase().contains("\r\nretry-after: "), "{answer}");
        assert!(answer.contains(&format!("{name} is running, but nothing listens on port 8000")), "{answer}");
    }
}

/// Sends a message that waits for up to 2 s; returns the whole response.
fn message_with_timeout_of_2_s(site: &Site, name: &str) -> String {
    let mut stream = UnixStream::connect(site.data_dir().join("ostler.sock")).expect("the daemon listens");
    let body = message("hello").to_string();
    let head =
        format!("POST /workspaces/{name}/a2a HTTP/1.0\r\nX-Timeout: 2\r\nContent-Length: {}", body.len());
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).expect("the message is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer is text");
    answer
}
