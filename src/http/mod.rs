//! The HTTP surface: requests in, orders and questions out.
//!
//! `router.rs` is the whole route table on one page. A handler validates, asks the store or gives an
//! order, and turns what comes back into the types of `api.rs`; it decides nothing else. Whatever changes
//! something runs detached from the connection: a client that hangs up stops nothing.

mod error;
#[cfg_attr(not(test), expect(dead_code, reason = "the routes that use it come with the next commit"))]
pub(crate) mod forward;
#[cfg_attr(not(test), expect(dead_code, reason = "the routes that use it come with the next commit"))]
pub(crate) mod limits;
pub mod listen;
mod local;
#[cfg_attr(not(test), expect(dead_code, reason = "the routes that use it come with the next commit"))]
pub(crate) mod outbound;
mod resolve;
mod router;
mod routes;
#[cfg(test)]
mod testing;
mod view;

use std::{future::Future, path::PathBuf, sync::Arc};

use tokio::sync::oneshot;

use crate::{
    clock::SharedClock,
    doctor::Doctor,
    engine::Engine,
    ops::{OpError, Ops},
    store::{Mirror, Store},
    sweep::DriverHandle,
    tasks::SharedSpawn,
};

pub use local::serve_local;
pub(crate) use view::run as run_view;

/// What handlers work with.
#[derive(Clone)]
pub struct Api(Arc<ApiParts>);

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
}

impl Api {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: ApiParts) -> Self {
        Self(Arc::new(parts))
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
