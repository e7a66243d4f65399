//! What the calls for containers do to the fake engine.

use ostler::{
    domain::{
        ids::ContainerId,
        observed::{ContainerState, ObservedContainer},
    },
    engine::{ContainerSpec, EngineError, EngineResult, ErrorKind, InspectedContainer, LogChunk},
};

use super::state::{FakeContainer, State, absent, conflict, labelled, volumes_of};

impl State {
    pub(super) fn list_containers(&self, key: &str, value: Option<&str>) -> Vec<ObservedContainer> {
        let listed = self.containers.iter().filter(|(_, c)| labelled(&c.spec.labels, key, value));
        listed
            .map(|(id, container)| ObservedContainer {
                id: id.clone(),
                name: container.name.clone(),
                labels: container.spec.labels.clone(),
                state: container.state,
                exit_code: container.exit_code,
                started_at: container.started_at,
                networks: vec![container.spec.network.clone()],
            })
            .collect()
    }

    pub(super) fn inspect_container(&self, id: &ContainerId) -> EngineResult<InspectedContainer> {
        let container = self.containers.get(id).ok_or_else(|| absent("inspect container", id.as_str()))?;
        Ok(InspectedContainer {
            id: id.clone(),
            name: container.name.clone(),
            labels: container.spec.labels.clone(),
            state: container.state,
            exit_code: container.exit_code,
            out_of_memory: false,
            env: container.spec.env.clone(),
            volumes: volumes_of(&container.spec),
            host_port: container.spec.publish.map(|(_, host)| host),
            exit_lost: false,
        })
    }

    pub(super) fn create_container(&mut self, spec: ContainerSpec) -> EngineResult<ContainerId> {
        if !self.images.contains(&spec.image) {
            return Err(EngineError::new(ErrorKind::ImageMissing, "create container", "image not known"));
        }
        if self.containers.values().any(|container| container.name == spec.name) {
            return Err(conflict("create container", "name already in use"));
        }
        if let Some(volume) = volumes_of(&spec).iter().find(|name| !self.volumes.contains_key(*name)) {
            return Err(absent("mount volume", volume));
        }
        self.made += 1;
        let id = ContainerId::try_from(format!("{:064x}", self.made))
            .map_err(|error| EngineError::new(ErrorKind::Other, "create container", error.to_string()))?;
        let container = FakeContainer {
            name: spec.name.clone(),
            spec,
            state: ContainerState::Created,
            exit_code: None,
            started_at: None,
            held_token: None,
            starts: 0,
            started_after: 0,
        };
        self.containers.insert(id.clone(), container);
        Ok(id)
    }

    pub(super) fn start_container(&mut self, id: &ContainerId) -> EngineResult<()> {
        let container = self.containers.get(id).ok_or_else(|| absent("start container", id.as_str()))?;
        if container.state.may_run() {
            return Err(conflict("start container", "already running"));
        }
        let missing = |name: &String| self.volumes.get(name).is_none_or(|volume| volume.directory_missing);
        if volumes_of(&container.spec).iter().any(missing) {
            return Err(EngineError::new(ErrorKind::Other, "start container", "a volume is missing"));
        }
        if self.half_started.contains(id) {
            return Err(EngineError::new(
                ErrorKind::HalfStarted,
                "start container",
                "address already in use",
            ));
        }
        let port = container.spec.publish.map(|(_, host)| host);
        let held =
            |other: &FakeContainer| other.state.may_run() && other.spec.publish.map(|(_, host)| host) == port;
        if let Some(port) = port
            && (self.busy_ports.contains(&port) || self.containers.values().any(held))
        {
            return Err(EngineError::new(ErrorKind::PortInUse, "start container", "address already in use"));
        }
        self.run(id);
        if let Some(container) = self.containers.get_mut(id) {
            container.starts += 1;
        }
        Ok(())
    }

    pub(super) fn stop_container(&mut self, id: &ContainerId) {
        if self.containers.get(id).is_some_and(|container| container.state.may_run()) {
            self.kill(id, 143);
        }
    }

    pub(super) fn rename_container(&mut self, id: &ContainerId, name: String) -> EngineResult<()> {
        if self.containers.iter().any(|(other, container)| other != id && container.name == name) {
            return Err(conflict("rename container", "name already in use"));
        }
        let container = self.containers.get_mut(id).ok_or_else(|| absent("rename container", id.as_str()))?;
        container.name = name;
        Ok(())
    }

    pub(super) fn delete_container(&mut self, id: &ContainerId) -> EngineResult<()> {
        if self.containers.get(id).is_some_and(|container| container.state.may_run()) {
            return Err(conflict("delete container", "container is running"));
        }
        self.remove(id);
        Ok(())
    }

    pub(super) fn read_log(&self, id: &ContainerId, tail: Option<u32>) -> EngineResult<Vec<LogChunk>> {
        if !self.containers.contains_key(id) {
            return Err(absent("read log", id.as_str()));
        }
        Ok(last_lines(self.logs.get(id).map_or(&[], Vec::as_slice), tail))
    }
}

/// The last `tail` lines; all of them if `tail` is `None`.
fn last_lines(lines: &[LogChunk], tail: Option<u32>) -> Vec<LogChunk> {
    let kept = tail.map_or(lines.len(), |tail| usize::try_from(tail).unwrap_or(usize::MAX));
    lines[lines.len().saturating_sub(kept)..].to_vec()
}
