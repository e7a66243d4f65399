//! Invalid fields in agents' reports: the report still proves liveness, and the operator sees the reason.

use serde_json::{Value, json};

use crate::support::{
    registry::{AgentClient, Registry, until},
    wire::{Answer, Ask},
};

const OK: &str = r#"{"status":"ok"}"#;
const REGISTERED: &str = r#"{"status":"registered"}"#;

/// Fields of a heartbeat: name, value as JSON, key in the view, and value in the view.
const FIELDS: [(&str, &str, &str, &str); 8] = [
    ("error_rate", "0.25", "last_error_rate", "0.25"),
    ("sample_error", "\"oops\"", "last_sample_error", "\"oops\""),
    ("active_tasks", "3", "active_tasks", "3"),
    ("uptime_seconds", "77", "uptime_seconds", "77"),
    ("current_task", "\"digging\"", "current_task", "\"digging\""),
    ("monthly_spend", "12", "monthly_spend", "12"),
    ("runtime_state", "\"resting\"", "runtime_state", "\"resting\""),
    ("runtime_metadata", "{\"capabilities\":{}}", "", ""),
];

/// Values that are invalid for every field, except those that `is_usable` accepts.
const FLAWS: [&str; 10] =
    ["NaN", "Infinity", "-Infinity", "1e999", "[1]", "true", "\"a\nb\"", "'x'", "{\"a\":NaN}", "\"high\""];

