//! Imitations of existing agent servers, which receive messages. They send their answers as raw bytes.

#![allow(clippy::disallowed_methods, reason = "real servers, whose tasks are tokio's")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::support::{
    registry::{AgentClient, Registry},
    wire::{Ask, Wire},
};

const REPLY: &str =
    r#"{"jsonrpc":"2.0","id":"1","result":{"kind":"message","parts":[{"kind":"text","text":"hi"}]}}"#;

/// How a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    /// A complete answer with its length.
    Plain,
    /// A chunked answer.
    Chunked,
    /// A chunked answer that is cut off.
    ChunkedCut,
    /// A stream of events.
    Sse,
    /// A redirect.
    Redirect,
    /// An answer with this status.
    Status(u16),
    /// An answer shorter than its `Content-Length`.
    ShortOfLength,
    /// Two writes with a pause between head and body.
    Slow,
    /// No body.
    NoContent,
}

/// A server on a port of this machine. Dropping this value stops the server.
struct Server {
    asked: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    async fn listen(port: u16, behaviour: Behaviour) -> (Self, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(serve(stream, behaviour, Arc::clone(&count)));
            }
        });
        (Self { asked, serving }, address)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Reads one complete request; `None` if the connection ends before.
async fn read(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        if let Some(end) = text.find("\r\n\r\n") {
            let length =
                text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if bytes.len() >= end + 4 + length.unwrap_or(0_usize) {
                return Some(bytes);
            }
        }
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
    }
}

async fn serve(mut stream: TcpStream, behaviour: Behaviour, asked: Arc<AtomicUsize>) {
    while read(&mut stream).await.is_some() {
        asked.fetch_add(1, Ordering::SeqCst);
        let length = REPLY.len();
        let json = "content-type: application/json\r\n";
        let (head, body) = match behaviour {
            Behaviour::Plain | Behaviour::Slow => {
                (format!("HTTP/1.1 200 OK\r\n{json}content-length: {length}\r\n\r\n"), REPLY.to_owned())
            }
            Behaviour::Chunked => (
                format!("HTTP/1.1 200 OK\r\n{json}transfer-encoding: chunked\r\n\r\n"),
                format!("5\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n", &REPLY[..5], length - 5, &REPLY[5..]),
            ),
            Behaviour::ChunkedCut => (
                format!("HTTP/1.1 200 OK\r\n{json}transfer-encoding: chunked\r\n\r\n"),
                format!("5\r\n{}\r\n", &REPLY[..5]),
            ),
            Behaviour::Sse => (
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_owned(),
                format!("data: {REPLY}\n\n"),
            ),
            Behaviour::Redirect => (
                "HTTP/1.1 307 Temporary Redirect\r\nlocation: /workspaces/x/stop\r\ncontent-length: 0\r\n\r\n".to_owned(),
                String::new(),
            ),
            Behaviour::Status(status) => (
                format!("HTTP/1.1 {status} So\r\n{json}content-length: {length}\r\n\r\n"),
                REPLY.to_owned(),
            ),
            Behaviour::ShortOfLength => (
                format!("HTTP/1.1 200 OK\r\n{json}content-length: {}\r\n\r\n", length + 9),
                REPLY.to_owned(),
            ),
            Behaviour::NoContent => ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), String::new()),
        };
        let _left = stream.write_all(head.as_bytes()).await;
        if behaviour == Behaviour::Slow {
            // The receiver may read the head before or after the body is sent; both must work.
            tokio::task::yield_now().await;
        }
        let _left = stream.write_all(body.as_bytes()).await;
        if !matches!(
            behaviour,
            Behaviour::Plain
                | Behaviour::Slow
                | Behaviour::Chunked
                | Behaviour::Status(_)
                | Behaviour::Redirect
                | Behaviour::NoContent
        ) {
            return;
        }
    }
}

fn hello() -> Value {
    json!({
        "jsonrpc": "2.0", "id": "1", "method": "message/send",
        "params": { "message": { "messageId": "m", "role": "user", "parts": [{ "kind": "text", "text": "hi" }] } },
    })
}

