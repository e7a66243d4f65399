//! Limits the log messages about evicted and refused connections.

use std::time::Duration;

use crate::{domain::time::Awake, runtime::clock::Clock};

/// Shortest interval between two log messages about evicted or refused connections.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// Number of evictions or refusals since the last log message.
#[derive(Default)]
pub(super) struct Refusals {
    untold: u64,
    logged_at: Option<Awake>,
}

impl Refusals {
    /// Counts one eviction or refusal. Returns the number since the last log message if a new one is due.
    pub(super) fn count(&mut self, clock: &dyn Clock) -> Option<u64> {
        self.untold += 1;
        let now = clock.awake();
        self.logged_at.is_none_or(|last| now.since(last) >= LOG_EVERY).then(|| {
            let untold = self.untold;
            *self = Self { untold: 0, logged_at: Some(now) };
            untold
        })
    }
}
