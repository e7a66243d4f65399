//! Checks whether workspaces reach ostler, where ostler listens, and which packets pass between workspaces.

mod address;
#[cfg(test)]
mod fixture;
mod inside;
mod listen;
mod ports;
mod reached;
mod tree;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use super::Doctor;
use crate::{
    api::doctor::Check,
    domain::{ids::WorkspaceId, time::Timestamp},
    runtime::clock::{Boxed, within},
    store::{Scope, StoreResult},
};
use address::outdated_addresses;
pub use inside::registry_mark;
use listen::{Proof, listen_check};
use reached::ask_rank;
use tree::between;

/// Time limit of the requests from inside containers, for all containers together. The HTTP client in a container stops
/// after 5 s.
const DEADLINE: Duration = Duration::from_secs(10);

/// A heartbeat that is not older than this also proves that a workspace reaches ostler.
const RECENT_HEARTBEAT: Duration = Duration::from_mins(2);

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

impl Doctor {
    /// Checks whether workspaces reach ostler, where it listens, and which packets pass between workspaces.
    pub(super) async fn network(&self) -> StoreResult<Vec<Check>> {
        let network = &self.0.network;
        let rows = self.0.store.describe_all(Scope::Live).await?;
        let (reach, reached, not_listening, attached, bound) = tokio::join!(
            within(&*self.0.clock, DEADLINE, (network.reach)()),
            self.reached(&rows),
            self.not_listening(&rows),
            self.attached(&rows),
            (network.bound)(),
        );
        let reach = reach.unwrap_or_else(|| Err("the engine does not answer".into()));
        let proof = if reached.verdict == "ok" && self.newest_heartbeat(&rows).is_some() {
            Proof::Reached
        } else if rows.iter().any(|one| ask_rank(one).is_some()) {
            Proof::Missing
        } else {
            Proof::NoneRunning
        };
        let mut checks = vec![reached, listen_check(network, &reach, &bound, proof)];
        checks.extend(reach.as_ref().ok().and_then(|reach| outdated_addresses(&rows, &reach.outdated)));
        checks.extend(not_listening);
        let rootless = reach.is_ok_and(|reach| reach.rootless);
        checks.push(between(network, rootless, self.0.instance, &attached));
        Ok(checks)
    }
}
