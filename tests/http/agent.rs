//! A fake agent: an HTTP server that records its requests.

#![allow(clippy::disallowed_methods, reason = "the server is real, and its tasks run on tokio")]

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::HeaderMap,
    response::Response,
};
use futures_util::stream;
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

/// The answer of the agent.
pub(super) enum Reply {
    /// This status, content type and body.
    This(u16, &'static str, Vec<u8>),
    /// A stream of the events received on this channel.
    Events(mpsc::UnboundedReceiver<Bytes>),
    /// No answer, ever.
    Nothing,
}

/// A recorded request.
#[derive(Clone, Debug)]
pub(super) struct RecordedRequest {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl RecordedRequest {
    /// All values of the header by which ostler proves that it sent the request.
    pub(super) fn proofs(&self) -> Vec<String> {
        let values = self.headers.get_all("x-ostler-proof").iter();
        values.map(|value| value.to_str().expect("a proof is ASCII").to_owned()).collect()
    }

    #[track_caller]
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

struct Inner {
    reply: Mutex<Reply>,
    requests: Mutex<Vec<RecordedRequest>>,
    /// Number of requests whose client disconnected before the answer was complete.
    left: AtomicUsize,
}

/// The fake agent; it stops when dropped.
pub(super) struct Agent {
    pub(super) address: SocketAddr,
    inner: Arc<Inner>,
    serving: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Agent {
    /// Listens on a port chosen by the kernel.
    pub(super) async fn replying(reply: Reply) -> Self {
        Self::at(0, reply).await
    }

    /// Listens on a given port, where the fake engine publishes a container.
    pub(super) async fn at(port: u16, reply: Reply) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let inner = Arc::new(Inner {
            reply: Mutex::new(reply),
            requests: Mutex::default(),
            left: AtomicUsize::new(0),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&inner));
        let serving =
            tokio::spawn(async move { axum::serve(listener, router).await.expect("the server runs") });
        Self { address, inner, serving }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/agent?x=1", self.address)
    }

    pub(super) fn requests(&self) -> Vec<RecordedRequest> {
        self.inner.requests.lock().unwrap().clone()
    }

    /// Number of clients that disconnected before the answer was complete.
    pub(super) fn left(&self) -> usize {
        self.inner.left.load(Ordering::SeqCst)
    }
}

/// Counts a client that disconnects, unless the answer was complete.
struct Watch(Arc<Inner>, bool);

impl Watch {
    fn done(&mut self) {
        self.1 = true;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.1 {
            self.0.left.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn answer(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("the request is complete");
    let path = parts.uri.to_string();
    inner.requests.lock().unwrap().push(RecordedRequest { path, headers: parts.headers, body });
    let mut watch = Watch(Arc::clone(&inner), false);
    // The reply is read and replaced under one lock, so that only one request gets the event stream.
    let reply = {
        let mut reply = inner.reply.lock().unwrap();
        match &*reply {
            Reply::This(status, content_type, body) => Reply::This(*status, content_type, body.clone()),
            Reply::Events(_) | Reply::Nothing => std::mem::replace(&mut *reply, Reply::Nothing),
        }
    };
    match reply {
        Reply::This(status, content_type, body) => {
            watch.done();
            Response::builder()
                .status(status)
                .header("content-type", content_type)
                .header("set-cookie", "a=b")
                .header("x-agent", "yes")
                .body(Body::from(body))
                .expect("an answer")
        }
        Reply::Events(events) => {
            let events = stream::unfold((events, watch), |(mut events, mut watch)| async move {
                let Some(event) = events.recv().await else {
                    watch.done();
                    return None;
                };
                Some((Ok::<_, Infallible>(event), (events, watch)))
            });
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(Body::from_stream(events))
                .expect("an answer")
        }
        Reply::Nothing => {
            std::future::pending::<()>().await;
            drop(watch);
            Response::new(Body::empty())
        }
    }
}
