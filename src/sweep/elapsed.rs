//! Time since the latest of several events.

use std::time::Duration;

use crate::domain::{liveness::Lasted, sweep_row::SweepRow, time::Timestamp};

/// Time since the latest of several events, or since the last status change if there was no event. Measures each time
/// and returns the shortest. Comparing the timestamps would be wrong, because a timestamp that is in the future after
/// the clock was set back would count as the latest.
pub(super) fn shortest(times: [Option<Timestamp>; 3], row: &SweepRow, lasted: Lasted<'_>) -> Duration {
    times.into_iter().flatten().map(lasted).min().unwrap_or_else(|| lasted(row.status_since))
}
