//! Restart: stop and start as a new incarnation, in one order.

use super::{Applied, OpResult, Ops, start::StartOrder};
use crate::domain::{ids::WorkspaceId, status::Cause};

impl Ops {
    /// Restarts a workspace, whatever it is now; its container and file system stay.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn restart(&self, id: WorkspaceId) -> OpResult<Applied> {
        let (row, order) = self.start_by_person(id).await?;
        self.refuse_below_paused(&row).await?;
        let order = StartOrder { even_if_running: true, ..order };
        self.order_start(id, order).await
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
