//! Sweeps: observe, plan, apply.
//!
//! A [`Pass`] only plans: it reads the rows that it needs, passes them and the listing to its rule, and returns the
//! result. The rule is a pure function in the same file, with its tests. The code that judges a plan (breaker, approvals, the recovery hold) and applies it is the
//! same for every pass, and is in `run.rs`. `driver.rs` schedules passes and depends on none in particular. To add a
//! pass, add one file, and its module and its entry in `passes/mod.rs`.

mod apply;
mod context;
mod driver;
#[cfg(test)]
mod fixtures;
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

/// Why a pass could not do its work.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SweepError {
    /// There was no trusted listing.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// The pass requested a listing, but its [`Pass::requires`] does not declare that it requires one.
    #[error("the pass requires a container listing, but was run without one")]
    NoListing,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An order failed.
    #[error(transparent)]
    Op(#[from] OpError),
}
