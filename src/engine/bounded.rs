//! A deadline for every engine call.
//!
//! podman-api has no timeouts, and a service can accept a connection and then never answer. One wrapper around any
//! engine sets the deadlines. No implementation can therefore omit them, and the fake engine has the same deadlines on
//! its virtual clock. Dropping a call does not cancel it in the engine.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    ContainerSpec, DiskUsage, Duplex, Engine, EngineError, EngineInfo, EngineResult, EngineUse, ErrorKind,
    EventStream, ExecId, ExecRequest, FileToWrite, InspectedContainer, InspectedVolume, ListedNetwork,
    LogRequest, LogStream, NetworkInfo, Progress, ServiceCommands, Sockets, VolumeSpec,
};
use crate::{
    domain::{
        duration::words,
        ids::ContainerId,
        observed::{ObservedContainer, ObservedVolume},
        runtime::User,
        time::Timestamp,
    },
    runtime::clock::{SharedClock, within},
};

/// Deadline of each class of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Reads: listings, inspections, small files. A listing of 200 containers took 0.2 s on two busy cores; the default
    /// leaves room for a machine that swaps.
    pub read: Duration,
    /// Changes: create, start, rename, delete. A stop gets this in addition to its grace period.
    pub change: Duration,
    /// Pulls of an image.
    pub pull: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { read: Duration::from_secs(20), change: Duration::from_mins(1), pull: Duration::from_mins(30) }
    }
}

/// An engine with a deadline for every call.
pub struct Bounded {
    engine: Arc<dyn Engine>,
    clock: SharedClock,
    deadlines: Deadlines,
}

impl Bounded {
    /// Adds deadlines to an engine.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, clock: SharedClock, deadlines: Deadlines) -> Self {
        Self { engine, clock, deadlines }
    }

    async fn read<T>(
        &self,
        call: impl FnOnce() -> String,
        work: impl Future<Output = EngineResult<T>>,
    ) -> EngineResult<T> {
        self.limit(self.deadlines.read, call, work).await
    }

    async fn change<T>(
        &self,
        call: impl FnOnce() -> String,
        work: impl Future<Output = EngineResult<T>>,
    ) -> EngineResult<T> {
        self.limit(self.deadlines.change, call, work).await
    }

    async fn limit<T>(
        &self,
        limit: Duration,
        call: impl FnOnce() -> String,
        work: impl Future<Output = EngineResult<T>>,
    ) -> EngineResult<T> {
        within(&*self.clock, limit, work).await.unwrap_or_else(|| {
            Err(EngineError::new(
                ErrorKind::TimedOut,
                call(),
                format!("no answer within {}; the call may still take effect", words(limit)),
            ))
        })
    }
}

#[async_trait]
impl Engine for Bounded {
    async fn describe(&self) -> EngineResult<EngineInfo> {
        self.read(|| "query the engine's version".into(), self.engine.describe()).await
    }

    fn commands(&self) -> ServiceCommands {
        self.engine.commands()
    }

    async fn process_use(&self) -> EngineResult<Option<EngineUse>> {
        self.read(|| "read the engine process's resource use".into(), self.engine.process_use()).await
    }

    async fn sockets(&self, id: &ContainerId, inside: u16, published: u16) -> EngineResult<Option<Sockets>> {
        let call = || format!("list the sockets of container {}", id.short());
        self.read(call, self.engine.sockets(id, inside, published)).await
    }

    async fn can_see_sockets(&self) -> bool {
        let check = async { Ok(self.engine.can_see_sockets().await) };
        self.read(|| "find the engine's process".into(), check).await.unwrap_or(false)
    }

    async fn end_exec(&self, exec: &ExecId) -> EngineResult<bool> {
        self.change(|| "end exec session".into(), self.engine.end_exec(exec)).await
    }

    async fn list_containers(&self, key: &str, value: Option<&str>) -> EngineResult<Vec<ObservedContainer>> {
        self.read(|| "list containers".into(), self.engine.list_containers(key, value)).await
    }

    async fn list_volumes(&self, key: &str, value: Option<&str>) -> EngineResult<Vec<ObservedVolume>> {
        self.read(|| "list volumes".into(), self.engine.list_volumes(key, value)).await
    }

    async fn inspect_container(&self, id: &ContainerId) -> EngineResult<InspectedContainer> {
        self.read(|| format!("inspect container {}", id.short()), self.engine.inspect_container(id)).await
    }

    async fn create_container(&self, spec: &ContainerSpec) -> EngineResult<ContainerId> {
        self.change(|| format!("create container {}", spec.name), self.engine.create_container(spec)).await
    }

