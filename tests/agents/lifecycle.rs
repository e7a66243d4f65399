//! The life cycle of an agent, from its first heartbeat to its removal.

use serde_json::{Value, json};

use super::{Agent, creation, event_types_of, make};
use crate::support::{
    daemon::{Site, until},
    podman::{image, inspected},
};

#[test]
fn agent_comes_online_over_gateway_with_default_configuration() {
    let mut site = Site::new("");
    site.serve();
    let lead = make(&site, "lead", &[]);
    let row = site.show("lead");
    assert_eq!(row["status"], "online", "{row}");
    let container = row["container_id"].as_str().unwrap();
    let environment = inspected(container, "{{.Config.Env}}").unwrap();
    let network = format!("ostler-{}", site.instance());
    let gateway =
        inspected(container, &format!("{{{{(index .NetworkSettings.Networks {network:?}).Gateway}}}}"));
    let expected = format!("PLATFORM_URL=http://{}:{}", gateway.unwrap(), site.network_port());
    assert!(environment.contains(&expected), "not {expected} but {environment}");
    assert_eq!(lead.ask_text(&site, "hello"), "lead heard: hello");
    let logs = site.ostler(["logs", "lead"]).stdout;
    assert!(logs.contains("register: 200") && logs.contains("heartbeat: 200"), "{logs}");
}

/// Registers with an invalid body, then sends heartbeats.
const REFUSED: &str = r#"
say() { wget -q -O - --header "Authorization: Bearer $(cat /configs/.auth_token)" --post-data "$2" "$PLATFORM_URL$1"; }
say /registry/register '{}' 2>&1 || echo "register was refused"
while ! say /registry/heartbeat "{\"workspace_id\":\"$WORKSPACE_ID\",\"uptime_seconds\":1}"; do sleep 1; done
trap 'exit 0' TERM
while :; do sleep 3600 & wait; done"#;

#[test]
fn first_heartbeat_brings_agent_online_after_refused_register() {
    let mut site = Site::new("");
    site.serve();
    let arguments = ["create", "odd", "--runtime", "agent", "--image", image(), "--", "sh", "-c", REFUSED];
    site.ostler(arguments).well();
    let odd = Agent::of(&site, "odd");
    assert_eq!(odd.status(&site), "online", "{:?}", odd.event_types(&site));
    let logs = site.ostler(["logs", "odd"]);
    let output = format!("{}{}", logs.stdout, logs.stderr);
    assert!(output.contains("register was refused") && output.contains("\"status\":\"ok\""), "{output}");
}

#[test]
fn agent_is_degraded_while_it_reports_wedged_or_high_error_rate() {
    let mut site = Site::new("");
    site.serve();
    let worker = make(&site, "worker", &[]);
    worker.ask_text(&site, "wedged");
    assert_eq!(worker.status(&site), "degraded", "{:?}", worker.event_types(&site));
    assert_eq!(
        worker.ask_text(&site, "hello"),
        "worker heard: hello",
        "a degraded agent receives no messages"
    );
    worker.ask_text(&site, "well");
    assert_eq!(worker.status(&site), "online");
    worker.ask_text(&site, "errors 0.7");
    let row = site.show("worker");
    assert_eq!(row["status"], "degraded", "{row}");
    assert!(
        site.ostler(["why", "worker"]).stdout.contains("70 %"),
        "{}",
        site.ostler(["why", "worker"]).stdout
    );
    worker.ask_text(&site, "errors 0");
    assert_eq!(worker.status(&site), "online");
}

#[test]
fn agent_that_reports_wedged_during_start_keeps_running() {
    let mut site = Site::new("");
    site.serve();
    // The first heartbeat reports `wedged` while the workspace's start is still in progress.
    let wedged = REFUSED.replace("\\\"uptime_seconds\\\":1", "\\\"runtime_state\\\":\\\"wedged\\\"");
    assert_ne!(wedged, REFUSED);
    let create =
        ["create", "odd", "--no-wait", "--runtime", "agent", "--image", image(), "--", "sh", "-c", &wedged];
    site.ostler(create).well();
    site.until_status("odd", "degraded");
    for _ in 0..3 {
        site.sweep_all();
    }
    let row = site.show("odd");
    let running = inspected(row["container_id"].as_str().unwrap(), "{{.State.Running}}");
    assert_eq!((running.as_deref(), &row["status"]), (Some("true"), &"degraded".into()), "{row}");
    let mut events = event_types_of(&site, "odd");
    events.retain(|event| event.starts_with("WORKSPACE_"));
    assert_eq!(
        events,
        ["WORKSPACE_PROVISIONING", "WORKSPACE_STARTED", "WORKSPACE_ONLINE", "WORKSPACE_DEGRADED"]
    );
}

