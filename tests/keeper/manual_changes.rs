//! Manual changes of containers: rename, pause, prune. An operation never reports a change that did not happen.

use rusqlite::OpenFlags;
use serde_json::Value;

use crate::support::{
    daemon::{Site, until},
    hasty::HASTY,
    podman::{has_volume, inspected, podman_output},
};

fn state(container: &str) -> String {
    inspected(container, "{{.State.Status}}").unwrap_or_else(|| "gone".into())
}

fn container_of(row: &Value) -> String {
    row["container_id"].as_str().expect("the workspace has a container").to_owned()
}

/// Creates a workspace and renames its container with `podman rename`.
#[track_caller]
fn renamed(site: &Site, name: &str) -> String {
    let container = container_of(&site.create(name, &[]));
    podman_output(["rename", &container, &format!("mine-{}", &container[..12])]);
    container
}

#[test]
fn stop_and_hibernate_work_on_renamed_container() {
    let mut site = Site::new(HASTY);
    site.serve();
    let container = renamed(&site, "worker");
    for (order, status) in [("stop", "paused"), ("hibernate", "hibernated")] {
        site.ostler([order, "worker"]).well();
        assert_eq!(
            (state(&container).as_str(), &site.show("worker")["status"]),
            ("exited", &status.into()),
            "{order}"
        );
        site.ostler(["start", "worker"]).well();
        assert_eq!(state(&container), "running", "after {order}");
    }
    let before = site.show("worker");
    for _ in 0..2 {
        site.sweep_all();
    }
    let after = site.show("worker");
    assert_eq!(
        (&after["status"], &after["container_id"]),
        (&"online".into(), &before["container_id"]),
        "{after}"
    );
    assert!(site.live_instance_token_matches("worker"), "the token of a running container is not valid");

    // The container is started by hand although the row is paused.
    site.ostler(["stop", "worker"]).well();
    podman_output(["start", &container]);
    site.sweep_until("settle", |_| state(&container) == "exited");
}

#[test]
fn rm_purge_deletes_renamed_container_and_its_volumes() {
    let mut site = Site::new(HASTY);
    site.serve();
    let container = renamed(&site, "worker");
    let id = site.show("worker")["id"].as_str().expect("the workspace has an id").to_owned();
    let output = site.ostler(["rm", "--purge", "worker"]).well();
    let volumes = ["config", "work"].map(|kind| has_volume(&format!("ostler-{id}-{kind}")));
    assert_eq!((state(&container).as_str(), volumes), ("gone", [false; 2]), "output: {output}");
}

#[test]
fn renamed_container_is_restored_and_replaced_on_recreate() {
    let mut site = Site::new(HASTY);
    site.serve();
    let container = renamed(&site, "worker");
    site.ostler(["restart", "worker"]).well();
    site.ostler(["rm", "worker"]).well();
    until("the workspace is in the trash", || {
        site.trash().iter().any(|entry| entry["state"] == "kept").then_some(())
    });
    assert_eq!(state(&container), "exited");
    // The container is renamed and started by hand while it is in the trash.
    podman_output(["rename", &container, &format!("again-{}", &container[..12])]);
    podman_output(["start", &container]);
    site.sweep_until("settle", |_| state(&container) == "exited");

    site.ostler(["undelete", "worker"]).well();
    site.ostler(["start", "worker"]).well();
    assert_eq!(container_of(&site.show("worker")), container);
    podman_output(["rename", &container, &format!("third-{}", &container[..12])]);
    site.ostler(["recreate", "worker"]).well();
    assert_eq!(state(&container), "exited", "recreate left the renamed container running");
    let entry = site.trash().into_iter().find(|entry| entry["reason"] == "replaced");
    assert_eq!(entry.expect("the replaced container is in the trash")["container_id"], container.as_str());
}

