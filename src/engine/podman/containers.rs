//! Containers: listing, inspection, and the steps of their life.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use hyper::Method;
use podman_api::opts::{ContainerListFilter, ContainerListOpts};
use serde::Deserialize;

use super::{
    super::{ContainerSpec, EngineError, EngineResult, ErrorKind, InspectedContainer, MountSource},
    client::Podman,
    convert,
    errors::{Failure, one_line, tolerate},
    names::plain,
    processes, service,
};
use crate::{
    domain::{
        ids::ContainerId,
        observed::{ContainerState, ObservedContainer},
    },
    runtime::clock::Clock,
};

/// Number of checks, and the time between them, after which a conmon process that still exists is not considered to be
/// exiting (3 s in all). An exiting conmon takes tens of milliseconds, or some hundreds on a busy machine.
const CONMON_CHECKS: u32 = 20;
const CONMON_CHECK_INTERVAL: Duration = Duration::from_millis(150);

/// Podman's response to a create request.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: ContainerId,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

pub(super) async fn list(
    podman: &Podman,
    key: &str,
    value: Option<&str>,
) -> EngineResult<Vec<ObservedContainer>> {
    let call = "list containers";
    let filter = match value {
        Some(value) => ContainerListFilter::LabelKeyVal(key.to_owned(), value.to_owned()),
        None => ContainerListFilter::LabelKey(key.to_owned()),
    };
    let options = ContainerListOpts::builder().all(true).filter([filter]).build();
    let containers = podman.api.containers();
    let entries = podman.listing(call, || containers.list(&options)).await?;
    let processes: Vec<_> = entries.iter().map(|entry| entry.pid).collect();
    let containers: Result<Vec<_>, _> = entries.into_iter().map(convert::observed_container).collect();
    let mut containers = containers.map_err(|error| EngineError::new(ErrorKind::Other, call, error))?;
    for (container, process) in containers.iter_mut().zip(processes) {
        if container.state.may_run() && service::seems_ended(podman, process).await {
            match inspect(podman, &container.id).await {
                Ok(seen) => (container.state, container.exit_code) = (seen.state, seen.exit_code),
                // Deleted since the listing; the next listing shows it.
                Err(error) if error.kind == ErrorKind::Absent => {}
                Err(error) => return Err(error),
            }
        }
    }
    containers.retain(|container| convert::labelled(&container.labels, key, value));
    Ok(containers)
}

/// Uses the raw client: podman-api's inspection measures the size of the container's files each time.
pub(super) async fn inspect(podman: &Podman, id: &ContainerId) -> EngineResult<InspectedContainer> {
    let target = format!("/libpod/containers/{id}/json");
    let found = podman.raw.json(Method::GET, &target, None).await;
    let call = format!("inspect container {}", id.short());
    let (mut seen, process, conmon) = found.map(convert::inspected).map_err(podman.failed(call))?;
    // While conmon is running, it can still report the exit.
    if seen.state.may_run()
        && service::seems_ended(podman, process).await
        && service::seems_ended(podman, conmon).await
        && confirms_exit(podman, id).await
    {
        (seen.state, seen.exit_code, seen.exit_lost) = (ContainerState::Exited, None, true);
    }
    Ok(seen)
}

/// Whether the process of a container has ended without a reported exit, confirmed by Podman's runtime. The runtime
/// refuses a signal if there is no process to receive it. The signal is SIGCONT, which does not affect a running
/// process.
async fn confirms_exit(podman: &Podman, id: &ContainerId) -> bool {
    let asked = podman.order(Method::POST, &format!("/libpod/containers/{id}/kill?signal=SIGCONT")).await;
    asked.is_err_and(|failure| failure.is_already_stopped())
}

pub(super) async fn create(podman: &Podman, spec: &ContainerSpec) -> EngineResult<ContainerId> {
    let call = format!("create container {}", spec.name);
    require_volumes(podman, &call, spec).await?;
    let body = convert::create_body(spec);
    let created = podman.raw.json(Method::POST, "/libpod/containers/create", Some(&body)).await;
    let Created { id, warnings } = created.map_err(podman.failed(call))?;
    if let Some(warnings) = warnings.filter(|warnings| !warnings.is_empty()) {
        // In rootless mode on cgroup v1 the limits are ignored, and only this warning reports that.
        let warnings = one_line(&warnings.join("; "));
        tracing::warn!(container = %spec.name, warnings, "container created with warnings");
    }
    Ok(id)
}

