//! `settle`: makes the containers in the engine match the rows.
//!
//! Each operation stores its goal in the row before it changes the engine. After a crash, a failed stop or a manual
//! change in the engine, row and container can therefore differ. This pass stops containers that must not run, moves
//! second containers of a workspace to the trash, repeats interrupted starts, and finishes interrupted restores and
//! hibernations.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Pass, Snapshot, SweepError, Sweeper};
use crate::domain::plan::{self, Plan, SettleInput};

/// See the module documentation.
pub(super) struct Settle;

#[async_trait]
impl Pass for Settle {
    fn name(&self) -> &'static str {
        "settle"
    }

    fn summary(&self) -> &'static str {
        "Stops containers that must not run, and finishes interrupted operations"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let seen = snapshot.seen()?;
        let listed = seen.inventory.workspaces();
        let rows = sweeper.store.sweep_rows(listed).await?;
        // Read before the provisioning rows: an order that ends between the two reads has changed its row before the
        // second one.
        let busy = sweeper.ops.busy();
        let mut interrupted = sweeper.store.provisioning_rows().await?;
        interrupted.retain(|row| !sweeper.ops.has_begun(row.id, row.incarnation));
        // Includes workspaces whose listed containers have regular names: a user may have given a container in the
        // trash its old name.
        let entries = sweeper.store.relevant_trash(seen.inventory.with_container()).await?;
        let hibernating = sweeper.store.hibernating_rows().await?;
        let input = SettleInput {
            rows: &rows,
            interrupted: &interrupted,
            hibernating: &hibernating,
            entries: &entries,
            busy: &busy,
        };
        let mut plan = plan::settle(&seen.inventory, &input);
        // After a crash of the host, the plan may contain starts of many workspaces: parents start before their
        // descendants.
        plan.parents_first(&|workspace| sweeper.parent(workspace));
        Ok(plan)
    }
}
