//! What of the configuration is read while the daemon runs.

use std::{collections::BTreeMap, time::Duration};

use crate::domain::{
    address::Allow, budget::RestartBudget, ids::InstanceId, naming::instance_name, ports::PortRange,
    runtime::Runtime,
};

/// Everything of the configuration that is read while the daemon runs, in one value: a reload replaces it as a whole,
/// so no part of the daemon can run with half of a new file.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose labels things carry.
    pub instance: InstanceId,
    /// Runtimes by name; always holds `plain`.
    pub runtimes: BTreeMap<String, Runtime>,
    /// Host ports to allot.
    pub ports: PortRange,
    /// The port agents reach ostler on.
    pub platform_port: u16,
    /// The url agents reach ostler at, in place of the network's gateway.
    pub platform_url: Option<String>,
    /// Whether each workspace has a network of its own, with packets between them kept back.
    pub isolate: bool,
    /// The size in bytes at which a container's log is dropped and begun again.
    pub log_bytes: u64,
    /// How long the trash keeps things.
    pub trash_retention: Duration,
    /// How often what ended by itself is started again.
    pub restart: RestartBudget,
    /// The sweeps' graces and retentions.
    pub limits: Limits,
    /// Who may talk to whom, and where external agents may be.
    pub access: Access,
    /// How many containers are started at once, at least 1.
    pub concurrent_starts: usize,
}

impl Settings {
    /// What containers are told of where ostler is, for people: the gateway's address is the engine's to know.
    #[must_use]
    pub fn told_to_agents(&self) -> String {
        self.platform_url.clone().unwrap_or_else(|| {
            let network = instance_name(self.instance);
            format!("the gateway of network {network}, port {}", self.platform_port)
        })
    }

    /// Where agents reach ostler, as far as it is settled without asking the engine for the gateway.
    #[must_use]
    pub fn platform_url(&self) -> String {
        self.platform_url.clone().unwrap_or_else(|| format!("http://127.0.0.1:{}", self.platform_port))
    }
}

/// The sweeps' graces and retentions.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a container has to be absent before tokens are stale.
    pub absence_grace: Duration,
    /// How long something unknown has to be seen before it is moved to the trash.
    pub unknown_grace: Duration,
    /// How long removed rows are remembered.
    pub removed_retention: Duration,
    /// How long events are kept.
    pub event_retention: Duration,
}

/// Who may talk to whom, and where external agents may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Whether workspaces without a parent may talk to each other.
    pub root_siblings: bool,
    /// How often one workspace may wake another within an hour.
    pub wakes_per_hour: u32,
    /// Where external agents may be.
    pub external: Allow,
}
