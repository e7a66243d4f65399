//! The list of passes.

mod check_containers;
mod empty_trash;
mod reap_removed;
mod reap_unknown;
mod revoke_stale_tokens;
mod settle;

use std::sync::Arc;

use super::Pass;

/// Every pass, in the order in which due ones are begun.
#[must_use]
pub fn all() -> Vec<Arc<dyn Pass>> {
    vec![
        Arc::new(settle::Settle),
        Arc::new(reap_removed::ReapRemoved),
        Arc::new(reap_unknown::ReapUnknown),
        Arc::new(revoke_stale_tokens::RevokeStaleTokens),
        Arc::new(check_containers::CheckContainers),
        Arc::new(empty_trash::EmptyTrash),
    ]
}
