//! Workspace rows: create, look up, patch, change status, start, remove, undelete, adopt.
//!
//! `change_status` is the only function that changes the status of an existing row.

mod adopt;
mod create;
mod patch;
mod read;
mod remove;
mod start;
mod status;
mod undelete;

pub use crate::domain::ports::PortRange;
pub use adopt::{AdoptedContainer, AdoptedWorkspace, ContainerAdoption};
pub(super) use create::create;
pub use create::{CreateResult, NewWorkspace};
pub use patch::{PatchResult, WorkspaceEdit, WorkspacePatch};
pub use read::{Found, Scope};
pub(super) use read::{descendants, many, one, parents_first, paused_in_chain, was_stopped_since};
pub use remove::RemoveResult;
pub(super) use remove::remove;
pub use start::{BeginStart, Begun};
pub use status::StatusChange;
pub(super) use status::{change_status, event_of};
pub(super) use undelete::undelete;
pub use undelete::{UndeleteResult, UndeleteSkip, UndeletedAlong, UndeletedUnder};
