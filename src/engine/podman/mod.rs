//! Podman, over its unix socket.
//!
//! Most calls use podman-api; `raw` makes the calls that podman-api implements incorrectly. podman-api misspells
//! `no_new_privileges` and the stop timeout, which Podman then silently ignores. It measures a container's size at
//! every inspection, leaks anonymous volumes, and cannot start a command that the same handle did not prepare. Each
//! defect has a test against the real server that fails once podman-api is fixed, so that the workaround can be
//! removed.
//!
//! podman-api panics on an id or name that cannot be part of an address, and `/`, `?` or `..` in a name change the
//! request. Container ids cannot contain such characters; every other name is checked by `plain` first.

mod archive;
mod convert;
mod directory;
mod errors;
mod events;
mod log_file;
mod processes;
mod raw;
pub mod socket;
mod sockets;
mod states;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::{Future, ready},
    io,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, TryFutureExt, TryStreamExt, stream};
use hyper::Method;
use podman_api::{
    conn::TtyChunk,
    models::LibpodImagesPullReport,
    opts::{
        ContainerListFilter, ContainerListOpts, ContainerLogsOpts, NetworkCreateOpts, PullOpts,
        VolumeCreateOpts, VolumeListFilter, VolumeListOpts,
    },
};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    net::UnixStream,
    sync::{OnceCell, mpsc},
};

use self::{
    convert::{LogInspection, LogSource},
    errors::{Failure, one_line},
    log_file::LogFile,
    processes::{Conmon, Process},
    raw::{Raw, escape},
    socket::SocketAddress,
};
use super::{
    ContainerSpec, DiskUsage, Duplex, Engine, EngineError, EngineInfo, EngineResult, EngineUse, ErrorKind,
    EventStream, ExecId, ExecRequest, FileToWrite, InspectedContainer, InspectedVolume, ListedNetwork,
    LogChunk, LogRequest, LogStream, MountSource, NetworkInfo, Progress, ServiceCommands, Sockets, TOO_LONG,
    VolumeSpec,
};
use crate::{
    domain::{
        ids::ContainerId,
        observed::{ContainerState, ObservedContainer, ObservedVolume},
        runtime::User,
        time::Timestamp,
    },
    runtime::clock::{Clock, SystemClock},
};

/// Maximum response size, in bytes, of a call whose response body is not used.
const ACKNOWLEDGEMENT_MAX_BYTES: usize = 1 << 20;

/// Maximum number of attempts at a listing. A concurrent deletion makes a listing fail: in a measurement, one listing
/// in a thousand failed while a process created and deleted volumes without a pause.
const LISTING_TRIES: usize = 4;

/// Number of checks, and the time between them, after which a conmon process that still exists is not considered to be
/// exiting (3 s in all). An exiting conmon takes tens of milliseconds, or some hundreds on a busy machine.
const CONMON_CHECKS: u32 = 20;
const CONMON_CHECK_INTERVAL: Duration = Duration::from_millis(150);

/// Interval over which processor time is measured.
const USE_OVER: Duration = Duration::from_millis(300);

/// Number of checks, and the time between them, that a command gets to exit after SIGTERM before it is killed: 2 s.
const EXIT_CHECKS: u32 = 20;
const EXIT_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Properties of Podman's host. They do not change while its service runs, so they are queried once.
struct Host {
    rootless: bool,
    ignored_limits: Vec<&'static str>,
}

/// Client of one Podman service.
pub struct Podman {
    address: SocketAddress,
    api: podman_api::Podman,
    raw: Raw,
    clock: SystemClock,
    /// Queried once: the host of a service does not change.
    host: OnceCell<Host>,
    /// Whether ostler can see the processes that the service reports. Also determined once.
    can_see_processes: OnceCell<bool>,
    /// First processes of containers, cached by container id.
    processes: Mutex<HashMap<ContainerId, Process>>,
}

/// Podman's response to a create request.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: ContainerId,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// Podman's report of its disk usage.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Usage {
    #[serde(default)]
    containers: Option<Vec<ContainerUsage>>,
    #[serde(default)]
    volumes: Option<Vec<VolumeUsage>>,
}

/// A network in Podman's listing.
#[derive(Deserialize)]
struct SeenNetwork {
    name: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    subnets: Option<Vec<SeenSubnet>>,
}

#[derive(Deserialize)]
struct SeenSubnet {
    #[serde(default)]
    gateway: Option<std::net::IpAddr>,
    subnet: String,
}

impl SeenNetwork {
    fn listed(self) -> ListedNetwork {
        let subnets = self.subnets.unwrap_or_default();
        let info = NetworkInfo {
            gateway: subnets.iter().find_map(|seen| seen.gateway),
            subnet: subnets.iter().find_map(|seen| seen.subnet.parse().ok()),
        };
        ListedNetwork { name: self.name, labels: self.labels.unwrap_or_default(), info }
    }
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

/// Podman's report of an exec session.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ExecInspection {
    running: bool,
    exit_code: i32,
    #[serde(default)]
    pid: i64,
}

impl Podman {
    /// Creates a client for the service at this address. Does no IO; [`Engine::describe`] shows whether the service
    /// answers.
    #[must_use]
    pub fn connect(address: &SocketAddress) -> Self {
        Self {
            address: address.clone(),
            // Uses podman-api's default version prefix: under the prefix of Podman 5, podman-api cannot parse an
            // inspection.
            api: podman_api::Podman::unix(address.path()),
            raw: Raw::new(address.path()),
            clock: SystemClock::start(),
            host: OnceCell::new(),
            can_see_processes: OnceCell::new(),
            processes: Mutex::default(),
        }
    }

