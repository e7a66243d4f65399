//! The container engine, behind one trait.
//!
//! [`Engine`] says what ostler needs of an engine and nothing of how Podman answers it; [`podman`] is
//! the only user of podman-api, [`fake`] is the engine of the tests. Every caller holds a
//! [`bounded::Bounded`] engine, so no call can hang, and every error is an [`EngineError`] whose
//! [`Trouble`] keeps "it is not there" apart from "I could not find out": no decision may ever take the
//! second for the first.
//!
//! A call that times out has not been undone. The engine may still finish it, minutes later. Whoever
//! starts something therefore looks again before believing anything.

pub mod bounded;
pub mod fake;
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
    trash::Things,
};

/// What kind of trouble a call met. The kinds are what callers may decide on; the text is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// The engine answered, and the thing is not there. The only proof of absence besides a listing.
    Absent,
    /// The engine answered that things are in the wrong state: a name or volume in use, already running.
    Conflict,
    /// The image is not there and could not be fetched.
    ImageMissing,
    /// A host port is taken by somebody else.
    PortInUse,
    /// An earlier start of this container was broken off half-way, and what it left holds the container's port, or its
    /// mount, without the engine knowing. The engine never starts this one; one made anew starts.
    HalfStarted,
    /// No engine answers.
    Unreachable,
    /// The deadline passed. The call may still take effect.
    TimedOut,
    /// Anything else, an engine's own failure among them. Says nothing about what is there.
    Other,
}

/// An engine call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {message}")]
pub struct EngineError {
    /// What kind of trouble.
    pub trouble: Trouble,
    /// What was asked, as a verb phrase with its object: `start container 6f1c0c5e0d0f`.
    pub call: String,
    /// What the engine said, shortened; never holds a secret.
    pub message: String,
}

impl EngineError {
    /// An error of this kind.
    pub fn new(trouble: Trouble, call: impl Into<String>, message: impl Into<String>) -> Self {
        Self { trouble, call: call.into(), message: message.into() }
    }

    /// Whether no engine answered: nothing is known, and the same call may succeed later.
    #[must_use]
    pub fn gave_no_answer(&self) -> bool {
        matches!(self.trouble, Trouble::Unreachable | Trouble::TimedOut)
    }
}

/// The message of the [`Trouble::Conflict`] that a file met which is regular and longer than 1 MiB.
pub const TOO_LONG: &str = "it is longer than 1 MiB";

/// What an engine call answers.
pub type EngineResult<T> = Result<T, EngineError>;

/// What the engine says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// Its name and version, such as `Podman 4.3.1`.
    pub version: String,
    /// Where it listens, for people.
    pub address: String,
    /// Whether it runs without root.
    pub rootless: bool,
    /// The limits of containers that it ignores on this host.
    pub ignored_limits: Vec<&'static str>,
}

impl EngineInfo {
    /// Says which limits of containers do not hold; `None` when all do.
    #[must_use]
    pub fn limits_note(&self) -> Option<String> {
        let ignored = &self.ignored_limits;
        (!ignored.is_empty()).then(|| {
            format!("limits of {} do not hold: Podman ignores them on this host", ignored.join(" and "))
        })
    }
}

/// One file, written whole.
#[derive(Clone)]
pub struct FileToWrite {
    /// The name inside the volume, no directories.
    pub name: String,
    /// The bytes. May be a secret: `Debug` does not show them.
    pub content: Vec<u8>,
    /// Permission bits, such as 0o600.
    pub mode: u32,
    /// Its owner inside the container.
    pub owner: User,
}

impl fmt::Debug for FileToWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes, {:o}, {})", self.name, self.content.len(), self.mode, self.owner)
    }
}

/// A directory of the host, or a volume, made visible in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// A volume's name or an absolute host path.
    pub source: MountSource,
    /// The absolute path inside.
    pub target: String,
    /// Whether the container may not write to it.
    pub read_only: bool,
}

/// Where a mount's files live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// A named volume. It must exist: the engine would make a missing one in silence.
    Volume(String),
    /// A directory of the host.
    HostDirectory(String),
    /// Memory, empty at every start.
    Tmpfs,
}

