//! The values of each section.

use std::{net::IpAddr, time::Duration};

/// Values of the section `[engine]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Address of Podman's socket. If `None`, ostler looks for it at the usual paths.
    pub socket: Option<String>,
    /// Deadline of a call to the engine that only reads.
    pub read_deadline: Duration,
    /// Deadline of a call to the engine that changes something.
    pub change_deadline: Duration,
    /// Deadline of pulling an image.
    pub pull_deadline: Duration,
    /// Maximum number of concurrent container starts; 0 means the number of processors.
    pub concurrent_starts: u32,
    /// Size in bytes at which Podman discards a container's log and starts a new one.
    pub log_size: u64,
}

impl EngineConfig {
    /// Maximum number of concurrent container starts, at least 1.
    #[must_use]
    pub fn concurrent_starts(&self) -> usize {
        match self.concurrent_starts {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            number => usize::try_from(number).unwrap_or(usize::MAX),
        }
    }
}

/// Values of the section `[network]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Whether containers are isolated from each other.
    pub isolate: bool,
    /// TCP port for agents.
    pub port: u16,
    /// Addresses to listen on. If empty, ostler listens on loopback and the gateway of the workspaces' network.
    pub listen: Vec<IpAddr>,
    /// URL that agents use to reach ostler; `None` if ostler determines it.
    pub platform_url: Option<String>,
}

/// Values of the section `[access]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessConfig {
    /// Whether workspaces without a parent may exchange messages.
    pub root_siblings: bool,
    /// Maximum number of times per hour that one workspace may wake another.
    pub wakes_per_hour: u32,
}

/// Values of the section `[external]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalConfig {
    /// Whether external agents may have private addresses.
    pub allow_private: bool,
    /// Whether external agents may run on this machine.
    pub allow_loopback: bool,
}

/// Values of the section `[sweep]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepConfig {
    /// How long a container must be absent before its instance tokens are revoked.
    pub absence_grace: Duration,
    /// How long a container or volume without a row must be listed before it is moved to the trash.
    pub unknown_grace: Duration,
    /// How long entries stay in the trash.
    pub trash_retention: Duration,
    /// How long events are kept.
    pub event_retention: Duration,
    /// Interval between listings of all containers. They find changes whose events were missed.
    pub check_interval: Duration,
}

/// Values of the section `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Filter in the syntax of `tracing`, such as `info` or `info,ostler::sweep=debug`.
    pub level: String,
    /// Format of a log line.
    pub format: LogFormat,
}

/// Format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    Auto,
    /// Human-readable text.
    Pretty,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    pub(super) const ALL: [Self; 3] = [Self::Auto, Self::Pretty, Self::Json];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Pretty => "pretty",
            Self::Json => "json",
        }
    }
}
