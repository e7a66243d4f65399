//! `restart_due`: what ended by itself is started again when its wait is over.
//!
//! How long that is, and whether at all, was decided and stored when it ended. Whoever decides that also asks for
//! this pass at that time (`wake.rs`); its own period is for those that a restart of ostler made it forget.

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
        let rows = sweeper.store.restarts_due(look.asked_at()).await?;
        Ok(liveness::restart_due(&rows, &sweeper.ops.busy()))
    }
}
