//! The actions that a pass plans, computed before anything is changed.
//!
//! A plan is a list of [`Planned`] actions, each with the evidence for it. The code that applies a plan makes no
//! further decisions; it only checks that the evidence still holds. A dry run therefore needs no code of its own, and
//! the breaker can hold a plan until an operator has seen and approved exactly this plan.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        access::STEPS_MAX,
        action::Action,
        ids::WorkspaceId,
        time::Timestamp,
        trash::{TrashEntry, TrashReason, TrashState},
    },
    testing::mutation::{Mutation, is},
};

/// An action and the evidence for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// The change to apply.
    pub action: Action,
    /// Name of the workspace: from the row, else from the labels, else its id.
    pub name: String,
    /// The reason, in terms that a user can check.
    pub evidence: String,
}

/// The result of planning: actions, and conditions that may lead to an action later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Actions to apply now.
    pub actions: Vec<Planned>,
    /// Conditions that lead to an action if they last, one line each.
    pub watching: Vec<String>,
    /// Time of an extra run before the next regular one.
    pub again_at: Option<Timestamp>,
}

impl Plan {
    /// Plans to finish moves to the trash that a failed stop or a crash interrupted. Each pass handles only entries
    /// with its own `reasons`.
    pub(crate) fn finish_claims(
        &mut self,
        entries: &[TrashEntry],
        busy: &BTreeSet<WorkspaceId>,
        reasons: &[TrashReason],
    ) {
        let open = entries.iter().filter(|entry| {
            entry.state == TrashState::Claimed
                && !is(Mutation::LeaveClaimsOpen)
                && reasons.contains(&entry.reason)
                && !busy.contains(&entry.workspace)
        });
        for entry in open {
            let action = Action::FinishTrash { workspace: entry.workspace, entry: entry.id };
            let evidence = format!("marked for the trash at {}; the move is not finished", entry.created_at);
            self.act(action, &entry.workspace_name, evidence);
        }
    }

    /// Sorts actions on parents before actions on their descendants. The order is otherwise kept.
    pub fn parents_first(&mut self, parent: &dyn Fn(WorkspaceId) -> Option<WorkspaceId>) {
        self.actions.sort_by_cached_key(|planned| depth(planned.action.workspace(), parent));
    }

    /// Requests another run at `at`, or keeps the requested time if that is earlier.
    pub fn run_again_at(&mut self, at: Timestamp) {
        self.again_at = Some(self.again_at.map_or(at, |earlier| earlier.min(at)));
    }

    pub(crate) fn act(&mut self, action: Action, name: impl Into<String>, evidence: impl Into<String>) {
        self.actions.push(Planned { action, name: name.into(), evidence: evidence.into() });
    }
}

/// Number of ancestors. Limited to `STEPS_MAX`, in case of a cycle.
pub(crate) fn depth(workspace: WorkspaceId, parent: &dyn Fn(WorkspaceId) -> Option<WorkspaceId>) -> usize {
    std::iter::successors(parent(workspace), |above| parent(*above)).take(STEPS_MAX).count()
}
