//! The restart budget: how often and how soon ostler restarts a container after an unexpected exit.
//!
//! A container that exits because of a permanent problem would exit again after every restart. The delay before a
//! restart therefore grows with every exit. After several exits within a window, the workspace is parked: it is not
//! restarted until an operator starts it. The exits are stored in the database, so a crash of the daemon does not reset
//! their count.

use std::time::Duration;

use super::time::Timestamp;

/// Parameters of the restart budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartBudget {
    /// Delay of the restart after the first exit; doubled after each further exit.
    pub first_backoff: Duration,
    /// Upper limit of the delay.
    pub longest_backoff: Duration,
    /// Time online after which earlier exits no longer count.
    pub reset_after: Duration,
    /// Number of exits within the window at which the workspace is parked; at least 1.
    pub park_after_exits: usize,
    /// Length of the window in which exits are counted.
    pub window: Duration,
}

impl Default for RestartBudget {
    /// The values of the design, §5: a first delay of 10 s, doubled up to 5 min; a reset after 10 min online; parked at
    /// the fifth exit within 30 min.
    fn default() -> Self {
        Self {
            first_backoff: Duration::from_secs(10),
            longest_backoff: Duration::from_mins(5),
            reset_after: Duration::from_mins(10),
            park_after_exits: 5,
            window: Duration::from_mins(30),
        }
    }
}

/// The consequence of an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Restart the container.
    Restart {
        /// Earliest time of the restart.
        due_at: Timestamp,
        /// The exits that count from now on, including this one.
        ends: Vec<Timestamp>,
    },
    /// The budget is used up: park the workspace until an operator starts it.
    Spent {
        /// Number of exits, including this one.
        ends: usize,
    },
}

impl RestartBudget {
    /// Decides what follows from an exit at `now`. `before` are the exits counted so far; `online_for` is how long the
    /// workspace was up before this exit, if it was.
    #[must_use]
    pub fn judge(&self, before: &[Timestamp], online_for: Option<Duration>, now: Timestamp) -> Next {
        let reset = online_for.is_some_and(|time| time >= self.reset_after);
        let counts = |end: &&Timestamp| !reset && **end > now - self.window && **end <= now;
        let mut ends: Vec<_> = before.iter().filter(counts).copied().collect();
        ends.push(now);
        if ends.len() >= self.park_after_exits.max(1) {
            return Next::Spent { ends: ends.len() };
        }
        Next::Restart { due_at: now + self.backoff(ends.len() - 1), ends }
    }

    /// Delay of the restart after this number of previous exits.
    #[must_use]
    pub fn backoff(&self, ends_before: usize) -> Duration {
        let doublings = u32::try_from(ends_before).unwrap_or(u32::MAX).min(20);
        self.first_backoff.saturating_mul(1 << doublings).min(self.longest_backoff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp(1_700_000_000_000);

    #[test]
    fn restart_backoff_doubles_up_to_the_maximum() {
        let budget = RestartBudget { park_after_exits: 100, ..RestartBudget::default() };
        let waits: Vec<_> = (0..7).map(|n| budget.backoff(n).as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(budget.backoff(usize::MAX), budget.longest_backoff);
    }

    #[test]
    fn fifth_exit_within_the_window_exhausts_the_restart_budget() {
        let budget = RestartBudget::default();
        let mut ends = Vec::new();
        let mut now = T;
        for _ in 0..4 {
            let Next::Restart { due_at, ends: counted } = budget.judge(&ends, None, now) else {
                panic!("parked after {} exits", ends.len() + 1)
            };
            ends = counted;
            now = due_at + Duration::from_secs(1);
        }
        assert_eq!(budget.judge(&ends, Some(Duration::from_mins(9)), now), Next::Spent { ends: 5 });
    }

    #[test]
    fn restart_budget_resets_after_time_online_or_after_the_window() {
        let budget = RestartBudget::default();
        let before: Vec<_> = (0..4).map(|n| T + Duration::from_secs(n)).collect();
        let soon = T + Duration::from_mins(11);
        assert!(matches!(budget.judge(&before, Some(Duration::from_mins(10)), soon), Next::Restart { .. }));
        assert!(matches!(budget.judge(&before, None, soon), Next::Spent { .. }));
        let later = T + Duration::from_mins(31);
        assert!(matches!(budget.judge(&before, None, later), Next::Restart { ends, .. } if ends == [later]));
    }

    #[test]
    fn exit_times_in_the_future_do_not_count() {
        let ahead: Vec<_> = (1..9).map(|n| T + Duration::from_mins(n)).collect();
        assert!(matches!(RestartBudget::default().judge(&ahead, None, T), Next::Restart { .. }));
    }
}
