//! The state that all handlers share.

use std::{
    future::Future,
    ops::Deref,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use crate::{
    doctor::Doctor,
    domain::{ids::WorkspaceId, time::Awake},
    engine::Engine,
    ops::{Access, OpError, Ops},
    runtime::{
        clock::{SharedClock, within},
        entropy::SharedEntropy,
        epoch::Listening,
        tasks::SharedSpawn,
    },
    store::{Mirror, Store},
    sweep::DriverHandle,
};

use super::{
    delegate::Delegations,
    journal::Journal,
    limits::{Limiter, Rate},
    proxy::{
        agent_url::{self, Checked, UrlError},
        dial::Dial,
        listeners::Listeners,
        resolver::{Resolve, SystemResolver},
        transport::Forwarder,
        wake::WakeBudget,
    },
    refusals::Refusals,
    server::admission::Admission,
};

/// The state that all handlers share. Cloning it is cheap, and every clone refers to the same state.
#[derive(Clone)]
pub struct Api(pub(super) Arc<Inner>);

/// The dependencies ([`ApiParts`]), and the state that exists for the lifetime of the API.
pub(super) struct Inner {
    pub(super) parts: ApiParts,
    pub(super) buckets: Buckets,
    pub(super) admission: Admission,
    pub(super) lists: Semaphore,
    pub(super) refusals: Refusals,
    pub(super) wakes: WakeBudget,
    pub(super) listeners: Listeners,
    /// When the engine last failed to answer a query of `Api::ask_engine` in time.
    pub(super) unanswered_at: Mutex<Option<Awake>>,
    pub(super) journal: Journal,
    pub(super) delegations: Delegations,
    pub(super) forwarder: Forwarder,
    pub(super) resolver: Box<dyn Resolve>,
}

impl Deref for Inner {
    type Target = ApiParts;

    fn deref(&self) -> &ApiParts {
        &self.parts
    }
}

/// The dependencies of an [`Api`].
pub struct ApiParts {
    /// The registry's database.
    pub store: Store,
    /// The engine, with deadlines on its calls.
    pub engine: Arc<dyn Engine>,
    /// The operations on workspaces.
    pub ops: Ops,
    /// Handle of the driver that runs the sweeps.
    pub sweeps: DriverHandle,
    /// Runs the checks of `/doctor`.
    pub doctor: Doctor,
    /// Wall clock, awake time and timers.
    pub clock: SharedClock,
    /// Spawns tasks that are drained at shutdown.
    pub spawn: SharedSpawn,
    /// The mirror file that is kept beside the database.
    pub mirror: Arc<Mirror>,
    /// Directory of the locks on instance identities.
    pub runtime_dir: PathBuf,
    /// Randomness, such as for the ids of messages without one.
    pub entropy: SharedEntropy,
    /// The liveness epochs. They record since when heartbeats have been received without interruption.
    pub listening: Listening,
    /// How connections to agents are opened.
    pub dial: Dial,
}

/// Rate limit of all requests of one workspace. A busy agent makes a few in a minute.
const REQUESTS: Rate = Rate { each: Duration::from_millis(20), burst: 200 };
/// Heartbeats and registrations beyond this rate are delayed, and never refused. An agent sends one heartbeat every
/// 30 s, and one at each change of task.
const HEARTBEATS: Rate = Rate { each: Duration::from_millis(50), burst: 200 };
/// The longest delay of a heartbeat or registration. A runtime stops waiting for the response after 10 s.
const PACE_DELAY_MAX: Duration = Duration::from_secs(3);
/// Rate limit of agent card updates. An agent sends one when it starts and one when its card changes. Each kind of
/// persistent write has a bucket of its own, so that none uses up the limit of another.
const CARDS: Rate = Rate { each: Duration::from_secs(5), burst: 40 };
/// Rate limit of activity reports. An agent sends one for each step of a task.
const REPORTS: Rate = Rate { each: Duration::from_secs(1), burst: 60 };
/// Rate limit of a workspace's changes to its own name and role.
const CHANGES: Rate = Rate { each: Duration::from_secs(5), burst: 10 };
/// Rate limit of a workspace's requests to restart or hibernate itself.
const ORDERS: Rate = Rate { each: Duration::from_secs(10), burst: 10 };
/// Most lists that are built concurrently. Each list may be in memory twice: as rows and as JSON.
const LISTS: usize = 4;

/// How long a response waits for optional details from the engine.
const ASKING_ENGINE: Duration = Duration::from_secs(1);
/// After the engine did not answer in time, ostler does not ask it for optional details for this long.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Rate limits: one bucket for each workspace and kind of request.
pub(super) struct Buckets {
    pub(super) requests: Limiter<WorkspaceId>,
    pub(super) heartbeats: Limiter<WorkspaceId>,
    pub(super) cards: Limiter<WorkspaceId>,
    pub(super) reports: Limiter<WorkspaceId>,
    pub(super) changes: Limiter<WorkspaceId>,
    pub(super) orders: Limiter<WorkspaceId>,
}

impl Api {
    /// Builds the API state from its dependencies, with empty buckets and counters.
    #[must_use]
    pub fn new(parts: ApiParts) -> Self {
        let limiter = |rate| Limiter::new(Arc::clone(&parts.clock), rate);
        let buckets = Buckets {
            requests: limiter(REQUESTS),
            heartbeats: limiter(HEARTBEATS),
            cards: limiter(CARDS),
            reports: limiter(REPORTS),
            changes: limiter(CHANGES),
            orders: limiter(ORDERS),
        };
        let wakes = WakeBudget::default();
        let forwarder = Forwarder::new(Arc::clone(&parts.clock), parts.dial.clone());
        let resolver = Box::new(SystemResolver);
        let (admission, lists) = (Admission::default(), Semaphore::new(LISTS));
        let listeners = Listeners::default();
        let refusals = Refusals::default();
        let (journal, delegations) = (Journal::default(), Delegations::default());
        Self(Arc::new(Inner {
            parts,
            buckets,
            admission,
            lists,
            refusals,
            wakes,
            listeners,
            unanswered_at: Mutex::default(),
            journal,
            delegations,
            forwarder,
            resolver,
        }))
    }

    /// Runs a query to the engine whose result is optional in the response, for at most [`ASKING_ENGINE`].
    ///
    /// If the engine did not answer in time, calls within the next `ASK_AGAIN` return `None` and send no query.
    pub(super) async fn ask_engine<T>(&self, question: impl Future<Output = T>) -> Option<T> {
        let now = self.0.clock.awake();
        let unanswered_at = *self.0.unanswered_at.lock().unwrap_or_else(PoisonError::into_inner);
        if unanswered_at.is_some_and(|at| now.since(at) < ASK_AGAIN) {
            return None;
        }
        let answer = within(&*self.0.clock, ASKING_ENGINE, question).await;
        let unanswered_at = answer.is_none().then(|| self.0.clock.awake());
        *self.0.unanswered_at.lock().unwrap_or_else(PoisonError::into_inner) = unanswered_at;
        answer
    }

    /// The access rules between workspaces, from the settings in force.
    pub(super) fn access(&self) -> Access {
        self.0.ops.settings().access
    }

    /// Delays a heartbeat or registration that exceeds its rate, by at most `PACE_DELAY_MAX`; it is never refused.
    pub(super) async fn pace(&self, workspace: WorkspaceId) {
        let wait = self.0.buckets.heartbeats.pace(workspace, PACE_DELAY_MAX);
        if !wait.is_zero() {
            self.0.clock.sleep(wait).await;
        }
    }

    /// Waits until a list may be built. The caller must hold the permit as long as the rows and their JSON are both in
    /// memory.
    pub(super) async fn list_permit(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed, so this is never `None`.
        self.0.lists.acquire().await.ok()
    }

    /// Checks whether `url` is allowed as the address of an external agent.
    pub(super) async fn check_url(&self, url: &str) -> Result<Checked, UrlError> {
        agent_url::check(url, self.access().external, &*self.0.resolver, &*self.0.clock).await
    }

    /// Runs `work` in a task of its own, so that it completes even if this future is dropped.
    pub(super) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, OpError>> + Send + 'static,
    ) -> Result<T, OpError> {
        let (answer, done) = oneshot::channel();
        self.0.spawn.spawn(Box::pin(async move {
            // If the client has disconnected, the result is dropped. The work is complete nevertheless.
            let _gone = answer.send(work.await);
        }));
        done.await.unwrap_or(Err(OpError::Stopping)).map_err(|error| self.with_unread_runtime(error))
    }

    /// Replaces the error for an unknown runtime if the configuration file defines that runtime. The new error advises
    /// a reload.
    pub(super) fn with_unread_runtime(&self, error: OpError) -> OpError {
        let OpError::NoRuntime { name, .. } = &error else { return error };
        let configuration = self.0.doctor.configuration();
        if !configuration.file_has_runtime(name) {
            return error;
        }
        OpError::Invalid(format!(
            "the runtime `{name}` is in the configuration file, but the daemon has not loaded it yet: run \
             `ostler reload`, then retry"
        ))
    }

    /// Counts a refused request of a workspace, and reports the third consecutive one.
    pub(super) fn note_refused(&self, workspace: WorkspaceId, request: &'static str, reason: &'static str) {
        if !self.0.refusals.count(workspace) {
            return;
        }
        let (store, now) = (self.0.store.clone(), self.0.clock.now());
        self.0.spawn.spawn(Box::pin(async move {
            if let Err(error) = store.note_refused_requests(workspace, request, reason, now).await {
                tracing::warn!(%workspace, %error, "could not record refused requests");
            }
        }));
    }
}