impl AgentClient<'_> {
    async fn send(&self, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.ask(Ask::post(path).body(body.into())).await
    }

    async fn raw_heartbeat(&self, fields: &str) -> Answer {
        self.send("/registry/heartbeat", format!(r#"{{"workspace_id":"{}"{fields}}}"#, self.id)).await
    }
}

fn full_heartbeat(id: &str, but: Option<(&str, &str)>) -> String {
    let fields = FIELDS.iter().map(|(name, value, ..)| match but {
        Some((field, flaw)) if field == *name => format!(",\"{name}\":{flaw}"),
        _ => format!(",\"{name}\":{value}"),
    });
    format!(r#"{{"workspace_id":"{id}"{}}}"#, fields.collect::<String>())
}

/// Whether a field accepts a value of `FLAWS`: text fields accept `"high"`.
fn is_usable(field: &str, flaw: &str) -> bool {
    match field {
        "sample_error" | "current_task" | "runtime_state" => flaw == "\"high\"",
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_is_accepted_when_a_field_is_invalid() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for (field, ..) in FIELDS {
        for flaw in FLAWS {
            one.send("/registry/heartbeat", full_heartbeat(&one.id, None)).await.is(200, OK);
            let before = one.show().await;
            assert_eq!(before["fields_refused"], json!(null), "{before}");
            one.send("/registry/heartbeat", full_heartbeat(&one.id, Some((field, flaw)))).await.is(200, OK);
            let view = one.show().await;
            assert_eq!(view["status"], "online", "{field}: {flaw}");
            for (name, value, key, stored) in FIELDS.iter().filter(|(_, _, key, _)| !key.is_empty()) {
                let expected = if *name == field && is_usable(field, flaw) { flaw } else { stored };
                let expected: Value = serde_json::from_str(expected).unwrap();
                assert_eq!(view[*key], expected, "{name} (sent as {value}) after {field}: {flaw}");
            }
            let refused = if is_usable(field, flaw) { json!(null) } else { json!([field]) };
            assert_eq!(view["fields_refused"], refused, "{field}: {flaw}");
        }
    }
    let events = registry.order(Ask::get(format!("/events/{}?limit=1000", one.id))).await.well();
    let events = events.as_array().unwrap();
    let refused = events.iter().filter(|event| event["event_type"] == "AGENT_FIELDS_REFUSED").count();
    assert!((1..=20).contains(&refused), "{refused} events of refused fields were not coalesced");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_fields_are_reported_once_per_change() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for _ in 0..5 {
        one.raw_heartbeat(r#","active_tasks":NaN,"current_task":7"#).await.is(200, OK);
    }
    let events = registry.events_of(&one.id).await;
    let refused: Vec<_> =
        events.iter().filter(|event| event["event_type"] == "AGENT_FIELDS_REFUSED").collect();
    let payload = json!({ "request": "heartbeat", "fields_refused": "active_tasks, current_task" });
    assert_eq!((refused.len(), &refused[0]["payload"]), (1, &payload));
    let doctor = registry.order(Ask::get("/doctor")).await.well();
    let check = doctor["checks"].as_array().unwrap().iter().find(|check| check["name"] == "agents").unwrap();
    assert_eq!(check["found"], "agents with rejected fields: one: active_tasks, current_task");
    let id = one.id.clone();
    let registry = registry.restart().await;
    assert_eq!(registry.show(&id).await["fields_refused"], json!(["active_tasks", "current_task"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_with_slightly_invalid_json_is_repaired() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let named = |rest: &str| format!(r#"{{"workspace_id":"{}"{rest}}}"#, one.id).into_bytes();
    let mut latin = named(r#","current_task":"caf#""#);
    let at = latin.iter().position(|byte| *byte == b'#').unwrap();
    latin[at] = 0xe9;
    let bom = [b"\xef\xbb\xbf".to_vec(), named(r#","current_task":"bom""#)].concat();
    for (body, task) in [
        (named(r#","current_task":"Refactor \ud83d""#), "Refactor \u{fffd}"),
        (named(r#","current_task":"\ude00 ok""#), "\u{fffd} ok"),
        (latin, "caf\u{fffd}"),
        (bom, "bom"),
        (named(r#","current_task":"one","current_task":"two""#), "two"),
        ([named(r#","current_task":"more""#), b" and more".to_vec()].concat(), "more"),
    ] {
        one.send("/registry/heartbeat", body.clone()).await.is(200, OK);
        let view = one.show().await;
        let body = String::from_utf8_lossy(&body).into_owned();
        assert_eq!((&view["current_task"], &view["fields_refused"]), (&json!(task), &json!(null)), "{body}");
    }
    one.raw_heartbeat(r#","active_tasks":"2","uptime_seconds":" 60.5 ""#).await.is(200, OK);
    let view = one.show().await;
    assert_eq!(
        (&view["active_tasks"], &view["uptime_seconds"]),
        (&json!(2), &json!(60)),
        "numbers sent as strings"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_with_invalid_fields_keeps_their_stored_values() {
    let registry = Registry::start().await;
    let one = registry.begun("one", json!({})).await;
    one.raw_heartbeat(r#","error_rate":NaN"#).await.is(200, OK);
    assert_eq!(one.status().await, "online", "a heartbeat with an invalid field counts as a heartbeat");
    one.heartbeat(json!({ "error_rate": 1.0, "active_tasks": 4, "uptime_seconds": 5 })).await.is(200, OK);
    assert_eq!(one.status().await, "degraded");
    one.raw_heartbeat(r#","error_rate":NaN,"active_tasks":NaN,"uptime_seconds":6"#).await.is(200, OK);
    let view = one.show().await;
    assert_eq!(view["status"], "degraded", "an invalid error rate does not end the degradation");
    assert_eq!((&view["active_tasks"], &view["last_error_rate"]), (&json!(4), &json!(1.0)), "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_is_accepted_when_truncated_or_too_large() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    one.heartbeat(json!({ "active_tasks": 2, "current_task": "digging" })).await.is(200, OK);
    let cut = format!(r#"{{"workspace_id":"{}","uptime_seconds":9,"current_task":"hal"#, one.id);
    one.send("/registry/heartbeat", cut).await.is(200, OK);
    let view = one.show().await;
    assert_eq!((&view["uptime_seconds"], &view["active_tasks"]), (&json!(9), &json!(2)), "{view}");
    assert_eq!(view["current_task"], "digging", "a truncated string is ignored");
    assert_eq!(view["fields_refused"], json!(["current_task", "body"]));

    for bytes in [65 << 10, 900 << 10] {
        let first = json!({ "sample_error": "x".repeat(bytes), "workspace_id": one.id }).to_string();
        one.send("/registry/heartbeat", first).await.is(200, OK);
        assert_eq!(one.show().await["fields_refused"], json!(["sample_error", "body"]), "{bytes}");
        one.send("/registry/heartbeat", " ".repeat(bytes)).await.is(200, OK);
        assert_eq!(one.show().await["fields_refused"], json!(["body"]), "{bytes}");
    }
    one.heartbeat(json!({})).await.is(200, OK);
    assert_eq!(one.show().await["fields_refused"], json!(null), "the next valid heartbeat clears the list");
    let two = registry.online("two").await;
    let text = "x".repeat(70_000);
    let for_another = format!(r#"{{"workspace_id":"{}","sample_error":"{text}"}}"#, two.id);
    one.send("/registry/heartbeat", for_another).await.refuses(401, "invalid workspace auth token");
}

#[tokio::test(flavor = "multi_thread")]
async fn register_is_accepted_when_its_card_is_invalid() {
    let registry = Registry::start().await;
    let one = registry.begun("one", json!({})).await;
    let body = |card: &str| format!(r#"{{"id":"{}","url":"http://ws:8000","agent_card":{card}}}"#, one.id);
    for card in ["\"card\"", "[1]", "1", "{\"a\":NaN}", "{\"a\":1e999}"] {
        one.send("/registry/register", body(card)).await.is(200, REGISTERED);
        let view = one.show().await;
        assert_eq!(
            (&view["status"], &view["fields_refused"]),
            (&json!("online"), &json!(["agent_card"])),
            "{card}"
        );
        assert_eq!(view["agent_card"], json!(null), "{card}");
    }
    one.heartbeat(json!({})).await.is(200, OK);
    assert_eq!(
        one.show().await["fields_refused"],
        json!(["agent_card"]),
        "a heartbeat does not clear a refused card"
    );
    one.send("/registry/register", body(r#"{"name":"x\ud83d","name":"y\ud83d"}"#)).await.is(200, REGISTERED);
    let view = one.show().await;
    assert_eq!(
        (&view["agent_card"], &view["fields_refused"]),
        (&json!({ "name": "y\u{fffd}" }), &json!(null))
    );
    let large = json!({ "name": "x".repeat(70_000) }).to_string();
    one.send("/registry/register", body(&large)).await.is(200, REGISTERED);
    let view = one.show().await;
    assert_eq!(
        (&view["agent_card"], &view["fields_refused"]),
        (&json!({ "name": "y\u{fffd}" }), &json!(["agent_card"]))
    );
    let update = format!(r#"{{"workspace_id":"{}","agent_card":{{"name":"\ud83d"}}}}"#, one.id);
    one.send("/registry/update-card", update).await.is(200, r#"{"status":"updated"}"#);
    assert_eq!(one.show().await["agent_card"], json!({ "name": "\u{fffd}" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn third_consecutive_refused_request_is_reported() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let refused = || async {
        let events = registry.events_of(&one.id).await;
        events.into_iter().filter(|event| event["event_type"] == "AGENT_REQUESTS_REFUSED").collect::<Vec<_>>()
    };
    for _ in 0..2 {
        one.send("/registry/heartbeat", "nonsense").await.refuses(400, "invalid request body");
    }
    one.heartbeat(json!({})).await.is(200, OK);
    one.send("/registry/heartbeat", "nonsense").await.refuses(400, "invalid request body");
    assert_eq!(refused().await, Vec::<Value>::new());
    for _ in 0..5 {
        one.send("/registry/heartbeat", "nonsense").await.refuses(400, "invalid request body");
    }
    until("the refusals are reported", async || (!refused().await.is_empty()).then_some(())).await;
    let events = refused().await;
    let payload = json!({ "request": "heartbeat", "reason": "invalid request body" });
    assert_eq!((events.len(), &events[0]["payload"]), (1, &payload));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_a_revoked_token_are_reported() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let old = one.token.clone();
    one.order("restart").await.well();
    let late = AgentClient { token: old, ..one.clone() };
    for _ in 0..3 {
        late.heartbeat(json!({})).await.refuses(401, "invalid workspace auth token");
    }
    let reason = "the token was revoked or has expired";
    until("use of the revoked token is reported", async || {
        let events = registry.events_of(&one.id).await;
        events.into_iter().find(|event| {
            event["event_type"] == "AGENT_REQUESTS_REFUSED" && event["payload"]["reason"] == reason
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn role_is_limited_to_1024_bytes_in_create_and_update() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let patch = |bytes: usize| {
        one.ask(
            Ask::new("PATCH", format!("/workspaces/{}", one.id)).json(json!({ "role": "r".repeat(bytes) })),
        )
    };
    patch(1024).await.well();
    assert_eq!(patch(1025).await.status, 400);
    let create = json!({ "name": "two", "external": true, "role": "r".repeat(1025) });
    assert_eq!(registry.order(Ask::post("/workspaces").json(create)).await.status, 400);
    let cut = format!("{{\"role\":\"x{}\"}}", "\\ud83d");
    one.ask(Ask::new("PATCH", format!("/workspaces/{}", one.id)).body(cut)).await.well();
    assert_eq!(one.show().await["role"], "x\u{fffd}");
}
