//! Checks for workspaces that the engine has and the registry does not know.

use std::collections::BTreeSet;

use super::verdict::warn;
use crate::{
    api::doctor::Check,
    domain::{
        inventory::Inventory,
        spec::LabelledSpec,
        sweep_row::SweepRow,
        trash::{TrashContents, TrashEntry},
    },
};

/// Maximum number of unknown workspaces that one check names.
const MOST_UNKNOWN: usize = 20;

/// Warns of workspaces that have containers or volumes of this instance in the engine, but neither a row nor a trash
/// entry. `None` if there are no such workspaces.
pub(super) fn unknown(inventory: &Inventory, rows: &[SweepRow], entries: &[TrashEntry]) -> Option<Check> {
    let known: BTreeSet<_> =
        rows.iter().map(|row| row.id).chain(entries.iter().map(|entry| entry.workspace)).collect();
    let unknown: Vec<_> = inventory.workspaces().into_iter().filter(|id| !known.contains(id)).collect();
    if unknown.is_empty() {
        return None;
    }
    let named = unknown.iter().take(MOST_UNKNOWN).map(|id| {
        let own = inventory.containers.get(id).into_iter().flatten().map(|(_, container)| container);
        let trashed = inventory.trashed.get(id).into_iter().flatten().map(|(_, container)| container);
        let name = own.chain(trashed).find_map(|container| LabelledSpec::of(&container.labels));
        let name = name.map_or_else(|| id.to_string(), |spec| spec.name.to_string());
        match inventory.newest_of(*id) {
            Some(TrashContents { container: Some(_), .. }) => name,
            Some(_) => format!("{name} (volumes only)"),
            None => format!("{name} (its container is in the trash, but has no trash entry)"),
        }
    });
    let named: Vec<_> = named.collect();
    let more = match unknown.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(warn(
        "unknown",
        format!("in Podman with ostler's labels, but not in the registry: {}{more}", named.join(", ")),
        "`ostler adopt NAME` adopts a workspace that has a container outside the trash. Workspaces that are not \
         adopted are moved to the trash after `sweep.unknown_grace`, but not while the registry is recovering; `ostler \
         trash restore NAME` restores them",
    ))
}
