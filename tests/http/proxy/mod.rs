//! Messages between agents (§6), with a test for each row of the protocol's table.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ostler::engine::{ErrorKind, fake::Fault};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::agent::{Agent, Reply};
use crate::support::{
    registry::{AgentClient, Options, Registry, proof_of, until},
    wire::{Answer, Ask, Wire, keys_of},
};

const REPLY: &str = r#"{"jsonrpc":"2.0","id":"1","result":{"parts":[{"text":"hello"}]}}"#;
/// Headers that must never reach the agent, because they may hold the sender's token.
const SECRETS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

fn ok_reply() -> Reply {
    Reply::This(200, "application/json", REPLY.into())
}

fn hello() -> Value {
    json!({
        "jsonrpc": "2.0", "id": "1", "method": "message/send",
        "params": { "message": { "messageId": "m", "role": "user", "parts": [{ "kind": "text", "text": "hi" }] } },
    })
}

/// A message in the short form that the protocol allows, without `jsonrpc` and `id`. If it is refused, the response is
/// the plain error object and not a JSON-RPC error.
fn bare() -> Value {
    let Value::Object(mut message) = hello() else { unreachable!("it is an object") };
    message.retain(|key, _| key != "jsonrpc" && key != "id");
    Value::Object(message)
}

/// Returns a workspace that sends, an external workspace that receives, and the receiving workspace's agent.
async fn pair(registry: &Registry, reply: Reply) -> (AgentClient<'_>, AgentClient<'_>, Agent) {
    let agent = Agent::replying(reply).await;
    let to = registry.external_at("to", &agent.url()).await;
    (registry.online("from").await, to, agent)
}

/// Accepts a connection and waits for a request on it, because a response that is sent before the request is not valid.
async fn read_request(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let read = stream.read(&mut [0; 4096]).await.unwrap();
    assert!(read > 0, "the connection was closed without a request");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn message_reaches_the_agent_and_its_answer_is_returned() {
    let registry = Registry::start().await;
    let (from, to, agent) = pair(&registry, ok_reply()).await;
    let answer = from.send_message(&to, hello()).await;
    answer.is(200, REPLY);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("set-cookie"), None, "a cookie of the agent was passed on");
    let request = &agent.requests()[0];
    assert_eq!(request.path, "/agent?x=1");
    assert_eq!(request.json(), hello(), "a complete message is forwarded unchanged");
}

