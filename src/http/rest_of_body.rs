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
    extract::Request,
    http::header::EXPECT,
};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};

use crate::clock::{Clock, within};

/// A body of this size is in the kernel's buffers by the time it is refused.
const SMALL: u64 = 64 << 10;
/// The most that is discarded: several times the largest message.
const DISCARDED_MAX: usize = 64 << 20;
/// How long that may take. The answer waits for it.
const DISCARD_LIMIT: Duration = Duration::from_secs(5);
/// Who sends nothing for so long waits for the answer. Longer than a round trip of any network that agents are in.
const PAUSE: Duration = Duration::from_millis(250);

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
    /// Keeps hold of a request's body. `None` for a small one.
    pub(super) fn keep(request: Request) -> (Request, Option<Self>) {
        if request.body().size_hint().upper().is_some_and(|most| most <= SMALL) {
            return (request, None);
        }
        let (parts, body) = request.into_parts();
        let waits = parts.headers.contains_key(EXPECT);
        let rest = Self(Arc::new(Shared { body: Mutex::new(body), waits, asked: AtomicBool::new(false) }));
        (Request::from_parts(parts, Body::new(rest.clone())), Some(rest))
    }

    /// Receives and discards what is left of it.
    pub(super) async fn discard(mut self, clock: &dyn Clock) {
        if self.is_end_stream() || (self.0.waits && !self.0.asked.load(Ordering::Relaxed)) {
            return;
        }
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
