//! `hibernate_idle`: hibernates workspaces that allow it and are idle.
//!
//! A heartbeat alone does not count as activity. A proxied request, an open command or shell, and a connection to the
//! published port prevent hibernation. Connections to the port do not pass through ostler: this pass reads them once a
//! minute from the kernel's tables, which keep closed connections for one more minute. If the tables cannot be read,
//! the workspace is not hibernated.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;

use crate::{
    domain::{
        action::Action, duration::words, ids::WorkspaceId, liveness::Lasted, plan::Plan, sweep_row::IdleRow,
        time::Timestamp,
    },
    sweep::{
        context::{Snapshot, Sweeper},
        elapsed::shortest,
        error::SweepError,
        pass::{Pass, Requirement},
    },
};

/// See the module documentation.
pub(super) struct HibernateIdle;

#[async_trait]
impl Pass for HibernateIdle {
    fn name(&self) -> &'static str {
        "hibernate_idle"
    }

    fn summary(&self) -> &'static str {
        "Hibernates idle workspaces that have a hibernation policy"
    }

    fn period(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn requires(&self) -> Requirement {
        Requirement::Store
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let unseen = sweeper.ops.note_connections(sweeper.store.hibernation_candidates().await?).await;
        let mut rows = sweeper.store.idle_rows(snapshot.asked_at()).await?;
        let (blind, seen): (Vec<_>, Vec<_>) = rows.drain(..).partition(|idle| unseen.contains(&idle.row.id));
        let rows = seen;
        let traffic = sweeper.ops.traffic();
        let in_use = |id| (traffic.open(id), traffic.active_at(id));
        let lasted = |since| sweeper.lasted(since, snapshot);
        let mut plan = hibernate_idle(&rows, &sweeper.ops.busy(), &in_use, &lasted, snapshot.asked_at());
        plan.watching.extend(blind.iter().map(|idle| {
            format!("{}: not hibernated, because connections to its port cannot be observed", idle.row.name)
        }));
        Ok(plan)
    }

    /// Stores the activity since the last run, so that operators see it and the next plan already excludes workspaces
    /// with recent activity.
    async fn housekeep(&self, sweeper: &Sweeper, _snapshot: &Snapshot) -> Result<(), SweepError> {
        let seen = sweeper.ops.traffic().take_fresh();
        if !seen.is_empty() {
            sweeper.store.note_activity_at(seen).await?;
        }
        Ok(())
    }
}

/// `hibernate_idle`: hibernates rows that had no activity for the idle minutes of their policy, and have no request in
/// flight. `in_use` returns the number of requests in flight, and the time of the last activity that is known in
/// memory.
fn hibernate_idle(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::status::Status;
    use crate::sweep::fixtures::{NOW, row, since};

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
}
