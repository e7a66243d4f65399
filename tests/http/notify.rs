//! Notices of an agent to its user (§13).

use serde_json::{Value, json};

use crate::support::{
    registry::{AgentClient, Registry},
    wire::{Answer, Ask, Wire},
};

async fn notify(client: &AgentClient<'_>, body: Value) -> Answer {
    client.ask(Ask::post(format!("/workspaces/{}/notify", client.id)).json(body)).await
}

async fn rows(client: &AgentClient<'_>, query: &str) -> Vec<Value> {
    let ask = Ask::get(format!("/workspaces/{}/activity{query}", client.id));
    client.ask(ask).await.well().as_array().expect("an array").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn notice_is_stored_as_activity_of_its_workspace() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    notify(&one, json!({ "message": "all done" })).await.is(200, r#"{"status":"sent"}"#);
    let all = rows(&one, "").await;
    let row = &all[0];
    for (key, value) in [
        ("activity_type", json!("a2a_receive")),
        ("method", json!("notify")),
        ("source_id", Value::Null),
        ("response_body", json!({ "result": "all done" })),
        ("summary", json!("Agent message: all done")),
    ] {
        assert_eq!(row[key], value, "{key} of {row}");
    }
    assert!(row.get("request_body").is_none() && row.get("data").is_none(), "{row}");
    let file = json!({ "uri": "workspace:/a.txt", "name": "a.txt", "mimeType": "text/plain", "size": 3 });
    notify(&one, json!({ "message": "see", "attachments": [file] })).await.well();
    let parts = json!([{ "kind": "file", "file": file }]);
    assert_eq!(rows(&one, "?limit=1").await[0]["response_body"], json!({ "result": "see", "parts": parts }));
    assert_eq!(rows(&one, "?source=canvas").await.len(), 2, "a notice has no source");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_notice_is_refused_with_the_protocol_error() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for (body, error) in [
        (json!({}), "message is required"),
        (json!({ "message": "" }), "message is required"),
        (json!({ "title": "task done" }), "message is required"),
        (
            json!({ "message": "m", "attachments": [{ "uri": "u", "name": "n" }, { "uri": "u" }] }),
            "attachment[1]: uri and name are required",
        ),
    ] {
        notify(&one, body).await.refuses(400, error);
    }
    let unknown =
        Ask::post("/workspaces/00000000-0000-4000-8000-000000000000/notify").json(json!({ "message": "m" }));
    let unknown = registry.order(unknown).await;
    let error = unknown.json()["error"].as_str().unwrap().to_owned();
    assert!(unknown.status == 404 && error.starts_with("workspace not found"), "{unknown:?}");
    assert!(rows(&one, "").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn notice_is_delivered_to_event_stream_subscribers() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let mut follower = Wire::open(registry.address).await;
    let stream = Ask::get("/events/stream?transient=true").token(&registry.admin);
    follower.write(&stream.bytes()).await;
    assert_eq!(follower.head().await.unwrap().0, 200);
    let mut seen = String::new();
    while !seen.contains("AGENT_MESSAGE") {
        // Repeated until the subscription is active, because transient events are not stored.
        notify(&one, json!({ "message": "ping" })).await.well();
        let chunk = follower.chunk().await.expect("a complete chunk").expect("the stream is open");
        seen.push_str(&String::from_utf8_lossy(&chunk));
    }
    let line =
        seen.lines().find(|line| line.starts_with("data:") && line.contains("ping")).expect("its payload");
    let event: Value = serde_json::from_str(line.trim_start_matches("data:").trim()).unwrap();
    let payload = json!({ "message": "ping", "workspace_id": one.id, "name": "one" });
    assert_eq!(event["payload"], payload, "{event}");
}
