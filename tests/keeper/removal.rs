//! Removed workspaces are moved to the trash and can be restored completely.

use serde_json::Value;

use crate::support::{
    daemon::{Site, until},
    engine_proxy::{EngineProxy, Fault, Rule},
    podman::{has_volume, inspected, podman_output},
};

fn until_kept(site: &Site, entries: usize) {
    until("all removed workspaces are in the trash", || {
        let trash = site.trash();
        (trash.len() == entries && trash.iter().all(|entry| entry["state"] == "kept")).then_some(())
    });
}

#[test]
fn undelete_restores_container_with_its_files_and_volumes() {
    let mut site = Site::new("");
    site.serve();
    let made = site.create("keeper", &[]);
    let container = made["container_id"].as_str().unwrap().to_owned();
    site.ostler(["exec", "keeper", "--", "sh", "-c", "echo own > /tmp/own; echo work > /workspace/work"])
        .well();

    site.ostler(["rm", "keeper"]).well();
    until_kept(&site, 1);
    assert!(
        podman_output(["ps", "-q", "--no-trunc"]).lines().all(|id| id != container),
        "the container of a removed workspace still runs"
    );

    site.ostler(["undelete", "keeper"]).well();
    assert_eq!(site.show("keeper")["status"], "paused");
    site.ostler(["start", "keeper"]).well();
    let back = site.show("keeper");
    assert_eq!(back["container_id"], container.as_str(), "the container was replaced");
    let read = site.ostler(["exec", "keeper", "--", "cat", "/tmp/own", "/workspace/work"]).well();
    assert_eq!(read, "own\nwork\n");
    assert_eq!(site.trash().len(), 0, "the restored workspace is still in the trash");
}

#[test]
fn container_is_moved_to_trash_only_after_its_stop_succeeds() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), "");
    site.serve();
    let made = site.create("stubborn", &[]);
    let container = made["container_id"].as_str().unwrap();
    let name = inspected(container, "{{.Name}}").unwrap();
    let refused = Fault::Status(500, "the engine is degraded".into());
    // Neither the stop nor the kill succeeds.
    proxy.set_rules([
        Rule::when(|request| request.path.ends_with("/stop"), refused.clone()),
        Rule::when(|request| request.path.ends_with("/kill"), refused),
    ]);

    site.ostler(["rm", "stubborn"]).well();
    until("a stop has failed", || (proxy.count("POST", "/stop") > 0).then_some(()));
    let run = site.sweep("reap_removed");
    assert_eq!(inspected(container, "{{.State.Status}} {{.Name}}").unwrap(), format!("running {name}"));
    assert!(
        site.trash().iter().all(|entry| entry["state"] == "claimed"),
        "the entry is complete while the container runs: {run}"
    );

    proxy.set_rules([]);
    let run = site.sweep_until("reap_removed", |_| site.trash().iter().any(|entry| entry["state"] == "kept"));
    let trash = site.trash();
    assert_eq!(trash.len(), 1, "{run}");
    let renamed = format!("exited ostler-trash-{}", trash[0]["id"].as_str().unwrap());
    assert_eq!(inspected(container, "{{.State.Status}} {{.Name}}").unwrap(), renamed);
}

#[test]
fn removal_can_be_undone_while_container_cannot_be_stopped() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), "");
    site.serve();
    let made = site.create("stubborn", &[]);
    let container = made["container_id"].as_str().unwrap();
    proxy.set_rules([Rule::on("POST", "/stop", Fault::DropBefore)]);
    site.ostler(["rm", "stubborn"]).well();
    until("a stop has failed", || {
        let output = site.ostler(["events", "--json"]).stdout;
        (proxy.count("POST", "/stop") > 0 && output.contains("CONTAINER_REAPED")).then_some(())
    });

    site.ostler(["undelete", "stubborn"]).well();
    proxy.set_rules([]);
    site.sweep_until("settle", |_| inspected(container, "{{.State.Status}}").unwrap() == "exited");
    assert_eq!(site.show("stubborn")["status"], "paused");
    site.ostler(["start", "stubborn"]).well();
    assert_eq!(site.show("stubborn")["container_id"], container);
}

