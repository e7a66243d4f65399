//! What reaches the agent: the message itself, its headers and the proof of its origin.

use serde_json::json;

use super::{REPLY, bare, hello, ok_reply, pair};
use crate::{
    http::agent::{Agent, RecordedRequest},
    support::{
        registry::{AgentClient, Registry, proof_of, until},
        wire::Ask,
    },
};

/// Headers that must never reach the agent, because they may hold the sender's token.
const SECRETS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

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
    let proofs: Vec<_> = near.requests().iter().map(RecordedRequest::proofs).collect();
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
async fn message_of_an_admin_names_the_admin_and_no_workspace() {
    let registry = Registry::start().await;
    let (from, to, agent) = pair(&registry, ok_reply()).await;
    let message =
        Ask::post(format!("/workspaces/{}/a2a", to.id)).header("X-Workspace-ID", &from.id).json(bare());
    registry.order(message).await.is(200, REPLY);
    let request = &agent.requests()[0];
    let senders: Vec<_> = request.headers.get_all("x-workspace-id").iter().collect();
    assert_eq!(senders, ["admin"], "the sender that the agent sees");
    let all = format!("{:?}", request.headers);
    assert!(!all.contains(&from.id), "a header carries the workspace id that the admin named: {all}");
    assert!(!request.headers.contains_key("authorization"));
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
