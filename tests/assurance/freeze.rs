//! A daemon that is stopped for longer than the silence limit of agents, and continues: real time, real Podman.
//!
//! A stop (SIGSTOP here; a freezer, a debugger or swap elsewhere) moves no clock, so only a late tick of the daemon
//! itself shows it. Heartbeats that could not be received meanwhile must not count against an agent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    Settings,
    report::Section,
    support::{daemon::Site, http::Request, podman},
};

/// Longer than the three minutes of silence after which an agent is degraded.
const STOPPED: Duration = Duration::from_secs(185);
const STOPPED_LONG: Duration = Duration::from_mins(15);
/// Observation time afterwards: longer than a period of the pass that checks silence, and than the time between a
/// timed-out heartbeat and the next one.
const WATCHED: Duration = Duration::from_mins(1);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);
/// How long an agent waits for the answer to a heartbeat.
const AGENTS_WAIT: Duration = Duration::from_secs(10);

/// Events that report an action against a workspace.
const ADVERSE_EVENTS: [&str; 6] = [
    "WORKSPACE_DEGRADED",
    "WORKSPACE_OFFLINE",
    "WORKSPACE_AWAITING_AGENT",
    "WORKSPACE_PROVISIONING",
    "WORKSPACE_RESTARTED_SILENT",
    "WORKSPACE_WEDGED",
];

pub(crate) fn run(settings: &Settings, section: &mut Section) {
    let mut site =
        Site::new("[runtimes.agent]\nstop_grace = \"2s\"\n[runtimes.plain]\nstop_grace = \"2s\"\n");
    site.serve();
    let agents = ["agent-1", "agent-2", "agent-3"];
    for name in agents {
        site.ostler(["create", name, "--runtime", "agent", "--image", podman::demo_image()]).well();
    }
    site.create("plain", &[]);
    let made = site.admin("POST", "/workspaces", json!({ "name": "elsewhere", "external": true })).json();
    let external = (text(&made["id"]), text(&made["connection"]["auth_token"]));
    let over = Arc::new(AtomicBool::new(false));
    let external_agent = send_external_heartbeats(&site, external, Arc::clone(&over));
    let names: Vec<_> = agents.into_iter().chain(["plain", "elsewhere"]).collect();
    for name in &names {
        site.until_status(name, "online");
    }
    let rows = || names.iter().map(|name| site.show(name)).collect::<Vec<_>>();
    let before = rows();
    let newest = newest_event(&site);
    let pid = Pid::from_raw(i32::try_from(site.pid()).expect("a pid")).expect("a pid");
    let stopped = if settings.long { STOPPED_LONG } else { STOPPED };
    kill_process(pid, Signal::STOP).expect("the daemon is stopped");
    thread::sleep(stopped);
    kill_process(pid, Signal::CONT).expect("the daemon is resumed");
    let resumed = rows();
    section.count("seconds in which the daemon was stopped", stopped.as_secs());
    let began = Instant::now();
    while began.elapsed() < WATCHED {
        thread::sleep(Duration::from_secs(2));
        for (name, before) in names.iter().zip(&before) {
            let now = site.show(name);
            section.count("checks of a workspace afterwards", 1);
            for what in ["status", "incarnation"] {
                section.expect(now[what] == before[what], || {
                    format!("{name}: its {what} was {} and is {}", before[what], now[what])
                });
            }
        }
    }
    for ((name, then), now) in names.iter().zip(&resumed).zip(&rows()) {
        let has_heartbeat = then["last_heartbeat_at"] != now["last_heartbeat_at"];
        section.expect(has_heartbeat || *name == "plain", || {
            format!("no heartbeat of {name} was received after the stop: {now}")
        });
    }
    let events = site.admin("GET", "/events?limit=1000", Value::Null).json();
    for event in events.as_array().expect("events are a list") {
        let kind = text(&event["event_type"]);
        let is_new = event["id"].as_i64() > Some(newest);
        section.expect(!(is_new && ADVERSE_EVENTS.contains(&kind.as_str())), || {
            format!("an action against a workspace after the stop: {event}")
        });
    }
    section.expect(site.log().contains("process was stopped or starved"), || {
        "the daemon did not detect the stop".into()
    });
    over.store(true, Ordering::Relaxed);
    let heartbeats = external_agent.join().expect("the external agent does not panic");
    section.count("answered heartbeats of an external agent", heartbeats);
}

/// An external agent; its heartbeats fail while the daemon is stopped. Returns how many were answered.
fn send_external_heartbeats(
    site: &Site,
    (id, token): (String, String),
    over: Arc<AtomicBool>,
) -> thread::JoinHandle<u64> {
    let port = site.network_port();
    thread::spawn(move || {
        let mut heartbeats = 0;
        while !over.load(Ordering::Relaxed) {
            let body = json!({ "workspace_id": id });
            let (token, caller) = (Some(token.as_str()), Some(id.as_str()));
            let heartbeat = Request { method: "POST", path: "/registry/heartbeat", token, caller, body };
            heartbeats += u64::from(heartbeat.try_over_tcp(port, AGENTS_WAIT) == Some(200));
            let began = Instant::now();
            while began.elapsed() < HEARTBEAT_EVERY && !over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(200));
            }
        }
        heartbeats
    })
}

fn newest_event(site: &Site) -> i64 {
    let events = site.admin("GET", "/events?limit=1", Value::Null).json();
    events[0]["id"].as_i64().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}
