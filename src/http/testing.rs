//! What the tests of this layer share: a clock that a test moves by hand.

use std::{sync::Mutex, time::Duration};

use tokio::sync::watch;

use crate::{
    clock::{Boxed, Clock},
    domain::time::{Awake, Timestamp},
};

/// A clock that stands still until it is told how far to go.
pub(super) struct HandClock {
    now: watch::Sender<Awake>,
    asked: Mutex<Vec<Duration>>,
}

impl Default for HandClock {
    fn default() -> Self {
        Self { now: watch::Sender::new(Awake(1)), asked: Mutex::default() }
    }
}

impl HandClock {
    /// Goes on; whoever waits for no longer than that is woken.
    pub(super) fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now = *now + by);
    }

    /// Every wait that was asked for.
    pub(super) fn asked(&self) -> Vec<Duration> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until `count` waits were asked for.
    pub(super) async fn until_asked(&self, count: usize) {
        while self.asked().len() < count {
            tokio::task::yield_now().await;
        }
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(i64::try_from(self.awake().0).unwrap())
    }

    fn awake(&self) -> Awake {
        *self.now.borrow()
    }

    /// It goes on in leaps, and whoever waits is woken after the whole of one.
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
