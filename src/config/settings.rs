//! All settings of a daemon, and their defaults.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use super::{
    paths::{default_data_dir, default_runtime_dir},
    sections::{AccessConfig, EngineConfig, ExternalConfig, LogConfig, NetworkConfig, SweepConfig},
};
use crate::domain::{
    budget::RestartBudget,
    ports::PortRange,
    runtime::{AGENT, PLAIN, Runtime},
};

/// All settings, validated.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// The file that was read; `None` if there is none.
    pub file: Option<PathBuf>,
    /// Directory of the registry: database, mirror, lock and socket.
    pub data_dir: PathBuf,
    /// Directory of the locks that must not survive a reboot.
    pub runtime_dir: PathBuf,
    /// Connection to the engine, and limits on its use.
    pub engine: EngineConfig,
    /// How agents reach ostler.
    pub network: NetworkConfig,
    /// Host ports that ostler assigns to containers.
    pub ports: PortRange,
    /// Limits on messages between workspaces, and on how often workspaces may wake each other.
    pub access: AccessConfig,
    /// Agents that run outside ostler's containers.
    pub external: ExternalConfig,
    /// Limits on the restarts after unexpected exits.
    pub restart: RestartBudget,
    /// Grace periods, retention times and intervals of the sweeps.
    pub sweep: SweepConfig,
    /// Runtimes by name; always contains `plain` and `agent`.
    pub runtimes: BTreeMap<String, Runtime>,
    /// Filter and format of the log.
    pub log: LogConfig,
}

impl Config {
    /// The default configuration with these two directories.
    #[must_use]
    pub fn at(data_dir: PathBuf, runtime_dir: PathBuf) -> Self {
        Self {
            file: None,
            data_dir,
            runtime_dir,
            engine: EngineConfig::default(),
            network: NetworkConfig::default(),
            access: AccessConfig::default(),
            external: ExternalConfig::default(),
            restart: RestartBudget::default(),
            ports: PortRange { first: 21000, last: 28999 },
            sweep: SweepConfig::default(),
            runtimes: BTreeMap::from([
                (PLAIN.to_owned(), Runtime::plain()),
                (AGENT.to_owned(), Runtime::agent()),
            ]),
            log: LogConfig::default(),
        }
    }

    /// The default configuration with the usual directories of this platform.
    #[must_use]
    pub fn defaults() -> Self {
        Self::at(default_data_dir(), default_runtime_dir())
    }

    /// The socket on which the daemon serves the CLI.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.data_dir.join("ostler.sock")
    }
}

/// Shows only the names of the runtimes, because their environment variables may contain secrets.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("file", &self.file)
            .field("data_dir", &self.data_dir)
            .field("runtime_dir", &self.runtime_dir)
            .field("engine", &self.engine)
            .field("network", &self.network)
            .field("ports", &self.ports)
            .field("access", &self.access)
            .field("external", &self.external)
            .field("restart", &self.restart)
            .field("sweep", &self.sweep)
            .field("runtimes", &self.runtimes.keys().collect::<Vec<_>>())
            .field("log", &self.log)
            .finish()
    }
}
