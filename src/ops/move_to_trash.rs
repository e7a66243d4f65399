//! Moving containers and volumes to the trash: claim them, stop the container, rename it, and mark the entry as kept.
//!
//! The claim is one guarded transaction, made before anything is changed. If an adoption or an undelete is committed
//! before it, the claim fails. If one follows it, the adoption is refused, and the undelete restores everything. If the
//! stop fails, the claim stays open and nothing is renamed; the next sweep repeats the stop.

use std::time::Duration;

use super::{Applied, Inner, OpResult, Ops, actor::Phase};
use crate::{
    domain::{
        ids::{ContainerId, TrashId, WorkspaceId},
        naming::{VolumeKind, trash_name, volume_name},
        status::Status,
        trash::{NamedContainer, TrashContents, TrashEntry, TrashReason, TrashState},
        workspace::Workspace,
    },
    engine::{EngineResult, ErrorKind},
    store::{ClaimGuard, NewClaim},
    testing::crash_point,
};

/// What to move to the trash, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveToTrash {
    /// Name of the workspace.
    pub name: String,
    /// Reason of the trash entry.
    pub reason: TrashReason,
    /// The facts on which it was decided.
    pub evidence: String,
    /// The container and volumes.
    pub contents: TrashContents,
    /// Precondition on the row.
    pub guard: ClaimGuard,
    /// The pass that decided it; `None` for an operator's order.
    pub swept_by: Option<&'static str>,
}

impl Ops {
    pub(super) async fn move_to_trash_now(
        &self,
        id: WorkspaceId,
        order: MoveToTrash,
        phase: &Phase,
    ) -> OpResult<Applied> {
        phase.report("trash: moving its container and volumes");
        self.0.recognise_engine().await?;
        let contents = match order.swept_by {
            // A purge may have deleted some of the contents since the listing that the pass used. A trash entry must
            // not offer deleted objects for restoring.
            Some(_) => self.0.still_there(order.contents).await?,
            None => order.contents,
        };
        if contents == TrashContents::default() {
            return Ok(Applied::Raced("its container and volumes no longer exist".into()));
        }
        let at = self.0.clock.now();
        let claim = NewClaim {
            id: TrashId(self.0.entropy.uuid()),
            workspace: id,
            workspace_name: order.name,
            reason: order.reason,
            evidence: order.evidence,
            contents,
            guard: order.guard,
            keep_until: at + self.0.settings().trash_retention,
            swept_by: order.swept_by,
        };
        match self.0.store.claim_for_trash(claim, at).await? {
            Some(entry) => self.0.finish_claim(&entry, phase).await,
            None => Ok(Applied::Raced(
                "nothing was moved: a live workspace owns these objects, or they are in the trash already"
                    .into(),
            )),
        }
    }

    /// Moves everything that a removed row still owns to the trash, as far as it can be found from the row.
    pub(super) async fn move_removed_to_trash_now(
        &self,
        id: WorkspaceId,
        phase: &Phase,
    ) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        if row.status != Status::Removed {
            return Ok(Applied::Raced(format!("it is {} now", row.status)));
        }
        self.0.recognise_engine().await?;
        // Claims of an earlier attempt, whose containers may still run.
        for entry in self.0.store.trash_of(vec![id]).await? {
            if entry.state == TrashState::Claimed && entry.reason == TrashReason::Removed {
                self.finish_move_to_trash_now(entry.id, phase).await?;
            }
        }
        let contents = self.0.contents_of(&row).await?;
        if contents == TrashContents::default() {
            // A different engine has none of these objects either, and the socket may lead to one since the first
            // check.
            self.0.recognise_engine().await?;
            let moved = |entry: &&TrashEntry| entry.reason == TrashReason::Removed;
            let entries = self.0.store.trash_of(vec![id]).await?;
            return Ok(Applied::Done(match entries.iter().find(moved) {
                // By an earlier attempt, or by a sweep.
                Some(entry) => format!("in the trash until {}", entry.keep_until),
                None => "it owned no container and no volumes".into(),
            }));
        }
        let order = MoveToTrash {
            name: row.name.to_string(),
            reason: TrashReason::Removed,
            evidence: "an operator removed the workspace".into(),
            contents,
            guard: ClaimGuard::RowRemoved,
            swept_by: None,
        };
        self.move_to_trash_now(id, order, phase).await
    }

    pub(super) async fn finish_move_to_trash_now(&self, entry: TrashId, phase: &Phase) -> OpResult<Applied> {
        match self.0.store.trash_entry(entry).await? {
            Some(entry) if entry.state == TrashState::Claimed => self.0.finish_claim(&entry, phase).await,
            Some(entry) if entry.state == TrashState::Kept => self.0.move_to_trash_again(&entry, phase).await,
            _ => Ok(Applied::Raced("the entry is no longer being moved to the trash".into())),
        }
    }
}

