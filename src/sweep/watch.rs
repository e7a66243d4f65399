//! Subscribes to the engine's container events, so that an exit is detected when it happens.
//!
//! An event only triggers an inspection by the actor of the workspace; no status changes because of the event alone.
//! Correctness does not depend on events. When the stream ends, it is reconnected, with growing delays. After every
//! connection all containers are listed once, which finds exits whose events were missed. The scheduled runs of
//! `check_containers` find them as well.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;

use super::{driver::DriverHandle, run::Mode};
use crate::{
    domain::{
        ids::{InstanceId, WorkspaceId},
        naming::LABEL_INSTANCE,
        observed::{ContainerEvent, ContainerEventKind},
        status::Status,
        time::Timestamp,
    },
    engine::{Engine, EngineError},
    ops::{Ops, Order},
    runtime::{clock::SharedClock, tasks::SharedSpawn},
    store::Store,
};

/// Delay before the first reconnection; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Maximum delay.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How far before the last event the next stream begins, because engines store event times in whole seconds.
const OVERLAP: Duration = Duration::from_secs(1);

/// The dependencies of the subscription.
pub struct Watch {
    /// The registry, for the current status of a row.
    pub store: Store,
    /// The engine; every call has a time limit.
    pub engine: Arc<dyn Engine>,
    /// Carries out orders.
    pub ops: Ops,
    /// The driver of the passes, for the listing after each connection.
    pub sweeps: DriverHandle,
    /// Timers.
    pub clock: SharedClock,
    /// Spawns tasks.
    pub spawn: SharedSpawn,
    /// The instance whose containers are watched.
    pub instance: InstanceId,
}

/// Subscribes, and reconnects whenever the stream ends. Never returns.
pub async fn watch_engine(watch: Watch) {
    let mut wait = FIRST_WAIT;
    let mut last = None;
    loop {
        let connected = watch.clock.awake();
        match watch.listen(&mut last).await {
            Ok(()) => tracing::info!("engine event stream ended; reconnecting"),
            Err(error) => {
                tracing::info!(%error, "engine event stream is unavailable; reconnecting");
                // The next stream begins at the present. If the engine's event log contains a corrupt line, every
                // stream that begins before that line would fail. The listing after the connection finds exits whose
                // events are skipped.
                last = None;
            }
        }
        // A connection that lasted resets the delay.
        if watch.clock.awake().since(connected) > LONGEST_WAIT {
            wait = FIRST_WAIT;
        }
        watch.clock.sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

impl Watch {
    async fn listen(&self, last: &mut Option<Timestamp>) -> Result<(), EngineError> {
        let instance = self.instance.to_string();
        let since = last.map(|at| at - OVERLAP);
        let mut events = self.engine.container_events(LABEL_INSTANCE, Some(&instance), since).await?;
        self.check_once();
        while let Some(event) = events.next().await {
            let event = event?;
            *last = Some(event.at.max(last.unwrap_or_default()));
            self.handle_event(&event);
        }
        Ok(())
    }

    /// Runs `check_containers` once, to find what happened before the connection. Not awaited, so that events are
    /// handled meanwhile.
    fn check_once(&self) {
        let sweeps = self.sweeps.clone();
        self.spawn.spawn(Box::pin(async move {
            drop(sweeps.run_now(vec!["check_containers"], Mode::Apply).await);
        }));
    }

    fn handle_event(&self, event: &ContainerEvent) {
        let ended = matches!(event.what, ContainerEventKind::Died { .. } | ContainerEventKind::Removed);
        if let Some(workspace) = event.workspace.filter(|_| ended) {
            self.check(workspace);
        }
    }

    fn check(&self, workspace: WorkspaceId) {
        let Some(member) = self.store.member(workspace) else { return };
        let up = match member.status {
            Status::Online | Status::Degraded => true,
            // If an earlier process began the start, `settle` repeats it.
            Status::Provisioning => self.ops.has_begun(workspace, member.incarnation),
            Status::Offline
            | Status::Failed(_)
            | Status::Paused
            | Status::Hibernating
            | Status::Hibernated
            | Status::AwaitingAgent
            | Status::Removed => false,
        };
        if up {
            self.ops.begin(workspace, Order::MarkOffline(member.incarnation));
        }
    }
}
