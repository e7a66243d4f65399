//! `restart_due`: what ended by itself is started again when its wait is over.
//!
//! The due time was decided and stored when the container exited. The order that stores it also requests a wake-up of
//! this pass for that time (`wake.rs`), and every run of the pass asks for the next one that it finds in the store: so
//! a daemon that was restarted meanwhile is as punctual. What is due at the same time is started parents first.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Look, Pass, Sight, SweepError, Sweeper};
use crate::domain::{liveness, plan::Plan};

/// See the module page.
pub(super) struct RestartDue;

#[async_trait]
impl Pass for RestartDue {
    fn name(&self) -> &'static str {
        "restart_due"
    }

    fn summary(&self) -> &'static str {
        "What ended by itself is started again, within its budget"
    }

    fn period(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn sight(&self) -> Sight {
        Sight::Store
    }

    async fn plan(&self, sweeper: &Sweeper, look: &Look) -> Result<Plan, SweepError> {
        let due = sweeper.store.restarts_due(look.asked_at()).await?;
        let parent = |workspace| sweeper.parent(workspace);
        Ok(liveness::restart_due(&due, &sweeper.ops.busy(), &parent, look.asked_at()))
    }
}