/// Whether the engine may still have an object: `false` only if it answers that the object is absent. If the engine
/// gives no answer, its error is returned.
fn may_be_there<T>(inspected: EngineResult<T>) -> EngineResult<bool> {
    match inspected {
        Err(error) if error.gave_no_answer() => Err(error),
        Err(error) => Ok(error.kind != ErrorKind::Absent),
        Ok(_) => Ok(true),
    }
}

impl Inner {
    /// The row's container and the workspace's volumes that exist and are in no trash entry.
    pub(super) async fn contents_of(&self, row: &Workspace) -> OpResult<TrashContents> {
        let entries = self.store.trash_of(vec![row.id]).await?;
        let held = |item: &str| {
            entries.iter().any(|entry| {
                entry.contents.container.as_ref().is_some_and(|container| container.id.as_str() == item)
                    || entry.contents.volumes.iter().any(|volume| volume == item)
            })
        };
        let mut contents = TrashContents::default();
        if let Some(id) = row.container.as_ref().filter(|id| !held(id.as_str())) {
            match self.engine.inspect_container(id).await {
                Ok(seen) => contents.container = Some(NamedContainer { id: seen.id, name: seen.name }),
                Err(error) if error.kind == ErrorKind::Absent => {}
                Err(error) => return Err(error.into()),
            }
        }
        for kind in VolumeKind::ALL {
            let name = volume_name(row.id, kind);
            match self.engine.inspect_volume(&name).await {
                Ok(_) if !held(&name) => contents.volumes.push(name),
                Ok(_) => {}
                Err(error) if error.kind == ErrorKind::Absent => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(contents)
    }

    /// The part of `contents` that the engine still has.
    async fn still_there(&self, contents: TrashContents) -> OpResult<TrashContents> {
        let mut left = TrashContents::default();
        if let Some(container) = contents.container
            && may_be_there(self.engine.inspect_container(&container.id).await)?
        {
            left.container = Some(container);
        }
        for volume in contents.volumes {
            if may_be_there(self.engine.inspect_volume(&volume).await)? {
                left.volumes.push(volume);
            }
        }
        // A different engine has none of these objects, which would look as if they were deleted.
        self.recognise_engine().await?;
        Ok(left)
    }

    /// Stops a container that runs although it is in the trash, and gives it its trash name again if it has another
    /// name. This is needed if a call that timed out took effect later, or if a user changed the container by hand.
    async fn move_to_trash_again(&self, entry: &TrashEntry, phase: &Phase) -> OpResult<Applied> {
        phase.report("trash: moving its container to the trash again");
        if let Some(container) = &entry.contents.container {
            self.stop_and_verify(&container.id, self.grace_of(entry).await?).await?;
            match self.rename_into_trash(entry.id, &container.id).await {
                Err(error) if error.kind != ErrorKind::Absent => return Err(error.into()),
                _ => {}
            }
        }
        Ok(Applied::Done("it is in the trash again".into()))
    }

    async fn rename_into_trash(&self, entry: TrashId, container: &ContainerId) -> EngineResult<()> {
        crash_point::before("move to trash: rename a container");
        match self.engine.rename_container(container, &trash_name(entry)).await {
            Ok(()) => {
                crash_point::after("move to trash: rename a container");
                Ok(())
            }
            Err(error) if error.kind == ErrorKind::Absent => Err(error),
            // An earlier rename may have succeeded although it was reported as failed.
            Err(error) => match self.engine.inspect_container(container).await {
                Ok(seen) if seen.name == trash_name(entry) => Ok(()),
                _ => Err(error),
            },
        }
    }

    async fn grace_of(&self, entry: &TrashEntry) -> OpResult<Duration> {
        let row = self.store.workspace(entry.workspace).await?;
        Ok(row.map_or(Duration::from_secs(10), |row| self.stop_grace(&row)))
    }

    async fn finish_claim(&self, entry: &TrashEntry, phase: &Phase) -> OpResult<Applied> {
        if let Some(container) = &entry.contents.container {
            phase.report("trash: stopping its container");
            self.stop_and_verify(&container.id, self.grace_of(entry).await?).await?;
            match self.rename_into_trash(entry.id, &container.id).await {
                Ok(()) => {}
                Err(error) if error.kind == ErrorKind::Absent => {
                    self.store.drop_from_trash(entry.id, container.id.to_string()).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if self.store.mark_in_trash(entry.id, self.clock.now()).await? {
            Ok(Applied::Done(format!("in the trash until {}", entry.keep_until)))
        } else {
            Ok(Applied::Raced("the entry was restored meanwhile".into()))
        }
    }
}
