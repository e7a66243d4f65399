//! Restarts after an unexpected exit, and restarts of degraded or stalled workspaces, within the restart budget.

use std::time::Duration;

use super::{Applied, Inner, OpResult, Ops, actor::Phase, paused_by_hand, start::StartOrder};
use crate::{
    domain::{
        ids::WorkspaceId,
        observed::ContainerState,
        status::{Cause, Status},
        workspace::Workspace,
    },
    engine::ErrorKind,
    store::Precondition,
    testing::mutation::{Mutation, is},
};

/// Delay after a restart that could not be carried out, for example because the engine gave no answer.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// Name of the pass that carries out due restarts.
pub const RESTART_DUE: &str = "restart_due";

impl Ops {
    pub(super) async fn restart_due_now(&self, id: WorkspaceId, phase: &Phase) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        let now = self.0.clock.now();
        if row.status != Status::Offline
            || row.restart_due_at.is_none_or(|due| due > now && !row.status_since.is_ahead_of(now))
        {
            return Ok(Applied::Raced(format!("it is {} now", row.status)));
        }
        let order = StartOrder { cause: Some(Cause::Restart), ..StartOrder::default() };
        let done = match self.0.paused_by_hand(&row).await {
            Ok(Some(paused)) => Ok(Applied::Raced(paused)),
            Ok(None) => self.start_now(id, order, phase).await,
            Err(error) => Err(error),
        };
        let still_offline = self.0.row(id).await?.status == Status::Offline;
        if still_offline {
            self.0.store.put_off_restart(id, now + RETRY_DELAY).await?;
            self.0.wake.after(RESTART_DUE, RETRY_DELAY);
        }
        done
    }

    pub(super) async fn restart_degraded_now(
        &self,
        id: WorkspaceId,
        precondition: Precondition,
        (why, swept_by): (String, &'static str),
        phase: &Phase,
    ) -> OpResult<Applied> {
        // Checked before anything is charged to the budget: if a user paused the container, its process is frozen, and
        // missing heartbeats are no fault of the agent.
        if let Some(paused) = self.0.paused_by_hand(&self.0.row(id).await?).await? {
            return Ok(Applied::Raced(paused));
        }
        let (budget, now) = (self.0.settings().restart, self.0.clock.now());
        let Some(claimed) = self.0.store.charge_degraded_restart(id, precondition, budget, now).await? else {
            return Ok(Applied::Raced("a heartbeat was received, or its restart budget is spent".into()));
        };
        let order = StartOrder {
            cause: Some(Cause::Restart),
            even_if_running: true,
            degraded: Some((swept_by, why)),
            ..StartOrder::default()
        };
        let done = self.start_now(id, order, phase).await;
        if !matches!(done, Ok(Applied::Done(_))) {
            // The charge is undone, unless the start's transaction was committed: only then does the order count as a
            // restart. The next run of the pass tries again. If the old process was stopped, its exit is charged when
            // it is observed.
            if let Err(error) = self.0.store.refund_restart(claimed).await {
                tracing::warn!(workspace = %id, %error, "restart was not carried out, but stays charged to the budget");
            }
        }
        done
    }
}

impl Inner {
    /// A message if a user has paused the row's container by hand; `None` otherwise. Only an operator's order starts
    /// such a container again.
    pub(super) async fn paused_by_hand(&self, row: &Workspace) -> OpResult<Option<String>> {
        let Some(container) = row.container.as_ref().filter(|_| !is(Mutation::RestartPaused)) else {
            return Ok(None);
        };
        match self.engine.inspect_container(container).await {
            Ok(seen) if seen.state == ContainerState::Paused => Ok(Some(paused_by_hand(container))),
            Ok(_) => Ok(None),
            Err(error) if error.kind == ErrorKind::Absent => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
