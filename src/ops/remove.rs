//! Remove: the rows first, in one transaction; their things follow.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{broadcast, oneshot};

use super::{Applied, OpError, OpResult, Ops, Order, actor::Phase};
use crate::{
    clock::within,
    domain::{
        event::{Event, EventKind},
        ids::WorkspaceId,
        naming::WorkspaceName,
        status::Status,
        trash::{Things, TrashEntry, TrashState},
    },
    engine::EngineError,
    store::{DeleteGuard, RemoveResult},
};

/// How long a removal waits for the trash to show what it put there.
const CLAIMED_WITHIN: Duration = Duration::from_secs(2);

/// What came of a removal.
#[derive(Clone, Debug)]
pub enum Removal {
    /// The rows say removed; what they own is on its way into the trash.
    Removed {
        /// How many below it went too.
        cascaded: usize,
        /// What came of the purge, where one was ordered: an error says what is not deleted yet.
        purged: Option<OpResult<()>>,
        /// Why what they own is not in the trash yet: the engine gives no answer.
        waits: Option<EngineError>,
    },
    /// It has children and was not told to take them along: nothing was done.
    HasChildren(Vec<(WorkspaceId, WorkspaceName)>),
}

impl Ops {
    /// Removes a workspace, with `cascade` everything below it too. With `purge` what they own is deleted for good
    /// instead of being kept in the trash, and this waits until it is. The rows remember the order: `reap_removed` goes
    /// on with what could not be done at once.
    ///
    /// # Errors
    /// When there is no such workspace.
    pub async fn remove(&self, id: WorkspaceId, cascade: bool, purge: bool) -> OpResult<Removal> {
        // Before anything is claimed, so that no claim is missed.
        let claims = self.0.store.subscribe();
        match self.0.store.remove_workspace(id, cascade, purge, self.0.clock.now()).await? {
            RemoveResult::NotThere => Err(OpError::NotFound("workspace not found".into())),
            RemoveResult::HasChildren(children) => Ok(Removal::HasChildren(children)),
            RemoveResult::Removed { removed } => {
                let order = if purge { Order::Purge } else { Order::PutAwayRemoved };
                // Children before parents: nothing is left running below a workspace that is gone. All are begun before
                // any is waited for.
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

    /// Waits until the trash shows what was removed. The stops may take their whole grace: those are not waited for, nor
    /// is an engine that gives no answer: its error is the answer.
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

    /// Puts what a removed workspace still owns into the trash, and deletes all that lies there of it.
    pub(super) async fn purge_now(&self, id: WorkspaceId, phase: &Phase) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        if row.status != Status::Removed {
            return Ok(Applied::Raced(format!("it is {} now", row.status)));
        }
        self.put_away_removed_now(id, phase).await?;
        let mut in_use = None;
        let mut entries = self.0.store.trash_of(vec![id]).await?;
        // Replaced containers first: they mount the volumes that the removal's own entry holds.
        entries.sort_by_key(|entry| !entry.things.volumes.is_empty());
        for entry in entries {
            match self.purge_entry(&entry, phase).await {
                // Something else mounts it: the other entries go all the same.
                Err(error @ OpError::Conflict(_)) => in_use = Some(error),
                other => drop(other?),
            }
        }
        if let Some(error) = in_use {
            return Err(error);
        }
        // An engine that is not ours shows nothing, which looks like success: so it is recognised before and after.
        self.0.recognise_engine().await?;
        if self.0.things_of(&row).await? != Things::default() {
            return Err(OpError::Conflict("something of it is still in the engine".into()));
        }
        self.0.recognise_engine().await?;
        Ok(if self.0.store.finish_purge(id, self.0.clock.now()).await? {
            Applied::Done("deleted for good".into())
        } else {
            Applied::Raced(
                "it was undeleted meanwhile, or something of it is on its way back from the trash".into(),
            )
        })
    }

    async fn purge_entry(&self, entry: &TrashEntry, phase: &Phase) -> OpResult<Applied> {
        if entry.state == TrashState::Claimed {
            self.finish_put_away_now(entry.id, phase).await?;
        }
        self.delete_now(entry.id, DeleteGuard::PurgeOrdered, None, phase).await
    }
}

/// A purge whose workspace was undeleted meanwhile deletes nothing.
fn gone(applied: OpResult<Applied>) -> OpResult<()> {
    match applied? {
        Applied::Done(_) => Ok(()),
        Applied::Raced(why) => Err(OpError::Conflict(why)),
    }
}
