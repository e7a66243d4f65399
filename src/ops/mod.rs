//! The use cases of operators and sweep passes, one file per verb.
//!
//! What operators order is an operation (`operation`): stored first, then carried out by its workspace's worker.
//!
//! The desired state is stored first: pause and remove change the row before they change the container. If this process
//! ends in between, the sweeps make the engine match the row. Every call that changes the engine runs as an [`Order`]
//! under that workspace's actor (`actor.rs`), which reads the row again before it acts. An order is independent of its
//! client: a client that disconnects does not cancel it.

mod accept_engine;
mod accepted_starts;
mod actor;
mod adopt;
mod connections;
mod create;
mod delete;
mod error;
mod hibernate;
mod mark;
mod move_to_trash;
mod network;
mod operation;
mod pause;
mod recognise;
mod recreate;
mod remove;
mod restart;
mod restart_degraded;
mod restore;
mod settings;
mod start;
mod stop;
mod tokens;
mod traffic;
mod undelete;
mod update;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use crate::{
    domain::{
        ids::{ContainerId, Incarnation, WorkspaceId},
        runtime::Runtime,
        time::Timestamp,
        workspace::Workspace,
    },
    engine::Engine,
    runtime::{clock::SharedClock, entropy::SharedEntropy, tasks::SharedSpawn, wake::Wake},
    store::{Mirror, Store},
};

pub use accepted_starts::{AcceptedStarts, StartEnds};
pub use actor::{Applied, Order};
pub use adopt::{AdoptRequest, Adopted};
pub use create::{CreateRequest, Created};
pub use error::{OpError, OpResult};
pub use move_to_trash::MoveToTrash;
pub use network::{Gateways, HostAddresses, KnownGateways};
pub use operation::{Request, Ticket};
pub use pause::{Affected, Up, own};
pub use recognise::OwnContainers;
pub use remove::Removal;
pub use restart_degraded::RESTART_DUE;
pub use settings::{Access, Limits, Settings};
pub use start::StartOrder;
pub use traffic::{InFlightRequest, Traffic};

/// Carries out orders. Cheap to clone.
#[derive(Clone)]
pub struct Ops(Arc<Inner>);

struct Inner {
    store: Store,
    engine: Arc<dyn Engine>,
    clock: SharedClock,
    entropy: SharedEntropy,
    spawn: SharedSpawn,
    mirror: Arc<Mirror>,
    /// Replaced as a whole by a reload.
    settings: RwLock<Arc<Settings>>,
    actors: actor::Actors,
    operations: operation::Operations,
    accepted_starts: AcceptedStarts,
    traffic: Traffic,
    wake: Wake,
    /// The gateways of the networks known so far.
    gateways: Gateways,
    /// Workspaces whose container was paused in the last listing.
    paused: Mutex<BTreeSet<WorkspaceId>>,
}

/// The dependencies of `Ops`.
pub struct Parts {
    /// The registry.
    pub store: Store,
    /// The engine; every call has a time limit.
    pub engine: Arc<dyn Engine>,
    /// Wall clock and timers.
    pub clock: SharedClock,
    /// Source of ids and tokens.
    pub entropy: SharedEntropy,
    /// Spawns actors and background tasks.
    pub spawn: SharedSpawn,
    /// The mirror file beside the registry.
    pub mirror: Arc<Mirror>,
    /// The configuration.
    pub settings: Settings,
    /// Requests passes before their next scheduled run.
    pub wake: Wake,
}