    /// Converts a failure into the error of this call.
    fn failed<F: Into<Failure>>(&self, call: impl Into<String>) -> impl FnOnce(F) -> EngineError {
        move |failure| {
            let mut error = failure.into().of(call);
            if error.kind == ErrorKind::Unreachable {
                error.message = format!(
                    "Podman does not answer at {} ({}). Check that its service is running",
                    self.address, error.message
                );
            }
            error
        }
    }

    /// Takes a listing, and repeats it if a volume or container deleted meanwhile made it fail. Podman then fails the
    /// whole listing, even if the deleted object does not match the filter.
    ///
    /// "Not found" is never returned as [`ErrorKind::Absent`], because it concerns the deleted object.
    async fn listing<T, F: Future<Output = podman_api::Result<T>>>(
        &self,
        call: &str,
        ask: impl Fn() -> F,
    ) -> EngineResult<T> {
        let mut tries = 1;
        loop {
            match ask().await.map_err(Failure::from) {
                Ok(listing) => return Ok(listing),
                Err(failure) if failure.is_not_found() && tries < LISTING_TRIES => tries += 1,
                Err(failure) => return Err(self.failed(call)(failure.undecided())),
            }
        }
    }

    /// Sends a request and discards the response body.
    async fn order(&self, method: Method, target: &str) -> Result<(), Failure> {
        self.raw.send(method, target, None, ACKNOWLEDGEMENT_MAX_BYTES).await.map(drop)
    }

    /// Whether a process that Podman reports has ended, as far as ostler can see. If ostler itself runs in a container,
    /// it sees no such process, and the result is `false`.
    async fn seems_ended(&self, process: Option<i64>) -> bool {
        let Some(process) = process.filter(|process| *process > 0) else { return false };
        if processes::is_alive(process) {
            return false;
        }
        self.can_see_processes().await
    }

    /// Whether ostler can see the processes that Podman reports.
    async fn can_see_processes(&self) -> bool {
        let lookup = async { Ok::<_, std::io::Error>(self.service_process().await?.is_some()) };
        self.can_see_processes.get_or_try_init(|| lookup).await.is_ok_and(|sees| *sees)
    }

    /// Id of the process that serves the socket; `None` if ostler cannot see it. Under systemd's socket activation this
    /// is systemd until the service has been started.
    async fn service_process(&self) -> std::io::Result<Option<i32>> {
        let stream = UnixStream::connect(self.address.path()).await?;
        Ok(stream.peer_cred()?.pid().filter(|pid| *pid > 0))
    }

