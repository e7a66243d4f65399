//! The container engine, behind one trait.
//!
//! [`Engine`] defines what ostler needs from an engine, independently of Podman. [`podman`] is the only module that
//! uses podman-api; the fake engine of the tests is in `tests/support`. Every caller holds a [`bounded::Bounded`]
//! engine, so no call can hang. Every error is an [`EngineError`]. Its [`ErrorKind`] separates "it does not exist" from
//! "unknown whether it exists"; no decision may treat the second as the first.
//!
//! A call that times out is not undone: the engine may still complete it minutes later. A caller that started something
//! must therefore read the state again before it relies on it.

pub mod bounded;
pub mod podman;
pub mod tail;
pub mod trusted;

use std::{collections::BTreeMap, fmt, net::IpAddr, pin::Pin, str::FromStr, time::Duration};

use async_trait::async_trait;
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite};

pub use tail::log_tail;

use crate::domain::{
    ids::ContainerId,
    observed::{ContainerEvent, ContainerState, ObservedContainer, ObservedVolume},
    runtime::{Limits, User},
    time::Timestamp,
    trash::TrashContents,
};

/// Kind of an engine error. Callers base decisions only on the kind; the message is for humans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The engine answered that the object does not exist. Only this answer, or a listing without the object, proves
    /// absence.
    Absent,
    /// The engine answered that the state forbids the call: a name or volume is in use, a container already runs.
    Conflict,
    /// The image does not exist locally and could not be pulled.
    ImageMissing,
    /// Another process holds the host port.
    PortInUse,
    /// An earlier start of this container was interrupted. What it left behind blocks every further start: a process
    /// that holds the port and that the engine does not know, or a mount. A newly created container can start.
    HalfStarted,
    /// The engine does not answer.
    Unreachable,
    /// The deadline passed. The call may still take effect.
    TimedOut,
    /// Any other failure, including internal errors of the engine. It proves neither existence nor absence.
    Other,
}

/// An engine call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {message}")]
pub struct EngineError {
    /// Kind of the error.
    pub kind: ErrorKind,
    /// The call as a verb phrase with its object: `start container 6f1c0c5e0d0f`.
    pub call: String,
    /// The engine's message, shortened. Never contains a secret.
    pub message: String,
}

impl EngineError {
    /// Creates an error of this kind.
    pub fn new(kind: ErrorKind, call: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, call: call.into(), message: message.into() }
    }

    /// Whether the engine did not answer: the outcome is unknown, and the same call may succeed later.
    #[must_use]
    pub fn gave_no_answer(&self) -> bool {
        matches!(self.kind, ErrorKind::Unreachable | ErrorKind::TimedOut)
    }
}

/// Message of the [`ErrorKind::Conflict`] error for a regular file longer than 1 MiB.
pub const TOO_LONG: &str = "the file is longer than 1 MiB";

/// Result of an engine call.
pub type EngineResult<T> = Result<T, EngineError>;

/// The engine's version, address and properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// Name and version, such as `Podman 4.3.1`.
    pub version: String,
    /// Address of the engine's socket, for display.
    pub address: String,
    /// Whether the engine runs without root.
    pub rootless: bool,
    /// Names of the container limits that the engine ignores on this host.
    pub ignored_limits: Vec<&'static str>,
}

impl EngineInfo {
    /// Message that names the ignored container limits; `None` if all limits are enforced.
    #[must_use]
    pub fn limits_note(&self) -> Option<String> {
        let ignored = &self.ignored_limits;
        (!ignored.is_empty()).then(|| {
            format!("limits on {} are not enforced: Podman ignores them on this host", ignored.join(" and "))
        })
    }
}

/// A file to write into a volume, with its complete content.
#[derive(Clone)]
pub struct FileToWrite {
    /// File name inside the volume, without directories.
    pub name: String,
    /// Content of the file. It may be a secret: `Debug` does not show it.
    pub content: Vec<u8>,
    /// Permission bits, such as 0o600.
    pub mode: u32,
    /// Owner inside the container.
    pub owner: User,
}

impl fmt::Debug for FileToWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes, {:o}, {})", self.name, self.content.len(), self.mode, self.owner)
    }
}

/// A host directory, a volume or a tmpfs to mount in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Volume, host directory or tmpfs to mount.
    pub source: MountSource,
    /// Absolute path inside the container.
    pub target: String,
    /// Whether the container may not write to it.
    pub read_only: bool,
}

/// Source of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// A named volume. It must exist, because the engine would silently create a missing volume.
    Volume(String),
    /// Absolute path of a host directory.
    HostDirectory(String),
    /// A file system in memory; empty at every start.
    Tmpfs,
}

