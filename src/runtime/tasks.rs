//! The only place where tasks are spawned.
//!
//! The daemon spawns tasks on tokio's runtime. The simulator spawns them on its own executor, in which a seed decides
//! which task runs next. Tasks are also counted here, so that the daemon can wait for all of them before it exits.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::runtime::clock::Boxed;

/// Spawns tasks.
pub trait Spawn: Send + Sync {
    /// Runs `task` to completion, even if its caller is dropped.
    fn spawn(&self, task: Boxed<()>);
}

/// A shared spawner.
pub type SharedSpawn = Arc<dyn Spawn>;

/// Spawns tasks on tokio's runtime and counts them.
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

/// Carries out effects that change something outside this process's memory: transactions and engine calls.
///
/// Only the simulator and tests use a stage; the real store and engine use none. The simulator holds every effect until
/// its seed selects it. In this way it tries the orders in which the store and the engine may answer.
pub trait Stage: Send + Sync {
    /// Carries out `effect` once, even if the caller no longer waits.
    fn submit(&self, label: &'static str, effect: Box<dyn FnOnce() + Send>);
}

/// A stage that carries out every effect immediately.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtOnce;

impl Stage for AtOnce {
    fn submit(&self, _label: &'static str, effect: Box<dyn FnOnce() + Send>) {
        effect();
    }
}
