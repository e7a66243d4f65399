//! The workspaces' networks, and the addresses by which their containers reach this host.
//!
//! With `network.isolate` every workspace has a network of its own. Podman's `isolate` option alone keeps *networks*
//! apart, never the containers of one network: with a shared network it would keep back nothing between workspaces.
//! Rejected: a network per tree (siblings of one tree may not all talk to each other, and a move in the tree would
//! need a new container), and port isolation on the bridge (Podman has no option for it, and setting it ourselves
//! would leave a gap after every start).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{Applied, Inner, OpError, OpResult, Ops};
use crate::{
    clock::{Clock, within},
    crash_point,
    domain::{
        ids::WorkspaceId,
        naming::{LABEL_INSTANCE, LABEL_WORKSPACE, instance_name, network_name},
        status::Status,
    },
    engine::{NetworkInfo, Subnet, Trouble},
    store::HostReach,
};

/// The name of the host in containers of a rootless Podman, which writes it into `/etc/hosts` at every start.
const ROOTLESS_HOST: &str = "host.containers.internal";

/// The addresses to listen on for workspaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAddresses {
    /// The gateways of the workspaces' networks. Rootless: this host's own address, because Podman keeps the
    /// gateways inside a network namespace of its own.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether other machines can reach these addresses too.
    pub lan_sees_it: bool,
    /// Whether the engine is rootless.
    pub rootless: bool,
    /// Rootless: the address that the container of each workspace was told, of those that this process started.
    pub told: BTreeMap<WorkspaceId, IpAddr>,
}

/// How long a start waits for its gateway to be served. It goes on without: an agent that cannot register is noticed.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// The gateways of the networks known so far, between the starts that make networks and the task that serves them.
///
/// A network that ostler deletes is taken out: its subnet may be given to anybody's next network.
#[derive(Debug, Default)]
pub struct Gateways {
    known: watch::Sender<KnownGateways>,
    /// The version that is served.
    served: watch::Sender<u64>,
    /// Whether there is a task that serves them: not in tests.
    attended: AtomicBool,
    /// The addresses that are bound now for workspaces.
    bound: Mutex<BTreeSet<IpAddr>>,
    /// Whether the engine is rootless, as it said last: to an earlier process, where it has not answered this one.
    rootless: Mutex<Option<bool>>,
    /// Rootless: the address of this host when the container of each workspace was last started, which Podman writes
    /// into the container's `/etc/hosts`.
    told: Mutex<BTreeMap<WorkspaceId, IpAddr>>,
}

/// What [`Gateways`] knows at one time.
#[derive(Clone, Debug, Default)]
pub struct KnownGateways {
    /// Counts the changes.
    pub version: u64,
    /// Each gateway, with the subnet it belongs to.
    pub gateways: BTreeMap<IpAddr, Option<Subnet>>,
    /// Rootless: this host's own address, by which containers reach it instead.
    pub host: Option<IpAddr>,
}

impl Gateways {
    /// What is known, as it changes. From now on starts wait until [`Self::note_served`] has caught up.
    #[must_use]
    pub fn attend(&self) -> watch::Receiver<KnownGateways> {
        self.attended.store(true, Ordering::Relaxed);
        self.known.subscribe()
    }

    /// This version is served now.
    pub fn note_served(&self, version: u64) {
        self.served.send_replace(version);
    }

