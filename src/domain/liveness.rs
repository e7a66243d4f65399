//! Plans about agents rather than containers: missed heartbeats, slow starts, stalled or idle agents, due restarts.
//!
//! All plans except `restart_due` measure time with `Lasted`, which counts only time in which the daemon could receive
//! heartbeats (`runtime/epoch.rs`). Without this rule, time in which the daemon was down or suspended would count as missed
//! heartbeats.

use std::{collections::BTreeSet, time::Duration};

use super::{
    ids::WorkspaceId,
    plan::{Action, Plan, SweepRow, words},
    runtime::Readiness,
    status::Status,
    time::Timestamp,
    workspace::Kind,
};

/// An agent counts as silent after this time without a heartbeat (design, §3).
pub const SILENT_AFTER: Duration = Duration::from_mins(3);
/// The container of a degraded agent is restarted after `SILENT_AFTER` plus this time without a heartbeat.
pub const RESTART_SILENT_AFTER: Duration = Duration::from_mins(10);
/// A busy agent is flagged after this time without heartbeat, message or progress.
pub const WEDGED_AFTER: Duration = Duration::from_mins(5);

/// Returns the time since a timestamp, counting only time in which the daemon could receive heartbeats.
pub type Lasted<'a> = &'a (dyn Fn(Timestamp) -> Duration + Sync);

/// An online or degraded row whose last heartbeat is not recent, or is far in the future because the clock was set
/// back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuietRow {
    /// The workspace row.
    pub row: SweepRow,
    /// Container or external.
    pub kind: Kind,
    /// Time of its last heartbeat.
    pub heartbeat_at: Option<Timestamp>,
    /// Number of active tasks in its last heartbeat.
    pub active_tasks: u32,
    /// Time of its last activity.
    pub active_at: Option<Timestamp>,
    /// Time at which it was flagged as wedged; `None` if it is not flagged.
    pub wedged_since: Option<Timestamp>,
    /// Whether the operator allows a restart when it is wedged.
    pub restart_when_wedged: bool,
}

/// An online or degraded row with a hibernation policy and without active tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdleRow {
    /// The workspace row.
    pub row: SweepRow,
    /// Minutes of idleness before it hibernates.
    pub idle_minutes: u32,
    /// Time of its last activity.
    pub active_at: Option<Timestamp>,
    /// Start of the current up-period. Idle time before it does not count: a workspace that was just woken must not
    /// hibernate again at once.
    pub online_since: Option<Timestamp>,
}

/// Time since the latest of several events, or since the last status change if there was no event. Measures each time
/// and returns the shortest. Comparing the timestamps would be wrong, because a timestamp that is in the future after
/// the clock was set back would count as the latest.
fn shortest(times: [Option<Timestamp>; 3], row: &SweepRow, lasted: Lasted<'_>) -> Duration {
    times.into_iter().flatten().map(lasted).min().unwrap_or_else(|| lasted(row.status_since))
}

/// `check_heartbeats`: handles workspaces without a heartbeat for `SILENT_AFTER`. External ones become
/// `awaiting_agent`. Those with a container become `degraded`, and are restarted if no heartbeat arrives for another
/// `RESTART_SILENT_AFTER`.
#[must_use]
pub fn check_heartbeats(
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

/// `flag_wedged`: flags agents with active tasks that have sent no heartbeat or message and made no progress for
/// `WEDGED_AFTER`. A flagged agent is restarted only if `restart_when_wedged` is set for its workspace.
#[must_use]
pub fn flag_wedged(
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

/// `hibernate_idle`: hibernates rows that had no activity for the idle minutes of their policy, and have no request in
/// flight. `in_use` returns the number of requests in flight, and the time of the last activity that is known in
/// memory.
#[must_use]
pub fn hibernate_idle(
    rows: &[IdleRow],
    busy: &BTreeSet<WorkspaceId>,
    in_use: &dyn Fn(WorkspaceId) -> (u32, Option<Timestamp>),
    lasted: Lasted<'_>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    for idle in rows.iter().filter(|idle| !busy.contains(&idle.row.id)) {
        let row = &idle.row;
        let limit = Duration::from_secs(u64::from(idle.idle_minutes) * 60);
        let (open, seen_at) = in_use(row.id);
        let idle_for = shortest([idle.active_at, seen_at, idle.online_since], row, lasted);
        if open == 0 && idle_for >= limit {
            let evidence = format!("no activity for {}", words(idle_for));
            let action = Action::Hibernate { workspace: row.id, idle_since: now - limit };
            plan.act(action, &row.name, evidence);
        }
    }
    plan
}

/// `time_out_provisioning`: marks starts as failed if no heartbeat arrived within the limit of their runtime.
/// `begun_at` returns the time at which this process started the container. Work of the daemon before that, such as an
/// image pull, does not count.
#[must_use]
pub fn time_out_provisioning(
    rows: &[SweepRow],
    busy: &BTreeSet<WorkspaceId>,
    limit: &dyn Fn(&str) -> Option<Duration>,
    begun_at: &dyn Fn(&SweepRow) -> Option<Timestamp>,
    lasted: Lasted<'_>,
) -> Plan {
    let mut plan = Plan::default();
    for row in rows.iter().filter(|row| !busy.contains(&row.id)) {
        // Skips runtimes without a limit, and containers that this process did not start: `settle` repeats their
        // starts.
        let (Some(limit), Some(begun_at)) = (limit(&row.runtime), begun_at(row)) else { continue };
        let waited = lasted(begun_at).min(lasted(row.status_since));
        if waited < limit {
            plan.watching.push(format!("{}: started, no heartbeat for {}", row.name, words(waited)));
            continue;
        }
        let action = Action::TimeOutProvisioning {
            workspace: row.id,
            incarnation: row.incarnation,
            since: row.status_since,
            limit_seconds: limit.as_secs(),
        };
        let evidence =
            format!("started, no heartbeat for {}; its runtime allows {}", words(waited), words(limit));
        plan.act(action, &row.name, evidence);
    }
    plan
}

/// The pending restarts in the store, from one query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestartsDue {
    /// Offline rows whose restart is due, with the due time, the earliest first.
    pub rows: Vec<(SweepRow, Timestamp)>,
    /// Due time of the next restart that is not due yet.
    pub next_at: Option<Timestamp>,
}

