//! `restart_due`: restarts containers after an unexpected exit, when their back-off has passed.
//!
//! The due time was computed and stored when the exit was recorded. The order that stored it also requested a run of
//! this pass at that time (`wake.rs`). In addition, every run of the pass requests another run at the next due time in
//! the store, so restarts are on time even if the daemon was restarted meanwhile. Parents are started before their
//! descendants.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;

use crate::{
    domain::{action::Action, ids::WorkspaceId, plan::Plan, sweep_row::RestartsDue, time::Timestamp},
    sweep::{
        context::{Snapshot, Sweeper},
        error::SweepError,
        pass::{Pass, Requirement},
    },
};

/// See the module documentation.
pub(super) struct RestartDue;

#[async_trait]
impl Pass for RestartDue {
    fn name(&self) -> &'static str {
        "restart_due"
    }

    fn summary(&self) -> &'static str {
        "Restarts containers that exited unexpectedly, within the restart budget"
    }

    fn period(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn requires(&self) -> Requirement {
        Requirement::Store
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let due = sweeper.store.restarts_due(snapshot.asked_at()).await?;
        let parent = |workspace| sweeper.parent(workspace);
        Ok(restart_due(&due, &sweeper.ops.busy(), &parent, snapshot.asked_at()))
    }
}

/// Maximum time that a restart waits for the restart of the workspace's parent. The parent's restart may take very
/// long, for example while an image is pulled or the engine does not answer.
const WAIT_FOR_PARENT: Duration = Duration::from_mins(5);

/// Interval at which a restart that waits for its parent is checked again if no wake-up arrives.
const PARENT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// `restart_due`: restarts offline workspaces whose backoff has passed, parents first. A restart waits for at most
/// `WAIT_FOR_PARENT` if the restart of the parent is due too, or if the parent has an operation in progress.
fn restart_due(
    due: &RestartsDue,
    busy: &BTreeSet<WorkspaceId>,
    parent: &dyn Fn(WorkspaceId) -> Option<WorkspaceId>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan { again_at: due.next_at, ..Plan::default() };
    let restarting: BTreeSet<_> = due.rows.iter().map(|(row, _)| row.id).collect();
    for (row, due_at) in due.rows.iter().filter(|(row, _)| !busy.contains(&row.id)) {
        let waits_for = parent(row.id)
            .filter(|above| restarting.contains(above) || busy.contains(above))
            .filter(|_| now.since(*due_at) < WAIT_FOR_PARENT && !due_at.is_ahead_of(now));
        if waits_for.is_some() {
            plan.watching.push(format!("{}: waiting for the restart of its parent", row.name));
            plan.run_again_at(now + PARENT_CHECK_INTERVAL);
            continue;
        }
        let evidence = format!("offline since {}, and its backoff has passed", row.status_since);
        plan.act(Action::RestartDue { workspace: row.id }, &row.name, evidence);
    }
    plan.parents_first(parent);
    plan
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::{status::Status, sweep_row::SweepRow};
    use crate::sweep::fixtures::{NOW, row};

    #[test]
    fn restart_waits_for_the_restart_of_the_parent() {
        let id = |number| WorkspaceId(Uuid::from_u128(number));
        let parent = |of: WorkspaceId| (of.0.as_u128() > 1).then(|| id(of.0.as_u128() - 1));
        let due = |numbers: &[u128], due_at| RestartsDue {
            rows: numbers.iter().map(|n| (SweepRow { id: id(*n), ..row(Status::Offline) }, due_at)).collect(),
            next_at: None,
        };
        let begun = |due: &RestartsDue, busy: &[u128]| {
            let busy = busy.iter().map(|number| id(*number)).collect();
            let plan = restart_due(due, &busy, &parent, NOW);
            let begun = plan.actions.iter().map(|planned| planned.action.workspace().0.as_u128());
            (begun.collect::<Vec<_>>(), plan.again_at.is_some())
        };
        assert_eq!(begun(&due(&[3, 2, 1], NOW), &[]), (vec![1], true), "the root begins first");
        assert_eq!(
            begun(&due(&[3, 2, 1], NOW), &[1]),
            (vec![], true),
            "its child waits while the root is starting"
        );
        assert_eq!(
            begun(&due(&[3, 2], NOW), &[]),
            (vec![2], true),
            "the child begins when the root has started"
        );
        assert_eq!(begun(&due(&[5, 3], NOW), &[]), (vec![3, 5], false), "a running parent delays no restart");
        let long_ago = NOW - WAIT_FOR_PARENT;
        assert_eq!(begun(&due(&[2], long_ago), &[1]), (vec![2], false), "the wait for a parent is limited");
    }
}
