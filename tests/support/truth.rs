//! Checks ostler's state against Podman.

use std::{collections::BTreeMap, process::Stdio};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    daemon::{Site, until},
    podman::{podman, podman_output},
};

/// A container as Podman reports it.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) workspace: String,
    pub(crate) runs: bool,
}

/// Containers with a site's label.
pub(crate) fn containers(instance: &str) -> Vec<Container> {
    let filter = format!("label=ostler.instance={instance}");
    let listed = podman_output(["ps", "--all", "--no-trunc", "--format", "json", "--filter", &filter]);
    let listed: Vec<Value> = serde_json::from_str(&listed).expect("podman ps prints JSON");
    listed
        .iter()
        .map(|container| Container {
            id: text(&container["Id"]),
            name: text(&container["Names"][0]),
            workspace: text(&container["Labels"]["ostler.workspace"]),
            runs: container["State"] == "running",
        })
        .collect()
}

/// Volumes with a site's label.
pub(crate) fn volumes(instance: &str) -> Vec<String> {
    let filter = format!("label=ostler.instance={instance}");
    let listed = podman_output(["volume", "ls", "--quiet", "--filter", &filter]);
    listed.lines().map(str::to_owned).collect()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(site: &Site, arguments: &[&str]) -> Vec<Value> {
    site.json(arguments.iter().copied()).as_array().cloned().unwrap_or_default()
}

/// Digests of a workspace's live instance tokens.
pub(crate) fn live_digests(site: &Site, workspace: &str) -> Vec<Vec<u8>> {
    let path = site.data_dir().join("ostler.db");
    let sql =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the database opens");
    let id = uuid::Uuid::parse_str(workspace).expect("an id");
    let mut query = sql
        .prepare(
            "SELECT digest FROM tokens WHERE kind = 'instance' AND revoked_at IS NULL
               AND workspace = (SELECT key FROM workspaces WHERE id = ?1)",
        )
        .expect("the query matches the schema");
    let digests = query.query_map([id.as_bytes()], |row| row.get(0)).expect("the query runs");
    digests.collect::<Result<_, _>>().expect("digests are bytes")
}

/// The token in the token file of a running container, and the token with which its process was started.
fn tokens_of(container: &str) -> Option<(String, String)> {
    const TOKEN_CHARS: usize = 43;
    let read = ["exec", container, "cat", "/configs/.auth_token", "/tmp/held"];
    let read = podman().args(read).stdin(Stdio::null()).output().expect("podman runs");
    let both = String::from_utf8(read.stdout).ok().filter(|both| both.len() == 2 * TOKEN_CHARS)?;
    let (file, process) = both.split_at(TOKEN_CHARS);
    Some((file.to_owned(), process.to_owned()))
}

/// Fails unless the token file, the process and the store have the same single live token.
#[track_caller]
pub(crate) fn assert_one_token(site: &Site, workspace: &str, container: &str) {
    // A process that has just started may not have saved its token yet.
    let (file, process) = until("the process has saved its token", || tokens_of(container));
    let live = live_digests(site, workspace);
    assert_eq!(live.len(), 1, "a running workspace does not have exactly one live instance token");
    assert!(file == process, "the process was started with another token than the one in the file");
    assert_eq!(Sha256::digest(&file)[..], live[0], "the store does not accept the token in the file");
}

/// Runs passes, all if none is named, and returns the result of each, including failures.
pub(crate) fn sweep(site: &Site, passes: &[&str]) -> Value {
    let output = site.ostler(["sweep", "run", "--json"].into_iter().chain(passes.iter().copied()));
    serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("no runs: {output:?}"))
}