/// A container to be made. Made only: nothing starts.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSpec {
    /// The name, unique in the engine.
    pub name: String,
    /// The image, which must be there.
    pub image: String,
    /// The command; empty leaves the image's own.
    pub command: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Environment. Holds whatever the operator put there; never printed.
    pub env: Environment,
    /// Who its process runs as.
    pub user: User,
    /// What is mounted.
    pub mounts: Vec<Mount>,
    /// The port inside and the port of 127.0.0.1 it is published on.
    pub publish: Option<(u16, u16)>,
    /// The network's name.
    pub network: String,
    /// Names by which other containers of the network find it.
    pub aliases: Vec<String>,
    /// The host name inside.
    pub hostname: String,
    /// The most it may use.
    pub limits: Limits,
    /// Whether its root file system is read-only.
    pub read_only_root: bool,
    /// Whether it runs privileged. Otherwise all capabilities are dropped.
    pub privileged: bool,
    /// How long its process is given to end after it was asked to.
    pub stop_grace: Duration,
    /// The size in bytes at which the engine drops its log and begins a new one.
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

/// A volume to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// The name, unique in the engine.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Who owns its root directory, so that a process without root can write there.
    pub owner: User,
}

/// A container looked at closely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedContainer {
    /// The engine's id.
    pub id: ContainerId,
    /// The name, without a leading slash.
    pub name: String,
    /// Its labels, the image's among them.
    pub labels: BTreeMap<String, String>,
    /// What it does.
    pub state: ContainerState,
    /// The code its process ended with, once it has.
    pub exit_code: Option<i32>,
    /// Whether the kernel killed it for lack of memory.
    pub out_of_memory: bool,
    /// Its environment, as it was created with.
    pub env: Environment,
    /// Names of the volumes it mounts.
    pub volumes: Vec<String>,
    /// The port of 127.0.0.1 it publishes, if any.
    pub host_port: Option<u16>,
    /// Whether its process ended and the engine goes on believing that it runs: nobody was left to tell it. The
    /// engine never starts such a container again.
    pub ended_unheard: bool,
}

impl InspectedContainer {
    /// Whether the engine will start it again. If not, a start needs another container in its place.
    #[must_use]
    pub fn can_start_again(&self) -> bool {
        !self.ended_unheard && self.state.can_start_again()
    }
}

/// A volume looked at closely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedVolume {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether its directory is known to be gone although the engine still lists it. `false` where it
    /// cannot be told (another host, another user's storage).
    pub directory_missing: bool,
}

/// What the network looks like from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkInfo {
    /// The address by which containers reach the host.
    pub gateway: Option<IpAddr>,
    /// The addresses of its containers, and its gateway.
    pub subnet: Option<Subnet>,
}

/// A range of addresses, as `10.89.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    /// Its first address.
    pub address: IpAddr,
    /// How many leading bits its addresses share.
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
    /// Unique in the engine.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it looks like from the host.
    pub info: NetworkInfo,
}

/// What things cost in disk, in bytes: a container's own files without its image, a volume's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// By container.
    pub containers: BTreeMap<ContainerId, u64>,
    /// By volume's name.
    pub volumes: BTreeMap<String, u64>,
}

impl DiskUsage {
    /// What these things cost together.
    #[must_use]
    pub fn of(&self, things: &Things) -> u64 {
        let container = things.container.as_ref().and_then(|container| self.containers.get(&container.id));
        let volumes = things.volumes.iter().filter_map(|volume| self.volumes.get(volume));
        container.into_iter().chain(volumes).sum()
    }
}

/// Which part of a container's output is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRequest {
    /// Only the last so many lines.
    pub tail: Option<u32>,
    /// Whether to go on until the container ends.
    pub follow: bool,
    /// With `tail`: the lines are looked for in about so many bytes at the end of the log. Without, the engine has a
    /// limit of its own.
    pub max_bytes: Option<u64>,
}

/// A piece of a container's output, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// Whether it was written to standard error.
    pub stderr: bool,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A container's output.
pub type LogStream = Pin<Box<dyn Stream<Item = EngineResult<LogChunk>> + Send>>;

/// What happens to containers, from some moment on.
pub type EventStream = Pin<Box<dyn Stream<Item = EngineResult<ContainerEvent>> + Send>>;

