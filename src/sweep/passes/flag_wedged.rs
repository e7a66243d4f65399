//! `flag_wedged`: flags workspaces that are stalled: busy without progress.
//!
//! ostler cannot distinguish a stalled agent from an agent that works on a long task. This pass therefore only flags
//! the workspace. It restarts the workspace only if that workspace's `restart_when_wedged` is set.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Pass, Requirement, Snapshot, SweepError, Sweeper};
use crate::domain::{liveness, plan::Plan};

/// See the module documentation.
pub(super) struct FlagWedged;

#[async_trait]
impl Pass for FlagWedged {
    fn name(&self) -> &'static str {
        "flag_wedged"
    }

    fn summary(&self) -> &'static str {
        "Flags agents that are busy without heartbeat, message or progress"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn requires(&self) -> Requirement {
        Requirement::Store
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let now = snapshot.asked_at();
        let rows = sweeper.store.quiet_rows(now - liveness::WEDGED_AFTER, now).await?;
        let sent_at = |id| sweeper.ops.traffic().sent_at(id);
        let lasted = |since| sweeper.lasted(since, snapshot);
        Ok(liveness::flag_wedged(&rows, &sweeper.ops.busy(), &sent_at, &lasted, snapshot.asked_at()))
    }
}