#[test]
fn rm_requires_cascade_for_children_and_undelete_restores_all() {
    let mut site = Site::new("");
    site.serve();
    site.create_all(&[("top", None), ("middle", Some("top")), ("bottom", Some("middle"))]);

    let refused = site.ostler(["rm", "top"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.stderr.contains("middle") && refused.stderr.contains("--cascade"), "{refused:?}");
    for name in ["top", "middle", "bottom"] {
        assert_eq!(site.show(name)["status"], "online", "a refused removal changed {name}");
    }

    site.ostler(["rm", "--cascade", "top"]).well();
    assert_eq!(
        site.json(["trash", "ls"]).as_array().unwrap().len(),
        3,
        "the trash does not list the removed workspaces"
    );
    until_kept(&site, 3);
    assert_eq!(site.json(["ls"]), Value::Array(Vec::new()));
    assert_eq!(
        site.sweep_all().to_string().matches("applied").count(),
        0,
        "a removal left actions for the sweeps"
    );

    // In the README's command list, `undelete` follows `rm --cascade`, and later commands use the restored workspaces.
    let back = site.ostler(["undelete", "top"]);
    assert!(back.code == 0 && back.stdout.contains("middle") && back.stdout.contains("bottom"), "{back:?}");
    assert_eq!(site.show("bottom")["parent_id"], site.show("middle")["id"], "the parent was not restored");
    assert_eq!(
        site.json(["trash", "ls"]),
        Value::Array(Vec::new()),
        "a workspace of the tree is still in the trash"
    );
    site.ostler(["start", "top"]).well();
    for name in ["top", "middle", "bottom"] {
        until(&format!("{name}, which ran before the removal, is online"), || {
            (site.show(name)["status"] == "online").then_some(())
        });
    }
}

#[test]
fn undelete_requires_new_name_when_name_is_taken() {
    let mut site = Site::new("");
    site.serve();
    let first = site.create("worker", &[]);
    site.ostler(["rm", "worker"]).well();
    until_kept(&site, 1);
    site.create("worker", &[]);

    let refused = site.ostler(["undelete", "worker"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.stderr.contains("--name"), "{refused:?}");
    site.ostler(["undelete", "worker", "--name", "old worker"]).well();
    site.ostler(["start", "old worker"]).well();
    assert_eq!(site.show("old worker")["id"], first["id"]);
    assert_eq!(site.show("worker")["status"], "online");
}

#[test]
fn trash_empty_deletes_only_container_and_volumes_of_named_entry() {
    let mut site = Site::new("");
    site.serve();
    site.create_all(&[("gone", None), ("kept", None), ("purged", None)]);
    let contents = |name: &str| {
        let row = site.show(name);
        let id = row["id"].as_str().unwrap();
        let volumes = [format!("ostler-{id}-config"), format!("ostler-{id}-work")];
        (row["container_id"].as_str().unwrap().to_owned(), volumes)
    };
    let existing = |(container, volumes): &(String, [String; 2])| {
        let found = inspected(container, "{{.Id}}").is_some();
        volumes.iter().map(|volume| has_volume(volume)).chain([found]).collect::<Vec<_>>()
    };
    let (gone, kept, purged) = (contents("gone"), contents("kept"), contents("purged"));

    site.ostler(["rm", "--purge", "purged"]).well();
    until("the purged workspace is deleted", || (existing(&purged) == [false; 3]).then_some(()));
    site.ostler(["rm", "gone"]).well();
    site.ostler(["rm", "kept"]).well();
    until_kept(&site, 2);
    assert_eq!(existing(&gone), [true; 3], "a removal deleted an object");
    assert_ne!(site.ostler(["trash", "empty", "no-such-entry", "--yes"]).code, 0);

    site.ostler(["trash", "empty", "gone", "--yes"]).well();
    assert_eq!(existing(&gone), [false; 3]);
    assert_eq!(existing(&kept), [true; 3], "an entry that was not named was deleted");
    let refused = site.ostler(["undelete", "gone"]);
    assert_eq!(refused.code, 4, "a permanently deleted workspace was restored: {refused:?}");
    site.ostler(["undelete", "kept"]).well();
    site.ostler(["start", "kept"]).well();
}
