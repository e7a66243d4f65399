//! What a client still sends of a request that is answered before its body was read.
//!
//! Most clients read an answer only after they have sent their request. A connection that is closed while they send
//! shows them a broken pipe, and no answer. So the rest is received and discarded first, up to a limit of bytes and of
//! time.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{Request, Response, StatusCode, header::EXPECT},
};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::Semaphore;

use crate::clock::{Clock, within};

/// A body of this size is in the kernel's buffers by the time it is refused.
const SMALL: u64 = 64 << 10;
/// The most that is discarded: what a person who sends a file as a message may send.
const DISCARDED_MAX: usize = 128 << 20;
/// How many are, at once.
const AT_ONCE: usize = 16;
/// How long that may take. The answer waits for it.
const DISCARD_LIMIT: Duration = Duration::from_secs(15);
/// Who sends nothing for so long waits for the answer. Longer than a round trip of any network that agents are in.
const PAUSE: Duration = Duration::from_secs(1);

/// How many requests of a listener may have their rest discarded at once. It costs time, and whoever is refused may
/// have shown no token: beyond these a connection ends as it does without all this.
#[derive(Clone)]
pub(super) struct Discards(Arc<Semaphore>);

impl Discards {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }

    /// Gives a refusal once its client is ready to read it. A client that was too slow is not waited for once more.
    pub(super) async fn before(
        &self,
        answer: Response<Body>,
        rest: RestOfBody,
        clock: &dyn Clock,
    ) -> Response<Body> {
        if answer.status() != StatusCode::REQUEST_TIMEOUT
            && rest.is_coming()
            && let Ok(_permit) = self.0.try_acquire()
        {
            rest.discard(clock).await;
        }
        answer
    }
}

/// The body of a request, which its handler reads too.
#[derive(Clone)]
pub(super) struct RestOfBody(Arc<Shared>);

struct Shared {
    body: Mutex<Body>,
    /// Whether the client sends it only after it was asked for.
    waits: bool,
    asked: AtomicBool,
}

impl RestOfBody {
    /// Whether a request's body is worth the effort.
    pub(super) fn is_large(request: &Request<Incoming>) -> bool {
        request.body().size_hint().upper().is_none_or(|most| most > SMALL)
    }

    /// Shares a request's body between its handler and [`Discards::before`].
    pub(super) fn keep(request: Request<Incoming>) -> (Request<Body>, Self) {
        let (parts, body) = request.into_parts();
        let waits = parts.headers.contains_key(EXPECT);
        let rest = Self(Arc::new(Shared {
            body: Mutex::new(Body::new(body)),
            waits,
            asked: AtomicBool::new(false),
        }));
        (Request::from_parts(parts, Body::new(rest.clone())), rest)
    }

    /// Receives and discards what is left of it before its answer is given.
    async fn discard(mut self, clock: &dyn Clock) {
        let mut left = DISCARDED_MAX;
        let discard = async {
            while let Some(Some(Ok(frame))) = within(clock, PAUSE, self.frame()).await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    break;
                }
            }
        };
        // Whoever has not sent it by then sees the connection end.
        let _in_time = within(clock, DISCARD_LIMIT, discard).await;
    }

    /// Whether the client is sending, or about to, without having been read to the end.
    fn is_coming(&self) -> bool {
        !self.is_end_stream() && (!self.0.waits || self.0.asked.load(Ordering::Relaxed))
    }

    fn with<T>(&self, look: impl FnOnce(&mut Body) -> T) -> T {
        look(&mut self.0.body.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HttpBody for RestOfBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.0.asked.store(true, Ordering::Relaxed);
        self.with(|body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}
