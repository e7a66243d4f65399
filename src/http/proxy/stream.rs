//! Streams a response and enforces its limits.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};

use super::{
    error::ForwardError,
    limits::{Overdue, Watch},
    pool::Pool,
    upstream::Upstream,
};

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

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use crate::http::proxy::{
        limits::ForwardLimits,
        testing::{Agent, forwarder, limits, message, next, whole},
    };

    #[tokio::test]
    async fn sse_events_are_forwarded_without_buffering() {
        let message = message();
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let (answer, mut caller) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller
                .sends("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            caller
        });
        let mut body = answer.unwrap().into_body();
        for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
            // Each event is read before the next is written: nothing is buffered.
            caller.sends(&format!("{:x}\r\n{event}\r\n", event.len())).await;
            assert_eq!(next(&mut body).await.unwrap().unwrap(), event);
        }
        caller.sends("0\r\n\r\n").await;
        assert!(next(&mut body).await.is_none());
    }

    #[tokio::test]
    async fn agent_connection_is_closed_when_caller_disconnects() {
        let message = message();
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        // Dropped before the response begins.
        let caller = {
            let mut asking = pin!(forwarder.forward(&target, &message, &limits));
            tokio::select! {
                answer = &mut asking => panic!("unexpected response: {answer:?}"),
                caller = async {
                    let mut caller = agent.accepts().await;
                    caller.reads().await;
                    caller
                } => caller,
            }
        };
        caller.waits_for_close().await;
        // Dropped during the response.
        let (answer, caller) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller.sends("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfirst").await;
            caller
        });
        let mut body = answer.unwrap().into_body();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "first");
        drop(body);
        caller.waits_for_close().await;
    }

    #[tokio::test]
    async fn chunked_response_over_the_limit_ends_with_an_error() {
        let message = message();
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), ForwardLimits { response: 10, ..limits() });
        for (answer, passes) in
            [("5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", true), ("b\r\nhello world\r\n", false)]
        {
            let (passed, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
                let mut caller = agent.accepts().await;
                caller.reads().await;
                caller.sends(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{answer}")).await;
            });
            assert_eq!(whole(passed.unwrap()).await.is_ok(), passes, "{answer}");
        }
    }

    #[tokio::test]
    async fn truncated_response_ends_with_an_error() {
        let message = message();
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        for begun in ["content-length: 10\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
            let (passed, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
                let mut caller = agent.accepts().await;
                caller.reads().await;
                caller.sends(&format!("HTTP/1.1 200 OK\r\n{begun}")).await;
            });
            assert!(whole(passed.unwrap()).await.is_err(), "{begun}");
        }
    }

    #[tokio::test]
    async fn response_that_stalls_ends_with_an_error() {
        let message = message();
        let (agent, (clock, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let (answer, mut caller) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller.sends("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n").await;
            caller
        });
        let mut body = answer.unwrap().into_body();
        for _ in 0..4 {
            // Every byte restarts the idle limit.
            clock.advance(Duration::from_secs(299));
            caller.sends("x").await;
            assert_eq!(next(&mut body).await.unwrap().unwrap(), "x");
        }
        let (end, ()) = tokio::join!(next(&mut body), async {
            for _ in 0..300 {
                tokio::task::yield_now().await;
                clock.advance(Duration::from_secs(1));
            }
        });
        assert!(end.unwrap().is_err());
        caller.waits_for_close().await;
    }
}