#[test]
fn podman_paused_container_is_stopped_by_every_operation() {
    let mut site = Site::new(HASTY);
    site.serve();
    let container = container_of(&site.create("worker", &[]));
    for (order, status) in
        [("stop", "paused"), ("hibernate", "hibernated"), ("restart", "online"), ("recreate", "online")]
    {
        site.ostler(["start", "worker"]).well();
        let container = container_of(&site.show("worker"));
        podman_output(["pause", &container]);
        assert_eq!(state(&container), "paused");
        site.ostler([order, "worker"]).well();
        assert_eq!(site.show("worker")["status"], status, "{order}");
        let expected = if order == "restart" { "running" } else { "exited" };
        assert_eq!(state(&container), expected, "{order}");
    }
    assert_ne!(container_of(&site.show("worker")), container);
    let container = container_of(&site.show("worker"));
    podman_output(["pause", &container]);
    site.ostler(["rm", "--purge", "worker"]).well();
    assert_eq!(state(&container), "gone");
}

#[test]
fn sweep_does_not_restart_podman_paused_container() {
    let mut site = Site::new(HASTY);
    site.serve();
    let container = container_of(&site.create("worker", &[]));
    podman_output(["pause", &container]);
    site.sweep_all();
    let advice = format!("podman unpause {}", &container[..12]);
    for command in [&["why", "worker"][..], &["show", "worker"], &["doctor"]] {
        let output = site.ostler(command.iter().copied());
        assert!(output.stdout.contains(&advice), "{command:?} does not show the advice: {output:?}");
    }
    let refused = site.ostler(["start", "worker"]);
    assert!(refused.code == 4 && refused.stderr.contains(&advice), "{refused:?}");
    let before = site.show("worker")["incarnation"].clone();
    // Sets the row as after missing heartbeats: offline, with a restart due.
    let database = site.database(OpenFlags::SQLITE_OPEN_READ_WRITE);
    let make_offline = "UPDATE workspaces SET status = 'offline', restart_due_at = 0 WHERE name = 'worker'";
    assert_eq!(database.execute(make_offline, []).expect("the row can be changed"), 1);
    site.stop();
    site.serve();
    site.sweep("restart_due");
    let row = site.show("worker");
    assert_eq!(
        (state(&container).as_str(), &row["incarnation"]),
        ("paused", &before),
        "a sweep restarted it: {row}"
    );
    podman_output(["unpause", &container]);
    site.sweep_until("check_containers", |_| site.show("worker")["status"] == "online");
    assert_eq!(site.show("worker")["incarnation"], before);
}

#[test]
fn start_and_restart_handle_initialized_created_and_exited_containers() {
    let mut site = Site::new(HASTY);
    site.serve();
    site.create("worker", &[]);
    let container = container_of(&site.show("worker"));
    // State `initialized`, by `podman init`: a process of the OCI runtime waits, and no agent runs. State `created`, by
    // `podman container cleanup` after it: that process is gone too.
    for (expected, cleans_up) in [("initialized", false), ("created", true)] {
        site.ostler(["stop", "worker"]).well();
        podman_output(["init", &container]);
        if cleans_up {
            podman_output(["container", "cleanup", &container]);
        }
        assert_eq!(state(&container), expected);
        site.sweep_all();
        assert_eq!(site.show("worker")["status"], "paused", "{expected}");
        site.ostler(["start", "worker"]).well();
        assert_eq!(
            (state(&container).as_str(), container_of(&site.show("worker"))),
            ("running", container.clone()),
            "{expected}"
        );
        assert!(site.live_instance_token_matches("worker"), "{expected}");
    }
    // State `exited`: the process was killed.
    podman_output(["kill", &container]);
    until("the container has exited", || (state(&container) == "exited").then_some(()));
    site.ostler(["restart", "worker"]).well();
    assert_eq!(
        (site.show("worker")["status"].as_str(), state(&container).as_str()),
        (Some("online"), "running")
    );
}

