//! The pool of idle connections to agents.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    task::Context,
    time::Duration,
};

use super::upstream::Upstream;
use crate::{domain::time::Awake, runtime::clock::SharedClock};

/// How long an idle connection is kept. The HTTP servers in agents close idle connections after five seconds, and a
/// connection that is about to be closed must not be used.
const KEPT_FOR: Duration = Duration::from_secs(4);

/// Most idle connections per target, and in all.
const KEPT_EACH: usize = 64;
const KEPT: usize = 512;

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

#[cfg(test)]
mod tests {
    use axum::body::HttpBody as _;

    use super::*;
    use crate::http::proxy::testing::{Agent, HELLO, forwarder, limits, message, next, whole};

    #[tokio::test]
    async fn connection_is_reused_for_consecutive_messages() {
        let message = message();
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let serve = async {
            let mut caller = agent.accepts().await;
            for answer in [
                HELLO,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                "HTTP/1.1 204 x\r\n\r\n",
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                HELLO,
            ] {
                caller.reads().await;
                caller.sends(answer).await;
            }
            caller
        };
        let ask = async {
            for expected in ["hello", "hello", "", "", "hello"] {
                let answer = forwarder.forward(&target, &message, &limits).await.unwrap();
                assert_eq!(whole(answer).await.unwrap(), expected);
            }
        };
        let (_caller, ()) = tokio::join!(serve, ask);
    }

    #[tokio::test]
    async fn connection_is_reused_if_body_end_is_not_polled() {
        let message = message();
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let serve = async {
            let mut caller = agent.accepts().await;
            for _ in 0..2 {
                caller.reads().await;
                caller.sends(HELLO).await;
            }
            caller
        };
        let ask = async {
            for _ in 0..2 {
                let mut body = forwarder.forward(&target, &message, &limits).await.unwrap().into_body();
                assert_eq!(next(&mut body).await.unwrap().unwrap(), "hello");
                assert!(body.is_end_stream());
            }
        };
        let (_caller, ()) = tokio::join!(serve, ask);
    }

    #[tokio::test]
    async fn idle_connection_is_not_reused_if_closed_or_expired() {
        let message = message();
        let (agent, (clock, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        for closes in [true, false] {
            let (answer, caller) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
                let mut caller = agent.accepts().await;
                caller.reads().await;
                caller.sends(HELLO).await;
                caller
            });
            assert_eq!(whole(answer.unwrap()).await.unwrap(), "hello");
            if closes {
                drop(caller);
                // The async runtime has to process the close first. Under load it does so continuously.
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
            } else {
                clock.advance(KEPT_FOR);
                let (_answer, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
                    let mut fresh = agent.accepts().await;
                    fresh.reads().await;
                    fresh.sends(HELLO).await;
                    caller.waits_for_close().await;
                });
            }
        }
    }
}
