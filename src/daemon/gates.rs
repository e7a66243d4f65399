//! The listeners for workspaces: bound while their networks come and go, and moved when this host's address changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{ACCEPT_EVERY, packets::Packets};
use crate::{
    clock::SharedClock,
    domain::address::uncovered,
    http::{Api, is_own_address, listen, serve_agents, serve_agents_of_this_host},
    ops::Ops,
    store::HostReach,
    tasks::SharedSpawn,
};

/// How often addresses and rules are looked at again without a change: rootless, this host may have another address.
const ADDRESS_EVERY: Duration = Duration::from_secs(30);

/// The listeners for workspaces.
pub(super) struct Gates {
    pub(super) ops: Ops,
    pub(super) api: Api,
    pub(super) clock: SharedClock,
    pub(super) spawn: SharedSpawn,
    pub(super) port: u16,
    pub(super) stop: CancellationToken,
    /// Whether to listen here at all: not where `network.listen` names addresses.
    pub(super) listens: bool,
    /// The configured addresses that must cover those by which workspaces reach this host; none without such a need.
    pub(super) listen: Vec<IpAddr>,
    /// Whether packets between workspaces are to be dropped.
    pub(super) isolate: bool,
    pub(super) packets: Arc<Packets>,
    pub(super) open: BTreeMap<IpAddr, CancellationToken>,
    /// What the store keeps for the next start.
    pub(super) kept: Option<HostReach>,
}

impl Gates {
    /// Serves what is known, and what becomes known later; `opened` is told once the first addresses are bound.
    pub(super) async fn keep_open(mut self, opened: oneshot::Sender<()>) {
        let mut gateways = self.ops.gateways().attend();
        let mut told = String::new();
        match self.ops.last_reach().await {
            Ok(kept) => self.kept = kept,
            Err(error) => warn_once(&mut told, &error.to_string()),
        }
        let found = loop {
            // Before the engine is asked: containers run on while it is away, and it may take long to give no answer.
            self.open_last(&mut told);
            match self.ops.host_addresses().await {
                Ok(found) => break found,
                Err(error) => warn_once(&mut told, &error.to_string()),
            }
            self.clock.sleep(ACCEPT_EVERY).await;
        };
        let mut opened = Some(opened);
        loop {
            if found.rootless {
                self.packets
                    .cannot("Podman is rootless, and its networks are out of ostler's reach", self.isolate);
                if let Some(address) = self.ops.own_address() {
                    self.ops.gateways().note_host(address);
                }
                let known = gateways.borrow_and_update().clone();
                if let Some(host) = known.host {
                    self.warn_of_uncovered(&[host], &mut told);
                }
                // The new address is bound first: a container that starts meanwhile is told it.
                self.open_all(known.host, true, &mut told);
                // Containers that run were told an earlier one. It serves them as long as this host has it.
                self.close_all_but(|open| known.host == Some(open) || is_own_address(open));
                self.keep(HostReach { rootless: true, gateways: BTreeSet::new() }).await;
                self.ops.gateways().note_served(known.version);
            } else {
                let known = gateways.borrow_and_update().clone();
                if self.isolate {
                    self.packets.keep_apart(known.gateways.values().flatten(), &*self.clock).await;
                }
                let gateways: Vec<_> = known.gateways.keys().copied().collect();
                self.warn_of_uncovered(&gateways, &mut told);
                self.close_all_but(|address| known.gateways.contains_key(&address));
                self.open_all(known.gateways.keys().copied(), false, &mut told);
                // Before a start goes on: its container may outlive this process, and the engine's next answer.
                self.keep(HostReach { rootless: false, gateways: gateways.into_iter().collect() }).await;
                self.ops.gateways().note_served(known.version);
            }
            if let Some(opened) = opened.take() {
                // The daemon may have given up waiting for this.
                let _given_up = opened.send(());
            }
            // A bind that failed is tried again too, and so are rules that another program flushed.
            tokio::select! {
                changed = gateways.changed() => if changed.is_err() { return },
                () = self.clock.sleep(ADDRESS_EVERY) => {}
            }
        }
    }

    /// `network.listen` is obeyed even where it cuts the workspaces off, so it has to be said.
    fn warn_of_uncovered(&self, addresses: &[IpAddr], told: &mut String) {
        let missing: Vec<_> = uncovered(&self.listen, addresses).iter().map(ToString::to_string).collect();
        if !missing.is_empty() {
            let text = format!(
                "`network.listen` does not name the address that they are told: {}. Add it, or leave `network.listen` out",
                missing.join(", ")
            );
            warn_once(told, &text);
        }
    }

    /// Serves what was served when the engine last answered, as far as it is this host's. A network may be gone since,
    /// and its gateway another network's: the engine's answer corrects that. Rules for packets stay as they are in the
    /// kernel until then.
    fn open_last(&mut self, told: &mut String) {
        let Some(last) = self.kept.clone() else { return };
        if last.rootless {
            self.open_all(self.ops.own_address(), true, told);
        } else {
            self.open_all(last.gateways.into_iter().filter(|address| is_own_address(*address)), false, told);
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
            // Tried again. Only a start while the engine is away would miss it.
            Err(error) => tracing::warn!(%error, "the addresses for workspaces could not be stored"),
        }
    }

    fn note_bound(&self) {
        self.ops.gateways().note_bound(self.open.keys().copied().collect());
    }

    fn open_all(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
        this_host_only: bool,
        told: &mut String,
    ) {
        for address in addresses.into_iter().filter(|_| self.listens) {
            if self.open.contains_key(&address) {
                continue;
            }
            let at = SocketAddr::new(address, self.port);
            match listen::bind(at, true) {
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
                Err(error) => warn_once(told, &format!("cannot listen on {at}: {error}")),
            }
        }
    }

    fn close_all_but(&mut self, stays: impl Fn(IpAddr) -> bool) {
        self.open.retain(|open, stop| {
            let stays = stays(*open);
            if !stays {
                tracing::info!(address = %open, "no longer listening: this host has another address, or the network is gone");
                stop.cancel();
            }
            stays
        });
    }
}

/// Once, not every few seconds: an engine that is away is reported elsewhere too.
fn warn_once(told: &mut String, text: &str) {
    if told != text {
        tracing::warn!(error = %text, "workspaces cannot reach ostler yet; trying again");
        text.clone_into(told);
    }
}
