//! The composition root of the daemon.

use crate::{api, config::Config};

/// Serves until a signal ends it.
#[expect(clippy::unused_async, reason = "not built yet")]
pub async fn serve(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}

/// Plans the passes without a daemon and applies nothing.
#[expect(clippy::unused_async, reason = "not built yet")]
pub async fn dry_run(_config: Config, _passes: Vec<String>) -> anyhow::Result<Vec<api::PassRun>> {
    anyhow::bail!("not built yet")
}

/// Looks at everything that can be looked at without a daemon.
#[expect(clippy::unused_async, reason = "not built yet")]
pub async fn doctor_offline(_config: Config) -> anyhow::Result<api::DoctorReport> {
    anyhow::bail!("not built yet")
}

/// Says that this data directory is the one to go on with, though it was copied.
#[expect(clippy::unused_async, reason = "not built yet")]
pub async fn accept_copy(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
