//! Recreate: a new container replaces the old one, which goes to the trash; the volumes stay.

use super::{Applied, OpResult, Ops, Up, pause::own};
use crate::domain::ids::WorkspaceId;

impl Ops {
    /// Replaces the container by one with the row's current settings (image, limits, environment) and starts it, even
    /// if the workspace is paused. Workspaces that were paused along with it are started too.
    ///
    /// # Errors
    /// If it cannot be created or started. A running container is not touched until the new one exists.
    pub async fn recreate(&self, id: WorkspaceId) -> OpResult<Applied> {
        own(self.bring_up(id, Up::Recreate).await?, id)
    }
}
