//! The Podman service itself: its process, version, host and disk usage.

use std::{io, time::Duration};

use hyper::Method;
use serde::Deserialize;
use tokio::net::UnixStream;

use super::{
    super::{DiskUsage, EngineError, EngineInfo, EngineResult, EngineUse, ErrorKind},
    client::Podman,
    convert,
    host::Host,
    processes,
};
use crate::{domain::ids::ContainerId, runtime::clock::Clock};

/// Interval over which processor time is measured.
const USE_OVER: Duration = Duration::from_millis(300);

/// Podman's report of its disk usage.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Usage {
    #[serde(default)]
    containers: Option<Vec<ContainerUsage>>,
    #[serde(default)]
    volumes: Option<Vec<VolumeUsage>>,
}

#[derive(Deserialize)]
struct ContainerUsage {
    #[serde(rename = "ContainerID")]
    container_id: ContainerId,
    #[serde(rename = "RWSize")]
    rw_size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VolumeUsage {
    volume_name: String,
    size: u64,
}

pub(super) async fn process_use(podman: &Podman) -> EngineResult<Option<EngineUse>> {
    let Some(process) = service_process(podman).await.ok().flatten() else { return Ok(None) };
    let Some((before, _)) = processes::used_by(process) else { return Ok(None) };
    let since = podman.clock.awake();
    podman.clock.sleep(USE_OVER).await;
    let Some((after, memory_bytes)) = processes::used_by(process) else { return Ok(None) };
    let passed = Duration::from_millis(podman.clock.awake().0 - since.0);
    let cores = after.saturating_sub(before).as_secs_f64() / passed.as_secs_f64().max(f64::EPSILON);
    Ok(Some(EngineUse { process: process.unsigned_abs(), memory_bytes, cores }))
}

/// Whether a process that Podman reports has ended, as far as ostler can see. If ostler itself runs in a container,
/// it sees no such process, and the result is `false`.
pub(super) async fn seems_ended(podman: &Podman, process: Option<i64>) -> bool {
    let Some(process) = process.filter(|process| *process > 0) else { return false };
    if processes::is_alive(process) {
        return false;
    }
    can_see_processes(podman).await
}

/// Whether ostler can see the processes that Podman reports.
pub(super) async fn can_see_processes(podman: &Podman) -> bool {
    let lookup = async { Ok::<_, io::Error>(service_process(podman).await?.is_some()) };
    podman.can_see_processes.get_or_try_init(|| lookup).await.is_ok_and(|sees| *sees)
}

/// Id of the process that serves the socket; `None` if ostler cannot see it. Under systemd's socket activation this
/// is systemd until the service has been started.
async fn service_process(podman: &Podman) -> io::Result<Option<i32>> {
    let stream = UnixStream::connect(podman.address.path()).await?;
    Ok(stream.peer_cred()?.pid().filter(|pid| *pid > 0))
}

/// A ping returns the version within 1 to 2 ms. Podman's `info` and `version` run other programs and take a hundred
/// times as long, so the properties that only they return are queried once.
pub(super) async fn describe(podman: &Podman) -> EngineResult<EngineInfo> {
    let call = "query Podman's version";
    let version = podman.api.ping().await.map_err(podman.failed(call))?.libpod_api_version;
    let host = podman.host.get_or_try_init(|| ask_host(podman, call)).await?;
    Ok(EngineInfo {
        version: format!("Podman {version}"),
        address: podman.address.to_string(),
        rootless: host.rootless,
        ignored_limits: host.ignored_limits.clone(),
    })
}

async fn ask_host(podman: &Podman, call: &str) -> EngineResult<Host> {
    let silent =
        || EngineError::new(ErrorKind::Other, call, "Podman does not report whether it runs rootless");
    let host = podman.api.info().await.map_err(podman.failed(call))?.host.ok_or_else(silent)?;
    let rootless = host.security.and_then(|security| security.rootless).ok_or_else(silent)?;
    let version = host.cgroup_version.unwrap_or_default();
    let controllers = host.cgroup_controllers.unwrap_or_default();
    Ok(Host { rootless, ignored_limits: convert::ignored_limits(rootless, &version, &controllers) })
}

pub(super) async fn disk_usage(podman: &Podman) -> EngineResult<DiskUsage> {
    let call = "read disk usage";
    let seen: Usage =
        podman.raw.json(Method::GET, "/libpod/system/df", None).await.map_err(podman.failed(call))?;
    let containers = seen.containers.unwrap_or_default().into_iter();
    let volumes = seen.volumes.unwrap_or_default().into_iter();
    Ok(DiskUsage {
        containers: containers.map(|container| (container.container_id, container.rw_size)).collect(),
        volumes: volumes.map(|volume| (volume.volume_name, volume.size)).collect(),
    })
}