    /// These addresses are bound now for workspaces, and no others.
    pub fn note_bound(&self, addresses: BTreeSet<IpAddr>) {
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// The addresses that are bound now for workspaces.
    #[must_use]
    pub fn bound(&self) -> BTreeSet<IpAddr> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the engine is rootless, as it said last: to an earlier process, where it has not answered this one.
    /// `None` where no task serves workspaces, and before it has read what was kept.
    #[must_use]
    pub fn is_rootless(&self) -> Option<bool> {
        *self.rootless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_rootless(&self, rootless: bool) {
        *self.rootless.lock().unwrap_or_else(PoisonError::into_inner) = Some(rootless);
    }

    /// Containers that start from now on reach this host at this address: the engine is rootless.
    pub fn note_host(&self, address: IpAddr) {
        self.known.send_if_modified(|known| {
            let changed = known.host != Some(address);
            known.host = Some(address);
            known.version += u64::from(changed);
            changed
        });
    }

    /// Before a container starts: rootless, Podman tells it the address that this host has at that moment, so that one
    /// has to be served first. Does nothing before [`Self::note_host`] said that the engine is rootless.
    pub(super) async fn before_start(
        &self,
        workspace: WorkspaceId,
        address: Option<IpAddr>,
        clock: &dyn Clock,
    ) {
        let is_rootless = self.known.borrow().host.is_some();
        if let Some(address) = address.filter(|_| is_rootless) {
            self.note_host(address);
            self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(workspace, address);
            self.ready(clock).await;
        }
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.known.borrow().gateways.keys().copied().collect()
    }

    fn note(&self, found: impl IntoIterator<Item = NetworkInfo>) {
        let found: Vec<_> = found.into_iter().filter_map(|info| Some((info.gateway?, info.subnet))).collect();
        self.known.send_if_modified(|known| {
            let before = known.gateways.len();
            known.gateways.extend(found);
            let changed = known.gateways.len() != before;
            known.version += u64::from(changed);
            changed
        });
    }

    fn forget(&self, network: NetworkInfo) {
        self.known.send_if_modified(|known| {
            let changed = network.gateway.is_some_and(|gateway| known.gateways.remove(&gateway).is_some());
            known.version += u64::from(changed);
            changed
        });
    }

    /// Waits until every known gateway is served.
    async fn ready(&self, clock: &dyn Clock) {
        if self.attended.load(Ordering::Relaxed) {
            let wanted = self.known.borrow().version;
            let mut served = self.served.subscribe();
            let caught_up = served.wait_for(|served| *served >= wanted);
            let _goes_on_without = within(clock, READY_WITHIN, caught_up).await;
        }
    }
}

/// A workspace's network.
pub(super) struct WorkspaceNetwork {
    /// Its name in the engine.
    pub(super) name: String,
    /// The url that the container is given.
    pub(super) platform_url: String,
}

impl Ops {
    /// The addresses to listen on for workspaces.
    ///
    /// # Errors
    /// When the engine gives no answer, or a rootless engine's host has no address.
    pub async fn host_addresses(&self) -> OpResult<HostAddresses> {
        if self.0.engine.describe().await?.rootless {
            let address = own_address().map_err(|error| {
                OpError::Impossible(format!("this host has no address that workspaces could reach: {error}"))
            })?;
            return Ok(HostAddresses {
                addresses: BTreeSet::from([address]),
                lan_sees_it: !address.is_loopback(),
                rootless: true,
                told: self.0.told_addresses(),
            });
        }
        if !self.0.settings().isolate {
            self.0.shared_network().await?;
        }
        let instance = self.0.settings().instance.to_string();
        let networks = self.0.engine.list_networks(LABEL_INSTANCE, &instance).await?;
        self.0.gateways.note(networks.into_iter().map(|network| network.info));
        let addresses = self.0.gateways.addresses();
        Ok(HostAddresses { addresses, lan_sees_it: false, rootless: false, told: BTreeMap::new() })
    }

    /// How workspaces reached this host when the engine last answered, perhaps to an earlier process. `None` before
    /// the first time.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn last_reach(&self) -> OpResult<Option<HostReach>> {
        let last = self.0.store.host_reach().await?;
        if let Some(last) = &last {
            self.0.gateways.note_rootless(last.rootless);
        }
        Ok(last)
    }

    /// Keeps how workspaces reach this host, by an answer of the engine, for a start while it is away.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn keep_reach(&self, reach: HostReach) -> OpResult<()> {
        self.0.gateways.note_rootless(reach.rootless);
        self.0.store.keep_host_reach(reach).await?;
        Ok(())
    }

    /// The addresses that are bound for workspaces, once every network that is known is served.
    pub async fn bound_addresses(&self) -> BTreeSet<IpAddr> {
        self.0.gateways.ready(&*self.0.clock).await;
        self.0.gateways.bound()
    }

    /// The gateways that this process knows of, for the one task that listens on them.
    #[must_use]
    pub fn gateways(&self) -> &Gateways {
        &self.0.gateways
    }

    /// This host's own address as the routing table has it now; `None` without one.
    #[must_use]
    pub fn own_address(&self) -> Option<IpAddr> {
        own_address().ok()
    }

    /// Deletes the networks of workspaces that are removed and own no container any more. A network holds no data,
    /// and a start makes a missing one again.
    ///
    /// # Errors
    /// When the engine gives no answer.
    pub async fn forget_networks(&self, owning: &BTreeSet<WorkspaceId>) -> OpResult<()> {
        let instance = self.0.settings().instance.to_string();
        for network in self.0.engine.list_networks(LABEL_INSTANCE, &instance).await? {
            let workspace = network.labels.get(LABEL_WORKSPACE).and_then(|id| id.parse().ok());
            let Some(workspace) = workspace else { continue };
            let is_unused = !owning.contains(&workspace) && self.0.store.member(workspace).is_none();
            if is_unused && network.name == network_name(workspace) {
                let done = self.order(workspace, super::Order::ForgetNetwork).await?;
                if matches!(done, Applied::Done(_)) {
                    self.0.gateways.forget(network.info);
                }
            }
        }
        Ok(())
    }

