//! The end of the daemon: operations in progress finish, then the store is closed.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    runtime::{
        clock::{Boxed, Clock, within},
        tasks::TokioTasks,
    },
    store::Store,
};

/// Time limit of each step of the shutdown: ending one listener, finishing the operations in progress, closing the
/// store. The next start of the daemon completes operations that did not finish in time.
const DRAIN: Duration = Duration::from_secs(10);

/// Awaits `served`, but for at most 1 s after `stop` is cancelled: a client that keeps a stream open must not block the
/// shutdown.
pub(super) async fn end_with(
    served: impl Future<Output = std::io::Result<()>>,
    stop: &CancellationToken,
    clock: &dyn Clock,
) -> std::io::Result<()> {
    tokio::pin!(served);
    tokio::select! {
        biased;
        done = &mut served => done,
        () = stop.cancelled() => within(clock, Duration::from_secs(1), served).await.unwrap_or(Ok(())),
    }
}

/// Aborts the daemon's own loops, waits for listeners and operations in progress, and closes the store.
pub(super) async fn drain(
    background: impl IntoIterator<Item = JoinHandle<()>>,
    listeners: Vec<Boxed<()>>,
    tasks: &TokioTasks,
    store: &Store,
    clock: &dyn Clock,
) {
    for task in background {
        task.abort();
    }
    for listener in listeners {
        // A listener ends when its in-flight requests have ended.
        let _ended = within(clock, DRAIN, listener).await;
    }
    if within(clock, DRAIN, tasks.drain()).await.is_none() {
        tracing::warn!(
            "some operations did not finish before the shutdown limit; the next start completes them"
        );
    }
    // The store is closed last. The database is then a single file, and a copy of that file is complete.
    if within(clock, DRAIN, store.close()).await.is_none() {
        tracing::warn!("database not closed before the shutdown limit; its write-ahead log (-wal) remains");
    }
}
