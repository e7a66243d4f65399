//! Touch: the idle time of a workspace starts again.

use super::{OpError, OpResult, Ops};
use crate::domain::{ids::WorkspaceId, status::Status};

impl Ops {
    /// Records activity of a user in a workspace, which postpones its hibernation.
    ///
    /// # Errors
    /// If the workspace is not online.
    pub async fn touch(&self, id: WorkspaceId) -> OpResult<()> {
        let row = self.0.row(id).await?;
        if !matches!(row.status, Status::Online | Status::Degraded) {
            let why =
                format!("the workspace is {}. `ostler start {}` starts it", row.status.as_str(), row.name);
            return Err(OpError::Conflict(why));
        }
        self.traffic().note(id);
        Ok(())
    }
}
