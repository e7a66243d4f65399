//! Undelete: the rows become paused, and what they owned is restored.

use super::{Affected, Applied, OpError, OpResult, Ops, Order, Ticket, not_found};
use crate::{
    domain::{
        ids::WorkspaceId,
        naming::WorkspaceName,
        operation::{Requester, UndeleteTarget},
        trash::TrashState,
    },
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
        self.accept_undelete(id, name, only, Requester::Operator).await?.ended().await
    }

    pub(super) async fn accept_undelete(
        &self,
        id: WorkspaceId,
        name: Option<WorkspaceName>,
        only: bool,
        by: Requester,
    ) -> OpResult<Ticket> {
        let row = self.0.row(id).await?;
        let wanted = name.clone().unwrap_or_else(|| row.name.clone());
        let (store, now, named) = (self.0.store.clone(), self.0.clock.now(), wanted.clone());
        let describe = move |along, under: &UndeletedUnder| targets(id, &named, along, under);
        let transaction =
            async move { store.accept_undelete(id, (name, only), describe, Some(by), now).await };
        let (result, ticket) = self.accepting(transaction).await?;
        match result {
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
            UndeleteResult::Back { .. } => ticket.ok_or_else(not_found),
        }
    }

    pub(super) async fn restore_contents(&self, id: WorkspaceId, summary: &str) -> OpResult<Applied> {
        for entry in self.0.store.trash_of(vec![id]).await? {
            if entry.state == TrashState::Restoring {
                self.order(id, Order::Restore(entry.id)).await?;
            }
        }
        // If the workspace was undeleted before the removal stopped its container, the container still runs. Without
        // this order it would run until the next sweep.
        if self.0.row(id).await?.container.is_none() {
            return Ok(Applied::Done(summary.to_owned()));
        }
        match self.order(id, Order::StopUndeleted).await {
            Err(OpError::Engine(error)) if !error.gave_no_answer() => Err(OpError::Conflict(format!(
                "it is undeleted and paused, but its container could not be stopped ({error}): ostler keeps trying"
            ))),
            Err(error) => Err(error),
            Ok(_) => Ok(Applied::Done(summary.to_owned())),
        }
    }
}

/// The workspaces of an undelete, with the texts for the caller. The workspace itself comes first.
fn targets(
    id: WorkspaceId,
    name: &WorkspaceName,
    along: Vec<UndeletedAlong>,
    under: &UndeletedUnder,
) -> Vec<UndeleteTarget> {
    let note = format!("undeleted and paused: `ostler start` starts it{}", described(name, under));
    let own = UndeleteTarget { workspace: id, note, skipped: false };
    let along = along.into_iter().map(|UndeletedAlong { id, name: of, left }| UndeleteTarget {
        workspace: id,
        skipped: left.is_some(),
        note: match left {
            Some(left) => skip_reason(id, &of, &left),
            None => format!("undeleted with {name}, and paused"),
        },
    });
    std::iter::once(own).chain(along).collect()
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
