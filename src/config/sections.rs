//! The values of each section, and their defaults.

use std::{net::IpAddr, time::Duration};

/// Defines a section, with the default of each value beside it.
macro_rules! section {
    ($(#[$meta:meta])* $section:ident {
        $($(#[$of_value:meta])* $value:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $section {
            $($(#[$of_value])* pub $value: $type,)*
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($value: $default,)* }
            }
        }
    };
}

section! {
    /// Values of the section `[engine]`.
    EngineConfig {
        /// Address of Podman's socket. If `None`, ostler looks for it at the usual paths.
        socket: Option<String> = None,
        /// Deadline of a call to the engine that only reads.
        read_deadline: Duration = Duration::from_secs(20),
        /// Deadline of a call to the engine that changes something.
        change_deadline: Duration = Duration::from_mins(1),
        /// Deadline of pulling an image.
        pull_deadline: Duration = Duration::from_mins(30),
        /// Maximum number of concurrent container starts; 0 means the number of processors.
        concurrent_starts: u32 = 0,
        /// Size in bytes at which Podman discards a container's log and starts a new one.
        log_size: u64 = 10 << 20,
    }
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

section! {
    /// Values of the section `[network]`.
    NetworkConfig {
        /// Whether containers are isolated from each other.
        isolate: bool = false,
        /// TCP port for agents.
        port: u16 = 7717,
        /// Addresses to listen on. If empty, ostler listens on loopback and the gateway of the workspaces' network.
        listen: Vec<IpAddr> = Vec::new(),
        /// URL that agents use to reach ostler; `None` if ostler determines it.
        platform_url: Option<String> = None,
    }
}

section! {
    /// Values of the section `[access]`.
    AccessConfig {
        /// Whether workspaces without a parent may exchange messages.
        root_siblings: bool = true,
        /// Maximum number of times per hour that one workspace may wake another.
        wakes_per_hour: u32 = 12,
    }
}

section! {
    /// Values of the section `[external]`.
    ExternalConfig {
        /// Whether external agents may have private addresses.
        allow_private: bool = false,
        /// Whether external agents may run on this machine.
        allow_loopback: bool = false,
    }
}

section! {
    /// Values of the section `[sweep]`.
    SweepConfig {
        /// How long a container must be absent before its instance tokens are revoked.
        absence_grace: Duration = Duration::from_mins(5),
        /// How long a container or volume without a row must be listed before it is moved to the trash.
        unknown_grace: Duration = Duration::from_mins(10),
        /// How long entries stay in the trash.
        trash_retention: Duration = Duration::from_hours(14 * 24),
        /// How long events are kept.
        event_retention: Duration = Duration::from_hours(30 * 24),
        /// Interval between listings of all containers. They find changes whose events were missed.
        check_interval: Duration = Duration::from_secs(30),
    }
}

section! {
    /// Values of the section `[log]`.
    LogConfig {
        /// Filter in the syntax of `tracing`, such as `info` or `info,ostler::sweep=debug`.
        level: String = "info".to_owned(),
        /// Format of a log line.
        format: LogFormat = LogFormat::Auto,
    }
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
