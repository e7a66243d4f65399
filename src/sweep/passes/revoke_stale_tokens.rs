//! `revoke_stale_tokens`: revokes instance tokens whose container is gone, after a grace period.
//!
//! A restart at the same time cannot lose its new token, for three reasons. The listing is taken before the query. A
//! start creates its container, which every later listing shows, before it issues a token. The age of the token is a
//! condition of the revoking UPDATE itself, so a token that was issued after the listing cannot match. Tokens of other
//! kinds and tokens of external workspaces are never revoked here.

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