#[test]
fn sweeps_trust_known_containers_when_sentinel_was_pruned() {
    let mut site = Site::new(HASTY);
    site.serve();
    for name in ["up", "paused", "hibernated"] {
        site.create(name, &[]);
    }
    site.ostler(["stop", "paused"]).well();
    site.ostler(["hibernate", "hibernated"]).well();
    let statuses = || {
        ["up", "paused", "hibernated"]
            .map(|name| site.show(name)["status"].as_str().unwrap_or("none").to_owned())
    };
    assert_eq!(statuses(), ["online", "paused", "hibernated"]);
    let sentinel = format!("ostler-{}", site.instance());
    let of_site = format!("label=ostler.instance={}", site.instance());
    podman_output(["volume", "prune", "--force", "--filter", &of_site]);
    assert!(!has_volume(&sentinel), "Podman did not prune the sentinel volume");
    for kept in ["up", "paused", "hibernated"] {
        let id = site.show(kept)["id"].as_str().expect("an id").to_owned();
        assert!(has_volume(&format!("ostler-{id}-work")), "the volume of {kept} was pruned");
    }

    let runs = site.sweep_all();
    assert!(!runs.to_string().contains("untrusted"), "the sweeps do not act: {runs}");
    assert_eq!(statuses(), ["online", "paused", "hibernated"], "the sweeps changed a status");
    site.ostler(["restart", "up"]).well();
    site.ostler(["start", "paused"]).well();
    site.ostler(["wake", "hibernated"]).well();
    assert_eq!(statuses(), ["online"; 3]);
    site.create("new", &[]);
    let output = site.ostler(["doctor"]).stdout;
    assert!(output.contains("prune") && output.contains("--accept-engine"), "{output}");
    site.ostler(["doctor", "--accept-engine"]).well();
    assert!(has_volume(&sentinel));
}

#[test]
fn pruned_container_is_recreated_with_its_volumes_on_start() {
    let mut site = Site::new(HASTY);
    site.serve();
    for name in ["up", "paused"] {
        site.create(name, &[]);
    }
    site.ostler(["exec", "paused", "--", "sh", "-c", "echo work > /workspace/work"]).well();
    site.ostler(["stop", "paused"]).well();
    let old = container_of(&site.show("paused"));
    let of_site = format!("label=ostler.instance={}", site.instance());
    podman_output(["container", "prune", "--force", "--filter", &of_site]);
    assert_eq!(state(&old), "gone", "Podman did not prune the stopped container");
    // The sweep runs while no container mounts the volumes, as during `podman system prune --volumes`.
    site.sweep_all();
    site.ostler(["start", "paused"]).well();
    assert_ne!(container_of(&site.show("paused")), old);
    assert_eq!(site.ostler(["exec", "paused", "--", "cat", "/workspace/work"]).well(), "work\n");

    site.ostler(["stop", "paused"]).well();
    podman_output(["container", "prune", "--force", "--filter", &of_site]);
    podman_output(["volume", "prune", "--force", "--filter", &of_site]);
    let refused = site.ostler(["start", "paused"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("prune") && refused.stderr.contains("--new-volume"), "{refused:?}");
    assert_eq!(site.show("up")["status"], "online");
}

#[test]
fn first_create_is_refused_with_advice_when_sentinel_is_missing() {
    let mut site = Site::new(HASTY);
    site.serve();
    let sentinel = format!("ostler-{}", site.instance());
    until("the engine is accepted", || has_volume(&sentinel).then_some(()));
    podman_output(["volume", "rm", &sentinel]);
    let refused = site.ostler(["create", "worker", "--image", crate::support::podman::image()]);
    assert_ne!(refused.code, 0, "the create was accepted and would wait forever: {refused:?}");
    assert!(refused.stderr.contains("--accept-engine"), "{refused:?}");
    site.ostler(["doctor", "--accept-engine"]).well();
    site.create("worker", &[]);
    assert!(has_volume(&sentinel));
}
