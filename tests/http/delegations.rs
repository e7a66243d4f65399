//! Delegations (§12): created, sent, polled and reported; also across a restart of the daemon.

use std::time::Duration;

use ostler::{
    domain::ids::{DelegationId, WorkspaceId},
    runtime::entropy::{Entropy as _, SystemEntropy},
    store::{Delegated, NewDelegation},
};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpListener};
use uuid::Uuid;

use super::agent::{Agent, Reply};
use crate::support::{
    registry::{AgentClient, Options, Registry, until},
    wire::{Answer, Ask, keys_of},
};

const REPLY: &str = r#"{"jsonrpc":"2.0","id":"1","result":{"parts":[{"kind":"text","text":"done"}]}}"#;

fn ok_reply() -> Reply {
    Reply::This(200, "application/json", REPLY.into())
}

async fn delegate(from: &AgentClient<'_>, body: Value) -> Answer {
    from.ask(Ask::post(format!("/workspaces/{}/delegate", from.id)).json(body)).await
}

async fn list(of: &AgentClient<'_>) -> Vec<Value> {
    let ask = Ask::get(format!("/workspaces/{}/delegations", of.id));
    of.ask(ask).await.well().as_array().expect("a bare array").clone()
}

/// Waits until a delegation has ended. Returns the first of its rows in the list, as a runtime does to get the result.
async fn ended(of: &AgentClient<'_>, id: &str) -> Value {
    until(&format!("delegation {id} ends"), async || {
        let rows = list(of).await;
        let ends = |row: &&Value| row["status"] == "completed" || row["status"] == "failed";
        rows.iter().find(|row| row["delegation_id"] == id && ends(row)).cloned()
    })
    .await
}

fn id_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()["delegation_id"].as_str().unwrap().to_owned()
}

/// Creates a delegation of the given age.
async fn begun_before(of: &AgentClient<'_>, to: &str, age: Duration, sent_by_ostler: bool) -> DelegationId {
    let id = DelegationId(SystemEntropy.uuid());
    let new = NewDelegation {
        id,
        workspace: of.id.parse().unwrap(),
        target: to.parse().unwrap(),
        key: None,
        task: "dig".into(),
        sent_by_ostler,
        at: of.registry.clock.now() - age,
    };
    assert_eq!(of.registry.store.begin_delegation(new).await.unwrap(), Delegated::New);
    id
}

fn database(registry: &Registry) -> Connection {
    let sql = Connection::open(registry.database()).expect("the database opens");
    sql.busy_timeout(Duration::from_secs(10)).expect("a timeout is set");
    sql
}

/// Status and error of a delegation's row.
fn row_state(registry: &Registry, id: DelegationId) -> (String, Option<String>) {
    let query = "SELECT status, error FROM delegations WHERE id = ?1";
    let row = database(registry).query_row(query, [id.0.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)));
    row.expect("the row exists")
}

/// Makes updates fail as on a full disk.
const FULL: &str = "CREATE TRIGGER full BEFORE UPDATE ON delegations
                    BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END";

