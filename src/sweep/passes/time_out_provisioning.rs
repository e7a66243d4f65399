//! `time_out_provisioning`: marks a start as failed if its first heartbeat did not arrive in time.
//!
//! The container is left running: a heartbeat of the same incarnation still brings the workspace online.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;

use crate::{
    domain::{
        action::Action, duration::words, ids::WorkspaceId, liveness::Lasted, plan::Plan, sweep_row::SweepRow,
        time::Timestamp,
    },
    sweep::{
        context::{Snapshot, Sweeper},
        error::SweepError,
        pass::{Pass, Requirement},
    },
};

/// See the module documentation.
pub(super) struct TimeOutProvisioning;

#[async_trait]
impl Pass for TimeOutProvisioning {
    fn name(&self) -> &'static str {
        "time_out_provisioning"
    }

    fn summary(&self) -> &'static str {
        "Marks starts as failed if the first heartbeat is late; a later one still sets the workspace online"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn requires(&self) -> Requirement {
        Requirement::Store
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let rows = sweeper.store.provisioning_rows().await?;
        let limit = |runtime: &str| sweeper.provisioning_limit(runtime);
        let begun_at = |row: &SweepRow| sweeper.ops.begun_at(row.id, row.incarnation);
        let lasted = |since| sweeper.lasted(since, snapshot);
        Ok(time_out_provisioning(&rows, &sweeper.ops.busy(), &limit, &begun_at, &lasted))
    }
}

/// `time_out_provisioning`: marks starts as failed if no heartbeat arrived within the limit of their runtime.
/// `begun_at` returns the time at which this process started the container. Work of the daemon before that, such as an
/// image pull, does not count.
fn time_out_provisioning(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::status::Status;
    use crate::sweep::fixtures::{NOW, row, since};

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
