//! The workspaces' networks, and the addresses by which their containers reach this host.
//!
//! With `network.isolate` every workspace has its own network. Podman's `isolate` option separates *networks* only, not
//! the containers within one network, so it has no effect between workspaces on a shared network. Rejected: a network
//! per tree (within a tree, not all workspaces are allowed to talk to each other, and moving a workspace would require
//! a new container). Also rejected: port isolation on the bridge (Podman has no option for it, and if ostler set it,
//! containers would not be isolated for a moment after every start).

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
    domain::{
        ids::WorkspaceId,
        naming::{LABEL_INSTANCE, LABEL_WORKSPACE, instance_name, network_name},
        status::Status,
    },
    engine::{ErrorKind, NetworkInfo, Subnet},
    runtime::clock::{Clock, within},
    store::HostReach,
    testing::crash_point,
};

/// Host name of this host in containers of a rootless Podman, which writes it into `/etc/hosts` at every start.
const ROOTLESS_HOST: &str = "host.containers.internal";

/// The addresses to listen on for workspaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAddresses {
    /// The gateways of the workspaces' networks. With rootless Podman, this host's own address, because rootless Podman
    /// has the gateways in a network namespace of its own.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether other machines can reach these addresses too.
    pub reachable_from_lan: bool,
    /// Whether the engine is rootless.
    pub rootless: bool,
    /// Rootless: the host address that each workspace's container was given, for containers that this process started.
    pub given_addresses: BTreeMap<WorkspaceId, IpAddr>,
}

/// How long a start waits until ostler listens on the container's gateway. After that time it continues; if the agent
/// cannot register, this is detected later.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// The gateways of all known networks, shared between the starts that create networks and the task that listens on
/// them.
///
/// When ostler deletes a network, its gateway is removed from this list, because Podman may give the subnet to a
/// network that is not ostler's.
#[derive(Debug, Default)]
pub struct Gateways {
    known: watch::Sender<KnownGateways>,
    /// The newest version of `known` that the listening task has processed.
    served: watch::Sender<u64>,
    /// Whether a task listens on the gateways; `false` in tests.
    attended: AtomicBool,
    /// The addresses currently bound for workspaces.
    bound: Mutex<BTreeSet<IpAddr>>,
    /// Whether the engine is rootless, by its last answer. An earlier ostler process may have received that answer.
    rootless: Mutex<Option<bool>>,
    /// Rootless: the address of this host when each workspace's container was last started. Podman writes it into the
    /// container's `/etc/hosts`.
    given_addresses: Mutex<BTreeMap<WorkspaceId, IpAddr>>,
}

/// The state of [`Gateways`] at one time.
#[derive(Clone, Debug, Default)]
pub struct KnownGateways {
    /// Raised by one with each change.
    pub version: u64,
    /// Each gateway, with its subnet.
    pub gateways: BTreeMap<IpAddr, Option<Subnet>>,
    /// Rootless: this host's own address, by which containers reach it instead of a gateway.
    pub host: Option<IpAddr>,
}

impl Gateways {
    /// Subscribes to changes. From now on, each start waits until [`Self::note_served`] has reported the current
    /// version.
    #[must_use]
    pub fn attend(&self) -> watch::Receiver<KnownGateways> {
        self.attended.store(true, Ordering::Relaxed);
        self.known.subscribe()
    }

    /// Records that this version was processed: ostler listens on all its addresses that can be bound.
    pub fn note_served(&self, version: u64) {
        self.served.send_replace(version);
    }

