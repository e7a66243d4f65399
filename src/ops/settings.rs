//! The part of the configuration that is read while the daemon runs.

use std::{collections::BTreeMap, time::Duration};

use crate::domain::{
    address::Allow, budget::RestartBudget, ids::InstanceId, naming::instance_name, ports::PortRange,
    runtime::Runtime,
};

/// The part of the configuration that is read while the daemon runs, in one value. A reload replaces it as a whole, so
/// the daemon never mixes old and new settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The instance whose labels containers and volumes carry.
    pub instance: InstanceId,
    /// Runtimes by name; always contains `plain`.
    pub runtimes: BTreeMap<String, Runtime>,
    /// Host ports to allot.
    pub ports: PortRange,
    /// The port on which agents reach ostler.
    pub platform_port: u16,
    /// The URL at which agents reach ostler; `None` means the gateway of their network.
    pub platform_url: Option<String>,
    /// Whether each workspace has its own network, without traffic between workspaces.
    pub isolate: bool,
    /// The size in bytes at which a container's log is discarded and a new one is started.
    pub log_bytes: u64,
    /// How long the trash keeps its entries.
    pub trash_retention: Duration,
    /// How often a container is restarted after an unexpected exit.
    pub restart: RestartBudget,
    /// The sweeps' grace periods and retentions.
    pub limits: Limits,
    /// Which workspaces may talk to each other, and where external agents may be.
    pub access: Access,
    /// How many containers are started at once, at least 1.
    pub concurrent_starts: usize,
}

impl Settings {
    /// The platform URL that containers are given, as text for operators. Without a configured URL it names the
    /// network's gateway, because only the engine knows the address.
    #[must_use]
    pub fn advertised_url(&self) -> String {
        self.platform_url.clone().unwrap_or_else(|| {
            let network = instance_name(self.instance);
            format!("the gateway of network {network}, port {}", self.platform_port)
        })
    }

    /// The URL at which agents reach ostler; without a configured one, the loopback address, because the gateway is
    /// known only to the engine.
    #[must_use]
    pub fn platform_url(&self) -> String {
        self.platform_url.clone().unwrap_or_else(|| format!("http://127.0.0.1:{}", self.platform_port))
    }
}

/// The sweeps' grace periods and retentions.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a container has to be absent before its tokens are stale.
    pub absence_grace: Duration,
    /// How long an unknown container or volume has to be observed before it is moved to the trash.
    pub unknown_grace: Duration,
    /// How long removed rows are kept.
    pub removed_retention: Duration,
    /// How long events are kept.
    pub event_retention: Duration,
}

/// Which workspaces may talk to each other, and where external agents may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Whether workspaces without a parent may talk to each other.
    pub root_siblings: bool,
    /// How often one workspace may wake another within an hour.
    pub wakes_per_hour: u32,
    /// The addresses at which external agents may be.
    pub external: Allow,
}
