//! `time_out_provisioning`: marks a start as failed if its first heartbeat did not arrive in time.
//!
//! The container is left running: a heartbeat of the same incarnation still brings the workspace online.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Pass, Requirement, Snapshot, SweepError, Sweeper};
use crate::domain::{
    liveness,
    plan::{Plan, SweepRow},
};

/// See the module documentation.
pub(super) struct TimeOutProvisioning;

#[async_trait]
impl Pass for TimeOutProvisioning {
    fn name(&self) -> &'static str {
        "time_out_provisioning"
    }

    fn summary(&self) -> &'static str {
        "Marks starts as failed if the first heartbeat is late; a later one still sets the workspace online"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn requires(&self) -> Requirement {
        Requirement::Store
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let rows = sweeper.store.provisioning_rows().await?;
        let limit = |runtime: &str| sweeper.provisioning_limit(runtime);
        let begun_at = |row: &SweepRow| sweeper.ops.begun_at(row.id, row.incarnation);
        let lasted = |since| sweeper.lasted(since, snapshot);
        Ok(liveness::time_out_provisioning(&rows, &sweeper.ops.busy(), &limit, &begun_at, &lasted))
    }
}