/// A container to create. Creating does not start it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSpec {
    /// Name, unique in the engine.
    pub name: String,
    /// Image; it must exist locally.
    pub image: String,
    /// Command; if empty, the image's own command runs.
    pub command: Vec<String>,
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
    /// Environment variables. They include the operator's values and are never printed.
    pub env: Environment,
    /// User that the container's process runs as.
    pub user: User,
    /// Volumes, host directories and tmpfs to mount.
    pub mounts: Vec<Mount>,
    /// Port inside the container, and the port of 127.0.0.1 at which it is published.
    pub publish: Option<(u16, u16)>,
    /// Name of the network.
    pub network: String,
    /// Names under which other containers of the network resolve it.
    pub aliases: Vec<String>,
    /// Host name inside the container.
    pub hostname: String,
    /// Resource limits.
    pub limits: Limits,
    /// Whether the root file system is read-only.
    pub read_only_root: bool,
    /// Whether it runs privileged. Otherwise all capabilities are dropped.
    pub privileged: bool,
    /// Time between the stop signal and the kill.
    pub stop_grace: Duration,
    /// Size in bytes at which the engine discards the log and starts a new one.
    pub log_bytes: u64,
}

/// Environment variables, whose values `Debug` does not show.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(pub BTreeMap<String, String>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A volume to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Name, unique in the engine.
    pub name: String,
    /// Labels of the volume.
    pub labels: BTreeMap<String, String>,
    /// Owner of the root directory, so that a process without root can write there.
    pub owner: User,
}

/// Details of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedContainer {
    /// The engine's id.
    pub id: ContainerId,
    /// The name, without a leading slash.
    pub name: String,
    /// Labels, including those of the image.
    pub labels: BTreeMap<String, String>,
    /// State of the container, with a lost exit already applied (see `exit_lost`).
    pub state: ContainerState,
    /// Exit code of the process; `None` before it exits, or if the code is lost.
    pub exit_code: Option<i32>,
    /// Whether the kernel killed the process because memory ran out.
    pub out_of_memory: bool,
    /// Environment variables as set at creation.
    pub env: Environment,
    /// Names of the mounted volumes.
    pub volumes: Vec<String>,
    /// Port of 127.0.0.1 that the container publishes, if any.
    pub host_port: Option<u16>,
    /// Whether the process ended while the engine still believes that it runs, because no monitor process was left to
    /// report the exit. The engine never starts such a container again.
    pub exit_lost: bool,
}

impl InspectedContainer {
    /// Whether the engine can start the container again. If not, a start needs a newly created container.
    #[must_use]
    pub fn can_start_again(&self) -> bool {
        !self.exit_lost && self.state.can_start_again()
    }
}

/// Details of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedVolume {
    /// Labels of the volume.
    pub labels: BTreeMap<String, String>,
    /// Whether the directory is known to be missing although the engine still lists the volume. `false` if this cannot
    /// be determined (another host, another user's storage).
    pub directory_missing: bool,
}

/// Addresses of a network as seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Address by which containers reach the host.
    pub gateway: Option<IpAddr>,
    /// Address range of the containers and the gateway.
    pub subnet: Option<Subnet>,
}

/// An address range, such as `10.89.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    /// First address of the range.
    pub address: IpAddr,
    /// Length of the prefix in bits: 0 to 32 for IPv4, 0 to 128 for IPv6.
    pub prefix: u8,
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').ok_or(())?;
        let (address, prefix) = (address.parse().map_err(|_| ())?, prefix.parse().map_err(|_| ())?);
        let bits = if matches!(address, IpAddr::V4(_)) { 32 } else { 128 };
        if prefix > bits { Err(()) } else { Ok(Self { address, prefix }) }
    }
}

/// A network in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedNetwork {
    /// Name, unique in the engine.
    pub name: String,
    /// Labels of the network.
    pub labels: BTreeMap<String, String>,
    /// Gateway and address range.
    pub info: NetworkInfo,
}

/// Disk usage in bytes. For a container, its own files count, not its image; for a volume, its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes for each container.
    pub containers: BTreeMap<ContainerId, u64>,
    /// Bytes for each volume name.
    pub volumes: BTreeMap<String, u64>,
}

impl DiskUsage {
    /// Total disk usage of a container and its volumes, in bytes. Objects that the engine did not report count as 0.
    #[must_use]
    pub fn of(&self, things: &TrashContents) -> u64 {
        let container = things.container.as_ref().and_then(|container| self.containers.get(&container.id));
        let volumes = things.volumes.iter().filter_map(|volume| self.volumes.get(volume));
        container.into_iter().chain(volumes).sum()
    }
}

/// Selects a part of a container's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRequest {
    /// Only this many lines at the end; `None` selects the whole log.
    pub tail: Option<u32>,
    /// Whether to continue with new output until the container ends.
    pub follow: bool,
    /// With `tail`: the lines are searched for in about this many bytes at the end of the log. `None` uses the engine's
    /// own limit.
    pub max_bytes: Option<u64>,
}

