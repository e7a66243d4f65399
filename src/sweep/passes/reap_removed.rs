//! `reap_removed`: moves containers and volumes that removed workspaces still own to the trash.
//!
//! A removal normally does this itself. This pass finds the containers and volumes that a removal left: after a failed
//! stop, after a crash, or when a container was started later. The status in the row decides, not the state of the
//! container.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;

use crate::{
    domain::{
        action::{Action, describe_contents},
        ids::WorkspaceId,
        inventory::{Held, Inventory},
        plan::Plan,
        status::Status,
        sweep_row::SweepRow,
        trash::{TrashEntry, TrashReason},
    },
    sweep::{
        context::{Snapshot, Sweeper},
        error::SweepError,
        pass::Pass,
    },
};

/// See the module documentation.
pub(super) struct ReapRemoved;

#[async_trait]
impl Pass for ReapRemoved {
    fn name(&self) -> &'static str {
        "reap_removed"
    }

    fn summary(&self) -> &'static str {
        "Moves containers and volumes of removed workspaces to the trash"
    }

    fn period(&self) -> Duration {
        Duration::from_mins(1)
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let seen = snapshot.seen()?;
        let listed = seen.inventory.workspaces();
        let rows = sweeper.store.sweep_rows(listed.clone()).await?;
        let entries = sweeper.store.relevant_trash(listed).await?;
        let purges = sweeper.store.purges_ordered().await?;
        Ok(reap_removed(&seen.inventory, &rows, &entries, &purges, &sweeper.ops.busy()))
    }
}

/// `reap_removed`: moves containers and volumes that removed workspaces still own to the trash, and finishes
/// interrupted moves and purges.
fn reap_removed(
    inventory: &Inventory,
    rows: &[SweepRow],
    entries: &[TrashEntry],
    purges: &[SweepRow],
    busy: &BTreeSet<WorkspaceId>,
) -> Plan {
    let held = Held::by(entries);
    let mut plan = Plan::default();
    plan.finish_claims(entries, busy, &[TrashReason::Removed]);
    for row in purges.iter().filter(|row| !busy.contains(&row.id)) {
        let evidence =
            format!("removed at {} with `--purge`; the deletion is not finished", row.status_since);
        plan.act(Action::Purge { workspace: row.id }, &row.name, evidence);
    }
    for row in rows.iter().filter(|row| row.status == Status::Removed && !busy.contains(&row.id)) {
        for contents in inventory.loose(row.id, &held) {
            let evidence = format!(
                "the workspace was removed at {}; it still owns {}",
                row.status_since,
                describe_contents(&contents)
            );
            plan.act(Action::TrashRemoved { workspace: row.id, contents }, &row.name, evidence);
        }
    }
    plan
}