    /// Under the workspace's actor, so that no start is between making its network and its container.
    pub(super) async fn forget_network_now(&self, workspace: WorkspaceId) -> OpResult<Applied> {
        let row = self.0.store.workspace(workspace).await?;
        if row.is_some_and(|row| row.status != Status::Removed) {
            return Ok(Applied::Raced("the workspace is back".into()));
        }
        crash_point::before("forget: delete a network");
        let deleted = self.0.engine.delete_network(&network_name(workspace)).await;
        crash_point::after("forget: delete a network");
        match deleted {
            Err(error) if error.trouble == Trouble::Conflict => {
                Ok(Applied::Raced("a container belongs to it".into()))
            }
            Err(error) => Err(error.into()),
            Ok(()) => Ok(Applied::Done("its network is deleted".into())),
        }
    }
}

impl Inner {
    /// See [`Gateways::before_start`].
    pub(super) async fn serve_before_start(&self, workspace: WorkspaceId) {
        self.gateways.before_start(workspace, own_address().ok(), &*self.clock).await;
    }

    fn told_addresses(&self) -> BTreeMap<WorkspaceId, IpAddr> {
        let mut told = self.gateways.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|workspace, _| self.store.is_live(*workspace));
        told.clone()
    }

    /// Makes the network of a workspace's container where it is missing.
    pub(super) async fn network_of(&self, workspace: WorkspaceId) -> OpResult<WorkspaceNetwork> {
        let (name, info) = if self.settings().isolate {
            let name = network_name(workspace);
            let labels = BTreeMap::from([
                (LABEL_INSTANCE.to_owned(), self.settings().instance.to_string()),
                (LABEL_WORKSPACE.to_owned(), workspace.to_string()),
            ]);
            let info = self.make_network(&name, &labels, true).await?;
            (name, info)
        } else {
            (instance_name(self.settings().instance), self.shared_network().await?)
        };
        // Before the container exists: agents register once, as soon as they run, and never again.
        self.gateways.note([info]);
        self.gateways.ready(&*self.clock).await;
        Ok(WorkspaceNetwork { name, platform_url: self.url_for_containers(info.gateway).await? })
    }

    /// The network that all workspaces share, which is made where it is missing.
    async fn shared_network(&self) -> OpResult<NetworkInfo> {
        let network = instance_name(self.settings().instance);
        let labels = BTreeMap::from([(LABEL_INSTANCE.to_owned(), self.settings().instance.to_string())]);
        self.make_network(&network, &labels, false).await
    }

    async fn make_network(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        isolate: bool,
    ) -> OpResult<NetworkInfo> {
        crash_point::before("reach: make the network");
        let made = self.engine.ensure_network(name, labels, isolate).await?;
        crash_point::after("reach: make the network");
        Ok(made)
    }

    async fn url_for_containers(&self, gateway: Option<IpAddr>) -> OpResult<String> {
        if let Some(url) = &self.settings().platform_url {
            return Ok(url.clone());
        }
        let rootless = self.engine.describe().await?.rootless;
        let host = match gateway.filter(|_| !rootless) {
            Some(IpAddr::V6(address)) => format!("[{address}]"),
            Some(IpAddr::V4(address)) => address.to_string(),
            None => ROOTLESS_HOST.to_owned(),
        };
        Ok(format!("http://{host}:{}", self.settings().platform_port))
    }
}

/// The address from which this host would send to the rest of the world. Nothing is sent: connecting a datagram
/// socket only asks the routing table.
fn own_address() -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn start_waits_until_the_hosts_new_address_is_served() {
        let (gateways, clock) = (Gateways::default(), SystemClock::start());
        let [home, cafe] = ["192.0.2.10", "198.51.100.7"].map(|address| address.parse().unwrap());
        let workspace = WorkspaceId(uuid::Uuid::from_u128(1));
        let mut served = gateways.attend();
        let starts = |address| gateways.before_start(workspace, Some(address), &clock).now_or_never();
        assert!(starts(home).is_some(), "nothing to wait for: the engine is not known to be rootless");
        gateways.note_host(home);
        gateways.note_served(served.borrow_and_update().version);
        assert!(starts(home).is_some(), "the address is served");
        assert!(!served.has_changed().unwrap());

        assert!(starts(cafe).is_none(), "it was told an address that is not served yet");
        let known = served.borrow_and_update().clone();
        assert_eq!(known.host, Some(cafe), "the listener is not moved before the start");
        gateways.note_served(known.version);
        assert!(starts(cafe).is_some());
        assert_eq!(gateways.told.lock().unwrap().get(&workspace), Some(&cafe));
    }
}