impl Ops {
    /// Builds the use cases from their dependencies.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { store, engine, clock, entropy, spawn, mirror, settings, wake } = parts;
        let traffic = Traffic::new(Arc::clone(&clock));
        let actors = actor::Actors::new(settings.concurrent_starts);
        let inner = Inner {
            store,
            engine,
            clock,
            entropy,
            spawn,
            mirror,
            settings: RwLock::new(Arc::new(settings)),
            actors,
            operations: operation::Operations::default(),
            accepted_starts: AcceptedStarts::new(),
            traffic,
            wake,
            gateways: Gateways::default(),
            paused: Mutex::default(),
        };
        Self(Arc::new(inner))
    }

    /// Workspaces with an order queued or in progress, or a row that is being created.
    #[must_use]
    pub fn busy(&self) -> BTreeSet<WorkspaceId> {
        // The first start of a new workspace is busy from its acceptance on: its row looks like an interrupted start.
        let mut busy = self.0.actors.busy();
        busy.extend(self.0.operations.creating());
        busy
    }

    /// Workspaces for which an [`Order::RestartDegraded`] is queued or in progress.
    #[must_use]
    pub fn restarting_degraded(&self) -> BTreeSet<WorkspaceId> {
        self.0.actors.restarting_degraded()
    }

    /// Start orders that were accepted and are not finished yet.
    #[must_use]
    pub fn accepted_starts(&self) -> &AcceptedStarts {
        &self.0.accepted_starts
    }

    /// Whether this process started that incarnation. If so, a row that is still provisioning only waits for its
    /// agent, and its start was not interrupted.
    #[must_use]
    pub fn has_begun(&self, workspace: WorkspaceId, incarnation: Incarnation) -> bool {
        self.begun_at(workspace, incarnation).is_some()
    }

    /// When this process started that incarnation; `None` if it did not.
    #[must_use]
    pub fn begun_at(&self, workspace: WorkspaceId, incarnation: Incarnation) -> Option<Timestamp> {
        self.0.actors.begun_at(workspace, incarnation)
    }

    /// Records which workspaces have a running container, from a trusted listing. If a container has exited and this
    /// process has never seen it running, it exited before this process's first listing: when the host went down, or
    /// while no daemon was running.
    pub fn note_running(&self, running: &[WorkspaceId]) {
        self.0.actors.note_running(running, &|workspace| self.0.store.is_live(workspace));
        self.continue_all_waiting();
    }

    /// Number of entries about workspaces in memory: at most two for each registered workspace, and one more for each
    /// order that waits for the engine.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.0.actors.remembered() + self.0.operations.remembered()
    }

    /// Submits an order and does not wait for its result.
    pub fn begin(&self, workspace: WorkspaceId, order: Order) {
        let _carried_out_anyway = self.submit(workspace, order);
    }

    /// The current operation on a workspace, as text for operators.
    #[must_use]
    pub fn progress(&self, workspace: WorkspaceId) -> Option<String> {
        let Inner { actors, operations, .. } = &*self.0;
        actors.phase(workspace).or_else(|| operations.waits(workspace)).or_else(|| actors.waits(workspace))
    }

    /// Records which workspaces' containers were paused in a listing.
    pub fn note_paused(&self, paused: BTreeSet<WorkspaceId>) {
        *self.0.paused.lock().unwrap_or_else(PoisonError::into_inner) = paused;
    }

    /// A message for a workspace whose container was paused by hand in the last listing; `None` for others.
    #[must_use]
    pub fn paused_by_hand(&self, row: &Workspace) -> Option<String> {
        let paused = self.0.paused.lock().unwrap_or_else(PoisonError::into_inner).contains(&row.id);
        row.container.as_ref().filter(|_| paused).map(paused_by_hand)
    }

    /// Whether a workspace's container was created with other settings than its row has now.
    #[must_use]
    pub fn drifted(&self, row: &Workspace) -> bool {
        let Some(made_from) = &row.container_spec_hash else { return false };
        let settings = self.settings();
        settings
            .runtimes
            .get(&row.spec.runtime)
            .is_some_and(|runtime| !start::is_made_from(made_from, &row.spec, runtime, &settings))
    }

    /// The in-flight requests to agents.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }

    /// The current settings. Callers read them once for decisions that must agree, because a reload may replace them
    /// between two reads.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.0.settings()
    }

    /// Replaces the settings for everything that begins from now on. Exception: `concurrent_starts` is read only when
    /// the process starts.
    pub fn replace_settings(&self, settings: Settings) {
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}

impl Inner {
    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn runtime(&self, name: &str) -> Result<Runtime, OpError> {
        let settings = self.settings();
        settings.runtimes.get(name).cloned().ok_or_else(|| OpError::NoRuntime {
            name: name.to_owned(),
            known: settings.runtimes.keys().cloned().collect(),
        })
    }

    async fn row(&self, id: WorkspaceId) -> Result<Workspace, OpError> {
        self.store.workspace(id).await?.ok_or_else(not_found)
    }
}

/// Message that a container is paused, and how to resume it.
#[must_use]
pub fn paused_by_hand(container: &ContainerId) -> String {
    format!("its container was paused by hand: `podman unpause {}` resumes it", container.short())
}

fn not_found() -> OpError {
    OpError::NotFound("workspace not found".into())
}
