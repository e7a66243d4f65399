//! After the registry was lost or restored, containers and volumes that it does not know are not changed, and all of
//! them can be adopted.

use serde_json::Value;

use crate::support::{
    daemon::{Site, until},
    podman::inspected,
};

/// Grace periods that are so short that they have passed after two listings.
const AT_ONCE: &str = "[sweep]\nabsence_grace = \"1s\"\nunknown_grace = \"1s\"\n";
const TREE: [(&str, Option<&str>); 3] = [("top", None), ("middle", Some("top")), ("bottom", Some("middle"))];

/// Properties that must not change while a registry is lost and rebuilt.
#[derive(Debug, PartialEq)]
struct Surviving {
    container: String,
    /// Process id, start time, and the engine's start count.
    process: String,
    token: String,
    parent: Value,
    work: String,
}

fn surviving(site: &Site, name: &str) -> Surviving {
    let row = site.show(name);
    let container = row["container_id"].as_str().unwrap().to_owned();
    Surviving {
        process: process(&container),
        token: site.token_in_volume(name),
        parent: row["parent_id"].clone(),
        work: site.ostler(["exec", name, "--", "cat", "/workspace/work"]).well(),
        container,
    }
}

fn process(container: &str) -> String {
    inspected(container, "{{.State.Status}} {{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}}")
        .unwrap_or_else(|| panic!("container {container} does not exist"))
}

fn tree_at_work(site: &Site) -> [Surviving; 3] {
    site.create_all(&TREE);
    TREE.map(|(name, _)| {
        let write = format!("echo work of {name} > /workspace/work");
        site.ostler(["exec", name, "--", "sh", "-c", &write]).well();
        surviving(site, name)
    })
}

/// Sweeps for so long that unknown objects would be moved to the trash several times if the plan were not held.
fn until_held(site: &Site) -> Value {
    let held = site.sweep_until("reap_unknown", |run| run["outcome"] == "held");
    for _ in 0..3 {
        assert_eq!(site.sweep("reap_unknown")["outcome"], "held");
    }
    site.sweep_all();
    held
}

#[test]
fn deleted_database_is_rebuilt_by_adopt_without_disturbing_agents() {
    let mut site = Site::new(AT_ONCE);
    site.serve();
    let before = tree_at_work(&site);
    site.kill();
    site.lose_database();
    site.serve();

    // The registry is no longer empty, but the unknown objects are neither adopted nor reaped yet.
    site.create("created-after-loss", &[]);
    let held = until_held(&site);
    for (surviving, (name, _)) in before.iter().zip(TREE) {
        assert_eq!(process(&surviving.container), surviving.process, "{name} was changed: {held}");
    }
    assert_eq!(site.trash().len(), 0, "an object was reaped: {held}");
    let doctor = site.json(["doctor"]).to_string();
    assert!(doctor.contains("recovering"), "the doctor does not report `recovering`: {doctor}");

    let adopted = site.json(["adopt", "--all"]);
    assert_eq!(adopted["recovering"], false, "{adopted}");
    for (before, (name, _)) in before.iter().zip(TREE) {
        assert_eq!(site.show(name)["status"], "online", "{adopted}");
        assert_eq!(surviving(&site, name), *before, "{name} was changed");
        assert!(site.live_instance_token_matches(name), "the token of {name} is not valid");
    }
    site.sweep_until("reap_unknown", |run| run["outcome"] == "done");
    let runs = site.sweep_all().to_string();
    assert!(!runs.contains("\"applied\""), "a sweep changed an adopted workspace: {runs}");

    // An adopted workspace can be restarted like any other.
    site.ostler(["restart", "bottom"]).well();
    assert!(
        site.live_instance_token_matches("bottom"),
        "the token is wrong after a restart of an adopted workspace"
    );
    assert!(!site.is_valid("bottom", &before[2].token), "a restart left the old token valid");
}

#[test]
fn database_deleted_while_daemon_runs_is_rebuilt_after_next_start() {
    let mut site = Site::new(AT_ONCE);
    site.serve();
    let before = tree_at_work(&site);
    site.lose_database();
    // The daemon keeps the deleted files open and continues with them.
    site.sweep_all();
    site.kill();
    site.serve();
    until_held(&site);
    assert_eq!(site.trash().len(), 0);
    assert_eq!(site.json(["adopt", "--all"])["items"].as_array().unwrap().len(), 3);
    for (before, (name, _)) in before.iter().zip(TREE) {
        assert_eq!(surviving(&site, name), *before, "{name} was changed");
        assert!(site.live_instance_token_matches(name), "the token of {name} is not valid");
    }
}

