//! `settle`: makes the containers in the engine match the rows.
//!
//! Each operation stores its goal in the row before it changes the engine. After a crash, a failed stop or a manual
//! change in the engine, row and container can therefore differ. This pass stops containers that must not run, moves
//! second containers of a workspace to the trash, repeats interrupted starts, and finishes interrupted restores and
//! hibernations.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;

use crate::{
    domain::{
        action::Action,
        ids::WorkspaceId,
        inventory::{Held, Inventory},
        observed::{ContainerState, ObservedContainer},
        plan::Plan,
        status::Status,
        sweep_row::SweepRow,
        trash::{NamedContainer, TrashEntry, TrashReason, TrashState},
    },
    sweep::{
        context::{Snapshot, Sweeper},
        error::SweepError,
        pass::Pass,
    },
    testing::mutation::{Mutation, is},
};

/// See the module documentation.
pub(super) struct Settle;

#[async_trait]
impl Pass for Settle {
    fn name(&self) -> &'static str {
        "settle"
    }

    fn summary(&self) -> &'static str {
        "Stops containers that must not run, and finishes interrupted operations"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let seen = snapshot.seen()?;
        let listed = seen.inventory.workspaces();
        let rows = sweeper.store.sweep_rows(listed).await?;
        // Read before the provisioning rows: an order that ends between the two reads has changed its row before the
        // second one.
        let busy = sweeper.ops.busy();
        let mut interrupted = sweeper.store.provisioning_rows().await?;
        interrupted.retain(|row| !sweeper.ops.has_begun(row.id, row.incarnation));
        // Includes workspaces whose listed containers have regular names: a user may have given a container in the
        // trash its old name.
        let entries = sweeper.store.relevant_trash(seen.inventory.with_container()).await?;
        let hibernating = sweeper.store.hibernating_rows().await?;
        let input = SettleInput {
            rows: &rows,
            interrupted: &interrupted,
            hibernating: &hibernating,
            entries: &entries,
            busy: &busy,
        };
        let mut plan = settle(&seen.inventory, &input);
        // After a crash of the host, the plan may contain starts of many workspaces: parents start before their
        // descendants.
        plan.parents_first(&|workspace| sweeper.parent(workspace));
        Ok(plan)
    }
}

/// Input of `settle` besides the listing.
#[derive(Clone, Copy, Debug)]
struct SettleInput<'a> {
    /// Rows of the workspaces in the listing.
    rows: &'a [SweepRow],
    /// Provisioning rows whose start this process did not begin.
    interrupted: &'a [SweepRow],
    /// Rows in status `hibernating`.
    hibernating: &'a [SweepRow],
    /// Trash entries that are being moved in or restored, and those of workspaces that have a container in the listing.
    entries: &'a [TrashEntry],
    /// Workspaces with an operation in progress. They are skipped.
    busy: &'a BTreeSet<WorkspaceId>,
}

/// `settle`: makes the engine match the rows, and completes operations that a crash interrupted.
fn settle(inventory: &Inventory, input: &SettleInput<'_>) -> Plan {
    let SettleInput { rows, interrupted, hibernating, entries, busy } = *input;
    let mut plan = Plan::default();
    let idle = |id: &WorkspaceId| !busy.contains(id);
    plan.finish_claims(entries, busy, &[TrashReason::Stray, TrashReason::Replaced]);
    for entry in entries.iter().filter(|entry| idle(&entry.workspace) && entry.state == TrashState::Restoring)
    {
        plan.act(
            Action::FinishRestore { workspace: entry.workspace, entry: entry.id },
            &entry.workspace_name,
            "its restore from the trash is not finished",
        );
    }
    for entry in entries.iter().filter(|entry| idle(&entry.workspace) && entry.state == TrashState::Kept) {
        let Some(kept) = &entry.contents.container else { continue };
        let is_it = |container: &ObservedContainer| container.id == kept.id;
        let trashed = inventory.trashed.get(&entry.workspace).into_iter().flatten();
        let own = inventory.containers.get(&entry.workspace).into_iter().flatten();
        // True only if a row shows that the workspace does not use this container. If there is no row, the registry may
        // have been restored from a backup that is older than a restore of this container from the trash.
        let is_elsewhere = rows.iter().any(|row| {
            row.id == entry.workspace
                && (row.status == Status::Removed || row.container.as_ref() != Some(&kept.id))
        });
        let evidence = if trashed.map(|(_, container)| container).any(|c| is_it(c) && c.state.may_run()) {
            "its container is in the trash, but runs"
        } else if is_elsewhere && own.map(|(_, container)| container).any(is_it) {
            // A restore requested this rename and gave up waiting for it, and the rename took effect later.
            "its container is in the trash, but does not have its trash name"
        } else {
            continue;
        };
        let action = Action::FinishTrash { workspace: entry.workspace, entry: entry.id };
        plan.act(action, &entry.workspace_name, evidence);
    }
    let interrupted = interrupted.iter().filter(|_| !is(Mutation::LeaveInterrupted));
    for row in interrupted.filter(|row| idle(&row.id)) {
        let evidence = format!("provisioning since {}, and no start is in progress", row.status_since);
        plan.act(Action::StartAgain { workspace: row.id }, &row.name, evidence);
    }
    for row in hibernating.iter().filter(|row| idle(&row.id)) {
        let evidence = format!("hibernating since {}, and no stop is in progress", row.status_since);
        plan.act(Action::FinishHibernation { workspace: row.id }, &row.name, evidence);
    }
    let held = Held::by(entries);
    for row in rows.iter().filter(|row| row.status != Status::Removed && idle(&row.id)) {
        let own = inventory.containers.get(&row.id).into_iter().flatten().map(|(_, container)| container);
        // Also containers that have a trash name but no entry: the entry was dropped while the engine did not list the
        // container.
        let trashed = inventory.trashed.get(&row.id).into_iter().flatten().map(|(_, container)| container);
        let trashed = trashed.filter(|container| row.container.as_ref() != Some(&container.id));
        for container in own.chain(trashed) {
            if row.container.as_ref() == Some(&container.id) {
                let stops = row.status.forbids_running() && row.status != Status::Hibernating;
                if stops && container.state.may_run() {
                    let evidence = format!("it runs, but the workspace is {}", row.status);
                    let action = Action::StopContainer { workspace: row.id, container: container.id.clone() };
                    plan.act(action, &row.name, evidence);
                }
            } else if !held.contains(container.id.as_str()) {
                let evidence = match &row.container {
                    Some(own) => format!("the workspace's container is {}", own.short()),
                    None => "the workspace has no container in the registry".into(),
                };
                let never_ran = container.state == ContainerState::Created && container.started_at.is_none();
                let container = NamedContainer { id: container.id.clone(), name: container.name.clone() };
                plan.act(Action::TrashStray { workspace: row.id, container, never_ran }, &row.name, evidence);
            }
        }
    }
    plan
}
