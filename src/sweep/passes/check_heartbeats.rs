//! `check_heartbeats`: handles workspaces with missing heartbeats.
//!
//! Missing heartbeats do not prove a failure: the container may run well. So the workspace is marked degraded first,
//! and restarted only later, within its restart budget. An external workspace gets the status `awaiting_agent`.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;

use crate::{
    domain::{
        action::Action,
        duration::words,
        ids::WorkspaceId,
        liveness::{Lasted, RESTART_SILENT_AFTER, SILENT_AFTER},
        plan::Plan,
        runtime::Readiness,
        status::Status,
        sweep_row::QuietRow,
        time::Timestamp,
        workspace::Kind,
    },
    sweep::{
        context::{Snapshot, Sweeper},
        error::SweepError,
        pass::{Pass, Requirement},
    },
};

/// See the module documentation.
pub(super) struct CheckHeartbeats;

#[async_trait]
impl Pass for CheckHeartbeats {
    fn name(&self) -> &'static str {
        "check_heartbeats"
    }

    fn summary(&self) -> &'static str {
        "Degrades containers that miss heartbeats and restarts them later; external agents become awaiting_agent"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn requires(&self) -> Requirement {
        Requirement::Store
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let now = snapshot.asked_at();
        let rows = sweeper.store.quiet_rows(now - SILENT_AFTER, now).await?;
        let readiness = |runtime: &str| sweeper.readiness(runtime);
        let lasted = |since| sweeper.lasted(since, snapshot);
        Ok(check_heartbeats(&rows, &sweeper.ops.busy(), &readiness, &lasted, snapshot.asked_at()))
    }
}

/// `check_heartbeats`: handles workspaces without a heartbeat for `SILENT_AFTER`. External ones become
/// `awaiting_agent`. Those with a container become `degraded`, and are restarted if no heartbeat arrives for another
/// `RESTART_SILENT_AFTER`.
fn check_heartbeats(
    rows: &[QuietRow],
    busy: &BTreeSet<WorkspaceId>,
    readiness: &dyn Fn(&str) -> Readiness,
    lasted: Lasted<'_>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    for quiet in rows.iter().filter(|quiet| !busy.contains(&quiet.row.id)) {
        let row = &quiet.row;
        let speaks = quiet.kind == Kind::External || readiness(&row.runtime) == Readiness::Heartbeat;
        let silent_for = lasted(quiet.heartbeat_at.unwrap_or(row.status_since));
        if !speaks || silent_for < SILENT_AFTER {
            continue;
        }
        let evidence = match quiet.heartbeat_at {
            Some(at) => format!("no heartbeat for {} (the last one at {at})", words(silent_for)),
            None => format!("no heartbeat for {}, and none before that", words(silent_for)),
        };
        let heartbeat_before = now - SILENT_AFTER;
        let external = quiet.kind == Kind::External;
        match row.status {
            Status::Online => {
                let (workspace, incarnation) = (row.id, row.incarnation);
                let action = Action::MarkSilent { workspace, incarnation, heartbeat_before, external };
                plan.act(action, &row.name, evidence);
            }
            Status::Degraded if external => {
                let (workspace, incarnation) = (row.id, row.incarnation);
                let action = Action::MarkSilent { workspace, incarnation, heartbeat_before, external };
                plan.act(action, &row.name, evidence);
            }
            Status::Degraded if silent_for >= SILENT_AFTER + RESTART_SILENT_AFTER => {
                plan.act(
                    Action::RestartDegraded { workspace: row.id, heartbeat_before },
                    &row.name,
                    evidence,
                );
            }
            Status::Degraded => plan.watching.push(format!("{}: {evidence}", row.name)),
            Status::Provisioning
            | Status::Offline
            | Status::Failed(_)
            | Status::Paused
            | Status::Hibernating
            | Status::Hibernated
            | Status::AwaitingAgent
            | Status::Removed => {}
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::{super::flag_wedged::flag_wedged, *};
    use crate::sweep::fixtures::{NOW, heartbeat, quiet, since};

    fn silent(quiet: QuietRow, lasted: Lasted<'_>) -> Vec<Action> {
        let plan = check_heartbeats(&[quiet], &BTreeSet::new(), &heartbeat, lasted, NOW);
        plan.actions.into_iter().map(|planned| planned.action).collect()
    }

    #[test]
    fn missed_heartbeats_degrade_and_then_restart_a_container() {
        let short = Duration::from_secs(179);
        assert_eq!(silent(quiet(Status::Online, short), &since), []);
        assert!(matches!(
            silent(quiet(Status::Online, SILENT_AFTER), &since)[..],
            [Action::MarkSilent { external: false, .. }]
        ));
        assert_eq!(silent(quiet(Status::Degraded, RESTART_SILENT_AFTER), &since), []);
        let long = SILENT_AFTER + RESTART_SILENT_AFTER;
        assert!(matches!(
            silent(quiet(Status::Degraded, long), &since)[..],
            [Action::RestartDegraded { .. }]
        ));
        let external = QuietRow { kind: Kind::External, ..quiet(Status::Degraded, SILENT_AFTER) };
        assert!(matches!(silent(external, &since)[..], [Action::MarkSilent { external: true, .. }]));
    }

    #[test]
    fn missed_heartbeats_count_only_within_the_liveness_window() {
        let long = Duration::from_hours(8);
        assert_eq!(silent(quiet(Status::Online, long), &|_| Duration::from_secs(179)), []);
        let plan = flag_wedged(
            &[QuietRow { active_tasks: 1, ..quiet(Status::Online, long) }],
            &BTreeSet::new(),
            &|_| None,
            &|_| Duration::from_secs(299),
            NOW,
        );
        assert_eq!(plan.actions, []);
    }

    #[test]
    fn heartbeat_check_skips_runtimes_without_heartbeats() {
        let rows = [quiet(Status::Online, Duration::from_hours(1))];
        let plan = check_heartbeats(&rows, &BTreeSet::new(), &|_| Readiness::Container, &since, NOW);
        assert_eq!(plan, Plan::default());
    }
}
