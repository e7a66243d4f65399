//! Activity (§10): rows, filters, cursors, and rows written by the proxy.

use serde_json::{Value, json};

use super::agent::{Agent, Reply};
use crate::support::{
    registry::{AgentClient, Registry},
    wire::{Answer, Ask, keys_of},
};

const REPLY: &str = r#"{"jsonrpc":"2.0","id":"1","result":{"parts":[{"text":"hello"}]}}"#;

/// Keys of every row; bodies are present only if not null.
const KEYS: [&str; 12] = [
    "activity_type",
    "created_at",
    "duration_ms",
    "error_detail",
    "id",
    "method",
    "seq",
    "source_id",
    "status",
    "summary",
    "target_id",
    "workspace_id",
];

fn hello(text: &str) -> Value {
    json!({
        "jsonrpc": "2.0", "id": "1", "method": "message/send",
        "params": { "message": { "messageId": "m", "role": "user", "parts": [{ "kind": "text", "text": text }] } },
    })
}

async fn get(client: &AgentClient<'_>, query: &str) -> Answer {
    client.ask(Ask::get(format!("/workspaces/{}/activity{query}", client.id))).await
}

async fn rows(client: &AgentClient<'_>, query: &str) -> Vec<Value> {
    get(client, query).await.well().as_array().expect("a bare array").clone()
}

async fn report(client: &AgentClient<'_>, body: Value) -> Answer {
    client.ask(Ask::post(format!("/workspaces/{}/activity", client.id)).json(body)).await
}

