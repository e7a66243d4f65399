//! Discards the rest of a request body when the response is ready before the body was read.
//!
//! Most clients read the response only after they have sent the whole request. If the connection closes while they are
//! sending, they report a broken pipe and never see the response. So the rest is received and discarded first, up to a
//! limit in bytes and time.

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

use crate::runtime::clock::{Clock, within};

/// Largest body, in bytes, that fits completely into the kernel's buffers. Its client finishes sending even if the body
/// is not read, so no discard is needed.
const SMALL: u64 = 64 << 10;
/// Most bytes that are discarded: enough for a file that a user sends as a message.
const DISCARDED_MAX: usize = 128 << 20;
/// Most concurrent discards.
const AT_ONCE: usize = 16;
/// Time limit of a discard. The response is delayed until the discard ends.
const DISCARD_LIMIT: Duration = Duration::from_secs(15);
/// If a client sends nothing for this long, it is assumed to be waiting for the response. This is longer than a round
/// trip in any network that agents use.
const PAUSE: Duration = Duration::from_secs(1);

/// Limits the concurrent discards of a listener.
///
/// A discard takes time, and clients without a valid token can cause one. Beyond the limit a connection ends without a
/// discard, and the client may miss the response.
#[derive(Clone)]
pub(super) struct Discards(Arc<Semaphore>);

impl Discards {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }

    /// Returns the response once its client is ready to read it. If the response reports that the body did not arrive
    /// in time (408), the rest of the body is not waited for.
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

/// A request body that its handler and the discard share.
#[derive(Clone)]
pub(super) struct RestOfBody(Arc<Shared>);

struct Shared {
    body: Mutex<Body>,
    /// Whether the client sends the body only after a `100 Continue` (header `Expect`).
    waits: bool,
    asked: AtomicBool,
}

impl RestOfBody {
    /// Whether a request's body may be larger than `SMALL`, so that its rest may have to be discarded.
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

    /// Receives and discards the rest of the body before the response is sent.
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
        // If the client has not sent the rest by then, the connection closes and the client may miss the response.
        let _in_time = within(clock, DISCARD_LIMIT, discard).await;
    }

    /// Whether the client is sending the body, or is about to, and its end was not read yet.
    fn is_coming(&self) -> bool {
        !self.is_end_stream() && (!self.0.waits || self.0.asked.load(Ordering::Relaxed))
    }

    fn with<T>(&self, access: impl FnOnce(&mut Body) -> T) -> T {
        access(&mut self.0.body.lock().unwrap_or_else(PoisonError::into_inner))
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
