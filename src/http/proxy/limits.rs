//! The limits of a response, and the watch over its time limits.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use crate::{
    domain::time::Awake,
    runtime::clock::{Boxed, SharedClock},
};

/// Returns the time of the target's last sign of life outside this response, such as a heartbeat.
pub(crate) type Alive = Arc<dyn Fn() -> Option<Awake> + Send + Sync>;

/// Limits of a response.
#[derive(Clone)]
pub(crate) struct ForwardLimits {
    /// From sending the message to the last byte of the response. The caller may ask for less.
    pub(crate) total: Duration,
    /// Time without a byte of the response and without another sign of life.
    pub(crate) idle: Duration,
    /// Most bytes of the response body.
    pub(crate) response: u64,
    /// The other signs of life, for `idle`.
    pub(crate) alive: Alive,
}

impl ForwardLimits {
    /// The limits of the wire protocol: 30 minutes in total, 5 minutes without a sign of life, 64 MiB.
    pub(crate) fn new(alive: Alive) -> Self {
        Self {
            total: Duration::from_mins(30),
            idle: Duration::from_mins(5),
            response: 64 * 1024 * 1024,
            alive,
        }
    }
}

/// The time limit that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// The limit of the whole response, `ForwardLimits::total`.
    Whole,
    /// The limit without a sign of life, `ForwardLimits::idle`.
    Silent,
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "the agent's response was not complete in time",
            Self::Silent => "the agent sent neither data nor a heartbeat within the idle limit",
        })
    }
}

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

#[cfg(test)]
mod tests {
    use crate::runtime::manual_clock::ManualClock;
    use std::pin::pin;

    use axum::http::HeaderValue;

    use super::*;
    use crate::{
        http::proxy::{
            dial::Dial,
            error::ForwardError,
            headers::TIMEOUT,
            request::ForwardRequest,
            testing::{Agent, limits, message},
            transport::Forwarder,
        },
        runtime::clock::Clock as _,
    };

    /// Returns the limit that ended the wait for a response that never comes, and the duration of the wait in seconds
    /// of the test clock.
    async fn exceeded_limit(
        request: ForwardRequest,
        limits: ForwardLimits,
        clock: Arc<ManualClock>,
    ) -> (Overdue, u64) {
        let agent = Agent::new().await;
        let forwarder = Forwarder::new(clock.clone(), Dial::Tcp);
        let (began, target) = (clock.awake(), agent.target());
        let serve = async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            std::future::pending::<()>().await;
        };
        let mut asking = pin!(forwarder.forward(&target, &request, &limits));
        let mut serve = pin!(serve);
        loop {
            tokio::select! {
                biased;
                answer = &mut asking => {
                    let Err(ForwardError::TimedOut(overdue)) = answer else { panic!("{answer:?}") };
                    return (overdue, clock.awake().since(began).as_secs());
                }
                () = &mut serve => {}
                () = tokio::task::yield_now() => clock.advance(Duration::from_secs(1)),
            }
        }
    }

    #[tokio::test]
    async fn request_times_out_after_five_minutes_of_silence() {
        let clock = Arc::new(ManualClock::default());
        assert_eq!(exceeded_limit(message(), limits(), clock).await, (Overdue::Silent, 300));
    }

    #[tokio::test]
    async fn agent_activity_extends_request_timeout_up_to_30_minutes() {
        let clock = Arc::new(ManualClock::default());
        let beating = clock.clone();
        let limits = ForwardLimits::new(Arc::new(move || Some(beating.awake())));
        assert_eq!(exceeded_limit(message(), limits, clock).await, (Overdue::Whole, 1800));
    }

    #[tokio::test]
    async fn caller_may_shorten_but_not_extend_the_timeout() {
        for (wanted, overdue) in [
            ("60", (Overdue::Whole, 60)),
            ("999999999", (Overdue::Silent, 300)),
            ("0", (Overdue::Silent, 300)),
            ("-5", (Overdue::Silent, 300)),
            ("soon", (Overdue::Silent, 300)),
        ] {
            let mut request = message();
            request.headers.insert(TIMEOUT, HeaderValue::from_static(wanted));
            let clock = Arc::new(ManualClock::default());
            assert_eq!(exceeded_limit(request, limits(), clock).await, overdue, "{wanted}");
        }
    }
}
