//! Where the daemon listens for agents, and how workspaces reach this host.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use crate::{
    domain::{ids::WorkspaceId, time::Timestamp},
    runtime::clock::Boxed,
};

/// How workspaces reach this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The addresses: the gateway of each workspace's network or, with rootless Podman, this host's own address.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether packets from other machines reach these addresses too. If the configuration names no addresses, ostler
    /// closes connections that do not come from this host.
    pub reachable_from_lan: bool,
    /// Workspaces whose container was given an address that this host no longer has.
    pub outdated: BTreeSet<WorkspaceId>,
    /// Whether Podman runs rootless.
    pub rootless: bool,
}

/// Asks the engine for a [`Reach`]; the error is the reason why it is not known.
pub type AskReach = Arc<dyn Fn() -> Boxed<Result<Reach, String>> + Send + Sync>;

/// Returns the addresses that are bound for workspaces.
pub type AskBound = Arc<dyn Fn() -> Boxed<BTreeSet<IpAddr>> + Send + Sync>;

/// Where the daemon listens for agents, and which address agents are given.
#[derive(Clone)]
pub struct Network {
    /// The addresses in the configuration; empty means loopback and [`Reach::addresses`].
    pub listen: Vec<IpAddr>,
    /// The port of every listener for agents.
    pub port: u16,
    /// Description of the URL that agents are given, for display.
    pub advertised_url: String,
    /// Whether agents are given [`Self::advertised_url`] instead of an address of [`Reach`].
    pub is_url_configured: bool,
    /// Whether containers created from now on get a network of their own.
    pub isolate: bool,
    /// `Ok` if packets between those networks are dropped, otherwise the reason why they are not.
    pub packets: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// When this process started to listen. An earlier heartbeat does not prove that workspaces reach this process.
    pub since: Timestamp,
    /// The addresses that are bound for workspaces, besides those in the configuration and loopback.
    pub bound: AskBound,
    /// The addresses at which workspaces reach this host.
    pub reach: AskReach,
}

impl Default for Network {
    /// A daemon that listens nowhere, on a host that workspaces cannot reach.
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            port: 0,
            advertised_url: String::new(),
            is_url_configured: false,
            isolate: false,
            packets: Arc::new(|| Ok(())),
            since: Timestamp(0),
            bound: Arc::new(|| Box::pin(async { BTreeSet::new() })),
            reach: Arc::new(|| Box::pin(async { Err("nothing listens here".to_owned()) })),
        }
    }
}
