//! Accepts the engine on a first start.

use std::time::Duration;

use crate::{
    ops::Ops,
    runtime::clock::SharedClock,
    sweep::{DriverHandle, Mode},
};

/// How long the daemon's start waits for the engine before the start continues without one.
pub(super) const FIRST_ACCEPT: Duration = Duration::from_secs(3);

/// Retry interval for an engine that has not been accepted yet.
pub(super) const ACCEPT_EVERY: Duration = Duration::from_secs(5);

/// On a first start, accepts the engine once the engine answers, then runs all passes. Does nothing on later starts.
pub(super) async fn keep_accepting(ops: Ops, clock: SharedClock, sweeps: DriverHandle) {
    loop {
        match ops.accept_first_engine().await {
            Ok(false) => return,
            Ok(true) => {
                drop(sweeps.run_now(Vec::new(), Mode::Apply).await);
                return;
            }
            Err(error) => tracing::warn!(%error, "engine not accepted yet; retrying"),
        }
        clock.sleep(ACCEPT_EVERY).await;
    }
}
