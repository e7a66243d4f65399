//! The proxy's transport: sends one message to an agent and streams its response.
//!
//! A connection to an agent has no task of its own. The future that waits for the response drives it, first here and
//! then as the response body. This saves two task switches per message. It also makes cancellation simple: when the
//! caller disconnects, the future is dropped, and with it the connection to the agent. Connections to containers are
//! kept for the next message, for less time than servers keep idle connections open.
//!
//! A message is delivered at most once. [`ForwardError::is_unsent`] reports whether an error occurred before the first
//! byte of the message was written; the caller of [`Forwarder::forward`] may send such a message again. After the first
//! byte it is unknown what the agent has done with the message, so it is never sent a second time.
//!
//! A port that Podman forwards in user space (rootless) accepts connections whether or not the agent listens, and
//! closes them when it cannot reach the agent. For such ports [`Forwarder::prove`] requests the agent's card first. The
//! agent listens if it responds, or at least keeps the connection open.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{Request, Response, Version},
};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

use super::{
    dial::Dial,
    error::ForwardError,
    headers::{card_request, clean_answer, passes_back, to_agent, wanted_limit},
    limits::{ForwardLimits, Watch},
    pool::Pool,
    request::ForwardRequest,
    stream::Streamed,
    target::{Location, Target},
    upstream::{Failed, Upstream},
};
use crate::runtime::clock::SharedClock;

/// Time limit of a request that only checks whether the agent listens.
const PROVING: Duration = Duration::from_secs(1);

/// Sends messages to agents.
pub(crate) struct Forwarder {
    pub(super) clock: SharedClock,
    pub(super) dial: Dial,
    pool: Arc<Pool>,
    pub(super) tls: OnceCell<TlsConnector>,
}

impl Forwarder {
    pub(crate) fn new(clock: SharedClock, dial: Dial) -> Self {
        let pool = Arc::new(Pool::new(Arc::clone(&clock)));
        Self { clock, dial, pool, tls: OnceCell::new() }
    }

