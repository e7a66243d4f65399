//! `revoke_stale_tokens`: revokes instance tokens whose container is gone, after a grace period.
//!
//! A restart at the same time cannot lose its new token, for three reasons. The listing is taken before the query. A
//! start creates its container, which every later listing shows, before it issues a token. The age of the token is a
//! condition of the revoking UPDATE itself, so a token that was issued after the listing cannot match. Tokens of other
//! kinds and tokens of external workspaces are never revoked here.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    domain::{
        action::Action,
        duration::words,
        plan::Plan,
        presence::Presence,
        sweep_row::StaleCandidate,
        time::{Awake, Timestamp},
    },
    sweep::{
        context::{Snapshot, Sweeper},
        error::SweepError,
        pass::Pass,
    },
};

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
        Ok(revoke_stale_tokens(&candidates, &seen.presence, snapshot.awake(), grace, older_than))
    }
}

/// `revoke_stale_tokens`: revokes the tokens of candidates whose container was absent for the grace period, and from at
/// least two listings.
fn revoke_stale_tokens(
    candidates: &[StaleCandidate],
    presence: &Presence,
    now: Awake,
    grace: Duration,
    older_than: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let asked_at = older_than + grace;
    for candidate in candidates {
        // Only listings after the token's creation and last use count. Before that, the container may have existed
        // between two listings.
        let sign = candidate.token_used_at.max(Some(candidate.token_created_at)).unwrap_or_default();
        let absent = presence.absent(candidate.workspace, now - asked_at.since(sign), now);
        if absent.listings >= 2 && absent.time >= grace {
            let evidence = format!(
                "its container was absent from {} trusted listings over {}; the token was issued at {} \
                 and {}",
                absent.listings,
                words(absent.time),
                candidate.token_created_at,
                candidate
                    .token_used_at
                    .map_or_else(|| "never used".into(), |at| format!("last used at {at}"))
            );
            let action = Action::RevokeStaleTokens { workspace: candidate.workspace, older_than };
            plan.act(action, &candidate.name, evidence);
        } else {
            plan.watching.push(format!(
                "{}: no container; its instance tokens are revoked after {} (so far {})",
                candidate.name,
                words(grace),
                words(absent.time)
            ));
        }
    }
    plan
}
