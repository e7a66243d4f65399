//! `check_heartbeats`: handles workspaces with missing heartbeats.
//!
//! Missing heartbeats do not prove a failure: the container may run well. So the workspace is marked degraded first,
//! and restarted only later, within its restart budget. An external workspace gets the status `awaiting_agent`.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Pass, Requirement, Snapshot, SweepError, Sweeper};
use crate::domain::{liveness, plan::Plan};

/// See the module documentation.
pub(super) struct CheckHeartbeats;

#[async_trait]
impl Pass for CheckHeartbeats {
    fn name(&self) -> &'static str {
        "check_heartbeats"
    }

    fn summary(&self) -> &'static str {
        "Degrades containers that miss heartbeats and restarts them later; external agents become awaiting_agent"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn requires(&self) -> Requirement {
        Requirement::Store
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let now = snapshot.asked_at();
        let rows = sweeper.store.quiet_rows(now - liveness::SILENT_AFTER, now).await?;
        let readiness = |runtime: &str| sweeper.readiness(runtime);
        let lasted = |since| sweeper.lasted(since, snapshot);
        Ok(liveness::check_heartbeats(&rows, &sweeper.ops.busy(), &readiness, &lasted, snapshot.asked_at()))
    }
}
