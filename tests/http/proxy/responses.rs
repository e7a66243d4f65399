//! What the sender gets back: responses, streams, and responses that must not be returned.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::{bare, pair};
use crate::{
    http::agent::{Agent, Reply},
    support::{
        registry::{Registry, until},
        wire::{Wire, keys_of},
    },
};

/// Accepts a connection and waits for a request on it, because a response that is sent before the request is not valid.
async fn read_request(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let read = stream.read(&mut [0; 4096]).await.unwrap();
    assert!(read > 0, "the connection was closed without a request");
    stream
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
