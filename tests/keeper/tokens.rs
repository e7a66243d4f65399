//! A token is revoked when no container can have it any more, and not earlier.

use std::thread;

use serde_json::Value;

use crate::support::{
    daemon::{Site, requires_engine, until},
    podman::podman_output,
};

fn revoked(run: &Value) -> Vec<&str> {
    let actions = run["actions"].as_array().unwrap().iter();
    actions.filter(|action| action["result"] == "applied").map(|a| a["workspace"].as_str().unwrap()).collect()
}

fn config_volume(workspace: &Value) -> String {
    format!("ostler-{}-config", workspace["id"].as_str().unwrap())
}

#[test]
fn token_of_missing_container_is_revoked_and_start_issues_new_one() {
    let mut site = Site::new("[sweep]\nabsence_grace = \"6s\"\n");
    site.serve();
    site.create_all(&[("gone", None), ("stopped", None), ("running", None)]);
    let external = site.json(["create", "phone", "--external"]);
    let external = external["connection"]["auth_token"].as_str().unwrap().to_owned();
    let api = site.ostler(["token", "issue", "gone"]).well().trim().to_owned();
    let row_of_gone = site.show("gone");
    let container = row_of_gone["container_id"].as_str().unwrap();
    let old = site.token_in_volume("gone");
    site.ostler(["exec", "gone", "--", "sh", "-c", "echo work > /workspace/work"]).well();
    site.ostler(["stop", "stopped"]).well();
    podman_output(["rm", "--force", "--time=0", container]);
    podman_output(["volume", "rm", &config_volume(&row_of_gone)]);

    let first = site.sweep("revoke_stale_tokens");
    assert!(revoked(&first).is_empty() && site.is_valid("gone", &old), "revoked before the grace: {first}");
    let run = site.sweep_until("revoke_stale_tokens", |run| !revoked(run).is_empty());
    assert_eq!(revoked(&run), ["gone"]);
    let evidence = run["actions"][0]["evidence"].as_str().unwrap();
    let waited = evidence.split("over ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
    assert!(waited >= Some(6), "revoked before the grace, or without evidence: {evidence}");
    assert!(!site.is_valid("gone", &old), "the token was reported as revoked and is still valid");
    assert!(site.is_valid("gone", &api), "an API token was revoked too");
    assert!(site.is_valid("phone", &external), "an external agent lost its only credential");
    assert!(site.live_instance_token_matches("stopped"), "the token of a stopped workspace was revoked");
    assert!(site.live_instance_token_matches("running"));

    site.ostler(["start", "gone"]).well();
    let back = site.show("gone");
    assert_eq!(back["status"], "online");
    assert_ne!(back["container_id"], row_of_gone["container_id"]);
    assert!(site.live_instance_token_matches("gone"), "the new token is not valid");
    assert_ne!(site.token_in_volume("gone"), old);
    assert_eq!(site.ostler(["exec", "gone", "--", "cat", "/workspace/work"]).well(), "work\n");
    // The token file is readable only by the agent's user.
    let mode = site.ostler(["exec", "gone", "--", "stat", "-c", "%a %u %g", "/configs/.auth_token"]).well();
    assert_eq!(mode, "600 1000 1000\n");
}

#[test]
fn sweeps_never_revoke_token_issued_by_concurrent_restart() {
    let mut site = Site::new("[sweep]\nabsence_grace = \"1s\"\n");
    site.serve();
    site.create_all(&[("busy", None)]);
    thread::scope(|scope| {
        let sweeping = scope.spawn(|| {
            let runs = (0..12).map(|_| site.sweep("revoke_stale_tokens").to_string());
            runs.collect::<Vec<_>>()
        });
        for order in ["restart", "recreate", "restart"] {
            let old = site.token_in_volume("busy");
            site.ostler([order, "busy"]).well();
            assert!(!site.is_valid("busy", &old), "after {order} the old token is still valid");
            assert!(site.live_instance_token_matches("busy"), "after {order} the agent's token is not valid");
        }
        let runs = sweeping.join().unwrap();
        assert!(runs.iter().all(|run| !run.contains("\"applied\"")), "{runs:?}");
    });
    assert!(site.live_instance_token_matches("busy"));
}

#[test]
fn empty_listing_without_sentinel_revokes_no_token() {
    let mut site = Site::new("[sweep]\nabsence_grace = \"1s\"\nunknown_grace = \"1s\"\n");
    site.serve();
    site.create_all(&[("worker", None)]);
    let token = site.token_in_volume("worker");
    let container = site.show("worker")["container_id"].as_str().unwrap().to_owned();
    let sentinel = format!("ostler-{}", site.instance());
    // A container whose id the registry knows would prove that the engine is the same, so all containers are removed.
    podman_output(["rm", "--force", "--time", "0", &container]);
    podman_output(["volume", "rm", &sentinel]);

    for _ in 0..3 {
        let runs = site.sweep_all();
        assert!(
            runs.as_array()
                .unwrap()
                .iter()
                .filter(|run| requires_engine(run))
                .all(|run| run["outcome"] == "untrusted"),
            "{runs}"
        );
    }
    assert_ne!(site.ostler(["restart", "worker"]).code, 0, "an unknown engine was changed");
    assert!(site.is_valid("worker", &token));
    let doctor = site.ostler(["doctor"]);
    assert!(doctor.code == 1 && doctor.stdout.contains("--accept-engine"), "{doctor:?}");

    site.ostler(["doctor", "--accept-engine"]).well();
    until("sweeps act again", || (site.sweep("settle")["outcome"] == "done").then_some(()));
    site.ostler(["restart", "worker"]).well();
}

#[test]
fn operator_can_revoke_token_and_removal_revokes_container_token() {
    let mut site = Site::new("");
    site.serve();
    site.create_all(&[("worker", None)]);
    let api = site.ostler(["token", "issue", "worker", "--expires", "1h"]).well().trim().to_owned();
    let list = site.json(["token", "ls", "worker"]);
    assert_eq!(list["count"], 2, "{list}");
    assert!(!list.to_string().contains(&api), "a list shows a token");
    let row = list["tokens"].as_array().unwrap().iter().find(|row| row["kind"] == "api").unwrap();
    site.ostler(["token", "revoke", "worker", row["id"].as_str().unwrap()]).well();
    assert!(!site.is_valid("worker", &api));

    let own = site.token_in_volume("worker");
    site.ostler(["rm", "worker"]).well();
    until("the workspace is in the trash", || (site.trash().first()?["state"] == "kept").then_some(()));
    site.ostler(["undelete", "worker"]).well();
    assert!(!site.is_valid("worker", &own), "a removal left the token of its container valid");
    site.ostler(["start", "worker"]).well();
    assert!(site.live_instance_token_matches("worker"));
}
