//! Connections to agents, and the pool of idle ones.

use std::{
    collections::HashMap,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Mutex, PoisonError},
    task::Context,
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{Request, Response},
};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, net::TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::{ForwardError, broken};
use crate::{domain::time::Awake, runtime::clock::SharedClock};

/// How long an idle connection is kept. The HTTP servers in agents close idle connections after five seconds, and a
/// connection that is about to be closed must not be used.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(4);

/// Most idle connections per target, and in all.
const KEPT_EACH: usize = 64;
const KEPT: usize = 512;

pub(super) type Plain = Either<TcpStream, DuplexStream>;
pub(super) type Stream = Either<Plain, Box<TlsStream<Plain>>>;
pub(super) type Message = Full<Bytes>;

/// A connection to an agent.
pub(super) struct Upstream {
    pub(super) sender: http1::SendRequest<Message>,
    /// `None` once the connection has ended.
    pub(super) connection: Option<http1::Connection<TokioIo<Stream>, Message>>,
}

/// A message that got no response.
pub(super) struct Failed {
    pub(super) why: hyper::Error,
    /// The message, if no byte of it was written.
    pub(super) unsent: Option<Request<Message>>,
}

impl From<Failed> for ForwardError {
    fn from(failed: Failed) -> Self {
        broken(failed.why)
    }
}

impl Upstream {
    /// Lets the connection read and write. A connection that has ended is dropped, so that futures waiting on it
    /// resolve with an error.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(cx).is_ready()
        {
            self.connection = None;
        }
    }

    /// Whether another message can be sent on this connection.
    pub(super) fn is_free(&self) -> bool {
        self.connection.is_some() && self.sender.is_ready()
    }

    pub(super) async fn send(
        mut self,
        message: Request<Message>,
    ) -> Result<(Response<Incoming>, Self), Failed> {
        let mut answer = pin!(self.sender.try_send_request(message));
        let answer = poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(cx)
        })
        .await;
        match answer {
            Ok(response) => Ok((response, self)),
            Err(mut error) => {
                let unsent = error.take_message();
                Err(Failed { why: error.into_error(), unsent })
            }
        }
    }
}

/// Idle connections, kept for the next message.
pub(super) struct Pool {
    clock: SharedClock,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Per target, oldest first.
    by_target: HashMap<SocketAddr, Vec<(Upstream, Awake)>>,
    count: usize,
    cleared_at: Awake,
}

impl Pool {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { clock, kept: Mutex::default() }
    }

    /// Takes an idle connection to `address` that is still open, as far as can be determined.
    pub(super) fn take(&self, address: SocketAddr, cx: &mut Context<'_>) -> Option<Upstream> {
        loop {
            let (mut upstream, since) = {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                let taken = kept.by_target.get_mut(&address)?.pop()?;
                kept.count -= 1;
                taken
            };
            // An idle connection is not polled. So this call detects whether the agent has closed the connection.
            upstream.drive(cx);
            if upstream.is_free() && self.clock.awake().since(since) < KEPT_FOR {
                return Some(upstream);
            }
        }
    }

    pub(super) fn keep(&self, address: SocketAddr, upstream: Upstream) {
        let now = self.clock.awake();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(kept.cleared_at) >= KEPT_FOR {
            kept.clear_old(now);
        }
        if kept.count >= KEPT {
            return;
        }
        let same = kept.by_target.entry(address).or_default();
        if same.len() < KEPT_EACH {
            same.push((upstream, now));
            kept.count += 1;
        }
    }
}

impl Kept {
    fn clear_old(&mut self, now: Awake) {
        self.by_target.retain(|_, same| {
            same.retain(|(_, since)| now.since(*since) < KEPT_FOR);
            !same.is_empty()
        });
        self.count = self.by_target.values().map(Vec::len).sum();
        self.cleared_at = now;
    }
}
