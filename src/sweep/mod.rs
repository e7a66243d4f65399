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
mod watch;

use std::time::Duration;

use async_trait::async_trait;

use crate::{domain::plan::Plan, engine::trusted::Untrusted, ops::OpError, store::StoreError};

pub use crate::ops::OwnContainers;
pub use context::{Look, Seen, Sweeper, SweeperParts};
pub use driver::{Driver, DriverHandle, PassStatus};
pub use passes::{LOOK_EVERY, all, all_looking};
pub use run::{ActionRun, Mode, Outcome, Run, Verdict};
pub use watch::{Watch, watch_engine};

/// One rule that is held to, over and over.
#[async_trait]
pub trait Pass: Send + Sync {
    /// Its name, a verb phrase.
    fn name(&self) -> &'static str;
    /// What it does, in a line.
    fn summary(&self) -> &'static str;
    /// How often it runs.
    fn period(&self) -> Duration;
    /// Whether it has to see the engine. One that does not runs without a listing, and without an engine.
    fn sight(&self) -> Sight {
        Sight::Engine
    }
    /// Decides what is to be done. Changes nothing.
    async fn plan(&self, sweeper: &Sweeper, look: &Look) -> Result<Plan, SweepError>;
    /// Work in the store alone that needs no judging, after the plan was applied: bounded forgetting.
    async fn housekeep(&self, _sweeper: &Sweeper, _look: &Look) -> Result<(), SweepError> {
        Ok(())
    }
}

/// What a pass has to see before it plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A listing of the engine that can be trusted, and the store.
    Engine,
    /// The store.
    Store,
}

/// Why a pass could not do its work.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SweepError {
    /// There was no listing to act on.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// It asked for a listing without having said that it needs one.
    #[error("the pass was run without a look at the engine")]
    NoListing,
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An order failed.
    #[error(transparent)]
    Op(#[from] OpError),
}
