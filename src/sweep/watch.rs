//! Listens to what the engine tells of containers, so that an end is seen when it happens.
//!
//! An event is a reason to look, never one to act on: what it leads to looks again, under the actor of the workspace.
//! Nothing depends on an event arriving. The stream is connected anew when it ends, more and more slowly, and after
//! every connection everything is listed once: what was missed is found by that, or by the pass's own period.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;

use super::{DriverHandle, Mode};
use crate::{
    clock::SharedClock,
    domain::{
        ids::{InstanceId, WorkspaceId},
        naming::LABEL_INSTANCE,
        observed::{ContainerEvent, ContainerEventKind},
        status::Status,
        time::Timestamp,
    },
    engine::{Engine, EngineError},
    ops::{Ops, Order},
    store::Store,
    tasks::SharedSpawn,
};

/// The first wait before connecting again, doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How far before the last event the next stream begins: engines keep whole seconds.
const OVERLAP: Duration = Duration::from_secs(1);

/// What listens.
pub struct Watch {
    /// The registry, for what a row is right now.
    pub store: Store,
    /// The engine, bounded.
    pub engine: Arc<dyn Engine>,
    /// The orders.
    pub ops: Ops,
    /// The sweeps, for the look after each connection.
    pub sweeps: DriverHandle,
    /// The clock.
    pub clock: SharedClock,
    /// Tasks.
    pub spawn: SharedSpawn,
    /// Whose containers.
    pub instance: InstanceId,
}

/// Listens for ever.
pub async fn watch_engine(watch: Watch) {
    let mut wait = FIRST_WAIT;
    let mut last = None;
    loop {
        let connected = watch.clock.awake();
        match watch.listen(&mut last).await {
            Ok(()) => tracing::info!("the engine's events ended; connecting again"),
            Err(error) => {
                tracing::info!(%error, "the engine tells nothing right now; connecting again");
                // A broken line in what it remembers would end every stream that begins before it. What is missed
                // by beginning now is found by the look.
                last = None;
            }
        }
        // One that lasted was a good one: the next wait is short again.
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
        self.look_once();
        while let Some(event) = events.next().await {
            let event = event?;
            *last = Some(event.at.max(last.unwrap_or_default()));
            self.heed(&event);
        }
        Ok(())
    }

    /// What happened before the connection is found by a look. Nobody waits for it: events come meanwhile.
    fn look_once(&self) {
        let sweeps = self.sweeps.clone();
        self.spawn.spawn(Box::pin(async move {
            drop(sweeps.run_now(vec!["check_containers"], Mode::Apply).await);
        }));
    }

    fn heed(&self, event: &ContainerEvent) {
        let ended = matches!(event.what, ContainerEventKind::Died { .. } | ContainerEventKind::Removed);
        if let Some(workspace) = event.workspace.filter(|_| ended) {
            self.look_at(workspace);
        }
    }

    fn look_at(&self, workspace: WorkspaceId) {
        let Some(member) = self.store.member(workspace) else { return };
        let up = match member.status {
            Status::Online | Status::Degraded => true,
            // One that this process did not bring up is for `settle` to begin anew.
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
