//! Agents that poll (§11): registration, delivery of messages, and the answers to senders.

use std::{collections::BTreeSet, time::Duration};

use ostler::{
    domain::{
        activity::{ActivityQuery, Sender},
        ids::{ActivityId, WorkspaceId},
        time::Timestamp,
    },
    store::{NewActivity, Queued, Summary},
};
use serde_json::{Value, json};

use crate::support::{
    registry::{AgentClient, Registry},
    wire::{Answer, Ask},
};

const QUEUED: &str = r#"{"status":"queued","delivery_mode":"poll","method":"message/send"}"#;

fn hello(text: &str) -> Value {
    json!({
        "jsonrpc": "2.0", "id": "1", "method": "message/send",
        "params": { "message": { "messageId": "m", "role": "user", "parts": [{ "kind": "text", "text": text }] } },
    })
}

async fn poller<'r>(registry: &'r Registry, name: &str) -> AgentClient<'r> {
    let client = registry.external(name, json!({})).await;
    let answer = client.register(json!({ "url": "", "delivery_mode": "poll" })).await;
    answer.is(200, r#"{"status":"registered","delivery_mode":"poll"}"#);
    client
}

async fn polled(client: &AgentClient<'_>, query: &str) -> Vec<Value> {
    let ask = Ask::get(format!("/workspaces/{}/activity?type=a2a_receive{query}", client.id));
    client.ask(ask).await.well().as_array().expect("an array").clone()
}

