//! Restart: stop and start as a new incarnation, in one order.

use super::{Applied, OpResult, Ops, Up, pause::own, start::StartOrder};
use crate::domain::{ids::WorkspaceId, status::Cause};

impl Ops {
    /// Restarts a workspace, whatever it is now; its container and file system stay. What was paused along with it is
    /// started too.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn restart(&self, id: WorkspaceId) -> OpResult<Applied> {
        own(self.bring_up(id, Up::Restart).await?, id)
    }

    /// Restarts a workspace on its own word: only from where nobody has put it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn restart_itself(&self, id: WorkspaceId) -> OpResult<Applied> {
        let order =
            StartOrder { cause: Some(Cause::Restart), even_if_running: true, ..StartOrder::default() };
        self.order_start(id, order).await
    }
}
