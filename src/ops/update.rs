//! Update: what may be changed of a workspace without touching its container.

use super::{OpError, OpResult, Ops, create::check_image, pause::below_paused};
use crate::{
    domain::{ids::WorkspaceId, status::Status, workspace::Workspace},
    store::{PatchResult, WorkspacePatch},
};

/// What an update asks for to take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Its process has to be started anew.
    pub restart: bool,
    /// Its container has to be made anew.
    pub recreate: bool,
}

impl Ops {
    /// Changes what a person may change, all of it or nothing.
    ///
    /// # Errors
    /// When the name is taken, or the new parent is missing or below it.
    pub async fn update(&self, id: WorkspaceId, patch: WorkspacePatch) -> OpResult<Needs> {
        if let Some(runtime) = patch.runtime.as_deref() {
            self.0.runtime(runtime)?;
        }
        let name = patch.name.clone();
        let before = self.0.row(id).await?;
        if let Some(spec) = patch.spec.as_ref().filter(|spec| spec.image != before.spec.image) {
            check_image(&spec.image)?;
        }
        match self.0.store.patch_workspace(id, patch, self.0.clock.now()).await? {
            PatchResult::Patched(row) => Ok(self.needs(&row)),
            PatchResult::NameTaken => Err(OpError::NameTaken(name.unwrap_or(before.name))),
            PatchResult::ParentMissing => {
                Err(OpError::Unprocessable("the new parent is not there, or was removed".into()))
            }
            PatchResult::Cycle => Err(OpError::Unprocessable(
                "the new parent is the workspace itself, or below it: that would make a cycle".into(),
            )),
            PatchResult::ParentPaused(parent) => Err(below_paused(&parent)),
            PatchResult::NotThere => Err(OpError::NotFound("workspace not found".into())),
        }
    }

    fn needs(&self, row: &Workspace) -> Needs {
        let up = !matches!(row.status, Status::Removed | Status::AwaitingAgent) && row.container.is_some();
        let recreate = up && self.drifted(row);
        // A kept container keeps its environment, its parent's id too: a restart alone changes nothing of it.
        Needs { restart: recreate, recreate }
    }
}
