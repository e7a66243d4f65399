//! The listeners for agents that are bound when the daemon starts, and the start of those for workspaces.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::Context as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{gates::Gates, packets::Packets};
use crate::{
    app::App,
    config::Config,
    http::{
        Api,
        server::{bind, serve_agents},
    },
    runtime::clock::Boxed,
};

/// The TCP listeners for agents.
pub(super) struct AgentListeners<'a> {
    pub(super) api: Api,
    pub(super) config: &'a Config,
    pub(super) app: &'a App,
    pub(super) stop: &'a CancellationToken,
    pub(super) packets: Arc<Packets>,
}

impl AgentListeners<'_> {
    /// Binds the addresses that are known without asking the engine: the configured ones, or loopback.
    ///
    /// # Errors
    /// If one of them cannot be bound.
    pub(super) fn open_known(&self) -> anyhow::Result<Vec<Boxed<()>>> {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let configured = &self.config.network.listen;
        let addresses = if configured.is_empty() { &loopback[..] } else { configured };
        let mut serving = Vec::new();
        for address in addresses {
            let address = SocketAddr::new(*address, self.config.network.port);
            let listener = bind(address, false).with_context(|| {
                format!(
                    "cannot listen on {address} for agents (if another program uses the port, set another port with \
                     `network.port`; set other addresses with `network.listen`)"
                )
            })?;
            tracing::info!(%address, "listening for agents");
            serving.push(self.serve(listener));
        }
        Ok(serving)
    }

    /// Serves `listener` in a task of its own. The returned future resolves when that task has ended.
    fn serve(&self, listener: tokio::net::TcpListener) -> Boxed<()> {
        let (ended, end) = oneshot::channel();
        let spawn = Arc::clone(&self.app.spawn);
        let work = serve_agents(
            listener,
            self.api.clone(),
            Arc::clone(&self.app.clock),
            Arc::clone(&spawn),
            self.stop.clone(),
        );
        spawn.spawn(Box::pin(async move {
            work.await;
            let _unawaited = ended.send(());
        }));
        Box::pin(async move { end.await.unwrap_or_default() })
    }

    /// Keeps listening on the addresses at which workspaces reach this host. With rootful Podman, these are the
    /// gateways of the workspaces' networks, including networks that are created later. With rootless Podman, it is an
    /// address of this host. `opened` is completed once the first addresses are bound.
    pub(super) fn serve_workspace_addresses(
        &self,
        opened: oneshot::Sender<()>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let gates = Gates {
            ops: self.app.ops.clone(),
            api: self.api.clone(),
            clock: Arc::clone(&self.app.clock),
            spawn: Arc::clone(&self.app.spawn),
            port: self.config.network.port,
            stop: self.stop.clone(),
            listens: self.config.network.listen.is_empty(),
            // With `network.platform_url`, workspaces use that URL, so `network.listen` need not include the gateways.
            listen: match self.config.network.platform_url {
                None => self.config.network.listen.clone(),
                Some(_) => Vec::new(),
            },
            isolate: self.config.network.isolate,
            packets: Arc::clone(&self.packets),
            open: BTreeMap::new(),
            kept: None,
        };
        gates.keep_open(opened)
    }
}
