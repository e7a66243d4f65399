//! The listeners for workspaces. They are bound and closed as networks are created and removed, and bound to the new
//! address when this host's address changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{accept_engine::ACCEPT_EVERY, packets::Packets};
use crate::{
    domain::address::uncovered,
    http::{
        Api, is_own_address,
        server::{bind, serve_agents, serve_agents_of_this_host},
    },
    ops::Ops,
    runtime::{clock::SharedClock, tasks::SharedSpawn},
    store::HostReach,
};

/// Interval at which addresses and packet rules are checked even without a notification. With rootless Podman, no
/// notification reports a change of this host's address.
const ADDRESS_EVERY: Duration = Duration::from_secs(30);

/// The listeners for workspaces.
pub(super) struct Gates {
    pub(super) ops: Ops,
    pub(super) api: Api,
    pub(super) clock: SharedClock,
    pub(super) spawn: SharedSpawn,
    pub(super) port: u16,
    pub(super) stop: CancellationToken,
    /// Whether to bind the addresses for workspaces. `false` if `network.listen` names addresses: only those are bound
    /// then.
    pub(super) listens: bool,
    /// The addresses in `network.listen`, which must include those at which workspaces reach this host. Empty if
    /// `network.platform_url` gives workspaces another address.
    pub(super) listen: Vec<IpAddr>,
    /// Whether packets between workspaces are to be dropped.
    pub(super) isolate: bool,
    pub(super) packets: Arc<Packets>,
    pub(super) open: BTreeMap<IpAddr, CancellationToken>,
    /// The addresses that are stored for the next start of the daemon.
    pub(super) kept: Option<HostReach>,
}

impl Gates {
    /// Serves the addresses that are known and those that become known later. `opened` is completed once the first
    /// ones are bound.
    pub(super) async fn keep_open(mut self, opened: oneshot::Sender<()>) {
        let mut gateways = self.ops.gateways().attend();
        let mut last_warning = String::new();
        match self.ops.last_reach().await {
            Ok(kept) => self.kept = kept,
            Err(error) => warn_once(&mut last_warning, &error.to_string()),
        }
        let found = loop {
            // Bound before the engine is asked: containers keep running while the engine is down, and the call may take
            // long to fail.
            self.open_last(&mut last_warning);
            match self.ops.host_addresses().await {
                Ok(found) => break found,
                Err(error) => warn_once(&mut last_warning, &error.to_string()),
            }
            self.clock.sleep(ACCEPT_EVERY).await;
        };
        let mut opened = Some(opened);
        loop {
            if found.rootless {
                self.packets.cannot(
                    "Podman is rootless, and ostler cannot filter packets in its networks",
                    self.isolate,
                );
                if let Some(address) = self.ops.own_address() {
                    self.ops.gateways().note_host(address);
                }
                let known = gateways.borrow_and_update().clone();
                if let Some(host) = known.host {
                    self.warn_of_uncovered(&[host], &mut last_warning);
                }
                // The new address is bound before old ones are closed: a container that starts meanwhile is given the
                // new one.
                self.open_all(known.host, true, &mut last_warning);
                // Running containers may use an earlier address, so it stays bound as long as this host has it.
                self.close_all_but(|open| known.host == Some(open) || is_own_address(open));
                self.keep(HostReach { rootless: true, gateways: BTreeSet::new() }).await;
                self.ops.gateways().note_served(known.version);
            } else {
                let known = gateways.borrow_and_update().clone();
                if self.isolate {
                    self.packets.isolate_subnets(known.gateways.values().flatten(), &*self.clock).await;
                }
                let gateways: Vec<_> = known.gateways.keys().copied().collect();
                self.warn_of_uncovered(&gateways, &mut last_warning);
                self.close_all_but(|address| known.gateways.contains_key(&address));
                self.open_all(known.gateways.keys().copied(), false, &mut last_warning);
                // Stored before `note_served` lets a waiting start continue. Its container may outlive this process,
                // and the next process needs the addresses even if the engine does not answer it.
                self.keep(HostReach { rootless: false, gateways: gateways.into_iter().collect() }).await;
                self.ops.gateways().note_served(known.version);
            }
            if let Some(opened) = opened.take() {
                // Fails if the daemon has given up waiting for this.
                let _given_up = opened.send(());
            }
            // After each interval, failed binds are retried, and packet rules that another program removed are
            // restored.
            tokio::select! {
                changed = gateways.changed() => if changed.is_err() { return },
                () = self.clock.sleep(ADDRESS_EVERY) => {}
            }
        }
    }

