//! Update: changes to a workspace that do not touch its container.

use super::{OpError, OpResult, Ops, pause::below_paused};
use crate::{
    domain::{
        ids::WorkspaceId,
        spec::{Effect, Unfit},
        status::Status,
        workspace::Workspace,
    },
    store::{PatchResult, WorkspacePatch},
};

impl Ops {
    /// Applies a patch completely, or not at all. Returns when the workspace's settings take effect.
    ///
    /// # Errors
    /// If the name is taken, the new parent is missing or below the workspace, or no container could be made with
    /// these settings.
    pub async fn update(&self, id: WorkspaceId, mut patch: WorkspacePatch) -> OpResult<Effect> {
        if let Some(runtime) = patch.spec.runtime.as_deref() {
            self.0.runtime(runtime)?;
        }
        let name = patch.name.clone();
        let before = self.0.row(id).await?;
        patch.spec.check()?;
        if let Some(command) = patch.spec.command.as_mut().filter(|command| command.is_empty()) {
            // As in a create request, an empty command means the runtime's command. If that is empty too, the image's
            // command runs.
            let runtime = patch.spec.runtime.as_deref().unwrap_or(&before.spec.runtime);
            if let Ok(runtime) = self.0.runtime(runtime) {
                command.clone_from(&runtime.command);
            }
        }
        match self.0.store.patch_workspace(id, patch, self.0.clock.now()).await? {
            PatchResult::Patched(row) => Ok(self.outstanding(&row)),
            PatchResult::NameTaken => Err(OpError::NameTaken(name.unwrap_or(before.name))),
            PatchResult::ParentMissing => {
                Err(OpError::Unprocessable("the new parent does not exist, or was removed".into()))
            }
            PatchResult::Cycle => Err(OpError::Unprocessable(
                "the new parent is the workspace itself, or below it: that would create a cycle".into(),
            )),
            PatchResult::ParentPaused(parent) => Err(below_paused(&parent)),
            PatchResult::Unfit(unfit @ Unfit::Sandbox) => Err(OpError::Invalid(unfit.to_string())),
            PatchResult::Unfit(unfit) => Err(OpError::Conflict(unfit.to_string())),
            PatchResult::NotThere => Err(OpError::NotFound("workspace not found".into())),
        }
    }

    /// When all settings of a workspace are in effect. Changes that were made earlier count too, unless a later change
    /// has undone them: the hash of the container shows whether it was created with these settings.
    fn outstanding(&self, row: &Workspace) -> Effect {
        let up = !matches!(row.status, Status::Removed | Status::AwaitingAgent) && row.container.is_some();
        if up && self.drifted(row) {
            // If the container is kept, its environment, including its parent's id, stays the same: a restart does not
            // apply such changes.
            Effect::Recreate
        } else if up && row.config_pending {
            Effect::NextRestart
        } else {
            Effect::AtOnce
        }
    }
}
