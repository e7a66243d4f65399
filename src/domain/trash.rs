//! The trash: what was reaped and can still be brought back.

use serde::{Deserialize, Serialize};

use super::{
    ids::{ContainerId, TrashId, WorkspaceId},
    time::Timestamp,
};

/// How far an entry is on its way in, out, or away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrashState {
    /// Claimed for the trash: being stopped and renamed. A crash leaves it so, and a sweep finishes it.
    Claimed,
    /// Stopped, renamed, waiting for its time.
    Kept,
    /// On its way back to a live row.
    Restoring,
    /// Being deleted for good: nothing brings it back any more.
    Deleting,
}

impl TrashState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Claimed, Self::Kept, Self::Restoring, Self::Deleting];

    /// The stored form.
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

/// Why something was put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrashReason {
    /// A person removed the workspace.
    Removed,
    /// No row knew it.
    Unknown,
    /// A second container of a live workspace; its volumes are not part of the entry.
    Stray,
    /// Replaced by `recreate`; its volumes are not part of the entry.
    Replaced,
}

impl TrashReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Removed, Self::Unknown, Self::Stray, Self::Replaced];

    /// The stored form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Unknown => "unknown",
            Self::Stray => "stray",
            Self::Replaced => "replaced",
        }
    }

    /// Whether a person ordered it by name: such actions do not count against the breaker.
    #[must_use]
    pub fn ordered_by_person(self) -> bool {
        match self {
            Self::Removed | Self::Replaced => true,
            Self::Unknown | Self::Stray => false,
        }
    }
}

/// What an entry holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Things {
    /// The container, if there is one, with the name it had.
    pub container: Option<NamedContainer>,
    /// Names of volumes.
    pub volumes: Vec<String>,
}

/// A container and the name it had before it was put away.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedContainer {
    /// The engine's id.
    pub id: ContainerId,
    /// The name to give back.
    pub name: String,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrashEntry {
    /// Its identity; its container is named by it.
    pub id: TrashId,
    /// Whose things these were.
    pub workspace: WorkspaceId,
    /// What that workspace was called, as far as anybody knew.
    pub workspace_name: String,
    /// Why.
    pub reason: TrashReason,
    /// What that was decided on.
    pub evidence: String,
    /// What is in it.
    pub things: Things,
    /// How far it is.
    pub state: TrashState,
    /// Since when it is claimed.
    pub created_at: Timestamp,
    /// Until when it is kept at least.
    pub keep_until: Timestamp,
}
