//! Limits per workspace: in-flight requests, bytes in memory, writes.

#![allow(clippy::disallowed_methods, reason = "tasks of the test hold real connections")]

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::agent::{Agent, Reply};
use crate::support::{
    registry::{AgentClient, Registry, until},
    wire::{Answer, Ask, Wire},
    worst_agent::{Daemon, Scale, broken, lines, play},
};

/// Limit of in-flight messages per workspace.
const MESSAGES: usize = 32;

fn message(text: &str) -> Value {
    json!({
        "jsonrpc": "2.0", "id": "1", "method": "message/send",
        "params": { "message": { "messageId": "m", "role": "user", "parts": [{ "kind": "text", "text": text }] } },
    })
}

/// Sends a request on its own connection without waiting for the answer.
async fn begun(registry: &Registry, ask: Ask) -> Wire {
    let mut wire = Wire::open(registry.address).await;
    wire.write(&ask.bytes()).await;
    wire
}

fn is_rate_limited(answer: &Answer) {
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.json()["error"].is_string(), "{answer:?}");
    let seconds = answer.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
    assert_eq!(seconds, answer.json()["retry_after"].as_u64(), "{answer:?}");
    assert!(seconds.is_some_and(|seconds| seconds >= 1), "{answer:?}");
}

/// Asserts that a JSON-RPC request was refused like in [`is_rate_limited`], but with a JSON-RPC error.
fn json_rpc_call_is_rate_limited(answer: &Answer) {
    let body = answer.json();
    assert_eq!(
        (answer.status, &body["jsonrpc"], &body["id"]),
        (429, &json!("2.0"), &json!("1")),
        "{answer:?}"
    );
    let seconds = answer.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
    assert!(seconds.is_some_and(|seconds| seconds >= 1), "{answer:?}");
    assert_eq!(seconds, body["error"]["data"]["retry_after"].as_u64(), "{answer:?}");
}

