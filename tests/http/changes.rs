//! Changes of the settings from which a container is created: which ones are accepted, when they take effect, and what
//! the response reports.

use ostler::engine::MountSource;
use serde_json::{Value, json};

use crate::support::{
    fake_engine::exposed,
    registry::{AgentClient, IMAGE, Registry},
    wire::{Answer, Ask},
};

async fn change(registry: &Registry, id: &str, body: Value) -> Answer {
    registry.order(Ask::new("PATCH", format!("/workspaces/{id}")).json(body)).await
}

/// Content of `config.yaml` in the config volume of a workspace.
async fn config(registry: &Registry, id: &str) -> String {
    let container = registry.row(id).await.container.unwrap();
    let state = registry.world.state();
    let mounts = &state.containers[&container].spec.mounts;
    let Some(MountSource::Volume(volume)) =
        mounts.iter().find(|mount| mount.target == "/configs").map(|mount| &mount.source)
    else {
        panic!("no config volume in {mounts:?}")
    };
    String::from_utf8(state.volumes[volume].files["config.yaml"].clone()).unwrap()
}

fn write_config(registry: &Registry, id: &str, text: &str) {
    let mut state = registry.world.state();
    let volume = format!("ostler-{id}-config");
    let volume = state.volumes.get_mut(&volume).expect("its config volume");
    volume.files.insert("config.yaml".to_owned(), text.as_bytes().to_vec());
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_env_and_command_take_effect_on_recreate() {
    let registry = Registry::start().await;
    let more = json!({ "env": { "KEEP": "1", "LEVEL": "info", "OLD": "x" }, "command": ["serve"] });
    let one = registry.online_with("one", more).await;
    let body =
        json!({ "env": { "LEVEL": "top-secret", "OLD": null, "NEW": "" }, "command": ["serve", "--all"] });
    let changed = change(&registry, &one.id, body).await;
    changed.is(200, r#"{"status":"updated","needs_restart":true,"needs_recreate":true}"#);

    let view = registry.show(&one.id).await;
    assert_eq!(view["drifted"], true, "{view}");
    let event = registry.event(&one.id, "WORKSPACE_UPDATED").await;
    assert_eq!(event["payload"]["env"], json!(["LEVEL", "NEW", "OLD"]), "{event}");
    assert_eq!(event["payload"]["command"], "changed", "{event}");
    assert!(!event.to_string().contains("top-secret"), "a value may be a secret: {event}");

    one.order("recreate").await.well();
    let row = registry.row(&one.id).await;
    let spec = registry.world.state().containers[&row.container.unwrap()].spec.clone();
    assert_eq!(spec.command, ["serve", "--all"]);
    let env = exposed(&spec.env);
    let values = ["KEEP", "LEVEL", "OLD", "NEW"].map(|key| env.get(key).map(String::as_str));
    assert_eq!(values, [Some("1"), Some("top-secret"), None, Some("")]);
    assert_eq!(registry.show(&one.id).await["drifted"], false);

    change(&registry, &one.id, json!({ "command": [] })).await.well();
    assert!(registry.row(&one.id).await.spec.command.is_empty(), "the image's own command applies");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_config_is_written_once_at_the_next_start() {
    let registry = Registry::start().await;
    let one = registry.online_with("one", json!({ "config": "first" })).await;
    write_config(&registry, &one.id, "of the agent");
    let changed = change(&registry, &one.id, json!({ "config": "second" })).await.well();
    assert_eq!((&changed["needs_restart"], changed.get("needs_recreate")), (&json!(true), None), "{changed}");
    assert!(changed["notes"].to_string().contains("overwrites the configuration file"), "{changed}");
    let view = registry.show(&one.id).await;
    assert_eq!((&view["config_pending"], &view["drifted"]), (&json!(true), &json!(false)), "{view}");
    assert_eq!(
        config(&registry, &one.id).await,
        "of the agent",
        "the file of a running workspace was overwritten"
    );

    one.order("restart").await.well();
    assert_eq!(config(&registry, &one.id).await, "second");
    assert!(registry.show(&one.id).await.get("config_pending").is_none());

    write_config(&registry, &one.id, "of the agent");
    one.order("restart").await.well();
    assert_eq!(config(&registry, &one.id).await, "of the agent", "the agent's change was overwritten");
}

#[tokio::test(flavor = "multi_thread")]
async fn change_is_refused_when_create_refuses_the_same_value() {
    let registry = Registry::start().await;
    let more = json!({ "workspace_dir": "/srv/one", "env": { "A": "1" } });
    let one = registry.online_with("one", more).await;
    let before = registry.row(&one.id).await.spec;
    for wrong in [
        json!({ "env": { "PLATFORM_URL": "http://127.0.0.1:9" } }),
        json!({ "env": { "WORKSPACE_ID": "x" } }),
        json!({ "env": { "A B": "x" } }),
        json!({ "env": { "": "x" } }),
        json!({ "env": { "A": "x\u{0}y" } }),
        json!({ "command": ["sh", "a\u{0}b"] }),
        json!({ "workspace_dir": "relative" }),
        json!({ "workspace_dir": "/srv/\u{0}" }),
        json!({ "workspace_dir": "/srv/two", "workspace_access": "none" }),
        json!({ "workspace_dir": "/srv/two", "tier": 1 }),
        json!({ "image": "two words" }),
    ] {
        let changed = change(&registry, &one.id, wrong.clone()).await;
        let mut create = json!({ "name": "two", "image": IMAGE });
        for (key, value) in wrong.as_object().unwrap() {
            create[key] = value.clone();
        }
        let created = registry.order(Ask::post("/workspaces").json(create)).await;
        assert_eq!((changed.status, created.status), (400, 400), "{wrong}: {changed:?} {created:?}");
        assert_eq!(changed.text(), created.text(), "{wrong}");
    }
    let sandbox = change(&registry, &one.id, json!({ "tier": 1 })).await;
    assert_eq!(sandbox.status, 400, "tier 1 mounts no work directory: {sandbox:?}");
    assert_eq!(registry.row(&one.id).await.spec, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_volume_and_host_directory_cannot_replace_each_other() {
    let registry = Registry::start().await;
    let of_volume = registry.online("volume").await;
    let of_directory = registry.online_with("directory", json!({ "workspace_dir": "/srv/one" })).await;
    for (one, wrong, why) in [
        (&of_volume, json!({ "workspace_dir": "/srv/two" }), "is a volume"),
        (&of_volume, json!({ "workspace_dir": "/srv/two", "tier": 3 }), "is a volume"),
        (&of_volume, json!({ "workspace_access": "read_only" }), "only a directory can be read-only"),
        (&of_directory, json!({ "workspace_dir": "" }), "is a directory"),
    ] {
        let refused = change(&registry, &one.id, wrong.clone()).await;
        assert!(refused.status == 409 && refused.text().contains(why), "{wrong}: {refused:?}");
    }
    let row = registry.row(&of_volume.id).await;
    assert!(row.spec.workspace_dir.is_none() && row.has_work_volume, "{row:?}");
    let nothing =
        change(&registry, &of_volume.id, json!({ "workspace_dir": "", "workspace_access": "none" }));
    nothing.await.is(200, r#"{"status":"updated"}"#);

    let body = json!({ "workspace_dir": "/srv/two", "workspace_access": "read_only" });
    change(&registry, &of_directory.id, body).await.well();
    let view = registry.show(&of_directory.id).await;
    assert_eq!(
        (&view["workspace_dir"], &view["workspace_access"]),
        (&json!("/srv/two"), &json!("read_only")),
        "{view}"
    );
    of_directory.order("recreate").await.well();
    let row = registry.row(&of_directory.id).await;
    let mounts = registry.world.state().containers[&row.container.unwrap()].spec.mounts.clone();
    let mount = mounts.iter().find(|mount| mount.target == "/workspace").unwrap();
    let bound = matches!(&mount.source, MountSource::HostDirectory(directory) if directory == "/srv/two");
    assert!(bound && mount.read_only, "{mount:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn external_workspace_refuses_container_settings() {
    let registry = Registry::start().await;
    let one = registry.external("one", json!({})).await;
    for wrong in [
        json!({ "env": { "A": "1" } }),
        json!({ "command": ["x"] }),
        json!({ "config": "x" }),
        json!({ "workspace_dir": "/srv/one" }),
        json!({ "image": IMAGE }),
    ] {
        let refused = change(&registry, &one.id, wrong.clone()).await;
        assert!(
            refused.status == 409 && refused.text().contains("set where its agent runs"),
            "{wrong}: {refused:?}"
        );
    }
    change(&registry, &one.id, json!({ "role": "digs" })).await.well();
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_changes_are_all_applied() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let changes = (0..20).map(|n| {
        let key = format!("KEY_{n}");
        change(&registry, &one.id, json!({ "env": { key: "1" } }))
    });
    for changed in futures_util::future::join_all(changes).await {
        changed.well();
    }
    assert_eq!(registry.row(&one.id).await.spec.env.len(), 20, "a change was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_of_an_unknown_variable_is_noted() {
    let registry = Registry::start().await;
    let one = registry.online_with("one", json!({ "env": { "LEVEL": "1" } })).await;
    let changed = change(&registry, &one.id, json!({ "env": { "LEVLE": null } })).await.well();
    assert_eq!(changed["notes"], json!(["the workspace's environment had no variable LEVLE"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_workspace_cannot_be_changed() {
    let registry = Registry::start().await;
    let one: AgentClient<'_> = registry.online("one").await;
    registry.order(Ask::new("DELETE", format!("/workspaces/{}", one.id))).await.well();
    let refused = change(&registry, &one.id, json!({ "env": { "A": "1" }, "config": "x" })).await;
    assert!(matches!(refused.status, 404 | 410), "{refused:?}");
    let row = registry.row(&one.id).await;
    assert!(row.spec.env.is_empty() && !row.config_pending, "{row:?}");
}