/// Maximum time that a restart waits for the restart of the workspace's parent. The parent's restart may take very
/// long, for example while an image is pulled or the engine does not answer.
const WAIT_FOR_PARENT: Duration = Duration::from_mins(5);
/// Interval at which a restart that waits for its parent is checked again if no wake-up arrives.
const PARENT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// `restart_due`: restarts offline workspaces whose backoff has passed, parents first. A restart waits for at most
/// `WAIT_FOR_PARENT` if the restart of the parent is due too, or if the parent has an operation in progress.
#[must_use]
pub fn restart_due(
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
    use crate::domain::ids::Incarnation;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn row(status: Status) -> SweepRow {
        SweepRow {
            id: WorkspaceId(Uuid::from_u128(1)),
            name: "one".into(),
            status,
            container: None,
            incarnation: Incarnation(1),
            status_since: NOW - Duration::from_hours(9),
            runtime: "agent".into(),
        }
    }

    fn quiet(status: Status, for_: Duration) -> QuietRow {
        QuietRow {
            row: row(status),
            kind: Kind::Container,
            heartbeat_at: Some(NOW - for_),
            active_tasks: 0,
            active_at: None,
            wedged_since: None,
            restart_when_wedged: false,
        }
    }

    fn since(then: Timestamp) -> Duration {
        NOW.since(then)
    }

    fn heartbeat(_: &str) -> Readiness {
        Readiness::Heartbeat
    }

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

    #[test]
    fn only_idle_workspaces_hibernate() {
        let idle = IdleRow {
            row: row(Status::Online),
            idle_minutes: 10,
            active_at: Some(NOW - Duration::from_mins(10)),
            online_since: None,
        };
        let plan = |idle: &IdleRow, open, seen| {
            let rows = std::slice::from_ref(idle);
            hibernate_idle(rows, &BTreeSet::new(), &|_| (open, seen), &since, NOW).actions.len()
        };
        assert_eq!(plan(&idle, 0, None), 1);
        assert_eq!(plan(&idle, 1, None), 0, "a request is in flight");
        assert_eq!(plan(&idle, 0, Some(NOW - Duration::from_mins(9))), 0, "a message was received");
        let woken = Some(NOW - Duration::from_mins(9));
        assert_eq!(
            plan(&IdleRow { online_since: woken, ..idle.clone() }, 0, None),
            0,
            "the workspace was woken just now"
        );
        assert_eq!(plan(&IdleRow { idle_minutes: 11, ..idle }, 0, None), 0);
    }

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

    #[test]
    fn start_times_out_after_the_limit_of_its_runtime() {
        let row = row(Status::Provisioning);
        let plan = |limit: Option<Duration>, begun: Option<Timestamp>| {
            let rows = std::slice::from_ref(&row);
            time_out_provisioning(rows, &BTreeSet::new(), &|_| limit, &|_| begun, &since).actions.len()
        };
        let (limit, long_ago) = (Duration::from_mins(12), NOW - Duration::from_mins(12));
        assert_eq!(plan(Some(limit), Some(long_ago)), 1);
        assert_eq!(plan(Some(limit), Some(NOW - Duration::from_mins(11))), 0);
        assert_eq!(plan(Some(limit), None), 0, "`settle` repeats an interrupted start");
        assert_eq!(plan(None, Some(long_ago)), 0);
    }
}
