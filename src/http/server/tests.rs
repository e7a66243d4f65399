//! Tests of a server with real connections: how long each stays open, and what it may send.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{ConnectInfo, State},
    routing::get,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    bind::bind,
    limits::ConnectionLimits,
    owner::Owner,
    serve::{HEAD, serve},
    slots::Carrier,
};
use crate::{
    domain::ids::WorkspaceId,
    runtime::{manual_clock::ManualClock, tasks::TokioTasks},
};

pub(super) const LIMITS: ConnectionLimits = ConnectionLimits {
    in_all: 100,
    per_address: 100,
    per_workspace: 100,
    idle: Duration::from_secs(75),
    drain: Duration::from_secs(5),
};

struct Server {
    address: SocketAddr,
    clock: Arc<ManualClock>,
    stop: CancellationToken,
    served: JoinHandle<()>,
    /// Notified by a test to let `/slow` respond.
    go: Arc<Notify>,
    /// Notified when `/slow` was requested.
    asked: Arc<Notify>,
}

#[expect(clippy::disallowed_methods, reason = "task of a test")]
fn start(limits: ConnectionLimits) -> Server {
    let (go, asked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let router = Router::new()
        .route(
            "/known",
            get(|Extension(carrier): Extension<Carrier>| async move {
                carrier.belongs_to(Owner::Workspace(workspace(1)));
                "known"
            }),
        )
        .route("/peer", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
        .route(
            "/slow",
            get(|State((go, asked)): State<(Arc<Notify>, Arc<Notify>)>| async move {
                asked.notify_one();
                go.notified().await;
                "done"
            }),
        )
        .with_state((Arc::clone(&go), Arc::clone(&asked)));
    let listener = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let address = listener.local_addr().unwrap();
    let (clock, stop) = (Arc::new(ManualClock::default()), CancellationToken::new());
    let tasks = Arc::new(TokioTasks::default());
    let served = tokio::spawn(serve(listener, router, limits, clock.clone(), tasks, stop.clone()));
    Server { address, clock, stop, served, go, asked }
}

struct Peer(TcpStream);

impl Peer {
    async fn new(server: &Server) -> Self {
        Self(TcpStream::connect(server.address).await.unwrap())
    }

    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    async fn ask(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    }

    /// Reads until the response contains the text.
    async fn receives(&mut self, text: &str) -> String {
        let mut received = Vec::with_capacity(64 * 1024);
        loop {
            let before = String::from_utf8_lossy(&received).into_owned();
            if before.contains(text) {
                return before;
            }
            let count = self.0.read_buf(&mut received).await.unwrap();
            assert!(count > 0, "the connection ended before {text:?} was received; received: {before}");
        }
    }

    /// Reads until the server has closed the connection.
    async fn ends(&mut self) -> String {
        let mut received = Vec::new();
        // A reset also ends the connection: the server may have left data unread.
        let _end = self.0.read_to_end(&mut received).await;
        String::from_utf8_lossy(&received).into_owned()
    }
}

#[tokio::test]
async fn connection_with_slow_request_head_is_closed_after_75_seconds() {
    let server = start(LIMITS);
    let mut peer = Peer::new(&server).await;
    peer.send("GET /peer HTTP/1.1\r\n").await;
    server.clock.until_asked(1).await;
    for _ in 0..5 {
        server.clock.advance(Duration::from_secs(14));
        peer.send("x-drip: 1\r\n").await;
    }
    server.clock.advance(Duration::from_secs(5));
    assert_eq!(peer.ends().await, "", "closed after 75 s without a response");
}

#[tokio::test]
async fn connection_with_requests_every_30_seconds_stays_open() {
    let server = start(LIMITS);
    let mut peer = Peer::new(&server).await;
    for _ in 0..20 {
        peer.ask("/peer").await;
        peer.receives("127.0.0.1").await;
        server.clock.advance(Duration::from_secs(30));
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        server.clock.advance(Duration::from_secs(30));
        tokio::task::yield_now().await;
    }
    assert_eq!(peer.ends().await, "", "closed after a longer silence");
}

#[tokio::test]
async fn connection_with_in_flight_request_is_not_idle() {
    let server = start(LIMITS);
    let mut peer = Peer::new(&server).await;
    peer.ask("/slow").await;
    server.asked.notified().await;
    for count in 1..5 {
        server.clock.until_asked(count).await;
        server.clock.advance(Duration::from_secs(75));
    }
    server.clock.until_asked(5).await;
    server.go.notify_one();
    peer.receives("done").await;
}

#[tokio::test]
async fn oversized_request_head_is_refused() {
    let server = start(LIMITS);
    let mut peer = Peer::new(&server).await;
    peer.send("GET /peer HTTP/1.1\r\nhost: x\r\nx-large: ").await;
    // The server may refuse the request and close the connection while the header is still being sent.
    let _reset = peer.0.write_all(&vec![b'a'; 200 * 1024]).await;
    let answer = peer.ends().await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");

    let mut peer = Peer::new(&server).await;
    peer.send(&format!("GET /peer HTTP/1.1\r\nhost: x\r\nx-large: {}", "a".repeat(HEAD))).await;
    assert!(peer.ends().await.starts_with("HTTP/1.1 431"), "a head slightly over the limit gets a response");

    let mut peer = Peer::new(&server).await;
    peer.send(&format!("GET /peer HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-many: 1\r\n".repeat(150))).await;
    assert!(peer.ends().await.starts_with("HTTP/1.1 431"), "too many headers get 431 too");
}

#[tokio::test]
async fn connection_without_a_token_is_evicted_for_a_new_one() {
    let server = start(ConnectionLimits { per_address: 2, ..LIMITS });
    let (mut first, mut second) = (Peer::new(&server).await, Peer::new(&server).await);
    for peer in [&mut first, &mut second] {
        peer.ask("/peer").await;
        peer.receives("127.0.0.1").await;
    }
    second.ask("/known").await;
    second.receives("known").await;
    let (mut third, mut fourth) = (Peer::new(&server).await, Peer::new(&server).await);
    assert_eq!(
        first.ends().await,
        "",
        "the oldest connection without a token is evicted, although it got a response before"
    );
    for peer in [&mut second, &mut third, &mut fourth] {
        peer.ask("/peer").await;
        peer.receives("127.0.0.1").await;
    }
}

#[tokio::test]
async fn workspace_over_its_limit_evicts_its_own_oldest_connection() {
    let server = start(ConnectionLimits { per_address: 2, per_workspace: 2, ..LIMITS });
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut peer = Peer::new(&server).await;
        peer.ask("/known").await;
        peer.receives("known").await;
        peer.ask("/slow").await;
        server.asked.notified().await;
        server.clock.advance(Duration::from_secs(1));
        busy.push(peer);
    }
    // All connections come from one address and have a request in flight: a new connection is served nevertheless.
    let mut next = Peer::new(&server).await;
    next.ask("/peer").await;
    next.receives("127.0.0.1").await;
    next.ask("/known").await;
    next.receives("known").await;
    assert_eq!(busy.remove(0).ends().await, "", "the workspace's own oldest connection is evicted");
    server.go.notify_one();
    busy.remove(0).receives("done").await;
}

#[tokio::test]
async fn http_1_1_request_needs_exactly_one_host_header() {
    let server = start(LIMITS);
    for (head, status) in [
        ("GET /peer HTTP/1.1\r\n\r\n", 400),
        ("GET /peer HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        ("GET /peer HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400),
        ("GET /peer HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        ("GET /peer HTTP/1.0\r\n\r\n", 200),
        ("GET /peer HTTP/1.1\r\nhost: a\r\n\r\n", 200),
    ] {
        let mut peer = Peer::new(&server).await;
        peer.send(head).await;
        let answer = peer.receives("\r\n\r\n").await;
        assert!(answer.split(' ').nth(1) == Some(&status.to_string()), "{head:?}: {answer}");
    }
}

pub(super) fn workspace(number: u128) -> WorkspaceId {
    WorkspaceId(uuid::Uuid::from_u128(number))
}

#[tokio::test]
async fn shutdown_closes_idle_connections_and_finishes_requests() {
    let server = start(LIMITS);
    let (mut idle, mut busy) = (Peer::new(&server).await, Peer::new(&server).await);
    idle.ask("/peer").await;
    idle.receives("127.0.0.1").await;
    busy.ask("/slow").await;
    server.asked.notified().await;
    server.stop.cancel();
    assert_eq!(idle.ends().await, "");
    server.go.notify_one();
    assert!(busy.ends().await.ends_with("done"));
    server.served.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "the address is no longer bound");
}

#[tokio::test]
async fn shutdown_aborts_requests_that_exceed_the_drain_time() {
    let server = start(LIMITS);
    let mut stuck = Peer::new(&server).await;
    stuck.ask("/slow").await;
    server.asked.notified().await;
    server.clock.until_asked(1).await;
    server.stop.cancel();
    server.clock.until_asked(2).await;
    server.clock.advance(LIMITS.drain);
    server.served.await.unwrap();
    assert_eq!(stuck.ends().await, "");
}
