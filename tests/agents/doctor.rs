//! The doctor's checks that run inside a container, because the host cannot see the fault.

use serde_json::Value;

use super::{creation, make};
use crate::support::{
    daemon::{Site, until},
    podman::{image, podman_output},
};

/// The doctor's check with this name.
#[track_caller]
pub(super) fn check(site: &Site, name: &str) -> Value {
    let output = site.ostler(["doctor", "--json"]);
    let report: Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let checks = report["checks"].as_array().expect("the report has checks");
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}")).clone()
}

#[test]
fn doctor_checks_from_inside_container_that_ostler_is_reachable() {
    let mut site = Site::new("");
    site.serve();
    let alone = check(&site, "network");
    assert_eq!(alone["verdict"], "ok", "a fault is reported although no workspace runs: {alone}");
    assert!(alone["found"].as_str().unwrap().contains("no workspace runs"), "{alone}");

    make(&site, "lead", &[]);
    let port = site.network_port();
    let found = check(&site, "network");
    let text = found["found"].as_str().unwrap();
    assert_eq!(found["verdict"], "ok", "{found}");
    assert!(
        text.starts_with("`lead` reaches ostler at http://") && text.ends_with(&format!(":{port}")),
        "{text}"
    );

    let listen = check(&site, "listen");
    assert!(listen["found"].as_str().unwrap().contains(&format!("127.0.0.1:{port} and ")), "{listen}");
    let tree = check(&site, "tree");
    assert!(tree["found"].as_str().unwrap().contains("network.isolate"), "{tree}");
    site.ostler(["doctor"]).well();
}

#[test]
fn doctor_fails_with_advice_when_container_cannot_reach_ostler() {
    let mut site = Site::new("[network]\nplatform_url = \"http://127.0.0.1:1\"\n");
    site.serve();
    site.ostler(creation("lost", &["--no-wait"])).well();
    site.until_status("lost", "provisioning");
    let output = until("the doctor's request runs in the container", || {
        let output = site.ostler(["doctor"]);
        (!output.stdout.contains("no workspace runs") && !output.stdout.contains("/bin/sh could not be run"))
            .then_some(output)
    });
    assert_eq!(output.code, 1, "{output:?}");
    for expected in [
        "`lost` does not reach ostler at http://127.0.0.1:1: ",
        "refused",
        "firewall",
        "network.listen",
        "network.platform_url",
    ] {
        assert!(output.stdout.contains(expected), "no {expected:?} in {}", output.stdout);
    }
}

#[test]
fn doctor_accepts_recent_heartbeat_when_container_has_no_shell() {
    let mut site = Site::new("");
    site.serve();
    site.create("shellless", &[]);
    let container = site.show("shellless")["container_id"].as_str().unwrap().to_owned();
    // Runs as root, because /bin belongs to root.
    podman_output(["exec", "--user", "0", &container, "rm", "/bin/sh"]);
    let found = check(&site, "network");
    assert_eq!(found["verdict"], "warn", "{found}");
    assert!(found["found"].as_str().unwrap().contains("/bin/sh could not be run in any"), "{found}");

    let id = site.show("shellless")["id"].as_str().unwrap().to_owned();
    let token = site.token_in_volume("shellless");
    let heartbeat = serde_json::json!({ "workspace_id": id, "uptime_seconds": 1 });
    site.agent("POST", "/registry/heartbeat", &id, Some(&token), heartbeat).expect(200);
    let found = check(&site, "network");
    assert_eq!(found["verdict"], "ok", "{found}");
    assert!(
        found["found"].as_str().unwrap().starts_with("`shellless` reaches ostler: its last heartbeat was "),
        "{found}"
    );
}

/// The agent sends heartbeats, but no server listens in its container.
#[test]
fn doctor_and_why_report_an_agent_that_does_not_listen() {
    let mut site = Site::new("");
    site.serve();
    let script = "while :; do \
                    curl -s -o /dev/null -X POST -H \"Authorization: Bearer $(cat /configs/.auth_token)\" \
                      -H 'Content-Type: application/json' -d \"{\\\"workspace_id\\\":\\\"$WORKSPACE_ID\\\"}\" \
                      \"$PLATFORM_URL/registry/heartbeat\" || \
                    wget -q -O /dev/null --header \"Authorization: Bearer $(cat /configs/.auth_token)\" \
                      --header 'Content-Type: application/json' --post-data \"{\\\"workspace_id\\\":\\\"$WORKSPACE_ID\\\"}\" \
                      \"$PLATFORM_URL/registry/heartbeat\"; sleep 2; done";
    let make = ["create", "closed", "--runtime", "agent", "--image", image(), "--", "sh", "-c", script];
    site.ostler(make).well();
    let ports = check(&site, "ports");
    assert_eq!(ports["verdict"], "warn", "{ports}");
    assert!(ports["found"].as_str().unwrap().ends_with("port 8000: closed"), "{ports}");
    let why = site.ostler(["why", "closed"]).well();
    assert!(why.contains("accepts connections on port 8000"), "{why}");
    let engine = check(&site, "engine use");
    assert!(engine["found"].as_str().unwrap().contains("Podman's service (process "), "{engine}");
}
