//! Points in time in integer milliseconds. The caller reads the clock and passes them in.
//!
//! There are two kinds. A [`Timestamp`] is a time of the wall clock. It is stored and shown, and has the same meaning
//! after a restart of the daemon. [`Awake`] is the time since the start of this process, without the time in which the
//! machine was suspended. Grace periods and liveness windows are measured with it, so that a suspend does not count.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// Maximum drift between the wall clock and the awake clock between two readings. A larger difference means that the
/// machine was suspended or that the wall clock was set.
pub const JUMP: Duration = Duration::from_secs(10);

impl Timestamp {
    /// Whether it is so far in the future that it must have been recorded before the clock was set back. The actual
    /// time of such a timestamp is unknown; it is only known to be before the current liveness epoch.
    #[must_use]
    pub fn is_ahead_of(self, now: Self) -> bool {
        self > now + JUMP
    }

    /// Parses an RFC 3339 time. A space is read as `+`, because decoding a query string turns `+` into a space.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().replace(' ', "+");
        text.parse::<jiff::Timestamp>().ok().map(|time| Self(time.as_millisecond()))
    }

    /// Time since `earlier`; zero if `earlier` is in the future (the clock was set back).
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }
}

/// RFC 3339 with milliseconds, the form of every time in output and on the wire.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// Milliseconds on a clock that starts with the process and stops while the machine is suspended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Awake(pub u64);

impl Awake {
    /// Time since `earlier`; zero if `earlier` is in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Awake {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Awake {
    type Output = Self;
    /// Clamped to zero, the start of the process.
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elapsed_time_is_zero_after_clock_is_set_back() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
    }

    #[test]
    fn timestamp_prints_as_rfc_3339_with_milliseconds() {
        assert_eq!(Timestamp(1_700_000_000_120).to_string(), "2023-11-14T22:13:20.120Z");
    }
}
