//! Streams a response and enforces its time limits.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};

use super::{
    Alive, ForwardError, ForwardLimits, Overdue,
    pool::{Pool, Upstream},
};
use crate::{
    domain::time::Awake,
    runtime::clock::{Boxed, SharedClock},
};

/// The time limits of one response.
///
/// One timer serves both limits: when it fires, the remaining time is computed and it is armed again. When bytes are
/// received, only the time is stored.
pub(super) struct Watch {
    clock: SharedClock,
    end: Awake,
    idle: Duration,
    last: Awake,
    alive: Alive,
    timer: Option<Boxed<()>>,
}

impl Watch {
    pub(super) fn begin(clock: SharedClock, limits: &ForwardLimits, wanted: Option<Duration>) -> Self {
        let now = clock.awake();
        let total = wanted.map_or(limits.total, |wanted| wanted.min(limits.total));
        let alive = Arc::clone(&limits.alive);
        Self { clock, end: now + total, idle: limits.idle, last: now, alive, timer: None }
    }

    /// Notes that bytes were received. Returns `false` if the total time limit has passed.
    pub(super) fn note_activity(&mut self) -> bool {
        self.last = self.clock.awake();
        self.last < self.end
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Overdue> {
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
            }
            let now = self.clock.awake();
            let left = self.end.since(now);
            if left.is_zero() {
                return Poll::Ready(Overdue::Whole);
            }
            let last = self.last.max((self.alive)().unwrap_or_default());
            let silence_left = self.idle.saturating_sub(now.since(last));
            if silence_left.is_zero() {
                return Poll::Ready(Overdue::Silent);
            }
            self.timer = Some(self.clock.sleep(left.min(silence_left)));
        }
    }
}

/// A response body that also drives the connection it arrives on.
pub(super) struct Streamed {
    pub(super) incoming: Incoming,
    /// `None` once the response is over.
    upstream: Option<Upstream>,
    /// The pool and key under which the connection is kept afterwards; `None` if it is not kept.
    kept_at: Option<(Arc<Pool>, SocketAddr)>,
    watch: Watch,
    /// Bytes that the body may still have.
    left: u64,
    /// Set when the response is cut short. The next poll returns this error, so that earlier data is written to the
    /// caller first.
    cut: Option<io::Error>,
}

impl Streamed {
    pub(super) fn new(
        incoming: Incoming,
        upstream: Upstream,
        kept_at: Option<(Arc<Pool>, SocketAddr)>,
        watch: Watch,
        left: u64,
    ) -> Self {
        Self { incoming, upstream: Some(upstream), kept_at, watch, left, cut: None }
    }

    /// Ends a complete response: the connection goes back to the pool or is closed.
    pub(super) fn finish(&mut self, cx: &mut Context<'_>) {
        let Some(mut upstream) = self.upstream.take() else { return };
        // The connection has to be polled once more to see that the response is complete.
        upstream.drive(cx);
        if let Some((pool, address)) = self.kept_at.take()
            && upstream.is_free()
        {
            pool.keep(address, upstream);
        }
    }

    /// Cuts the response short: closes the agent's connection now and the caller's at the next poll.
    ///
    /// Until then the server writes out the head and the bytes received so far: they show the caller that the agent
    /// began a response and did not complete it.
    fn cut(&mut self, cx: &Context<'_>, error: io::Error) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.upstream = None;
        self.cut = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if let Some(error) = this.cut.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(upstream) = &mut this.upstream else { return Poll::Ready(None) };
        let mut polled = Pin::new(&mut this.incoming).poll_frame(cx);
        if polled.is_pending() {
            upstream.drive(cx);
            polled = Pin::new(&mut this.incoming).poll_frame(cx);
        }
        match polled {
            Poll::Pending => {
                let overdue = ready!(this.watch.poll(cx));
                this.cut(cx, io::Error::new(io::ErrorKind::TimedOut, overdue.to_string()))
            }
            Poll::Ready(None) => {
                this.finish(cx);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => this.cut(cx, io::Error::other(error)),
            Poll::Ready(Some(Ok(frame))) => {
                if !this.watch.note_activity() {
                    return this.cut(cx, io::Error::new(io::ErrorKind::TimedOut, Overdue::Whole.to_string()));
                }
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(left) = this.left.checked_sub(length) else {
                    return this.cut(cx, io::Error::other(ForwardError::TooLarge));
                };
                this.left = left;
                if this.incoming.is_end_stream() {
                    // The server knows the length of the body and does not poll for its end.
                    this.finish(cx);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.upstream.is_none() && self.cut.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
