//! The daemon's health, for `/ready` and for the systemd watchdog.
//!
//! A running async executor is not sufficient: the store has to answer, and the sweep driver has to begin its passes in
//! time. Whether the engine answers is reported too, but does not affect the watchdog, because a restart of the daemon
//! would not help.

use std::time::Duration;

use crate::{
    domain::duration::words,
    runtime::clock::{Clock, within},
    store::Store,
    sweep::{DriverHandle, Outcome},
};

/// How long the store may take to answer. This is longer than any agent waits for the response to a heartbeat.
const STORE_ANSWERS: Duration = Duration::from_secs(15);

/// A pass that has not begun for this many of its periods counts as late.
const PERIODS_LATE: u32 = 3;

/// Health at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// Passes that have not begun for three of their periods.
    pub late: Vec<&'static str>,
    /// How the store answered.
    pub store: StoreState,
    /// Whether the engine gave a trusted listing when it was last asked.
    pub engine: bool,
}

/// How the store answered a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// It answered without an error.
    Well,
    /// It answered with an error, such as a full disk.
    Failing(String),
    /// It did not answer in time.
    Stuck,
}

impl Vitals {
    /// Queries the store, and reads from the driver the last run of each pass.
    pub async fn take(store: &Store, sweeps: &DriverHandle, clock: &dyn Clock) -> Self {
        let store = match within(clock, STORE_ANSWERS, store.ping()).await {
            Some(Ok(())) => StoreState::Well,
            Some(Err(error)) => StoreState::Failing(error.to_string()),
            None => StoreState::Stuck,
        };
        let now = clock.awake();
        let passes = sweeps.statuses();
        let late = passes
            .iter()
            .filter(|pass| !pass.running && now.since(pass.begun_at) > pass.period * PERIODS_LATE)
            .map(|pass| pass.name)
            .collect();
        let is_untrusted = |outcome: &Outcome| matches!(outcome, Outcome::Untrusted(_));
        let engine =
            !passes.iter().any(|pass| pass.last.as_ref().is_some_and(|run| is_untrusted(&run.outcome)));
        Self { late, store, engine }
    }

    /// Returns the reason why the daemon has to be restarted; `None` if there is none. The watchdog uses this.
    ///
    /// A store that answers with an error is not a reason, because a new process would use the same disk.
    #[must_use]
    pub fn stuck(&self) -> Option<String> {
        if self.store == StoreState::Stuck {
            return Some(format!("the store did not respond within {}", words(STORE_ANSWERS)));
        }
        let late = self.late.join(", ");
        (!late.is_empty()).then(|| format!("sweep passes not started for three periods: {late}"))
    }

    /// Returns the reason why the daemon is not ready; `None` if it is ready. The reason contains no error texts or
    /// paths, because `/ready` needs no token.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        if let Some(why) = self.stuck() {
            return Some(why);
        }
        match (&self.store, self.engine) {
            (StoreState::Failing(_) | StoreState::Stuck, _) => Some("the store returns errors".into()),
            (StoreState::Well, false) => Some("the engine returns no trusted listing".into()),
            (StoreState::Well, true) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemon_is_ready_when_store_driver_and_engine_answer() {
        let well = Vitals { late: Vec::new(), store: StoreState::Well, engine: true };
        assert_eq!((well.stuck(), well.not_ready()), (None, None));
        let failing = StoreState::Failing("database or disk is full".into());
        for (vitals, is_stuck) in [
            (Vitals { late: vec!["settle"], ..well.clone() }, true),
            (Vitals { store: StoreState::Stuck, ..well.clone() }, true),
            (Vitals { store: failing, ..well.clone() }, false),
            (Vitals { engine: false, ..well }, false),
        ] {
            assert_eq!(vitals.stuck().is_some(), is_stuck, "{vitals:?}");
            let why = vitals.not_ready();
            assert!(why.is_some_and(|why| !why.contains("disk is full")), "{vitals:?}");
        }
    }
}
