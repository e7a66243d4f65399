//! `revoke_stale_tokens`: revokes instance tokens whose container is gone, after a grace period.
//!
//! It cannot race with a restart. The listing is taken before the query, a start makes its container visible in every
//! listing before it issues a token, and the age of the token is a condition of the revoking UPDATE itself. So a token
//! issued after the listing was taken cannot match, whatever happened in between. API tokens and external workspaces
//! are never touched.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Pass, Snapshot, SweepError, Sweeper};
use crate::domain::plan::{self, Plan};

/// See the module documentation.
pub(super) struct RevokeStaleTokens;

#[async_trait]
impl Pass for RevokeStaleTokens {
    fn name(&self) -> &'static str {
        "revoke_stale_tokens"
    }

    fn summary(&self) -> &'static str {
        "Revokes instance tokens of workspaces without a container, after a grace period"
    }

    fn period(&self) -> Duration {
        Duration::from_mins(1)
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let seen = snapshot.seen()?;
        let grace = sweeper.limits().absence_grace;
        let older_than = snapshot.asked_at() - grace;
        let candidates = sweeper.store.stale_candidates(seen.inventory.with_container(), older_than).await?;
        Ok(plan::revoke_stale_tokens(&candidates, &seen.presence, snapshot.awake(), grace, older_than))
    }
}
