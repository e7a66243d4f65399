//! Operator commands: stop, hibernate, start, remove, restore, delete, tokens.

use std::fs;

use rusqlite::OpenFlags;
use serde_json::Value;

use super::{SCENARIO, Scenario, Stage, daemon_dies};
use crate::support::{
    daemon::until,
    hasty::{creation, make},
    podman::{Cleanup, directory_of, image, podman_output},
    truth::containers,
};

fn status_of(stage: &Stage, name: &str) -> String {
    let shown = stage.order(&["show", name, "--json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
    shown["status"].as_str().unwrap_or_default().to_owned()
}

/// Numbers of the open operations, newest first; empty if the daemon is dead.
fn open_operations(stage: &Stage) -> Vec<String> {
    let open = stage.order(&["operations", "ls", "--open", "--json"]);
    let open: Vec<Value> = serde_json::from_str(&open.stdout).unwrap_or_default();
    open.iter().map(|operation| operation["id"].to_string()).collect()
}

fn container_of(stage: &Stage, name: &str) -> String {
    stage.site.show(name)["container_id"].as_str().expect("it has a container").to_owned()
}

/// Sets up a stopped workspace that has a container; `kept` holds its id.
fn set_stopped(stage: &mut Stage) {
    stage.site.serve();
    stage.kept = make(&stage.site, "w");
    stage.site.ostler(["stop", "w"]).well();
}

fn set_started(stage: &mut Stage) {
    stage.site.serve();
    make(&stage.site, "w");
}

/// Removes `w`, if it is not removed yet, and waits until all of it is in the trash.
fn remove(stage: &mut Stage) {
    if status_of(stage, "w") != "removed" {
        stage.site.ostler(["rm", "w"]).well();
    }
    until_kept(stage);
}

fn until_kept(stage: &Stage) {
    until("everything is in the trash", || {
        let trash = stage.site.trash();
        (!trash.is_empty() && trash.iter().all(|entry| entry["state"] == "kept")).then_some(())
    });
}

/// Creates a workspace, waits for its container and removes it; returns its id.
fn make_rubbish(stage: &mut Stage) -> String {
    let name = stage.named("rubbish");
    stage.site.ostler(creation(&name, &["--no-wait"])).well();
    let id = until("it has a container", || {
        let row = stage.site.show(&name);
        row["container_id"].is_string().then(|| row["id"].as_str().expect("an id").to_owned())
    });
    stage.site.ostler(["rm", &name]).well();
    until_kept(stage);
    id
}

fn empty_trash(stage: &mut Stage, point: &str) {
    until(&format!("killed {point}, the trash is emptied"), || {
        stage.order(&["trash", "empty", "--yes"]);
        stage.site.trash().is_empty().then_some(())
    });
    let left = containers(&stage.site.instance());
    assert!(left.is_empty(), "killed {point}, containers are left: {left:?}");
}

fn foreign_name(stage: &Stage) -> String {
    format!("ostler-crash-points-{}-{}", stage.site.instance(), stage.round)
}

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "a workspace is stopped",
        steps: &["pause workspace"],
        set: set_started,
        prepare: |stage| drop(stage.site.ostler(["start", "w"]).well()),
        act: |stage| drop(stage.order(&["stop", "w"])),
        check: |stage, point| {
            let wanted = if point.starts_with("before") { "online" } else { "paused" };
            assert_eq!(status_of(stage, "w"), wanted, "killed {point}");
        },
        ..SCENARIO
    },
    Scenario {
        name: "an operation starts a stopped workspace",
        steps: &["accept operation", "end operation"],
        set: set_stopped,
        prepare: |stage| drop(stage.site.ostler(["stop", "w"]).well()),
        act: |stage| drop(stage.order(&["start", "w"])),
        check: |stage, point| {
            let wanted = if point == "before accept operation" { "paused" } else { "online" };
            assert_eq!(status_of(stage, "w"), wanted, "killed {point}");
            assert_eq!(open_operations(stage), [] as [String; 0], "killed {point}");
        },
        ..SCENARIO
    },
    Scenario {
        name: "an operation waits for Podman, and another one behind it is cancelled",
        steps: &["park operation", "cancel operation", "continue operation"],
        set: set_stopped,
        prepare: |stage| drop(stage.site.ostler(["stop", "w"]).well()),
        act: |stage| {
            stage.proxy.refuse();
            stage.order(&["start", "w"]);
            stage.order(&["recreate", "w", "--no-wait"]);
            if let Some(newest) = open_operations(stage).first() {
                stage.order(&["operations", "cancel", newest]);
            }
            stage.proxy.listen();
            stage.repeat(&["sweep", "run", "check_containers"]);
        },
        mend: |stage| stage.proxy.listen(),
        check: |stage, point| {
            assert_eq!(status_of(stage, "w"), "online", "killed {point}");
            assert_eq!(open_operations(stage), [] as [String; 0], "killed {point}");
        },
        ..SCENARIO
    },
    Scenario {
        name: "a workspace is hibernated",
        steps: &["begin hibernation"],
        set: set_started,
        prepare: |stage| {
            stage.order(&["wake", "w"]);
            stage.site.until_status("w", "online");
        },
        act: |stage| drop(stage.order(&["hibernate", "w"])),
        check: |stage, point| {
            let wanted = if point.starts_with("before") { "online" } else { "hibernated" };
            assert_eq!(status_of(stage, "w"), wanted, "killed {point}");
        },
        ..SCENARIO
    },
    Scenario {
        name: "a workspace starts after the loss of its volumes' directories",
        steps: &["start: repair its configuration volume", "start: create an empty work volume"],
        set: set_stopped,
        prepare: |stage| drop(stage.site.ostler(["stop", "w"]).well()),
        meanwhile: |stage| {
            for kind in ["config", "work"] {
                fs::remove_dir_all(directory_of(&format!("ostler-{}-{kind}", stage.kept)))
                    .expect("the directory is deleted");
            }
        },
        act: |stage| drop(stage.order(&["start", "w", "--new-volume"])),
        then: |stage| drop(stage.site.ostler(["start", "w", "--new-volume"]).well()),
        ..SCENARIO
    },
    Scenario {
        name: "a workspace starts with a container that has a trash name",
        steps: &["start: restore the container name"],
        set: set_stopped,
        prepare: |stage| drop(stage.site.ostler(["stop", "w"]).well()),
        meanwhile: |stage| {
            let all = containers(&stage.site.instance());
            podman_output(["rename", &all[0].id, &format!("ostler-trash-{}", stage.kept)]);
        },
        act: |stage| drop(stage.order(&["start", "w"])),
        then: |stage| drop(stage.site.ostler(["start", "w"]).well()),
        ..SCENARIO
    },
    Scenario {
        name: "a workspace is removed",
        steps: &["remove workspace", "claim for trash", "move to trash: rename a container", "mark in trash"],
        set: set_stopped,
        prepare: |stage| {
            stage.order(&["undelete", "w"]);
            stage.site.until_status("w", "paused");
        },
        act: |stage| drop(stage.order(&["rm", "w"])),
        check: |stage, point| {
            let removed = stage.site.trash().len() == 1;
            assert_eq!(removed, point != "before remove workspace", "killed {point}");
        },
        ..SCENARIO
    },
    Scenario {
        name: "a removed workspace is restored",
        steps: &["undelete workspace", "restore: rename a container", "finish restore"],
        set: set_stopped,
        prepare: remove,
        act: |stage| drop(stage.order(&["undelete", "w"])),
        check: |stage, point| {
            let wanted = if point == "before undelete workspace" { "removed" } else { "paused" };
            assert_eq!(status_of(stage, "w"), wanted, "killed {point}");
        },
        ..SCENARIO
    },
    Scenario {
        name: "a container is deleted while it is moved to the trash",
        steps: &["drop from trash"],
        prepare: |stage| {
            let name = stage.named("rubbish");
            make(&stage.site, &name);
            let container = container_of(stage, &name);
            stage.site.stop();
            daemon_dies(stage, "after claim for trash", |stage| drop(stage.order(&["rm", &name])));
            podman_output(["rm", "--force", "--time=0", &container]);
        },
        check: empty_trash,
        ..SCENARIO
    },
    Scenario {
        name: "the trash is emptied",
        steps: &[
            "begin delete",
            "delete: delete a container",
            "delete: delete a volume",
            "2nd delete: delete a volume",
            "finish delete",
        ],
        prepare: |stage| drop(make_rubbish(stage)),
        act: |stage| stage.repeat(&["trash", "empty", "--yes"]),
        check: empty_trash,
        ..SCENARIO
    },
    Scenario {
        name: "a workspace is purged",
        steps: &["finish purge"],
        prepare: |stage| drop(make(&stage.site, &stage.named("rubbish"))),
        act: |stage| stage.repeat(&["rm", &stage.named("rubbish"), "--purge"]),
        check: |stage, point| {
            until(&format!("killed {point}, the purge is carried out"), || {
                stage.site.sweep("empty_trash");
                let database = stage.site.database(OpenFlags::SQLITE_OPEN_READ_ONLY);
                let query = "SELECT purged_at IS NOT NULL FROM workspaces WHERE name = ?1";
                let done = database.query_row(query, [stage.named("rubbish")], |row| row.get::<_, bool>(0));
                done.expect("the row is there").then_some(())
            });
            empty_trash(stage, point);
        },
        ..SCENARIO
    },
    Scenario {
        name: "the trash is emptied while a foreign container uses a volume in it",
        steps: &["cancel transition"],
        prepare: |stage| {
            let mount = format!("--volume=ostler-{}-work:/held", make_rubbish(stage));
            let name = foreign_name(stage);
            let label = format!("ostler-crash-points={name}");
            stage.cleanups.insert(0, Cleanup::of_label(&label));
            podman_output(["create", "--name", &name, "--label", &label, &mount, image(), "true"]);
        },
        act: |stage| stage.repeat(&["trash", "empty", "--yes"]),
        check: |stage, point| {
            podman_output(["rm", "--force", "--time=0", &foreign_name(stage)]);
            empty_trash(stage, point);
        },
        ..SCENARIO
    },
    Scenario {
        name: "a row is changed, and tokens are issued and revoked",
        steps: &[
            "patch workspace",
            "issue api token",
            "revoke token",
            "issue admin token",
            "revoke admin token",
        ],
        set: |stage| {
            stage.site.serve();
            stage.site.ostler(["create", "phone", "--external"]).well();
            // Revokes the token that the creation issued.
            for id in tokens_of(stage, "phone") {
                stage.site.ostler(["token", "revoke", "phone", &id]).well();
            }
        },
        act: |stage| {
            stage.order(&["set", "phone", "--role", &stage.named("role")]);
            stage.order(&["token", "issue", "phone"]);
            for id in tokens_of(stage, "phone") {
                stage.order(&["token", "revoke", "phone", &id]);
            }
            stage.order(&["token", "issue", "--admin", "operator"]);
            for id in tokens_of(stage, "--admin") {
                stage.order(&["token", "revoke", "--admin", &id]);
            }
        },
        check: |stage, point| {
            let changed = stage.site.show("phone")["role"] == stage.named("role").as_str();
            assert_eq!(changed, point != "before patch workspace", "killed {point}");
            let left = [tokens_of(stage, "phone"), tokens_of(stage, "--admin")];
            let there = |steps: [&str; 2]| usize::from(steps.contains(&point));
            let wanted = [
                there(["after issue api token", "before revoke token"]),
                there(["after issue admin token", "before revoke admin token"]),
            ];
            assert_eq!(
                [left[0].len(), left[1].len()],
                wanted,
                "killed {point}, wrong numbers of tokens of the workspace and of admins"
            );
            for (owner, ids) in ["phone", "--admin"].iter().zip(left) {
                for id in ids {
                    stage.site.ostler(["token", "revoke", owner, &id]).well();
                }
            }
        },
        ..SCENARIO
    },
];

/// Ids of a workspace's tokens, or of the admin tokens.
fn tokens_of(stage: &Stage, owner: &str) -> Vec<String> {
    let listed = stage.order(&["token", "ls", owner, "--json"]).stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap_or_default();
    let rows = listed["tokens"].as_array().or_else(|| listed.as_array()).cloned().unwrap_or_default();
    rows.iter().filter_map(|row| Some(row["id"].as_str()?.to_owned())).collect()
}
