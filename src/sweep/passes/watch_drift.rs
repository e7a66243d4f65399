//! `watch_drift`: reports workspaces whose container was created with other settings than the workspace has now.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    domain::plan::Plan,
    store::Scope,
    sweep::{Pass, Requirement, Snapshot, SweepError, Sweeper},
};

/// See the module documentation.
pub(super) struct WatchDrift;

#[async_trait]
impl Pass for WatchDrift {
    fn name(&self) -> &'static str {
        "watch_drift"
    }

    fn summary(&self) -> &'static str {
        "Reports containers with other settings than their workspace"
    }

    fn period(&self) -> Duration {
        Duration::from_hours(1)
    }

    fn requires(&self) -> Requirement {
        Requirement::Store
    }

    async fn plan(&self, sweeper: &Sweeper, _snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let rows = sweeper.store.workspaces(Scope::Live).await?;
        let drifted = rows.iter().filter(|row| sweeper.ops.drifted(row));
        let watching = drifted.map(|row| format!("{}: `ostler recreate` applies its settings", row.name));
        Ok(Plan { watching: watching.collect(), ..Plan::default() })
    }
}
