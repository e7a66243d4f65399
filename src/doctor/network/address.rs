//! Checks for containers that use an address which this host no longer has.

use std::collections::BTreeSet;

use super::reached::ask_rank;
use crate::{api::doctor::Check, doctor::verdict::warn, domain::ids::WorkspaceId, store::Described};

/// Warns of containers that use an address which this host had when they started and no longer has. `None` if there are
/// none.
pub(super) fn outdated_addresses(rows: &[Described], outdated: &BTreeSet<WorkspaceId>) -> Option<Check> {
    let is_outdated = |one: &&Described| ask_rank(one).is_some() && outdated.contains(&one.row.id);
    let names: Vec<_> = rows.iter().filter(is_outdated).map(|one| one.row.name.as_str()).collect();
    (!names.is_empty()).then(|| {
        warn(
            "address",
            format!("this host's address has changed, and these workspaces still use the old one: {}", names.join(", ")),
            "`ostler restart NAME` gives a workspace the new address. Agents with readiness `heartbeat` are restarted \
             automatically after missing heartbeats",
        )
    })
}