#[test]
fn newer_workspace_is_adopted_after_older_database_restore() {
    let mut site = Site::new(AT_ONCE);
    site.serve();
    site.create("elder", &[]);
    let copy = site.copy_database();
    let younger = site.create("younger", &["--parent", "elder"]);
    let container = younger["container_id"].as_str().unwrap();
    let running = process(container);
    site.kill();
    site.put_back(&copy);
    site.serve();

    until_held(&site);
    assert_eq!(process(container), running, "a container unknown to the copy was changed");
    assert_eq!(site.show("elder")["status"], "online");
    site.json(["adopt", "younger"]);
    assert_eq!(process(container), running);
    assert_eq!(site.show("younger")["parent_id"], site.show("elder")["id"]);
    assert!(site.live_instance_token_matches("younger"));
    assert!(site.live_instance_token_matches("elder"));
    // The last unknown object was adopted, so nothing is held.
    let doctor = site.json(["doctor"]).to_string();
    assert!(!doctor.contains("recovering"), "{doctor}");
}

#[test]
fn agent_restarted_after_database_copy_keeps_its_token() {
    let mut site = Site::new(AT_ONCE);
    site.serve();
    site.create("elder", &[]);
    let copy = site.copy_database();
    site.ostler(["restart", "elder"]).well();
    site.create_all(&[("younger", None)]);
    let before = site.token_in_volume("elder");
    let container = site.show("elder")["container_id"].as_str().unwrap().to_owned();
    let running = process(&container);
    site.kill();
    site.put_back(&copy);
    site.serve();
    site.ostler(["adopt", "--all"]).well();
    assert_eq!((process(&container), site.token_in_volume("elder")), (running, before));
    assert!(site.live_instance_token_matches("elder"), "the registry does not accept the token of its agent");
}

#[test]
fn approved_reaping_after_registry_loss_can_be_undone() {
    let mut site = Site::new(AT_ONCE);
    site.serve();
    site.create("forgotten", &[]);
    site.ostler(["exec", "forgotten", "--", "sh", "-c", "echo own > /tmp/own"]).well();
    let before = site.show("forgotten");
    site.kill();
    site.lose_database();
    site.serve();
    until_held(&site);
    let plan = site.json(["sweep", "show", "reap_unknown"])["held"]["id"].as_str().unwrap().to_owned();

    site.ostler(["sweep", "approve", "reap_unknown", &plan]).well();
    until("the workspace is in the trash", || {
        site.trash().iter().any(|entry| entry["state"] == "kept").then_some(())
    });
    let refused = site.json(["adopt", "--dry-run"]);
    assert_eq!(
        refused["items"].as_array().unwrap().len(),
        0,
        "a workspace in the trash is offered for adoption"
    );
    site.ostler(["trash", "restore", "forgotten"]).well();
    let back = site.show("forgotten");
    assert_eq!((&back["status"], &back["container_id"]), (&"paused".into(), &before["container_id"]));
    site.ostler(["start", "forgotten"]).well();
    assert_eq!(site.ostler(["exec", "forgotten", "--", "cat", "/tmp/own"]).well(), "own\n");
}

