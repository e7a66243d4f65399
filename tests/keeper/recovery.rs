//! A lost or restored registry leaves unknown objects alone and can adopt all of them.

use serde_json::Value;

use crate::support::{
    daemon::{Site, until},
    podman::inspected,
};

/// Graces that have passed after two listings.
const AT_ONCE: &str = "[sweep]\nabsence_grace = \"1s\"\nunknown_grace = \"1s\"\n";
const TREE: [(&str, Option<&str>); 3] = [("top", None), ("middle", Some("top")), ("bottom", Some("middle"))];

/// What must not change while a registry is lost and rebuilt.
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
    let effective = site.show(name);
    let container = effective["container_id"].as_str().unwrap().to_owned();
    Surviving {
        process: process(&container),
        token: site.token_in_volume(name),
        parent: effective["parent_id"].clone(),
        work: site.ostler(["exec", name, "--", "cat", "/workspace/work"]).well(),
        container,
    }
}

fn process(container: &str) -> String {
    inspected(container, "{{.State.Status}} {{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}}")
        .unwrap_or_else(|| panic!("container {container} is gone"))
}

fn tree_at_work(site: &Site) -> [Surviving; 3] {
    site.create_all(&TREE);
    TREE.map(|(name, _)| {
        let write = format!("echo work of {name} > /workspace/work");
        site.ostler(["exec", name, "--", "sh", "-c", &write]).well();
        surviving(site, name)
    })
}

/// Sweeps long enough to reap an unknown object several times, if it were not held.
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

    // The registry is no longer empty, but nothing was decided about the unknown objects yet.
    site.create("newcomer", &[]);
    let held = until_held(&site);
    for (surviving, (name, _)) in before.iter().zip(TREE) {
        assert_eq!(process(&surviving.container), surviving.process, "{name} was touched: {held}");
    }
    assert_eq!(site.trash().len(), 0, "something was reaped: {held}");
    let doctor = site.json(["doctor"]).to_string();
    assert!(doctor.contains("recovering"), "the doctor does not say so: {doctor}");

    let adopted = site.json(["adopt", "--all"]);
    assert_eq!(adopted["recovering"], false, "{adopted}");
    for (before, (name, _)) in before.iter().zip(TREE) {
        assert_eq!(site.show(name)["status"], "online", "{adopted}");
        assert_eq!(surviving(&site, name), *before, "{name} is not what it was");
        assert!(site.live_instance_token_matches(name), "{name}'s agent has lost its token");
    }
    site.sweep_until("reap_unknown", |run| run["outcome"] == "done");
    let runs = site.sweep_all().to_string();
    assert!(!runs.contains("\"applied\""), "something was done to what was adopted: {runs}");

    // An adopted workspace behaves like any other.
    site.ostler(["restart", "bottom"]).well();
    assert!(site.live_instance_token_matches("bottom"), "a restart of an adopted one left the wrong token");
    assert!(!site.is_valid("bottom", &before[2].token), "a restart left the old token valid");
}

