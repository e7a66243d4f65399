//! Operations: what operators have ordered. The table is the queue of each workspace's worker.

mod accept;
mod queue;
mod read;
mod work;

pub use accept::Stored;
pub use queue::NewOperation;
pub(super) use queue::{may_begin, note_incarnation};
pub use work::{CancelResult, Parked};