    /// Id of the first process of a running container. Cached, because a container's sockets are read every minute.
    async fn process_of(&self, id: &ContainerId) -> EngineResult<Option<i64>> {
        let known = {
            let known = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(id).filter(|process| process.is_alive()).map(Process::number)
        };
        if known.is_some() {
            return Ok(known);
        }
        let call = format!("inspect container {}", id.short());
        let target = format!("/libpod/containers/{id}/json");
        let found = self.raw.json(Method::GET, &target, None).await;
        let (seen, process, _) = found.map(convert::inspected).map_err(self.failed(call))?;
        let process = process.filter(|_| seen.state.may_run()).and_then(Process::find);
        let number = process.as_ref().map(Process::number);
        let mut known = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, process| process.is_alive());
        known.extend(process.map(|process| (id.clone(), process)));
        Ok(number)
    }

    async fn exec_inspection(&self, call: &str, exec: &ExecId) -> EngineResult<ExecInspection> {
        let target = exec_target(call, exec, "json")?;
        self.raw.json(Method::GET, &target, None).await.map_err(self.failed(call))
    }

    /// Whether the process of a container has ended without a reported exit, confirmed by Podman's runtime. The runtime
    /// refuses a signal if there is no process to receive it. The signal is SIGCONT, which does not affect a running
    /// process.
    async fn confirms_exit(&self, id: &ContainerId) -> bool {
        let asked = self.order(Method::POST, &format!("/libpod/containers/{id}/kill?signal=SIGCONT")).await;
        asked.is_err_and(|failure| failure.is_already_stopped())
    }

    /// Unpauses a container. `false` if it was not paused, or if unpausing failed.
    async fn unpause(&self, id: &ContainerId) -> bool {
        let is_paused = |seen: InspectedContainer| seen.state == ContainerState::Paused;
        self.inspect_container(id).await.is_ok_and(is_paused)
            && self.order(Method::POST, &format!("/libpod/containers/{id}/unpause")).await.is_ok()
    }

    /// Whether the conmon of a container that Podman does not consider running still exists after all checks.
    async fn conmon_stays(&self, id: &ContainerId) -> bool {
        for _ in 0..CONMON_CHECKS {
            self.clock.sleep(CONMON_CHECK_INTERVAL).await;
            if !processes::has_conmon(id) {
                return false;
            }
        }
        true
    }

    /// Whether the host port that a container failed to bind is free again.
    async fn is_port_free_again(&self, id: &ContainerId) -> bool {
        let port = self.inspect_container(id).await.ok().and_then(|seen| seen.host_port);
        match port {
            Some(port) => self.port_is_free(port).await,
            None => false,
        }
    }

    /// Returns an error if a volume of the container does not exist. Podman would silently create it, empty.
    async fn require_volumes(&self, call: &str, spec: &ContainerSpec) -> EngineResult<()> {
        for mount in &spec.mounts {
            let MountSource::Volume(name) = &mount.source else { continue };
            let there = self.api.volumes().get(plain(call, name)?).exists().await;
            if !there.map_err(self.failed(call))? {
                return Err(EngineError::new(
                    ErrorKind::Absent,
                    call,
                    format!("volume {name} does not exist"),
                ));
            }
        }
        Ok(())
    }

    /// Output of a container as the service sends it, for logs whose file cannot be read here.
    ///
    /// The service computes a tail in time quadratic in the length of a line and in the number of lines. It continues
    /// after the caller has disconnected, and leaks a goroutine. The service sends a whole log in linear time, and
    /// stops when the caller disconnects. The whole log is therefore requested, and cut to its tail here. A tail is
    /// requested from the service only for a followed log.
    fn logs_by_service(&self, id: &ContainerId, request: LogRequest, call: String) -> LogStream {
        let LogRequest { tail, follow, max_bytes } = request;
        let options = ContainerLogsOpts::builder().stdout(true).stderr(true).follow(follow);
        match tail {
            Some(lines) if follow => log_stream(&self.api, id, options.tail(lines.to_string()).build(), call),
            None => log_stream(&self.api, id, options.build(), call),
            Some(lines) => {
                let max_bytes = max_bytes.unwrap_or(log_file::TAIL_MAX_BYTES);
                let whole = log_stream(&self.api, id, options.build(), call);
                last_lines(whole, lines, usize::try_from(max_bytes).unwrap_or(usize::MAX))
            }
        }
    }

    async fn ask_host(&self, call: &str) -> EngineResult<Host> {
        let silent =
            || EngineError::new(ErrorKind::Other, call, "Podman does not report whether it runs rootless");
        let host = self.api.info().await.map_err(self.failed(call))?.host.ok_or_else(silent)?;
        let rootless = host.security.and_then(|security| security.rootless).ok_or_else(silent)?;
        let version = host.cgroup_version.unwrap_or_default();
        let controllers = host.cgroup_controllers.unwrap_or_default();
        Ok(Host { rootless, ignored_limits: convert::ignored_limits(rootless, &version, &controllers) })
    }

    async fn mount_point(&self, call: &str, name: &str) -> EngineResult<(PathBuf, BTreeMap<String, String>)> {
        let volume = self.api.volumes().get(plain(call, name)?).inspect().await.map_err(self.failed(call))?;
        Ok((volume.mountpoint.into(), volume.labels.into_iter().collect()))
    }

    /// Whether a file of a volume is visible on this host and has this content. `false` proves nothing.
    async fn is_seen_to_hold(&self, id: &ContainerId, path: &str, content: &[u8]) -> bool {
        let Some((target, file)) = path.rsplit_once('/') else { return false };
        let inspection = self.raw.json(Method::GET, &format!("/libpod/containers/{id}/json"), None).await;
        let Some((volume, mount_point)) =
            inspection.ok().and_then(|inspection| convert::volume_at(inspection, target))
        else {
            return false;
        };
        let (file, content) = (file.to_owned(), content.to_owned());
        let compare = move || {
            let found = directory::read(&volume, &mount_point, &file, content.len());
            found.is_ok_and(|found| found == content)
        };
        off_thread("read a file of a volume", compare).await.unwrap_or(false)
    }

    async fn gateway(&self, call: &str, name: &str) -> EngineResult<NetworkInfo> {
        let network = self.api.networks().get(plain(call, name)?).inspect().await;
        let subnets = network.map_err(self.failed(call))?.subnets.unwrap_or_default();
        Ok(NetworkInfo {
            gateway: subnets.iter().find_map(|seen| seen.gateway.as_ref()?.parse().ok()),
            subnet: subnets.iter().find_map(|seen| seen.subnet.as_ref()?.parse().ok()),
        })
    }
}

/// Returns the name if it can be part of an address unescaped. Podman itself allows no other names.
fn plain<'a>(call: &str, name: &'a str) -> EngineResult<&'a str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(allowed) {
        Ok(name)
    } else {
        Err(EngineError::new(
            ErrorKind::Other,
            call,
            format!("`{}` is not a valid Podman name", one_line(name)),
        ))
    }
}

/// Whether this is a valid image reference that can be part of an address unescaped.
fn is_image_reference(image: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ':' | '@');
    image.starts_with(|c: char| c.is_ascii_alphanumeric())
        && image.chars().all(allowed)
        && !["..", "//"].iter().any(|part| image.contains(part))
}

/// Treats these HTTP statuses ("already so", "not found") as success.
fn tolerate(result: Result<(), Failure>, statuses: &[u16]) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.status().is_some_and(|status| statuses.contains(&status)) => Ok(()),
        other => other,
    }
}

fn exec_target(call: &str, exec: &ExecId, action: &str) -> EngineResult<String> {
    Ok(format!("/libpod/exec/{}/{action}", plain(call, &exec.0)?))
}

fn file_error(call: impl Into<String>) -> impl FnOnce(std::io::Error) -> EngineError {
    |error| EngineError::new(ErrorKind::Other, call, one_line(&error.to_string()))
}

