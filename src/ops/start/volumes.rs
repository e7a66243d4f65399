//! The volumes of a workspace: missing ones are created, unless that would hide lost work.

use super::StartOrder;
use crate::{
    domain::{
        naming::{VolumeKind, volume_name},
        runtime::{Runtime, User},
        workspace::Workspace,
    },
    engine::{ErrorKind, VolumeSpec},
    ops::{Inner, OpError, OpResult, actor::Phase},
    store::WorkspaceEdit,
    testing::{
        crash_point,
        mutation::{Mutation, is},
    },
};

impl Inner {
    /// Creates missing volumes. A work volume is created only for a workspace that never had one, or with
    /// `new_volume`: an empty volume in place of lost work would hide the loss.
    pub(super) async fn ensure_volumes(
        &self,
        row: &Workspace,
        runtime: &Runtime,
        order: &StartOrder,
        phase: &Phase,
    ) -> OpResult<()> {
        phase.report("start: checking its volumes");
        let config = volume_name(row.id, VolumeKind::Config);
        match self.engine.inspect_volume(&config).await {
            Ok(seen) if seen.directory_missing => {
                crash_point::before("start: repair its configuration volume");
                self.engine.repair_volume(&config, runtime.user).await?;
                crash_point::after("start: repair its configuration volume");
            }
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::Absent => {
                self.make_volume(row, config, runtime.user).await?;
            }
            Err(error) => return Err(error.into()),
        }
        if !row.wants_work_volume() {
            return Ok(());
        }
        let work = volume_name(row.id, VolumeKind::Work);
        let lost = match self.engine.inspect_volume(&work).await {
            Ok(seen) if !seen.directory_missing => return self.note_work_volume(row).await,
            Ok(_) => true,
            Err(error) if error.kind == ErrorKind::Absent => false,
            Err(error) => return Err(error.into()),
        };
        if (row.has_work_volume || lost) && !order.new_volume && !is(Mutation::VolumesOnTheFly) {
            return Err(OpError::Impossible(format!(
                "volume missing: its work volume `{work}` is gone. Restore it (a disk may be unmounted, or `podman \
                 system prune --volumes` may have deleted it), or start with an empty one: `ostler start {} \
                 --new-volume`",
                row.name
            )));
        }
        if lost {
            crash_point::before("start: create an empty work volume");
            self.engine.repair_volume(&work, runtime.user).await?;
            crash_point::after("start: create an empty work volume");
        } else {
            self.make_volume(row, work, runtime.user).await?;
        }
        // If the volume exists only in a different engine, it must not be recorded: every later start in the accepted
        // engine would report the volume as lost.
        self.recognise_engine().await?;
        self.note_work_volume(row).await
    }

    async fn make_volume(&self, row: &Workspace, name: String, owner: User) -> OpResult<()> {
        let spec = VolumeSpec { name, labels: self.labels(row.id), owner };
        crash_point::before("start: create a volume");
        match self.engine.create_volume(&spec).await {
            // An earlier creation succeeded although it was reported as failed.
            Err(error) if error.kind == ErrorKind::Conflict => {}
            other => other?,
        }
        crash_point::after("start: create a volume");
        Ok(())
    }

    async fn note_work_volume(&self, row: &Workspace) -> OpResult<()> {
        if !row.has_work_volume {
            let edit = WorkspaceEdit { has_work_volume: Some(true), ..WorkspaceEdit::default() };
            self.store.edit_workspace(row.id, edit).await?;
        }
        Ok(())
    }
}