fn summaries(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["summary"].as_str().unwrap_or_default()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn activity_rows_are_flat_and_newest_first() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    get(&one, "").await.is(200, "[]");
    for number in 0..3 {
        let body = json!({ "activity_type": "task_update", "summary": format!("{number}"), "odd": 1 });
        report(&one, body).await.is(200, r#"{"status":"logged"}"#);
    }
    let all = rows(&one, "").await;
    assert_eq!(summaries(&all), ["2", "1", "0"]);
    assert_eq!(keys_of(&all[0]), KEYS, "bodies are absent when null");
    assert_eq!((&all[0]["workspace_id"], &all[0]["source_id"]), (&json!(one.id), &json!(one.id)));
    assert_eq!((&all[0]["status"], &all[0]["target_id"]), (&json!("ok"), &Value::Null));
    assert!(all[0]["seq"].as_i64() > all[1]["seq"].as_i64());
}

#[tokio::test(flavor = "multi_thread")]
async fn activity_report_keeps_every_field() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let body = json!({
        "activity_type": "a2a_send", "source_id": "", "target_id": "elsewhere", "method": "message/send",
        "summary": "sent", "status": "retried", "error_detail": "late", "duration_ms": 12,
        "request_body": { "a": [1.0, 1e3] }, "response_body": "text",
    });
    report(&one, body.clone()).await.is(200, r#"{"status":"logged"}"#);
    let row = &rows(&one, "").await[0];
    for (key, value) in body.as_object().unwrap() {
        let value = if key == "source_id" { json!(one.id) } else { value.clone() };
        assert_eq!(row[key], value, "{key} of {row}");
    }
    // `metadata` is stored as the request body only if the report has no request body.
    report(&one, json!({ "activity_type": "error", "metadata": { "m": 1 } })).await.well();
    assert_eq!(rows(&one, "").await[0]["request_body"], json!({ "m": 1 }));
    report(&one, json!({ "activity_type": "error", "metadata": 1, "request_body": 2 })).await.well();
    assert_eq!(rows(&one, "").await[0]["request_body"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_activity_report_is_refused_with_the_protocol_error() {
    let registry = Registry::start().await;
    let (one, two) = (registry.online("one").await, registry.online("two").await);
    let types = "invalid activity_type, must be one of: a2a_send, a2a_receive, task_update, agent_log, \
                 skill_promotion, memory_write, error";
    for body in [json!({}), json!({ "activity_type": "dig" }), json!({ "activity_type": "" })] {
        report(&one, body).await.refuses(400, types);
    }
    let foreign = json!({ "activity_type": "error", "source_id": two.id });
    report(&one, foreign).await.refuses(403, "source_id must match authenticated workspace");
    let path = format!("/workspaces/{}/activity", one.id);
    one.ask(Ask::post(&path).body("nonsense")).await.refuses(400, "invalid request body");
    registry.ask(Ask::post(&path).json(json!({}))).await.refuses(401, "missing workspace auth token");
    assert!(rows(&one, "").await.is_empty(), "a refused report was stored");
}

/// Existing clients expect 401 for an unknown workspace, as for another workspace, so that they cannot find out which
/// ids exist. Only an admin gets 404.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_workspace_is_refused_like_another_workspace() {
    let registry = Registry::start().await;
    let (one, two) = (registry.online("one").await, registry.online("two").await);
    for id in [two.id.as_str(), "00000000-0000-4000-8000-000000000000", "nonsense"] {
        for path in ["activity", "delegations"] {
            let ask = || Ask::get(format!("/workspaces/{id}/{path}"));
            one.ask(ask()).await.refuses(401, "invalid workspace auth token");
            registry.ask(ask()).await.refuses(401, "missing workspace auth token");
        }
    }
    registry.order(Ask::get("/workspaces/one/activity")).await.is(200, "[]");
    assert_eq!(registry.order(Ask::get("/workspaces/unknown/activity")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn activity_is_filtered_by_type_source_and_peer() {
    let registry = Registry::start().await;
    let agent = Agent::replying(Reply::This(200, "application/json", REPLY.into())).await;
    let one = registry.external_at("one", &agent.url()).await;
    let two = registry.online("two").await;
    report(&one, json!({ "activity_type": "error", "summary": "own", "target_id": two.id })).await.well();
    two.send_message(&one, hello("from two")).await.is(200, REPLY);
    let message = Ask::post(format!("/workspaces/{}/a2a", one.id)).json(hello("from a user"));
    registry.order(message).await.is(200, REPLY);
    for (query, expected) in [
        ("", 3),
        ("?type=a2a_receive", 2),
        ("?type=error", 1),
        ("?type=a2a_recei", 0),
        ("?source=canvas", 1),
        ("?source=agent", 2),
        (&format!("?peer_id={}", two.id), 2),
        (&format!("?peer_id={}", two.id.to_uppercase()), 2),
        (&format!("?type=a2a_receive&source=agent&peer_id={}", two.id), 1),
        ("?limit=2", 2),
        ("?limit=nonsense", 3),
        ("?limit=-1", 3),
        ("?limit=9999", 3),
        ("?unknown=1", 3),
        ("?since_secs=3600", 3),
        ("?since_secs=99999999999", 3),
        ("?before_ts=2001-01-01T00:00:00Z", 0),
        ("?before_ts=2999-01-01T00:00:00%2B01:00", 3),
        ("?before_ts=2999-01-01T00:00:00+01:00", 3),
    ] {
        assert_eq!(rows(&one, query).await.len(), expected, "{query}");
    }
    for (query, error) in [
        ("?source=everyone", "source must be 'canvas' or 'agent'"),
        ("?peer_id=two", "peer_id must be a UUID"),
        ("?since_secs=0", "since_secs must be a positive integer"),
        ("?since_secs=soon", "since_secs must be a positive integer"),
        ("?before_ts=yesterday", "before_ts must be an RFC 3339 time"),
    ] {
        get(&one, query).await.refuses(400, error);
    }
    let newest = &rows(&one, "").await[0];
    let strictly = format!("?before_ts={}", newest["created_at"].as_str().unwrap());
    assert!(rows(&one, &strictly).await.iter().all(|row| row["id"] != newest["id"]), "strictly older");
}

#[tokio::test(flavor = "multi_thread")]
async fn activity_cursor_returns_later_rows_oldest_first() {
    let registry = Registry::start().await;
    let (one, two) = (registry.online("one").await, registry.online("two").await);
    for number in 0..5 {
        report(&one, json!({ "activity_type": "agent_log", "summary": format!("{number}") })).await.well();
    }
    report(&two, json!({ "activity_type": "agent_log", "summary": "foreign" })).await.well();
    let all = rows(&one, "").await;
    let second = all[3]["id"].as_str().unwrap().to_owned();
    assert_eq!(summaries(&rows(&one, &format!("?since_id={second}")).await), ["2", "3", "4"]);
    assert_eq!(summaries(&rows(&one, &format!("?since_id={second}&limit=1")).await), ["2"]);
    let newest = all[0]["id"].as_str().unwrap();
    get(&one, &format!("?since_id={newest}")).await.is(200, "[]");
    let foreign = rows(&two, "").await[0]["id"].as_str().unwrap().to_owned();
    for cursor in [foreign.as_str(), "00000000-0000-4000-8000-000000000000", "nonsense"] {
        let gone = get(&one, &format!("?since_id={cursor}")).await;
        assert_eq!(gone.status, 410, "{cursor}: {gone:?}");
        assert!(gone.json()["error"].as_str().unwrap().starts_with("since_id cursor not found"), "{gone:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proxied_message_is_one_activity_row_of_its_target() {
    let registry = Registry::start().await;
    let agent = Agent::replying(Reply::This(200, "application/json", REPLY.into())).await;
    let to = registry.external_at("to", &agent.url()).await;
    let from = registry.online("from").await;
    from.send_message(&to, hello("hi")).await.is(200, REPLY);
    let all = rows(&to, "").await;
    assert_eq!(all.len(), 1, "{all:#?}");
    let row = &all[0];
    for (key, value) in [
        ("activity_type", json!("a2a_receive")),
        ("source_id", json!(from.id)),
        ("target_id", json!(to.id)),
        ("method", json!("message/send")),
        ("summary", json!("message/send → to")),
        ("status", json!("ok")),
        ("error_detail", Value::Null),
        ("request_body", hello("hi")),
        ("response_body", serde_json::from_str(REPLY).unwrap()),
        ("data", json!({ "source": "peer_agent", "text": "hi" })),
    ] {
        assert_eq!(row[key], value, "{key} of {row}");
    }
    assert!(row["duration_ms"].is_i64());
    assert!(
        rows(&from, "").await.is_empty(),
        "the caller got a row, so its polls would return its own messages"
    );
    // A user's message has no source.
    let message = Ask::post(format!("/workspaces/{}/a2a", to.id)).json(hello("hello"));
    registry.order(message).await.is(200, REPLY);
    let row = rows(&to, "?source=canvas").await.remove(0);
    assert_eq!((&row["source_id"], &row["data"]["source"]), (&Value::Null, &json!("canvas_user")));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_message_is_an_activity_row_with_status_error() {
    let registry = Registry::start().await;
    let agent = Agent::replying(Reply::This(404, "text/plain", b"no such thing".to_vec())).await;
    let to = registry.external_at("to", &agent.url()).await;
    let from = registry.online("from").await;
    assert_eq!(from.send_message(&to, hello("hi")).await.status, 404);
    let row = rows(&to, "").await.remove(0);
    assert_eq!(row["status"], "error");
    assert_eq!(row["summary"], "A2A request to to failed: the agent responded with 404 Not Found");
    assert!(row.get("response_body").is_none(), "a text body was stored as JSON: {row}");
    // A message that does not reach its target at all.
    to.order("pause").await.well();
    assert_eq!(from.send_message(&to, hello("hi")).await.status, 409);
    let rows = registry.order(Ask::get("/workspaces/to/activity")).await.well();
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]["status"]), (2, &json!("error")));
    assert!(rows[0]["summary"].as_str().unwrap().starts_with("A2A request to to failed: "), "{rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_size_of_a_large_body_is_stored() {
    let registry = Registry::start().await;
    let large = format!(r#"{{"jsonrpc":"2.0","id":"1","result":"{}"}}"#, "x".repeat(20 << 10));
    let agent = Agent::replying(Reply::This(200, "application/json", large.clone().into_bytes())).await;
    let to = registry.external_at("to", &agent.url()).await;
    let from = registry.online("from").await;
    from.send_message(&to, hello(&"y".repeat(20 << 10))).await.is(200, &large);
    let row = rows(&to, "").await.remove(0);
    assert_eq!(row["response_body"], json!({ "truncated": true, "bytes": large.len() }));
    assert_eq!(row["request_body"]["truncated"], true);
    assert_eq!(row["method"], "message/send");
}

#[tokio::test(flavor = "multi_thread")]
async fn activity_is_bounded_by_count_and_bytes() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let id: ostler::domain::ids::WorkspaceId = one.id.parse().unwrap();
    let row = |number: u128, bytes: usize| ostler::store::NewActivity {
        id: ostler::domain::ids::ActivityId(uuid::Uuid::from_u128(number)),
        workspace: id,
        activity_type: "agent_log",
        source: None,
        target: None,
        method: None,
        summary: ostler::store::Summary::Text(Some(number.to_string())),
        status: "ok".into(),
        error_detail: None,
        duration_ms: None,
        request_body: Some(format!("\"{}\"", "x".repeat(bytes))),
        response_body: None,
        at: registry.clock.now(),
    };
    registry.store.log_activity((0..700).map(|number| row(number, 1)).collect()).await.unwrap();
    let all = rows(&one, "?limit=500").await;
    assert_eq!((all.len(), &all[499]["summary"]), (500, &json!("200")), "the newest rows were not kept");
    registry.store.log_activity((1000..1010).map(|number| row(number, 1 << 20)).collect()).await.unwrap();
    let all = rows(&one, "?limit=500").await;
    assert!((1..=4).contains(&all.len()), "{} rows of 1 MiB are kept", all.len());
    assert_eq!(all[0]["summary"], "1009");
}

#[tokio::test(flavor = "multi_thread")]
async fn activity_survives_daemon_restart() {
    let registry = Registry::start().await;
    let agent = Agent::replying(Reply::This(200, "application/json", REPLY.into())).await;
    let to = registry.external_at("to", &agent.url()).await;
    let (id, token) = (to.id.clone(), to.token.clone());
    let from = registry.online("from").await;
    from.send_message(&to, hello("hi")).await.is(200, REPLY);
    let registry = registry.restart().await;
    let to = AgentClient { registry: &registry, id, token };
    assert_eq!(rows(&to, "").await.len(), 1, "buffered rows were not written at shutdown");
}
