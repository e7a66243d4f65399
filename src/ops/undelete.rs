//! Undelete: the row comes back paused, and what it owned comes back to it.

use super::{Applied, OpError, OpResult, Ops, Order};
use crate::{
    domain::{ids::WorkspaceId, naming::WorkspaceName},
    store::UndeleteResult,
};

impl Ops {
    /// Takes a removal back.
    ///
    /// # Errors
    /// When there is nothing to take back, its name is taken, or what it owned was deleted for good.
    pub async fn undelete(&self, id: WorkspaceId, name: Option<WorkspaceName>) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        let wanted = name.clone().unwrap_or_else(|| row.name.clone());
        match self.0.store.undelete_workspace(id, name, self.0.clock.now()).await? {
            UndeleteResult::NotThere => Err(OpError::Conflict(format!(
                "workspace `{}` is not removed: it is {}",
                row.name, row.status
            ))),
            UndeleteResult::NameTaken => Err(OpError::Conflict(format!(
                "a workspace named `{wanted}` exists: give another name with --name"
            ))),
            UndeleteResult::Deleted => Err(OpError::Conflict(format!(
                "what workspace `{}` owned is being deleted for good and cannot come back",
                row.name
            ))),
            UndeleteResult::Back { .. } => {
                for entry in self.0.store.trash_of(vec![id]).await? {
                    if entry.state == crate::domain::trash::TrashState::Restoring {
                        self.order(id, Order::Restore(entry.id)).await?;
                    }
                }
                Ok(Applied::Done("back, and paused: `ostler start` brings it up".into()))
            }
        }
    }
}
