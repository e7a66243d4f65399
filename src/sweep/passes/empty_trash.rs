//! `empty_trash`: what was kept for long enough is deleted for good.
//!
//! Claimed first, looked at again, never by force: a volume that something mounts stays. Removed
//! rows that own nothing any more are forgotten here too, so that they do not grow for ever.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Look, Pass, SweepError, Sweeper};
use crate::domain::plan::{self, Plan};

/// The most rows one run looks at or forgets.
const BATCH: u32 = 500;

/// See the module page.
pub(super) struct EmptyTrash;

#[async_trait]
impl Pass for EmptyTrash {
    fn name(&self) -> &'static str {
        "empty_trash"
    }

    fn summary(&self) -> &'static str {
        "What the trash has kept for long enough is deleted for good"
    }

    fn period(&self) -> Duration {
        Duration::from_hours(1)
    }

    async fn plan(&self, sweeper: &Sweeper, look: &Look) -> Result<Plan, SweepError> {
        let due = sweeper.store.trash_due(look.asked_at(), BATCH).await?;
        Ok(plan::empty_trash(&due, &sweeper.ops.busy()))
    }

    /// On the run's own look: another one would count as a second look for every grace, moments later.
    async fn housekeep(&self, sweeper: &Sweeper, look: &Look) -> Result<(), SweepError> {
        let now = look.asked_at();
        let owning = look.seen()?.inventory.workspaces();
        sweeper.ops.forget_networks(&owning.iter().copied().collect()).await?;
        sweeper.store.forget_removed(now - sweeper.limits().removed_retention, owning, BATCH).await?;
        Ok(())
    }
}
