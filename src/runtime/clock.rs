//! The only clock.
//!
//! All other code receives its clock as a parameter, so that a test can stop time, make it jump, and simulate a
//! suspend. No other code may read the system's clocks or set timers; `.clippy.toml` enforces this.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::domain::time::{Awake, Timestamp};

/// A boxed future, for trait objects.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Source of time and of timers.
pub trait Clock: Send + Sync {
    /// Reads the wall clock.
    fn now(&self) -> Timestamp;

    /// Time since the clock was started, without the time in which the machine was suspended.
    fn awake(&self) -> Awake;

    /// Resolves after `duration` of awake time.
    fn sleep(&self, duration: Duration) -> Boxed<()>;

    /// How late a timer may fire. A timer that fires even later shows that the process was stopped, frozen or swapped
    /// out meanwhile, which cannot be seen from any clock.
    fn allowed_lateness(&self) -> Duration {
        ALLOWED_LATENESS
    }
}

/// Default of [`Clock::allowed_lateness`]: much longer than the delay of a timer on a busy machine.
const ALLOWED_LATENESS: Duration = Duration::from_secs(5);

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// Speed of the clock relative to real time. It is 1, except in test campaigns that would otherwise have to wait for
/// minutes of missed heartbeats.
#[derive(Clone, Copy, Debug)]
struct Pace {
    times: u32,
    /// Real time from which the changed speed applies, in milliseconds since the Unix epoch. Every process of a
    /// campaign uses the same value, so that the clock of the next process continues where the previous one ended.
    since: u64,
}

impl Pace {
    #[cfg(not(feature = "assurance"))]
    const fn of_this_process() -> Self {
        Self { times: 1, since: 0 }
    }

    /// `ASSURANCE_PACE` contains `times` and `since`, separated by a space.
    #[cfg(feature = "assurance")]
    fn of_this_process() -> Self {
        static PACE: std::sync::OnceLock<Pace> = std::sync::OnceLock::new();
        let read = || {
            let pace = std::env::var("ASSURANCE_PACE").ok()?;
            let (times, since) = pace.split_once(' ')?;
            Some(Self { times: times.parse().ok()?, since: since.parse().ok()? })
        };
        *PACE.get_or_init(|| read().unwrap_or(Self { times: 1, since: 0 }))
    }
}

/// The system's clocks and tokio's timers.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// Starts counting awake time now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the only clock")]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the only clock")]
    fn now(&self) -> Timestamp {
        let Pace { times, since } = Pace::of_this_process();
        let since = Duration::from_millis(since);
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since_epoch = since + since_epoch.saturating_sub(since) * times;
        Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    /// Linux's `CLOCK_MONOTONIC`, which does not advance during a suspend.
    fn awake(&self) -> Awake {
        let elapsed = self.started.elapsed() * Pace::of_this_process().times;
        Awake(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the only clock")]
    fn sleep(&self, duration: Duration) -> Boxed<()> {
        Box::pin(tokio::time::sleep(duration / Pace::of_this_process().times))
    }

    fn allowed_lateness(&self) -> Duration {
        ALLOWED_LATENESS * Pace::of_this_process().times
    }
}

/// Waits for `work` for at most `limit`; `None` if the limit is reached first. The work is then dropped. This does not
/// undo requests that it has sent.
///
/// If this process was stopped while it waited, the end of the limit proves nothing: the answer to the work may already
/// be waiting to be read. In this case the function waits for the whole limit once more.
pub async fn within<T>(clock: &dyn Clock, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        let end = clock.awake() + limit;
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            () = clock.sleep(limit) => {}
        }
        if clock.awake().since(end) <= clock.allowed_lateness() {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        task::Poll,
    };

    use super::*;

    /// A clock for a process that is stopped for ten minutes during the first sleep.
    #[derive(Default)]
    struct Stopped {
        awake: AtomicU64,
        sleeps: AtomicU64,
    }

    impl Clock for Stopped {
        fn now(&self) -> Timestamp {
            Timestamp(0)
        }

        fn awake(&self) -> Awake {
            Awake(self.awake.load(Ordering::Relaxed))
        }

        fn sleep(&self, duration: Duration) -> Boxed<()> {
            let stopped = if self.sleeps.fetch_add(1, Ordering::Relaxed) == 0 { 600_000 } else { 0 };
            let passed = u64::try_from(duration.as_millis()).unwrap() + stopped;
            self.awake.fetch_add(passed, Ordering::Relaxed);
            Box::pin(std::future::ready(()))
        }
    }

    #[tokio::test]
    async fn time_limit_starts_over_if_process_was_stopped_while_waiting() {
        let answer_on_poll = |wanted: u32| {
            let mut polls = 0;
            std::future::poll_fn(move |_| {
                polls += 1;
                if polls == wanted { Poll::Ready(polls) } else { Poll::Pending }
            })
        };
        let limit = Duration::from_secs(20);
        assert_eq!(
            within(&Stopped::default(), limit, answer_on_poll(2)).await,
            Some(2),
            "the answer was waiting to be read"
        );
        let clock = Stopped::default();
        assert_eq!(within(&clock, limit, answer_on_poll(9)).await, None, "the second limit is not extended");
        assert_eq!(clock.awake(), Awake(640_000));
    }
}
