//! Whether the daemon does its work: what `/ready` answers, and what the watchdog is notified by.
//!
//! That the executor runs tasks proves little. The store has to answer and the driver has to begin its passes; whether
//! the engine answers is told too, but no restart of the daemon would help against that.

use std::time::Duration;

use crate::{
    clock::{Clock, within},
    store::Store,
    sweep::{DriverHandle, Outcome},
};

/// How long the store may take for an answer. Every agent gives up a heartbeat before that.
const STORE_ANSWERS: Duration = Duration::from_secs(15);

/// A pass that has not begun for three of its periods is one that nobody drives any more.
const PERIODS_LATE: u32 = 3;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// Passes that were not begun in time.
    pub late: Vec<&'static str>,
    /// How the store answers.
    pub store: StoreState,
    /// Whether the engine gave a listing that can be trusted when it was last asked.
    pub engine: bool,
}

/// How the store answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// As it should.
    Well,
    /// With an error, such as a full disk.
    Failing(String),
    /// Not at all.
    Stuck,
}

impl Vitals {
    /// Asks the store, and looks at what the driver did last.
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

    /// Why a restart of the daemon is the only thing that helps, if so: what the watchdog is for. A store that answers
    /// with an error is no such reason, because the next process meets the same disk.
    #[must_use]
    pub fn stuck(&self) -> Option<String> {
        if self.store == StoreState::Stuck {
            return Some(format!("the store gives no answer within {} s", STORE_ANSWERS.as_secs()));
        }
        let late = self.late.join(", ");
        (!late.is_empty()).then(|| format!("not begun for three periods: {late}"))
    }

    /// Why the daemon is not ready, if so; for strangers, so nothing of errors and paths.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        if let Some(why) = self.stuck() {
            return Some(why);
        }
        match (&self.store, self.engine) {
            (StoreState::Failing(_) | StoreState::Stuck, _) => Some("the store answers with errors".into()),
            (StoreState::Well, false) => Some("the engine gives no answer that can be trusted".into()),
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
