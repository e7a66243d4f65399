//! `check_containers`: updates rows whose container has exited or become ready without an order from ostler.
//!
//! A status changes only after two observations: this listing, and an inspection by the actor of the workspace. If the
//! engine does not answer, no status changes.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;

use crate::{
    domain::{
        action::Action, ids::WorkspaceId, inventory::Inventory, liveness::READY_AFTER,
        observed::ContainerState, plan::Plan, presence::Presence, runtime::Readiness, status::Status,
        sweep_row::SweepRow, time::Timestamp,
    },
    sweep::{
        context::{Snapshot, Sweeper},
        error::SweepError,
        pass::Pass,
    },
};

/// See the module documentation.
pub(super) struct CheckContainers {
    /// Time between scheduled runs. Events trigger a check earlier; the scheduled runs find containers whose events
    /// were lost.
    pub(super) period: Duration,
}

#[async_trait]
impl Pass for CheckContainers {
    fn name(&self) -> &'static str {
        "check_containers"
    }

    fn summary(&self) -> &'static str {
        "Marks workspaces offline when their container has exited, and online when it is ready"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let seen = snapshot.seen()?;
        let mut rows = sweeper.store.up_rows().await?;
        // Only starts that this process began. `settle` repeats all others, because this process has not verified that
        // their containers hold the right token.
        let starting = sweeper.store.provisioning_rows().await?;
        rows.extend(starting.into_iter().filter(|row| sweeper.ops.has_begun(row.id, row.incarnation)));
        let readiness = |runtime: &str| sweeper.readiness(runtime);
        let busy = sweeper.ops.busy();
        let mut plan =
            check_containers(&seen.inventory, &rows, &seen.presence, &busy, &readiness, snapshot.asked_at());
        plan.parents_first(&|workspace| sweeper.parent(workspace));
        Ok(plan)
    }
}

/// Delay between the first listing in which a container does not run and the second listing, which confirms it.
const SECOND_LISTING_AFTER: Duration = Duration::from_millis(250);

/// If the start time of a container is further in the future than this, the wall clock was set back since.
const SET_BACK: Duration = Duration::from_mins(1);

/// `check_containers`: marks rows offline whose container did not run in two consecutive listings. Marks offline or
/// provisioning rows online if their container has run for [`READY_AFTER`] and their readiness is `container`. The
/// caller must pass provisioning rows only if this process began their start.
fn check_containers(
    inventory: &Inventory,
    rows: &[SweepRow],
    presence: &Presence,
    busy: &BTreeSet<WorkspaceId>,
    readiness: &dyn Fn(&str) -> Readiness,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    for row in rows.iter().filter(|row| !busy.contains(&row.id)) {
        let container = row.container.as_ref().and_then(|id| inventory.container(row.id, id));
        let running = container.filter(|container| container.state.may_run());
        match (row.status, running) {
            (Status::Online | Status::Degraded | Status::Provisioning, None)
                if presence.not_running(row.id) >= 2 =>
            {
                let evidence = match container {
                    Some(ended) => format!(
                        "its container has exited{}",
                        ended.exit_code.map(|code| format!(" (exit code {code})")).unwrap_or_default()
                    ),
                    None => "its container is gone".into(),
                };
                let action = Action::MarkOffline {
                    workspace: row.id,
                    incarnation: row.incarnation,
                    container: row.container.clone(),
                };
                plan.act(action, &row.name, evidence);
            }
            (Status::Online | Status::Degraded | Status::Provisioning, None) => {
                plan.watching.push(format!("{}: its container does not run; checking once more", row.name));
                plan.run_again_at(now + SECOND_LISTING_AFTER);
            }
            (_, Some(container)) if container.state == ContainerState::Paused => {
                plan.watching.push(format!(
                    "{}: its container was paused by hand; `podman unpause {}` resumes it",
                    row.name,
                    container.id.short()
                ));
            }
            // A container that is stopping or in an unknown state counts neither as exited nor as ready, so only
            // `Running` is accepted here.
            (Status::Offline | Status::Provisioning, Some(container))
                if readiness(&row.runtime) == Readiness::Container
                    && container.state == ContainerState::Running
                    && container
                        .started_at
                        .is_some_and(|at| now.since(at) >= READY_AFTER || at.since(now) > SET_BACK) =>
            {
                let action = Action::MarkReady {
                    workspace: row.id,
                    incarnation: row.incarnation,
                    container: container.id.clone(),
                };
                plan.act(action, &row.name, "its container runs");
            }
            (Status::Offline | Status::Provisioning, Some(container))
                if readiness(&row.runtime) == Readiness::Container
                    && container.state == ContainerState::Running =>
            {
                plan.watching.push(format!("{}: its container has just been started", row.name));
            }
            _ => {}
        }
    }
    plan
}
