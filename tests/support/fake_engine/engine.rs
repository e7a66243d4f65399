//! The fake's side of the trait [`Engine`]: each call with its effect.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::stream;
use ostler::{
    domain::{
        ids::ContainerId,
        observed::{ObservedContainer, ObservedVolume},
        runtime::User,
        time::Timestamp,
    },
    engine::{
        ContainerSpec, DiskUsage, Duplex, Engine, EngineError, EngineInfo, EngineResult, EngineUse,
        ErrorKind, EventStream, ExecId, ExecRequest, FileToWrite, InspectedContainer, InspectedVolume,
        ListedNetwork, LogRequest, LogStream, NetworkInfo, Progress, ServiceCommands, Sockets, VolumeSpec,
    },
};

use super::{
    connection::FakeEngine,
    events::Listener,
    faults::{Call, Fault},
    state::State,
};

#[async_trait]
impl Engine for FakeEngine {
    fn commands(&self) -> ServiceCommands {
        ServiceCommands { start: "start the fake".into(), restart: "restart the fake".into() }
    }

    async fn process_use(&self) -> EngineResult<Option<EngineUse>> {
        Ok(None)
    }

    async fn sockets(
        &self,
        _id: &ContainerId,
        _inside: u16,
        _published: u16,
    ) -> EngineResult<Option<Sockets>> {
        Ok(Some(Sockets { listens: true, ..Sockets::default() }))
    }

    async fn can_see_sockets(&self) -> bool {
        true
    }

    async fn end_exec(&self, _exec: &ExecId) -> EngineResult<bool> {
        Ok(false)
    }

    async fn describe(&self) -> EngineResult<EngineInfo> {
        self.call("describe", "", |state| {
            let rootless = state.rootless;
            let ignored_limits = state.ignored_limits.clone();
            Ok(EngineInfo { version: "Fake 1".into(), address: "memory".into(), rootless, ignored_limits })
        })
        .await
    }

    async fn list_containers(&self, key: &str, value: Option<&str>) -> EngineResult<Vec<ObservedContainer>> {
        let (key, value) = (key.to_owned(), value.map(str::to_owned));
        self.list("list_containers", key.clone(), move |state| state.list_containers(&key, value.as_deref()))
            .await
    }

    async fn list_volumes(&self, key: &str, value: Option<&str>) -> EngineResult<Vec<ObservedVolume>> {
        let (key, value) = (key.to_owned(), value.map(str::to_owned));
        self.list("list_volumes", key.clone(), move |state| state.list_volumes(&key, value.as_deref())).await
    }

    async fn inspect_container(&self, id: &ContainerId) -> EngineResult<InspectedContainer> {
        let id = id.clone();
        self.call("inspect_container", id.to_string(), move |state| state.inspect_container(&id)).await
    }

    async fn create_container(&self, spec: &ContainerSpec) -> EngineResult<ContainerId> {
        let spec = spec.clone();
        self.call("create_container", spec.name.clone(), move |state| state.create_container(spec)).await
    }

    async fn start_container(&self, id: &ContainerId) -> EngineResult<()> {
        let id = id.clone();
        self.call("start_container", id.to_string(), move |state| state.start_container(&id)).await
    }

    async fn stop_container(&self, id: &ContainerId, _grace: Duration) -> EngineResult<()> {
        let id = id.clone();
        self.call("stop_container", id.to_string(), move |state| {
            state.stop_container(&id);
            Ok(())
        })
        .await
    }

    async fn rename_container(&self, id: &ContainerId, name: &str) -> EngineResult<()> {
        let (id, name) = (id.clone(), name.to_owned());
        self.call("rename_container", id.to_string(), move |state| state.rename_container(&id, name)).await
    }

    async fn delete_container(&self, id: &ContainerId) -> EngineResult<()> {
        let id = id.clone();
        self.call("delete_container", id.to_string(), move |state| state.delete_container(&id)).await
    }

    async fn create_volume(&self, spec: &VolumeSpec) -> EngineResult<()> {
        let spec = spec.clone();
        self.call("create_volume", spec.name.clone(), move |state| state.create_volume(spec)).await
    }

    async fn inspect_volume(&self, name: &str) -> EngineResult<InspectedVolume> {
        let name = name.to_owned();
        self.call("inspect_volume", name.clone(), move |state| state.inspect_volume(&name)).await
    }

    async fn repair_volume(&self, name: &str, _owner: User) -> EngineResult<()> {
        let name = name.to_owned();
        self.call("repair_volume", name.clone(), move |state| state.repair_volume(&name)).await
    }

