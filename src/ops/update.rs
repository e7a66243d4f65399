//! Update: what may be changed of a workspace without touching its container.

use super::{OpError, OpResult, Ops, pause::below_paused};
use crate::{
    domain::{ids::WorkspaceId, spec::Unfit, status::Status, workspace::Workspace},
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
    /// When the name is taken, the new parent is missing or below it, or no container could be made like that.
    pub async fn update(&self, id: WorkspaceId, mut patch: WorkspacePatch) -> OpResult<Needs> {
        if let Some(runtime) = patch.runtime.as_deref() {
            self.0.runtime(runtime)?;
        }
        let name = patch.name.clone();
        let before = self.0.row(id).await?;
        patch.spec.check()?;
        if let Some(command) = patch.spec.command.as_mut().filter(|command| command.is_empty()) {
            // As at create: none is the runtime's, and only then the image's.
            let runtime = patch.runtime.as_deref().unwrap_or(&before.runtime);
            if let Ok(runtime) = self.0.runtime(runtime) {
                command.clone_from(&runtime.command);
            }
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
            PatchResult::Unfit(unfit @ Unfit::Sandbox) => Err(OpError::Invalid(unfit.to_string())),
            PatchResult::Unfit(unfit) => Err(OpError::Conflict(unfit.to_string())),
            PatchResult::NotThere => Err(OpError::NotFound("workspace not found".into())),
        }
    }

    fn needs(&self, row: &Workspace) -> Needs {
        let up = !matches!(row.status, Status::Removed | Status::AwaitingAgent) && row.container.is_some();
        let recreate = up && self.drifted(row);
        // A kept container keeps its environment, its parent's id too: a restart alone changes nothing of it.
        Needs { restart: recreate || (up && row.config_pending), recreate }
    }
}
