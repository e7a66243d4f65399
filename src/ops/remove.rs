//! Remove: the rows first, in one transaction; their things follow.

use super::{OpError, OpResult, Ops, Order};
use crate::{
    domain::{ids::WorkspaceId, naming::WorkspaceName, trash::TrashState},
    store::{DeleteGuard, RemoveResult},
};

/// What came of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The rows say removed; what they own is on its way into the trash.
    Removed {
        /// How many below it went too.
        cascaded: usize,
    },
    /// It has children and was not told to take them along: nothing was done.
    HasChildren(Vec<(WorkspaceId, WorkspaceName)>),
}

impl Ops {
    /// Removes a workspace, with `cascade` everything below it too. With `purge` what it owned is
    /// deleted for good instead of being kept in the trash, once it is there.
    ///
    /// # Errors
    /// When there is no such workspace.
    pub async fn remove(&self, id: WorkspaceId, cascade: bool, purge: bool) -> OpResult<Removal> {
        match self.0.store.remove_workspace(id, cascade, self.0.clock.now()).await? {
            RemoveResult::NotThere => Err(OpError::NotFound("workspace not found".into())),
            RemoveResult::HasChildren(children) => Ok(Removal::HasChildren(children)),
            RemoveResult::Removed { removed, told } => {
                // Children before parents: nothing is left running below a workspace that is gone.
                for workspace in removed.iter().rev() {
                    let put_away = self.submit(*workspace, Order::PutAwayRemoved);
                    if purge {
                        let (ops, workspace) = (self.clone(), *workspace);
                        self.0.spawn.spawn(Box::pin(async move {
                            let _answered = put_away.await;
                            ops.purge(workspace, told).await;
                        }));
                    }
                }
                Ok(Removal::Removed { cascaded: removed.len() - 1 })
            }
        }
    }

    /// Deletes what the removal put away that this event tells of.
    async fn purge(&self, workspace: WorkspaceId, told: i64) {
        let entries = match self.0.store.trash_of(vec![workspace]).await {
            Ok(entries) => entries,
            Err(error) => return tracing::warn!(%workspace, %error, "not purged; it stays in the trash"),
        };
        for entry in entries.into_iter().filter(|entry| entry.state == TrashState::Kept) {
            let guard = DeleteGuard::NotUndeletedAfter(told);
            let order = Order::Delete { entry: entry.id, guard, swept_by: None };
            if let Err(error) = self.order(workspace, order).await {
                tracing::warn!(%workspace, %error, "not purged; it stays in the trash");
            }
        }
    }
}
