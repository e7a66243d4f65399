//! `reap_removed`: moves containers and volumes that removed workspaces still own to the trash.
//!
//! A removal normally does this itself. This pass finds the containers and volumes that a removal left: after a failed
//! stop, after a crash, or when a container was started later. The status in the row decides, not the state of the
//! container.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Pass, Snapshot, SweepError, Sweeper};
use crate::domain::plan::{self, Plan};

/// See the module documentation.
pub(super) struct ReapRemoved;

#[async_trait]
impl Pass for ReapRemoved {
    fn name(&self) -> &'static str {
        "reap_removed"
    }

    fn summary(&self) -> &'static str {
        "Moves containers and volumes of removed workspaces to the trash"
    }

    fn period(&self) -> Duration {
        Duration::from_mins(1)
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let seen = snapshot.seen()?;
        let listed = seen.inventory.workspaces();
        let rows = sweeper.store.sweep_rows(listed.clone()).await?;
        let entries = sweeper.store.relevant_trash(listed).await?;
        let purges = sweeper.store.purges_ordered().await?;
        Ok(plan::reap_removed(&seen.inventory, &rows, &entries, &purges, &sweeper.ops.busy()))
    }
}