/// A command to run inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRequest {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Whether it gets a terminal. Its output is then one raw stream; otherwise it comes in frames of
    /// an 8-byte header (stream 1 or 2, three zero bytes, length big-endian) and bytes.
    pub tty: bool,
    /// Whether its input is connected.
    pub stdin: bool,
    /// Added to its environment.
    pub env: BTreeMap<String, String>,
    /// Who it runs as, where not the container's own user.
    pub user: Option<String>,
}

/// Names a running or finished command.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExecId(pub String);

/// A two-way stream of bytes.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Told how a pull is going, a line at a time.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// The sockets behind a container's published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Whether a process in the container accepts connections from outside on the port.
    pub listens: bool,
    /// Whether a client other than ostler is connected to the published port.
    pub open: bool,
    /// Whether a connection to it was closed within the last minute, by whichever client.
    pub closed: bool,
}

/// What the engine's own process uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineUse {
    /// Its number.
    pub process: u32,
    /// Resident memory, in bytes.
    pub memory_bytes: u64,
    /// Processor time of the last moment, in cores.
    pub cores: f64,
}

/// Commands for the engine's operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCommands {
    /// Starts the service where ostler looks for it.
    pub start: String,
    /// Restarts it; containers run on.
    pub restart: String,
}

/// What ostler needs of a container engine.
///
/// "Already so" is success for [`stop_container`](Engine::stop_container) and the deletions, and only
/// there: a start that finds the container running was not *this* start, and answers
/// [`Trouble::Conflict`].
#[async_trait]
pub trait Engine: Send + Sync {
    /// How the engine's service is started and restarted by hand.
    fn commands(&self) -> ServiceCommands;

    /// What the engine's process uses; `None` where that cannot be seen from here.
    async fn process_use(&self) -> EngineResult<Option<EngineUse>>;

    /// The sockets behind a running container's port `inside`, published on `published`; `None` where they cannot be
    /// seen from here.
    async fn sockets(&self, id: &ContainerId, inside: u16, published: u16) -> EngineResult<Option<Sockets>>;

    /// Whether [`sockets`](Self::sockets) can answer at all.
    async fn sees_sockets(&self) -> bool;

    /// Ends a command that still runs, its process group included: asks it to end, and kills it a moment later.
    /// `false` where its process cannot be reached from here.
    async fn end_exec(&self, exec: &ExecId) -> EngineResult<bool>;

    /// Says who answers. Also the cheapest proof that somebody does.
    async fn describe(&self) -> EngineResult<EngineInfo>;

    /// Every container, in any state, with this label (`key=value`; with `None` any value of the key).
    async fn list_containers(&self, key: &str, value: Option<&str>) -> EngineResult<Vec<ObservedContainer>>;

    /// Every volume with this label.
    async fn list_volumes(&self, key: &str, value: Option<&str>) -> EngineResult<Vec<ObservedVolume>>;

    /// Looks at one container. [`Trouble::Absent`] when the engine does not know it.
    async fn inspect_container(&self, id: &ContainerId) -> EngineResult<InspectedContainer>;

    /// Makes a container without starting it. [`Trouble::Conflict`] when the name is taken,
    /// [`Trouble::ImageMissing`] when the image is not there.
    async fn create_container(&self, spec: &ContainerSpec) -> EngineResult<ContainerId>;

    /// Starts a container. [`Trouble::Conflict`] when it runs already, [`Trouble::PortInUse`] when its
    /// host port is taken, [`Trouble::HalfStarted`] when by a leftover of its own.
    async fn start_container(&self, id: &ContainerId) -> EngineResult<()>;

    /// Asks a container's process to end, and ends it after `grace`. Stopped or absent is success. A paused container
    /// is unpaused first: a frozen process can neither end by itself nor be stopped.
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> EngineResult<()>;

    /// Renames a container, running or not.
    async fn rename_container(&self, id: &ContainerId, name: &str) -> EngineResult<()>;

    /// Deletes a stopped container; its named volumes stay. Absent is success, running is
    /// [`Trouble::Conflict`].
    async fn delete_container(&self, id: &ContainerId) -> EngineResult<()>;

