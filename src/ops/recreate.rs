//! Recreate: a new container in place of the old one, which goes into the trash; the volumes stay.

use super::{Applied, OpResult, Ops, start::StartOrder};
use crate::domain::ids::WorkspaceId;

impl Ops {
    /// Makes the container anew from what the row says now: image, limits, environment.
    ///
    /// # Errors
    /// When it cannot be made or started. A running container is left alone until the new one is made.
    pub async fn recreate(&self, id: WorkspaceId) -> OpResult<Applied> {
        let (row, order) = self.start_by_person(id).await?;
        self.refuse_below_paused(&row).await?;
        let order = StartOrder { even_if_running: true, new_container: true, ..order };
        self.order_start(id, order).await
    }
}