fn containers_state(site: &Site, name: &str) -> String {
    let container = site.show(name)["container_id"].as_str().unwrap().to_owned();
    inspected(&container, "{{.State.Status}}").unwrap()
}

#[test]
fn pause_stops_descendants_and_resume_starts_only_those() {
    let mut site = Site::new("");
    site.serve();
    let tree = [("root", None), ("arm", Some("root")), ("hand", Some("arm")), ("leg", Some("root"))];
    for (name, parent) in tree {
        let mut more = vec!["--no-wait"];
        more.extend(parent.iter().flat_map(|parent| ["--parent", parent]));
        site.ostler(creation(name, &more)).well();
    }
    for (name, _) in tree {
        site.until_status(name, "online");
    }
    site.ostler(["stop", "leg"]).well();

    let paused = site.admin("POST", "/workspaces/root/pause", Value::Null).expect(200).json();
    assert_eq!(paused["status"], "paused", "{paused}");
    let descendants = |answer: &Value| -> Vec<(String, String)> {
        let list = answer["along"].as_array().unwrap_or_else(|| panic!("no list of descendants: {answer}"));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        list.iter().map(|one| (text(&one["name"]), text(&one["status"]))).collect()
    };
    let names = |status: &str| ["arm", "hand"].map(|name| (name.to_owned(), status.to_owned()));
    assert_eq!(descendants(&paused), names("paused"), "{paused}");
    for (name, _) in tree {
        assert_eq!(
            (site.show(name)["status"].as_str().unwrap(), containers_state(&site, name)),
            ("paused", "exited".into()),
            "{name}"
        );
    }
    let refused = site.admin("POST", "/workspaces/hand/resume", Value::Null).expect(409).json();
    assert_eq!(refused["error"], "parent workspace \"arm\" is paused — resume it first");
    let message = super::message("hello");
    let hand = Agent::of(&site, "hand");
    site.admin("POST", &format!("/workspaces/{}/a2a", hand.id), message).expect(409);

    let resumed = site.admin("POST", "/workspaces/root/resume", Value::Null).expect(200).json();
    let provisioning_or_online =
        |(_, status): &(String, String)| ["provisioning", "online"].contains(&status.as_str());
    assert!(
        descendants(&resumed).iter().all(provisioning_or_online) && descendants(&resumed).len() == 2,
        "{resumed}"
    );
    for name in ["root", "arm", "hand"] {
        site.until_status(name, "online");
    }
    assert_eq!(
        (site.show("leg")["status"].as_str().unwrap(), containers_state(&site, "leg")),
        ("paused", "exited".into())
    );
    assert_eq!(Agent::of(&site, "root").ask_text(&site, "ask arm hello"), "arm answered: arm heard: hello");
    // A workspace that was paused before its parent stays paused when the parent is resumed. It can be started by
    // itself.
    site.ostler(["start", "leg"]).well();
}

#[test]
fn agent_task_is_shown_and_blocks_hibernate_unless_forced() {
    let mut site = Site::new("");
    site.serve();
    let worker = make(&site, "worker", &[]);
    worker.ask_text(&site, "work 3600 in the background");
    let row = until("the task of the agent is reported", || {
        let row = site.show("worker");
        (row["active_tasks"] == 1).then_some(row)
    });
    assert!(row["current_task"].as_str().is_some_and(|task| task.contains("3600")), "{row}");
    let refused = site.admin("POST", "/workspaces/worker/hibernate", Value::Null).expect(409).json();
    assert_eq!(refused["active_tasks"], json!(1), "{refused}");
    let answer =
        site.admin("POST", "/workspaces/worker/hibernate?force=true", Value::Null).expect(200).json();
    assert_eq!(answer["status"], "hibernated", "{answer}");
}
