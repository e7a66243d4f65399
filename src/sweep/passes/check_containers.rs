//! `check_containers`: rows are told what their containers did by themselves.
//!
//! Two looks decide: this listing, and another look under the actor of the workspace. An engine that gives no
//! answer moves nothing.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Look, Pass, SweepError, Sweeper};
use crate::domain::plan::{self, Plan};

/// See the module page.
pub(super) struct CheckContainers {
    /// How often it looks. Events make it timely; this is for those that were lost.
    pub(super) period: Duration,
}

#[async_trait]
impl Pass for CheckContainers {
    fn name(&self) -> &'static str {
        "check_containers"
    }

    fn summary(&self) -> &'static str {
        "Workspaces whose container has ended are marked offline"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn plan(&self, sweeper: &Sweeper, look: &Look) -> Result<Plan, SweepError> {
        let seen = look.seen()?;
        let mut rows = sweeper.store.up_rows().await?;
        // A start that this process did not bring up is `settle`'s to begin anew: whether its process holds
        // the right token, nobody here has seen.
        let starting = sweeper.store.provisioning_rows().await?;
        rows.extend(starting.into_iter().filter(|row| sweeper.ops.has_begun(row.id, row.incarnation)));
        let readiness = |runtime: &str| sweeper.readiness(runtime);
        let busy = sweeper.ops.busy();
        let mut plan = plan::check_containers(
            &seen.inventory,
            &rows,
            &seen.presence,
            &busy,
            &readiness,
            look.asked_at(),
        );
        plan.parents_first(&|workspace| sweeper.parent(workspace));
        Ok(plan)
    }
}
