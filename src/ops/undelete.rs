//! Undelete: the rows become paused, and what they owned is restored.

use super::{Affected, Applied, OpError, OpResult, Ops, Order};
use crate::{
    domain::{ids::WorkspaceId, naming::WorkspaceName, trash::TrashState},
    store::{UndeleteResult, UndeleteSkip, UndeletedAlong, UndeletedUnder},
};

impl Ops {
    /// Undoes the removal of a workspace and, unless `only` is set, of all workspaces below it that the same removal
    /// included. The result contains the workspace itself first, then the others, parents first.
    ///
    /// # Errors
    /// If it is not removed, its name is taken, or what it owned was permanently deleted.
    pub async fn undelete(
        &self,
        id: WorkspaceId,
        name: Option<WorkspaceName>,
        only: bool,
    ) -> OpResult<Vec<Affected>> {
        let row = self.0.row(id).await?;
        let wanted = name.clone().unwrap_or_else(|| row.name.clone());
        match self.0.store.undelete_workspace(id, name, only, self.0.clock.now()).await? {
            UndeleteResult::NotThere => Err(OpError::Conflict(format!(
                "workspace `{}` is not removed: it is {}",
                row.name, row.status
            ))),
            UndeleteResult::NameTaken => Err(OpError::Conflict(format!(
                "a workspace named `{wanted}` exists: set another name with --name"
            ))),
            UndeleteResult::Deleted => Err(OpError::Conflict(format!(
                "the container and volumes of workspace `{}` are permanently deleted, or this has begun: it cannot be \
                 undeleted",
                row.name
            ))),
            UndeleteResult::Back { along, under, .. } => {
                let summary =
                    format!("undeleted and paused: `ostler start` starts it{}", described(&wanted, &under));
                let mut affected = vec![Affected { id, result: self.restore_contents(id, &summary).await }];
                for UndeletedAlong { id, name, left } in along {
                    let result = match left {
                        Some(left) => Err(OpError::Conflict(skip_reason(id, &name, &left))),
                        None => {
                            self.restore_contents(id, &format!("undeleted with {wanted}, and paused")).await
                        }
                    };
                    affected.push(Affected { id, result });
                }
                Ok(affected)
            }
        }
    }

    async fn restore_contents(&self, id: WorkspaceId, summary: &str) -> OpResult<Applied> {
        for entry in self.0.store.trash_of(vec![id]).await? {
            if entry.state == TrashState::Restoring {
                match self.order(id, Order::Restore(entry.id)).await {
                    // The row is undeleted already, and `settle` finishes the restore.
                    Err(OpError::Engine(error)) if error.gave_no_answer() => {
                        return Ok(Applied::Done(format!(
                            "undeleted and paused; its container and volumes are restored when Podman answers. \
                             Podman does not answer now ({error})"
                        )));
                    }
                    done => drop(done?),
                }
            }
        }
        // If the workspace was undeleted before the removal stopped its container, the container still runs. Without
        // this order it would run until the next sweep.
        if self.0.row(id).await?.container.is_none() {
            return Ok(Applied::Done(summary.to_owned()));
        }
        match self.order(id, Order::StopUndeleted).await {
            Err(OpError::Engine(error)) if error.gave_no_answer() => Ok(Applied::Done(format!(
                "undeleted and paused; its container will be stopped when Podman answers. Podman does not answer now \
                 ({error})"
            ))),
            Err(OpError::Engine(error)) => Err(OpError::Conflict(format!(
                "it is undeleted and paused, but its container could not be stopped ({error}): ostler keeps trying"
            ))),
            Err(error) => Err(error),
            Ok(_) => Ok(Applied::Done(summary.to_owned())),
        }
    }
}

/// Describes the changes in the tree, as the continuation of a sentence; empty if there are none.
pub(super) fn described(name: &WorkspaceName, under: &UndeletedUnder) -> String {
    let listed =
        |names: &[WorkspaceName]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let lost = under.removed_parent.as_ref().map(|parent| {
        format!(
            ". Its parent `{parent}` is removed, so it has no parent now: undeleting `{parent}` moves it back, and \
             `ostler set {name} --parent NAME` moves it elsewhere"
        )
    });
    let returned =
        (!under.returned.is_empty()).then(|| format!(". Moved back below it: {}", listed(&under.returned)));
    let left = under.skipped_roots.first().map(|first| {
        format!(
            ". Not moved back below it, because they are not paused: {}. To move one of them back, run `ostler start \
             {name}`, then `ostler set {first} --parent {name}`",
            listed(&under.skipped_roots)
        )
    });
    [lost, returned, left].into_iter().flatten().collect()
}

fn skip_reason(id: WorkspaceId, name: &WorkspaceName, left: &UndeleteSkip) -> String {
    match left {
        UndeleteSkip::NameTaken => {
            format!("a workspace named `{name}` exists: `ostler undelete {id} --name NEW` undeletes this one")
        }
        UndeleteSkip::Deleted => {
            "the workspace cannot be undeleted: its container and volumes are permanently deleted".to_owned()
        }
        UndeleteSkip::Below(above) => format!("it is undeleted together with its ancestor `{above}`"),
    }
}