    /// Makes a volume. [`Trouble::Conflict`] when it exists.
    async fn create_volume(&self, spec: &VolumeSpec) -> EngineResult<()>;

    /// Looks at one volume. [`Trouble::Absent`] when the engine does not know it.
    async fn inspect_volume(&self, name: &str) -> EngineResult<InspectedVolume>;

    /// Makes the missing directory of a volume that the engine still lists.
    async fn repair_volume(&self, name: &str, owner: User) -> EngineResult<()>;

    /// Deletes a volume, never by force. Absent is success, in use is [`Trouble::Conflict`].
    async fn delete_volume(&self, name: &str) -> EngineResult<()>;

    /// Writes a file into a container's volume: `directory` is the volume's mount point itself.
    async fn write_file(&self, id: &ContainerId, directory: &str, file: &FileToWrite) -> EngineResult<()>;

    /// Reads a small file of a container, running or not. [`Trouble::Absent`] when it is not there,
    /// [`Trouble::Conflict`] when it is no regular file (a directory, a FIFO) or too large to be one of ours.
    async fn read_file(&self, id: &ContainerId, path: &str) -> EngineResult<Vec<u8>>;

    /// Whether a small file of a container's volume, running or not, has exactly this content. Errors as those of
    /// [`read_file`](Self::read_file).
    ///
    /// For content that exists nowhere else, such as a new token: the engine may compare a file of this host, and takes
    /// equal content for the proof that it is the container's.
    async fn file_holds(&self, id: &ContainerId, path: &str, content: &[u8]) -> EngineResult<bool>;

    /// Makes the network, with DNS, where it is missing.
    async fn ensure_network(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        isolate: bool,
    ) -> EngineResult<NetworkInfo>;

    /// The networks that carry this label, with the address by which their containers reach the host.
    async fn list_networks(&self, key: &str, value: &str) -> EngineResult<Vec<ListedNetwork>>;

    /// Deletes a network, never by force. Absent is success; [`Trouble::Conflict`] while a container, running or
    /// not, belongs to it.
    async fn delete_network(&self, name: &str) -> EngineResult<()>;

    /// Whether the image is there.
    async fn has_image(&self, image: &str) -> EngineResult<bool>;

    /// Fetches an image. [`Trouble::ImageMissing`], with the registry's words, when it cannot be had.
    async fn pull_image(&self, image: &str, progress: Progress<'_>) -> EngineResult<()>;

    /// Whether this port of 127.0.0.1 can be published, as far as a look can tell.
    async fn port_is_free(&self, port: u16) -> bool;

    /// What everything costs in disk. Slow where there is much of it: for people who ask.
    async fn disk_usage(&self) -> EngineResult<DiskUsage>;

    /// A container's output.
    async fn logs(&self, id: &ContainerId, request: LogRequest) -> EngineResult<LogStream>;

    /// What happens to containers with this label (`key=value`; with `None` any value of the key), as it
    /// happens. With `since`, what has happened since then comes first.
    ///
    /// Answers once the engine has agreed to report, which it then does for as long as it can be reached.
    /// When it cannot any more, the stream ends, with an error or without one; nothing comes after an
    /// error. Connecting again is the caller's, and so is a full listing after each time: events are lost
    /// while nobody listens, and even with `since` an engine may have forgotten them. They may also repeat,
    /// those about `since` above all, and come late. So nothing may depend on the arrival of an event.
    async fn container_events(
        &self,
        key: &str,
        value: Option<&str>,
        since: Option<Timestamp>,
    ) -> EngineResult<EventStream>;

    /// Prepares a command in a running container.
    async fn create_exec(&self, id: &ContainerId, request: &ExecRequest) -> EngineResult<ExecId>;

    /// Runs a prepared command, connected to the stream that is returned.
    async fn start_exec(&self, exec: &ExecId, tty: bool) -> EngineResult<Box<dyn Duplex>>;

    /// Tells a command's terminal its size, in columns and rows.
    async fn resize_exec(&self, exec: &ExecId, columns: u16, rows: u16) -> EngineResult<()>;

    /// The code a command ended with; `None` while it runs.
    async fn exec_exit_code(&self, exec: &ExecId) -> EngineResult<Option<i32>>;
}
