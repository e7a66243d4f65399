//! The list of passes.

mod check_containers;
mod check_heartbeats;
mod empty_trash;
mod flag_wedged;
mod forget_history;
mod hibernate_idle;
mod reap_removed;
mod reap_unknown;
mod restart_due;
mod revoke_stale_tokens;
mod settle;
mod time_out_provisioning;

use std::{sync::Arc, time::Duration};

use super::pass::Pass;

/// How often containers are checked without an event; events trigger a check earlier.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Every pass. Passes that are due at the same time begin in this order.
#[must_use]
pub fn all() -> Vec<Arc<dyn Pass>> {
    all_with_interval(CHECK_INTERVAL)
}

/// Every pass; `check_containers` runs with this period.
#[must_use]
pub fn all_with_interval(every: Duration) -> Vec<Arc<dyn Pass>> {
    vec![
        Arc::new(settle::Settle),
        Arc::new(reap_removed::ReapRemoved),
        Arc::new(reap_unknown::ReapUnknown),
        Arc::new(revoke_stale_tokens::RevokeStaleTokens),
        Arc::new(check_containers::CheckContainers { period: every }),
        Arc::new(check_heartbeats::CheckHeartbeats),
        Arc::new(time_out_provisioning::TimeOutProvisioning),
        Arc::new(hibernate_idle::HibernateIdle),
        Arc::new(flag_wedged::FlagWedged),
        Arc::new(restart_due::RestartDue),
        Arc::new(empty_trash::EmptyTrash),
        Arc::new(forget_history::ForgetHistory),
    ]
}
