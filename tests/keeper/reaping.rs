//! Containers and volumes that the registry does not know are moved to the trash and can be restored. Those of other
//! instances are not changed.

use serde_json::Value;

use crate::support::{
    daemon::{Site, until},
    podman::{Cleanup, has_volume, inspected, podman_output},
};

/// Grace periods that are so short that they have passed after two listings.
const AT_ONCE: &str = "[sweep]\nabsence_grace = \"1s\"\nunknown_grace = \"1s\"\n";

/// Every container and volume that the engine has of an instance, with its state.
fn objects_of(instance: &str) -> Vec<String> {
    let filter = format!("label=ostler.instance={instance}");
    let format = "{{.ID}} {{.Names}} {{.Exited}} {{.Pid}} {{.StartedAt}}";
    let containers = podman_output(["ps", "--all", "--no-trunc", "--filter", &filter, "--format", format]);
    let volumes = podman_output(["volume", "ls", "--filter", &filter, "--format", "{{.Name}}"]);
    let mut all: Vec<_> = containers.lines().chain(volumes.lines()).map(str::to_owned).collect();
    all.sort();
    all
}

fn applied(run: &Value) -> usize {
    run["actions"].as_array().unwrap().iter().filter(|action| action["result"] == "applied").count()
}

#[test]
fn unknown_workspace_is_reaped_after_grace_and_can_be_restored() {
    let mut site = Site::new("[sweep]\nunknown_grace = \"4s\"\n");
    site.serve();
    site.create_all(&[("known", None), ("unknown", Some("known"))]);
    let lost = site.show("unknown");
    let (id, container) = (lost["id"].as_str().unwrap(), lost["container_id"].as_str().unwrap());
    let write = "echo own > /tmp/own; echo work > /workspace/work";
    site.ostler(["exec", "unknown", "--", "sh", "-c", write]).well();
    site.forget_row("unknown");

    let first = site.sweep("reap_unknown");
    assert!(applied(&first) == 0 && first["watching"].to_string().contains("not in the registry"), "{first}");
    assert_eq!(
        inspected(container, "{{.State.Status}}").unwrap(),
        "running",
        "reaped before the grace: {first}"
    );
    let reaped = site.sweep_until("reap_unknown", |run| applied(run) > 0);
    let evidence = reaped["actions"][0]["evidence"].as_str().unwrap();
    assert!(evidence.contains("trusted listings over"), "the evidence has no reason: {evidence}");

    let trash = site.trash();
    assert_eq!(trash.len(), 1, "{trash:?}");
    assert_eq!((&trash[0]["state"], &trash[0]["reason"]), (&"kept".into(), &"unknown".into()));
    assert_eq!(inspected(container, "{{.State.Status}}").unwrap(), "exited");
    assert_eq!(site.show("known")["status"], "online");
    assert!(has_volume(&format!("ostler-{id}-work")) && has_volume(&format!("ostler-{id}-config")));

    site.ostler(["trash", "restore", "unknown"]).well();
    site.ostler(["start", "unknown"]).well();
    let back = site.show("unknown");
    assert_eq!((&back["id"], &back["container_id"]), (&lost["id"], &lost["container_id"]));
    assert_eq!(back["parent_id"], lost["parent_id"]);
    let read = site.ostler(["exec", "unknown", "--", "cat", "/tmp/own", "/workspace/work"]).well();
    assert_eq!(read, "own\nwork\n");
    assert!(site.live_instance_token_matches("unknown"));
    for _ in 0..3 {
        assert_eq!(applied(&site.sweep("reap_unknown")), 0, "a restored workspace is reaped again");
    }
}

#[test]
fn two_instances_on_one_engine_do_not_change_each_others_objects() {
    let (mut one, mut other) = (Site::new(AT_ONCE), Site::new(AT_ONCE));
    one.serve();
    other.serve();
    // Both instances may use the same workspace names.
    for site in [&one, &other] {
        site.create_all(&[("online", None), ("stopped", None), ("removed", None)]);
        site.ostler(["stop", "stopped"]).well();
    }
    let untouched = objects_of(&other.instance());
    one.ostler(["rm", "removed"]).well();
    one.forget_row("stopped");
    one.sweep_until("reap_unknown", |run| applied(run) > 0);
    until("the removed workspaces are in the trash", || (one.trash().len() == 2).then_some(()));
    for _ in 0..3 {
        one.sweep_all();
        let runs = other.sweep_all();
        let quiet = runs.as_array().unwrap().iter().all(|run| applied(run) == 0);
        assert!(quiet, "the other instance applied actions: {runs}");
    }
    one.ostler(["trash", "empty", "--yes"]).well();
    one.ostler(["rm", "--purge", "online"]).well();
    one.sweep_all();
    let adoption = one.json(["adopt", "--dry-run"]);
    assert_eq!(
        adoption["items"],
        Value::Array(Vec::new()),
        "objects of the other instance are offered for adoption"
    );

    assert_eq!(objects_of(&other.instance()), untouched, "objects of the other instance were changed");
    assert_eq!(other.show("online")["status"], "online");
    assert!(other.live_instance_token_matches("online") && other.live_instance_token_matches("stopped"));
}