    /// Warns if `network.listen` does not include addresses that workspaces use. The setting applies nevertheless, and
    /// those workspaces cannot reach ostler.
    fn warn_of_uncovered(&self, addresses: &[IpAddr], last_warning: &mut String) {
        let missing: Vec<_> = uncovered(&self.listen, addresses).iter().map(ToString::to_string).collect();
        if !missing.is_empty() {
            let text = format!(
                "`network.listen` does not include addresses that workspaces use: {}. Add them, or remove \
                 `network.listen`",
                missing.join(", ")
            );
            warn_once(last_warning, &text);
        }
    }

    /// Binds the addresses that were served when the engine last answered and that this host still has.
    ///
    /// Since then a network may have been deleted and its gateway assigned to another network; the engine's next answer
    /// corrects that. Until then the packet rules in the kernel stay unchanged.
    fn open_last(&mut self, last_warning: &mut String) {
        let Some(last) = self.kept.clone() else { return };
        if last.rootless {
            self.open_all(self.ops.own_address(), true, last_warning);
        } else {
            self.open_all(
                last.gateways.into_iter().filter(|address| is_own_address(*address)),
                false,
                last_warning,
            );
        }
        self.note_bound();
    }

    async fn keep(&mut self, reach: HostReach) {
        self.note_bound();
        if self.kept.as_ref() == Some(&reach) {
            return;
        }
        match self.ops.keep_reach(reach.clone()).await {
            Ok(()) => self.kept = Some(reach),
            // Retried in the next round. The stored addresses are needed only if the daemon starts while the engine is
            // down.
            Err(error) => tracing::warn!(%error, "could not store the addresses for workspaces"),
        }
    }

    fn note_bound(&self) {
        self.ops.gateways().note_bound(self.open.keys().copied().collect());
    }

    fn open_all(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
        this_host_only: bool,
        last_warning: &mut String,
    ) {
        for address in addresses.into_iter().filter(|_| self.listens) {
            if self.open.contains_key(&address) {
                continue;
            }
            let at = SocketAddr::new(address, self.port);
            match bind(at, true) {
                Ok(listener) => {
                    tracing::info!(address = %at, this_host_only, "listening for workspaces");
                    let stop = self.stop.child_token();
                    self.open.insert(address, stop.clone());
                    let (api, clock) = (self.api.clone(), Arc::clone(&self.clock));
                    let spawn = Arc::clone(&self.spawn);
                    self.spawn.spawn(if this_host_only {
                        Box::pin(serve_agents_of_this_host(listener, api, clock, spawn, stop))
                    } else {
                        Box::pin(serve_agents(listener, api, clock, spawn, stop))
                    });
                }
                Err(error) => warn_once(last_warning, &format!("cannot listen on {at}: {error}")),
            }
        }
    }

    fn close_all_but(&mut self, stays: impl Fn(IpAddr) -> bool) {
        self.open.retain(|open, stop| {
            let stays = stays(*open);
            if !stays {
                tracing::info!(
                    address = %open,
                    "stopped listening: the host's address changed or the network was removed"
                );
                stop.cancel();
            }
            stays
        });
    }
}

/// Logs a warning unless the last one had the same text: retries come every few seconds.
fn warn_once(last_warning: &mut String, text: &str) {
    if last_warning != text {
        tracing::warn!(error = %text, "workspaces cannot reach ostler yet; retrying");
        text.clone_into(last_warning);
    }
}