/// Runs blocking file work on a blocking thread.
async fn off_thread<T: Send + 'static>(
    call: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> EngineResult<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| EngineError::new(ErrorKind::Other, call, error.to_string()))
}

/// Output of a container as an owned stream.
///
/// podman-api's stream borrows the handle that created it. Both therefore live in one future, which passes each chunk
/// through a channel of capacity one. The future is polled as part of the stream that it feeds.
fn log_stream(
    api: &podman_api::Podman,
    id: &ContainerId,
    options: ContainerLogsOpts,
    call: String,
) -> LogStream {
    let container = api.containers().get(id.as_str());
    let (pieces, received) = mpsc::channel(1);
    let feed = async move {
        let mut log = container.logs(&options);
        while let Some(piece) = log.next().await {
            if pieces.send(piece).await.is_err() {
                break;
            }
        }
    };
    let received = stream::unfold(received, |mut received| async {
        received.recv().await.map(|piece| (piece, received))
    });
    let feed = feed.into_stream().filter_map(|()| ready(None));
    Box::pin(
        stream::select(received, feed)
            .map(move |piece| piece.map(log_chunk).map_err(|error| Failure::from(error).of(call.as_str()))),
    )
}

/// The last `lines` lines of a log that is read to its end, limited to `max_bytes` bytes.
fn last_lines(log: LogStream, lines: u32, max_bytes: usize) -> LogStream {
    let kept =
        log.try_fold((LogTail::default(), [false; 2]), move |(mut tail, mut inside), chunk| async move {
            let stream = usize::from(chunk.stderr);
            let begins = !std::mem::replace(&mut inside[stream], !chunk.bytes.ends_with(b"\n"));
            tail.push(chunk, begins, lines, max_bytes);
            Ok((tail, inside))
        });
    let kept = kept.map_ok(|(tail, _)| stream::iter(tail.chunks.into_iter().map(|(chunk, _)| Ok(chunk))));
    Box::pin(kept.try_flatten_stream())
}

/// The last chunks of a log, each with a flag: whether a line starts with the chunk.
#[derive(Default)]
struct LogTail {
    chunks: VecDeque<(LogChunk, bool)>,
    lines: usize,
    bytes: usize,
}

impl LogTail {
    fn push(&mut self, chunk: LogChunk, begins: bool, lines: u32, max_bytes: usize) {
        if !begins && self.chunks.is_empty() {
            // The chunk continues a line whose start was discarded.
            return;
        }
        self.lines += usize::from(begins);
        self.bytes += chunk.bytes.len();
        self.chunks.push_back((chunk, begins));
        while self.lines > usize::try_from(lines).unwrap_or(usize::MAX) {
            self.pop();
            self.lines -= 1;
            while self.chunks.front().is_some_and(|(_, begins)| !begins) {
                self.pop();
            }
        }
        while self.bytes > max_bytes {
            self.pop();
            match self.chunks.front_mut() {
                // This chunk is now the start of what remains of the first line.
                Some((_, begins)) if !*begins => *begins = true,
                Some(_) | None => self.lines -= 1,
            }
        }
    }

    fn pop(&mut self) {
        if let Some((chunk, _)) = self.chunks.pop_front() {
            self.bytes -= chunk.bytes.len();
        }
    }
}

fn log_chunk(piece: TtyChunk) -> LogChunk {
    match piece {
        TtyChunk::StdErr(bytes) => LogChunk { stderr: true, bytes },
        TtyChunk::StdIn(bytes) | TtyChunk::StdOut(bytes) => LogChunk { stderr: false, bytes },
    }
}

/// Evaluates one report of a pull. `Some` ends the pull.
fn pull_step(report: LibpodImagesPullReport, progress: Progress<'_>) -> Option<Result<(), String>> {
    // If the registry refuses the pull, podman-api returns a success that contains an error.
    if let Some(error) = report.error.filter(|error| !error.is_empty()) {
        return Some(Err(error));
    }
    for line in report.stream.iter().flat_map(|text| text.lines()) {
        progress(line);
    }
    report.id.filter(|id| !id.is_empty()).map(|_| Ok(()))
}

#[async_trait]
impl Engine for Podman {
    fn commands(&self) -> ServiceCommands {
        self.address.commands()
    }

    async fn process_use(&self) -> EngineResult<Option<EngineUse>> {
        let Some(process) = self.service_process().await.ok().flatten() else { return Ok(None) };
        let Some((before, _)) = processes::used_by(process) else { return Ok(None) };
        let since = self.clock.awake();
        self.clock.sleep(USE_OVER).await;
        let Some((after, memory_bytes)) = processes::used_by(process) else { return Ok(None) };
        let passed = Duration::from_millis(self.clock.awake().0 - since.0);
        let cores = after.saturating_sub(before).as_secs_f64() / passed.as_secs_f64().max(f64::EPSILON);
        Ok(Some(EngineUse { process: process.unsigned_abs(), memory_bytes, cores }))
    }

    async fn sockets(&self, id: &ContainerId, inside: u16, published: u16) -> EngineResult<Option<Sockets>> {
        if !self.can_see_processes().await {
            return Ok(None);
        }
        let Some(process) = self.process_of(id).await? else { return Ok(None) };
        off_thread("list sockets", move || {
            let (host, container) = (sockets::tables("self")?, sockets::tables(&process.to_string())?);
            let (open, closed) = sockets::clients(&host, published, &sockets::own());
            let closed = closed || sockets::closed_inside(&container, inside);
            Some(Sockets { listens: sockets::listens(&container, inside), open, closed })
        })
        .await
    }