#[test]
fn container_from_committed_workspace_image_is_not_changed() {
    let mut site = Site::new(AT_ONCE);
    site.serve();
    let made = site.create("origin", &[]);
    let container = made["container_id"].as_str().unwrap();
    let copied = format!("localhost/ostler-committed-{}", made["id"].as_str().unwrap());
    podman_output(["commit", "--quiet", container, &copied]);
    let debug = format!("debug-{}", made["id"].as_str().unwrap());
    let run = ["run", "--detach", "--quiet", "--name", &debug, "--network", "none", &copied];
    let copy = podman_output(run).trim().to_owned();
    let _image = RemovedImage(copied);
    let _cleanup = Cleanup::of_label(format!("ostler.instance={}", site.instance()));
    let labels = inspected(&copy, "{{json .Config.Labels}}").unwrap();
    assert!(
        labels.contains("ostler.workspace"),
        "the commit did not copy the labels, so this test proves nothing: {labels}"
    );

    // The container from the copied image belongs to no workspace, whether the original workspace exists, is removed or
    // is unknown.
    let runs = [site.sweep_all(), site.sweep_all()];
    assert!(runs.iter().flat_map(|runs| runs.as_array().unwrap()).all(|run| applied(run) == 0), "{runs:?}");
    let doctor = site.json(["doctor"]);
    let foreign = doctor["checks"].as_array().unwrap().iter().find(|check| check["name"] == "foreign");
    let output = foreign.unwrap_or_else(|| panic!("the doctor has no check `foreign`: {doctor}")).to_string();
    assert!(output.contains(&debug), "{output}");

    site.ostler(["rm", "origin"]).well();
    until("the origin is in the trash", || {
        site.sweep_all();
        site.trash().iter().any(|entry| entry["state"] == "kept").then_some(())
    });
    site.ostler(["trash", "empty", "--yes"]).well();
    site.sweep_all();
    let state = inspected(&copy, "{{.State.Status}} {{.Name}}").expect("the copy still exists");
    assert_eq!(state, format!("running {debug}"));
}

/// An image made by a test and removed at its end, together with its containers.
struct RemovedImage(String);

impl Drop for RemovedImage {
    fn drop(&mut self) {
        podman_output(["rmi", "--force", &self.0]);
    }
}

#[test]
fn dry_run_works_without_daemon_and_changes_nothing() {
    let mut site = Site::new(AT_ONCE);
    site.serve();
    site.create_all(&[("removed", None), ("stopped", None)]);
    let removed = site.show("removed")["container_id"].as_str().unwrap().to_owned();
    site.ostler(["stop", "stopped"]).well();
    site.kill();
    // Two differences that a sweep would act on: a removal that a crash interrupted, and a manual change in the engine.
    site.database(rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE)
        .execute("UPDATE workspaces SET status = 'removed', removed_at = 1 WHERE name = 'removed'", [])
        .unwrap();
    let before = objects_of(&site.instance());

    let runs = site.json(["sweep", "run", "--dry-run"]);
    let planned = |pass: &str| {
        let run = runs.as_array().unwrap().iter().find(|run| run["pass"] == pass);
        run.unwrap_or_else(|| panic!("no run of {pass}: {runs}"))["actions"].to_string()
    };
    assert!(planned("reap_removed").contains(&removed[..12]), "{runs}");
    assert!(planned("settle") == "[]" && planned("reap_unknown") == "[]", "{runs}");
    assert_eq!(objects_of(&site.instance()), before, "a dry run changed an object");
    let wrong = site.ostler(["sweep", "run", "--dry-run", "no_such_pass"]);
    assert!(wrong.code != 0 && wrong.stderr.contains("reap_removed"), "{wrong:?}");

    site.serve();
    until("the next start applies it", || site.trash().iter().any(|e| e["state"] == "kept").then_some(()));
}
