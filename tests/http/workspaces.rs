//! Workspaces in the HTTP API (§5): create, show, patch, remove, pause, hibernate.

use serde_json::{Value, json};

use crate::support::{
    registry::{IMAGE, Registry, until},
    wire::{Ask, keys_of},
};

/// Keys that the protocol requires in a workspace's JSON. ostler returns more keys.
const SHOWN: [&str; 17] = [
    "id",
    "name",
    "role",
    "tier",
    "status",
    "url",
    "parent_id",
    "active_tasks",
    "max_concurrent_tasks",
    "last_error_rate",
    "last_sample_error",
    "uptime_seconds",
    "current_task",
    "runtime",
    "agent_card",
    "last_heartbeat_at",
    "monthly_spend",
];

fn delete(id: &str) -> Ask {
    Ask::new("DELETE", format!("/workspaces/{id}"))
}

fn patch(id: &str, body: Value) -> Ask {
    Ask::new("PATCH", format!("/workspaces/{id}")).json(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn container_workspace_is_provisioning_after_create() {
    let registry = Registry::start().await;
    let options = json!({
        "name": "one", "role": "digs", "runtime": "agent", "image": IMAGE, "tier": 3, "env": { "A": "b" },
        "config": "name: one\n", "hibernation_idle_minutes": 30, "max_concurrent_tasks": 4,
    });
    let made = registry
        .order(Ask::post("/workspaces").json(options))
        .await
        .has(201, &["id", "name", "status", "operation_id"]);
    assert_eq!((&made["name"], &made["status"]), (&json!("one"), &json!("provisioning")));
    let id = made["id"].as_str().unwrap();
    assert_eq!(id, id.to_lowercase());
    let view = registry.show(id).await;
    for (field, value) in [
        ("role", json!("digs")),
        ("tier", json!(3)),
        ("runtime", json!("agent")),
        ("hibernation_idle_minutes", json!(30)),
        ("max_concurrent_tasks", json!(4)),
    ] {
        assert_eq!(view[field], value, "{field} of {view}");
    }
    let event = registry.event(id, "WORKSPACE_PROVISIONING").await;
    for key in ["name", "tier", "runtime"] {
        assert!(event["payload"].get(key).is_some(), "{key} of {event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn external_create_without_url_awaits_agent_and_returns_connection() {
    let registry = Registry::start().await;
    let options = json!({ "name": "one", "runtime": "external" });
    let made = registry.order(Ask::post("/workspaces").json(options)).await;
    let made = made.has(201, &["id", "name", "status", "external", "connection"]);
    assert_eq!((&made["status"], &made["external"]), (&json!("awaiting_agent"), &json!(true)));
    let connection = &made["connection"];
    let keys = ["auth_token", "heartbeat_endpoint", "platform_url", "registry_endpoint", "workspace_id"];
    assert_eq!(keys_of(connection), keys);
    assert_eq!(connection["workspace_id"], made["id"]);
    assert_eq!(connection["auth_token"].as_str().unwrap().len(), 43);
    let platform = connection["platform_url"].as_str().unwrap();
    assert_eq!(connection["registry_endpoint"], format!("{platform}/registry/register"));
    assert_eq!(connection["heartbeat_endpoint"], format!("{platform}/registry/heartbeat"));
    assert_eq!(platform, format!("http://{}", registry.address));
    registry.event(made["id"].as_str().unwrap(), "WORKSPACE_AWAITING_AGENT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn external_workspace_with_a_url_is_online_after_create() {
    let registry = Registry::start().await;
    let options = json!({ "external": true, "url": "http://127.0.0.1:9" });
    let made = registry.create("one", options).await;
    assert_eq!((&made["status"], &made["external"]), (&json!("online"), &json!(true)), "{made}");
    assert_eq!(registry.show(made["id"].as_str().unwrap()).await["url"], "http://127.0.0.1:9");
    let refused = json!({ "name": "two", "external": true, "url": "http://169.254.169.254/" });
    assert_eq!(registry.order(Ask::post("/workspaces").json(refused)).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_create_is_refused_with_its_reason() {
    let registry = Registry::start().await;
    registry.external("taken", json!({})).await;
    for (options, status, named) in [
        (json!({ "name": "x", "external": true, "nmae": "y" }), 400, "nmae"),
        (json!({ "name": "", "external": true }), 400, "name"),
        (json!({ "name": "../x", "external": true }), 400, "name"),
        (json!({ "name": "x", "external": true, "tier": 9 }), 400, "tier"),
        (json!({ "name": "x", "runtime": "imaginary" }), 400, "imaginary"),
        (json!({ "name": "x", "image": "a b" }), 400, "image"),
        (json!({ "name": "x", "url": "http://127.0.0.1:9", "image": IMAGE }), 400, "url"),
        (json!({ "name": "x", "external": true, "parent_id": "missing" }), 404, "parent"),
        (json!({ "name": "taken", "external": true }), 409, "taken"),
        (json!("x"), 400, "invalid request body"),
    ] {
        let answer = registry.order(Ask::post("/workspaces").json(options.clone())).await;
        assert_eq!(answer.status, status, "{options}: {answer:?}");
        let error = answer.json();
        assert_eq!(keys_of(&error), ["error"], "{answer:?}");
        assert!(error["error"].as_str().unwrap().contains(named), "{options}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workspace_list_is_oldest_first_without_removed_ones() {
    let registry = Registry::start().await;
    registry.order(Ask::get("/workspaces")).await.is(200, "[]");
    let one = registry.online("one").await;
    let two = registry.external("two", json!({})).await;
    let three = registry.external("three", json!({ "parent_id": one.id })).await;
    registry.order(delete(&two.id)).await.well();
    let listed = registry.order(Ask::get("/workspaces")).await.well();
    let ids: Vec<_> = listed.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [one.id.as_str(), three.id.as_str()]);
    for row in listed.as_array().unwrap() {
        for key in SHOWN {
            assert!(row.get(key).is_some(), "{key} is missing in {row}");
        }
    }
    assert_eq!(listed[0]["agent_card"], json!(null));
    let at = listed[0]["last_heartbeat_at"].as_str().unwrap();
    assert!(at.ends_with('Z') && at.contains('T'), "RFC 3339: {at}");
    assert_eq!(listed[1]["parent_id"], json!(one.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn private_fields_of_a_workspace_are_hidden_from_peers() {
    let registry = Registry::start().await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    let report =
        json!({ "current_task": "secret", "sample_error": "oops", "error_rate": 0.2, "uptime_seconds": 1 });
    one.heartbeat(report).await.well();
    let path = || Ask::get(format!("/workspaces/{}", one.id));
    let by_itself = one.ask(path()).await.well();
    assert_eq!(
        (&by_itself["current_task"], &by_itself["last_sample_error"]),
        (&json!("secret"), &json!("oops"))
    );
    let by_other = other.ask(path()).await;
    assert!(!by_other.text().contains("secret") && !by_other.text().contains("oops"), "{by_other:?}");
    let view = by_other.well();
    assert!(view.get("current_task").is_none() && view.get("last_sample_error").is_none(), "{view}");
    assert_eq!((&view["id"], &view["name"]), (&json!(one.id), &json!("one")));
    for hidden in ["host_port", "container_id", "image", "status_detail"] {
        assert!(view.get(hidden).is_none_or(serde_json::Value::is_null), "{hidden}: {view}");
    }

    let child = registry.online_below("child", &one).await;
    let other_child = registry.online_below("other child", &other).await;
    assert_eq!(child.ask(path()).await.well()["name"], "one");
    let cousin = child.ask(Ask::get(format!("/workspaces/{}", other_child.id))).await;
    cousin.refuses(403, "not authorized to see this workspace");
}

#[tokio::test(flavor = "multi_thread")]
async fn show_answers_404_if_unknown_and_410_if_removed() {
    let registry = Registry::start().await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    for id in ["6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11", "other", &other.id.replace('-', ""), "%00", "..%2f.."]
    {
        one.ask(Ask::get(format!("/workspaces/{id}"))).await.refuses(404, "workspace not found");
    }
    registry.order(delete(&other.id)).await.well();
    let gone = one.ask(Ask::get(format!("/workspaces/{}", other.id))).await;
    let gone = gone.has(410, &["error", "id", "removed_at"]);
    assert_eq!((&gone["error"], &gone["id"]), (&json!("workspace removed"), &json!(other.id)));
    assert!(gone["removed_at"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test(flavor = "multi_thread")]
async fn workspace_may_change_only_its_own_name_and_role() {
    let registry = Registry::start().await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    let named = one.ask(patch(&one.id, json!({ "name": "renamed", "role": "cooks" }))).await;
    named.is(200, r#"{"status":"updated"}"#);
    let view = one.show().await;
    assert_eq!((&view["name"], &view["role"]), (&json!("renamed"), &json!("cooks")));
    for more in [
        json!({ "tier": 4 }),
        json!({ "parent_id": other.id }),
        json!({ "parent_id": "" }),
        json!({ "runtime": "plain" }),
        json!({ "image": "x" }),
        json!({ "env": { "A": "1" } }),
        json!({ "command": [] }),
        json!({ "config": "x" }),
        json!({ "workspace_dir": "/srv/x" }),
        json!({ "workspace_access": "read_only" }),
        json!({ "url": "http://127.0.0.1:9" }),
        json!({ "hibernation_idle_minutes": 1 }),
        json!({ "max_concurrent_tasks": 1 }),
        json!({ "restart_when_wedged": true }),
        json!({ "name": "again", "tier": 2 }),
    ] {
        let answer = one.ask(patch(&one.id, more.clone())).await;
        assert_eq!(answer.status, 403, "{more}: {answer:?}");
    }
    assert_eq!(one.show().await["name"], "renamed", "a refused patch was applied in part");
    one.ask(patch(&other.id, json!({ "name": "x" }))).await.refuses(401, "invalid workspace auth token");
    let taken = one.ask(patch(&one.id, json!({ "name": "other" }))).await;
    assert_eq!(taken.status, 409, "{taken:?}");
    let unknown = one.ask(patch(&one.id, json!({ "nmae": "x" }))).await;
    assert_eq!((unknown.status, unknown.text().contains("nmae")), (400, true), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_can_change_a_parent_unless_it_creates_a_cycle() {
    let registry = Registry::start().await;
    let root = registry.online("root").await;
    let child = registry.online_below("child", &root).await;
    let grandchild = registry.online_below("grandchild", &child).await;
    for (workspace, parent) in [
        (&root, root.id.as_str()),
        (&root, &child.id),
        (&root, &grandchild.id),
        (&child, "6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11"),
    ] {
        let answer = registry.order(patch(&workspace.id, json!({ "parent_id": parent }))).await;
        assert_eq!(answer.status, 422, "{answer:?}");
        assert_eq!(keys_of(&answer.json()), ["error"]);
    }
    let moved = registry.order(patch(&grandchild.id, json!({ "parent_id": root.id }))).await;
    moved.is(200, r#"{"status":"updated","needs_restart":true,"needs_recreate":true}"#);
    assert_eq!(grandchild.show().await["parent_id"], json!(root.id));
    let freed = registry.order(patch(&grandchild.id, json!({ "parent_id": "" }))).await;
    freed.is(200, r#"{"status":"updated","needs_restart":true,"needs_recreate":true}"#);
    assert_eq!(grandchild.show().await["parent_id"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn update_refuses_an_invalid_image() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let before = one.show().await["image"].clone();
    for image in ["", "two words", "line\nbreak"] {
        registry.order(patch(&one.id, json!({ "image": image }))).await.has(400, &["error"]);
    }
    assert_eq!(one.show().await["image"], before);
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_recreates_the_container_after_a_change_that_needs_it() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let before = one.show().await["container_id"].clone();
    let tier = registry.order(patch(&one.id, json!({ "tier": 3 }))).await;
    tier.is(200, r#"{"status":"updated","needs_restart":true,"needs_recreate":true}"#);
    let policy = registry.order(patch(&one.id, json!({ "hibernation_idle_minutes": 5 }))).await;
    assert_eq!(policy.well()["status"], "updated");
    let restarted = one.order("restart").await.well();
    assert_eq!(restarted["status"], "provisioning", "{restarted}");
    assert_ne!(one.show().await["container_id"], before, "a restart did not recreate the drifted container");
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_with_children_requires_confirmation() {
    let registry = Registry::start().await;
    let root = registry.online("root").await;
    let child = registry.online_below("child", &root).await;
    let grandchild = registry.online_below("grandchild", &child).await;
    let refused = registry.order(delete(&root.id)).await;
    let refused = refused.has(409, &["status", "children", "children_count"]);
    assert_eq!(refused["status"], "confirmation_required");
    assert_eq!(refused["children"], json!([{ "id": child.id, "name": "child" }]));
    assert_eq!(refused["children_count"], 1);
    assert_eq!(root.status().await, "online", "a refused removal changed the status");
    let removed = registry.order(Ask::new("DELETE", format!("/workspaces/{}?confirm=true", root.id))).await;
    let removed = removed.has(200, &["status", "cascade_deleted", "operation_id"]);
    assert_eq!((&removed["status"], &removed["cascade_deleted"]), (&json!("removed"), &json!(2)));
    for client in [&root, &child, &grandchild] {
        assert_eq!(client.status().await, "removed", "the row is not removed when the answer arrives");
    }
    until("their containers are stopped", async || {
        let state = registry.world.state();
        state.containers.values().all(|container| !container.state.may_run()).then_some(())
    })
    .await;
    assert_eq!(registry.order(delete(&root.id)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn state_route_reports_status_pause_and_removal() {
    let registry = Registry::start().await;
    let one = registry.external("one", json!({})).await;
    let state = || Ask::get(format!("/workspaces/{}/state", one.id));
    let answer = |status, paused| json!({ "workspace_id": one.id, "status": status, "paused": paused, "deleted": false });
    assert_eq!(one.ask(state()).await.well(), answer("awaiting_agent", false));
    one.heartbeat(json!({})).await.well();
    assert_eq!(one.ask(state()).await.well(), answer("online", false));
    one.order("pause").await.well();
    assert_eq!(one.ask(state()).await.well(), answer("paused", true));
    assert_eq!(registry.order(state()).await.well(), answer("paused", true));
    registry.order(delete(&one.id)).await.well();
    let gone = format!(r#"{{"workspace_id":"{}","deleted":true}}"#, one.id);
    one.ask(state()).await.is(404, &gone);
    registry.order(state()).await.is(404, &gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_answer_with_the_resulting_status() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for (verb, status) in [("pause", "paused"), ("resume", "provisioning")] {
        let answer = one.order(verb).await.well();
        assert_eq!((&answer["status"], &answer["id"]), (&json!(status), &json!(one.id)), "{verb}: {answer}");
        assert_eq!(one.status().await, status);
    }
    let one = crate::support::registry::AgentClient { token: registry.token_in_volume(&one.id).await, ..one };
    one.heartbeat(json!({})).await.well();
    for (verb, status) in [("hibernate", "hibernated"), ("hibernate", "hibernated"), ("wake", "provisioning")]
    {
        let answer = one.order(verb).await.well();
        assert_eq!(answer["status"], status, "{verb}: {answer}");
        assert_eq!(one.status().await, status);
    }
    for verb in ["pause", "resume", "hibernate", "wake", "restart"] {
        let unknown = format!("/workspaces/6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11/{verb}");
        let answer = registry.order(Ask::post(unknown)).await;
        assert_eq!(answer.status, 404, "{verb}: {answer:?}");
    }
    let event = registry.event(&one.id, "WORKSPACE_PAUSED").await;
    assert_eq!(event["payload"]["name"], "one", "{event}");
    let event = registry.event(&one.id, "WORKSPACE_HIBERNATED").await;
    assert_eq!(event["payload"], json!({ "name": "one", "tier": 2 }), "{event}");
}

#[tokio::test(flavor = "multi_thread")]
async fn children_cannot_be_started_or_created_below_a_paused_parent() {
    let registry = Registry::start().await;
    let root = registry.online("root").await;
    let child = registry.online_below("child", &root).await;
    root.order("pause").await.well();
    assert_eq!(child.status().await, "paused", "descendants are paused with their ancestor");
    for verb in ["resume", "restart", "wake"] {
        child.order(verb).await.refuses(409, r#"parent workspace "root" is paused — resume it first"#);
    }
    let below = json!({ "name": "late", "external": true, "parent_id": root.id });
    let answer = registry.order(Ask::post("/workspaces").json(below)).await;
    answer.refuses(409, r#"parent workspace "root" is paused — resume it first"#);
    root.order("resume").await.well();
    assert_eq!(child.status().await, "provisioning", "a child is started with its parent");
}

#[tokio::test(flavor = "multi_thread")]
async fn start_of_a_stopped_parent_starts_children_stopped_with_it() {
    let registry = Registry::start().await;
    let root = registry.online("root").await;
    let child = registry.online_below("child", &root).await;
    for verb in ["restart", "recreate", "resume"] {
        root.order("pause").await.well();
        assert_eq!(child.status().await, "paused", "descendants are paused with their ancestor");
        let answer = root.order(verb).await.well();
        assert_eq!(
            answer["along"][0]["name"], "child",
            "the answer to {verb} does not list the child: {answer}"
        );
        assert_eq!(child.status().await, "provisioning", "{verb} did not start the child");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_also_starts_children_that_an_earlier_start_missed() {
    let registry = Registry::start().await;
    let root = registry.online("root").await;
    let child = registry.online_below("child", &root).await;
    let own = registry.online_below("own", &root).await;
    own.order("pause").await.well();
    root.order("pause").await.well();
    let image = registry.world.state().images.clone();
    registry.order(patch(&child.id, json!({ "image": "agent:none" }))).await.well();
    // The state after a crash between the parent's start and the child's.
    let sql = rusqlite::Connection::open(registry.database()).unwrap();
    let held = "UPDATE workspaces SET container_id = NULL WHERE name = 'child'";
    assert_eq!(sql.execute(held, []).unwrap(), 1);
    let answer = root.order("resume").await.well();
    assert_eq!((&answer["along"][0]["name"], &answer["along"][0]["failed"]), (&"child".into(), &true.into()));
    assert_eq!(child.status().await, "paused");
    registry.order(patch(&child.id, json!({ "image": image.first().unwrap() }))).await.well();
    let answer = root.order("resume").await.well();
    assert_eq!(answer["along"].as_array().map(Vec::len), Some(1), "{answer}");
    assert_eq!(child.status().await, "provisioning", "a second start of the parent did not start the child");
    assert_eq!(own.status().await, "paused", "a separately stopped child was started");
}

#[tokio::test(flavor = "multi_thread")]
async fn start_allocates_a_new_port_when_its_own_is_taken() {
    let registry = Registry::start().await;
    let lost = registry.online("lost").await;
    lost.order("pause").await.well();
    let (port, container) = (lost.port().await, lost.show().await["container_id"].clone());
    let sql = rusqlite::Connection::open(registry.database()).unwrap();
    let clear_port =
        || sql.execute("UPDATE workspaces SET host_port = NULL WHERE name = 'lost'", []).unwrap();
    // The row is now as if it had been rebuilt without its port. No other workspace has this port, and the container is
    // unchanged.
    clear_port();
    lost.order("resume").await.well();
    let view = lost.show().await;
    assert_eq!((&view["host_port"], &view["container_id"]), (&port.into(), &container), "{view}");
    // The port is assigned to another workspace while it is missing in this row.
    lost.order("pause").await.well();
    clear_port();
    let other = registry.online("other").await;
    assert_eq!(other.port().await, port, "the port was not reallocated, so this test proves nothing");
    lost.order("resume").await.well();
    let view = lost.show().await;
    assert_ne!(view["host_port"], port, "{view}");
    assert_ne!(view["container_id"], container, "the container was reused with another port: {view}");
    assert_eq!(other.status().await, "online");
    let trash = registry.order(Ask::get("/trash")).await.well();
    assert_eq!(trash[0]["container_id"], container, "its old container is not in the trash: {trash}");
}

#[tokio::test(flavor = "multi_thread")]
async fn external_workspace_refuses_commands_that_need_a_container() {
    let registry = Registry::start().await;
    let away = registry.external("away", json!({})).await;
    let refusal = "workspace `away` is external: its agent runs elsewhere";
    for verb in ["resume", "restart", "recreate", "wake", "hibernate"] {
        away.order(verb).await.refuses_with(409, refusal);
    }
    let exec = Ask::post(format!("/workspaces/{}/exec", away.id)).json(json!({ "command": ["id"] }));
    registry.order(exec).await.refuses_with(409, refusal);
    registry.order(Ask::get(format!("/workspaces/{}/logs", away.id))).await.refuses_with(409, refusal);
    assert_eq!(away.order("pause").await.status, 200);
    away.order("wake").await.refuses_with(409, "`ostler start away` resumes it");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_image_error_names_the_command_that_fixes_it() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    registry.order(patch(&one.id, json!({ "image": "agent:none" }))).await.well();
    one.order("recreate").await.refuses_with(424, "then run `ostler recreate one`");
    let made = registry.create("two", json!({ "image": "agent:none" })).await;
    registry.until_status(made["id"].as_str().unwrap(), "failed(start_error)").await;
    let detail = registry.show(made["id"].as_str().unwrap()).await["status_detail"].to_string();
    assert!(
        detail.contains("`ostler set two --image IMAGE`") && detail.contains("`ostler start two`"),
        "{detail}"
    );
    let again = registry.order(Ask::post("/workspaces").json(json!({ "name": "two", "image": IMAGE }))).await;
    again.refuses_with(409, "`ostler set two --image IMAGE`");
    let again = registry.order(Ask::post("/workspaces").json(json!({ "name": "one", "image": IMAGE }))).await;
    again.refuses_with(409, "Choose another name");
}

#[tokio::test(flavor = "multi_thread")]
async fn undelete_by_name_ignores_purged_workspaces() {
    let registry = Registry::start().await;
    let purged = registry.online("one").await;
    registry.order(Ask::new("DELETE", format!("/workspaces/{}?purge=true", purged.id))).await.well();
    registry.order(Ask::post("/workspaces/one/undelete")).await.refuses_with(409, "permanently deleted");
    let kept = registry.online("one").await;
    registry.order(delete(&kept.id)).await.well();
    assert_eq!(registry.order(Ask::post("/workspaces/one/undelete")).await.well()["id"], kept.id);
    assert_eq!(kept.status().await, "paused");
}

#[tokio::test(flavor = "multi_thread")]
async fn undelete_reattaches_a_child_that_was_restored_earlier() {
    let registry = Registry::start().await;
    let parent = registry.online("parent").await;
    let child = registry.online_below("child", &parent).await;
    registry.order(delete(&child.id)).await.well();
    registry.order(delete(&parent.id)).await.well();
    let back = child.order("undelete").await.well().to_string();
    assert!(back.contains("`parent` is removed") && back.contains("it has no parent now"), "{back}");
    let why = registry.event(&child.id, "WORKSPACE_UNDELETED").await["payload"].to_string();
    assert!(why.contains("`parent` is removed"), "{why}");
    let back = parent.order("undelete").await.well().to_string();
    assert!(back.contains("Moved back below it: `child`"), "{back}");
    assert_eq!(child.show().await["parent_id"], parent.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn workspace_with_active_tasks_hibernates_only_by_force() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    one.heartbeat(json!({ "active_tasks": 3, "uptime_seconds": 1 })).await.well();
    let busy = one.order("hibernate").await;
    busy.is(409, r#"{"error":"workspace has active tasks","active_tasks":3}"#);
    assert_eq!(one.status().await, "online");
    let by_itself = one.ask(Ask::post(format!("/workspaces/{}/hibernate", one.id))).await;
    by_itself.is(409, r#"{"error":"workspace has active tasks","active_tasks":3}"#);
    let forced = one.ask(Ask::post(format!("/workspaces/{}/hibernate?force=true", one.id))).await.well();
    assert_eq!(forced["status"], "hibernated");
}

#[tokio::test(flavor = "multi_thread")]
async fn workspace_may_restart_itself_but_not_stop_or_start_itself() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let itself = |verb: &str| Ask::post(format!("/workspaces/{}/{verb}", one.id));
    for verb in ["pause", "resume", "wake", "start", "stop", "recreate"] {
        one.ask(itself(verb)).await.refuses(403, "only an admin may do this");
    }
    assert_eq!(one.ask(itself("restart")).await.well()["status"], "provisioning");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_that_the_status_does_not_allow_gets_409() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    one.order("pause").await.well();
    assert_eq!(one.order("pause").await.status, 200, "pausing a paused workspace succeeds");
    for verb in ["hibernate", "wake"] {
        let answer = one.order(verb).await;
        assert_eq!(
            (answer.status, keys_of(&answer.json())),
            (409, vec!["error".to_owned()]),
            "{verb}: {answer:?}"
        );
    }
    assert_eq!(one.status().await, "paused", "a wake resumed a paused workspace");
    let away = registry.external("away", json!({})).await;
    for verb in ["hibernate", "resume", "restart"] {
        assert_eq!(away.order(verb).await.status, 409, "{verb}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_shown_once_and_listed_by_its_prefix() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let path = format!("/workspaces/{}/tokens", one.id);
    let issued = registry.order(Ask::post(&path)).await.has(201, &["auth_token", "workspace_id"]);
    assert_eq!(issued["workspace_id"], json!(one.id));
    let token = issued["auth_token"].as_str().unwrap();
    let listing = registry.order(Ask::get(&path)).await;
    assert!(!listing.text().contains(token) && !listing.text().contains(&one.token), "a token is shown once");
    let listed = listing.has(200, &["tokens", "count"]);
    assert_eq!(listed["count"], 2);
    let keys = ["created_at", "expires_at", "id", "kind", "last_used_at", "prefix"];
    for row in listed["tokens"].as_array().unwrap() {
        assert_eq!(keys_of(row), keys, "{row}");
    }
    let kinds: Vec<_> = listed["tokens"].as_array().unwrap().iter().map(|row| &row["kind"]).collect();
    assert!(kinds.contains(&&json!("instance")) && kinds.contains(&&json!("api")), "{listed}");
    let row = listed["tokens"].as_array().unwrap().iter().find(|row| row["kind"] == "api").unwrap();
    assert_eq!(row["prefix"], json!(token[..8]));
    let revoke = Ask::new("DELETE", format!("{path}/{}", row["id"].as_str().unwrap()));
    registry.order(revoke.clone()).await.is(200, r#"{"status":"revoked"}"#);
    let again = registry.order(revoke).await;
    assert_eq!((again.status, keys_of(&again.json())), (404, vec!["error".to_owned()]), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workspace_has_at_most_50_live_tokens() {
    let registry = Registry::start().await;
    let one = registry.external("one", json!({})).await;
    let path = format!("/workspaces/{}/tokens", one.id);
    for _ in 1..50 {
        assert_eq!(registry.order(Ask::post(&path)).await.status, 201);
    }
    let answer = registry.order(Ask::post(&path)).await;
    assert_eq!((answer.status, keys_of(&answer.json())), (429, vec!["error".to_owned()]), "{answer:?}");
    let first = registry.order(Ask::get(&path)).await.well()["tokens"][7]["id"].as_str().unwrap().to_owned();
    registry.order(Ask::new("DELETE", format!("{path}/{first}"))).await.well();
    assert_eq!(
        registry.order(Ask::post(&path)).await.status,
        201,
        "a revoked token still counts against the limit"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lookup_by_id_ignores_a_workspace_whose_name_equals_the_id() {
    let registry = Registry::start().await;
    let (one, two) = (registry.online("one").await, registry.online("two").await);
    let short = &one.id[..8];
    for name in [one.id.as_str(), &one.id.to_uppercase(), short, "20260102"] {
        let create =
            registry.order(Ask::post("/workspaces").json(json!({ "name": name, "external": true }))).await;
        assert_eq!(create.status, 400, "{name}: {create:?}");
        let rename = Ask::new("PATCH", format!("/workspaces/{}", two.id)).json(json!({ "name": name }));
        assert_eq!(two.ask(rename).await.status, 400, "{name}");
    }
    // Rows that an earlier version has written may have such names.
    let sql = rusqlite::Connection::open(registry.database()).unwrap();
    sql.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    let rename = |name: &str| {
        let id = uuid::Uuid::parse_str(&two.id).unwrap();
        assert_eq!(
            sql.execute("UPDATE workspaces SET name = ?1 WHERE id = ?2", (name, id.as_bytes())),
            Ok(1)
        );
    };
    rename(&one.id);
    let found = |reference: String| registry.order(Ask::get(format!("/workspaces/{reference}")));
    assert_eq!(
        found(one.id.clone()).await.well()["id"],
        json!(one.id),
        "a complete id was resolved as a name"
    );
    assert_eq!(
        found(two.id.clone()).await.well()["name"],
        json!(one.id),
        "the renamed row is not found by its id"
    );
    rename(short);
    let ambiguous = found(short.to_owned()).await;
    assert_eq!(ambiguous.status, 409, "an ambiguous reference was resolved: {ambiguous:?}");
    let back = Ask::new("PATCH", format!("/workspaces/{}", two.id)).json(json!({ "name": "two" }));
    registry.order(back).await.well();
    assert_eq!(found(short.to_owned()).await.well()["id"], json!(one.id));
}
