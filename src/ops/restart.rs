//! Restart: stop and start as a new incarnation, in one order.

use super::{Applied, OpResult, Ops, Up, pause::own};
use crate::domain::ids::WorkspaceId;

impl Ops {
    /// Restarts a workspace with any status; its container and file system stay. Workspaces that were paused along
    /// with it are started too.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn restart(&self, id: WorkspaceId) -> OpResult<Applied> {
        own(self.bring_up(id, Up::Restart).await?, id)
    }
}
