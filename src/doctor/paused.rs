//! Checks for containers that were paused by hand.

use super::verdict::warn;
use crate::{
    api::doctor::Check,
    domain::{inventory::Inventory, sweep_row::SweepRow},
};

/// Warns of containers that an operator paused with `podman pause`; `None` if there are none.
pub(super) fn paused(inventory: &Inventory, rows: &[SweepRow]) -> Option<Check> {
    let paused = inventory.with_paused();
    let names: Vec<_> = rows
        .iter()
        .filter(|row| paused.contains(&row.id))
        .filter_map(|row| {
            Some(format!("{} (`podman unpause {}`)", row.name, row.container.as_ref()?.short()))
        })
        .collect();
    (!names.is_empty()).then(|| {
        warn(
            "paused",
            format!("paused with `podman pause`: {}", names.join(", ")),
            "`podman unpause` resumes them; `ostler restart NAME` restarts one instead. Until then they do not \
             answer, and ostler does not restart them for missing heartbeats",
        )
    })
}
