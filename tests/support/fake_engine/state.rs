//! Containers, volumes, networks and images of the fake engine.
//!
//! A test reads and changes them directly. What the calls of a client do to them is in `containers.rs`, `volumes.rs`,
//! `networks.rs` and `images.rs`.

use std::collections::{BTreeMap, BTreeSet};

use ostler::{
    domain::{
        ids::ContainerId,
        observed::{ContainerEventKind, ContainerState},
        time::Timestamp,
    },
    engine::{ContainerSpec, EngineError, ErrorKind, ListedNetwork, LogChunk, MountSource},
};

use super::{events::News, faults::Call};

/// A container of the fake engine.
#[derive(Clone, Debug)]
pub(crate) struct FakeContainer {
    /// Name, unique in the engine.
    pub(crate) name: String,
    /// Specification that it was created from.
    pub(crate) spec: ContainerSpec,
    /// Current state.
    pub(crate) state: ContainerState,
    /// Exit code of the process; `None` while it runs or before it has run.
    pub(crate) exit_code: Option<i32>,
    /// Time of the last start.
    pub(crate) started_at: Option<Timestamp>,
    /// Content of the token file when the process started; the process keeps it until it ends.
    pub(crate) held_token: Option<Vec<u8>>,
    /// Number of `start_container` calls that took effect.
    pub(crate) starts: u32,
    /// Number of calls that had taken effect when the process started.
    pub(crate) started_after: usize,
}

/// A volume of the fake engine.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeVolume {
    /// Labels of the volume.
    pub(crate) labels: BTreeMap<String, String>,
    /// Content of each file, by name.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Whether the directory is missing.
    pub(crate) directory_missing: bool,
}

/// The contents of the engine.
///
/// Changing a container directly through the fields emits no event, as if the event were lost. [`run`](State::run),
/// [`kill`](State::kill) and [`remove`](State::remove) emit events.
#[derive(Default)]
pub(crate) struct State {
    /// Containers by id.
    pub(crate) containers: BTreeMap<ContainerId, FakeContainer>,
    /// Volumes by name.
    pub(crate) volumes: BTreeMap<String, FakeVolume>,
    /// Networks by name.
    pub(crate) networks: BTreeMap<String, ListedNetwork>,
    /// Images that exist locally.
    pub(crate) images: BTreeSet<String>,
    /// Images that a pull can fetch.
    pub(crate) pullable: BTreeSet<String>,
    /// Host ports held by other processes.
    pub(crate) busy_ports: BTreeSet<u16>,
    /// Containers whose start was interrupted: they never start.
    pub(crate) half_started: BTreeSet<ContainerId>,
    /// Output of containers, one line per chunk.
    pub(crate) logs: BTreeMap<ContainerId, Vec<LogChunk>>,
    /// All calls that took effect, in order.
    pub(crate) log: Vec<Call>,
    /// Indices into `log` of calls whose result did not reach the caller, because the caller got an error or had
    /// stopped waiting.
    pub(crate) lost_exits: BTreeSet<usize>,
    /// Whether the engine reports that it is rootless, which means that it forwards ports in user space.
    pub(crate) rootless: bool,
    /// Container limits that the engine reports as ignored.
    pub(crate) ignored_limits: Vec<&'static str>,
    /// Number of times that this state may have changed: by a call that took effect, or by a test.
    pub(crate) changes: u64,
    /// Number of containers created so far, from which their ids are derived.
    pub(super) made: u128,
    pub(super) news: News,
}

impl State {
    /// Current content of the token file in a container's volume.
    #[must_use]
    pub(crate) fn token_file(&self, container: &FakeContainer) -> Option<Vec<u8>> {
        let volume = container.spec.mounts.iter().find_map(|mount| match &mount.source {
            MountSource::Volume(name) if mount.target == "/configs" => Some(name),
            MountSource::Volume(_) | MountSource::HostDirectory(_) | MountSource::Tmpfs => None,
        })?;
        self.volumes.get(volume)?.files.get(".auth_token").cloned()
    }

