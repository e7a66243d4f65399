//! `hibernate_idle`: who may sleep and is not needed.
//!
//! A beat alone keeps nobody awake, and a request on its way lets nobody fall asleep.

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
        let rows = sweeper.store.idle_rows(look.asked_at()).await?;
        let traffic = sweeper.ops.traffic();
        let in_use = |id| (traffic.open(id), traffic.active_at(id));
        let lasted = |since| sweeper.lasted(since, look);
        Ok(liveness::hibernate_idle(&rows, &sweeper.ops.busy(), &in_use, &lasted, look.asked_at()))
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
