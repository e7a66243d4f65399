//! A clock for unit tests, which the test advances.

use std::{sync::Mutex, time::Duration};

use tokio::sync::watch;

use super::clock::{Boxed, Clock};
use crate::domain::time::{Awake, Timestamp};

/// A clock that stands still until the test advances it.
pub(crate) struct ManualClock {
    now: watch::Sender<Awake>,
    asked: Mutex<Vec<Duration>>,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self { now: watch::Sender::new(Awake(1)), asked: Mutex::default() }
    }
}

impl ManualClock {
    /// Advances the clock, which completes all sleeps that end by then.
    pub(crate) fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now = *now + by);
    }

    /// Durations of all sleeps that were requested so far.
    pub(crate) fn asked(&self) -> Vec<Duration> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until `count` sleeps have been requested.
    pub(crate) async fn until_asked(&self, count: usize) {
        while self.asked().len() < count {
            tokio::task::yield_now().await;
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(i64::try_from(self.awake().0).unwrap())
    }

    fn awake(&self) -> Awake {
        *self.now.borrow()
    }

    /// Unlimited: the clock advances in steps, and a sleep completes only at the end of a step.
    fn allowed_lateness(&self) -> Duration {
        Duration::MAX
    }

    fn sleep(&self, duration: Duration) -> Boxed<()> {
        self.asked.lock().unwrap().push(duration);
        let end = self.awake() + duration;
        let mut now = self.now.subscribe();
        Box::pin(async move {
            if now.wait_for(|now| *now >= end).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}