/// A chunk of a container's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// Whether the chunk was written to standard error.
    pub stderr: bool,
    /// Content of the chunk.
    pub bytes: Vec<u8>,
}

/// Stream of a container's output.
pub type LogStream = Pin<Box<dyn Stream<Item = EngineResult<LogChunk>> + Send>>;

/// Stream of container events; see [`Engine::container_events`].
pub type EventStream = Pin<Box<dyn Stream<Item = EngineResult<ContainerEvent>> + Send>>;

/// A command to run inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRequest {
    /// The command followed by its arguments.
    pub command: Vec<String>,
    /// Whether to allocate a terminal. With a terminal the output is one raw stream. Without, it consists of frames: an
    /// 8-byte header (stream 1 or 2, three zero bytes, big-endian length) followed by the bytes.
    pub tty: bool,
    /// Whether standard input is connected.
    pub stdin: bool,
    /// Environment variables to add.
    pub env: BTreeMap<String, String>,
    /// User inside the container; `None` uses the container's user.
    pub user: Option<String>,
}

/// The engine's id of an exec session, which is a prepared, running or finished command.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExecId(pub String);

/// A bidirectional byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Callback that receives the progress of a pull, one line per call.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// State of the sockets behind a container's published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Whether a process in the container accepts connections from outside on the port.
    pub listens: bool,
    /// Whether a client other than ostler is connected to the published port.
    pub open: bool,
    /// Whether any client's connection to the published port was closed within the last minute.
    pub closed: bool,
}

/// Resources that the engine's own process uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineUse {
    /// Process id.
    pub process: u32,
    /// Resident memory, in bytes.
    pub memory_bytes: u64,
    /// Processor time over a short recent interval, in cores.
    pub cores: f64,
}

/// Instructions for the operator to start and restart the engine, with shell commands in backticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCommands {
    /// How to start the service at the address that ostler uses.
    pub start: String,
    /// How to restart the service; containers keep running.
    pub restart: String,
}