/// Returns an error if a volume of the container does not exist. Podman would silently create it, empty.
async fn require_volumes(podman: &Podman, call: &str, spec: &ContainerSpec) -> EngineResult<()> {
    for mount in &spec.mounts {
        let MountSource::Volume(name) = &mount.source else { continue };
        let there = podman.api.volumes().get(plain(call, name)?).exists().await;
        if !there.map_err(podman.failed(call))? {
            return Err(EngineError::new(ErrorKind::Absent, call, format!("volume {name} does not exist")));
        }
    }
    Ok(())
}

pub(super) async fn start(podman: &Podman, id: &ContainerId) -> EngineResult<()> {
    let call = format!("start container {}", id.short());
    let started = podman.api.containers().get(id.as_str()).start(None).await;
    let mut error = match started.map_err(podman.failed(call)) {
        Err(error) if error.kind == ErrorKind::PortInUse => error,
        other => return other,
    };
    error.kind = if processes::has_conmon(id) {
        // If the container has just exited, its conmon will exit shortly and release the port.
        if conmon_stays(podman, id).await { ErrorKind::HalfStarted } else { ErrorKind::Conflict }
    } else if is_port_free_again(podman, id).await {
        // The port was held only briefly, or by this container's own process, which has ended since. `PortInUse`
        // would report a lasting cause.
        ErrorKind::Conflict
    } else {
        ErrorKind::PortInUse
    };
    Err(error)
}

/// Whether the conmon of a container that Podman does not consider running still exists after all checks.
async fn conmon_stays(podman: &Podman, id: &ContainerId) -> bool {
    for _ in 0..CONMON_CHECKS {
        podman.clock.sleep(CONMON_CHECK_INTERVAL).await;
        if !processes::has_conmon(id) {
            return false;
        }
    }
    true
}

/// Whether the host port that a container failed to bind is free again.
async fn is_port_free_again(podman: &Podman, id: &ContainerId) -> bool {
    let port = inspect(podman, id).await.ok().and_then(|seen| seen.host_port);
    match port {
        Some(port) => port_is_free(port),
        None => false,
    }
}

/// Uses the raw client: podman-api sends `Timeout=`, which Podman ignores.
pub(super) async fn stop(podman: &Podman, id: &ContainerId, grace: Duration) -> EngineResult<()> {
    let timeout = convert::whole_seconds(grace);
    let target = format!("/libpod/containers/{id}/stop?timeout={timeout}");
    let mut stopped = podman.order(Method::POST, &target).await;
    if stopped.as_ref().is_err_and(Failure::is_wrong_state) && unpause(podman, id).await {
        stopped = podman.order(Method::POST, &target).await;
    }
    let stopped = match stopped {
        // The stop took effect. Callers verify the container's state after a stop.
        Err(failure) if failure.is_exit_code_lost() => Ok(()),
        other => other,
    };
    tolerate(stopped, &[304, 404]).map_err(podman.failed(format!("stop container {}", id.short())))
}

/// Unpauses a container. `false` if it was not paused, or if unpausing failed.
async fn unpause(podman: &Podman, id: &ContainerId) -> bool {
    let is_paused = |seen: InspectedContainer| seen.state == ContainerState::Paused;
    inspect(podman, id).await.is_ok_and(is_paused)
        && podman.order(Method::POST, &format!("/libpod/containers/{id}/unpause")).await.is_ok()
}

pub(super) async fn rename(podman: &Podman, id: &ContainerId, name: &str) -> EngineResult<()> {
    let call = format!("rename container {} to {name}", id.short());
    podman.api.containers().get(id.as_str()).rename(name).await.map_err(podman.failed(call))
}

/// Uses the raw client: podman-api sends `v=` instead of `volumes=`, so that image-declared volumes would
/// accumulate.
pub(super) async fn delete(podman: &Podman, id: &ContainerId) -> EngineResult<()> {
    let target = format!("/libpod/containers/{id}?volumes=true");
    let deleted = podman.order(Method::DELETE, &target).await;
    tolerate(deleted, &[404]).map_err(podman.failed(format!("delete container {}", id.short())))
}

pub(super) fn port_is_free(port: u16) -> bool {
    port != 0 && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