#[test]
fn database_deleted_while_daemon_runs_is_rebuilt_after_next_start() {
    let mut site = Site::new(AT_ONCE);
    site.serve();
    let before = tree_at_work(&site);
    site.lose_database();
    // The daemon continues with files that are no longer in the directory.
    site.sweep_all();
    site.kill();
    site.serve();
    until_held(&site);
    assert_eq!(site.trash().len(), 0);
    assert_eq!(site.json(["adopt", "--all"])["items"].as_array().unwrap().len(), 3);
    for (before, (name, _)) in before.iter().zip(TREE) {
        assert_eq!(surviving(&site, name), *before, "{name} is not what it was");
        assert!(site.live_instance_token_matches(name), "{name}'s agent has lost its token");
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
    assert_eq!(process(container), running, "what the copy does not know was touched");
    assert_eq!(site.show("elder")["status"], "online");
    site.json(["adopt", "younger"]);
    assert_eq!(process(container), running);
    assert_eq!(site.show("younger")["parent_id"], site.show("elder")["id"]);
    assert!(site.live_instance_token_matches("younger"));
    assert!(site.live_instance_token_matches("elder"));
    // The last unknown object was decided on, so nothing is held.
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
    assert!(site.live_instance_token_matches("elder"), "its agent holds a token that nobody knows any more");
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
    until("it lies in the trash", || site.trash().iter().any(|entry| entry["state"] == "kept").then_some(()));
    let refused = site.json(["adopt", "--dry-run"]);
    assert_eq!(
        refused["items"].as_array().unwrap().len(),
        0,
        "what lies in the trash is offered for adoption"
    );
    site.ostler(["trash", "restore", "forgotten"]).well();
    let back = site.show("forgotten");
    assert_eq!((&back["status"], &back["container_id"]), (&"paused".into(), &before["container_id"]));
    site.ostler(["start", "forgotten"]).well();
    assert_eq!(site.ostler(["exec", "forgotten", "--", "cat", "/tmp/own"]).well(), "own\n");
}

/// Takes a copy of five workspaces. Then one is restarted, one removed, one recreated and one stopped; with `newcomer`,
/// one is created too. Finally the copy replaces the database.
fn older_copy_is_put_back(newcomer: bool) {
    let mut site = Site::new(AT_ONCE);
    site.serve();
    site.create_all(&["w1", "w2", "w3", "w4", "w5"].map(|name| (name, None)));
    let copy = site.copy_database();
    site.ostler(["restart", "w1"]).well();
    site.ostler(["rm", "w3"]).well();
    site.ostler(["recreate", "w4"]).well();
    site.ostler(["stop", "w5"]).well();
    if newcomer {
        site.create("w6", &[]);
    }
    let up = if newcomer { vec!["w1", "w2", "w4", "w6"] } else { vec!["w1", "w2", "w4"] };
    let of = |site: &Site, name: &str| site.show(name)["container_id"].as_str().unwrap().to_owned();
    let containers: Vec<_> = up.iter().map(|name| of(&site, name)).collect();
    let running = || containers.iter().map(|container| process(container)).collect::<Vec<_>>();
    let w5 = of(&site, "w5");
    let before = (running(), process(&w5));
    site.kill();
    site.put_back(&copy);
    site.serve();

    let doctor = site.json(["doctor"]).to_string();
    assert!(doctor.contains("recovering"), "nothing says that the registry is older: {doctor}");
    for _ in 0..3 {
        let runs = site.sweep_all();
        assert_eq!(
            (running(), process(&w5)),
            before,
            "a sweep touched what the copy does not know: {runs:#}"
        );
    }
    assert_eq!(site.trash().len(), 0, "a sweep put something into the trash");
    let refused = site.ostler(["start", "w4"]);
    assert!(refused.code == 4 && refused.stderr.contains("ostler adopt w4"), "{refused:?}");
    let effective = site.json(["adopt", "--dry-run"]);
    let mut named: Vec<_> =
        effective["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
    named.sort_unstable();
    let differ = if newcomer { vec!["w3", "w4", "w5", "w6"] } else { vec!["w3", "w4", "w5"] };
    assert_eq!(named, differ, "{effective:#}");

    let adopted = site.json(["adopt", "w4"]);
    assert_eq!(adopted["recovering"], true, "{adopted}");
    assert_eq!(of(&site, "w4"), containers[2], "the older container was taken");
    let adopted = site.json(["adopt", "--all"]);
    assert_eq!(adopted["recovering"], false, "{adopted:#}");
    site.sweep_all();
    site.sweep_all();
    assert_eq!((running(), process(&w5)), before, "the end of the recovery touched something: {adopted:#}");
    for name in up {
        assert_eq!(site.show(name)["status"], "online", "{name}");
        assert!(
            site.live_instance_token_matches(name),
            "the agent of {name} holds a token that is not valid"
        );
    }
    for name in ["w3", "w5"] {
        assert_eq!(site.show(name)["status"], "paused", "{name}");
        site.ostler(["start", name]).well();
    }
}

#[test]
fn older_database_is_detected_and_no_container_is_changed() {
    older_copy_is_put_back(false);
}

#[test]
fn older_database_is_detected_when_workspace_was_created_since() {
    older_copy_is_put_back(true);
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
    let said = site.try_serve().expect_err("a copy was served with the log of another database");
    assert!(said.contains("ostler.db-wal does not belong to") && said.contains("ostler.db-shm"), "{said}");
    std::fs::rename(&log, site.directory().join("kept-wal")).unwrap();
    std::fs::remove_file(site.data_dir().join("ostler.db-shm")).unwrap();
    site.serve();
    assert_eq!(site.ostler(["show", "younger"]).code, 3, "the restore was undone");
    site.ostler(["show", "elder"]).well();
    assert!(site.json(["doctor"]).to_string().contains("recovering"));
    site.stop();
    let copied = tempfile::tempdir().unwrap();
    std::fs::copy(&database, copied.path().join("ostler.db")).unwrap();
    assert!(!log.exists(), "a stopped daemon left its log beside the database");
}

/// Its container is in the engine under the name of a trash entry that is in no database.
#[test]
fn removed_workspace_is_restored_by_name_after_registry_loss() {
    let mut site = Site::new(AT_ONCE);
    site.serve();
    site.create_all(&[("kept", None), ("gone", None)]);
    site.ostler(["rm", "gone"]).well();
    // A removal is accepted first and carried out later.
    until("it is in the trash", || site.trash().iter().any(|entry| entry["state"] == "kept").then_some(()));
    site.kill();
    site.lose_database();
    site.serve();

    let said = site.ostler(["ls"]).stderr;
    assert!(said.contains("recovering") && said.contains("ostler adopt"), "{said}");
    let unknown = |report: &Value| -> Option<Value> {
        report["checks"].as_array()?.iter().find(|check| check["name"] == "unknown").cloned()
    };
    let check = unknown(&site.json(["doctor"])).expect("the doctor shows what no row knows");
    let found = check["found"].as_str().unwrap();
    assert!(
        found.contains("kept") && found.contains("gone (in the trash, without a trash entry)"),
        "{check}"
    );

    site.json(["adopt", "--all"]);
    let check = unknown(&site.json(["doctor"])).expect("one is left");
    assert!(!check["found"].as_str().unwrap().contains("kept"), "{check}");
    until("what was removed is in the trash", || {
        site.sweep("reap_unknown");
        (!site.trash().is_empty()).then_some(())
    });
    assert_eq!(unknown(&site.json(["doctor"])), None, "the trash knows it now");
    let refused = site.ostler(["undelete", "gone"]);
    assert!(refused.stderr.contains("ostler trash restore"), "{refused:?}");
    site.ostler(["trash", "restore", "gone"]).well();
    assert_eq!(site.show("gone")["status"], "paused");
}
