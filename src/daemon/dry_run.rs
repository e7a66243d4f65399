//! Plans passes without a daemon.

use std::sync::Arc;

use anyhow::Context as _;

use super::parts::parts_of;
use crate::{
    api,
    app::App,
    config::Config,
    http::run_view,
    runtime::{
        clock::{SharedClock, SystemClock},
        tasks::TokioTasks,
    },
    store::{Mirror, Store},
    sweep::{self, Mode, Requirement, Snapshot},
};

/// Plans passes without a daemon and applies nothing. Items whose grace period has to pass first are shown as being
/// watched, because only a running daemon observes that time.
///
/// # Errors
/// If there is no database, a name in `passes` is unknown, or the engine gives no usable snapshot.
pub async fn dry_run(config: Config, passes: Vec<String>) -> anyhow::Result<Vec<api::sweep::PassRun>> {
    let store = Store::open_read_only(&config.data_dir)?;
    let registry =
        store.registry().await?.context("the database has no instance id yet: run `ostler serve` once")?;
    let clock: SharedClock = Arc::new(SystemClock::start());
    let mirror = Arc::new(Mirror::Directory(config.data_dir.clone()));
    let spawn = Arc::new(TokioTasks::default());
    let app = App::without_driver(parts_of(&config, store, mirror, registry.instance, clock, spawn)?);
    let all = sweep::all();
    let known: Vec<_> = all.iter().map(|pass| pass.name()).collect();
    if let Some(wrong) = passes.iter().find(|name| !known.contains(&name.as_str())) {
        anyhow::bail!("unknown pass `{wrong}`; the passes are {}", known.join(", "));
    }
    let snapshot: Snapshot = app.sweeper.snapshot().await?;
    let clock_snapshot = app.sweeper.clock_snapshot();
    let mut runs = Vec::new();
    for pass in all.iter().filter(|pass| passes.is_empty() || passes.iter().any(|name| name == pass.name())) {
        let snapshot = match pass.requires() {
            Requirement::Engine => &snapshot,
            Requirement::Store => &clock_snapshot,
        };
        runs.push(run_view(&app.sweeper.run(&**pass, snapshot, Mode::DryRun).await));
    }
    Ok(runs)
}