    async fn can_see_sockets(&self) -> bool {
        self.can_see_processes().await
    }

    async fn end_exec(&self, exec: &ExecId) -> EngineResult<bool> {
        let call = "end exec session";
        let ExecInspection { running, pid, .. } = self.exec_inspection(call, exec).await?;
        if !running {
            return Ok(true);
        }
        if !self.can_see_processes().await {
            return Ok(false);
        }
        let Some(process) = Process::find(pid) else { return Ok(false) };
        // Inspected again after `Process::find`: if the command ended before that, the id may have been reused, and
        // `process` is then another process.
        if !self.exec_inspection(call, exec).await?.running || !process.signal(Signal::TERM) {
            return Ok(self.exec_inspection(call, exec).await.is_ok_and(|seen| !seen.running));
        }
        for _ in 0..EXIT_CHECKS {
            self.clock.sleep(EXIT_CHECK_INTERVAL).await;
            if !process.is_alive() {
                return Ok(true);
            }
        }
        Ok(process.signal(Signal::KILL))
    }

    /// A ping returns the version within 1 to 2 ms. Podman's `info` and `version` run other programs and take a hundred
    /// times as long, so the properties that only they return are queried once.
    async fn describe(&self) -> EngineResult<EngineInfo> {
        let call = "query Podman's version";
        let version = self.api.ping().await.map_err(self.failed(call))?.libpod_api_version;
        let host = self.host.get_or_try_init(|| self.ask_host(call)).await?;
        Ok(EngineInfo {
            version: format!("Podman {version}"),
            address: self.address.to_string(),
            rootless: host.rootless,
            ignored_limits: host.ignored_limits.clone(),
        })
    }

