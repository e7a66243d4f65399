//! Remove: the rows first, in one transaction; then their containers and volumes.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{broadcast, oneshot};

use super::{Applied, OpError, OpResult, Ops, Order, actor::Phase};
use crate::{
    domain::{
        event::{Event, EventKind},
        ids::WorkspaceId,
        naming::WorkspaceName,
        status::Status,
        trash::{TrashContents, TrashEntry, TrashState},
    },
    engine::EngineError,
    runtime::clock::within,
    store::{DeleteGuard, RemoveResult},
};

/// How long a removal waits until the trash shows its entries.
const CLAIMED_WITHIN: Duration = Duration::from_secs(2);

/// The result of a removal.
#[derive(Clone, Debug)]
pub enum Removal {
    /// The rows are removed; what they own is being moved to the trash.
    Removed {
        /// Number of workspaces below it that were removed too.
        cascaded: usize,
        /// The result of the purge, if one was ordered; an error if not everything is deleted yet.
        purged: Option<OpResult<()>>,
        /// The engine's error, if containers and volumes are not in the trash yet because the engine gives no answer.
        waits: Option<EngineError>,
    },
    /// It has children and `cascade` was not given: nothing was done.
    HasChildren(Vec<(WorkspaceId, WorkspaceName)>),
}

impl Ops {
    /// Removes a workspace; with `cascade` also everything below it. With `purge`, what they own is permanently deleted
    /// instead of being kept in the trash, and this call waits for that. The rows record the removal, and
    /// `reap_removed` completes what could not be done at once.
    ///
    /// # Errors
    /// If there is no such workspace.
    pub async fn remove(&self, id: WorkspaceId, cascade: bool, purge: bool) -> OpResult<Removal> {
        // Subscribes before anything is claimed, so that no claim is missed.
        let claims = self.0.store.subscribe();
        match self.0.store.remove_workspace(id, cascade, purge, self.0.clock.now()).await? {
            RemoveResult::NotThere => Err(OpError::NotFound("workspace not found".into())),
            RemoveResult::HasChildren(children) => Ok(Removal::HasChildren(children)),
            RemoveResult::Removed { removed } => {
                let order = if purge { Order::Purge } else { Order::MoveRemovedToTrash };
                // Children before parents: no container may keep running below a removed workspace. All orders are
                // submitted before the first is awaited.
                let begun: Vec<_> =
                    removed.iter().rev().map(|workspace| self.submit(*workspace, order.clone())).collect();
                if !purge {
                    let waits = self.until_claimed(&removed, begun, claims).await;
                    return Ok(Removal::Removed { cascaded: removed.len() - 1, purged: None, waits });
                }
                let mut purged = Some(Ok(()));
                for answer in begun {
                    if let Err(error) = gone(answer.await.unwrap_or(Err(OpError::Stopping))) {
                        purged = Some(Err(error));
                    }
                }
                Ok(Removal::Removed { cascaded: removed.len() - 1, purged, waits: None })
            }
        }
    }

    /// Waits until the trash shows everything that was removed. Does not wait until the containers are stopped, which
    /// may take their whole grace period. Does not wait for an engine that gives no answer either; its error is
    /// returned.
    async fn until_claimed(
        &self,
        removed: &[WorkspaceId],
        begun: Vec<oneshot::Receiver<OpResult<Applied>>>,
        mut claims: broadcast::Receiver<Event>,
    ) -> Option<EngineError> {
        let ended = removed.iter().rev().zip(begun).map(|(id, answer)| answer.map(|done| (*id, done)));
        let mut waits = None;
        let mut ended: FuturesUnordered<_> = ended.collect();
        let mut left: BTreeSet<_> = removed.iter().copied().collect();
        let waiting = async {
            while !left.is_empty() {
                tokio::select! {
                    biased;
                    Some((id, done)) = ended.next() => {
                        if let Ok(Err(OpError::Engine(error))) = done && error.gave_no_answer() {
                            waits = Some(error);
                        }
                        left.remove(&id)
                    }
                    claim = claims.recv() => match claim {
                        Ok(event) if event.event_type == EventKind::ContainerReaped.as_str() => {
                            event.workspace_id.is_some_and(|id| left.remove(&id))
                        }
                        Ok(_) => false,
                        Err(_) => break,
                    },
                };
            }
        };
        let _shown_later = within(&*self.0.clock, CLAIMED_WITHIN, waiting).await;
        waits
    }

    /// Moves what a removed workspace still owns to the trash, and permanently deletes its trash entries.
    pub(super) async fn purge_now(&self, id: WorkspaceId, phase: &Phase) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        if row.status != Status::Removed {
            return Ok(Applied::Raced(format!("it is {} now", row.status)));
        }
        self.move_removed_to_trash_now(id, phase).await?;
        let mut in_use = None;
        let mut entries = self.0.store.trash_of(vec![id]).await?;
        // Entries of replaced containers first: these containers mount the volumes that are in the entry of the
        // removal.
        entries.sort_by_key(|entry| !entry.contents.volumes.is_empty());
        for entry in entries {
            match self.purge_entry(&entry, phase).await {
                // The container or a volume of this entry is in use. The other entries are deleted anyway.
                Err(error @ OpError::Conflict(_)) => in_use = Some(error),
                other => drop(other?),
            }
        }
        if let Some(error) = in_use {
            return Err(error);
        }
        // A different engine has none of these objects, which looks like success, so the engine is checked before and
        // after.
        self.0.recognise_engine().await?;
        if self.0.contents_of(&row).await? != TrashContents::default() {
            return Err(OpError::Conflict("the engine still has its container or one of its volumes".into()));
        }
        self.0.recognise_engine().await?;
        Ok(if self.0.store.finish_purge(id, self.0.clock.now()).await? {
            Applied::Done("permanently deleted".into())
        } else {
            Applied::Raced("it was undeleted meanwhile, or a restore from the trash is in progress".into())
        })
    }

    async fn purge_entry(&self, entry: &TrashEntry, phase: &Phase) -> OpResult<Applied> {
        if entry.state == TrashState::Claimed {
            self.finish_move_to_trash_now(entry.id, phase).await?;
        }
        self.delete_now(entry.id, DeleteGuard::PurgeOrdered, None, phase).await
    }
}

/// Turns `Applied::Raced` into an error: the purge was not completed, for example because the workspace was undeleted
/// meanwhile.
fn gone(applied: OpResult<Applied>) -> OpResult<()> {
    match applied? {
        Applied::Done(_) => Ok(()),
        Applied::Raced(why) => Err(OpError::Conflict(why)),
    }
}