/// The operations that ostler needs from a container engine.
///
/// If an object is already in the requested state, [`stop_container`](Engine::stop_container),
/// [`repair_volume`](Engine::repair_volume), [`ensure_network`](Engine::ensure_network) and the deletions succeed.
/// Creating an object that exists, or starting a container that runs, is an error, [`ErrorKind::Conflict`], because
/// this call did not create or start it.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Instructions to start and restart the service by hand.
    fn commands(&self) -> ServiceCommands;

    /// Resources that the engine's process uses; `None` if ostler cannot see the process.
    async fn process_use(&self) -> EngineResult<Option<EngineUse>>;

    /// Sockets behind port `inside` of a running container, published on `published`. `None` if ostler cannot see them,
    /// for example because it runs in a container.
    async fn sockets(&self, id: &ContainerId, inside: u16, published: u16) -> EngineResult<Option<Sockets>>;

    /// Whether [`sockets`](Self::sockets) can return a result on this host.
    async fn can_see_sockets(&self) -> bool;

    /// Ends a running command and its process group: sends the termination signal, and after a short wait the kill
    /// signal. `false` if ostler cannot signal the process.
    async fn end_exec(&self, exec: &ExecId) -> EngineResult<bool>;

    /// Version and properties of the engine. Also the cheapest check that the engine answers.
    async fn describe(&self) -> EngineResult<EngineInfo>;

    /// All containers, in any state, with this label (`key=value`; `None` matches any value of the key).
    async fn list_containers(&self, key: &str, value: Option<&str>) -> EngineResult<Vec<ObservedContainer>>;

    /// All volumes with this label (`key=value`; `None` matches any value of the key).
    async fn list_volumes(&self, key: &str, value: Option<&str>) -> EngineResult<Vec<ObservedVolume>>;

    /// Details of one container. [`ErrorKind::Absent`] if the engine does not know it.
    async fn inspect_container(&self, id: &ContainerId) -> EngineResult<InspectedContainer>;

    /// Creates a container without starting it. [`ErrorKind::Conflict`] if the name is taken,
    /// [`ErrorKind::ImageMissing`] if the image does not exist locally.
    async fn create_container(&self, spec: &ContainerSpec) -> EngineResult<ContainerId>;

    /// Starts a container. [`ErrorKind::Conflict`] if it already runs, [`ErrorKind::PortInUse`] if another process
    /// holds its host port, [`ErrorKind::HalfStarted`] if an earlier, interrupted start of this container blocks it.
    async fn start_container(&self, id: &ContainerId) -> EngineResult<()>;

    /// Sends the stop signal to a container's process and kills it after `grace`. Succeeds if the container is stopped
    /// or does not exist. A paused container is unpaused first: a frozen process can neither exit nor be stopped.
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> EngineResult<()>;

    /// Renames a container, running or not.
    async fn rename_container(&self, id: &ContainerId, name: &str) -> EngineResult<()>;

    /// Deletes a stopped container; its named volumes stay. Succeeds if the container does not exist;
    /// [`ErrorKind::Conflict`] if it runs.
    async fn delete_container(&self, id: &ContainerId) -> EngineResult<()>;

    /// Creates a volume. [`ErrorKind::Conflict`] if it exists.
    async fn create_volume(&self, spec: &VolumeSpec) -> EngineResult<()>;

    /// Details of one volume. [`ErrorKind::Absent`] if the engine does not know it.
    async fn inspect_volume(&self, name: &str) -> EngineResult<InspectedVolume>;

    /// Recreates the missing directory of a volume that the engine still lists.
    async fn repair_volume(&self, name: &str, owner: User) -> EngineResult<()>;

    /// Deletes a volume, never by force. Succeeds if it does not exist; [`ErrorKind::Conflict`] if it is in use.
    async fn delete_volume(&self, name: &str) -> EngineResult<()>;

    /// Writes a file into a container's volume. `directory` must be the volume's mount point itself.
    async fn write_file(&self, id: &ContainerId, directory: &str, file: &FileToWrite) -> EngineResult<()>;

    /// Reads a small file of a container, running or not. [`ErrorKind::Absent`] if it does not exist,
    /// [`ErrorKind::Conflict`] if it is not a regular file (a directory, a FIFO) or is longer than 1 MiB.
    async fn read_file(&self, id: &ContainerId, path: &str) -> EngineResult<Vec<u8>>;

    /// Whether a small file of a container's volume has exactly this content. The container may be stopped. Errors are
    /// those of [`read_file`](Self::read_file).
    ///
    /// Use it only for content that exists nowhere else, such as a new token: the engine may compare a file on this
    /// host, and takes equal content as proof that this is the container's file.
    async fn file_holds(&self, id: &ContainerId, path: &str, content: &[u8]) -> EngineResult<bool>;

    /// Creates the network with DNS if it does not exist.
    async fn ensure_network(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        isolate: bool,
    ) -> EngineResult<NetworkInfo>;

    /// Networks with this label, with the address by which their containers reach the host.
    async fn list_networks(&self, key: &str, value: &str) -> EngineResult<Vec<ListedNetwork>>;

    /// Deletes a network, never by force. Succeeds if it does not exist; [`ErrorKind::Conflict`] while a container,
    /// running or not, belongs to it.
    async fn delete_network(&self, name: &str) -> EngineResult<()>;

    /// Whether the image exists locally.
    async fn has_image(&self, image: &str) -> EngineResult<bool>;

    /// Pulls an image. [`ErrorKind::ImageMissing`], with the registry's message, if it is not available.
    async fn pull_image(&self, image: &str, progress: Progress<'_>) -> EngineResult<()>;

    /// Whether this port of 127.0.0.1 can be published now. Another process may take it afterwards.
    async fn port_is_free(&self, port: u16) -> bool;

    /// Disk usage of all containers and volumes. Slow if there is much data, so it is called only when a user requests
    /// it.
    async fn disk_usage(&self) -> EngineResult<DiskUsage>;

    /// Output of a container, as selected by the request.
    async fn logs(&self, id: &ContainerId, request: LogRequest) -> EngineResult<LogStream>;

    /// Events of containers with this label (`key=value`; `None` matches any value of the key), as they happen. With
    /// `since`, the events since then come first.
    ///
    /// Returns once the engine has accepted the subscription. The engine then reports events as long as it can be
    /// reached. After that the stream ends, with or without an error; nothing follows an error. The caller reconnects,
    /// and takes a full listing after each connect: events are lost while it is disconnected, and even with `since` an
    /// engine may have discarded them. Events may also repeat, especially those near `since`, and may arrive late.
    /// Nothing may therefore depend on the arrival of an event.
    async fn container_events(
        &self,
        key: &str,
        value: Option<&str>,
        since: Option<Timestamp>,
    ) -> EngineResult<EventStream>;

    /// Prepares a command in a running container. `start_exec` runs it.
    async fn create_exec(&self, id: &ContainerId, request: &ExecRequest) -> EngineResult<ExecId>;

    /// Runs a prepared command and returns its input and output stream.
    async fn start_exec(&self, exec: &ExecId, tty: bool) -> EngineResult<Box<dyn Duplex>>;

    /// Sets the size of a command's terminal, in columns and rows.
    async fn resize_exec(&self, exec: &ExecId, columns: u16, rows: u16) -> EngineResult<()>;

    /// Exit code of a command; `None` while it runs.
    async fn exec_exit_code(&self, exec: &ExecId) -> EngineResult<Option<i32>>;
}
