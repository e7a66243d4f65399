//! `restart_due`: restarts containers after an unexpected exit, when their back-off has passed.
//!
//! The due time was computed and stored when the exit was recorded. The order that stored it also requested a run of
//! this pass at that time (`wake.rs`). In addition, every run of the pass requests another run at the next due time in
//! the store, so restarts are on time even if the daemon was restarted meanwhile. Parents are started before their
//! descendants.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Pass, Requirement, Snapshot, SweepError, Sweeper};
use crate::domain::{liveness, plan::Plan};

/// See the module documentation.
pub(super) struct RestartDue;

#[async_trait]
impl Pass for RestartDue {
    fn name(&self) -> &'static str {
        "restart_due"
    }

    fn summary(&self) -> &'static str {
        "Restarts containers that exited unexpectedly, within the restart budget"
    }

    fn period(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn requires(&self) -> Requirement {
        Requirement::Store
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let due = sweeper.store.restarts_due(snapshot.asked_at()).await?;
        let parent = |workspace| sweeper.parent(workspace);
        Ok(liveness::restart_due(&due, &sweeper.ops.busy(), &parent, snapshot.asked_at()))
    }
}
