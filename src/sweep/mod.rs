//! Sweeps: observe, plan, apply.
//!
//! A [`Pass`] only plans: it reads the rows that it needs, passes them and the listing to its rule, and returns the
//! result. The rule is a pure function in the same file, with its tests. The code that judges a plan (breaker, approvals, the recovery hold) and applies it is the
//! same for every pass, and is in `run.rs`. `driver.rs` schedules passes and depends on none in particular. To add a
//! pass, add one file, and its module and its entry in `passes/mod.rs`.

mod apply;
mod context;
mod driver;
mod elapsed;
mod error;
#[cfg(test)]
mod fixtures;
mod pass;
mod passes;
mod reservations;
mod run;
mod watch;

pub use crate::ops::OwnContainers;
pub use context::{ListingView, Snapshot, Sweeper, SweeperParts};
pub use driver::{Driver, DriverHandle, PassStatus};
pub use error::SweepError;
pub use pass::{Pass, Requirement};
pub use passes::{CHECK_INTERVAL, all, all_with_interval};
pub use run::{ActionRun, Mode, Outcome, Run, Verdict};
pub use watch::{Watch, watch_engine};
