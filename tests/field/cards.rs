//! Agent cards of every protocol version pass through the registry unchanged.

use serde_json::{Value, json};

use crate::support::{registry::Registry, wire::Ask};

fn cards() -> [(&'static str, Value); 4] {
    let skill = json!({ "id": "s", "name": "s", "description": "d", "tags": ["t"] });
    [
        (
            "0.2",
            json!({
                "name": "a", "description": "d", "url": "http://h:8000/", "version": "1",
                "capabilities": { "streaming": true, "pushNotifications": false },
                "defaultInputModes": ["text"], "defaultOutputModes": ["text"], "skills": [skill],
            }),
        ),
        (
            "0.3",
            json!({
                "protocolVersion": "0.3.0", "name": "a", "description": "d", "url": "http://h:8000/",
                "preferredTransport": "JSONRPC", "version": "1", "capabilities": { "streaming": true },
                "defaultInputModes": ["text/plain"], "defaultOutputModes": ["text/plain"], "skills": [skill],
                "additionalInterfaces": [{ "url": "http://h:8000/", "transport": "JSONRPC" }],
            }),
        ),
        (
            "1.0",
            json!({
                "name": "a", "description": "d", "version": "1",
                "supportedInterfaces": [
                    { "url": "http://h:8000/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0" },
                ],
                "capabilities": { "streaming": true, "extensions": [] }, "defaultInputModes": ["text/plain"],
                "defaultOutputModes": ["text/plain"], "skills": [skill],
            }),
        ),
        ("none", json!({})),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_cards_of_every_protocol_version_reach_peers_unchanged() {
    let registry = Registry::start().await;
    let peer = registry.online("peer").await;
    let one = registry.begun("one", json!({})).await;
    for (version, card) in cards() {
        one.register(json!({ "agent_card": card })).await.is(200, r#"{"status":"registered"}"#);
        let peers = peer.ask(Ask::get(format!("/registry/{}/peers", peer.id))).await.well();
        assert_eq!(peers[0]["agent_card"], card, "{version}");
        let update = json!({ "workspace_id": one.id, "agent_card": card });
        one.ask(Ask::post("/registry/update-card").json(update)).await.is(200, r#"{"status":"updated"}"#);
        assert_eq!(one.show().await["agent_card"], card, "{version}");
    }
}