/// Runs every pass until no pass has work left.
#[track_caller]
pub(crate) fn converge(site: &Site) {
    let mut quiet = 0;
    let mut last = Value::Null;
    let converged = std::panic::AssertUnwindSafe(|| {
        until("the sweeps have no work left", || {
            last = sweep(site, &[]);
            let runs = last.as_array().cloned().unwrap_or_default();
            let is_empty = |run: &Value, key: &str| run[key].as_array().is_none_or(Vec::is_empty);
            let done = runs
                .iter()
                .all(|run| run["outcome"] == "done" && is_empty(run, "actions") && is_empty(run, "watching"));
            let rows = list(site, &["ls"]);
            // An offline workspace with a scheduled restart is not at rest, even if no pass has work right now.
            let due = |row: &Value| row["status"] == "offline" && !row["restart_due_at"].is_null();
            let settled = rows
                .iter()
                .all(|row| row["status"] != "provisioning" && row["operation"].is_null() && !due(row));
            quiet = if done && settled { quiet + 1 } else { 0 };
            if quiet == 0 {
                // Readiness and graces take seconds, and other tests run in parallel.
                std::thread::sleep(std::time::Duration::from_millis(400));
            }
            // Some actions need two snapshots.
            (quiet == 2).then_some(())
        });
    });
    if let Err(panic) = std::panic::catch_unwind(converged) {
        eprintln!("the last sweeps: {last:#}\nthe rows: {:#?}", list(site, &["ls"]));
        std::panic::resume_unwind(panic);
    }
}

/// Fails unless every row agrees with Podman, and every object in Podman has an owner.
#[track_caller]
pub(crate) fn assert_truthful(site: &Site) {
    let instance = site.instance();
    let (containers, volumes) = (containers(&instance), volumes(&instance));
    let trash = list(site, &["trash", "ls"]);
    let live = list(site, &["ls"]);
    let live: BTreeMap<_, _> = live.iter().map(|row| (text(&row["id"]), row)).collect();
    for entry in &trash {
        assert_eq!(entry["state"], "kept", "a trash entry is not complete: {entry:#}");
    }
    for container in &containers {
        if let Some(entry) = container.name.strip_prefix("ostler-trash-") {
            assert!(!container.runs, "a container in the trash is running: {container:?}");
            assert!(trash.iter().any(|known| known["id"] == entry), "no trash entry for {container:?}");
        } else {
            let Some(row) = live.get(&container.workspace) else {
                panic!("no live row has this container, and it is not in the trash: {container:?}")
            };
            assert_eq!(
                text(&row["container_id"]),
                container.id,
                "a container is not the one of its row: {row:#}"
            );
        }
    }
    // External workspaces have no container and no volumes in this engine.
    for (id, row) in live.iter().filter(|(_, row)| row["external"] != true) {
        assert_row_is_true(site, id, row, &containers);
        for kind in ["config", "work"] {
            let volume = format!("ostler-{id}-{kind}");
            assert!(volumes.contains(&volume), "the volume {volume} of a live workspace is missing: {row:#}");
        }
    }
    for volume in volumes.iter().filter(|volume| **volume != format!("ostler-{instance}")) {
        let of_live = live.keys().any(|id| volume.contains(id.as_str()));
        let in_trash = trash.iter().any(|entry| {
            entry["volumes"].as_array().is_some_and(|held| held.iter().any(|held| held == volume.as_str()))
        });
        assert!(
            of_live != in_trash,
            "{volume}: belongs to a live row: {of_live}, is in the trash: {in_trash}"
        );
    }
}

#[track_caller]
fn assert_row_is_true(site: &Site, id: &str, row: &Value, containers: &[Container]) {
    let runs = containers.iter().find(|container| container.workspace == id && container.runs);
    match row["status"].as_str() {
        Some("online") => assert!(runs.is_some(), "status online, but no container runs: {row:#}"),
        Some("paused" | "offline" | "failed" | "hibernated") => {
            assert!(runs.is_none(), "status {}, but its container runs: {row:#}", row["status"]);
        }
        other => panic!("unexpected status {other:?} after convergence: {row:#}"),
    }
    if let Some(container) = runs {
        assert_one_token(site, id, &container.id);
    }
}
