//! `reap_unknown`: moves containers and volumes that have ostler's labels, but no row in the registry, to the trash
//! after a grace period.
//!
//! While the registry is recovering, all actions of this pass are held: after a loss of the database every container is
//! unknown. An operator then decides about each workspace or about all at once.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Pass, Snapshot, SweepError, Sweeper};
use crate::domain::plan::{self, Plan, UnknownInput};

/// See the module documentation.
pub(super) struct ReapUnknown;

#[async_trait]
impl Pass for ReapUnknown {
    fn name(&self) -> &'static str {
        "reap_unknown"
    }

    fn summary(&self) -> &'static str {
        "Moves containers and volumes that are not in the registry to the trash, after a grace period"
    }

    fn period(&self) -> Duration {
        Duration::from_mins(1)
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let seen = snapshot.seen()?;
        let listed = seen.inventory.workspaces();
        let rows = sweeper.store.sweep_rows(listed.clone()).await?;
        let entries = sweeper.store.relevant_trash(listed).await?;
        let input = UnknownInput {
            rows: &rows,
            entries: &entries,
            busy: &sweeper.ops.busy(),
            presence: &seen.presence,
            now: snapshot.awake(),
            grace: sweeper.limits().unknown_grace,
        };
        Ok(plan::reap_unknown(&seen.inventory, &input))
    }
}
