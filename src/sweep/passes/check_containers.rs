//! `check_containers`: updates rows whose container has exited or become ready without an order from ostler.
//!
//! A status changes only after two observations: this listing, and an inspection by the actor of the workspace. If the
//! engine does not answer, no status changes.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Pass, Snapshot, SweepError, Sweeper};
use crate::domain::plan::{self, Plan};

/// See the module documentation.
pub(super) struct CheckContainers {
    /// Time between scheduled runs. Events trigger a check earlier; the scheduled runs find containers whose events
    /// were lost.
    pub(super) period: Duration,
}

#[async_trait]
impl Pass for CheckContainers {
    fn name(&self) -> &'static str {
        "check_containers"
    }

    fn summary(&self) -> &'static str {
        "Marks workspaces offline when their container has exited, and online when it is ready"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let seen = snapshot.seen()?;
        let mut rows = sweeper.store.up_rows().await?;
        // Only starts that this process began. `settle` repeats all others, because this process has not verified that
        // their containers hold the right token.
        let starting = sweeper.store.provisioning_rows().await?;
        rows.extend(starting.into_iter().filter(|row| sweeper.ops.has_begun(row.id, row.incarnation)));
        let readiness = |runtime: &str| sweeper.readiness(runtime);
        let busy = sweeper.ops.busy();
        let mut plan = plan::check_containers(
            &seen.inventory,
            &rows,
            &seen.presence,
            &busy,
            &readiness,
            snapshot.asked_at(),
        );
        plan.parents_first(&|workspace| sweeper.parent(workspace));
        Ok(plan)
    }
}
