//! The HTTP surface: requests in, orders and questions out.
//!
//! `router.rs` is the whole route table on one page. A handler validates, asks the store or gives an
//! order, and turns what comes back into the types of `api.rs`; it decides nothing else. Whatever changes
//! something runs detached from the connection: a client that hangs up stops nothing.

mod admission;
mod auth;
mod delegate;
mod error;
pub(crate) mod forward;
mod journal;
pub(crate) mod limits;
pub mod listen;
mod local;
pub(crate) mod outbound;
mod proxy;
mod refusals;
mod resolve;
mod rest_of_body;
mod router;
mod routes;
#[cfg(test)]
mod testing;
mod view;
mod vitals;

use std::{
    future::Future,
    ops::Deref,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use crate::{
    clock::{SharedClock, within},
    doctor::Doctor,
    domain::{ids::WorkspaceId, time::Awake},
    engine::Engine,
    entropy::SharedEntropy,
    listening::Listening,
    ops::{Access, OpError, Ops},
    store::{Mirror, Store},
    sweep::DriverHandle,
    tasks::SharedSpawn,
};

use admission::Admission;
use forward::Forwarder;
use limits::{Limiter, Rate};
use outbound::{Checked, Resolve, SystemResolver, UrlError};

pub use forward::{Dial, PipeTo};
pub use local::{serve_agents, serve_agents_of_this_host, serve_local};
pub(crate) use outbound::is_own_address;
pub use router::router;
pub(crate) use view::run as run_view;
pub use vitals::{StoreState, Vitals};

/// What handlers work with.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

/// The parts, and what lives as long as they do.
struct Inner {
    parts: ApiParts,
    buckets: Buckets,
    admission: Admission,
    lists: Semaphore,
    refusals: refusals::Refusals,
    wakes: proxy::WakeBudget,
    listeners: proxy::Listeners,
    /// When a question to the engine was last not answered in time.
    unanswered_at: Mutex<Option<Awake>>,
    journal: journal::Journal,
    delegations: delegate::Delegations,
    forwarder: Forwarder,
    resolver: Box<dyn Resolve>,
}

impl Deref for Inner {
    type Target = ApiParts;

    fn deref(&self) -> &ApiParts {
        &self.parts
    }
}

/// What an [`Api`] is made of.
pub struct ApiParts {
    /// The registry.
    pub store: Store,
    /// The engine, bounded.
    pub engine: Arc<dyn Engine>,
    /// The orders.
    pub ops: Ops,
    /// The sweeps.
    pub sweeps: DriverHandle,
    /// The doctor.
    pub doctor: Doctor,
    /// The clock.
    pub clock: SharedClock,
    /// Tasks.
    pub spawn: SharedSpawn,
    /// The mirror beside the registry.
    pub mirror: Arc<Mirror>,
    /// Where identities are locked.
    pub runtime_dir: PathBuf,
    /// Randomness, for the ids of messages that have none.
    pub entropy: SharedEntropy,
    /// Since when ostler listens.
    pub listening: Listening,
    /// How agents are connected to.
    pub dial: Dial,
}

/// What one workspace may ask: an agent at work makes a few requests in a minute.
const REQUESTS: Rate = Rate { each: Duration::from_millis(20), burst: 200 };
/// Heartbeats and registrations beyond this wait for their turn, and are never refused: an agent sends one heartbeat in
/// 30 s, and one at each change of task.
const BEATS: Rate = Rate { each: Duration::from_millis(50), burst: 200 };
/// The longest that one waits: a runtime gives up after 10 s.
const PACED_FOR: Duration = Duration::from_secs(3);
/// Each kind of write that leaves something behind has a bucket of its own, so that one kind does not use up another.
/// Cards come at a start and when there is news.
const CARDS: Rate = Rate { each: Duration::from_secs(5), burst: 40 };
/// Reports of activity: one for each step of a task.
const REPORTS: Rate = Rate { each: Duration::from_secs(1), burst: 60 };
/// Changes of its own name and role.
const CHANGES: Rate = Rate { each: Duration::from_secs(5), burst: 10 };
/// Orders to restart or hibernate itself.
const ORDERS: Rate = Rate { each: Duration::from_secs(10), burst: 10 };
/// Lists that are made at a time: each may be in memory twice, as rows and as text.
const LISTS: usize = 4;

/// How long an answer waits for what the engine would add to it.
const ASKING_ENGINE: Duration = Duration::from_secs(1);
/// How long after an answer that did not come in time the engine is not asked for additions.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// A bucket for each workspace and kind of write.
struct Buckets {
    requests: Limiter<WorkspaceId>,
    beats: Limiter<WorkspaceId>,
    cards: Limiter<WorkspaceId>,
    reports: Limiter<WorkspaceId>,
    changes: Limiter<WorkspaceId>,
    orders: Limiter<WorkspaceId>,
}

impl Api {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: ApiParts) -> Self {
        let limiter = |rate| Limiter::new(Arc::clone(&parts.clock), rate);
        let buckets = Buckets {
            requests: limiter(REQUESTS),
            beats: limiter(BEATS),
            cards: limiter(CARDS),
            reports: limiter(REPORTS),
            changes: limiter(CHANGES),
            orders: limiter(ORDERS),
        };
        let wakes = proxy::WakeBudget::default();
        let forwarder = Forwarder::new(Arc::clone(&parts.clock), parts.dial.clone());
        let resolver = Box::new(SystemResolver);
        let (admission, lists) = (Admission::default(), Semaphore::new(LISTS));
        let listeners = proxy::Listeners::default();
        let refusals = refusals::Refusals::default();
        let (journal, delegations) = (journal::Journal::default(), delegate::Delegations::default());
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

    /// Asks the engine something that an answer of ostler's can do without: for [`ASKING_ENGINE`], and not at all
    /// while an engine that gave no answer in time is likely to give none again.
    async fn ask_engine<T>(&self, question: impl Future<Output = T>) -> Option<T> {
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

    /// Who may talk to whom, by the settings in force.
    fn access(&self) -> Access {
        self.0.ops.settings().access
    }

    /// Waits for the turn of a heartbeat or registration, which is never refused.
    async fn pace(&self, workspace: WorkspaceId) {
        let wait = self.0.buckets.beats.pace(workspace, PACED_FOR);
        if !wait.is_zero() {
            self.0.clock.sleep(wait).await;
        }
    }

    /// Waits until a list may be made. The permit is held while rows and text are both in memory.
    async fn list_permit(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes it.
        self.0.lists.acquire().await.ok()
    }

    /// Whether an external agent may be at a url.
    async fn check_url(&self, url: &str) -> Result<Checked, UrlError> {
        outbound::check(url, self.access().external, &*self.0.resolver, &*self.0.clock).await
    }

    /// Runs work to its end whether or not this future is still waited for.
    async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, OpError>> + Send + 'static,
    ) -> Result<T, OpError> {
        let (answer, done) = oneshot::channel();
        self.0.spawn.spawn(Box::pin(async move {
            // The client may have gone: the work was done all the same.
            let _gone = answer.send(work.await);
        }));
        done.await.unwrap_or(Err(OpError::Stopping)).map_err(|error| self.with_unread_runtime(error))
    }

    /// The same error, or, where the runtime that is missing is in the configuration file, an error that says so.
    fn with_unread_runtime(&self, error: OpError) -> OpError {
        let OpError::NoRuntime { name, .. } = &error else { return error };
        let configuration = self.0.doctor.configuration();
        if !configuration.file_has_runtime(name) {
            return error;
        }
        OpError::Invalid(format!(
            "the runtime `{name}` is in the configuration file, but the daemon has not read it since: run \
             `ostler reload`, then try again"
        ))
    }
}