fn same(answer: &Answer, expected: &Value) {
    assert_eq!((answer.status, &answer.json()), (200, expected), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn message_to_a_polling_agent_is_stored_and_queued() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, poller(&registry, "to").await);
    let queued: Value = serde_json::from_str(QUEUED).unwrap();
    same(&from.send_message(&to, hello("hi")).await, &queued);
    let rows = polled(&to, "").await;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    let row = &rows[0];
    assert_eq!((&row["source_id"], &row["target_id"]), (&json!(from.id), &json!(to.id)));
    assert_eq!(row["request_body"], hello("hi"), "the complete message is stored");
    assert_eq!(row["data"], json!({ "source": "peer_agent", "text": "hi" }));
    assert!(row.get("response_body").is_none(), "it has no answer yet: {row}");
    // A user's message has no source.
    same(&registry.order(Ask::post(format!("/workspaces/{}/a2a", to.id)).json(hello("you"))).await, &queued);
    assert_eq!(polled(&to, "&source=canvas").await[0]["source_id"], Value::Null);
    // The polling agent answers by a new message, without `X-Workspace-ID`. Its bearer token identifies it as the
    // sender.
    let back = poller(&registry, "back").await;
    let reply = Ask::post(format!("/workspaces/{}/a2a", back.id)).json(hello("answer"));
    same(&to.ask(reply).await, &queued);
    assert_eq!(polled(&back, "").await[0]["source_id"], json!(to.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn message_is_queued_before_the_polling_agent_has_connected() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    let to = registry.external("to", json!({ "delivery_mode": "poll" })).await;
    assert_eq!(to.status().await, "awaiting_agent");
    from.send_message(&to, hello("early")).await.well();
    let found = Ask::get(format!("/registry/discover/{}", to.id)).header("X-Workspace-ID", &from.id);
    from.ask(found).await.well();
    to.order("pause").await.well();
    assert_eq!(
        from.send_message(&to, hello("late")).await.status,
        409,
        "a paused workspace accepts no messages"
    );
    to.order("resume").await.well();
    let texts: Vec<_> = polled(&to, "").await.iter().map(|row| row["data"]["text"].clone()).collect();
    assert!(texts.contains(&json!("early")), "{texts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn register_sets_the_delivery_mode() {
    let registry = Registry::start().await;
    let one = registry.external("one", json!({})).await;
    for (body, status, answer) in [
        (json!({ "url": "" }), 200, r#"{"status":"registered"}"#),
        (
            json!({ "url": "", "delivery_mode": "push" }),
            200,
            r#"{"status":"registered","delivery_mode":"push"}"#,
        ),
        // The existing SDK sends a url with its own scheme and no mode.
        (json!({ "url": "remote://no-inbound" }), 200, r#"{"status":"registered","delivery_mode":"poll"}"#),
        // Without a new mode, the stored one is kept.
        (json!({ "url": "" }), 200, r#"{"status":"registered","delivery_mode":"poll"}"#),
        (json!({ "url": "ftp://never.checked" }), 200, r#"{"status":"registered","delivery_mode":"poll"}"#),
        (
            json!({ "url": "", "delivery_mode": "push" }),
            200,
            r#"{"status":"registered","delivery_mode":"push"}"#,
        ),
        (json!({ "delivery_mode": "pull" }), 400, r#"{"error":"delivery_mode must be 'push' or 'poll'"}"#),
    ] {
        one.register(body.clone()).await.is(status, answer);
    }
    let remote = one.register(json!({ "url": "remote://x", "delivery_mode": "push" })).await;
    assert_eq!(remote.status, 400, "{remote:?}");
    // The existing CLI registers without a url.
    let bare = json!({ "id": one.id, "agent_card": {}, "delivery_mode": "poll" });
    let answer = one.ask(Ask::post("/registry/register").json(bare)).await;
    answer.is(200, r#"{"status":"registered","delivery_mode":"poll"}"#);
    assert_eq!(one.show().await["delivery_mode"], "poll");
    // Containers always use push.
    let container = registry.begun("container", json!({})).await;
    let answer = container.register(json!({ "delivery_mode": "poll" })).await;
    answer.is(200, r#"{"status":"registered","delivery_mode":"push"}"#);
    let unauthenticated = json!({ "id": one.id, "url": "remote://no-inbound", "agent_card": {} });
    let answer = registry.ask(Ask::post("/registry/register").json(unauthenticated)).await;
    answer.refuses(401, "missing workspace auth token");
}

#[tokio::test(flavor = "multi_thread")]
async fn create_accepts_a_delivery_mode_for_external_workspaces() {
    let registry = Registry::start().await;
    let one = registry.external("one", json!({ "delivery_mode": "poll", "url": "remote://x" })).await;
    let view = one.show().await;
    assert_eq!((&view["delivery_mode"], &view["status"]), (&json!("poll"), &json!("awaiting_agent")));
    for (body, expected) in [
        (json!({ "name": "x", "external": true, "delivery_mode": "pull" }), "delivery_mode must be"),
        (
            json!({ "name": "x", "image": "i", "delivery_mode": "poll" }),
            "only an external workspace can poll",
        ),
    ] {
        let refused = registry.order(Ask::post("/workspaces").json(body)).await;
        assert!(refused.status == 400 && refused.text().contains(expected), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn message_to_an_agent_without_a_url_is_a_bad_gateway() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.external_at("to", "").await);
    let answer = from.send_message(&to, hello("hi")).await;
    assert!(answer.status == 502 && answer.text().contains("has no url"), "{answer:?}");
}

/// A message as stored by the proxy.
fn row(of: WorkspaceId, number: u32, at: Timestamp) -> NewActivity {
    NewActivity {
        id: ActivityId(uuid::Uuid::from_u128(number.into())),
        workspace: of,
        activity_type: "a2a_receive",
        source: None,
        target: None,
        method: None,
        summary: Summary::Text(None),
        status: "ok".into(),
        error_detail: None,
        duration_ms: None,
        request_body: Some(hello(&number.to_string()).to_string()),
        response_body: None,
        at,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unpolled_messages_are_kept_and_a_full_mailbox_refuses_more() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, poller(&registry, "to").await);
    from.send_message(&to, hello("first")).await.well();
    let first = polled(&to, "").await[0]["id"].as_str().unwrap().to_owned();
    // Activity that the agent reports evicts older rows, but never a message that waits to be polled.
    let id = to.id.parse().unwrap();
    let row = |number| row(id, number, registry.clock.now());
    registry.store.log_activity((0..600).map(row).collect()).await.unwrap();
    assert_eq!(polled(&to, &format!("&since_id={first}&limit=500")).await.len(), 500);
    // Once the agent's cursor has reached a message, the message counts as received and can be evicted like other rows.
    registry.store.log_activity((1000..1600).map(row).collect()).await.unwrap();
    let gone = to.ask(Ask::get(format!("/workspaces/{}/activity?since_id={first}", to.id))).await;
    assert_eq!(gone.status, 410, "{gone:?}");
    // A full mailbox refuses messages, and accepts them again after a poll.
    for number in 0..500 {
        let row = row(10_000 + number);
        assert_eq!(registry.store.queue_message(row).await.unwrap(), Queued::Stored);
    }
    let full = from.send_message(&to, hello("too much")).await;
    assert_eq!(
        (full.status, &full.json()["error"]["data"]["status"]),
        (503, &json!("mailbox_full")),
        "{full:?}"
    );
    assert!(full.header("retry-after").is_some());
    // An admin's query does not count as a poll.
    let newest = polled(&to, "&limit=1").await.remove(0);
    let admin_query = format!("/workspaces/{}/activity?since_id={}", to.id, newest["id"].as_str().unwrap());
    registry.order(Ask::get(&admin_query)).await.well();
    assert_eq!(from.send_message(&to, hello("too much")).await.status, 503);
    let ack = json!({ "acked_seq": newest["seq"] });
    to.ask(Ask::post(format!("/workspaces/{}/activity/ack", to.id)).json(ack)).await.well();
    from.send_message(&to, hello("room")).await.well();
    let ack = Ask::post(format!("/workspaces/{}/activity/ack", to.id)).body("{}");
    to.ask(ack).await.refuses(400, "invalid request body");
}

/// Polls like the existing SDK: the first cursor is the oldest row of the first page, later cursors are the newest row
/// of each page.
async fn polled_to_the_end(to: &AgentClient<'_>, first: &str) -> Vec<Value> {
    let mut rows = polled(to, first).await;
    let mut cursor = rows.last().expect("the first page has rows")["id"].as_str().unwrap().to_owned();
    loop {
        let more = polled(to, &format!("&limit=100&since_id={cursor}")).await;
        let Some(newest) = more.last() else { return rows };
        newest["id"].as_str().unwrap().clone_into(&mut cursor);
        rows.extend(more);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_agent_receives_every_message_sent_during_its_absence() {
    let registry = Registry::start().await;
    let firsts = ["&limit=100", "&limit=100&since_secs=30", "&limit=100&source=canvas"];
    for (of, first) in (0..).zip(firsts) {
        let to = poller(&registry, &format!("to-{of}")).await;
        let sent_at = registry.clock.now() - Duration::from_mins(1);
        for number in 0..150 {
            let row = NewActivity {
                id: ActivityId(uuid::Uuid::from_u128(1000 * of + u128::from(number))),
                ..row(to.id.parse().unwrap(), number, sent_at)
            };
            assert_eq!(registry.store.queue_message(row).await.unwrap(), Queued::Stored);
        }
        let rows = polled_to_the_end(&to, first).await;
        let texts: BTreeSet<_> =
            rows.iter().filter_map(|row| row["data"]["text"].as_str()?.parse::<u32>().ok()).collect();
        assert_eq!(texts, (0..150).collect(), "with a first page of {first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cursor_acknowledges_only_messages_that_match_its_query() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, poller(&registry, "to").await);
    registry.order(Ask::post(format!("/workspaces/{}/a2a", to.id)).json(hello("of a user"))).await.well();
    from.send_message(&to, hello("of an agent")).await.well();
    let cursor = polled(&to, "&source=agent").await[0]["id"].as_str().unwrap().to_owned();
    polled(&to, &format!("&source=agent&since_id={cursor}")).await;
    let id = to.id.parse().unwrap();
    let query =
        |sender| ActivityQuery { after: Some(cursor.parse().unwrap()), sender, ..ActivityQuery::default() };
    let waits = |sender| registry.store.waiting_up_to(id, query(sender));
    assert_eq!(waits(Some(Sender::Agent)).await.unwrap(), None, "the message was polled");
    assert!(waits(Some(Sender::User)).await.unwrap().is_some(), "the message was not polled yet");
    // If the cursor is the id of another workspace's row, it is unknown and acknowledges no message.
    let other = poller(&registry, "other").await;
    from.send_message(&other, hello("later")).await.well();
    let foreign = polled(&other, "").await[0]["id"].as_str().unwrap().to_owned();
    let gone = to.ask(Ask::get(format!("/workspaces/{}/activity?since_id={foreign}", to.id))).await;
    assert_eq!(gone.status, 410, "{gone:?}");
    assert!(waits(None).await.unwrap().is_some(), "the message was not polled yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_messages_survive_daemon_restart() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, poller(&registry, "to").await);
    from.send_message(&to, hello("kept")).await.well();
    let (id, token) = (to.id.clone(), to.token.clone());
    let registry = registry.restart().await;
    let to = AgentClient { registry: &registry, id, token };
    assert_eq!(polled(&to, "").await[0]["data"]["text"], "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn message_above_1_mib_to_a_polling_agent_is_refused() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, poller(&registry, "to").await);
    let answer = from.send_message(&to, hello(&"x".repeat(1 << 20))).await;
    assert!(answer.status == 413 && answer.text().contains("must not exceed 1 MiB"), "{answer:?}");
    from.send_message(&to, hello(&"x".repeat(900 << 10))).await.well();
    let rows = polled(&to, "").await;
    assert_eq!(rows.len(), 1, "the refused message was stored");
    assert_eq!(
        rows[0]["request_body"]["params"]["message"]["parts"][0]["text"].as_str().unwrap().len(),
        900 << 10
    );
}
