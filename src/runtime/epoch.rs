//! The liveness epoch: the time since which ostler could receive heartbeats without interruption.
//!
//! How long a workspace misses heartbeats, is idle or makes no progress is measured only over time in which heartbeats
//! could arrive. These time windows start over after a start of the daemon, a suspend, a clock change, or a time in
//! which heartbeats could not be written.
//!
//! If the process is stopped (SIGSTOP, a freezer, a debugger, swap), both clocks continue, so neither of them shows it.
//! The driver therefore announces the time of its next tick. If any task reads the clock well after that time and no
//! tick has come, a new liveness epoch starts. Heartbeats that waited meanwhile are recorded in the new epoch, long
//! before its windows are long enough for a decision.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    domain::time::{Awake, JUMP, Timestamp},
    runtime::clock::{Boxed, Clock, SharedClock},
    testing::mutation::{Mutation, is},
};

#[derive(Debug)]
struct Epoch {
    since: Awake,
    /// Wall clock minus awake clock at the last reading, in milliseconds. A large change means that time has jumped.
    offset: i64,
    /// Number of the epoch.
    number: u64,
    /// Next tick that the driver announced, if any.
    tick_at: Option<Awake>,
    /// Maximum delay of a tick. A longer one means that the process was stopped.
    lateness: Duration,
    /// Start times of the heartbeat writes in progress, by number, oldest first.
    writes: BTreeMap<u64, Awake>,
    next_write: u64,
}

impl Epoch {
    /// Whether a heartbeat write takes longer than `lateness` (a disk that hangs): other heartbeats may be waiting too.
    fn is_blocked(&self, awake: Awake) -> bool {
        self.writes.first_key_value().is_some_and(|(_, begun)| awake.since(*begun) > self.lateness)
    }
}

/// Guard of a heartbeat write. The caller drops it when the write has finished or was given up.
pub struct Writing {
    listening: Listening,
    clock: SharedClock,
    number: u64,
}

impl Drop for Writing {
    fn drop(&mut self) {
        let awake = self.clock.awake();
        let mut epoch = self.listening.lock();
        let begun = epoch.writes.remove(&self.number);
        if begun.is_some_and(|begun| awake.since(begun) > epoch.lateness) {
            epoch.since = awake;
        }
    }
}

/// The liveness epoch. Clones share one state.
#[derive(Clone, Debug)]
pub struct Listening(Arc<Mutex<Epoch>>);

/// A clock that checks every reading of the wall clock for jumps and late ticks. Each recorded time therefore belongs
/// to a known epoch, even if the clock was set back and corrected between two sweeps: both jumps start a new epoch.
struct Watched {
    clock: SharedClock,
    listening: Listening,
}

impl Clock for Watched {
    fn now(&self) -> Timestamp {
        let now = self.clock.now();
        self.listening.observe(now, self.clock.awake());
        now
    }

    fn awake(&self) -> Awake {
        self.clock.awake()
    }

    fn sleep(&self, duration: Duration) -> Boxed<()> {
        self.clock.sleep(duration)
    }

    fn allowed_lateness(&self) -> Duration {
        self.clock.allowed_lateness()
    }
}

impl Listening {
    /// Starts the first epoch now. The caller must read every time that is later used to measure a duration from the
    /// returned clock.
    #[must_use]
    pub fn begin(clock: SharedClock) -> (Self, SharedClock) {
        let listening = Self::since(clock.now(), clock.awake(), clock.allowed_lateness());
        let watched = Arc::new(Watched { clock, listening: listening.clone() });
        (listening, watched)
    }

    fn since(now: Timestamp, awake: Awake, lateness: Duration) -> Self {
        let offset = offset(now, awake);
        let (number, tick_at, writes, next_write) = (0, None, BTreeMap::new(), 0);
        Self(Arc::new(Mutex::new(Epoch {
            since: awake,
            offset,
            number,
            tick_at,
            lateness,
            writes,
            next_write,
        })))
    }

    /// Registers a heartbeat write. While a write takes longer than the allowed lateness of a timer, every measured
    /// duration is zero. When such a write ends, the windows start over, because agents may have given up other
    /// heartbeats meanwhile.
    #[must_use]
    pub fn writing(&self, clock: &SharedClock) -> Writing {
        let mut epoch = self.lock();
        let number = epoch.next_write;
        epoch.next_write += 1;
        epoch.writes.insert(number, clock.awake());
        Writing { listening: self.clone(), clock: Arc::clone(clock), number }
    }

    /// Announces the time of the next tick. A new epoch starts if the clock shows a time that is later by more than the
    /// allowed lateness before the next announcement.
    pub fn expect_tick(&self, at: Awake) {
        self.lock().tick_at = Some(at);
    }

