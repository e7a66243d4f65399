//! A container listing, grouped by workspace.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    domain::{
        ids::{ContainerId, InstanceId, TrashId, WorkspaceId},
        naming::{Owner, container_owner, volume_owner},
        observed::{ContainerState, Observed, ObservedContainer},
        sweep_row::{SweepRow, by_id},
        trash::{NamedContainer, TrashContents, TrashEntry},
    },
    testing::mutation::{Mutation, is},
};

/// A listing, grouped by owning workspace. Unrelated containers are left out.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Per workspace: containers with a regular name, and the serial in that name.
    pub containers: BTreeMap<WorkspaceId, Vec<(u32, ObservedContainer)>>,
    /// Per workspace: containers with a trash name, and the entry in that name.
    pub trashed: BTreeMap<WorkspaceId, Vec<(TrashId, ObservedContainer)>>,
    /// Per workspace: names of its volumes.
    pub volumes: BTreeMap<WorkspaceId, Vec<String>>,
    /// Containers with this instance's label and a name that ostler does not give. ostler must not change them.
    pub foreign: Vec<ObservedContainer>,
}

impl Inventory {
    /// Groups a listing by owner.
    #[must_use]
    pub fn of(instance: InstanceId, observed: &Observed) -> Self {
        let mut sorted = Self::default();
        for container in &observed.containers {
            match container_owner(instance, &container.name, &container.labels) {
                Owner::Workspace(workspace, serial) => {
                    sorted.containers.entry(workspace).or_default().push((serial, container.clone()));
                }
                Owner::Trash(trash, workspace) => {
                    sorted.trashed.entry(workspace).or_default().push((trash, container.clone()));
                }
                Owner::Foreign => sorted.foreign.push(container.clone()),
                Owner::Unrelated => {}
            }
        }
        for volume in &observed.volumes {
            if let Some((workspace, _)) = volume_owner(instance, &volume.name, &volume.labels) {
                sorted.volumes.entry(workspace).or_default().push(volume.name.clone());
            }
        }
        for containers in sorted.containers.values_mut() {
            containers.sort_by_key(|(serial, _)| *serial);
        }
        for volumes in sorted.volumes.values_mut() {
            volumes.sort();
        }
        sorted
    }

    /// Workspaces in the labels of foreign containers. Such a container may be the workspace's own one, which a user
    /// has renamed.
    #[must_use]
    pub fn named_by_foreign(&self) -> Vec<WorkspaceId> {
        let named: BTreeSet<_> = self.foreign.iter().filter_map(workspace_named_by).collect();
        named.into_iter().collect()
    }

    /// Recognises containers that a user has renamed. If a row or a trash entry contains the container's id, the id and
    /// the labels prove that the container belongs to the workspace, even with another name. All other containers stay
    /// foreign.
    pub fn recognise(&mut self, rows: &[SweepRow], entries: &[TrashEntry]) {
        if is(Mutation::NamesAreProof) {
            return;
        }
        let rows = by_id(rows);
        for container in std::mem::take(&mut self.foreign) {
            let workspace = workspace_named_by(&container);
            let row = workspace.and_then(|id| rows.get(&id));
            let entry = entries.iter().find(|entry| {
                Some(entry.workspace) == workspace
                    && entry.contents.container.as_ref().is_some_and(|held| held.id == container.id)
            });
            if let Some(entry) = entry {
                self.trashed.entry(entry.workspace).or_default().push((entry.id, container));
            } else if let Some(row) = row.filter(|row| row.container.as_ref() == Some(&container.id)) {
                // With serial 0, the lowest, so that only a container with a regular name can count as newer.
                self.containers.entry(row.id).or_default().insert(0, (0, container));
            } else {
                self.foreign.push(container);
            }
        }
    }

    /// Workspaces with a container paused by `podman pause`.
    #[must_use]
    pub fn with_paused(&self) -> BTreeSet<WorkspaceId> {
        let paused = |(_, container): &(u32, ObservedContainer)| container.state == ContainerState::Paused;
        self.containers.iter().filter(|(_, own)| own.iter().any(paused)).map(|(id, _)| *id).collect()
    }

