//! Requests while the store cannot answer (§2). A request that needs the store gets 503 with `Retry-After`, never a 4xx
//! response. No status changes, and authentication is not weakened.

use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;

use crate::support::{
    registry::{AgentClient, Registry},
    wire::{Answer, Ask, keys_of},
};

fn database(registry: &Registry) -> Connection {
    let sql = Connection::open(registry.database()).expect("the database opens");
    sql.busy_timeout(Duration::from_secs(10)).expect("a timeout is set");
    sql
}

#[track_caller]
fn is_unavailable(answer: &Answer) {
    assert_eq!((answer.status, keys_of(&answer.json())), (503, vec!["error".to_owned()]), "{answer:?}");
    let seconds: u64 = answer.header("retry-after").expect("a Retry-After header").parse().expect("seconds");
    assert!(seconds > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_heartbeat_write_is_a_503_and_resets_liveness_windows() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let starting = registry.begun("starting", json!({})).await;
    // From here on, writes of heartbeats fail as on a full disk.
    let sql = database(&registry);
    let full = "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END";
    sql.execute_batch(&format!("CREATE TRIGGER full BEFORE UPDATE ON pulse {full}")).unwrap();
    let before = registry.clock.awake();
    is_unavailable(&one.heartbeat(json!({ "error_rate": 1, "uptime_seconds": 1 })).await);
    let now = registry.clock.awake();
    assert!(registry.listening.epoch(now) <= now.since(before), "the liveness windows were not reset");
    let before = registry.clock.awake();
    is_unavailable(&one.register(json!({})).await);
    let now = registry.clock.awake();
    assert!(registry.listening.epoch(now) <= now.since(before), "the liveness windows were not reset");
    is_unavailable(&starting.heartbeat(json!({})).await);
    assert_eq!((one.status().await, starting.status().await), ("online".into(), "provisioning".into()));
    // Authentication is unaffected: no additional token is accepted or refused.
    let unauthorized = AgentClient { token: "A".repeat(43), ..one.clone() };
    unauthorized.heartbeat(json!({})).await.refuses(401, "invalid workspace auth token");
    one.ask(Ask::get(format!("/workspaces/{}/state", one.id))).await.well();
    assert_eq!(one.show().await["last_error_rate"], json!(0.0), "a failed heartbeat was stored");
    assert!(registry.store.memory_is_true().await.unwrap());

    sql.execute_batch("DROP TRIGGER full").unwrap();
    starting.heartbeat(json!({})).await.is(200, r#"{"status":"ok"}"#);
    one.heartbeat(json!({ "error_rate": 1, "uptime_seconds": 1 })).await.is(200, r#"{"status":"ok"}"#);
    assert_eq!((one.status().await, starting.status().await), ("degraded".into(), "online".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_answer_503_when_the_store_stays_locked() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let other = registry.online("other").await;
    let sql = database(&registry);
    sql.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let update = Ask::post("/registry/update-card").json(json!({ "workspace_id": one.id, "agent_card": {} }));
    let create = Ask::post("/workspaces").json(json!({ "name": "new", "external": true }));
    let pause = format!("/workspaces/{}/pause", other.id);
    let before = registry.clock.awake();
    let (heartbeat, update, create, pause) = tokio::join!(
        one.heartbeat(json!({ "uptime_seconds": 1 })),
        one.ask(update),
        registry.order(create),
        registry.order(Ask::post(pause))
    );
    for answer in [&heartbeat, &update, &create, &pause] {
        is_unavailable(answer);
    }
    let now = registry.clock.awake();
    assert!(registry.listening.epoch(now) <= now.since(before), "the liveness windows were not reset");
    // Requests that only read are still answered.
    one.ask(Ask::get(format!("/workspaces/{}/state", one.id))).await.well();
    assert_eq!(other.status().await, "online");
    sql.execute_batch("COMMIT").unwrap();
    one.heartbeat(json!({ "uptime_seconds": 1 })).await.is(200, r#"{"status":"ok"}"#);
    other.order("pause").await.well();
    registry.create("new", json!({ "external": true })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_lookup_failure_is_a_503_and_not_a_401() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let gone = registry.online("gone").await;
    registry.order(Ask::new("DELETE", format!("/workspaces/{}", gone.id))).await.well();
    let sql = database(&registry);
    sql.execute_batch("ALTER TABLE tokens RENAME TO away").unwrap();
    // It cannot be determined now whether the token belonged to a removed workspace.
    is_unavailable(&gone.heartbeat(json!({})).await);
    is_unavailable(&gone.ask(Ask::get(format!("/workspaces/{}/state", gone.id))).await);
    one.ask(Ask::get(format!("/workspaces/{}/state", one.id))).await.well();
    sql.execute_batch("ALTER TABLE away RENAME TO tokens").unwrap();
    gone.heartbeat(json!({})).await.refuses(410, "workspace removed");
}
