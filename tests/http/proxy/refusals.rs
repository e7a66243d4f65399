//! Messages that are refused before they are forwarded, and the format of a refusal.

use serde_json::json;

use super::{REPLY, bare, hello, ok_reply, pair};
use crate::support::{
    registry::Registry,
    wire::{Ask, Wire, keys_of},
};

#[tokio::test(flavor = "multi_thread")]
async fn message_is_refused_when_sender_differs_from_token_owner() {
    let registry = Registry::start().await;
    let (from, to, agent) = pair(&registry, ok_reply()).await;
    let path = || Ask::post(format!("/workspaces/{}/a2a", to.id)).json(bare());
    registry.ask(path()).await.refuses(401, "missing workspace auth token");
    from.ask(path().header("X-Workspace-ID", &to.id)).await.refuses(401, "invalid workspace auth token");
    from.ask(path().header("X-Workspace-ID", "nonsense"))
        .await
        .refuses(400, "X-Workspace-ID header is required");
    assert_eq!(agent.requests().len(), 0);
    from.ask(path()).await.is(200, REPLY);
}

#[tokio::test(flavor = "multi_thread")]
async fn message_is_refused_when_the_hierarchy_forbids_it() {
    let registry = Registry::start().await;
    let (from, to, agent) = pair(&registry, ok_reply()).await;
    let below = registry.online_below("below", &from).await;
    let refused = "access denied: workspaces cannot communicate per hierarchy rules";
    below.send_message(&to, bare()).await.refuses(403, refused);
    // The hierarchy is checked before the body is read.
    below.ask(below.message(&to).body("nonsense")).await.refuses(403, refused);
    assert_eq!(agent.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn message_that_is_not_a_json_object_is_refused() {
    let registry = Registry::start().await;
    let (from, to, agent) = pair(&registry, ok_reply()).await;
    for body in ["", "nonsense", "[]", "null", "{", r#"{"method":"x"} x"#, r#"{"method":"x","method":"y"}"#] {
        let answer = from.ask(from.message(&to).body(body)).await;
        assert_eq!(
            (answer.status, keys_of(&answer.json())),
            (400, vec!["error".to_owned()]),
            "{body}: {answer:?}"
        );
    }
    assert_eq!(agent.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn message_above_10_mib_is_refused() {
    let registry = Registry::start().await;
    let (from, to, agent) = pair(&registry, ok_reply()).await;
    let most = 10 << 20;
    let frame = r#"{"jsonrpc":"2.0","id":1,"method":""}"#;
    let sized = |length: usize| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "x".repeat(length - frame.len()));
        assert_eq!(body.len(), length);
        from.message(&to).body(body)
    };
    from.ask(sized(most)).await.is(200, REPLY);
    let answer = from.ask(sized(most + 1)).await;
    assert_eq!((answer.status, keys_of(&answer.json())), (413, vec!["error".to_owned()]), "{answer:?}");
    assert_eq!(agent.requests().len(), 1);
}

/// If the connection is closed while a JavaScript client is sending, the client reports a broken pipe and never sees
/// the response.
#[tokio::test(flavor = "multi_thread")]
async fn client_of_a_large_refused_request_gets_the_response() {
    let registry = Registry::start().await;
    let (from, to, _agent) = pair(&registry, ok_reply()).await;
    let large = "x".repeat(24 << 20);
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{large}"}}"#);
    let activity = Ask::post(format!("/workspaces/{}/activity", from.id));
    for (ask, status) in [
        (from.message(&to).token(&from.token).body(body.clone()), 413),
        (from.message(&to).token("not-a-token").body(body.clone()), 401),
        (Ask::post("/workspaces/unknown/a2a").token(&registry.admin).body(body.clone()), 404),
        (activity.token(&from.token).header("X-Workspace-ID", &from.id).body(body.clone()), 413),
    ] {
        let mut wire = Wire::open(registry.address).await;
        wire.write_whole(&ask.bytes()).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    // A client that waits for `100 Continue` is refused at once and sends no body.
    let mut wire = Wire::open(registry.address).await;
    let head = format!(
        "POST /workspaces/{}/a2a HTTP/1.1\r\nHost: o\r\nAuthorization: Bearer {}\r\nX-Workspace-ID: {}\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        to.id,
        from.token,
        from.id,
        body.len()
    );
    wire.write_whole(head.as_bytes()).await;
    assert_eq!(wire.answer().await.status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn message_to_unknown_target_gets_404_and_to_removed_one_410() {
    let registry = Registry::start().await;
    let (from, to, _agent) = pair(&registry, ok_reply()).await;
    for id in ["6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11", "to", &to.id.replace('-', "")] {
        let message = Ask::post(format!("/workspaces/{id}/a2a")).json(bare());
        from.ask(message).await.refuses(404, "workspace not found");
    }
    registry.order(Ask::new("DELETE", format!("/workspaces/{}", to.id))).await.well();
    from.send_message(&to, bare()).await.refuses(410, "workspace removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn message_with_a_content_encoding_is_refused() {
    let registry = Registry::start().await;
    let (from, to, _agent) = pair(&registry, ok_reply()).await;
    let ask = |encoding: &str| from.message(&to).header("Content-Encoding", encoding).json(bare());
    from.ask(ask("gzip")).await.refuses_with(415, "Content-Encoding: gzip");
    from.ask(ask("identity")).await.is(200, REPLY);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_is_a_json_rpc_error_for_a_json_rpc_request() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    let below = registry.online_below("below", &from).await;
    let paused = registry.online("paused").await;
    paused.order("pause").await.well();
    let silent = registry.external_at("silent", "").await;
    let away = registry.external("away", json!({})).await;
    let unauthenticated = Ask::post(format!("/workspaces/{}/a2a", to.id));
    let unknown = Ask::post("/workspaces/6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11/a2a").token(&from.token);
    for (ask, status, message) in [
        (unauthenticated, 401, "missing workspace auth token"),
        (below.message(&to).token(&below.token), 403, "access denied"),
        (unknown, 404, "workspace not found"),
        (from.message(&paused).token(&from.token), 409, "workspace or one of its ancestors is paused"),
        (from.message(&silent).token(&from.token), 502, "failed to reach workspace agent: it has no url"),
        (from.message(&away).token(&from.token), 503, "workspace is external"),
    ] {
        for id in [json!("an \"id\" ü"), json!(7), json!(-1.5)] {
            let mut request = hello();
            request["id"] = id.clone();
            let answer = registry.ask(ask.clone().json(request)).await;
            let body = answer.has(status, &["jsonrpc", "id", "error"]);
            assert_eq!((&body["jsonrpc"], &body["id"]), (&json!("2.0"), &id), "{body}");
            assert_eq!(keys_of(&body["error"]), ["code", "data", "message"], "{body}");
            assert!(body["error"]["message"].as_str().unwrap().starts_with(message), "{body}");
            assert!(body["error"]["code"].is_i64(), "{body}");
            assert_eq!(body["error"]["data"]["http_status"], status, "{body}");
            assert_eq!(answer.header("retry-after").is_some(), status == 503, "{answer:?}");
        }
        // If a message is not a JSON-RPC 2.0 request with an id, its refusal is the plain error object.
        for other in [
            bare(),
            json!({ "jsonrpc": "1.0", "id": 1, "method": "x" }),
            json!({ "jsonrpc": "2.0", "method": "x" }),
            json!({ "jsonrpc": "2.0", "id": {}, "method": "x" }),
            json!({ "jsonrpc": "2.0", "id": 1 }),
        ] {
            let body = registry.ask(ask.clone().json(other)).await.json();
            assert!(body["error"].as_str().unwrap().starts_with(message), "{body}");
        }
    }
}