    /// Number of the epoch. If it has changed, the caller must discard earlier observations and start to observe again.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.lock().number
    }

    /// Compares both clocks, and starts a new epoch if time has jumped or a tick is overdue.
    fn observe(&self, now: Timestamp, awake: Awake) {
        let mut epoch = self.lock();
        let seen = offset(now, awake);
        if jumped(epoch.offset, seen) {
            tracing::warn!("time jump detected (suspend or clock change); liveness windows start over");
            epoch.since = awake;
            epoch.number += 1;
        }
        epoch.offset = seen;
        if let Some(at) = epoch.tick_at
            && awake.since(at) > epoch.lateness
            && !is(Mutation::IgnoreLateTicks)
        {
            let late = awake.since(at).as_secs();
            tracing::warn!(
                late_seconds = late,
                "process was stopped or starved of CPU time; liveness windows start over"
            );
            epoch.since = awake;
            epoch.number += 1;
            epoch.tick_at = None;
        }
    }

    /// Restarts the windows without a new epoch. Called when a heartbeat could not be written.
    pub fn interrupted(&self, awake: Awake) {
        self.lock().since = awake;
    }

    /// How long a state has lasted: the time from `since` to `now`, but at most the time since the windows last started
    /// over.
    #[must_use]
    pub fn lasted(&self, since: Timestamp, now: Timestamp, awake: Awake) -> Duration {
        let epoch = self.epoch(awake);
        // If `since` is in the future, it was recorded before the clock was set back. The state then counts from the
        // start of the windows.
        if is(Mutation::CountOwnDowntime) {
            return now.since(since);
        }
        if since.is_ahead_of(now) { epoch } else { now.since(since).min(epoch) }
    }

    /// Time since the windows last started over; zero while a heartbeat write hangs.
    #[must_use]
    pub fn epoch(&self, awake: Awake) -> Duration {
        let epoch = self.lock();
        if epoch.is_blocked(awake) { Duration::ZERO } else { awake.since(epoch.since) }
    }

    fn lock(&self) -> MutexGuard<'_, Epoch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wall clock minus awake clock, in milliseconds.
#[must_use]
pub fn offset(wall: Timestamp, awake: Awake) -> i64 {
    wall.0 - i64::try_from(awake.0).unwrap_or(i64::MAX)
}

/// Whether time has jumped between two offsets: they differ by more than `JUMP`.
#[must_use]
pub fn jumped(before: i64, now: i64) -> bool {
    before.abs_diff(now) > u64::try_from(JUMP.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Timestamp = Timestamp(1_700_000_000_000);
    const MINUTE: Duration = Duration::from_mins(1);
    const LATENESS: Duration = Duration::from_secs(5);

    /// A clock that is set by a test.
    struct Set(std::sync::atomic::AtomicU64);

    impl Clock for Set {
        fn now(&self) -> Timestamp {
            WALL + Duration::from_millis(self.awake().0)
        }

        fn awake(&self) -> Awake {
            Awake(self.0.load(std::sync::atomic::Ordering::Relaxed))
        }

        fn sleep(&self, _: Duration) -> Boxed<()> {
            Box::pin(std::future::pending())
        }
    }

    #[test]
    fn liveness_window_is_zero_while_a_heartbeat_write_hangs() {
        let set = Arc::new(Set(0.into()));
        let clock: SharedClock = Arc::clone(&set) as SharedClock;
        let listening = Listening::since(WALL, Awake(0), LATENESS);
        let go_to = |awake| set.0.store(awake, std::sync::atomic::Ordering::Relaxed);
        let epoch = || listening.epoch(clock.awake());
        go_to(600_000);
        let (stuck, quick) = (listening.writing(&clock), listening.writing(&clock));
        go_to(604_000);
        drop(quick);
        assert_eq!(epoch(), Duration::from_secs(604), "a short write does not reset the windows");
        go_to(900_000);
        assert_eq!(epoch(), Duration::ZERO, "a hanging write resets the windows");
        drop(stuck);
        assert_eq!(epoch(), Duration::ZERO);
        go_to(960_000);
        assert_eq!(epoch(), MINUTE, "the windows start over when the write completes");
    }

    #[test]
    fn overdue_tick_starts_a_new_liveness_epoch_once() {
        let listening = Listening::since(WALL, Awake(0), LATENESS);
        let number_at = |awake| {
            listening.observe(WALL + Duration::from_millis(awake), Awake(awake));
            listening.number()
        };
        assert_eq!(number_at(600_000), 0, "without an announced tick nothing is overdue");
        listening.expect_tick(Awake(610_000));
        assert_eq!(number_at(615_000), 0, "within the allowed lateness");
        assert_eq!(number_at(1_200_000), 1, "overdue by ten minutes");
        assert_eq!(listening.epoch(Awake(1_200_000)), Duration::ZERO);
        assert_eq!(number_at(1_201_000), 1, "the same late tick starts only one epoch");
        listening.expect_tick(Awake(1_210_000));
        assert_eq!(number_at(1_209_000), 1);
    }

    #[test]
    fn state_duration_is_limited_to_the_liveness_window() {
        let listening = Listening::since(WALL, Awake(0), LATENESS);
        let later = Awake(60_000);
        assert_eq!(listening.lasted(WALL - MINUTE * 60, WALL + MINUTE, later), MINUTE);
        assert_eq!(listening.lasted(WALL + MINUTE / 2, WALL + MINUTE, later), MINUTE / 2);
        assert_eq!(
            listening.lasted(WALL + MINUTE * 9, WALL + MINUTE, later),
            MINUTE,
            "a timestamp from before the clock was set back counts from the start of the window"
        );
        assert_eq!(
            listening.lasted(WALL + MINUTE + JUMP, WALL + MINUTE, later),
            Duration::ZERO,
            "a timestamp slightly in the future counts as now"
        );
    }

    #[test]
    fn clock_jump_or_interruption_restarts_liveness_windows() {
        let listening = Listening::since(WALL, Awake(0), LATENESS);
        let number_at = |now, awake| {
            listening.observe(now, awake);
            listening.number()
        };
        assert_eq!(number_at(WALL + MINUTE, Awake(60_000)), 0);
        assert_eq!(listening.epoch(Awake(60_000)), MINUTE);
        assert_eq!(number_at(WALL + MINUTE * 9, Awake(61_000)), 1, "a suspend of 8 min starts an epoch");
        assert_eq!(listening.epoch(Awake(61_000)), Duration::ZERO);
        assert_eq!(number_at(WALL, Awake(62_000)), 2, "a clock set back starts an epoch");
        listening.interrupted(Awake(70_000));
        assert_eq!(listening.epoch(Awake(70_000)), Duration::ZERO);
    }
}
