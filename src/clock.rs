//! The one clock.
//!
//! Time is a parameter so that a test can stop it, jump it, and let a machine sleep. Nothing else may
//! read the system's clocks or set timers; `.clippy.toml` refuses it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::domain::time::{Awake, Timestamp};

/// A future that can be held in a trait object.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Tells the time and waits.
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// Time this process has been running, which stands still while the machine sleeps.
    fn awake(&self) -> Awake;

    /// Resolves after `duration` of awake time.
    fn sleep(&self, duration: Duration) -> Boxed<()>;
}

/// A clock everybody shares.
pub type SharedClock = Arc<dyn Clock>;

/// The system's clocks and tokio's timers.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// Starts counting awake time now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    /// Linux's `CLOCK_MONOTONIC`, which does not count suspends.
    fn awake(&self) -> Awake {
        Awake(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    fn sleep(&self, duration: Duration) -> Boxed<()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Waits for `work` at most `limit`; `None` when the limit came first. The work is dropped then, which
/// does not undo what it asked of others.
pub async fn within<T>(clock: &dyn Clock, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.sleep(limit) => None,
    }
}