    async fn list_containers(&self, key: &str, value: Option<&str>) -> EngineResult<Vec<ObservedContainer>> {
        let call = "list containers";
        let filter = match value {
            Some(value) => ContainerListFilter::LabelKeyVal(key.to_owned(), value.to_owned()),
            None => ContainerListFilter::LabelKey(key.to_owned()),
        };
        let options = ContainerListOpts::builder().all(true).filter([filter]).build();
        let containers = self.api.containers();
        let entries = self.listing(call, || containers.list(&options)).await?;
        let processes: Vec<_> = entries.iter().map(|entry| entry.pid).collect();
        let containers: Result<Vec<_>, _> = entries.into_iter().map(convert::observed_container).collect();
        let mut containers = containers.map_err(|error| EngineError::new(ErrorKind::Other, call, error))?;
        for (container, process) in containers.iter_mut().zip(processes) {
            if container.state.may_run() && self.seems_ended(process).await {
                match self.inspect_container(&container.id).await {
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

    async fn list_volumes(&self, key: &str, value: Option<&str>) -> EngineResult<Vec<ObservedVolume>> {
        let filter = match value {
            Some(value) => VolumeListFilter::LabelKeyVal(key.to_owned(), value.to_owned()),
            None => VolumeListFilter::LabelKey(key.to_owned()),
        };
        let options = VolumeListOpts::builder().filter([filter]).build();
        let volumes = self.api.volumes();
        let entries = self.listing("list volumes", || volumes.list(&options)).await?;
        let mut volumes: Vec<_> = entries.into_iter().map(convert::observed_volume).collect();
        volumes.retain(|volume| convert::labelled(&volume.labels, key, value));
        Ok(volumes)
    }

    /// Uses the raw client: podman-api's inspection measures the size of the container's files each time.
    async fn inspect_container(&self, id: &ContainerId) -> EngineResult<InspectedContainer> {
        let target = format!("/libpod/containers/{id}/json");
        let found = self.raw.json(Method::GET, &target, None).await;
        let call = format!("inspect container {}", id.short());
        let (mut seen, process, conmon) = found.map(convert::inspected).map_err(self.failed(call))?;
        // While conmon is running, it can still report the exit.
        if seen.state.may_run()
            && self.seems_ended(process).await
            && self.seems_ended(conmon).await
            && self.confirms_exit(id).await
        {
            (seen.state, seen.exit_code, seen.exit_lost) = (ContainerState::Exited, None, true);
        }
        Ok(seen)
    }

    async fn create_container(&self, spec: &ContainerSpec) -> EngineResult<ContainerId> {
        let call = format!("create container {}", spec.name);
        self.require_volumes(&call, spec).await?;
        let body = convert::create_body(spec);
        let created = self.raw.json(Method::POST, "/libpod/containers/create", Some(&body)).await;
        let Created { id, warnings } = created.map_err(self.failed(call))?;
        if let Some(warnings) = warnings.filter(|warnings| !warnings.is_empty()) {
            // In rootless mode on cgroup v1 the limits are ignored, and only this warning reports that.
            let warnings = one_line(&warnings.join("; "));
            tracing::warn!(container = %spec.name, warnings, "container created with warnings");
        }
        Ok(id)
    }

    async fn start_container(&self, id: &ContainerId) -> EngineResult<()> {
        let call = format!("start container {}", id.short());
        let started = self.api.containers().get(id.as_str()).start(None).await;
        let mut error = match started.map_err(self.failed(call)) {
            Err(error) if error.kind == ErrorKind::PortInUse => error,
            other => return other,
        };
        error.kind = if processes::has_conmon(id) {
            // If the container has just exited, its conmon will exit shortly and release the port.
            if self.conmon_stays(id).await { ErrorKind::HalfStarted } else { ErrorKind::Conflict }
        } else if self.is_port_free_again(id).await {
            // The port was held only briefly, or by this container's own process, which has ended since. `PortInUse`
            // would report a lasting cause.
            ErrorKind::Conflict
        } else {
            ErrorKind::PortInUse
        };
        Err(error)
    }

    /// Uses the raw client: podman-api sends `Timeout=`, which Podman ignores.
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> EngineResult<()> {
        let timeout = convert::whole_seconds(grace);
        let target = format!("/libpod/containers/{id}/stop?timeout={timeout}");
        let mut stopped = self.order(Method::POST, &target).await;
        if stopped.as_ref().is_err_and(Failure::is_wrong_state) && self.unpause(id).await {
            stopped = self.order(Method::POST, &target).await;
        }
        let stopped = match stopped {
            // The stop took effect. Callers verify the container's state after a stop.
            Err(failure) if failure.is_exit_code_lost() => Ok(()),
            other => other,
        };
        tolerate(stopped, &[304, 404]).map_err(self.failed(format!("stop container {}", id.short())))
    }

    async fn rename_container(&self, id: &ContainerId, name: &str) -> EngineResult<()> {
        let call = format!("rename container {} to {name}", id.short());
        self.api.containers().get(id.as_str()).rename(name).await.map_err(self.failed(call))
    }

    /// Uses the raw client: podman-api sends `v=` instead of `volumes=`, so that image-declared volumes would
    /// accumulate.
    async fn delete_container(&self, id: &ContainerId) -> EngineResult<()> {
        let target = format!("/libpod/containers/{id}?volumes=true");
        let deleted = self.order(Method::DELETE, &target).await;
        tolerate(deleted, &[404]).map_err(self.failed(format!("delete container {}", id.short())))
    }

    async fn create_volume(&self, spec: &VolumeSpec) -> EngineResult<()> {
        let VolumeSpec { name, labels, owner } = spec;
        let options = VolumeCreateOpts::builder()
            .name(name.as_str())
            .labels(labels)
            // Set by the option, not by a later chown: Podman 5 does not chown a volume that is not empty.
            .options([("o", format!("uid={},gid={}", owner.uid, owner.gid))])
            .build();
        let call = format!("create volume {name}");
        self.api.volumes().create(&options).await.map(drop).map_err(self.failed(call))
    }

    async fn inspect_volume(&self, name: &str) -> EngineResult<InspectedVolume> {
        let call = format!("inspect volume {name}");
        let (mount_point, labels) = self.mount_point(&call, name).await?;
        let name = name.to_owned();
        let directory_missing = off_thread(&call, move || directory::is_missing(&name, &mount_point)).await?;
        Ok(InspectedVolume { labels, directory_missing })
    }

    async fn repair_volume(&self, name: &str, owner: User) -> EngineResult<()> {
        let call = format!("repair volume {name}");
        if self.describe().await?.rootless {
            // Rootless Podman maps user ids in containers to different ids on the host. The owner can be set only in
            // the user namespace of Podman's user.
            let next = format!("create it with `podman unshare`, owned by {owner}");
            let why = format!("its directory is missing, and rootless Podman cannot restore it: {next}");
            return Err(EngineError::new(ErrorKind::Other, call, why));
        }
        let (mount_point, _) = self.mount_point(&call, name).await?;
        let name = name.to_owned();
        off_thread(&call, move || directory::make(&name, &mount_point, owner))
            .await?
            .map_err(file_error(call))
    }

    /// Never by force: that would delete the running containers which use the volume.
    async fn delete_volume(&self, name: &str) -> EngineResult<()> {
        let call = format!("delete volume {name}");
        let deleted = self.api.volumes().get(plain(&call, name)?).delete().await;
        tolerate(deleted.map_err(Failure::from), &[404]).map_err(self.failed(call))
    }

    /// `directory` must be the mount point itself. Podman unpacks an archive sent to a parent directory *beneath* the
    /// volume's mount, where the container does not see it.
    async fn write_file(&self, id: &ContainerId, directory: &str, file: &FileToWrite) -> EngineResult<()> {
        let call = format!("write {directory}/{} into container {}", file.name, id.short());
        let archive = archive::pack(file, self.clock.now()).map_err(file_error(call.as_str()))?;
        let container = self.api.containers().get(id.as_str());
        container.copy_to(directory, archive.into()).await.map_err(self.failed(call))
    }

    async fn read_file(&self, id: &ContainerId, path: &str) -> EngineResult<Vec<u8>> {
        let call = format!("read {path} of container {}", id.short());
        let target = format!("/containers/{id}/archive?path={}", escape(path));
        let unusable = |why: &str| EngineError::new(ErrorKind::Conflict, call.as_str(), why);
        let archive = match self.raw.send(Method::GET, &target, None, archive::ARCHIVE_MAX_BYTES).await {
            Err(Failure::TooLong(_)) => return Err(unusable(TOO_LONG)),
            other => other.map_err(self.failed(call.as_str()))?,
        };
        archive::unpack(&archive).map_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                unusable(&error.to_string())
            } else {
                file_error(call.as_str())(error)
            }
        })
    }

    /// Compares the file in the volume's directory if it can be read on this host. This avoids the service, whose
    /// archive of one file takes 0.15 s of a core. If the file is missing or different there, that proves nothing,
    /// because the directory could belong to another storage. The service is then asked.
    async fn file_holds(&self, id: &ContainerId, path: &str, content: &[u8]) -> EngineResult<bool> {
        if self.is_seen_to_hold(id, path, content).await {
            return Ok(true);
        }
        Ok(self.read_file(id, path).await? == content)
    }

    async fn ensure_network(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        isolate: bool,
    ) -> EngineResult<NetworkInfo> {
        let call = format!("create network {name}");
        match self.gateway(&call, name).await {
            Err(error) if error.kind == ErrorKind::Absent => {}
            other => return other,
        }
        // Unlike the command line, the API leaves DNS disabled by default, and aliases do not work without DNS.
        let options = NetworkCreateOpts::builder().name(name).labels(labels).dns_enabled(true);
        let options = if isolate { options.options([("isolate", "true")]) } else { options };
        let created = self.api.networks().create(&options.build()).await;
        match created.map_err(self.failed(call.as_str())) {
            // On a conflict, another caller created the network first.
            Err(error) if error.kind != ErrorKind::Conflict => Err(error),
            Ok(_) | Err(_) => self.gateway(&call, name).await,
        }
    }

    async fn list_networks(&self, key: &str, value: &str) -> EngineResult<Vec<ListedNetwork>> {
        let call = format!("list networks with {key}={value}");
        let filters = serde_json::json!({ "label": [format!("{key}={value}")] });
        let target = format!("/libpod/networks/json?filters={}", escape(&filters.to_string()));
        let found: Vec<SeenNetwork> =
            self.raw.json(Method::GET, &target, None).await.map_err(self.failed(call))?;
        Ok(found.into_iter().map(SeenNetwork::listed).collect())
    }

    /// Never by force: that would delete the containers which belong to it.
    async fn delete_network(&self, name: &str) -> EngineResult<()> {
        let call = format!("delete network {name}");
        let target = format!("/libpod/networks/{}", plain(&call, name)?);
        let deleted = self.raw.send(Method::DELETE, &target, None, ACKNOWLEDGEMENT_MAX_BYTES).await;
        tolerate(deleted.map(drop), &[404]).map_err(self.failed(call))
    }

    async fn has_image(&self, image: &str) -> EngineResult<bool> {
        if !is_image_reference(image) {
            return Ok(false);
        }
        let call = format!("inspect image {image}");
        self.api.images().get(image).exists().await.map_err(self.failed(call))
    }

    async fn pull_image(&self, image: &str, progress: Progress<'_>) -> EngineResult<()> {
        let call = format!("pull image {image}");
        let missing =
            |why: &str| Err(EngineError::new(ErrorKind::ImageMissing, call.as_str(), one_line(why)));
        let options = PullOpts::builder().reference(image).build();
        let images = self.api.images();
        let mut reports = images.pull(&options);
        while let Some(report) = reports.next().await {
            match report.map_err(Failure::from) {
                Ok(report) => match pull_step(report, progress) {
                    Some(Ok(())) => return Ok(()),
                    Some(Err(why)) => return missing(&why),
                    None => {}
                },
                // Every error response of Podman means that the image is not available.
                Err(failure @ Failure::Answered { .. }) => return missing(&failure.message()),
                Err(failure) => return Err(self.failed(call.as_str())(failure)),
            }
        }
        Err(EngineError::new(ErrorKind::Other, call.as_str(), "Podman reported no result of the pull"))
    }

    async fn port_is_free(&self, port: u16) -> bool {
        port != 0 && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
    }

    async fn disk_usage(&self) -> EngineResult<DiskUsage> {
        let call = "read disk usage";
        let seen: Usage =
            self.raw.json(Method::GET, "/libpod/system/df", None).await.map_err(self.failed(call))?;
        let containers = seen.containers.unwrap_or_default().into_iter();
        let volumes = seen.volumes.unwrap_or_default().into_iter();
        Ok(DiskUsage {
            containers: containers.map(|container| (container.container_id, container.rw_size)).collect(),
            volumes: volumes.map(|volume| (volume.volume_name, volume.size)).collect(),
        })
    }

    /// Reads the log's file if it is readable here, without the service; see `log_file`.
    ///
    /// podman-api sends its log request only when first polled, so that this call could not report a missing container.
    /// The container is therefore inspected first.
    async fn logs(&self, id: &ContainerId, request: LogRequest) -> EngineResult<LogStream> {
        let call = format!("read the log of container {}", id.short());
        let target = format!("/libpod/containers/{id}/json");
        let found = self.raw.json::<LogInspection>(Method::GET, &target, None).await;
        let LogSource { path, may_grow, conmon } = found.map_err(self.failed(call.as_str()))?.into();
        let writer = conmon.filter(|_| may_grow).and_then(|process| Conmon::find(process, id));
        if !request.follow || !may_grow || writer.is_some() {
            let request = LogRequest { follow: request.follow && may_grow, ..request };
            let container = id.clone();
            let opened = off_thread(&call, move || LogFile::open(&path?, &container, request)).await?;
            if let Some(log) = opened {
                return Ok(log_file::stream(log, writer, call));
            }
        }
        Ok(self.logs_by_service(id, request, call))
    }

    /// Uses the raw client: when it returns, the subscription is active. podman-api's stream connects when it is first
    /// polled.
    async fn container_events(
        &self,
        key: &str,
        value: Option<&str>,
        since: Option<Timestamp>,
    ) -> EngineResult<EventStream> {
        let pieces = self.raw.stream(&events::target(key, value, since)).await;
        let pieces = pieces.map_err(|failure| self.failed(events::CALL)(failure.undecided()))?;
        Ok(events::read(pieces, key, value))
    }

    async fn create_exec(&self, id: &ContainerId, request: &ExecRequest) -> EngineResult<ExecId> {
        let call = format!("create exec session in container {}", id.short());
        let container = self.api.containers().get(id.as_str());
        let exec = container.create_exec(&convert::exec_options(request)).await;
        exec.map(|exec| ExecId(exec.id().to_string())).map_err(self.failed(call))
    }

    /// Uses the raw client: podman-api starts only commands that the same handle prepared.
    async fn start_exec(&self, exec: &ExecId, tty: bool) -> EngineResult<Box<dyn Duplex>> {
        let call = "start exec session";
        let target = exec_target(call, exec, "start")?;
        let stream = self.raw.upgrade(&target, &json!({ "Detach": false, "Tty": tty })).await;
        stream.map(|stream| Box::new(stream) as Box<dyn Duplex>).map_err(self.failed(call))
    }

    async fn resize_exec(&self, exec: &ExecId, columns: u16, rows: u16) -> EngineResult<()> {
        let call = "resize exec session";
        let target = exec_target(call, exec, &format!("resize?w={columns}&h={rows}"))?;
        self.order(Method::POST, &target).await.map_err(self.failed(call))
    }

    async fn exec_exit_code(&self, exec: &ExecId) -> EngineResult<Option<i32>> {
        let call = "inspect exec session";
        let ExecInspection { running, exit_code, .. } = self.exec_inspection(call, exec).await?;
        Ok((!running).then_some(exit_code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// podman-api panics on a name with a space; a name with `?` or `..` would change the request.
    #[test]
    fn name_with_unsafe_characters_is_refused() {
        for good in ["v", "ostler-6f1c_x.y-work", "0"] {
            assert!(plain("try", good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "x?z=1", "../x", "a/b", ".", "-a", "é", "a%2F"] {
            assert!(plain("try", bad).is_err(), "{bad:?} was accepted");
        }
    }

    /// podman-api returns a failed pull as a success whose report contains an error.
    #[test]
    fn image_pull_ends_with_success_or_the_registry_error() {
        let report = |stream: &str, id: &str, error: &str| LibpodImagesPullReport {
            stream: Some(stream.to_owned()),
            id: Some(id.to_owned()),
            error: Some(error.to_owned()),
            images: None,
        };
        let progress_lines = Mutex::new(Vec::new());
        let step = |report| pull_step(report, &|line| progress_lines.lock().unwrap().push(line.to_owned()));
        assert_eq!(step(report("Copying blob 1\nCopying blob 2\n", "", "")), None);
        assert_eq!(step(report("", "", "manifest unknown")), Some(Err("manifest unknown".into())));
        assert_eq!(step(report("", "c0ffee", "")), Some(Ok(())));
        assert_eq!(*progress_lines.lock().unwrap(), ["Copying blob 1", "Copying blob 2"]);
    }

    #[tokio::test]
    async fn tail_of_a_whole_log_is_limited_by_lines_and_bytes() {
        let cut = async |pieces: &[&str], lines, max_bytes| {
            let chunk = |piece: &&str| Ok(LogChunk { stderr: false, bytes: piece.as_bytes().to_vec() });
            let log = Box::pin(stream::iter(pieces.iter().map(chunk).collect::<Vec<_>>()));
            let kept: Vec<_> = last_lines(log, lines, max_bytes).try_collect().await.unwrap();
            kept.iter().map(|chunk| String::from_utf8_lossy(&chunk.bytes).into_owned()).collect::<String>()
        };
        let log = ["one\n", "tw", "o\n", "thr", "ee"];
        for (lines, kept) in [(0, ""), (1, "three"), (2, "two\nthree"), (3, "one\ntwo\nthree")] {
            assert_eq!(cut(&log, lines, 100).await, kept, "{lines} lines");
        }
        assert_eq!(cut(&log, 1, 3).await, "ee");
        assert_eq!(cut(&["a", "b", "c", "d\n", "e\n"], 1, 3).await, "e\n");
        assert_eq!(cut(&["a", "b", "c", "d\n", "e\n"], 2, 3).await, "e\n");
        assert_eq!(cut(&["a", "b", "c", "d\n", "e\n"], 2, 4).await, "d\ne\n");
        assert_eq!(cut(&["long\n"], 2, 3).await, "");
    }

    #[test]
    fn invalid_image_reference_is_refused() {
        for good in ["busybox", "localhost/a/b:latest", "host:5000/a@sha256:00ff"] {
            assert!(is_image_reference(good), "{good}");
        }
        for bad in ["", "a b", "a?b", "../a", "a/../b", "a//b", "/a", "a#b"] {
            assert!(!is_image_reference(bad), "{bad:?} was accepted");
        }
    }
}
