//! The trash: containers and volumes that are no longer used and can still be restored.

use serde::{Deserialize, Serialize};

use super::{
    ids::{ContainerId, TrashId, WorkspaceId},
    time::Timestamp,
};

/// State of an entry. A move to the trash begins with a claim: the entry is written before anything is changed in the
/// engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrashState {
    /// Its container is being stopped and renamed. After a crash, a sweep completes the move.
    Claimed,
    /// The move is complete. The entry is kept until its retention ends.
    Kept,
    /// Its container and volumes are being restored to a live row.
    Restoring,
    /// Its container and volumes are being deleted permanently. They can no longer be restored.
    Deleting,
}

impl TrashState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Claimed, Self::Kept, Self::Restoring, Self::Deleting];

    /// The form in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Kept => "kept",
            Self::Restoring => "restoring",
            Self::Deleting => "deleting",
        }
    }
}

/// Why containers or volumes were moved to the trash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrashReason {
    /// An operator removed the workspace.
    Removed,
    /// The registry had no row for the workspace.
    Unknown,
    /// A second container of a live workspace; the entry has no volumes.
    Stray,
    /// Replaced by `recreate`; the entry has no volumes.
    Replaced,
}

impl TrashReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Removed, Self::Unknown, Self::Stray, Self::Replaced];

    /// The form in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Unknown => "unknown",
            Self::Stray => "stray",
            Self::Replaced => "replaced",
        }
    }

    /// Whether an operator ordered the move for this workspace. The deletion of such an entry does not count against
    /// the breaker.
    #[must_use]
    pub fn ordered_by_operator(self) -> bool {
        match self {
            Self::Removed | Self::Replaced => true,
            Self::Unknown | Self::Stray => false,
        }
    }
}

/// Contents of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TrashContents {
    /// The container, if there is one, with its original name.
    pub container: Option<NamedContainer>,
    /// Names of the volumes.
    pub volumes: Vec<String>,
}

/// A container and its name before the move to the trash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedContainer {
    /// The engine's id.
    pub id: ContainerId,
    /// Name that the container gets when it is restored.
    pub name: String,
}

/// An entry in the trash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrashEntry {
    /// Id of the entry; part of the trash name of its container.
    pub id: TrashId,
    /// Workspace that owned the container and volumes.
    pub workspace: WorkspaceId,
    /// Name of that workspace: from the row, else from the labels, else its id.
    pub workspace_name: String,
    /// Reason for the move.
    pub reason: TrashReason,
    /// The evidence for that reason.
    pub evidence: String,
    /// Container and volumes in the entry.
    pub contents: TrashContents,
    /// State of the entry.
    pub state: TrashState,
    /// Time at which the entry was written.
    pub created_at: Timestamp,
    /// Earliest time of deletion.
    pub keep_until: Timestamp,
}
