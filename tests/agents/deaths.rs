//! Unexpected exits of an agent: they are detected, the agent is restarted within its restart budget, and after too
//! many exits it is parked.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Agent, make, now, report};
use crate::support::{
    daemon::{Site, until},
    engine_proxy::{EngineProxy, Fault, Rule},
    podman::inspected,
};

/// The check interval is so long that only Podman's events can report an exit in time. The limit of exits is never
/// reached.
const BY_EVENTS: &str = "\
[sweep]
check_interval = \"1h\"
[restart]
first_backoff = \"100ms\"
longest_backoff = \"100ms\"
park_after_exits = 1000
";
const KILLS: usize = 20;

/// Kills the process of a workspace's container, as the kernel does when memory runs out.
#[track_caller]
fn kill(site: &Site, agent: &Agent) -> Instant {
    let container =
        site.show(&agent.name)["container_id"].as_str().expect("the workspace has a container").to_owned();
    let pid = inspected(&container, "{{.State.Pid}}").expect("the container exists");
    let pid = pid.parse().ok().and_then(Pid::from_raw).expect("the container runs");
    let at = now();
    kill_process(pid, Signal::KILL).expect("the process is killed");
    at
}

#[test]
fn killed_agent_is_detected_by_podman_event_and_restarted() {
    let mut site = Site::new(BY_EVENTS);
    site.serve();
    let worker = make(&site, "worker", &[]);
    let (sender, offline) = mpsc::channel();
    let events = site.event_stream();
    thread::spawn(move || {
        for event in events.filter(|event| event["event_type"] == "WORKSPACE_OFFLINE") {
            if sender.send((now(), event)).is_err() {
                return;
            }
        }
    });
    let mut latencies = Vec::new();
    for kill_number in 1..=KILLS {
        let before = site.show("worker")["incarnation"].as_u64();
        let killed_at = kill(&site, &worker);
        let (seen_at, event) = offline.recv_timeout(Duration::from_mins(3)).unwrap_or_else(|_| {
            panic!("exit {kill_number} was not reported: {:?}", worker.event_types(&site));
        });
        latencies.push(seen_at.duration_since(killed_at).as_millis());
        assert_eq!(event["payload"]["exit_code"], 137, "{event}");
        assert!(
            event["payload"]["log_tail"].as_str().is_some_and(|tail| tail.contains("heartbeat: 200")),
            "{event}"
        );
        let back = site.until_status("worker", "online");
        assert!(back["incarnation"].as_u64() > before, "{back}");
    }
    report("from an exit to its event", latencies);
    assert!(site.live_instance_token_matches("worker"));
}

#[test]
fn exit_during_event_stream_outage_is_found_after_reconnect() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), BY_EVENTS);
    site.serve();
    let worker = make(&site, "worker", &[]);
    let on_events = |fault| Rule::when(|request| request.path.contains("/events"), fault);
    proxy.set_rules([on_events(Fault::DropBefore)]);
    proxy.cut_those(|request| request.path.contains("/events"));
    let before = site.show("worker")["incarnation"].as_u64();
    kill(&site, &worker);
    let connects = proxy.count("GET", "/events");
    until("the daemon tried to reconnect", || (proxy.count("GET", "/events") > connects).then_some(()));
    assert_eq!(
        worker.status(&site),
        "online",
        "the exit was detected without events: {:?}",
        worker.event_types(&site)
    );
    proxy.set_rules([]);
    worker.until_event(&site, "WORKSPACE_OFFLINE", 0);
    let back = site.until_status("worker", "online");
    assert!(back["incarnation"].as_u64() > before, "{back}");
}

#[test]
fn workspace_is_parked_after_five_crashes_and_why_shows_logs() {
    let mut site = Site::new("[restart]\nfirst_backoff = \"100ms\"\nlongest_backoff = \"1s\"\n");
    site.serve();
    let worker = make(&site, "worker", &["--no-wait", "--env", "DEMO_CRASH_AFTER_SECONDS=1"]);
    let parked = site.until_status("worker", "failed");
    assert_eq!(parked["failure"], "parked", "{parked}");
    let event_types = worker.event_types(&site);
    let exit_count = event_types.iter().filter(|kind| *kind == "WORKSPACE_OFFLINE").count();
    assert_eq!(
        (exit_count, event_types.last().map(String::as_str)),
        (5, Some("WORKSPACE_PARKED")),
        "{event_types:?}"
    );
    let why = site.ostler(["why", "worker"]).well();
    assert!(why.contains("exit code 3") && why.contains("heartbeat: 200"), "`why` has no logs:\n{why}");
    for _ in 0..3 {
        site.sweep_all();
    }
    assert_eq!(worker.status(&site), "failed", "a sweep started a parked workspace");
    let refused = worker.send_as_admin(&site, "hello").expect(503);
    assert!(refused.body.contains("parked"), "{refused:?}");
    site.ostler(["start", "worker", "--no-wait"]).well();
    let again = worker.until_event(&site, "WORKSPACE_ONLINE", worker.last_event(&site));
    assert!(again["id"].as_i64().is_some());
}
