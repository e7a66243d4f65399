//! What people and passes can order, one file per verb.
//!
//! Intent is written first: pause and remove change the row and only then the container; the sweeps
//! drive the engine to what the row says, should this process end in between. Every call that changes
//! something in the engine runs as an [`Order`] under that workspace's actor (`actor.rs`), which reads
//! the row again before it acts. Orders belong to nobody: a client that goes away does not stop one.

mod accept_engine;
mod accepted_starts;
mod actor;
mod adopt;
mod connections;
mod create;
mod delete;
mod hibernate;
mod mark;
mod network;
mod pause;
mod put_away;
mod recognise;
mod recreate;
mod remove;
mod restart;
mod restart_unwell;
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

use tokio::sync::oneshot;

use crate::{
    clock::SharedClock,
    domain::{
        ids::{ContainerId, Incarnation, WorkspaceId},
        naming::WorkspaceName,
        runtime::{PLAIN, Runtime},
        time::Timestamp,
        workspace::Workspace,
    },
    engine::{Engine, EngineError, trusted::Untrusted},
    entropy::SharedEntropy,
    store::{Mirror, Store, StoreError},
    tasks::SharedSpawn,
    wake::Wake,
};

pub use accepted_starts::{AcceptedStarts, StartEnds};
pub use actor::{Applied, Order};
pub use adopt::{AdoptRequest, Adopted};
pub use create::{CreateRequest, Created};
pub use network::{Gateways, HostAddresses, KnownGateways};
pub use pause::{Affected, Up};
pub use put_away::PutAway;
pub use recognise::OwnContainers;
pub use remove::Removal;
pub use restart_unwell::RESTART_DUE;
pub use settings::{Access, Limits, Settings};
pub use start::StartOrder;
pub use traffic::{Passage, Traffic};
pub use update::Needs;

/// Carries out orders. Cheap to clone.
#[derive(Clone)]
pub struct Ops(Arc<Inner>, Option<Arc<Queued>>);

/// Tells, once, that an order has its place behind those that were given before it: what could refuse it before that has
/// not.
struct Queued(Mutex<Option<oneshot::Sender<()>>>);

impl Queued {
    fn tell(&self) {
        if let Some(waiter) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Nobody waiting any more is no fault.
            let _gone = waiter.send(());
        }
    }
}

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
    accepted_starts: AcceptedStarts,
    traffic: Traffic,
    wake: Wake,
    /// The gateways of the networks known so far.
    gateways: Gateways,
    /// Workspaces whose container the last listing showed paused.
    paused: Mutex<BTreeSet<WorkspaceId>>,
}

/// What the ops are made of.
pub struct Parts {
    /// The registry.
    pub store: Store,
    /// The engine, bounded.
    pub engine: Arc<dyn Engine>,
    /// The clock.
    pub clock: SharedClock,
    /// Randomness.
    pub entropy: SharedEntropy,
    /// Tasks.
    pub spawn: SharedSpawn,
    /// The mirror beside the registry.
    pub mirror: Arc<Mirror>,
    /// The configuration.
    pub settings: Settings,
    /// Asks for passes before their turn.
    pub wake: Wake,
}

