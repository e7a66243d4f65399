//! Restart: stop and start as a new incarnation, in one order.

use super::{Applied, OpResult, Ops, Up, pause::own, start::StartOrder};
use crate::domain::{ids::WorkspaceId, status::Cause};

impl Ops {
    /// Restarts a workspace with any status; its container and file system stay. Workspaces that were paused along
    /// with it are started too.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn restart(&self, id: WorkspaceId) -> OpResult<Applied> {
        own(self.bring_up(id, Up::Restart).await?, id)
    }

    /// Restarts a workspace by order of its own agent. The status must allow `Cause::Restart`; statuses that an
    /// operator chose, such as paused, do not.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn restart_itself(&self, id: WorkspaceId) -> OpResult<Applied> {
        let order =
            StartOrder { cause: Some(Cause::Restart), even_if_running: true, ..StartOrder::default() };
        self.order_start(id, order).await
    }
}
