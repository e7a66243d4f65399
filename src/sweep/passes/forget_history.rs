//! `forget_history`: deletes events older than the retention.
//!
//! The pass requires only the store, so it deletes old events even while the engine is unavailable or not trusted. The
//! total size of the events is limited by the code that writes them.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    domain::plan::Plan,
    sweep::{
        context::{Snapshot, Sweeper},
        error::SweepError,
        pass::{Pass, Requirement},
    },
    testing::mutation::{Mutation, is},
};

/// Maximum number of events that one transaction deletes. The limit keeps transactions short, because heartbeats wait
/// until a transaction ends.
const BATCH: u32 = 2000;
/// Maximum number of transactions of one run.
const BATCHES_MAX: u32 = 50;

/// See the module documentation.
pub(super) struct ForgetHistory;

#[async_trait]
impl Pass for ForgetHistory {
    fn name(&self) -> &'static str {
        "forget_history"
    }

    fn summary(&self) -> &'static str {
        "Deletes events older than the retention"
    }

    fn period(&self) -> Duration {
        Duration::from_mins(30)
    }

    fn requires(&self) -> Requirement {
        Requirement::Store
    }

    async fn plan(&self, _sweeper: &Sweeper, _snapshot: &Snapshot) -> Result<Plan, SweepError> {
        Ok(Plan::default())
    }

    async fn housekeep(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<(), SweepError> {
        if is(Mutation::KeepAllHistory) {
            return Ok(());
        }
        let before = snapshot.asked_at() - sweeper.limits().event_retention;
        for _batch in 0..BATCHES_MAX {
            let forgotten = sweeper.store.forget_events(before, BATCH).await?;
            if forgotten < BATCH as usize {
                break;
            }
        }
        Ok(())
    }
}