impl Ops {
    /// Puts the parts together.
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
            accepted_starts: AcceptedStarts::new(),
            traffic,
            wake,
            gateways: Gateways::default(),
            paused: Mutex::default(),
        };
        Self(Arc::new(inner), None)
    }

    /// The workspaces somebody is at work on.
    #[must_use]
    pub fn busy(&self) -> BTreeSet<WorkspaceId> {
        self.0.actors.busy()
    }

    /// Workspaces whose restart was ordered by a pass and is not reported by an event yet.
    #[must_use]
    pub fn restarting_unwell(&self) -> BTreeSet<WorkspaceId> {
        self.0.actors.restarting_unwell()
    }

    /// The same, for one order of somebody who waits no longer than until it is queued: then `queued` hears, or it is
    /// dropped with the order.
    #[must_use]
    pub fn telling(&self, queued: oneshot::Sender<()>) -> Self {
        Self(Arc::clone(&self.0), Some(Arc::new(Queued(Mutex::new(Some(queued))))))
    }

    /// The orders to start something that were accepted and are not carried out yet.
    #[must_use]
    pub fn accepted_starts(&self) -> &AcceptedStarts {
        &self.0.accepted_starts
    }

    /// Whether this process brought that incarnation up: then a row that is still provisioning is only
    /// waiting for its agent, and nothing was interrupted.
    #[must_use]
    pub fn has_begun(&self, workspace: WorkspaceId, incarnation: Incarnation) -> bool {
        self.begun_at(workspace, incarnation).is_some()
    }

    /// When this process brought that incarnation up.
    #[must_use]
    pub fn begun_at(&self, workspace: WorkspaceId, incarnation: Incarnation) -> Option<Timestamp> {
        self.0.actors.begun_at(workspace, incarnation)
    }

    /// Takes in which workspaces have a running container, by a trusted listing. What this process has never seen
    /// running ended before it did its first look: with the host, or while the daemon was down.
    pub fn note_running(&self, running: &[WorkspaceId]) {
        self.0.actors.note_running(running, &|workspace| self.0.store.is_live(workspace));
    }

    /// How many workspaces are remembered beside the store: at most two entries for each that is registered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.0.actors.remembered()
    }

    /// Gives an order and does not wait for what comes of it.
    pub fn begin(&self, workspace: WorkspaceId, order: Order) {
        let _carried_out_anyway = self.submit(workspace, order);
    }

    /// What is being done with a workspace right now, for people.
    #[must_use]
    pub fn operation(&self, workspace: WorkspaceId) -> Option<String> {
        self.0.actors.operation(workspace)
    }

    /// Keeps which workspaces' containers a listing showed paused.
    pub fn note_paused(&self, paused: BTreeSet<WorkspaceId>) {
        *self.0.paused.lock().unwrap_or_else(PoisonError::into_inner) = paused;
    }

    /// What there is to say about a workspace whose container the last listing showed paused by hand.
    #[must_use]
    pub fn paused_by_hand(&self, row: &Workspace) -> Option<String> {
        let paused = self.0.paused.lock().unwrap_or_else(PoisonError::into_inner).contains(&row.id);
        row.container.as_ref().filter(|_| paused).map(paused_by_hand)
    }

    /// Whether a workspace's container was made from something else than its row says now.
    #[must_use]
    pub fn drifted(&self, row: &Workspace) -> bool {
        let Some(made_from) = &row.container_spec_hash else { return false };
        let settings = self.settings();
        settings
            .runtimes
            .get(&row.runtime)
            .is_some_and(|runtime| !start::is_made_from(made_from, row, runtime, &settings))
    }

    /// Requests on their way to agents.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }

    /// The settings in force. What is decided together reads them once: a reload may replace them in between.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.0.settings()
    }

    /// Replaces the settings: whatever begins from now on uses the new ones. `concurrent_starts` alone is read
    /// when the process starts.
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

    /// The same, with the newest event by then.
    async fn row_by_now(&self, id: WorkspaceId) -> Result<(Workspace, i64), OpError> {
        self.store.workspace_by_now(id).await?.ok_or_else(not_found)
    }
}

/// Says that a container is paused, and how to end that.
#[must_use]
pub fn paused_by_hand(container: &ContainerId) -> String {
    format!("its container is paused by hand: `podman unpause {}` lets it go on", container.short())
}

fn not_found() -> OpError {
    OpError::NotFound("workspace not found".into())
}

/// Why an order was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpError {
    /// There is nothing of that name or id.
    #[error("{0}")]
    NotFound(String),
    /// What was asked makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The configuration that the daemon has read has no such runtime.
    #[error(
        "the daemon knows no runtime `{name}`; it knows {}. Choose one of these, or add `[runtimes.{name}]` to the \
         configuration and run `ostler reload`. A workspace of a plain image needs none (`{PLAIN}`)", known.join(", ")
    )]
    NoRuntime {
        /// The name that was asked for.
        name: String,
        /// The runtimes that the daemon knows.
        known: Vec<String>,
    },
    /// It cannot be done as things stand.
    #[error("{0}")]
    Conflict(String),
    /// What was asked contradicts what is there.
    #[error("{0}")]
    Unprocessable(String),
    /// It has as many tokens as it may have.
    #[error("{0}")]
    TooManyTokens(String),
    /// It works on something.
    #[error("workspace has active tasks")]
    Busy {
        /// So many.
        active_tasks: u32,
    },
    /// Requests to it are in flight.
    #[error(
        "workspace is in use: messages or commands in progress: {open_requests}. Wait until they have ended, or break \
         them off: `ostler hibernate {name} --force`"
    )]
    InUse {
        /// Whose.
        name: WorkspaceName,
        /// So many messages and commands are in progress.
        open_requests: u32,
    },
    /// The name is taken.
    #[error("a workspace named `{0}` exists already. Choose another name, or `ostler rm` that one first")]
    NameTaken(WorkspaceName),
    /// It cannot succeed until somebody changes something: image, port, volume.
    #[error("{0}")]
    Impossible(String),
    /// The engine failed, or gave no answer.
    #[error("the engine could not do it: {0}")]
    Engine(#[from] EngineError),
    /// The engine gave no answer before anything was started, and nothing tries it again.
    #[error("nothing was started, because Podman gives no answer: {0}. Order it again when Podman is back")]
    NotStarted(EngineError),
    /// The engine is not the one to work with.
    #[error(transparent)]
    Untrusted(Untrusted),
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file beside the database could not be written.
    #[error("cannot write the instance's mirror file: {0}. Make the data directory writable")]
    Mirror(String),
    /// The order was given up: this process is ending.
    #[error("ostler is stopping; what was begun is finished at its next start")]
    Stopping,
}

impl From<Untrusted> for OpError {
    fn from(untrusted: Untrusted) -> Self {
        match untrusted {
            Untrusted::NoAnswer(error) => Self::Engine(error),
            other @ (Untrusted::SentinelMissing(_) | Untrusted::RegistryFailed(_)) => Self::Untrusted(other),
        }
    }
}

/// What an op answers.
pub type OpResult<T> = Result<T, OpError>;
