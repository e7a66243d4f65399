//! The circuit breaker: limits how many workspaces sweeps may affect within an hour.
//!
//! An error in a pass could destroy the work of many workspaces at once, and the pass cannot detect its own error. The
//! breaker therefore counts the workspaces that were affected by destructive actions in the last hour, together with
//! those in the plan. If the count exceeds the limit, all actions of the plan that count against the breaker are held
//! until an operator approves them.

use std::collections::BTreeSet;

use super::{ids::WorkspaceId, plan::Planned};
use crate::testing::mutation::{Mutation, is};

/// Minimum of the limit, however few workspaces there are.
pub const FLOOR: usize = 3;
/// The limit as a share of the known workspaces, in percent.
pub const PERCENT: usize = 25;
/// Maximum number of destructive actions in one run of a pass.
pub const PER_RUN: usize = 5;

/// The breaker's decision on a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Apply the whole plan.
    Clear,
    /// Hold the actions of the plan that count against the breaker.
    Hold {
        /// Reason, for the user.
        reason: String,
    },
}

/// Judges a plan. `recent` are the workspaces that were affected within the last hour, `known` is the number of live
/// rows plus the number of workspaces without a row, and `approved` returns whether an operator has approved an action.
#[must_use]
pub fn judge(
    plan: &[Planned],
    recent: &[WorkspaceId],
    known: usize,
    approved: &(dyn Fn(&Planned) -> bool + Sync),
) -> Verdict {
    let hit: BTreeSet<_> = plan
        .iter()
        .filter(|planned| planned.action.counts_against_breaker() && !approved(planned))
        .map(|planned| planned.action.workspace())
        .collect();
    if hit.is_empty() || is(Mutation::NoBreaker) {
        return Verdict::Clear;
    }
    let before: BTreeSet<_> = recent.iter().copied().collect();
    let together = hit.union(&before).count();
    let limit = limit(known);
    if together <= limit {
        return Verdict::Clear;
    }
    let reason = format!(
        "the plan affects {} workspaces, {} were affected in the last hour, and the limit is {limit} of the {known} \
         known workspaces",
        hit.len(),
        before.len()
    );
    Verdict::Hold { reason }
}

/// Number of workspaces that may be affected within an hour.
#[must_use]
pub fn limit(known: usize) -> usize {
    FLOOR.max(known * PERCENT / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{action::Action, time::Timestamp};
    use uuid::Uuid;

    fn plan(of: std::ops::Range<u128>) -> Vec<Planned> {
        of.map(|n| Planned {
            action: Action::RevokeStaleTokens {
                workspace: WorkspaceId(Uuid::from_u128(n)),
                older_than: Timestamp(0),
            },
            name: n.to_string(),
            evidence: String::new(),
        })
        .collect()
    }

    #[test]
    fn breaker_allows_three_workspaces_or_a_quarter_of_all() {
        assert_eq!(judge(&plan(0..3), &[], 3, &|_| false), Verdict::Clear);
        assert!(matches!(judge(&plan(0..4), &[], 12, &|_| false), Verdict::Hold { .. }));
        assert_eq!(judge(&plan(0..4), &[], 16, &|_| false), Verdict::Clear);
    }

    #[test]
    fn breaker_counts_each_workspace_only_once_per_hour() {
        let recent: Vec<_> = (0..3).map(|n| WorkspaceId(Uuid::from_u128(n))).collect();
        assert!(matches!(judge(&plan(3..4), &recent, 4, &|_| false), Verdict::Hold { .. }));
        assert_eq!(judge(&plan(0..3), &recent, 4, &|_| false), Verdict::Clear);
    }

    #[test]
    fn approved_actions_do_not_count_against_the_breaker() {
        assert_eq!(judge(&plan(0..50), &[], 4, &|_| true), Verdict::Clear);
        assert_eq!(judge(&plan(0..4), &[], 4, &|p| p.name == "0"), Verdict::Clear);
    }
}
