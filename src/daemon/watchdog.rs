//! Notifies systemd: when the daemon is ready, and while it makes progress.

use crate::{http::Vitals, runtime::clock::SharedClock, store::Store, sweep::DriverHandle};

pub(super) fn notify_ready() {
    // Fails if the daemon does not run under systemd, which is allowed.
    let _not_systemd = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// Notifies systemd's watchdog while store and sweep driver make progress; systemd restarts a daemon that is stuck.
pub(super) async fn ping_watchdog(clock: SharedClock, store: Store, sweeps: DriverHandle) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    loop {
        match Vitals::take(&store, &sweeps, &*clock).await.stuck() {
            None => {
                let _not_systemd = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
            Some(why) => tracing::error!(%why, "watchdog not notified"),
        }
        clock.sleep(limit / 3).await;
    }
}
