//! The parts of the app that follow from the configuration.

use std::sync::Arc;

use super::{packets::Packets, reload::Running, settings::settings_of};
use crate::{
    app::{App, Backends, Parts, Sides, Surroundings},
    config::Config,
    doctor::{Network, Reach},
    domain::ids::InstanceId,
    engine::{
        Engine,
        bounded::{Bounded, Deadlines},
        podman::{
            Podman,
            socket::{SocketAddress, SocketError, find},
        },
    },
    http::{Dial, is_own_address},
    ops::HostAddresses,
    runtime::{clock::SharedClock, entropy::SystemEntropy, tasks::SharedSpawn},
    store::{Mirror, Store},
};

/// The parts of an app that serves `instance`.
///
/// # Errors
/// If the configured address of the engine cannot be used.
pub(super) fn parts_of(
    config: &Config,
    store: Store,
    mirror: Arc<Mirror>,
    instance: InstanceId,
    clock: SharedClock,
    spawn: SharedSpawn,
) -> anyhow::Result<Parts> {
    let engine = engine_of(config, &clock)?;
    Ok(Parts {
        sides: Sides::shared(Backends { store, engine }),
        clock,
        entropy: Arc::new(SystemEntropy),
        spawn,
        mirror,
        settings: settings_of(config, instance),
    })
}

/// The surroundings in which the daemon serves the routes of `app`.
pub(super) fn surroundings_of(
    app: &App,
    config: &Config,
    packets: &Arc<Packets>,
    running: &Arc<Running>,
) -> Surroundings {
    Surroundings {
        data_dir: config.data_dir.clone(),
        runtime_dir: config.runtime_dir.clone(),
        network: network_of(app, config, Arc::clone(packets)),
        configuration: Arc::<Running>::clone(running),
        dial: Dial::Tcp,
    }
}

fn network_of(app: &App, config: &Config, packets: Arc<Packets>) -> Network {
    let ops = app.ops.clone();
    let bound = ops.clone();
    Network {
        listen: config.network.listen.clone(),
        port: config.network.port,
        advertised_url: ops.settings().advertised_url(),
        is_url_configured: config.network.platform_url.is_some(),
        isolate: config.network.isolate,
        packets: Arc::new(move || packets.state()),
        since: app.clock.now(),
        bound: Arc::new(move || {
            let ops = bound.clone();
            Box::pin(async move { ops.bound_addresses().await })
        }),
        reach: Arc::new(move || {
            let ops = ops.clone();
            Box::pin(async move {
                let HostAddresses { addresses, reachable_from_lan, rootless, given_addresses, .. } =
                    ops.host_addresses().await.map_err(|error| error.to_string())?;
                let outdated = given_addresses.into_iter().filter(|(_, address)| !is_own_address(*address));
                Ok(Reach {
                    addresses,
                    reachable_from_lan,
                    rootless,
                    outdated: outdated.map(|(workspace, _)| workspace).collect(),
                })
            })
        }),
    }
}

/// Connects to the engine, with deadlines on every call.
///
/// If no socket of an engine exists yet, uses the default path: the daemon starts anyway, and works once the engine
/// listens there.
///
/// # Errors
/// If the configured address cannot be used.
pub(super) fn engine_of(config: &Config, clock: &SharedClock) -> anyhow::Result<Arc<dyn Engine>> {
    let environment = |name: &str| std::env::var(name).ok();
    let uid = rustix::process::geteuid().as_raw();
    let address = match find(config.engine.socket.as_deref(), environment, uid) {
        Ok(address) => address,
        Err(error @ SocketError::NotFound { .. }) => {
            tracing::warn!(%error, "engine socket not found; the default path is used");
            let SocketError::NotFound { wanted, .. } = &error else { return Err(error.into()) };
            SocketAddress::parse(&format!("unix://{}", wanted.display()), "the default path")?
        }
        Err(error) => return Err(error.into()),
    };
    let deadlines = Deadlines {
        read: config.engine.read_deadline,
        change: config.engine.change_deadline,
        pull: config.engine.pull_deadline,
    };
    Ok(Arc::new(Bounded::new(Arc::new(Podman::connect(&address)), Arc::clone(clock), deadlines)))
}
