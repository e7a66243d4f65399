//! Runs the daemon: opens the registry, builds the app, starts the tasks, notifies systemd, and at shutdown lets
//! operations in progress finish. Also the commands that do the same work without a running daemon.
//!
//! A start that fails before the sweeps begin has changed no workspace. The start succeeds even without an engine: the
//! daemon logs a warning, waits for the engine, and changes nothing until the engine answers.

mod accept_engine;
mod descriptors;
mod drain;
mod dry_run;
mod gates;
mod listeners;
mod locks;
mod offline;
mod packets;
mod parts;
mod reload;
mod settings;
mod signals;
mod watchdog;

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use self::{
    accept_engine::{FIRST_ACCEPT, keep_accepting},
    drain::{drain, end_with},
    listeners::AgentListeners,
    locks::Opened,
    packets::Packets,
    parts::{parts_of, surroundings_of},
    reload::Running,
    signals::Signals,
    watchdog::{notify_ready, ping_watchdog},
};
use crate::{
    app::App,
    config::{Config, Overrides},
    http::server::serve_local,
    runtime::{clock::within, tasks::TokioTasks},
    sweep::{self, watch_engine},
};

pub use dry_run::dry_run;
pub use locks::accept_copy;
pub use offline::doctor_offline;

/// Runs the daemon until a signal ends it. A reload reads the configuration with the same `overrides` (flags and
/// environment).
///
/// # Errors
/// If the daemon cannot start or cannot serve its socket. If the start failed before the socket was bound, no workspace
/// was changed. The socket is bound last, after the sweeps have begun, so they may have changed workspaces if only this
/// step failed.
pub async fn serve(config: Config, overrides: Overrides) -> anyhow::Result<()> {
    descriptors::raise_descriptors();
    let signals = Signals::install()?;
    let (reload, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let serving = serve_until(config, overrides, Arc::clone(&reload), stop.clone());
    tokio::pin!(serving);
    signals.handle_during(serving, &stop, &reload).await
}

/// Serves until `stop` is cancelled. Each notification of `reload` reloads the configuration.
///
/// # Errors
/// See [`serve`].
async fn serve_until(
    config: Config,
    overrides: Overrides,
    reload: Arc<Notify>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (_locks, opened) = locks::open(&config).await?;
    let Opened { store, clock, mirror, registry } = opened;
    let (tasks, instance) = (TokioTasks::default(), registry.instance);
    let parts = parts_of(&config, store, mirror, instance, clock, Arc::new(tasks.clone()))?;
    let (app, calls) = App::new(parts);
    // The engine is accepted before the sweeps begin: on a first start, they would otherwise log a warning.
    let accepted = within(&*app.clock, FIRST_ACCEPT, app.ops.accept_first_engine()).await;
    if let Some(Err(error)) = &accepted {
        tracing::warn!(%error, "engine not accepted yet; nothing is changed until it is");
    }
    let (driver, sweeps) = app.driver(sweep::all_with_interval(config.sweep.check_interval), calls);
    let packets = Arc::new(Packets::new(instance));
    let running = Arc::new(Running::new(config.clone(), overrides, app.ops.clone(), instance));
    let api = app.api(sweeps.clone(), surroundings_of(&app, &config, &packets, &running));
    let agent_listeners =
        AgentListeners { api: api.clone(), config: &config, app: &app, stop: &stop, packets };
    // Bound before the sweeps begin: a daemon that agents cannot reach must not act on workspaces.
    let listeners = agent_listeners.open_known()?;
    app.ops.continue_operations().await.context("cannot read the open operations")?;
    let (opened, open) = oneshot::channel();
    let background = [
        tokio_task(keep_accepting(app.ops.clone(), Arc::clone(&app.clock), sweeps.clone()), &stop),
        tokio_task(driver.drive(stop.clone()), &stop),
        tokio_task(ping_watchdog(Arc::clone(&app.clock), app.store.clone(), sweeps.clone()), &stop),
        tokio_task(watch_engine(app.watch(sweeps)), &stop),
        tokio_task(agent_listeners.serve_workspace_addresses(opened), &stop),
        tokio_task(api.clone().carry_out_delegations(), &stop),
        tokio_task(running.reload_when(reload), &stop),
    ];
    // Agents connect as soon as the daemon is ready, so the addresses for workspaces are bound before that. If the
    // engine was not accepted, they are bound later.
    if matches!(accepted, Some(Ok(_))) {
        let _opens_later = within(&*app.clock, FIRST_ACCEPT, open).await;
    }
    let socket = config.socket();
    tracing::info!(
        socket = %socket.display(), %instance, data_dir = %config.data_dir.display(),
        "daemon started"
    );
    let served = serve_local(&socket, api, stop.clone(), notify_ready);
    let ended = end_with(served, &stop, &*app.clock).await;
    stop.cancel();
    drain(background, listeners, &tasks, &app.store, &*app.clock).await;
    ended.with_context(|| format!("cannot serve on the socket {}", socket.display()))
}

#[expect(clippy::disallowed_methods, reason = "the daemon's own loops are aborted at shutdown, not drained")]
fn tokio_task(
    work: impl Future<Output = ()> + Send + 'static,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let stop = stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(work).await.unwrap_or_default() })
}