/// Copies the database of a site with five workspaces. Then one is restarted, one removed, one recreated and one
/// stopped; with `new_workspace`, a sixth is created. Then replaces the database by the older copy, and asserts that
/// ostler detects this, changes nothing, and can adopt everything.
fn assert_older_copy_is_detected(new_workspace: bool) {
    let mut site = Site::new(AT_ONCE);
    site.serve();
    site.create_all(&["w1", "w2", "w3", "w4", "w5"].map(|name| (name, None)));
    let copy = site.copy_database();
    site.ostler(["restart", "w1"]).well();
    site.ostler(["rm", "w3"]).well();
    site.ostler(["recreate", "w4"]).well();
    site.ostler(["stop", "w5"]).well();
    if new_workspace {
        site.create("w6", &[]);
    }
    let up = if new_workspace { vec!["w1", "w2", "w4", "w6"] } else { vec!["w1", "w2", "w4"] };
    let of = |site: &Site, name: &str| site.show(name)["container_id"].as_str().unwrap().to_owned();
    let containers: Vec<_> = up.iter().map(|name| of(&site, name)).collect();
    let running = || containers.iter().map(|container| process(container)).collect::<Vec<_>>();
    let w5 = of(&site, "w5");
    let before = (running(), process(&w5));
    site.kill();
    site.put_back(&copy);
    site.serve();

    let doctor = site.json(["doctor"]).to_string();
    assert!(doctor.contains("recovering"), "the doctor does not report the older registry: {doctor}");
    for _ in 0..3 {
        let runs = site.sweep_all();
        assert_eq!(
            (running(), process(&w5)),
            before,
            "a sweep changed a container unknown to the copy: {runs:#}"
        );
    }
    assert_eq!(site.trash().len(), 0, "a sweep moved an object to the trash");
    let refused = site.ostler(["start", "w4"]);
    assert!(refused.code == 4 && refused.stderr.contains("ostler adopt w4"), "{refused:?}");
    let report = site.json(["adopt", "--dry-run"]);
    let mut named: Vec<_> =
        report["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
    named.sort_unstable();
    let differ = if new_workspace { vec!["w3", "w4", "w5", "w6"] } else { vec!["w3", "w4", "w5"] };
    assert_eq!(named, differ, "{report:#}");

    let adopted = site.json(["adopt", "w4"]);
    assert_eq!(adopted["recovering"], true, "{adopted}");
    assert_eq!(of(&site, "w4"), containers[2], "the older container was adopted");
    let adopted = site.json(["adopt", "--all"]);
    assert_eq!(adopted["recovering"], false, "{adopted:#}");
    site.sweep_all();
    site.sweep_all();
    assert_eq!((running(), process(&w5)), before, "the end of the recovery changed a container: {adopted:#}");
    for name in up {
        assert_eq!(site.show(name)["status"], "online", "{name}");
        assert!(site.live_instance_token_matches(name), "the token of {name} is not valid");
    }
    for name in ["w3", "w5"] {
        assert_eq!(site.show(name)["status"], "paused", "{name}");
        site.ostler(["start", name]).well();
    }
}

#[test]
fn older_database_is_detected_and_no_container_is_changed() {
    assert_older_copy_is_detected(false);
}

#[test]
fn older_database_is_detected_when_workspace_was_created_since() {
    assert_older_copy_is_detected(true);
}

#[test]
fn database_copy_with_wal_of_another_database_is_refused() {
    let mut site = Site::new(AT_ONCE);
    site.serve();
    site.ostler(["create", "elder", "--external"]).well();
    let copy = site.copy_database();
    site.ostler(["create", "younger", "--external"]).well();
    site.kill();
    let (database, log) = (site.data_dir().join("ostler.db"), site.data_dir().join("ostler.db-wal"));
    std::fs::copy(copy.path().join("ostler.db"), &database).unwrap();
    let output = site.try_serve().expect_err("a copy was served with the log of another database");
    assert!(
        output.contains("ostler.db-wal does not belong to") && output.contains("ostler.db-shm"),
        "{output}"
    );
    std::fs::rename(&log, site.directory().join("kept-wal")).unwrap();
    std::fs::remove_file(site.data_dir().join("ostler.db-shm")).unwrap();
    site.serve();
    assert_eq!(site.ostler(["show", "younger"]).code, 3, "the restore was undone");
    site.ostler(["show", "elder"]).well();
    assert!(site.json(["doctor"]).to_string().contains("recovering"));
    site.stop();
    let copied = tempfile::tempdir().unwrap();
    std::fs::copy(&database, copied.path().join("ostler.db")).unwrap();
    assert!(!log.exists(), "a stopped daemon left its write-ahead log");
}

/// The container of the removed workspace still has the name of its trash entry, but the entry itself is lost with the
/// database.
#[test]
fn removed_workspace_is_restored_by_name_after_registry_loss() {
    let mut site = Site::new(AT_ONCE);
    site.serve();
    site.create_all(&[("kept", None), ("gone", None)]);
    site.ostler(["rm", "gone"]).well();
    // `rm` returns when the removal is accepted; the containers are moved later.
    until("the workspace is in the trash", || {
        site.trash().iter().any(|entry| entry["state"] == "kept").then_some(())
    });
    site.kill();
    site.lose_database();
    site.serve();

    let output = site.ostler(["ls"]).stderr;
    assert!(output.contains("recovering") && output.contains("ostler adopt"), "{output}");
    let unknown = |report: &Value| -> Option<Value> {
        report["checks"].as_array()?.iter().find(|check| check["name"] == "unknown").cloned()
    };
    let check = unknown(&site.json(["doctor"])).expect("the doctor shows unknown objects");
    let found = check["found"].as_str().unwrap();
    assert!(
        found.contains("kept")
            && found.contains("gone (its container is in the trash, but has no trash entry)"),
        "{check}"
    );

    site.json(["adopt", "--all"]);
    let check = unknown(&site.json(["doctor"])).expect("one unknown object is left");
    assert!(!check["found"].as_str().unwrap().contains("kept"), "{check}");
    until("the removed workspace is in the trash", || {
        site.sweep("reap_unknown");
        (!site.trash().is_empty()).then_some(())
    });
    assert_eq!(unknown(&site.json(["doctor"])), None, "the object in the trash is still unknown");
    let refused = site.ostler(["undelete", "gone"]);
    assert!(refused.stderr.contains("ostler trash restore"), "{refused:?}");
    site.ostler(["trash", "restore", "gone"]).well();
    assert_eq!(site.show("gone")["status"], "paused");
}
