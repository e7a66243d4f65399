//! Idle agents hibernate, and a message from a permitted sender wakes them.

use std::process::Stdio;

use serde_json::{Value, json};

use super::{Agent, answer_text, make, report};
use crate::support::{
    daemon::{Site, until},
    podman::{demo_image, inspected},
};

const WAKES: usize = 10;

fn started_at(site: &Site, agent: &Agent) -> String {
    let container =
        site.show(&agent.name)["container_id"].as_str().expect("the workspace has a container").to_owned();
    inspected(&container, "{{.State.StartedAt}}").expect("the container exists")
}

#[track_caller]
fn hibernate(site: &Site, agent: &Agent) {
    let path = format!("/workspaces/{}/hibernate", agent.id);
    let answer = site.admin("POST", &path, Value::Null).expect(200).json();
    assert_eq!(answer["status"], "hibernated", "{answer}");
}

const NAMES: [&str; 3] = ["idle", "busy", "typed"];

#[test]
fn idle_agent_with_heartbeats_hibernates_and_busy_agent_does_not() {
    let mut site = Site::new("");
    site.serve();
    for name in NAMES {
        let body = json!({
            "name": name, "runtime": "agent", "image": demo_image(), "hibernation_idle_minutes": 1,
            // So frequent that the agent would not hibernate if heartbeats counted as activity.
            "env": { "DEMO_BEAT_SECONDS": "5" },
        });
        site.admin("POST", "/workspaces", body).expect(201);
    }
    for name in NAMES {
        site.until_status(name, "online");
    }
    // One workspace has an open `exec` command.
    let mut command = site.command();
    command.args(["exec", "typed", "--", "sleep", "600"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut command = command.spawn().expect("the client starts");
    let (idle, busy) = (Agent::of(&site, "idle"), Agent::of(&site, "busy"));
    busy.ask_text(&site, "work 3600 in the background");
    let hibernated_row = site.until_status("idle", "hibernated");
    let typed = site.show("typed");
    assert_eq!(typed["status"], "online", "hibernated with an open exec command: {typed}");
    command.kill().expect("the client is killed");
    command.wait().expect("the client ends");
    assert!(hibernated_row["last_heartbeat_at"].is_string(), "no heartbeat was received: {hibernated_row}");
    let container = hibernated_row["container_id"].as_str().unwrap();
    assert_eq!(inspected(container, "{{.State.Status}}").as_deref(), Some("exited"));
    let run = site.sweep("hibernate_idle");
    assert_eq!(busy.status(&site), "online", "hibernated with an active task: {run}");
    assert!(
        site.ostler(["why", "idle"]).stdout.contains("no activity for"),
        "{}",
        site.ostler(["why", "idle"]).stdout
    );

    let output = busy.ask_text(&site, "ask idle hello");
    assert!(output.starts_with("idle answered: ") && output.ends_with(" heard: hello"), "{output}");
    assert_eq!(idle.status(&site), "online");
}

#[test]
fn message_from_parent_wakes_agent_and_returns_its_response() {
    let mut site = Site::new("");
    site.serve();
    let lead = make(&site, "lead", &[]);
    let worker = make(&site, "worker", &["--parent", "lead"]);
    let mut latencies = Vec::new();
    for wake in 0..WAKES {
        hibernate(&site, &worker);
        let before = started_at(&site, &worker);
        let asked_at = super::now();
        let answer = worker.send_from(&site, &lead, &format!("hello {wake}")).expect(200);
        latencies.push(asked_at.elapsed().as_millis());
        // The answer begins with the agent's name, which an agent that was just woken may not know yet.
        let output = answer_text(&answer);
        assert!(output.ends_with(&format!(" heard: hello {wake}")), "{output}");
        assert_ne!(started_at(&site, &worker), before, "the container was not started by the message");
    }
    report("from a message to a hibernated workspace to its answer", latencies);
    assert_eq!(worker.status(&site), "online");
}

#[test]
fn unrelated_workspace_cannot_message_discover_or_wake_agent() {
    let mut site = Site::new("");
    site.serve();
    for (name, parent) in
        [("left", None), ("right", None), ("left child", Some("left")), ("right child", Some("right"))]
    {
        let more: Vec<_> = parent.iter().flat_map(|parent| ["--parent", parent]).collect();
        make(&site, name, &more);
    }
    let [target, uncle, cousin] = ["left child", "right", "right child"].map(|name| Agent::of(&site, name));
    hibernate(&site, &target);
    let before = (started_at(&site, &target), target.event_types(&site));
    for unrelated in [&cousin, &uncle] {
        let refused = target.send_from(&site, unrelated, "wake up").expect(403);
        assert_eq!(
            refused.json()["error"],
            "access denied: workspaces cannot communicate per hierarchy rules"
        );
        let token = site.token_in_volume(&unrelated.name);
        let path = format!("/registry/discover/{}", target.id);
        site.agent("GET", &path, &unrelated.id, Some(&token), Value::Null).expect(403);
        site.agent(
            "POST",
            &format!("/workspaces/{}/wake", target.id),
            &unrelated.id,
            Some(&token),
            Value::Null,
        )
        .expect(403);
    }
    let anonymous =
        site.agent("POST", &format!("/workspaces/{}/a2a", target.id), &target.id, None, super::message("x"));
    anonymous.expect(401);
    assert_eq!(cousin.ask_text(&site, "ask left-child hello"), "I have no peer named left-child");
    for _ in 0..3 {
        site.sweep_all();
    }
    assert_eq!(target.status(&site), "hibernated");
    assert_eq!((started_at(&site, &target), target.event_types(&site)), before, "the workspace was woken");

    let parent = Agent::of(&site, "left");
    let output = answer_text(&target.send_from(&site, &parent, "wake up").expect(200));
    assert!(output.ends_with(" heard: wake up"), "{output}");
    until("the workspace is online", || (target.status(&site) == "online").then_some(()));
}
