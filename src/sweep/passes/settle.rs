//! `settle`: the engine is driven to what the rows say.
//!
//! Intent is written before it is carried out, so a crash, a failed stop or a hand at the engine leaves the
//! two apart. This pass brings them together: what must not run is stopped, second containers are put away,
//! interrupted starts begin anew, half-done restores and
//! half-begun sleeps are finished.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Look, Pass, SweepError, Sweeper};
use crate::domain::plan::{self, Plan, SettleInput};

/// See the module page.
pub(super) struct Settle;

#[async_trait]
impl Pass for Settle {
    fn name(&self) -> &'static str {
        "settle"
    }

    fn summary(&self) -> &'static str {
        "What must not run is stopped, and what was interrupted is finished"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn plan(&self, sweeper: &Sweeper, look: &Look) -> Result<Plan, SweepError> {
        let seen = look.seen()?;
        let listed = seen.inventory.workspaces();
        let rows = sweeper.store.known_rows(listed).await?;
        // Asked before the rows: an order that ends in between has left its mark in the row by then.
        let busy = sweeper.ops.busy();
        let mut interrupted = sweeper.store.provisioning_rows().await?;
        interrupted.retain(|row| !sweeper.ops.has_begun(row.id, row.incarnation));
        // Also of containers under a name of their own: one that lies in the trash may have got it back.
        let entries = sweeper.store.trash_in_sight(seen.inventory.with_container()).await?;
        let falling_asleep = sweeper.store.falling_asleep_rows().await?;
        let input = SettleInput {
            rows: &rows,
            interrupted: &interrupted,
            falling_asleep: &falling_asleep,
            entries: &entries,
            busy: &busy,
        };
        let mut plan = plan::settle(&seen.inventory, &input);
        // Starts that a crash of the host interrupted are among them.
        plan.parents_first(&|workspace| sweeper.parent(workspace));
        Ok(plan)
    }
}