fn fast_clock() -> Options {
    Options { speed: 20, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn delegation_is_sent_and_its_result_can_be_polled() {
    let registry = Registry::start().await;
    let agent = Agent::replying(ok_reply()).await;
    let to = registry.external_at("to", &agent.url()).await;
    let from = registry.online("from").await;
    from.ask(Ask::get(format!("/workspaces/{}/delegations", from.id))).await.is(200, "[]");
    let answer = delegate(&from, json!({ "target_id": to.id, "task": "dig" })).await;
    let body = answer.has(202, &["delegation_id", "status", "target_id"]);
    assert_eq!((&body["status"], &body["target_id"]), (&json!("delegated"), &json!(to.id)));
    let id = id_of(&answer);
    let result = ended(&from, &id).await;
    assert_eq!(
        keys_of(&result),
        [
            "created_at",
            "delegation_id",
            "id",
            "method",
            "response_preview",
            "source_id",
            "status",
            "summary",
            "target_id",
            "type"
        ]
    );
    for (key, value) in [
        ("type", json!("delegation")),
        ("method", json!("delegate_result")),
        ("source_id", json!(from.id)),
        ("target_id", json!(to.id)),
        ("status", json!("completed")),
        ("response_preview", json!("done")),
    ] {
        assert_eq!(result[key], value, "{key} of {result}");
    }
    // The list has the result before its delegation, and both rows have the same status.
    let rows = list(&from).await;
    let methods: Vec<_> = rows.iter().map(|row| (&row["method"], &row["status"])).collect();
    let completed = json!("completed");
    assert_eq!(methods, [(&json!("delegate_result"), &completed), (&json!("delegate"), &completed)]);
    assert_ne!(rows[0]["id"], rows[1]["id"], "two rows have the same id");
    // The request that the agent received.
    let request = &agent.requests()[0];
    assert_eq!(request.proofs(), [to.proof()]);
    let body = request.json();
    assert_eq!(request.headers["x-workspace-id"], from.id.as_str());
    assert_eq!(body["params"]["message"]["messageId"], json!(id));
    assert_eq!(body["params"]["metadata"]["delegation_id"], json!(id));
    assert_eq!(body["params"]["message"]["parts"][0]["text"], "dig");
    // Recorded like any message: one row under the target, none under the delegator.
    let rows = to.ask(Ask::get(format!("/workspaces/{}/activity", to.id))).await.well();
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]["source_id"]), (1, &json!(from.id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_delegation_is_refused_with_the_protocol_error() {
    let registry = Registry::start().await;
    let (one, two) = (registry.online("one").await, registry.online("two").await);
    for (body, error) in [
        (json!({}), "invalid delegation request"),
        (json!({ "target_id": two.id }), "invalid delegation request"),
        (json!({ "target_id": two.id, "task": "" }), "invalid delegation request"),
        (json!({ "target_id": "two", "task": "t" }), "target_id must be a valid UUID"),
        (json!({ "target_id": one.id, "task": "t" }), "self-delegation not permitted"),
    ] {
        delegate(&one, body).await.refuses(400, error);
    }
    // The existing SDK posts to the path with the target's id, and presents its own token.
    let foreign = Ask::post(format!("/workspaces/{}/delegate", two.id)).json(json!({ "task": "t" }));
    one.ask(foreign).await.refuses(401, "invalid workspace auth token");
    assert!(list(&one).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn delegation_fails_when_target_is_unknown_or_forbidden() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let child = registry.online_below("child", &one).await;
    let other = registry.online("other").await;
    for (target, expected) in
        [("00000000-0000-4000-8000-000000000000", "not found"), (&child.id, "access denied")]
    {
        let from = if expected == "not found" { &one } else { &other };
        let id = id_of(&delegate(from, json!({ "target_id": target, "task": "t" })).await);
        let row = ended(from, &id).await;
        assert!(row["status"] == "failed" && row["error"].as_str().unwrap().contains(expected), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idempotency_key_prevents_resending_unless_delegation_failed() {
    let registry = Registry::start().await;
    let agent = Agent::replying(ok_reply()).await;
    let to = registry.external_at("to", &agent.url()).await;
    let from = registry.online("from").await;
    let body = json!({ "target_id": to.id, "task": "dig", "idempotency_key": "k" });
    let id = id_of(&delegate(&from, body.clone()).await);
    ended(&from, &id).await;
    let again = delegate(&from, body.clone()).await;
    let repeated = again.has(200, &["delegation_id", "idempotent_hit", "status", "target_id"]);
    assert_eq!((&repeated["delegation_id"], &repeated["status"]), (&json!(id), &json!("completed")));
    assert_eq!(agent.requests().len(), 1, "the task was sent again");
    // Keys are scoped to the delegator.
    let other = registry.online("other").await;
    assert_ne!(id_of(&delegate(&other, body.clone()).await), id);
    // A failed delegation runs again, as a new one.
    let gone = json!({
        "target_id": "00000000-0000-4000-8000-000000000000", "task": "t", "idempotency_key": "f",
    });
    let first = id_of(&delegate(&from, gone.clone()).await);
    ended(&from, &first).await;
    let second = id_of(&delegate(&from, gone).await);
    assert_ne!(first, second);
    ended(&from, &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delegation_reports_the_failure_of_the_agent() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    for (number, (reply, expected)) in [
        (
            Reply::This(500, "text/plain", b"broken".to_vec()),
            "responded with 500 Internal Server Error: broken",
        ),
        (
            Reply::This(200, "application/json", br#"{"error":{"code":1,"message":"not mine"}}"#.to_vec()),
            "not mine",
        ),
        (
            Reply::This(200, "application/json", br#"{"result":{"status":{"state":"failed"}}}"#.to_vec()),
            "ended with state failed",
        ),
        (Reply::This(200, "text/html", b"<html>".to_vec()), "responded with 200 OK: <html>"),
    ]
    .into_iter()
    .enumerate()
    {
        let agent = Agent::replying(reply).await;
        let to = registry.external_at(&format!("to {number}"), &agent.url()).await;
        let id = id_of(&delegate(&from, json!({ "target_id": to.id, "task": "t" })).await);
        let row = ended(&from, &id).await;
        assert!(row["status"] == "failed" && row["error"].as_str().unwrap().contains(expected), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delegation_to_a_polling_agent_is_queued() {
    let registry = Registry::start().await;
    let to = registry.external("to", json!({ "delivery_mode": "poll" })).await;
    let from = registry.online("from").await;
    let id = id_of(&delegate(&from, json!({ "target_id": to.id, "task": "dig" })).await);
    until("the delegation is queued", async || (list(&from).await[0]["status"] == "queued").then_some(()))
        .await;
    let rows = to.ask(Ask::get(format!("/workspaces/{}/activity?type=a2a_receive", to.id))).await.well();
    assert_eq!(rows[0]["request_body"]["params"]["metadata"]["delegation_id"], json!(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn runtime_records_and_updates_its_own_delegations() {
    let registry = Registry::start().await;
    let (one, two) = (registry.online("one").await, registry.online("two").await);
    let id = Uuid::from_u128(7).to_string();
    let record = || {
        let body = json!({ "target_id": two.id, "task": "dig", "delegation_id": id });
        Ask::post(format!("/workspaces/{}/delegations/record", one.id)).json(body)
    };
    for _ in 0..2 {
        let recorded = one.ask(record()).await.has(202, &["delegation_id", "status"]);
        assert_eq!((&recorded["delegation_id"], &recorded["status"]), (&json!(id), &json!("recorded")));
    }
    registry.ask(record()).await.refuses(401, "missing workspace auth token");
    let path = format!("/workspaces/{}/delegations/{id}/update", one.id);
    let update = |body: Value| Ask::post(&path).json(body);
    let odd = one.ask(update(json!({ "status": "queued" }))).await;
    odd.refuses(400, "status must be 'completed' or 'failed'");
    let body = json!({ "status": "completed", "response_preview": "é".repeat(400) });
    let updated = one.ask(update(body)).await.has(200, &["delegation_id", "status"]);
    assert_eq!(updated["status"], "completed");
    let rows = list(&one).await;
    assert_eq!((rows.len(), rows[0]["response_preview"].as_str().unwrap().len()), (2, 300), "{rows:#?}");
    // A final status does not change.
    let updated = one.ask(update(json!({ "status": "failed", "error": "late" }))).await.well();
    assert_eq!(updated["status"], "completed");
    let foreign = two.ask(Ask::post(format!("/workspaces/{}/delegations/{id}/update", two.id)).json(json!({
        "status": "failed"
    })));
    foreign.await.refuses(404, "delegation not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_delegations_are_limited_per_workspace() {
    let registry = Registry::start().await;
    let (one, two) = (registry.online("one").await, registry.external("two", json!({})).await);
    let id: WorkspaceId = one.id.parse().unwrap();
    let new = |number: u128| NewDelegation {
        id: DelegationId(Uuid::from_u128(number)),
        workspace: id,
        target: two.id.parse().unwrap(),
        key: None,
        task: "t".into(),
        sent_by_ostler: false,
        at: registry.clock.now(),
    };
    for number in 0..64 {
        assert_eq!(registry.store.begin_delegation(new(number)).await.unwrap(), Delegated::New);
    }
    let full = delegate(&one, json!({ "target_id": two.id, "task": "t" })).await;
    assert_eq!(full.status, 429, "{full:?}");
    assert!(list(&one).await.len() <= 50);
}

/// A delegation that was never sent is sent once by the next daemon. One that may have been sent is reported as failed
/// and not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn interrupted_delegation_fails_or_is_sent_once_after_restart() {
    let registry = Registry::start().await;
    let silent = Agent::replying(Reply::Nothing).await;
    let agent = Agent::replying(ok_reply()).await;
    let slow = registry.external_at("slow", &silent.url()).await.id;
    let to = registry.external_at("to", &agent.url()).await.id;
    let from = registry.external("from", json!({})).await;
    let sent =
        id_of(&delegate(&from, json!({ "target_id": slow, "task": "t", "idempotency_key": "k" })).await);
    until("the delegation is sent", async || (silent.requests().len() == 1).then_some(())).await;
    // A delegation that was not sent because of a crash.
    let pending = DelegationId(Uuid::from_u128(9));
    let new = NewDelegation {
        id: pending,
        workspace: from.id.parse().unwrap(),
        target: to.parse().unwrap(),
        key: None,
        task: "dig".into(),
        sent_by_ostler: true,
        at: registry.clock.now(),
    };
    registry.store.begin_delegation(new).await.unwrap();
    let (id, token) = (from.id.clone(), from.token.clone());
    let registry = registry.restart().await;
    let from = AgentClient { registry: &registry, id, token };
    let row = ended(&from, &sent).await;
    assert_eq!(row["status"], "failed");
    assert!(row["error"].as_str().unwrap().contains("restarted"), "{row}");
    assert_eq!(silent.requests().len(), 1, "the interrupted delegation was sent again");
    assert_eq!(ended(&from, &pending.to_string()).await["status"], "completed");
    assert_eq!(agent.requests().len(), 1);
    // The key of the failed delegation can be used again, so the task can be delegated again.
    let body = json!({ "target_id": to, "task": "t", "idempotency_key": "k" });
    ended(&from, &id_of(&delegate(&from, body).await)).await;
    assert_eq!(agent.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn delegator_with_many_open_delegations_does_not_block_others() {
    let registry = Registry::start().await;
    let (silent, agent) = (Agent::replying(Reply::Nothing).await, Agent::replying(ok_reply()).await);
    let slow = registry.external_at("slow", &silent.url()).await.id;
    let to = registry.external_at("to", &agent.url()).await.id;
    let (greedy, other) = (registry.online("greedy").await, registry.online("other").await);
    for number in 0..64 {
        let task = json!({ "target_id": slow, "task": format!("{number}") });
        let ask = Ask::post(format!("/workspaces/{}/delegate", greedy.id)).json(task);
        assert_eq!(registry.order(ask).await.status, 202, "number {number}");
    }
    until("the allowed number is sent", async || (silent.requests().len() >= 8).then_some(())).await;
    let id = id_of(&delegate(&other, json!({ "target_id": to, "task": "dig" })).await);
    assert_eq!(ended(&other, &id).await["status"], "completed");
    assert_eq!(silent.requests().len(), 8, "more than eight delegations of one workspace are in flight");
}

#[tokio::test(flavor = "multi_thread")]
async fn overdue_delegations_do_not_count_against_the_limit() {
    let registry = Registry::start().await;
    let (one, two) = (registry.online("one").await, registry.external("two", json!({})).await);
    for _ in 0..64 {
        begun_before(&one, &two.id, Duration::from_hours(7), false).await;
    }
    id_of(&delegate(&one, json!({ "target_id": two.id, "task": "t" })).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn overdue_delegation_fails_even_behind_many_newer_ones() {
    let registry = Registry::start().await;
    let (one, two) = (registry.online("one").await, registry.external("two", json!({})).await);
    let overdue = begun_before(&one, &two.id, Duration::from_hours(7), false).await;
    for _ in 0..60 {
        // The rows are inserted directly, because a request to the API would end the overdue delegation.
        let sql = "INSERT INTO delegations (id, workspace, target, task, sent_by_ostler, status, created_at)
                   SELECT randomblob(16), workspace, target, task, 0, 'pending', ?1 FROM delegations LIMIT 1";
        database(&registry).execute(sql, [registry.clock.now().0]).unwrap();
    }
    list(&one).await;
    assert_eq!(row_state(&registry, overdue), ("failed".into(), Some("no result within 6 hours".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn delegation_keeps_only_the_beginning_of_a_long_answer() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    let long = "x".repeat(5 << 20);
    for (number, (result, status, text)) in [
        (
            json!({ "parts": [{ "kind": "text", "text": format!("begins {long}") }] }),
            "completed",
            "begins xxx",
        ),
        (
            json!({ "status": { "state": "failed" }, "parts": [{ "text": format!("why {long}") }] }),
            "failed",
            "why xxx",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = json!({ "jsonrpc": "2.0", "id": "1", "result": result }).to_string();
        let agent = Agent::replying(Reply::This(200, "application/json", answer.into())).await;
        let to = registry.external_at(&format!("to {number}"), &agent.url()).await;
        let id = id_of(&delegate(&from, json!({ "target_id": to.id, "task": "t" })).await);
        let row = ended(&from, &id).await;
        let field = if status == "completed" { "response_preview" } else { "error" };
        let shown = row[field].as_str().unwrap_or_default();
        assert!(row["status"] == status && shown.contains(text), "{row}");
        assert_eq!(agent.requests().len(), 1, "the task was sent again after a long answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delegation_is_sent_when_the_store_is_writable_again() {
    let registry = Registry::wanting(fast_clock()).await;
    let agent = Agent::replying(ok_reply()).await;
    let to = registry.external_at("to", &agent.url()).await.id;
    let from = registry.online("from").await;
    database(&registry).execute_batch(FULL).unwrap();
    let id = id_of(&delegate(&from, json!({ "target_id": to, "task": "dig" })).await);
    // The delivery loop has tried to send the delegation before this sleep ends.
    let after = DelegationId(Uuid::parse_str(&id).unwrap());
    registry.clock.sleep(Duration::from_secs(2)).await;
    assert_eq!((row_state(&registry, after).0.as_str(), agent.requests().len()), ("pending", 0));
    database(&registry).execute_batch("DROP TRIGGER full").unwrap();
    assert_eq!(ended(&from, &id).await["status"], "completed");
    assert_eq!(agent.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn task_older_than_its_limit_is_not_sent_after_restart() {
    let registry = Registry::start().await;
    let agent = Agent::replying(ok_reply()).await;
    let to = registry.external_at("to", &agent.url()).await.id;
    let from = registry.external("from", json!({})).await;
    let late = begun_before(&from, &to, Duration::from_hours(50), true).await;
    // Five hours old, so not overdue: it must still be sent.
    let timely = begun_before(&from, &to, Duration::from_hours(5), true).await;
    let (id, token) = (from.id.clone(), from.token.clone());
    database(&registry)
        .execute(
            "UPDATE delegations SET status = 'pending', finished_at = NULL, error = NULL WHERE id = ?1",
            [late.0.as_bytes()],
        )
        .unwrap();
    let registry = registry.restart().await;
    let from = AgentClient { registry: &registry, id, token };
    assert_eq!(ended(&from, &timely.to_string()).await["status"], "completed");
    let row = ended(&from, &late.to_string()).await;
    assert!(row["status"] == "failed" && row["error"].as_str().unwrap().contains("not sent"), "{row}");
    assert_eq!(agent.requests().len(), 1, "the overdue delegation was sent");
}

/// As long as the open delegations of the previous daemon cannot be loaded, new delegations wait. When they are loaded,
/// each new delegation is both in the queue and in the loaded rows. It must be sent only once.
#[tokio::test(flavor = "multi_thread")]
async fn new_delegation_is_sent_once_if_it_is_queued_and_loaded() {
    let registry = Registry::wanting(fast_clock()).await;
    let (silent, agent) = (Agent::replying(Reply::Nothing).await, Agent::replying(ok_reply()).await);
    let slow = registry.external_at("slow", &silent.url()).await.id;
    let to = registry.external_at("to", &agent.url()).await.id;
    let from = registry.external("from", json!({})).await;
    let old = id_of(&delegate(&from, json!({ "target_id": slow, "task": "old" })).await);
    until("the delegation is sent", async || (silent.requests().len() == 1).then_some(())).await;
    database(&registry).execute_batch(FULL).unwrap();
    let (id, token) = (from.id.clone(), from.token.clone());
    let registry = registry.restart().await;
    let from = AgentClient { registry: &registry, id, token };
    let new = id_of(&delegate(&from, json!({ "target_id": slow, "task": "new" })).await);
    let last = id_of(&delegate(&from, json!({ "target_id": to, "task": "last" })).await);
    database(&registry).execute_batch("DROP TRIGGER full").unwrap();
    ended(&from, &old).await;
    ended(&from, &last).await;
    until("the delegation is sent", async || (silent.requests().len() > 1).then_some(())).await;
    let sent = silent.requests().iter().filter(|request| request.json()["id"] == json!(new)).count();
    assert_eq!((sent, agent.requests().len()), (1, 1), "a delegation was sent twice or not at all");
}

#[tokio::test(flavor = "multi_thread")]
async fn response_to_a_recorded_known_id_depends_on_owner_and_status() {
    let registry = Registry::start().await;
    let (one, two) = (registry.online("one").await, registry.online("two").await);
    let record = async |of: &AgentClient<'_>, id: &str| {
        let body = json!({ "target_id": two.id, "task": "dig", "delegation_id": id });
        of.ask(Ask::post(format!("/workspaces/{}/delegations/record", of.id)).json(body)).await
    };
    let update = async |of: &AgentClient<'_>, id: &str, status: &str| {
        let path = format!("/workspaces/{}/delegations/{id}/update", of.id);
        of.ask(Ask::post(path).json(json!({ "status": status, "error": "no" }))).await.well()["status"]
            .clone()
    };
    // When a workspace records its own failed delegation again, the delegation starts again, as with an idempotency
    // key.
    let own = Uuid::from_u128(7).to_string();
    assert_eq!(record(&one, &own).await.status, 202);
    assert_eq!(update(&one, &own, "failed").await, "failed");
    for _ in 0..2 {
        assert_eq!(
            record(&one, &own).await.status,
            202,
            "a failed delegation can be recorded again, also repeatedly"
        );
    }
    let rows = list(&one).await;
    assert_eq!((rows.len(), &rows[0]["status"]), (1, &json!("pending")), "{rows:#?}");
    assert_eq!(update(&one, &own, "completed").await, "completed");
    assert_eq!(record(&one, &own).await.status, 202);
    assert_eq!(list(&one).await[0]["status"], "completed", "a completed delegation keeps its status");
    // A delegation that ostler carries out.
    let gone = json!({ "target_id": "00000000-0000-4000-8000-000000000000", "task": "t" });
    let carried = id_of(&delegate(&one, gone).await);
    ended(&one, &carried).await;
    assert_eq!(record(&one, &carried).await.status, 202);
    assert_eq!(
        ended(&one, &carried).await["status"],
        "failed",
        "a delegation that ostler carries out keeps its status"
    );
    // A delegation of another workspace.
    let taken = record(&two, &own).await;
    taken.refuses(409, "delegation_id is in use: record the delegation under another id");
    assert!(list(&two).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_id_and_idempotency_key_do_not_collide() {
    let registry = Registry::start().await;
    let (one, two) = (registry.online("one").await, registry.external("two", json!({})).await);
    let id = Uuid::from_u128(8).to_string();
    let recorded = json!({ "target_id": two.id, "task": "dig", "delegation_id": id });
    let recorded = Ask::post(format!("/workspaces/{}/delegations/record", one.id)).json(recorded);
    assert_eq!(one.ask(recorded).await.status, 202);
    let keyed = json!({ "target_id": two.id, "task": "fill", "idempotency_key": id });
    assert_ne!(id_of(&delegate(&one, keyed).await), id);
}

/// The target's answer never ends, so only the time limit ends the delegation.
#[tokio::test(flavor = "multi_thread")]
async fn delegation_fails_after_30_minutes_of_an_endless_answer() {
    let registry = Registry::wanting(Options { speed: 600, ..Options::default() }).await;
    let (events, endless) = tokio::sync::mpsc::unbounded_channel();
    let agent = Agent::replying(Reply::Events(endless)).await;
    let to = registry.external_at("to", &agent.url()).await;
    let from = registry.external("from", json!({})).await;
    let begun = registry.clock.now();
    let id = id_of(&delegate(&from, json!({ "target_id": to.id, "task": "t" })).await);
    let row = until("the delegation ends", async || {
        to.heartbeat(json!({})).await;
        let _sent = events.send(" ".into());
        let rows = list(&from).await;
        rows.iter().find(|row| row["delegation_id"] == id && row["status"] == "failed").cloned()
    })
    .await;
    assert!(row["error"].as_str().unwrap().contains("did not respond within 30 minutes"), "{row}");
    assert!(registry.clock.now().since(begun) >= Duration::from_mins(30));
    until("the connection to the agent is closed", async || (agent.left() == 1).then_some(())).await;
}

/// The agent closes the connection after the first attempt, and may have done the task. Both attempts carry the same
/// id, so that the agent can detect the duplicate.
#[tokio::test(flavor = "multi_thread")]
async fn task_is_sent_at_most_twice_when_the_connection_closes() {
    let registry = Registry::wanting(fast_clock()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("its address"));
    let to = registry.external_at("to", &url).await.id;
    let from = registry.online("from").await;
    let requests = async || {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut read = vec![0; 16 << 10];
        let length = stream.read(&mut read).await.expect("a request");
        String::from_utf8_lossy(&read[..length]).into_owned()
    };
    let id = id_of(&delegate(&from, json!({ "target_id": to, "task": "dig" })).await);
    for number in 1..=2 {
        assert!(requests().await.contains(&format!(r#""messageId":"{id}""#)), "number {number}");
    }
    let row = ended(&from, &id).await;
    assert_eq!(row["status"], "failed");
    assert!(row["error"].as_str().unwrap().ends_with("(sent twice)"), "{row}");
    assert!(row["summary"].as_str().unwrap().ends_with("failed (sent twice)"), "{row}");
}
