//! `hibernate_idle`: who may sleep and is not needed.
//!
//! A heartbeat alone is no activity. A request of the proxy, an open command or shell, and a connection to the published
//! port keep a workspace awake. Such connections do not pass through ostler; the kernel's tables show them, once a
//! minute, which also remember for a minute those that were closed. Where the tables cannot be seen, nothing is put to
//! sleep.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Look, Pass, Sight, SweepError, Sweeper};
use crate::domain::{liveness, plan::Plan};

/// See the module page.
pub(super) struct HibernateIdle;

#[async_trait]
impl Pass for HibernateIdle {
    fn name(&self) -> &'static str {
        "hibernate_idle"
    }

    fn summary(&self) -> &'static str {
        "Idle workspaces that may sleep are put to sleep"
    }

    fn period(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn sight(&self) -> Sight {
        Sight::Store
    }

    async fn plan(&self, sweeper: &Sweeper, look: &Look) -> Result<Plan, SweepError> {
        let unseen = sweeper.ops.note_connections(sweeper.store.may_sleep().await?).await;
        let mut rows = sweeper.store.idle_rows(look.asked_at()).await?;
        let (blind, seen): (Vec<_>, Vec<_>) = rows.drain(..).partition(|idle| unseen.contains(&idle.row.id));
        let rows = seen;
        let traffic = sweeper.ops.traffic();
        let in_use = |id| (traffic.open(id), traffic.active_at(id));
        let lasted = |since| sweeper.lasted(since, look);
        let mut plan =
            liveness::hibernate_idle(&rows, &sweeper.ops.busy(), &in_use, &lasted, look.asked_at());
        plan.watching.extend(blind.iter().map(|idle| {
            format!("{}: kept awake, since connections to its port cannot be seen from here", idle.row.name)
        }));
        Ok(plan)
    }

    /// What was seen in passing is written down now and then, so that people see it and a plan is rarely raced.
    async fn housekeep(&self, sweeper: &Sweeper, _look: &Look) -> Result<(), SweepError> {
        let seen = sweeper.ops.traffic().take_fresh();
        if !seen.is_empty() {
            sweeper.store.note_activity_at(seen).await?;
        }
        Ok(())
    }
}
