//! The one place where tasks are started.
//!
//! The daemon hands out tokio's runtime, the simulator its own executor, so that a seed decides which
//! task runs next. Tasks are also counted here, for a daemon that drains before it ends.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::clock::Boxed;

/// Starts tasks.
pub trait Spawn: Send + Sync {
    /// Runs `task` to its end, whoever goes away meanwhile.
    fn spawn(&self, task: Boxed<()>);
}

/// A spawner everybody shares.
pub type SharedSpawn = Arc<dyn Spawn>;

/// Tokio's runtime.
#[derive(Clone, Debug, Default)]
pub struct TokioTasks(TaskTracker);

impl TokioTasks {
    /// Waits until every task has ended.
    pub async fn drain(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

impl Spawn for TokioTasks {
    fn spawn(&self, task: Boxed<()>) {
        drop(self.0.spawn(task));
    }
}

/// Where an effect outside this process's memory happens: a transaction, an engine call.
///
/// Real lanes and engines need none of this. The simulator does: it holds every effect until its seed
/// says that now is the moment, which is how it tries the orders in which the world may answer.
pub trait Stage: Send + Sync {
    /// Carries out `effect` once, whether or not whoever asked still waits.
    fn submit(&self, label: &'static str, effect: Box<dyn FnOnce() + Send>);
}

/// A stage on which everything happens at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtOnce;

impl Stage for AtOnce {
    fn submit(&self, _label: &'static str, effect: Box<dyn FnOnce() + Send>) {
        effect();
    }
}