async fn heartbeat_is_accepted(one: &AgentClient<'_>) {
    one.heartbeat(json!({})).await.is(200, r#"{"status":"ok"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_flight_messages_are_limited_per_workspace() {
    let registry = Registry::start().await;
    let agent = Agent::replying(Reply::Nothing).await;
    let to = registry.external_at("to", &agent.url()).await;
    let (greedy, modest) = (registry.online("greedy").await, registry.online("modest").await);
    let mut held = Vec::new();
    for _ in 0..MESSAGES {
        held.push(begun(&registry, greedy.message(&to).token(&greedy.token).json(message("hi"))).await);
    }
    until("the agent has all messages", async || (agent.requests().len() == MESSAGES).then_some(())).await;
    json_rpc_call_is_rate_limited(&greedy.send_message(&to, message("hi")).await);
    is_rate_limited(&greedy.send_message(&to, json!({ "method": "message/send" })).await);
    // Other requests have their own slots, and heartbeats have no limit.
    greedy.ask(Ask::get(format!("/registry/{}/peers", greedy.id))).await.well();
    heartbeat_is_accepted(&greedy).await;
    greedy.register(json!({})).await.well();
    heartbeat_is_accepted(&modest).await;
    held.push(begun(&registry, modest.message(&to).token(&modest.token).json(message("hi"))).await);
    until("the message of another workspace is forwarded", async || {
        (agent.requests().len() == MESSAGES + 1).then_some(())
    })
    .await;
    drop(held);
    until("an ended request frees its slot", async || {
        let _held = begun(&registry, greedy.message(&to).token(&greedy.token).json(message("hi"))).await;
        (agent.requests().len() > MESSAGES + 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_large_messages_are_limited_per_workspace() {
    let registry = Registry::start().await;
    let agent = Agent::replying(Reply::Nothing).await;
    let to = registry.external_at("to", &agent.url()).await;
    let (greedy, modest) = (registry.online("greedy").await, registry.online("modest").await);
    // The body is announced but not sent: its bytes are reserved, although none of them is in memory.
    let announce = |client: &AgentClient<'_>, bytes: usize| {
        format!(
            "POST /workspaces/{}/a2a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: {bytes}\r\n\r\n",
            to.id, client.token
        )
    };
    let held = tokio::sync::Mutex::new(Vec::new());
    // An accepted request gets no answer yet and keeps its reservation. The order of arrival is not known.
    let refused = async |client: &AgentClient<'_>| {
        let mut wire = Wire::open(registry.address).await;
        wire.write(announce(client, 10 << 20).as_bytes()).await;
        let answer = tokio::time::timeout(Duration::from_secs(2), wire.answer()).await.ok();
        if answer.is_none() {
            held.lock().await.push(wire);
        }
        answer
    };
    let answer = until("the byte limit is reached", async || refused(&greedy).await).await;
    is_rate_limited(&answer);
    let accepted = held.lock().await.len();
    assert_eq!(accepted, 2, "the limit is 24 MiB, and each message reserves 10 MiB");
    // Small messages need no reservation, and another workspace has its own limit.
    let _small = begun(&registry, greedy.message(&to).token(&greedy.token).json(message("hi"))).await;
    until("a small message is forwarded", async || (agent.requests().len() == 1).then_some(())).await;
    let large = message(&"x".repeat(5 << 20));
    let _large = begun(&registry, modest.message(&to).token(&modest.token).json(large)).await;
    until("the large message of another workspace is forwarded", async || {
        (agent.requests().len() == 2).then_some(())
    })
    .await;
    heartbeat_is_accepted(&greedy).await;
    held.lock().await.clear();
    until("an ended request frees its slot", async || {
        let large = message(&"x".repeat(5 << 20));
        let _held = begun(&registry, greedy.message(&to).token(&greedy.token).json(large)).await;
        (agent.requests().len() > 2).then_some(())
    })
    .await;
}

/// One kind of write: how many a workspace may make at once, and one of them. The number makes each one different.
type Write<'a> = (&'a str, usize, &'a dyn Fn(&AgentClient<'_>, usize) -> Ask);

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_write_has_its_own_rate_limit_per_workspace() {
    let registry = Registry::start().await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    // A workspace with active tasks is not hibernated, so each order is counted and refused.
    for client in [&one, &other] {
        client.heartbeat(json!({ "active_tasks": 1 })).await.well();
    }
    let of = |client: &AgentClient<'_>, what: &str| format!("/workspaces/{}/{what}", client.id);
    let writes: [Write<'_>; 4] = [
        ("order", 10, &|client, _| Ask::post(of(client, "hibernate"))),
        ("change", 10, &|client, number| {
            Ask::new("PATCH", format!("/workspaces/{}", client.id))
                .json(json!({ "role": format!("role {number}") }))
        }),
        ("card", 40, &|client, number| {
            Ask::post("/registry/update-card")
                .json(json!({ "workspace_id": client.id, "agent_card": { "n": number } }))
        }),
        ("report", 60, &|client, number| {
            Ask::post(of(client, "activity"))
                .json(json!({ "activity_type": "agent_log", "summary": format!("step {number}") }))
        }),
    ];
    for (what, burst, write) in writes {
        // The limit refills while the requests are sent, so more than the burst may be accepted, but not twice as many.
        let (mut accepted, mut refused) = (0, None);
        while refused.is_none() && accepted < 2 * burst {
            let answer = one.ask(write(&one, accepted)).await;
            if answer.status == 429 {
                refused = Some(answer);
            } else {
                assert_eq!(answer.status, if what == "order" { 409 } else { 200 }, "{what}: {answer:?}");
                accepted += 1;
            }
        }
        is_rate_limited(&refused.unwrap_or_else(|| panic!("{what}: {accepted} were accepted")));
        assert!(accepted >= burst, "{what}: only {accepted} were accepted after the other kinds of write");
    }
    // Notices, delegations and memories are reports too.
    let target = "00000000-0000-4000-8000-000000000000";
    for (what, body) in [
        ("notify", json!({ "message": "a notice" })),
        ("delegate", json!({ "target_id": target, "task": "a task" })),
        ("memories", json!({ "content": "a fact", "scope": "LOCAL" })),
    ] {
        let mut statuses = Vec::new();
        while statuses.last() != Some(&429) && statuses.len() < 5 {
            statuses.push(one.ask(Ask::post(of(&one, what)).json(body.clone())).await.status);
        }
        assert_eq!(statuses.last(), Some(&429), "{what} is not rate-limited as a report: {statuses:?}");
    }
    for (what, _, write) in writes {
        let status = other.ask(write(&other, 0)).await.status;
        assert_ne!(status, 429, "{what}: the limit of one workspace applies to another");
        // Only the workspace itself sends its card.
        if what != "card" {
            let status = registry.order(write(&one, 1_000)).await.status;
            assert_ne!(status, 429, "{what}: the limit of a workspace applies to an admin");
        }
    }
    heartbeat_is_accepted(&one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_never_rate_limited() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let heartbeat = one.heartbeat_request(json!({})).token(&one.token).bytes();
    let mut wire = Wire::open(registry.address).await;
    wire.write(&heartbeat.repeat(260)).await;
    for number in 0..260 {
        let answer = wire.answer().await;
        assert_eq!(answer.status, 200, "heartbeat {number}: {answer:?}");
    }
    one.register(json!({})).await.well();
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_list_omits_large_cards_when_there_are_many() {
    let registry = Registry::start().await;
    let one = registry.external("one", json!({})).await;
    for number in 0..20 {
        let peer = registry.external(&format!("peer-{number}"), json!({})).await;
        peer.register(json!({ "url": "", "agent_card": { "name": "x".repeat(60 << 10) } })).await.well();
    }
    let small = registry.external("small", json!({})).await;
    small.register(json!({ "url": "", "agent_card": { "name": "small" } })).await.well();
    let answer = one.ask(Ask::get(format!("/registry/{}/peers", one.id))).await;
    assert!(answer.body.len() < 2 << 20, "the answer has {} bytes", answer.body.len());
    let peers = answer.well();
    let peers = peers.as_array().expect("an array");
    assert_eq!(peers.len(), 21, "a peer is missing");
    let of_small = peers.iter().find(|peer| peer["name"] == "small").expect("the peer is listed");
    assert_eq!(of_small["agent_card"]["name"], "small", "a small card was omitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn event_list_is_limited_in_bytes() {
    let registry = Registry::start().await;
    // Several workspaces, because the event limit applies per workspace.
    for name in ["one", "two", "three", "four", "five", "six"] {
        let client = registry.external(name, json!({})).await;
        for number in 0..18 {
            let card = json!({ "name": format!("{number}{}", "x".repeat(60 << 10)) });
            let ask = Ask::post("/registry/update-card")
                .json(json!({ "workspace_id": client.id, "agent_card": card }));
            client.ask(ask).await.well();
        }
    }
    let answer = registry.order(Ask::get("/events?limit=1000")).await;
    assert!(answer.body.len() < 5 << 20, "the answer has {} bytes", answer.body.len());
    let newest = answer.well()[0]["id"].as_i64().expect("a number");
    // A subscriber that catches up receives all events, in several pages.
    let mut wire = Wire::open(registry.address).await;
    let stream =
        Ask::get("/events/stream?transient=false").header("Last-Event-ID", "0").token(&registry.admin);
    wire.write(&stream.bytes()).await;
    wire.head().await.expect("a response head");
    let last = format!("id: {newest}\n");
    let mut tail = String::new();
    while !tail.contains(&last) {
        let chunk = wire.chunk().await.flatten().expect("the stream is open");
        tail.push_str(&String::from_utf8_lossy(&chunk));
        let from = tail.len().saturating_sub(128 << 10);
        tail = tail.get(from..).unwrap_or_default().to_owned();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn misbehaving_agent_does_not_affect_other_agents() {
    let daemon = Arc::new(Daemon::start(env!("CARGO_BIN_EXE_ostler")));
    let scale = Scale {
        others: 20,
        every: Duration::from_millis(500),
        in_flight: 300,
        large: 30,
        unread: 60,
        writes: 40,
        delegations: 60,
        redirects: 10,
        lasts: Duration::from_secs(5),
        settles: Duration::from_secs(10),
    };
    let figures = play(Arc::clone(&daemon), scale).await;
    for (what, figure) in lines(&figures) {
        println!("{figure:>8} {what}");
    }
    // Only anonymous memory is checked: the pages of the large program file of a debug build would exceed the limit.
    let broken = broken(&figures, |memory| memory.anonymous_kib);
    assert!(broken.is_empty(), "{broken:#?}\n{figures:#?}\n{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_recreates_its_socket_when_the_file_is_removed() {
    let daemon = Daemon::start(env!("CARGO_BIN_EXE_ostler"));
    std::fs::remove_file(daemon.socket()).expect("the socket exists");
    until("the socket is bound again", async || {
        std::os::unix::net::UnixStream::connect(daemon.socket()).is_ok().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_reports_an_unreachable_engine_without_a_token() {
    let daemon = Daemon::start(env!("CARGO_BIN_EXE_ostler"));
    let answer = until("a listing was tried", async || {
        let answer = Ask::get("/ready").to(daemon.address()).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    answer.refuses(503, "the engine returns no trusted listing");
}
