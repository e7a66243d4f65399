//! The time limits of liveness. Time is measured with [`Lasted`], which counts only time in which the daemon could receive
//! heartbeats (`runtime/epoch.rs`). Without this rule, time in which the daemon was down or suspended would count as
//! missed heartbeats.

use std::time::Duration;

use crate::domain::time::Timestamp;

/// An agent counts as silent after this time without a heartbeat (design, §3).
pub const SILENT_AFTER: Duration = Duration::from_mins(3);

/// The container of a degraded agent is restarted after `SILENT_AFTER` plus this time without a heartbeat.
pub const RESTART_SILENT_AFTER: Duration = Duration::from_mins(10);

/// A busy agent is flagged after this time without heartbeat, message or progress.
pub const WEDGED_AFTER: Duration = Duration::from_mins(5);

/// Returns the time since a timestamp, counting only time in which the daemon could receive heartbeats.
pub type Lasted<'a> = &'a (dyn Fn(Timestamp) -> Duration + Sync);

/// Time a container must run before a workspace with readiness `container` is online.
pub const READY_AFTER: Duration = Duration::from_secs(2);
