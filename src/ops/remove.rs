//! Remove: the rows first, in one transaction; then their containers and volumes.

use std::{collections::BTreeSet, time::Duration};

use tokio::sync::broadcast;

use super::{Applied, OpError, OpResult, Ops, Ticket, actor::Phase, not_found};
use crate::{
    domain::{
        event::{Event, EventKind},
        ids::WorkspaceId,
        naming::WorkspaceName,
        operation::{OperationId, Requester},
        status::Status,
        trash::{TrashContents, TrashEntry, TrashState},
    },
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
        /// What the operation waits for, if containers and volumes are not in the trash yet because the engine gives no
        /// answer.
        waits: Option<String>,
        /// The operation that moves or deletes what they own.
        operation: Option<OperationId>,
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
        self.remove_for(id, (cascade, purge), Requester::Operator).await
    }

    /// The same as [`Ops::remove`], by order of `by`.
    ///
    /// # Errors
    /// If there is no such workspace.
    pub async fn remove_for(
        &self,
        id: WorkspaceId,
        (cascade, purge): (bool, bool),
        by: Requester,
    ) -> OpResult<Removal> {
        // Subscribes before anything is claimed, so that no claim is missed.
        let claims = self.0.store.subscribe();
        let (store, now) = (self.0.store.clone(), self.0.clock.now());
        let starts = self.0.accepted_starts.clone();
        let accepted = starts.so_far();
        let transaction = async move {
            let stored = store.accept_removal(id, (cascade, purge), Some(by), now).await?;
            if let RemoveResult::Removed { removed } = &stored.result {
                starts.overrule(removed.iter().copied(), accepted);
            }
            Ok(stored)
        };
        let (result, ticket) = self.accepting(transaction).await?;
        let (removed, ticket) = match (result, ticket) {
            (RemoveResult::Removed { removed }, Some(ticket)) => (removed, ticket),
            (RemoveResult::HasChildren(children), _) => return Ok(Removal::HasChildren(children)),
            (RemoveResult::NotThere | RemoveResult::Removed { .. }, _) => return Err(not_found()),
        };
        let (cascaded, operation) = (removed.len() - 1, ticket.operation());
        if purge {
            let done = ticket.ended().await;
            let waits = done.iter().flatten().find_map(|one| match &one.result {
                Ok(Applied::Accepted(why)) => Some(why.clone()),
                Ok(Applied::Done(_) | Applied::Raced(_)) | Err(_) => None,
            });
            let purged = match &waits {
                Some(_) => None,
                None => Some(done.and_then(|all| all.into_iter().try_for_each(|one| gone(one.result)))),
            };
            return Ok(Removal::Removed { cascaded, purged, waits, operation });
        }
        let waits = self.until_claimed(&removed, ticket, claims).await;
        Ok(Removal::Removed { cascaded, purged: None, waits, operation })
    }

    /// Waits until the trash shows everything that was removed. Does not wait until the containers are stopped, which
    /// may take their whole grace period. Does not wait for an engine that gives no answer either; what the operation
    /// waits for is returned.
    async fn until_claimed(
        &self,
        removed: &[WorkspaceId],
        ticket: Ticket,
        mut claims: broadcast::Receiver<Event>,
    ) -> Option<String> {
        let mut left: BTreeSet<_> = removed.iter().copied().collect();
        let mut ended = std::pin::pin!(ticket.ended());
        let waiting = async {
            while !left.is_empty() {
                tokio::select! {
                    biased;
                    done = &mut ended => return done.ok()?.into_iter().find_map(|one| match one.result {
                        Ok(Applied::Accepted(why)) => Some(why),
                        Ok(Applied::Done(_) | Applied::Raced(_)) | Err(_) => None,
                    }),
                    claim = claims.recv() => match claim {
                        Ok(event) if event.event_type == EventKind::ContainerReaped.as_str() => {
                            event.workspace_id.is_some_and(|id| left.remove(&id))
                        }
                        Ok(_) => false,
                        Err(_) => return None,
                    },
                };
            }
            None
        };
        // If it takes longer, the trash shows it later.
        within(&*self.0.clock, CLAIMED_WITHIN, waiting).await.flatten()
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
        Applied::Raced(why) | Applied::Accepted(why) => Err(OpError::Conflict(why)),
    }
}
