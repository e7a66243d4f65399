//! Podman, over its unix socket.
//!
//! Most calls use podman-api; `raw` makes the calls that podman-api implements incorrectly. podman-api misspells
//! `no_new_privileges` and the stop timeout, which Podman then silently ignores. It measures a container's size at
//! every inspection, leaks anonymous volumes, and cannot start a command that the same handle did not prepare. Each
//! defect has a test against the real server that fails once podman-api is fixed, so that the workaround can be
//! removed.
//!
//! podman-api panics on an id or name that cannot be part of an address, and `/`, `?` or `..` in a name change the
//! request. Container ids cannot contain such characters; every other name is checked by `names` first.
//!
//! `client` has the client and what all calls share. The calls are in one file for each kind of object.

mod archive;
mod client;
mod containers;
mod convert;
mod directory;
mod errors;
mod events;
mod exec;
mod files;
mod host;
mod images;
mod log_file;
mod logs;
mod names;
mod networks;
mod processes;
mod raw;
mod service;
pub mod socket;
mod sockets;
mod states;
mod volumes;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;

pub use client::Podman;

use super::{
    ContainerSpec, DiskUsage, Duplex, Engine, EngineInfo, EngineResult, EngineUse, EventStream, ExecId,
    ExecRequest, FileToWrite, InspectedContainer, InspectedVolume, ListedNetwork, LogRequest, LogStream,
    NetworkInfo, Progress, ServiceCommands, Sockets, VolumeSpec,
};
use crate::domain::{
    ids::ContainerId,
    observed::{ObservedContainer, ObservedVolume},
    runtime::User,
    time::Timestamp,
};

#[async_trait]
impl Engine for Podman {
    fn commands(&self) -> ServiceCommands {
        self.address.commands()
    }

    async fn process_use(&self) -> EngineResult<Option<EngineUse>> {
        service::process_use(self).await
    }

    async fn sockets(&self, id: &ContainerId, inside: u16, published: u16) -> EngineResult<Option<Sockets>> {
        sockets::of_container(self, id, inside, published).await
    }

    async fn can_see_sockets(&self) -> bool {
        service::can_see_processes(self).await
    }

    async fn end_exec(&self, exec: &ExecId) -> EngineResult<bool> {
        exec::end(self, exec).await
    }

    async fn describe(&self) -> EngineResult<EngineInfo> {
        service::describe(self).await
    }

    async fn list_containers(&self, key: &str, value: Option<&str>) -> EngineResult<Vec<ObservedContainer>> {
        containers::list(self, key, value).await
    }

    async fn list_volumes(&self, key: &str, value: Option<&str>) -> EngineResult<Vec<ObservedVolume>> {
        volumes::list(self, key, value).await
    }

    async fn inspect_container(&self, id: &ContainerId) -> EngineResult<InspectedContainer> {
        containers::inspect(self, id).await
    }

    async fn create_container(&self, spec: &ContainerSpec) -> EngineResult<ContainerId> {
        containers::create(self, spec).await
    }

    async fn start_container(&self, id: &ContainerId) -> EngineResult<()> {
        containers::start(self, id).await
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> EngineResult<()> {
        containers::stop(self, id, grace).await
    }

    async fn rename_container(&self, id: &ContainerId, name: &str) -> EngineResult<()> {
        containers::rename(self, id, name).await
    }

    async fn delete_container(&self, id: &ContainerId) -> EngineResult<()> {
        containers::delete(self, id).await
    }

    async fn create_volume(&self, spec: &VolumeSpec) -> EngineResult<()> {
        volumes::create(self, spec).await
    }

    async fn inspect_volume(&self, name: &str) -> EngineResult<InspectedVolume> {
        volumes::inspect(self, name).await
    }

    async fn repair_volume(&self, name: &str, owner: User) -> EngineResult<()> {
        volumes::repair(self, name, owner).await
    }

    async fn delete_volume(&self, name: &str) -> EngineResult<()> {
        volumes::delete(self, name).await
    }

    async fn write_file(&self, id: &ContainerId, directory: &str, file: &FileToWrite) -> EngineResult<()> {
        files::write(self, id, directory, file).await
    }

    async fn read_file(&self, id: &ContainerId, path: &str) -> EngineResult<Vec<u8>> {
        files::read(self, id, path).await
    }

    async fn file_holds(&self, id: &ContainerId, path: &str, content: &[u8]) -> EngineResult<bool> {
        files::holds(self, id, path, content).await
    }

    async fn ensure_network(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        isolate: bool,
    ) -> EngineResult<NetworkInfo> {
        networks::ensure(self, name, labels, isolate).await
    }

    async fn list_networks(&self, key: &str, value: &str) -> EngineResult<Vec<ListedNetwork>> {
        networks::list(self, key, value).await
    }

    async fn delete_network(&self, name: &str) -> EngineResult<()> {
        networks::delete(self, name).await
    }

    async fn has_image(&self, image: &str) -> EngineResult<bool> {
        images::exists(self, image).await
    }

    async fn pull_image(&self, image: &str, progress: Progress<'_>) -> EngineResult<()> {
        images::pull(self, image, progress).await
    }

    async fn port_is_free(&self, port: u16) -> bool {
        containers::port_is_free(port)
    }

    async fn disk_usage(&self) -> EngineResult<DiskUsage> {
        service::disk_usage(self).await
    }

    async fn logs(&self, id: &ContainerId, request: LogRequest) -> EngineResult<LogStream> {
        logs::read(self, id, request).await
    }

    async fn container_events(
        &self,
        key: &str,
        value: Option<&str>,
        since: Option<Timestamp>,
    ) -> EngineResult<EventStream> {
        events::subscribe(self, key, value, since).await
    }

    async fn create_exec(&self, id: &ContainerId, request: &ExecRequest) -> EngineResult<ExecId> {
        exec::create(self, id, request).await
    }

    async fn start_exec(&self, exec: &ExecId, tty: bool) -> EngineResult<Box<dyn Duplex>> {
        exec::start(self, exec, tty).await
    }

    async fn resize_exec(&self, exec: &ExecId, columns: u16, rows: u16) -> EngineResult<()> {
        exec::resize(self, exec, columns, rows).await
    }

    async fn exec_exit_code(&self, exec: &ExecId) -> EngineResult<Option<i32>> {
        exec::exit_code(self, exec).await
    }
}