    async fn start_container(&self, id: &ContainerId) -> EngineResult<()> {
        self.change(|| format!("start container {}", id.short()), self.engine.start_container(id)).await
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> EngineResult<()> {
        let limit = grace + self.deadlines.change;
        let call = || format!("stop container {}", id.short());
        self.limit(limit, call, self.engine.stop_container(id, grace)).await
    }

    async fn rename_container(&self, id: &ContainerId, name: &str) -> EngineResult<()> {
        self.change(
            || format!("rename container {} to {name}", id.short()),
            self.engine.rename_container(id, name),
        )
        .await
    }

    async fn delete_container(&self, id: &ContainerId) -> EngineResult<()> {
        self.change(|| format!("delete container {}", id.short()), self.engine.delete_container(id)).await
    }

    async fn create_volume(&self, spec: &VolumeSpec) -> EngineResult<()> {
        self.change(|| format!("create volume {}", spec.name), self.engine.create_volume(spec)).await
    }

    async fn inspect_volume(&self, name: &str) -> EngineResult<InspectedVolume> {
        self.read(|| format!("inspect volume {name}"), self.engine.inspect_volume(name)).await
    }

    async fn repair_volume(&self, name: &str, owner: User) -> EngineResult<()> {
        self.change(|| format!("repair volume {name}"), self.engine.repair_volume(name, owner)).await
    }

    async fn delete_volume(&self, name: &str) -> EngineResult<()> {
        self.change(|| format!("delete volume {name}"), self.engine.delete_volume(name)).await
    }

    async fn write_file(&self, id: &ContainerId, directory: &str, file: &FileToWrite) -> EngineResult<()> {
        let call = || format!("write {directory}/{} into container {}", file.name, id.short());
        self.change(call, self.engine.write_file(id, directory, file)).await
    }

    async fn read_file(&self, id: &ContainerId, path: &str) -> EngineResult<Vec<u8>> {
        self.read(|| format!("read {path} of container {}", id.short()), self.engine.read_file(id, path))
            .await
    }

    async fn file_holds(&self, id: &ContainerId, path: &str, content: &[u8]) -> EngineResult<bool> {
        let call = || format!("read {path} of container {}", id.short());
        self.read(call, self.engine.file_holds(id, path, content)).await
    }

    async fn ensure_network(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        isolate: bool,
    ) -> EngineResult<NetworkInfo> {
        let call = || format!("create network {name}");
        self.change(call, self.engine.ensure_network(name, labels, isolate)).await
    }

    async fn list_networks(&self, key: &str, value: &str) -> EngineResult<Vec<ListedNetwork>> {
        self.read(|| format!("list networks with {key}={value}"), self.engine.list_networks(key, value)).await
    }

    async fn delete_network(&self, name: &str) -> EngineResult<()> {
        self.change(|| format!("delete network {name}"), self.engine.delete_network(name)).await
    }

    async fn has_image(&self, image: &str) -> EngineResult<bool> {
        self.read(|| format!("inspect image {image}"), self.engine.has_image(image)).await
    }

    async fn pull_image(&self, image: &str, progress: Progress<'_>) -> EngineResult<()> {
        let call = || format!("pull image {image}");
        self.limit(self.deadlines.pull, call, self.engine.pull_image(image, progress)).await
    }

    async fn port_is_free(&self, port: u16) -> bool {
        self.engine.port_is_free(port).await
    }

    async fn disk_usage(&self) -> EngineResult<DiskUsage> {
        self.read(|| "read disk usage".into(), self.engine.disk_usage()).await
    }

    async fn logs(&self, id: &ContainerId, request: LogRequest) -> EngineResult<LogStream> {
        self.read(|| format!("read the log of container {}", id.short()), self.engine.logs(id, request)).await
    }

    /// The deadline covers the wait for the engine's response, not the lifetime of the stream, which sends nothing as
    /// long as no event occurs.
    async fn container_events(
        &self,
        key: &str,
        value: Option<&str>,
        since: Option<Timestamp>,
    ) -> EngineResult<EventStream> {
        let call = || "subscribe to container events".into();
        self.read(call, self.engine.container_events(key, value, since)).await
    }

    async fn create_exec(&self, id: &ContainerId, request: &ExecRequest) -> EngineResult<ExecId> {
        let call = || format!("create exec session in container {}", id.short());
        self.change(call, self.engine.create_exec(id, request)).await
    }

    async fn start_exec(&self, exec: &ExecId, tty: bool) -> EngineResult<Box<dyn Duplex>> {
        self.change(|| "start exec session".into(), self.engine.start_exec(exec, tty)).await
    }

    async fn resize_exec(&self, exec: &ExecId, columns: u16, rows: u16) -> EngineResult<()> {
        self.read(|| "resize exec session".into(), self.engine.resize_exec(exec, columns, rows)).await
    }

    async fn exec_exit_code(&self, exec: &ExecId) -> EngineResult<Option<i32>> {
        self.read(|| "inspect exec session".into(), self.engine.exec_exit_code(exec)).await
    }
}
