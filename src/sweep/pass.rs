//! The interface of a pass.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    context::{Snapshot, Sweeper},
    error::SweepError,
};
use crate::domain::plan::Plan;

/// One periodic task that plans changes of one kind.
#[async_trait]
pub trait Pass: Send + Sync {
    /// Name of the pass, a verb phrase.
    fn name(&self) -> &'static str;
    /// What the pass does, in one line for the user.
    fn summary(&self) -> &'static str;
    /// Time between scheduled runs.
    fn period(&self) -> Duration;
    /// Whether the pass requires the engine. A pass that requires only the store runs without a listing, and also while
    /// the engine is unavailable.
    fn requires(&self) -> Requirement {
        Requirement::Engine
    }
    /// Decides what is to be done. Changes nothing.
    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError>;
    /// Deletes or updates a bounded number of rows in the store. Runs after the plan was applied; the breaker does not
    /// judge it.
    async fn housekeep(&self, _sweeper: &Sweeper, _snapshot: &Snapshot) -> Result<(), SweepError> {
        Ok(())
    }
}

/// The input that a pass requires for planning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// A trusted listing of the engine, and the store.
    Engine,
    /// The store only.
    Store,
}