    /// Records the complete set of addresses that are bound for workspaces.
    pub fn note_bound(&self, addresses: BTreeSet<IpAddr>) {
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// The addresses currently bound for workspaces.
    #[must_use]
    pub fn bound(&self) -> BTreeSet<IpAddr> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the engine is rootless, by its last answer, which an earlier ostler process may have received. `None` if
    /// no task listens for workspaces, or before that task has read the stored answer.
    #[must_use]
    pub fn is_rootless(&self) -> Option<bool> {
        *self.rootless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_rootless(&self, rootless: bool) {
        *self.rootless.lock().unwrap_or_else(PoisonError::into_inner) = Some(rootless);
    }

    /// Records that the engine is rootless, and the address at which containers that start from now on reach this
    /// host.
    pub fn note_host(&self, address: IpAddr) {
        self.known.send_if_modified(|known| {
            let changed = known.host != Some(address);
            known.host = Some(address);
            known.version += u64::from(changed);
            changed
        });
    }

    /// Runs before a container starts. Rootless Podman gives the container the address that this host has at that
    /// moment, so ostler must listen on that address first. Does nothing before [`Self::note_host`] has recorded a
    /// rootless engine.
    pub(super) async fn before_start(
        &self,
        workspace: WorkspaceId,
        address: Option<IpAddr>,
        clock: &dyn Clock,
    ) {
        let is_rootless = self.known.borrow().host.is_some();
        if let Some(address) = address.filter(|_| is_rootless) {
            self.note_host(address);
            self.given_addresses.lock().unwrap_or_else(PoisonError::into_inner).insert(workspace, address);
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

    /// Waits until ostler listens on every known gateway, at most `READY_WITHIN`.
    async fn ready(&self, clock: &dyn Clock) {
        if self.attended.load(Ordering::Relaxed) {
            let wanted = self.known.borrow().version;
            let mut served = self.served.subscribe();
            let caught_up = served.wait_for(|served| *served >= wanted);
            let _in_time = within(clock, READY_WITHIN, caught_up).await;
        }
    }
}

/// The network of a workspace.
pub(super) struct WorkspaceNetwork {
    /// Its name in the engine.
    pub(super) name: String,
    /// The platform URL that the container is given.
    pub(super) platform_url: String,
}

impl Ops {
    /// The addresses to listen on for workspaces.
    ///
    /// # Errors
    /// If the engine gives no answer, or the host of a rootless engine has no address.
    pub async fn host_addresses(&self) -> OpResult<HostAddresses> {
        if self.0.engine.describe().await?.rootless {
            let address = own_address().map_err(|error| {
                OpError::Impossible(format!("this host has no address that containers can reach: {error}"))
            })?;
            return Ok(HostAddresses {
                addresses: BTreeSet::from([address]),
                reachable_from_lan: !address.is_loopback(),
                rootless: true,
                given_addresses: self.0.addresses_given(),
            });
        }
        if !self.0.settings().isolate {
            self.0.shared_network().await?;
        }
        let instance = self.0.settings().instance.to_string();
        let networks = self.0.engine.list_networks(LABEL_INSTANCE, &instance).await?;
        self.0.gateways.note(networks.into_iter().map(|network| network.info));
        let addresses = self.0.gateways.addresses();
        Ok(HostAddresses {
            addresses,
            reachable_from_lan: false,
            rootless: false,
            given_addresses: BTreeMap::new(),
        })
    }

    /// How workspaces reached this host when the engine last answered, perhaps to an earlier ostler process. `None`
    /// before the first answer.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn last_reach(&self) -> OpResult<Option<HostReach>> {
        let last = self.0.store.host_reach().await?;
        if let Some(last) = &last {
            self.0.gateways.note_rootless(last.rootless);
        }
        Ok(last)
    }

    /// Stores how workspaces reach this host, as determined from an answer of the engine. The stored value is used if
    /// the engine does not answer when the daemon starts.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn keep_reach(&self, reach: HostReach) -> OpResult<()> {
        self.0.gateways.note_rootless(reach.rootless);
        self.0.store.keep_host_reach(reach).await?;
        Ok(())
    }

    /// The addresses bound for workspaces. Waits first until ostler listens on the gateway of every known network, at
    /// most `READY_WITHIN`.
    pub async fn bound_addresses(&self) -> BTreeSet<IpAddr> {
        self.0.gateways.ready(&*self.0.clock).await;
        self.0.gateways.bound()
    }

    /// The gateways that this process knows, for the task that listens on them.
    #[must_use]
    pub fn gateways(&self) -> &Gateways {
        &self.0.gateways
    }

    /// This host's own address by its current routing table; `None` if it has none.
    #[must_use]
    pub fn own_address(&self) -> Option<IpAddr> {
        own_address().ok()
    }

    /// Deletes the networks of removed workspaces that own no container any more. A network holds no data, and a start
    /// creates a missing one again.
    ///
    /// # Errors
    /// If the engine gives no answer.
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

    /// Runs under the workspace's actor, so that it never runs between the creation of a network and the creation of
    /// its container.
    pub(super) async fn forget_network_now(&self, workspace: WorkspaceId) -> OpResult<Applied> {
        let row = self.0.store.workspace(workspace).await?;
        if row.is_some_and(|row| row.status != Status::Removed) {
            return Ok(Applied::Raced("the workspace is in the registry again".into()));
        }
        crash_point::before("clean up: delete a network");
        let deleted = self.0.engine.delete_network(&network_name(workspace)).await;
        crash_point::after("clean up: delete a network");
        match deleted {
            Err(error) if error.kind == ErrorKind::Conflict => {
                Ok(Applied::Raced("a container uses the network".into()))
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

    fn addresses_given(&self) -> BTreeMap<WorkspaceId, IpAddr> {
        let mut given_addresses =
            self.gateways.given_addresses.lock().unwrap_or_else(PoisonError::into_inner);
        given_addresses.retain(|workspace, _| self.store.is_live(*workspace));
        given_addresses.clone()
    }

    /// Creates the network for a workspace's container if it is missing, and waits until ostler listens on its gateway.
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
        // Done before the container exists, because an agent registers only once, as soon as it runs.
        self.gateways.note([info]);
        self.gateways.ready(&*self.clock).await;
        Ok(WorkspaceNetwork { name, platform_url: self.url_for_containers(info.gateway).await? })
    }

    /// The network shared by all workspaces; created if it is missing.
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
        crash_point::before("reach: create the network");
        let made = self.engine.ensure_network(name, labels, isolate).await?;
        crash_point::after("reach: create the network");
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

/// The source address that this host uses for connections to other machines. No packet is sent: connecting a datagram
/// socket only consults the routing table.
fn own_address() -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::runtime::clock::SystemClock;

    #[tokio::test]
    async fn start_waits_until_the_new_host_address_is_served() {
        let (gateways, clock) = (Gateways::default(), SystemClock::start());
        let [home, cafe] = ["192.0.2.10", "198.51.100.7"].map(|address| address.parse().unwrap());
        let workspace = WorkspaceId(uuid::Uuid::from_u128(1));
        let mut served = gateways.attend();
        let starts = |address| gateways.before_start(workspace, Some(address), &clock).now_or_never();
        assert!(starts(home).is_some(), "the start waited although the engine is not known to be rootless");
        gateways.note_host(home);
        gateways.note_served(served.borrow_and_update().version);
        assert!(starts(home).is_some(), "the start waited although its address is served");
        assert!(!served.has_changed().unwrap());

        assert!(starts(cafe).is_none(), "the start did not wait for the new address");
        let known = served.borrow_and_update().clone();
        assert_eq!(known.host, Some(cafe), "the new address was not passed to the listener");
        gateways.note_served(known.version);
        assert!(starts(cafe).is_some());
        assert_eq!(gateways.given_addresses.lock().unwrap().get(&workspace), Some(&cafe));
    }
}