    async fn delete_volume(&self, name: &str) -> EngineResult<()> {
        let name = name.to_owned();
        self.call("delete_volume", name.clone(), move |state| state.delete_volume(&name)).await
    }

    async fn write_file(&self, id: &ContainerId, directory: &str, file: &FileToWrite) -> EngineResult<()> {
        let call = Call { method: "write_file", object: id.to_string() };
        let fault = self.world.fault(&call);
        let (id, directory, file) = (id.clone(), directory.to_owned(), file.clone());
        let pretended = fault == Fault::Pretended;
        let effect = move |state: &mut State| state.write_file(&id, &directory, file, pretended);
        self.carry_out(call, fault, effect).await
    }

    async fn read_file(&self, id: &ContainerId, path: &str) -> EngineResult<Vec<u8>> {
        let (id, path) = (id.clone(), path.to_owned());
        self.call("read_file", id.to_string(), move |state| state.read_file(&id, &path)).await
    }

    /// Recorded as `read_file` in the log, and subject to the faults of `read_file`.
    async fn file_holds(&self, id: &ContainerId, path: &str, content: &[u8]) -> EngineResult<bool> {
        Ok(self.read_file(id, path).await? == content)
    }

    async fn ensure_network(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        _isolate: bool,
    ) -> EngineResult<NetworkInfo> {
        let (name, labels) = (name.to_owned(), labels.clone());
        self.call("ensure_network", name.clone(), move |state| Ok(state.ensure_network(name, labels))).await
    }

    async fn list_networks(&self, key: &str, value: &str) -> EngineResult<Vec<ListedNetwork>> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.call("list_networks", "", move |state| Ok(state.list_networks(&key, &value))).await
    }

    async fn delete_network(&self, name: &str) -> EngineResult<()> {
        let name = name.to_owned();
        self.call("delete_network", name.clone(), move |state| state.delete_network(&name)).await
    }

    async fn has_image(&self, image: &str) -> EngineResult<bool> {
        let image = image.to_owned();
        self.call("has_image", image.clone(), move |state| Ok(state.has_image(&image))).await
    }

    async fn pull_image(&self, image: &str, progress: Progress<'_>) -> EngineResult<()> {
        progress("contacting the image registry");
        let image = image.to_owned();
        self.call("pull_image", image.clone(), move |state| state.pull_image(image)).await
    }

    async fn port_is_free(&self, port: u16) -> bool {
        self.world
            .reached(|state| !state.busy_ports.contains(&port) && !state.ports().any(|taken| taken == port))
    }

    async fn disk_usage(&self) -> EngineResult<DiskUsage> {
        Ok(DiskUsage::default())
    }

    /// Logs do not grow while they are read: a follower gets the existing lines only.
    async fn logs(&self, id: &ContainerId, request: LogRequest) -> EngineResult<LogStream> {
        let id = id.clone();
        let written = self.call("logs", id.to_string(), move |state| state.read_log(&id, request.tail));
        Ok(Box::pin(stream::iter(written.await?.into_iter().map(Ok))))
    }

    async fn container_events(
        &self,
        key: &str,
        value: Option<&str>,
        since: Option<Timestamp>,
    ) -> EngineResult<EventStream> {
        let (stage, clock, spawn) = (&self.stage, &self.clock, &self.spawn);
        let (stage, clock, spawn) = (Arc::clone(stage), Arc::clone(clock), Arc::clone(spawn));
        let (listener, events_received) = Listener::new(key, value, stage, clock, spawn);
        self.call("container_events", key, move |state| {
            state.news.listen(listener, since);
            Ok(())
        })
        .await?;
        Ok(events_received)
    }

    async fn create_exec(&self, id: &ContainerId, _request: &ExecRequest) -> EngineResult<ExecId> {
        let refused = |kind, why: &str| Err(EngineError::new(kind, "create exec session", why));
        match self.world.state().containers.get(id) {
            None => refused(ErrorKind::Absent, "no such container"),
            Some(container) if !container.state.may_run() => {
                refused(ErrorKind::Conflict, "container is not running")
            }
            Some(_) => refused(ErrorKind::Other, "the fake engine runs no commands"),
        }
    }

    async fn start_exec(&self, _exec: &ExecId, _tty: bool) -> EngineResult<Box<dyn Duplex>> {
        Err(EngineError::new(ErrorKind::Other, "start exec session", "the fake engine runs no commands"))
    }

    async fn resize_exec(&self, _exec: &ExecId, _columns: u16, _rows: u16) -> EngineResult<()> {
        Ok(())
    }

    async fn exec_exit_code(&self, _exec: &ExecId) -> EngineResult<Option<i32>> {
        Ok(None)
    }
}
