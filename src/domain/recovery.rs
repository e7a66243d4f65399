//! What the engine shows of known workspaces that a registry put back from a copy does not know.
//!
//! The copy is older than the engine: a workspace may have been started, stopped, recreated, removed or restored
//! since. While the registry is recovering nothing of that is put right by itself; an operator adopts it.

use super::{
    ids::{ContainerId, Incarnation},
    naming::WorkspaceName,
    plan::Inventory,
    status::{Failure, Status},
    trash::{NamedContainer, TrashEntry, TrashState},
    workspace::{Kind, Workspace},
};

/// A row that the engine contradicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradicted {
    /// The row's name.
    pub name: WorkspaceName,
    /// The row's incarnation.
    pub incarnation: Incarnation,
    /// What differs.
    pub difference: Difference,
}

/// How the engine contradicts a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It has another container than the row says: one that was made, or came back from the trash, since the copy.
    Newer(NamedContainer),
    /// Its container runs, and the row forbids that.
    Runs(NamedContainer),
    /// Its container does not run, or is gone, and the row says that it is up.
    Down,
}

impl Difference {
    /// The container that an adoption takes.
    #[must_use]
    pub fn container(&self) -> Option<&NamedContainer> {
        match self {
            Self::Newer(container) | Self::Runs(container) => Some(container),
            Self::Down => None,
        }
    }

    /// What differs and what an adoption makes of it, for people.
    #[must_use]
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Newer(_) => {
                "has a newer container than the registry knows: adopting takes it over, with its token"
            }
            Self::Runs(_) => {
                "runs although the registry knows it as down: adopting keeps it running, with its token"
            }
            Self::Down => "does not run although the registry knows it as up: adopting pauses it",
        }
    }
}

/// How the engine contradicts a row, if it does. `entries` are the trash entries of that workspace.
#[must_use]
pub fn contradiction(row: &Workspace, inventory: &Inventory, entries: &[TrashEntry]) -> Option<Contradicted> {
    if row.kind != Kind::Container {
        return None;
    }
    let found =
        |difference| Some(Contradicted { name: row.name.clone(), incarnation: row.incarnation, difference });
    if let Some(newer) = newer_container(row, inventory, entries) {
        return found(Difference::Newer(newer));
    }
    if row.status == Status::Removed {
        return None;
    }
    let own = row.container.as_ref().and_then(|id| inventory.container(row.id, id));
    match (own.filter(|container| container.state.may_run()), row.status) {
        (Some(runs), status) if status.forbids_running() => {
            found(Difference::Runs(NamedContainer { id: runs.id.clone(), name: runs.name.clone() }))
        }
        // A row without a container was never started: there is nothing that could have been stopped since.
        (
            None,
            Status::Provisioning
            | Status::Online
            | Status::Degraded
            | Status::Offline
            | Status::Failed(Failure::ProvisionTimeout),
        ) if row.container.is_some() => found(Difference::Down),
        _ => None,
    }
}

/// A container of the workspace, under a name of its own, that came after what the row says: a running one first,
/// then the one with the highest serial.
#[must_use]
pub fn newer_container(
    row: &Workspace,
    inventory: &Inventory,
    entries: &[TrashEntry],
) -> Option<NamedContainer> {
    let is_rows_own = |id: &ContainerId| row.container.as_ref() == Some(id);
    let left_the_trash = |id: &ContainerId| {
        entries.iter().any(|entry| {
            entry.state == TrashState::Kept
                && entry.things.container.as_ref().is_some_and(|container| container.id == *id)
        })
    };
    // What was made to replace one that runs, and never ran itself, took nobody's place.
    let own_runs = row
        .container
        .as_ref()
        .and_then(|id| inventory.container(row.id, id))
        .is_some_and(|container| container.state.may_run());
    let own = inventory.containers.get(&row.id).into_iter().flatten();
    own.filter(|(serial, container)| {
        if own_runs && !container.state.may_run() {
            return false;
        }
        let came_later = *serial > row.container_serial || left_the_trash(&container.id);
        // What a removed row still has may be a removal that was not finished: only what came later shows a return.
        if row.status == Status::Removed { came_later } else { came_later && !is_rows_own(&container.id) }
    })
    .max_by_key(|(serial, container)| (container.state.may_run(), *serial))
    .map(|(_, container)| NamedContainer { id: container.id.clone(), name: container.name.clone() })
}