    /// Host ports that running containers publish.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        let running = self.containers.values().filter(|container| container.state.may_run());
        running.filter_map(|container| container.spec.publish.map(|(_, host)| host))
    }

    /// Simulates an interrupted start of a container: its port stays in use, and it never starts again.
    pub(super) fn start_half_way(&mut self, id: &str) {
        let stopped = self.containers.iter().find(|(found, c)| found.as_str() == id && !c.state.may_run());
        let Some((id, container)) = stopped else { return };
        self.half_started.insert(id.clone());
        self.busy_ports.extend(container.spec.publish.map(|(_, host)| host));
    }

    /// Starts a container's process with the current content of its volumes.
    pub(crate) fn run(&mut self, id: &ContainerId) {
        let token = self.containers.get(id).and_then(|container| self.token_file(container));
        self.changes += 1;
        let Some(container) = self.containers.get_mut(id) else { return };
        container.state = ContainerState::Running;
        container.exit_code = None;
        container.started_at = Some(self.news.now());
        container.held_token = token;
        container.started_after = self.log.len();
        self.news.emit(id, &container.spec.labels, ContainerEventKind::Started);
    }

    /// Simulates an unexpected exit of a container's process.
    pub(crate) fn kill(&mut self, id: &ContainerId, exit_code: i32) {
        self.changes += 1;
        let Some(container) = self.containers.get_mut(id) else { return };
        let ran = container.state.may_run();
        container.state = ContainerState::Exited;
        container.exit_code = Some(exit_code);
        if ran {
            let died = ContainerEventKind::Died { exit_code: Some(exit_code) };
            self.news.emit(id, &container.spec.labels, died);
        }
    }

    /// Freezes or resumes a container's process, as `podman pause` and `podman unpause` do.
    pub(crate) fn freeze(&mut self, id: &ContainerId, frozen: bool) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let (from, to) = if frozen {
            (ContainerState::Running, ContainerState::Paused)
        } else {
            (ContainerState::Paused, ContainerState::Running)
        };
        if container.state == from {
            container.state = to;
            self.changes += 1;
        }
    }

    /// Renames a container, as an operator does.
    pub(crate) fn rename(&mut self, id: &ContainerId, name: &str) {
        if let Some(container) = self.containers.get_mut(id) {
            name.clone_into(&mut container.name);
            self.changes += 1;
        }
    }

    /// Deletes the volumes that no container mounts, as `podman volume prune` does. Returns their names.
    pub(crate) fn prune_volumes(&mut self) -> Vec<String> {
        let mounted: BTreeSet<_> = self.containers.values().flat_map(|c| volumes_of(&c.spec)).collect();
        let pruned: Vec<_> = self.volumes.keys().filter(|name| !mounted.contains(*name)).cloned().collect();
        self.volumes.retain(|name, _| mounted.contains(name));
        self.changes += 1;
        pruned
    }

    /// Deletes a container; a running one is killed first.
    pub(crate) fn remove(&mut self, id: &ContainerId) {
        if self.containers.get(id).is_some_and(|container| container.state.may_run()) {
            self.kill(id, 137);
        }
        self.changes += 1;
        if let Some(container) = self.containers.remove(id) {
            self.logs.remove(id);
            self.news.emit(id, &container.spec.labels, ContainerEventKind::Removed);
        }
    }

    /// Number of active event subscriptions.
    #[must_use]
    pub(crate) fn listeners(&self) -> usize {
        self.news.listeners()
    }
}

/// The named volumes that a container mounts.
pub(super) fn volumes_of(spec: &ContainerSpec) -> Vec<String> {
    let named = spec.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume(name) => Some(name.clone()),
        MountSource::HostDirectory(_) | MountSource::Tmpfs => None,
    });
    named.collect()
}

pub(super) fn labelled(labels: &BTreeMap<String, String>, key: &str, value: Option<&str>) -> bool {
    labels.get(key).is_some_and(|found| value.is_none_or(|value| found == value))
}

pub(super) fn absent(call: &str, object: &str) -> EngineError {
    EngineError::new(ErrorKind::Absent, format!("{call} {object}"), "not found")
}

pub(super) fn conflict(call: &str, message: impl Into<String>) -> EngineError {
    EngineError::new(ErrorKind::Conflict, call, message)
}