#[tokio::test(flavor = "multi_thread")]
async fn message_reaches_a_container_at_its_own_port() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    let agent = Agent::at(to.port().await, ok_reply()).await;
    from.send_message(&to, bare()).await.is(200, REPLY);
    assert_eq!(agent.requests()[0].path, "/");
    // A degraded workspace still receives messages.
    to.heartbeat(json!({ "error_rate": 1, "uptime_seconds": 1 })).await.well();
    assert_eq!(to.status().await, "degraded");
    from.send_message(&to, bare()).await.is(200, REPLY);
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_status_and_body_are_returned_unchanged() {
    let registry = Registry::start().await;
    for (number, status) in [201, 202, 400, 401, 404, 429, 500, 503, 599].into_iter().enumerate() {
        let agent = Agent::replying(Reply::This(status, "text/odd", b"own words".to_vec())).await;
        let to = registry.external_at(&format!("to {number}"), &agent.url()).await;
        let from = registry.external_at(&format!("from {number}"), "").await;
        let answer = from.send_message(&to, bare()).await;
        answer.is(status, "own words");
        assert_eq!(answer.header("content-type"), Some("text/odd"));
        assert_eq!(agent.requests().len(), 1, "the agent gets one request, whatever its answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_message_fields_are_filled_in() {
    let registry = Registry::start().await;
    let (from, to, agent) = pair(&registry, ok_reply()).await;
    let bare = json!({ "method": "message/send", "params": { "message": { "parts": [] }, "kept": 1 } });
    from.send_message(&to, bare).await.is(200, REPLY);
    let request = agent.requests()[0].json();
    assert_eq!((&request["jsonrpc"], &request["method"]), (&json!("2.0"), &json!("message/send")));
    assert!(request["id"].as_str().is_some_and(|id| id.len() == 36), "{request}");
    assert!(request["params"]["message"]["messageId"].as_str().is_some_and(|id| id.len() == 36), "{request}");
    assert_eq!((&request["params"]["message"]["parts"], &request["params"]["kept"]), (&json!([]), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_the_caller_never_reaches_the_agent() {
    let registry = Registry::start().await;
    let (from, to, agent) = pair(&registry, ok_reply()).await;
    let message = from
        .message(&to)
        .header("Cookie", "session=1")
        .header("Proxy-Authorization", "Basic x")
        .header("X-Forwarded-For", "1.2.3.4")
        .header("X-Timeout", "30")
        .header("A2A-Version", "0.3")
        .json(bare());
    from.ask(message).await.is(200, REPLY);
    let request = &agent.requests()[0];
    for secret in SECRETS {
        assert!(!request.headers.contains_key(secret), "{secret}: {:?}", request.headers);
    }
    let all = format!("{:?} {:?}", request.headers, request.body);
    assert!(!all.contains(&from.token) && !all.contains("1.2.3.4"), "{all}");
    assert_eq!(request.headers["x-workspace-id"], from.id.as_str(), "the caller is identified");
    assert_eq!(request.headers["a2a-version"], "0.3");
}

#[tokio::test(flavor = "multi_thread")]
async fn message_carries_a_proof_of_the_agents_own_token() {
    let registry = Registry::start().await;
    let (from, away, far) = pair(&registry, ok_reply()).await;
    let to = registry.online("container").await;
    let near = Agent::at(to.port().await, ok_reply()).await;
    // A client cannot choose the proof, not even as one of several header values.
    let forged = |to: &AgentClient<'_>| from.message(to).header("X-Ostler-Proof", from.proof()).json(bare());
    for (to, agent) in [(&to, &near), (&away, &far)] {
        from.ask(forged(to)).await.is(200, REPLY);
        assert_eq!(agent.requests()[0].proofs(), [to.proof()]);
    }
    assert_ne!(to.proof(), away.proof(), "two workspaces have the same proof");
    // A proof does not authenticate a request to ostler.
    let by_proof = Ask::get(format!("/registry/{}/peers", to.id)).token(&to.proof());
    by_proof
        .header("X-Workspace-ID", &to.id)
        .to(registry.address)
        .await
        .refuses(401, "invalid workspace auth token");
}

#[tokio::test(flavor = "multi_thread")]
async fn proof_changes_when_the_agents_token_changes() {
    let registry = Registry::start().await;
    let (from, away, far) = pair(&registry, ok_reply()).await;
    let to = registry.online("container").await;
    let near = Agent::at(to.port().await, ok_reply()).await;
    from.send_message(&to, bare()).await.is(200, REPLY);
    // The agent in a container does not have the workspace's api tokens, so a new api token does not change the proof.
    let another = Ask::post(format!("/workspaces/{}/tokens", to.id)).json(json!({}));
    registry.order(another).await;
    to.order("restart").await;
    let restarted = AgentClient { token: registry.token_in_volume(&to.id).await, ..to.clone() };
    assert_ne!(restarted.token, to.token);
    restarted.heartbeat(json!({})).await.well();
    from.send_message(&to, bare()).await.is(200, REPLY);
    let proofs: Vec<_> = near.requests().iter().map(super::agent::RecordedRequest::proofs).collect();
    assert_eq!(proofs, [[to.proof()], [restarted.proof()]]);
    // An external agent may have either of its workspace's two tokens, so a message carries a proof of each.
    let made =
        registry.order(Ask::post(format!("/workspaces/{}/tokens", away.id)).json(json!({}))).await.json();
    let second = made["auth_token"].as_str().unwrap_or_else(|| panic!("a token: {made}")).to_owned();
    from.send_message(&away, bare()).await.is(200, REPLY);
    let mut both = [away.proof(), proof_of(&second)];
    let mut proofs = far.requests()[0].proofs();
    both.sort();
    proofs.sort();
    assert_eq!(proofs, both);
}

#[tokio::test(flavor = "multi_thread")]
async fn message_of_an_admin_does_not_carry_a_workspace_id() {
    let registry = Registry::start().await;
    let (from, to, agent) = pair(&registry, ok_reply()).await;
    let message =
        Ask::post(format!("/workspaces/{}/a2a", to.id)).header("X-Workspace-ID", &from.id).json(bare());
    registry.order(message).await.is(200, REPLY);
    let request = &agent.requests()[0];
    assert_ne!(
        request.headers["x-workspace-id"],
        from.id.as_str(),
        "an admin's message carries a workspace id"
    );
    assert!(!request.headers.contains_key("authorization"));
}

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
async fn message_wakes_a_hibernated_target_and_waits_for_it() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    to.order("hibernate").await.well();
    let wakes = async {
        until("the target is being woken", async || (to.status().await == "provisioning").then_some(()))
            .await;
        let token = registry.token_in_volume(&to.id).await;
        let agent = Agent::at(to.port().await, ok_reply()).await;
        let woken = AgentClient { token, ..to.clone() };
        woken.heartbeat(json!({})).await.well();
        agent
    };
    let (answer, agent) = tokio::join!(from.send_message(&to, bare()), wakes);
    answer.is(200, REPLY);
    assert_eq!(agent.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn message_waits_for_a_target_that_is_starting() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    let to = registry.begun("to", json!({})).await;
    let agent = Agent::at(to.port().await, ok_reply()).await;
    let becomes_online = async {
        until("the message waits", async || registry.ops.traffic().sent_at(registry.row(&from.id).await.id))
            .await;
        to.heartbeat(json!({})).await.well();
    };
    let held = from.message(&to).header("X-Timeout", "60").json(bare());
    let (answer, ()) = tokio::join!(from.ask(held), becomes_online);
    answer.is(200, REPLY);
    assert_eq!(agent.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn message_answers_503_with_retry_after_when_wake_takes_too_long() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    to.order("hibernate").await.well();
    let with_short_timeout = from.message(&to).header("X-Timeout", "1").json(bare());
    let answer = from.ask(with_short_timeout).await;
    let body = answer.has(503, &["error", "waking", "retry_after"]);
    assert_eq!(body["waking"], json!(true));
    assert!(body["error"].is_string());
    assert_eq!(answer.header("retry-after").map(str::to_owned), Some(body["retry_after"].to_string()));
    to.until_status("provisioning").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn message_does_not_wake_a_paused_workspace_or_its_children() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    let to = registry.online("to").await;
    let child = registry.online_below("child", &to).await;
    to.order("pause").await.well();
    let answer = from.send_message(&to, bare()).await;
    assert_eq!((answer.status, keys_of(&answer.json())), (409, vec!["error".to_owned()]), "{answer:?}");
    let answer = registry.order(Ask::post(format!("/workspaces/{}/a2a", child.id)).json(bare())).await;
    assert_eq!(answer.status, 409, "{answer:?}");
    assert_eq!((to.status().await, child.status().await), ("paused".into(), "paused".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn message_does_not_start_a_failed_or_awaiting_workspace() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    let away = registry.external("away", json!({})).await;
    let answer = from.send_message(&away, bare()).await;
    let body = answer.has(503, &["error", "status"]);
    assert_eq!(body["status"], "awaiting_agent");
    assert!(answer.header("retry-after").is_some());

    let failed = registry.begun("failed", json!({})).await;
    let row = registry.row(&failed.id).await;
    registry.ops.time_out_provisioning(row.id, row.incarnation, row.status_since, 1).await.unwrap();
    let body = from.send_message(&failed, bare()).await.has(503, &["error", "status"]);
    assert_eq!(body["status"], "failed");
    assert!(body["error"].as_str().unwrap().contains("provision_timeout"), "the reason: {body}");
    assert_eq!(failed.status().await, "failed(provision_timeout)");
}

#[tokio::test(flavor = "multi_thread")]
async fn message_restarts_a_container_that_has_exited() {
    let mut options = Options::default();
    options.restart.first_backoff = Duration::from_millis(1);
    let registry = Registry::wanting(options).await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    to.kill_container().await;
    let answer = from.send_message(&to, bare()).await;
    answer.is(
        503,
        r#"{"error":"workspace agent unreachable — container restart triggered","restarting":true}"#,
    );
    assert!(answer.header("retry-after").is_some());
    until("the container is restarted", async || {
        let row = registry.row(&to.id).await;
        (row.incarnation.0 == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn message_reports_failed_when_target_has_exited_too_often() {
    let mut options = Options::default();
    options.restart.park_after_exits = 1;
    let registry = Registry::wanting(options).await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    to.kill_container().await;
    let body = from.send_message(&to, bare()).await.has(503, &["error", "status"]);
    assert_eq!(body["status"], "failed", "{body}");
    assert_eq!(to.status().await, "failed(parked)");
}

#[tokio::test(flavor = "multi_thread")]
async fn message_is_delivered_once_when_agent_listens_late() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    let container = registry.online("container").await;
    let nowhere = Agent::replying(ok_reply()).await;
    let (url, port) = (nowhere.url(), nowhere.address.port());
    drop(nowhere);
    let external = registry.external_at("external", &url).await;
    for (to, port) in [(&container, container.port().await), (&external, port)] {
        let id = registry.row(&to.id).await.id;
        let listens = async {
            until("the message is in flight", async || (registry.ops.traffic().open(id) > 0).then_some(()))
                .await;
            Agent::at(port, ok_reply()).await
        };
        let (answer, agent) = tokio::join!(from.send_message(to, hello()), listens);
        answer.is(200, REPLY);
        assert_eq!(agent.requests().len(), 1, "a message is delivered once");
        until("no message is in flight", async || (registry.ops.traffic().open(id) == 0).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn message_waits_when_port_accepts_before_the_agent_listens() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    registry.world.state().rootless = true;
    // Podman's port forwarder in user space accepts the connection, fails to reach the agent, and closes the
    // connection.
    let forwarder = TcpListener::bind(("127.0.0.1", to.port().await)).await.unwrap();
    let port = to.port().await;
    let listens = async {
        for _ in 0..3 {
            let (mut accepted, _) = forwarder.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let read = accepted.read(&mut buffer).await.unwrap();
            let request = String::from_utf8_lossy(&buffer[..read]).into_owned();
            assert!(request.starts_with("GET /.well-known/agent.json "), "the message was sent: {request}");
        }
        drop(forwarder);
        Agent::at(port, ok_reply()).await
    };
    let (answer, agent) = tokio::join!(from.send_message(&to, hello()), listens);
    answer.is(200, REPLY);
    let requests: Vec<_> = agent.requests().iter().map(|request| request.path.clone()).collect();
    assert_eq!(
        requests,
        ["/.well-known/agent.json", "/"],
        "the message follows after the agent answered a request"
    );
    for request in agent.requests() {
        assert_eq!(request.proofs(), [to.proof()], "{}", request.path);
    }
    from.send_message(&to, hello()).await.is(200, REPLY);
    assert_eq!(agent.requests().len(), 3, "an agent that has answered gets no further probe");
}

#[tokio::test(flavor = "multi_thread")]
async fn message_error_names_the_port_when_agent_never_listens() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    let with_short_timeout =
        async |to: &AgentClient<'_>| from.ask(from.message(to).header("X-Timeout", "1").json(bare())).await;
    let answer = with_short_timeout(&to).await;
    let body = answer.has(503, &["error", "retry_after"]);
    assert!(
        body["error"].as_str().unwrap().starts_with("to is running, but nothing listens on port 8000"),
        "{body}"
    );
    assert_eq!(answer.header("retry-after").map(str::to_owned), Some(body["retry_after"].to_string()));
    assert_eq!(to.status().await, "online", "its container runs");

    let nowhere = Agent::replying(ok_reply()).await.url();
    let away = registry.external_at("away", &nowhere).await;
    let body = with_short_timeout(&away).await.has(503, &["error", "retry_after"]);
    assert_eq!(body["error"], "away is online but does not accept connections at its url");
    let silent = registry.external_at("silent", "").await;
    with_short_timeout(&silent).await.refuses(502, "failed to reach workspace agent: it has no url");
}

#[tokio::test(flavor = "multi_thread")]
async fn undelivered_message_is_refused_when_its_target_is_paused() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    let id = registry.row(&to.id).await.id;
    let pauses = async {
        until("the message is in flight", async || (registry.ops.traffic().open(id) > 0).then_some(())).await;
        to.order("pause").await.well();
    };
    let (answer, ()) = tokio::join!(from.send_message(&to, bare()), pauses);
    assert_eq!(answer.status, 409, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirect_or_invalid_status_of_an_agent_is_a_bad_gateway() {
    let registry = Registry::start().await;
    for (number, status) in [301_u16, 302, 303, 307, 308, 304, 999].into_iter().enumerate() {
        let agent = Agent::replying(Reply::This(status, "text/plain", b"own words".to_vec())).await;
        let to = registry.external_at(&format!("to {number}"), &agent.url()).await;
        let from = registry.external_at(&format!("from {number}"), "").await;
        let answer = from.send_message(&to, bare()).await;
        let body = answer.has(502, &["error"]);
        let why = format!("failed to reach workspace agent: it responded with HTTP status {status}");
        assert!(body["error"].as_str().unwrap().starts_with(&why), "{body}");
        assert_eq!(answer.header("location"), None);
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn agent_that_closes_or_sends_no_http_is_a_bad_gateway() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    for (name, answer) in [("mute", &b""[..]), ("odd", &b"SSH-2.0-odd\r\n\r\n"[..])] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = registry.external_at(name, &format!("http://{}", listener.local_addr().unwrap())).await;
        let closes = async {
            let mut stream = read_request(&listener).await;
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let (refused, ()) = tokio::join!(from.send_message(&to, bare()), closes);
        let body = refused.has(502, &["error"]);
        let why = "failed to reach workspace agent: it closed the connection without a response";
        assert!(body["error"].as_str().unwrap().starts_with(why), "{name}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_stream_of_an_agent_is_forwarded_unbuffered() {
    let registry = Registry::start().await;
    let (events, reply) = mpsc::unbounded_channel();
    let (from, to, _agent) = pair(&registry, Reply::Events(reply)).await;
    let mut wire = Wire::open(registry.address).await;
    wire.write(&from.message(&to).token(&from.token).json(bare()).bytes()).await;
    events.send("data: 1\n\n".into()).unwrap();
    let (status, headers) = wire.head().await.unwrap();
    assert_eq!(status, 200);
    assert!(headers.contains(&("content-type".into(), "text/event-stream".into())), "{headers:?}");
    assert_eq!(wire.chunk().await.unwrap().unwrap(), b"data: 1\n\n");
    // The second event is sent only after the first has arrived: a proxy that waits for more data would fail here.
    events.send("data: 2\n\n".into()).unwrap();
    assert_eq!(wire.chunk().await.unwrap().unwrap(), b"data: 2\n\n");
    drop(events);
    assert_eq!(wire.chunk().await.unwrap(), None, "the stream ends when the agent ends it");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_disconnect_cancels_the_request_to_the_agent() {
    let registry = Registry::start().await;
    let (from, to, agent) = pair(&registry, Reply::Nothing).await;
    let mut wire = Wire::open(registry.address).await;
    wire.write(&from.message(&to).token(&from.token).json(bare()).bytes()).await;
    until("the agent has the request", async || (!agent.requests().is_empty()).then_some(())).await;
    let id = registry.row(&to.id).await.id;
    assert_eq!(registry.ops.traffic().open(id), 1);
    drop(wire);
    until("the connection to the agent is closed", async || (agent.left() == 1).then_some(())).await;
    until("no message is in flight", async || (registry.ops.traffic().open(id) == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_disconnect_ends_the_agents_event_stream() {
    let registry = Registry::start().await;
    let (events, reply) = mpsc::unbounded_channel();
    let (from, to, agent) = pair(&registry, Reply::Events(reply)).await;
    let mut wire = Wire::open(registry.address).await;
    wire.write(&from.message(&to).token(&from.token).json(bare()).bytes()).await;
    events.send("data: 1\n\n".into()).unwrap();
    wire.head().await.unwrap();
    wire.chunk().await.unwrap();
    drop(wire);
    until("the agent's stream ends", async || (agent.left() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_agent_answer_is_not_returned_as_complete() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = registry.external_at("to", &format!("http://{}", listener.local_addr().unwrap())).await;
    let truncates = async {
        let mut stream = read_request(&listener).await;
        let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nthe first words";
        stream.write_all(begun).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let mut wire = Wire::open(registry.address).await;
    wire.write(&from.message(&to).token(&from.token).json(bare()).bytes()).await;
    let (answer, ()) = tokio::join!(wire.try_answer(), truncates);
    assert!(answer.is_none(), "a truncated answer was returned as complete: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_answer_above_64_mib_is_refused_or_cut_off() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = registry.external_at("to", &format!("http://{}", listener.local_addr().unwrap())).await;
    let announces = async {
        let mut stream = read_request(&listener).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", (64 << 20) + 1);
        let _cut = stream.write_all(head.as_bytes()).await;
        stream
    };
    let (answer, _stream) = tokio::join!(from.send_message(&to, bare()), announces);
    assert_eq!((answer.status, keys_of(&answer.json())), (502, vec!["error".to_owned()]), "{answer:?}");

    let grows = async {
        let mut stream = read_request(&listener).await;
        let _cut = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let chunk = [&b"100000\r\n"[..], &vec![b'x'; 1 << 20], &b"\r\n"[..]].concat();
        for _ in 0..80 {
            if stream.write_all(&chunk).await.is_err() {
                return;
            }
        }
        let _cut = stream.write_all(b"0\r\n\r\n").await;
    };
    let mut wire = Wire::open(registry.address).await;
    wire.write(&from.message(&to).token(&from.token).json(bare()).bytes()).await;
    let (answer, ()) = tokio::join!(wire.try_answer(), grows);
    let answer = answer.map(|answer| (answer.status, answer.body.len()));
    assert_eq!(answer, None, "a truncated answer was returned as complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn wake_ups_are_rate_limited_per_sender() {
    let mut options = Options::default();
    options.access.wakes_per_hour = 1;
    let registry = Registry::wanting(options).await;
    let (from, other, to) =
        (registry.online("from").await, registry.online("other").await, registry.online("to").await);
    let with_short_timeout = async |by: &AgentClient<'_>| -> Answer {
        if to.status().await != "hibernated" {
            let token = registry.token_in_volume(&to.id).await;
            AgentClient { token, ..to.clone() }.heartbeat(json!({})).await.well();
            to.order("hibernate").await.well();
        }
        by.ask(by.message(&to).header("X-Timeout", "1").json(bare())).await
    };
    assert_eq!(with_short_timeout(&from).await.status, 503);
    let answer = with_short_timeout(&from).await;
    let body = answer.has(429, &["error", "retry_after"]);
    assert_eq!(body["error"], "rate limit exceeded");
    assert_eq!(answer.header("retry-after").map(str::to_owned), Some(body["retry_after"].to_string()));
    assert_eq!(to.status().await, "hibernated", "the refused message woke the target");
    assert_eq!(with_short_timeout(&other).await.status, 503, "the wake-up limit is per sender");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_messages_to_a_hibernated_target_share_a_wake_up() {
    let mut options = Options::default();
    options.access.wakes_per_hour = 2;
    let registry = Registry::wanting(options).await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    to.order("hibernate").await.well();
    let all = (0..8).map(|_| from.ask(from.message(&to).header("X-Timeout", "60").json(bare())));
    let wakes = async {
        to.until_status("provisioning").await;
        let token = registry.token_in_volume(&to.id).await;
        let agent = Agent::at(to.port().await, ok_reply()).await;
        AgentClient { token, ..to.clone() }.heartbeat(json!({})).await.well();
        agent
    };
    let (answers, agent) = tokio::join!(futures_util::future::join_all(all), wakes);
    for answer in answers {
        answer.is(200, REPLY);
    }
    assert_eq!(agent.requests().len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_flight_message_prevents_hibernation_of_its_target() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    let agent = Agent::at(to.port().await, Reply::Nothing).await;
    let mut wire = Wire::open(registry.address).await;
    wire.write(&from.message(&to).token(&from.token).json(bare()).bytes()).await;
    until("the agent has the request", async || (!agent.requests().is_empty()).then_some(())).await;
    let busy = to.order("hibernate").await.has(409, &["error", "open_requests"]);
    assert_eq!(busy["open_requests"], 1, "{busy}");
    assert!(busy["error"].as_str().unwrap().starts_with("workspace is in use"), "{busy}");
    drop(wire);
    until("no request to the target is open", async || {
        (to.order("hibernate").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn message_times_out_after_the_callers_timeout() {
    let registry = Registry::start().await;
    let (from, to, _agent) = pair(&registry, Reply::Nothing).await;
    let answer = from.ask(from.message(&to).header("X-Timeout", "1").json(bare())).await;
    assert_eq!((answer.status, keys_of(&answer.json())), (504, vec!["error".to_owned()]), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_message_is_refused_when_its_target_stops_or_fails() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    for (name, becomes) in [("paused", 409), ("removed", 410), ("failed", 503)] {
        let to = registry.begun(name, json!({})).await;
        let before = registry.ops.traffic().sent_at(registry.row(&from.id).await.id);
        let changes = async {
            until("the message waits", async || {
                let sent = registry.ops.traffic().sent_at(registry.row(&from.id).await.id);
                (sent > before).then_some(())
            })
            .await;
            let row = registry.row(&to.id).await;
            if name == "paused" {
                to.order("pause").await.well();
            } else if name == "removed" {
                registry.order(Ask::new("DELETE", format!("/workspaces/{}", to.id))).await.well();
            } else {
                let ops = &registry.ops;
                ops.time_out_provisioning(row.id, row.incarnation, row.status_since, 1).await.unwrap();
            }
        };
        let held = from.message(&to).header("X-Timeout", "60").json(bare());
        let (answer, ()) = tokio::join!(from.ask(held), changes);
        assert_eq!(answer.status, becomes, "{name}: {answer:?}");
        assert!(
            !answer.text().contains("waking"),
            "{name}: the message waited until its timeout: {answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_wake_up_is_reported_and_can_be_retried() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    to.order("hibernate").await.well();
    registry.world.inject(|call| match call.method {
        "start_container" => Fault::Before(ErrorKind::Unreachable),
        _ => Fault::None,
    });
    let answer = from.ask(from.message(&to).header("X-Timeout", "60").json(bare())).await;
    assert_eq!((answer.status, keys_of(&answer.json())), (503, vec!["error".to_owned()]), "{answer:?}");
    assert!(answer.header("retry-after").is_some());
    registry.world.heal();
    // The next run of the pass resumes the interrupted start; the test does not wait for its schedule.
    registry.sweep(&["settle"]).await;
    let wakes = async {
        let token = registry.token_in_volume(&to.id).await;
        let agent = Agent::at(to.port().await, ok_reply()).await;
        AgentClient { token, ..to.clone() }.heartbeat(json!({})).await.well();
        agent
    };
    let (answer, _agent) = tokio::join!(from.ask(from.message(&to).json(bare())), wakes);
    answer.is(200, REPLY);
}

/// How long a test waits to detect a message that is forwarded although it must be held.
const CHANCE: Duration = Duration::from_millis(300);

/// Waits until the workspace is provisioning and sends the heartbeat of its new agent.
async fn come_online<'a>(to: &AgentClient<'a>) -> AgentClient<'a> {
    until("the workspace is provisioning", async || (to.status().await == "provisioning").then_some(()))
        .await;
    let restarted = AgentClient { token: to.registry.token_in_volume(&to.id).await, ..to.clone() };
    restarted.heartbeat(json!({})).await.well();
    restarted
}

#[tokio::test(flavor = "multi_thread")]
async fn message_waits_for_an_accepted_start_but_not_after_a_stop() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    to.order("stop").await.well();
    // The start is accepted, but is executed only after the message was observed for `CHANCE`.
    let accepted = registry.ops.resume(to.id.parse().unwrap(), false);
    let come_online = async {
        registry.clock.sleep(CHANCE).await;
        let agent = Agent::at(to.port().await, ok_reply()).await;
        let (started, _) = tokio::join!(accepted, come_online(&to));
        started.expect("the start succeeds");
        agent
    };
    let (answer, _agent) = tokio::join!(from.ask(from.message(&to).json(bare())), come_online);
    answer.is(200, REPLY);
    // After a stop that was requested later, messages are refused again.
    to.order("stop").await.well();
    assert_eq!(from.send_message(&to, bare()).await.status, 409, "the stop came after the start");
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
async fn messages_query_an_unresponsive_engine_only_once() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    let _agent = Agent::at(to.port().await, ok_reply()).await;
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    registry.world.inject(move |call| match call.method {
        "describe" => {
            counted.fetch_add(1, Ordering::Relaxed);
            Fault::Lost
        }
        _ => Fault::None,
    });
    for _ in 0..4 {
        from.send_message(&to, bare()).await.is(200, REPLY);
    }
    assert_eq!(requests.load(Ordering::Relaxed), 1, "later messages queried the engine again");
}

#[tokio::test(flavor = "multi_thread")]
async fn workspace_may_send_a_message_to_itself() {
    let registry = Registry::start().await;
    let (_, to, agent) = pair(&registry, ok_reply()).await;
    to.send_message(&to, bare()).await.is(200, REPLY);
    assert_eq!(agent.requests()[0].headers["x-workspace-id"], to.id.as_str());
    let id = registry.row(&to.id).await.id;
    until("no message is in flight", async || (registry.ops.traffic().open(id) == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_is_accepted_when_its_url_does_not_resolve() {
    let registry = Registry::start().await;
    let agent = Agent::replying(ok_reply()).await;
    let (from, to) = (registry.online("from").await, registry.external("to", json!({})).await);
    let answer = to.register(json!({ "url": "http://agent.invalid/" })).await;
    let body = answer.has(200, &["status", "url_refused"]);
    assert!(body["url_refused"].as_str().unwrap().contains("agent.invalid"), "{body}");
    assert_eq!(to.status().await, "online", "a registration with an unresolvable url was refused");
    from.send_message(&to, bare()).await.refuses(502, "failed to reach workspace agent: it has no url");
    // A known url is kept if it does not resolve at a later registration.
    to.register(json!({ "url": agent.url() })).await.is(200, r#"{"status":"registered"}"#);
    to.register(json!({ "url": "http://agent.invalid/" })).await.has(200, &["status", "url_refused"]);
    from.send_message(&to, bare()).await.is(200, REPLY);
}

#[tokio::test(flavor = "multi_thread")]
async fn message_to_a_child_waits_for_the_accepted_start_of_its_parent() {
    let registry = Registry::start().await;
    let lead = registry.online("lead").await;
    let child = registry.online_below("child", &lead).await;
    let alone = registry.online_below("alone", &lead).await;
    alone.order("stop").await.well();
    lead.order("stop").await.well();
    let accepted = registry.ops.resume(lead.id.parse().unwrap(), false);
    let message =
        |to: &AgentClient<'_>| registry.order(Ask::post(format!("/workspaces/{}/a2a", to.id)).json(bare()));
    message(&alone)
        .await
        .refuses(409, "workspace or one of its ancestors is paused: resume it with `ostler start`");
    let come_online = async {
        registry.clock.sleep(CHANCE).await;
        let agent = Agent::at(child.port().await, ok_reply()).await;
        let (started, ..) = tokio::join!(accepted, come_online(&lead), come_online(&child));
        started.expect("the start succeeds");
        agent
    };
    let (answer, _agent) = tokio::join!(message(&child), come_online);
    answer.is(200, REPLY);
}

#[tokio::test(flavor = "multi_thread")]
async fn message_after_an_accepted_start_waits_for_the_start() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    let _agent = Agent::at(to.port().await, ok_reply()).await;
    for _ in 0..5 {
        to.order("stop").await.well();
        registry.world.inject(|call| match call.method {
            "inspect_container" => Fault::Slow(CHANCE),
            _ => Fault::None,
        });
        to.order("start?wait=false").await.well();
        let (answer, _) = tokio::join!(from.ask(from.message(&to).json(bare())), come_online(&to));
        answer.is(200, REPLY);
        registry.world.heal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_without_wait_run_in_the_order_of_their_requests() {
    let registry = Registry::start().await;
    let lead = registry.online("lead").await;
    let child = registry.online_below("child", &lead).await;
    for number in 0..5 {
        registry.online_below(&format!("another-{number}"), &lead).await;
    }
    for _ in 0..5 {
        lead.order("stop?wait=false").await.well();
        let answer = lead.order("start?wait=false").await.well();
        assert_eq!(answer["accepted"], true, "{answer}");
        come_online(&lead).await;
        come_online(&child).await;
        lead.order("hibernate?wait=false&force=true").await.well();
        lead.order("wake").await.well();
        come_online(&lead).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command_gets_the_same_refusal_with_and_without_wait() {
    let registry = Registry::start().await;
    let lead = registry.online("lead").await;
    let child = registry.online_below("child", &lead).await;
    lead.order("stop").await.well();
    for (of, verb) in
        [(&lead, "wake"), (&lead, "hibernate"), (&child, "start"), (&child, "recreate"), (&child, "restart")]
    {
        let waited = of.order(verb).await;
        let unawaited = of.order(&format!("{verb}?wait=false")).await;
        assert_eq!((waited.status, waited.json()), (unawaited.status, unawaited.json()), "{verb}");
        assert_eq!(waited.status, 409, "{verb}: {waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_after_an_accepted_start_leaves_workspace_paused() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    to.order("stop").await.well();
    let accepted = registry.ops.resume(to.id.parse().unwrap(), false);
    to.order("stop").await.well();
    from.send_message(&to, bare())
        .await
        .refuses(409, "workspace or one of its ancestors is paused: resume it with `ostler start`");
    accepted.await.expect("the start ends without an error");
    assert_eq!(to.status().await, "paused", "the stop came after the start");
}

#[tokio::test(flavor = "multi_thread")]
async fn message_to_a_started_parent_does_not_wait_for_its_children() {
    let registry = Registry::start().await;
    let lead = registry.online("lead").await;
    let child = registry.online_below("child", &lead).await;
    lead.order("stop").await.well();
    let slow = registry.row(&child.id).await.container.expect("it has a container").to_string();
    registry.world.inject(move |call| {
        if call.method == "inspect_container" && call.object == slow { Fault::Lost } else { Fault::None }
    });
    let _agent = Agent::at(lead.port().await, ok_reply()).await;
    lead.order("start?wait=false").await.well();
    until("the workspace is provisioning", async || (lead.status().await == "provisioning").then_some(()))
        .await;
    registry.token_in_volume(&lead.id).await;
    let command = Ask::post(format!("/workspaces/{}/exec", lead.id)).json(json!({ "command": ["true"] }));
    registry.order(command).await.refuses_with(503, "the fake engine runs no commands");
    come_online(&lead).await;
    let message = Ask::post(format!("/workspaces/{}/a2a", lead.id)).json(bare());
    registry.order(message).await.is(200, REPLY);
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_waits_for_an_accepted_start() {
    let registry = Registry::start().await;
    let to = registry.online("to").await;
    to.order("stop").await.well();
    let command = || {
        registry.order(Ask::post(format!("/workspaces/{}/exec", to.id)).json(json!({ "command": ["true"] })))
    };
    command().await.refuses_with(409, "its container is not running");
    let accepted = registry.ops.resume(to.id.parse().unwrap(), false);
    let starts = async {
        registry.clock.sleep(CHANCE).await;
        accepted.await
    };
    let (answer, started) = tokio::join!(command(), starts);
    started.expect("the start succeeds");
    // The fake engine gives this response for any command in a running container.
    answer.refuses_with(503, "the fake engine runs no commands");
}