    /// Sends a message and returns the head of the response. The body streams as the agent writes it.
    ///
    /// A body that is cut short ends with an error, which breaks the connection to the caller: a partial response must
    /// not look complete. Dropping this future or the body closes the connection to the agent.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub(crate) async fn forward(
        &self,
        target: &Target,
        request: &ForwardRequest,
        limits: &ForwardLimits,
    ) -> Result<Response<Body>, ForwardError> {
        self.exchange(target, to_agent(target, request)?, limits, wanted_limit(&request.headers)).await
    }

    /// Requests the card of a container's agent, to learn whether the agent listens behind a port that is forwarded in
    /// user space. The agent counts as listening if it sends any response, or if the connection stays open for
    /// [`PROVING`] without a response.
    ///
    /// # Errors
    /// [`ForwardError::Refused`] when the connection is refused, or closed without a response. Other errors that occur
    /// before the request is sent are returned unchanged.
    pub(crate) async fn prove(&self, target: &Target, limits: &ForwardLimits) -> Result<(), ForwardError> {
        let limits = ForwardLimits { total: PROVING, ..limits.clone() };
        match self.exchange(target, card_request(target)?, &limits, None).await {
            Err(ForwardError::Broken(_)) => Err(ForwardError::Refused),
            Err(error) if error.is_unsent() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn exchange(
        &self,
        target: &Target,
        request: Request<Full<Bytes>>,
        limits: &ForwardLimits,
        wanted: Option<Duration>,
    ) -> Result<Response<Body>, ForwardError> {
        let mut watch = Watch::begin(Arc::clone(&self.clock), limits, wanted);
        let mut asking = pin!(self.ask(target, request));
        let (response, upstream) = poll_fn(|cx| {
            if let Poll::Ready(answer) = asking.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            watch.poll(cx).map(|overdue| Err(ForwardError::TimedOut(overdue)))
        })
        .await?;
        let (mut head, incoming) = response.into_parts();
        if !passes_back(head.status) {
            return Err(ForwardError::Odd(head.status));
        }
        if incoming.size_hint().lower() > limits.response {
            return Err(ForwardError::TooLarge);
        }
        clean_answer(&mut head.headers);
        // The agent's HTTP version must not reach the caller. An HTTP/1.0 response without a length ends when the
        // connection closes, so a truncated one would look complete. As HTTP/1.1 the response is chunked, and the
        // caller detects a truncation.
        head.version = Version::HTTP_11;
        watch.note_activity();
        let kept_at = match &target.location {
            Location::Local(address) => Some((Arc::clone(&self.pool), *address)),
            Location::Checked(_) => None,
        };
        let mut body = Streamed::new(incoming, upstream, kept_at, watch, limits.response);
        if body.incoming.is_end_stream() {
            // The server does not poll the body of an empty response.
            poll_fn(|cx| {
                body.finish(cx);
                Poll::Ready(())
            })
            .await;
        }
        Ok(Response::from_parts(head, Body::new(body)))
    }

    async fn ask(
        &self,
        target: &Target,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Upstream), ForwardError> {
        if let Location::Local(address) = &target.location
            && let Some(kept) = poll_fn(|cx| Poll::Ready(self.pool.take(*address, cx))).await
        {
            match kept.send(request).await {
                Ok(answer) => return Ok(answer),
                Err(Failed { unsent: Some(unsent), .. }) => request = unsent,
                Err(failed) => return Err(failed.into()),
            }
        }
        match self.connect(target).await?.send(request).await {
            Ok(answer) => Ok(answer),
            Err(Failed { unsent: Some(_), .. }) => Err(ForwardError::Refused),
            Err(failed) => Err(failed.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::proxy::testing::{Agent, HELLO, forwarder, limits, message, proof, whole};

    #[tokio::test]
    async fn http_1_0_response_is_forwarded_as_http_1_1() {
        let message = message();
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let (answer, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller.sends("HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nhello").await;
        });
        let answer = answer.unwrap();
        assert_eq!(answer.version(), Version::HTTP_11, "in HTTP/1.0 a truncated response looks complete");
        assert_eq!(whole(answer).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn message_is_unsent_only_if_no_byte_was_written() {
        let message = message();
        let (_, forwarder) = forwarder();
        let limits = limits();
        let gone = Agent::new().await;
        let target = gone.target();
        drop(gone);
        let error = forwarder.forward(&target, &message, &limits).await.unwrap_err();
        assert!(error == ForwardError::Refused && error.is_unsent(), "{error}");

        let agent = Agent::new().await;
        let target = agent.target();
        let (answer, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
        });
        let error = answer.unwrap_err();
        assert!(!error.is_unsent(), "the agent has read the message, so it must not be sent again: {error}");
    }

    #[tokio::test]
    async fn listener_probe_fails_if_port_closes_without_a_response() {
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let (proven, ()) = tokio::join!(forwarder.prove(&target, &limits), async {
            drop(agent.accepts().await);
        });
        assert_eq!(proven, Err(ForwardError::Refused));
        for answer in [HELLO, "HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 302 x\r\n\r\n"] {
            let (proven, received) = tokio::join!(forwarder.prove(&target, &limits), async {
                let mut caller = agent.accepts().await;
                let received = caller.reads().await;
                caller.sends(answer).await;
                received
            });
            assert_eq!(proven, Ok(()), "{answer}");
            assert!(received.starts_with("GET /.well-known/agent.json HTTP/1.1\r\n"), "{received}");
            assert!(received.contains(&format!("x-ostler-proof: {}\r\n", proof().expose())), "{received}");
        }
    }

    #[tokio::test]
    async fn message_that_may_have_been_read_is_not_resent() {
        let message = message();
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let serve = async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller.sends(HELLO).await;
            // The second request arrives on the kept connection and gets no response.
            caller.reads().await;
        };
        let ask = async {
            let first = forwarder.forward(&target, &message, &limits).await.unwrap();
            assert_eq!(whole(first).await.unwrap(), "hello");
            forwarder.forward(&target, &message, &limits).await.unwrap_err()
        };
        let ((), error) = tokio::join!(serve, ask);
        assert!(matches!(error, ForwardError::Broken(_)), "{error}");
        let again = poll_fn(|cx| Poll::Ready(agent.0.poll_accept(cx).is_ready())).await;
        assert!(!again, "the message was sent again on another connection");
    }

    #[tokio::test]
    async fn response_with_excessive_content_length_is_refused() {
        let message = message();
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let (answer, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller.sends(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", (64 << 20) + 1)).await;
            caller.waits_for_close().await;
        });
        assert_eq!(answer.unwrap_err(), ForwardError::TooLarge);
    }

    #[tokio::test]
    async fn refused_connection_is_distinguished_from_missing_response() {
        let message = message();
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        for nonsense in ["", "SSH-2.0-OpenSSH\r\n\r\n"] {
            let (answer, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
                let mut caller = agent.accepts().await;
                caller.reads().await;
                caller.sends(nonsense).await;
            });
            assert!(matches!(answer, Err(ForwardError::Broken(_))), "{nonsense:?}: {answer:?}");
        }
        drop(agent);
        assert_eq!(forwarder.forward(&target, &message, &limits).await.unwrap_err(), ForwardError::Refused);
    }
}
