//! Sweeps: observe, plan, apply.
//!
//! A [`Pass`] only plans: it asks its narrow query, hands rows and listing to a pure function of
//! `domain/plan.rs`, and returns what that says. Judging the plan (breaker, approvals, the recovery hold)
//! and applying it are the same for every pass and live in `run.rs`; when to run is `driver.rs`'s, which
//! knows no pass. Adding a pass is one file and one line in `passes/mod.rs`.

mod apply;
mod context;
mod driver;
mod hits;
mod passes;
mod run;

use std::time::Duration;

use async_trait::async_trait;

use crate::{domain::plan::Plan, engine::trusted::Untrusted, ops::OpError, store::StoreError};

pub use context::{Limits, Look, Sweeper, SweeperParts};
pub use driver::{Driver, DriverHandle, PassStatus};
pub use passes::all;
pub use run::{ActionRun, Mode, Outcome, Run, Verdict};

/// One rule that is held to, over and over.
#[async_trait]
pub trait Pass: Send + Sync {
    /// Its name, a verb phrase.
    fn name(&self) -> &'static str;
    /// What it does, in a line.
    fn summary(&self) -> &'static str;
    /// How often it runs.
    fn period(&self) -> Duration;
    /// Decides what is to be done. Changes nothing.
    async fn plan(&self, sweeper: &Sweeper, look: &Look) -> Result<Plan, SweepError>;
    /// Work in the store alone that needs no judging, after the plan was applied: bounded forgetting.
    async fn housekeep(&self, _sweeper: &Sweeper, _look: &Look) -> Result<(), SweepError> {
        Ok(())
    }
}

/// Why a pass could not do its work.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SweepError {
    /// There was no listing to act on.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An order failed.
    #[error(transparent)]
    Op(#[from] OpError),
}
