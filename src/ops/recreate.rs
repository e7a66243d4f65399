//! Recreate: a new container in place of the old one, which goes into the trash; the volumes stay.

use super::{Applied, OpResult, Ops, Up, pause::own};
use crate::domain::ids::WorkspaceId;

impl Ops {
    /// Makes the container anew from what the row says now: image, limits, environment; and starts it, paused or
    /// not, with what was paused along with it.
    ///
    /// # Errors
    /// When it cannot be made or started. A running container is left alone until the new one is made.
    pub async fn recreate(&self, id: WorkspaceId) -> OpResult<Applied> {
        own(self.bring_up(id, Up::Recreate).await?, id)
    }
}
