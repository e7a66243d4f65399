//! Differences between a registry restored from a backup and the engine, for workspaces that the registry knows.
//!
//! After the backup was made, a workspace may have been started, stopped, recreated, removed or restored. The restored
//! row does not show this. While the registry is recovering, ostler does not correct such differences automatically: an
//! operator decides whether the rows adopt the state in the engine.

use super::{
    ids::{ContainerId, Incarnation},
    inventory::Inventory,
    naming::WorkspaceName,
    status::{Failure, Status},
    trash::{NamedContainer, TrashEntry, TrashState},
    workspace::{Kind, Workspace},
};

/// A row that differs from the state in the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradicted {
    /// Name in the row.
    pub name: WorkspaceName,
    /// Incarnation in the row.
    pub incarnation: Incarnation,
    /// The difference.
    pub difference: Difference,
}

/// How the state in the engine differs from a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The workspace has a newer container, which was created, or restored from the trash, after the backup.
    Newer(NamedContainer),
    /// The container runs, although the row's status forbids it.
    Runs(NamedContainer),
    /// The row's status requires a running container, but the container is gone or does not run.
    Down,
}

impl Difference {
    /// The container that an adoption takes over.
    #[must_use]
    pub fn container(&self) -> Option<&NamedContainer> {
        match self {
            Self::Newer(container) | Self::Runs(container) => Some(container),
            Self::Down => None,
        }
    }

    /// The difference and the effect of an adoption, for the user.
    #[must_use]
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Newer(_) => {
                "has a newer container than the registry records: adopting takes over the newer one and its token"
            }
            Self::Runs(_) => {
                "has a running container, although its status in the registry forbids it: adopting keeps the container \
                 running, with its token"
            }
            Self::Down => {
                "has no running container, although its status in the registry requires one: adopting pauses it"
            }
        }
    }
}

/// Returns how the state in the engine differs from a row, if it does. `entries` are the trash entries of this
/// workspace.
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
        // Only rows with a container: a row without one was never started, so no container can be missing.
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

/// Returns a container of the workspace that is newer than the container in the row and does not have a trash name. A
/// running container has precedence, then the one with the highest serial.
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
                && entry.contents.container.as_ref().is_some_and(|container| container.id == *id)
        })
    };
    // If the row's own container runs, a stopped container cannot have replaced it.
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
        // A removed row may still name a container that exists, because its removal was not finished. Only a container
        // that came later shows that the workspace was restored.
        if row.status == Status::Removed { came_later } else { came_later && !is_rows_own(&container.id) }
    })
    .max_by_key(|(serial, container)| (container.state.may_run(), *serial))
    .map(|(_, container)| NamedContainer { id: container.id.clone(), name: container.name.clone() })
}
