//! Unknown keys, and routes that ostler does not have (§5, §15).

use serde_json::{Value, json};

use crate::support::{
    registry::{IMAGE, Registry},
    wire::Ask,
};

fn patch(id: &str, body: Value) -> Ask {
    Ask::new("PATCH", format!("/workspaces/{id}")).json(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn create_ignores_known_keys_of_existing_clients() {
    let registry = Registry::start().await;
    let canvas = json!({
        "name": "a", "role": "", "template": "", "tier": 2, "parent_id": null, "budget_limit": null,
        "canvas": { "x": 1, "y": 2 }, "runtime": "agent", "secrets": {}, "model": "m",
    });
    let mcp = json!({
        "name": "b", "role": "r", "template": "t", "tier": 1, "parent_id": "", "runtime": "agent",
        "workspace_dir": "", "workspace_access": "none", "canvas": { "x": 1, "y": 2 },
    });
    let cli = json!({
        "name": "c", "role": "", "template": "", "tier": 2, "parent_id": "", "runtime": "agent",
        "workspace_dir": "", "image": IMAGE,
    });
    for (body, ignored) in [
        (canvas, json!(["budget_limit", "canvas", "model", "secrets", "template"])),
        (mcp, json!(["canvas", "template"])),
        (cli, json!(["template"])),
    ] {
        let made = registry.order(Ask::post("/workspaces").json(body)).await;
        assert_eq!(made.status, 201, "{made:?}");
        assert_eq!(made.json()["ignored"], ignored, "{made:?}");
    }
    let plain = json!({ "name": "d", "runtime": "agent" });
    registry
        .order(Ask::post("/workspaces").json(plain))
        .await
        .has(201, &["id", "name", "status", "operation_id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn misspelt_key_is_refused_with_the_nearest_key() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for (body, expected) in [
        (json!({ "nmae": "x" }), "did you mean `name`?"),
        (json!({ "name": "x", "imgae": "i" }), "did you mean `image`?"),
        (json!({ "name": "x", "workspace_dirs": "/" }), "did you mean `workspace_dir`?"),
    ] {
        let refused = registry.order(Ask::post("/workspaces").json(body)).await;
        assert!(refused.status == 400 && refused.text().contains(expected), "{refused:?}");
    }
    let refused = registry.order(patch(&one.id, json!({ "teir": 3, "x": 1 }))).await;
    assert!(refused.status == 400 && refused.text().contains("did you mean `tier`?"), "{refused:?}");
    assert_eq!(one.show().await["tier"], 2, "a refused patch changed the tier");
}

#[tokio::test(flavor = "multi_thread")]
async fn patch_ignores_coordinates_and_null_parent_makes_a_root() {
    let registry = Registry::start().await;
    let root = registry.online("root").await;
    let one = registry.online_below("one", &root).await;
    let moved = registry.order(patch(&one.id, json!({ "x": 1.5, "y": -2 }))).await;
    moved.is(200, r#"{"status":"updated","ignored":["x","y"]}"#);
    assert_eq!(one.show().await["parent_id"], json!(root.id), "an absent parent was treated as null");
    registry.order(patch(&one.id, json!({ "collapsed": true, "delivery_mode": "poll" }))).await.well();
    let re_parented = registry.order(patch(&one.id, json!({ "parent_id": null, "x": 1, "y": 2 }))).await;
    assert_eq!(re_parented.well()["ignored"], json!(["x", "y"]));
    assert_eq!(one.show().await["parent_id"], Value::Null);
    registry.order(patch(&one.id, json!({ "name": "two", "role": "r", "tier": 3 }))).await.well();
    registry.order(patch(&one.id, json!({ "role": null }))).await.well();
    let view = one.show().await;
    assert_eq!((&view["name"], &view["role"]), (&json!("two"), &Value::Null));
    // A workspace may send its position (`x`, `y`), which is ignored, together with its own name.
    one.ask(patch(&one.id, json!({ "name": "three", "x": 1 }))).await.well();
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_other_servers_answer_501() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for (method, path) in [
        ("POST", "approvals"),
        ("GET", "approvals/pending"),
        ("GET", "checkpoints/latest"),
        ("GET", "secrets/values"),
        ("POST", "chat/uploads"),
        ("GET", "memory"),
        ("PUT", "memory/key"),
        ("GET", "instructions/resolve"),
        ("GET", "shared-context"),
        ("GET", "github-installation-token"),
    ] {
        let ask = || Ask::new(method, format!("/workspaces/{}/{path}", one.id));
        let answer = one.ask(ask()).await;
        assert_eq!(answer.status, 501, "{path}: {answer:?}");
        assert!(answer.json()["error"].as_str().unwrap().starts_with("ostler has no "), "{answer:?}");
        registry.ask(ask()).await.refuses(401, "missing workspace auth token");
    }
    for path in ["/approvals/pending", "/bundles/import", "/canvas/viewport", "/templates", "/ws", "/plugins"]
    {
        assert_eq!(registry.order(Ask::get(path)).await.status, 501, "{path}");
        assert_eq!(registry.ask(Ask::get(path)).await.status, 401, "{path}");
    }
}
