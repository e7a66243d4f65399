//! The HTTP surface: requests in, orders and questions out.
//!
//! `router.rs` is the whole route table on one page. A handler validates, asks the store or gives an
//! order, and turns what comes back into the types of `api.rs`; it decides nothing else. Whatever changes
//! something runs detached from the connection: a client that hangs up stops nothing.

mod auth;
mod error;
pub(crate) mod forward;
pub(crate) mod limits;
pub mod listen;
mod local;
pub(crate) mod outbound;
mod proxy;
mod refusals;
mod resolve;
mod router;
mod routes;
#[cfg(test)]
mod testing;
mod view;

use std::{future::Future, ops::Deref, path::PathBuf, sync::Arc};

use tokio::sync::oneshot;

use crate::{
    clock::SharedClock,
    doctor::Doctor,
    domain::{address::Allow, ids::WorkspaceId},
    engine::Engine,
    entropy::SharedEntropy,
    listening::Listening,
    ops::{OpError, Ops},
    store::{Mirror, Store},
    sweep::DriverHandle,
    tasks::SharedSpawn,
};

use forward::Forwarder;
use limits::{Limiter, Rate};
use outbound::{Checked, Resolve, SystemResolver, UrlError};

pub use forward::{Dial, PipeTo};
pub use local::{serve_agents, serve_local};
pub use router::router;
pub(crate) use view::run as run_view;

/// What handlers work with.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

/// The parts, and what lives as long as they do.
struct Inner {
    parts: ApiParts,
    requests: Limiter<WorkspaceId>,
    beats: Limiter<WorkspaceId>,
    reports: Limiter<WorkspaceId>,
    refusals: refusals::Refusals,
    wakes: proxy::WakeBudget,
    listeners: proxy::Listeners,
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
    /// Who may talk to whom, and where external agents may be.
    pub access: Access,
    /// How agents are connected to.
    pub dial: Dial,
}

/// Who may talk to whom, and where external agents may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Whether workspaces without a parent may talk to each other.
    pub root_siblings: bool,
    /// How often one workspace may wake another within an hour.
    pub wakes_per_hour: u32,
    /// Where external agents may be.
    pub external: Allow,
}

/// What one workspace may ask within a second, and at once. An agent at work makes a few requests in a minute.
const REQUESTS: Rate = Rate { per_second: 50, burst: 200 };
/// The same for beats, which are never to be refused: an agent sends one in 30 s, and one at each change of task.
const BEATS: Rate = Rate { per_second: 20, burst: 200 };
/// The same for what is kept for people to read: cards and reports. They come at a start and when there is news.
const REPORTS: Rate = Rate { per_second: 1, burst: 60 };

impl Api {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: ApiParts) -> Self {
        let limiter = |rate| Limiter::new(Arc::clone(&parts.clock), rate);
        let (requests, beats, reports) = (limiter(REQUESTS), limiter(BEATS), limiter(REPORTS));
        let wakes = proxy::WakeBudget::new(parts.access.wakes_per_hour);
        let forwarder = Forwarder::new(Arc::clone(&parts.clock), parts.dial.clone());
        let resolver = Box::new(SystemResolver);
        Self(Arc::new(Inner {
            parts,
            requests,
            beats,
            reports,
            refusals: refusals::Refusals::default(),
            wakes,
            listeners: proxy::Listeners::default(),
            forwarder,
            resolver,
        }))
    }

    /// Whether an external agent may be at a url.
    async fn check_url(&self, url: &str) -> Result<Checked, UrlError> {
        outbound::check(url, self.0.access.external, &*self.0.resolver, &*self.0.clock).await
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
        done.await.unwrap_or(Err(OpError::Stopping))
    }
}
