//! Sweeps: observe, plan, apply.
//!
//! A [`Pass`] only plans: it runs its narrow query, passes rows and listing to a pure function of `domain/plan.rs`,
//! and returns the result. Judging the plan (breaker, approvals, the recovery hold) and applying it are the same for
//! every pass and are in `run.rs`. `driver.rs` schedules passes and knows no specific one. Adding a pass is one file
//! and one line in `passes/mod.rs`.

mod apply;
mod context;
mod driver;
mod passes;
mod reservations;
mod run;
mod watch;

use std::time::Duration;

use async_trait::async_trait;

use crate::{domain::plan::Plan, engine::trusted::Untrusted, ops::OpError, store::StoreError};

pub use crate::ops::OwnContainers;
pub use context::{ListingView, Snapshot, Sweeper, SweeperParts};
pub use driver::{Driver, DriverHandle, PassStatus};
pub use passes::{CHECK_INTERVAL, all, all_with_interval};
pub use run::{ActionRun, Mode, Outcome, Run, Verdict};
pub use watch::{Watch, watch_engine};

/// One rule that is enforced periodically.
#[async_trait]
pub trait Pass: Send + Sync {
    /// Its name, a verb phrase.
    fn name(&self) -> &'static str;
    /// What it does, in one line.
    fn summary(&self) -> &'static str;
    /// Time between scheduled runs.
    fn period(&self) -> Duration;
    /// Whether it requires the engine. A pass that does not runs without a listing, and while the engine is
    /// unavailable.
    fn requires(&self) -> Requirement {
        Requirement::Engine
    }
    /// Decides what is to be done. Changes nothing.
    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError>;
    /// Bounded cleanup in the store that needs no judging; runs after the plan was applied.
    async fn housekeep(&self, _sweeper: &Sweeper, _snapshot: &Snapshot) -> Result<(), SweepError> {
        Ok(())
    }
}

/// What a pass requires before it plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// A trusted listing of the engine, and the store.
    Engine,
    /// The store only.
    Store,
}

/// Why a pass could not do its work.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SweepError {
    /// There was no trusted listing.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// It asked for a listing without having declared that it requires one.
    #[error("the pass requires a container listing, but was run without one")]
    NoListing,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An order failed.
    #[error(transparent)]
    Op(#[from] OpError),
}
