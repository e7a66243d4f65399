//! Support for the tests of the proxy: hand-written agents, which can send invalid HTTP, and prepared lookups.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    body::Body,
    http::{HeaderMap, Response},
};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    dial::Dial,
    limits::ForwardLimits,
    request::ForwardRequest,
    resolver::Resolve,
    target::{Location, Target},
    transport::Forwarder,
};
use crate::{
    domain::{
        address::Surroundings,
        token::{Proof, TOKEN_BYTES, Token},
    },
    runtime::clock::Boxed,
    runtime::manual_clock::ManualClock,
};

pub(super) const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// An agent whose responses are written by the test, so that they can be invalid.
pub(super) struct Agent(pub(super) TcpListener);

/// A connection to the agent.
pub(super) struct Caller(pub(super) TcpStream);

impl Agent {
    pub(super) async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(super) fn target(&self) -> Target {
        Target { location: Location::Local(self.address()), proofs: vec![proof()] }
    }

    pub(super) async fn accepts(&self) -> Caller {
        Caller(self.0.accept().await.unwrap().0)
    }
}

impl Caller {
    /// Reads one request, head and body.
    pub(super) async fn reads(&mut self) -> String {
        let mut received = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&received).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() == length.map_or(0, |length| length.parse().unwrap()) {
                    return text;
                }
            }
            assert!(self.0.read_buf(&mut received).await.unwrap() > 0, "the request ended early: {text}");
        }
    }

    pub(super) async fn sends(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Waits until the other side has closed the connection.
    pub(super) async fn waits_for_close(mut self) {
        let mut rest = Vec::new();
        let _reset_is_an_end_too = self.0.read_to_end(&mut rest).await;
    }
}

/// The proof that the agents of these tests receive.
pub(super) fn proof() -> Proof {
    Token::from_random([7; TOKEN_BYTES]).digest().proof()
}

pub(super) fn message() -> ForwardRequest {
    ForwardRequest { body: "{}".into(), headers: HeaderMap::new(), caller: "caller-id".into() }
}

pub(super) fn limits() -> ForwardLimits {
    ForwardLimits::new(Arc::new(|| None))
}

pub(super) fn forwarder() -> (Arc<ManualClock>, Forwarder) {
    let clock = Arc::new(ManualClock::default());
    (clock.clone(), Forwarder::new(clock, Dial::Tcp))
}

pub(super) async fn whole(response: Response<Body>) -> Result<String, axum::Error> {
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

pub(super) async fn next(body: &mut Body) -> Option<Result<String, axum::Error>> {
    let frame = body.frame().await?;
    Some(frame.map(|frame| String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()))
}

/// Returns prepared answers in order. A lookup for which no answer is left fails the test.
pub(super) struct Answers(Mutex<VecDeque<io::Result<Vec<SocketAddr>>>>);

impl Answers {
    pub(super) fn new(answers: &[&[&str]]) -> Self {
        let parse = |answer: &&[&str]| Ok(answer.iter().map(|text| text.parse().unwrap()).collect());
        Self(Mutex::new(answers.iter().map(parse).collect()))
    }
}

impl Resolve for Answers {
    fn resolve(&self, host: String, _port: u16) -> Boxed<io::Result<Vec<SocketAddr>>> {
        let answer = self.0.lock().unwrap().pop_front();
        let answer = answer.unwrap_or_else(|| panic!("`{host}` was resolved more often than expected"));
        Box::pin(async { answer })
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings { own: vec!["8.8.4.7".parse().unwrap()], ..Surroundings::default() }
    }
}
