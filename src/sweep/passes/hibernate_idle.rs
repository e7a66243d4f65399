//! `hibernate_idle`: hibernates workspaces that allow it and are idle.
//!
//! A heartbeat alone does not count as activity. A proxied request, an open command or shell, and a connection to the
//! published port prevent hibernation. Connections to the port do not pass through ostler: this pass reads them once a
//! minute from the kernel's tables, which keep closed connections for one more minute. If the tables cannot be read,
//! the workspace is not hibernated.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Pass, Requirement, Snapshot, SweepError, Sweeper};
use crate::domain::{liveness, plan::Plan};

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
        let mut plan =
            liveness::hibernate_idle(&rows, &sweeper.ops.busy(), &in_use, &lasted, snapshot.asked_at());
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