/// Sends a message; `None` if the answer was recognised as truncated.
async fn complete_answer(from: &AgentClient<'_>, to: &AgentClient<'_>) -> Option<(u16, String)> {
    let mut wire = Wire::open(from.registry.address).await;
    let ask = from.message(to).token(&from.token).json(hello()).header("Connection", "close");
    wire.write(&ask.bytes()).await;
    let answer = wire.try_answer().await?;
    Some((answer.status, answer.text()))
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_answer_is_passed_on_complete_or_is_visibly_truncated() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    for (number, behaviour) in [
        Behaviour::Plain,
        Behaviour::Slow,
        Behaviour::Chunked,
        Behaviour::Sse,
        Behaviour::NoContent,
        Behaviour::Status(400),
        Behaviour::Status(404),
        Behaviour::Status(409),
        Behaviour::Status(429),
        Behaviour::Status(500),
        Behaviour::Status(503),
        Behaviour::ChunkedCut,
        Behaviour::ShortOfLength,
    ]
    .into_iter()
    .enumerate()
    {
        let (server, address) = Server::listen(0, behaviour).await;
        let to = registry.external_at(&format!("to {number}"), &format!("http://{address}/")).await;
        let answer = complete_answer(&from, &to).await;
        match behaviour {
            Behaviour::Plain | Behaviour::Slow | Behaviour::Chunked => {
                assert_eq!(answer, Some((200, REPLY.to_owned())), "{behaviour:?}");
            }
            Behaviour::Sse => assert_eq!(answer, Some((200, format!("data: {REPLY}\n\n"))), "{behaviour:?}"),
            Behaviour::NoContent => assert_eq!(answer, Some((204, String::new())), "{behaviour:?}"),
            Behaviour::Status(status) => {
                assert_eq!(answer, Some((status, REPLY.to_owned())), "{behaviour:?}");
            }
            Behaviour::ChunkedCut | Behaviour::ShortOfLength => {
                assert!(
                    answer.is_none_or(|(status, _)| status == 502),
                    "{behaviour:?}: a truncated answer was passed on as complete"
                );
            }
            Behaviour::Redirect => unreachable!("redirects have their own test"),
        }
        assert_eq!(server.asked(), 1, "{behaviour:?}: a message is sent once");
        // One row per message, with a status that matches the outcome.
        let rows = to.ask(Ask::get(format!("/workspaces/{}/activity", to.id))).await.well();
        assert_eq!(rows.as_array().unwrap().len(), 1, "{behaviour:?}: {rows}");
        let is_ok = matches!(
            behaviour,
            Behaviour::Plain | Behaviour::Slow | Behaviour::Chunked | Behaviour::Sse | Behaviour::NoContent
        );
        assert_eq!(rows[0]["status"], if is_ok { "ok" } else { "error" }, "{behaviour:?}: {rows}");
    }
}

/// The redirect points to a path of ostler. A caller that followed it would send its own token there.
#[tokio::test(flavor = "multi_thread")]
async fn redirects_of_an_agent_are_not_followed() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    let (server, address) = Server::listen(0, Behaviour::Redirect).await;
    let to = registry.external_at("to", &format!("http://{address}/")).await;
    let (status, _) = complete_answer(&from, &to).await.expect("an answer");
    assert_eq!(status, 502, "the redirect was passed on to the caller");
    assert_eq!(server.asked(), 1, "a message is sent once");
}

/// The agent listens on a port that its container does not publish, or does not listen at all.
#[tokio::test(flavor = "multi_thread")]
async fn message_fails_with_a_reason_when_agent_never_listens() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    let never = registry.online("never").await;
    let ask = from.message(&never).header("X-Timeout", "1").json(hello());
    let answer = from.ask(ask).await;
    assert!(matches!(answer.status, 502 | 503), "{answer:?}");
    assert!(
        answer.json()["error"].is_string() || answer.json()["error"]["message"].is_string(),
        "{answer:?}"
    );
    let rows = never.ask(Ask::get(format!("/workspaces/{}/activity", never.id))).await.well();
    assert_eq!(rows[0]["status"], "error", "{rows}");
}
