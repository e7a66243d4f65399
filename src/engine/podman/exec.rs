//! Commands in containers: exec sessions.

use std::time::Duration;

use hyper::Method;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::json;

use super::{
    super::{Duplex, EngineResult, ExecId, ExecRequest},
    client::Podman,
    convert,
    names::plain,
    processes::Process,
    service,
};
use crate::{domain::ids::ContainerId, runtime::clock::Clock};

/// Number of checks, and the time between them, that a command gets to exit after SIGTERM before it is killed: 2 s.
const EXIT_CHECKS: u32 = 20;
const EXIT_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Podman's report of an exec session.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ExecInspection {
    running: bool,
    exit_code: i32,
    #[serde(default)]
    pid: i64,
}

pub(super) async fn create(podman: &Podman, id: &ContainerId, request: &ExecRequest) -> EngineResult<ExecId> {
    let call = format!("create exec session in container {}", id.short());
    let container = podman.api.containers().get(id.as_str());
    let exec = container.create_exec(&convert::exec_options(request)).await;
    exec.map(|exec| ExecId(exec.id().to_string())).map_err(podman.failed(call))
}

/// Uses the raw client: podman-api starts only commands that the same handle prepared.
pub(super) async fn start(podman: &Podman, exec: &ExecId, tty: bool) -> EngineResult<Box<dyn Duplex>> {
    let call = "start exec session";
    let target = exec_target(call, exec, "start")?;
    let stream = podman.raw.upgrade(&target, &json!({ "Detach": false, "Tty": tty })).await;
    stream.map(|stream| Box::new(stream) as Box<dyn Duplex>).map_err(podman.failed(call))
}

pub(super) async fn resize(podman: &Podman, exec: &ExecId, columns: u16, rows: u16) -> EngineResult<()> {
    let call = "resize exec session";
    let target = exec_target(call, exec, &format!("resize?w={columns}&h={rows}"))?;
    podman.order(Method::POST, &target).await.map_err(podman.failed(call))
}

pub(super) async fn exit_code(podman: &Podman, exec: &ExecId) -> EngineResult<Option<i32>> {
    let call = "inspect exec session";
    let ExecInspection { running, exit_code, .. } = inspection(podman, call, exec).await?;
    Ok((!running).then_some(exit_code))
}

pub(super) async fn end(podman: &Podman, exec: &ExecId) -> EngineResult<bool> {
    let call = "end exec session";
    let ExecInspection { running, pid, .. } = inspection(podman, call, exec).await?;
    if !running {
        return Ok(true);
    }
    if !service::can_see_processes(podman).await {
        return Ok(false);
    }
    let Some(process) = Process::find(pid) else { return Ok(false) };
    // Inspected again after `Process::find`: if the command ended before that, the id may have been reused, and
    // `process` is then another process.
    if !inspection(podman, call, exec).await?.running || !process.signal(Signal::TERM) {
        return Ok(inspection(podman, call, exec).await.is_ok_and(|seen| !seen.running));
    }
    for _ in 0..EXIT_CHECKS {
        podman.clock.sleep(EXIT_CHECK_INTERVAL).await;
        if !process.is_alive() {
            return Ok(true);
        }
    }
    Ok(process.signal(Signal::KILL))
}

async fn inspection(podman: &Podman, call: &str, exec: &ExecId) -> EngineResult<ExecInspection> {
    let target = exec_target(call, exec, "json")?;
    podman.raw.json(Method::GET, &target, None).await.map_err(podman.failed(call))
}

fn exec_target(call: &str, exec: &ExecId, action: &str) -> EngineResult<String> {
    Ok(format!("/libpod/exec/{}/{action}", plain(call, &exec.0)?))
}
