//! An answer as it comes, and the time it may take.

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
    clock::{Boxed, SharedClock},
    domain::time::Awake,
};

/// The times of one answer.
///
/// One timer serves both: what it finds when it fires says how much longer there is. Bytes only note
/// when they came.
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

    /// A byte came. Whether it came in time for the whole is the answer.
    pub(super) fn heard(&mut self) -> bool {
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

/// An answer's body, which drives the connection that it comes on.
pub(super) struct Streamed {
    pub(super) incoming: Incoming,
    /// None once the answer is over.
    upstream: Option<Upstream>,
    /// Where the connection may be kept.
    kept_at: Option<(Arc<Pool>, SocketAddr)>,
    watch: Watch,
    /// Bytes that may still come.
    left: u64,
    /// Where the answer is cut: told at the next poll, so that what came before is written out first.
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

    /// The answer is complete: the connection is free for the next message, or closed.
    pub(super) fn finish(&mut self, cx: &mut Context<'_>) {
        let Some(mut upstream) = self.upstream.take() else { return };
        // It has yet to notice that it is done.
        upstream.drive(cx);
        if let Some((pool, address)) = self.kept_at.take()
            && upstream.is_free()
        {
            pool.keep(address, upstream);
        }
    }

    /// The answer is cut: the agent's connection ends now, the caller's at the next poll. Until then the server writes
    /// out the head and the bytes that came: a caller that has them knows that the agent answered and broke off.
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
                if !this.watch.heard() {
                    return this.cut(cx, io::Error::new(io::ErrorKind::TimedOut, Overdue::Whole.to_string()));
                }
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(left) = this.left.checked_sub(length) else {
                    return this.cut(cx, io::Error::other(ForwardError::TooLarge));
                };
                this.left = left;
                if this.incoming.is_end_stream() {
                    // Whoever writes it to a caller knows its length, and will not ask for its end.
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
