//! `empty_trash`: permanently deletes trash entries whose retention has passed.
//!
//! Before a deletion, the entry is claimed and its conditions are checked again. Deletions are never forced: the engine
//! keeps a volume that is mounted. This pass also deletes old rows of removed workspaces that own no container, volume
//! or trash entry any more, so that they do not accumulate.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;

use crate::{
    domain::{
        action::Action,
        ids::WorkspaceId,
        plan::Plan,
        trash::{TrashEntry, TrashState},
    },
    sweep::{
        context::{Snapshot, Sweeper},
        error::SweepError,
        pass::Pass,
    },
};

/// Maximum number of rows that one run reads or deletes.
const BATCH: u32 = 500;

/// See the module documentation.
pub(super) struct EmptyTrash;

#[async_trait]
impl Pass for EmptyTrash {
    fn name(&self) -> &'static str {
        "empty_trash"
    }

    fn summary(&self) -> &'static str {
        "Permanently deletes trash entries past their retention"
    }

    fn period(&self) -> Duration {
        Duration::from_hours(1)
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let due = sweeper.store.trash_due(snapshot.asked_at(), BATCH).await?;
        Ok(empty_trash(&due, &sweeper.ops.busy()))
    }

    /// Uses the snapshot that was planned on. A new listing only moments later would count as the second observation,
    /// which every grace period requires.
    async fn housekeep(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<(), SweepError> {
        let now = snapshot.asked_at();
        let owning = snapshot.seen()?.inventory.workspaces();
        sweeper.ops.forget_networks(&owning.iter().copied().collect()).await?;
        sweeper.store.forget_removed(now - sweeper.limits().removed_retention, owning, BATCH).await?;
        Ok(())
    }
}

/// `empty_trash`: deletes entries whose retention has ended, and finishes deletions that a crash interrupted.
fn empty_trash(due: &[TrashEntry], busy: &BTreeSet<WorkspaceId>) -> Plan {
    let mut plan = Plan::default();
    for entry in due.iter().filter(|entry| !busy.contains(&entry.workspace)) {
        let evidence = match entry.state {
            TrashState::Deleting => "its deletion is not finished".to_owned(),
            TrashState::Claimed | TrashState::Kept | TrashState::Restoring => {
                format!("its retention ended at {}", entry.keep_until)
            }
        };
        let action = Action::DeleteTrash {
            workspace: entry.workspace,
            entry: entry.id,
            ordered: entry.reason.ordered_by_operator() || entry.state == TrashState::Deleting,
        };
        plan.act(action, &entry.workspace_name, evidence);
    }
    plan
}
