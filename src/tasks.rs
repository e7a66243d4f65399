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