    /// Every workspace that owns a container, a trashed container or a volume.
    #[must_use]
    pub fn workspaces(&self) -> Vec<WorkspaceId> {
        let all: BTreeSet<_> =
            self.containers.keys().chain(self.trashed.keys()).chain(self.volumes.keys()).copied().collect();
        all.into_iter().collect()
    }

    /// Workspaces with a container, in the trash or not. A process in it may use the workspace's tokens.
    #[must_use]
    pub fn with_container(&self) -> Vec<WorkspaceId> {
        // A container with a trash name counts too, because its restore may be in progress.
        let all: BTreeSet<_> = self.containers.keys().chain(self.trashed.keys()).copied().collect();
        all.into_iter().collect()
    }

    /// Finds a container of a workspace by its id, with a regular name or a trash name.
    #[must_use]
    pub fn container(&self, workspace: WorkspaceId, id: &ContainerId) -> Option<&ObservedContainer> {
        let own = self.containers.get(&workspace).into_iter().flatten().map(|(_, container)| container);
        let trashed = self.trashed.get(&workspace).into_iter().flatten().map(|(_, container)| container);
        own.chain(trashed).find(|container| container.id == *id)
    }

    /// The container and the volumes that an adoption takes over. A running container has precedence, then the one with
    /// the highest serial. Containers with trash names are left out, because they were moved to the trash and stay
    /// there.
    #[must_use]
    pub fn newest_of(&self, workspace: WorkspaceId) -> Option<TrashContents> {
        let own = self.containers.get(&workspace).into_iter().flatten();
        let newest = own.max_by_key(|(serial, container)| (container.state.may_run(), *serial));
        let container = newest
            .map(|(_, container)| NamedContainer { id: container.id.clone(), name: container.name.clone() });
        let volumes = self.volumes.get(&workspace).cloned().unwrap_or_default();
        (container.is_some() || (!volumes.is_empty() && !self.trashed.contains_key(&workspace)))
            .then_some(TrashContents { container, volumes })
    }

    /// The workspace's containers and volumes that are in no trash entry, as contents of future entries: one for each
    /// container, with all volumes in the first.
    pub(crate) fn loose(&self, workspace: WorkspaceId, held: &Held<'_>) -> Vec<TrashContents> {
        let own = self.containers.get(&workspace).into_iter().flatten().map(|(_, container)| container);
        let trashed = self.trashed.get(&workspace).into_iter().flatten().map(|(_, container)| container);
        let mut bundles: Vec<TrashContents> = own
            .chain(trashed)
            .filter(|container| !held.contains(container.id.as_str()))
            .map(|container| TrashContents {
                container: Some(NamedContainer { id: container.id.clone(), name: container.name.clone() }),
                volumes: Vec::new(),
            })
            .collect();
        let volumes: Vec<String> = self
            .volumes
            .get(&workspace)
            .into_iter()
            .flatten()
            .filter(|volume| !held.contains(volume))
            .cloned()
            .collect();
        if !volumes.is_empty() {
            if bundles.is_empty() {
                bundles.push(TrashContents::default());
            }
            bundles[0].volumes = volumes;
        }
        bundles
    }
}

/// Container ids and volume names that trash entries contain.
pub(crate) struct Held<'a>(BTreeSet<&'a str>);

impl<'a> Held<'a> {
    pub(crate) fn by(entries: &'a [TrashEntry]) -> Self {
        let items = entries.iter().flat_map(|entry| {
            let container = entry.contents.container.iter().map(|container| container.id.as_str());
            container.chain(entry.contents.volumes.iter().map(String::as_str))
        });
        Self(items.collect())
    }

    pub(crate) fn contains(&self, item: &str) -> bool {
        self.0.contains(item)
    }
}

pub(crate) fn workspace_named_by(container: &ObservedContainer) -> Option<WorkspaceId> {
    container.labels.get(super::naming::LABEL_WORKSPACE)?.parse().ok()
}
