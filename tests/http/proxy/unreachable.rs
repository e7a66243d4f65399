//! Messages to an agent that does not listen yet, or whose container has exited.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{io::AsyncReadExt, net::TcpListener};

use super::{REPLY, bare, hello, ok_reply};
use crate::{
    http::agent::Agent,
    support::{
        fake_engine::Fault,
        registry::{AgentClient, Options, Registry, until},
    },
};

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
