//! `flag_wedged`: flags workspaces that are stalled: busy without progress.
//!
//! ostler cannot distinguish a stalled agent from an agent that works on a long task. This pass therefore only flags
//! the workspace. It restarts the workspace only if that workspace's `restart_when_wedged` is set.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;

use crate::{
    domain::{
        action::Action,
        duration::words,
        ids::WorkspaceId,
        liveness::{Lasted, WEDGED_AFTER},
        plan::Plan,
        status::Status,
        sweep_row::QuietRow,
        time::Timestamp,
        workspace::Kind,
    },
    sweep::{
        context::{Snapshot, Sweeper},
        elapsed::shortest,
        error::SweepError,
        pass::{Pass, Requirement},
    },
};

/// See the module documentation.
pub(super) struct FlagWedged;

#[async_trait]
impl Pass for FlagWedged {
    fn name(&self) -> &'static str {
        "flag_wedged"
    }

    fn summary(&self) -> &'static str {
        "Flags agents that are busy without heartbeat, message or progress"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn requires(&self) -> Requirement {
        Requirement::Store
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let now = snapshot.asked_at();
        let rows = sweeper.store.quiet_rows(now - WEDGED_AFTER, now).await?;
        let sent_at = |id| sweeper.ops.traffic().sent_at(id);
        let lasted = |since| sweeper.lasted(since, snapshot);
        Ok(flag_wedged(&rows, &sweeper.ops.busy(), &sent_at, &lasted, snapshot.asked_at()))
    }
}

/// `flag_wedged`: flags agents with active tasks that have sent no heartbeat or message and made no progress for
/// `WEDGED_AFTER`. A flagged agent is restarted only if `restart_when_wedged` is set for its workspace.
pub(super) fn flag_wedged(
    rows: &[QuietRow],
    busy: &BTreeSet<WorkspaceId>,
    sent_at: &dyn Fn(WorkspaceId) -> Option<Timestamp>,
    lasted: Lasted<'_>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let at_work = |quiet: &&QuietRow| quiet.active_tasks > 0 && !busy.contains(&quiet.row.id);
    for quiet in rows.iter().filter(at_work) {
        let row = &quiet.row;
        let quiet_for = shortest([quiet.heartbeat_at, quiet.active_at, sent_at(row.id)], row, lasted);
        if quiet_for < WEDGED_AFTER {
            continue;
        }
        let quiet_since = now - WEDGED_AFTER;
        let evidence = format!(
            "active tasks: {}, and no heartbeat, message or progress for {}",
            quiet.active_tasks,
            words(quiet_for)
        );
        if quiet.wedged_since.is_none() {
            plan.act(Action::FlagWedged { workspace: row.id, quiet_since }, &row.name, evidence);
        } else if quiet.restart_when_wedged && row.status == Status::Degraded && quiet.kind == Kind::Container
        {
            let action = Action::RestartDegraded { workspace: row.id, heartbeat_before: quiet_since };
            plan.act(action, &row.name, evidence);
        } else {
            plan.watching.push(format!("{}: {evidence}", row.name));
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::fixtures::{NOW, quiet, since};

    #[test]
    fn stalled_workspace_is_flagged_once_and_restarted_if_allowed() {
        let flag = |rows: &[QuietRow], sent: Option<Timestamp>| {
            let plan = flag_wedged(rows, &BTreeSet::new(), &|_| sent, &since, NOW);
            plan.actions.into_iter().map(|planned| planned.action).collect::<Vec<_>>()
        };
        let busy = QuietRow { active_tasks: 2, ..quiet(Status::Degraded, WEDGED_AFTER) };
        assert!(matches!(flag(std::slice::from_ref(&busy), None)[..], [Action::FlagWedged { .. }]));
        assert_eq!(flag(std::slice::from_ref(&busy), Some(NOW)), [], "the agent has sent a message");
        let idle = QuietRow { active_tasks: 0, ..busy.clone() };
        assert_eq!(flag(&[idle], None), []);
        let flagged = QuietRow { wedged_since: Some(NOW), ..busy };
        assert_eq!(flag(std::slice::from_ref(&flagged), None), []);
        let allowed = QuietRow { restart_when_wedged: true, ..flagged };
        assert!(matches!(flag(&[allowed], None)[..], [Action::RestartDegraded { .. }]));
    }
}
