//! An entry of the trash, its restore and its deletion.

use serde::{Deserialize, Serialize};

/// An entry of `GET /trash`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashView {
    /// Id of the entry.
    pub id: String,
    /// Workspace that owned the container and volumes.
    pub workspace_id: String,
    /// Name of that workspace when the entry was created.
    pub workspace_name: String,
    /// `removed`, `unknown`, `stray` or `replaced`.
    pub reason: String,
    /// The evidence on which the move to the trash was decided.
    pub evidence: String,
    /// The engine's id of the container.
    pub container_id: Option<String>,
    /// Names of the volumes in the entry.
    pub volumes: Vec<String>,
    /// Disk usage in bytes, if the engine reports it.
    pub size_bytes: Option<u64>,
    /// `claimed`, `kept`, `restoring` or `deleting`.
    pub state: String,
    /// Time of the move to the trash, RFC 3339.
    pub created_at: String,
    /// Time until which the entry is kept, RFC 3339.
    pub keep_until: String,
}

/// `POST /trash/empty`: the entries to delete permanently; an empty list selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmptyTrash {
    /// Ids or unique id prefixes of entries, or names of workspaces.
    pub entries: Vec<String>,
}

/// Result of `POST /trash/empty` and `POST /trash/:id/restore` for one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashOutcome {
    /// Id of the entry.
    pub id: String,
    /// Name of the workspace that owned the container and volumes.
    pub workspace_name: String,
    /// Whether the operation succeeded.
    pub done: bool,
    /// What was done, or why it failed.
    pub detail: String,
    /// Whether the operation is accepted and waits for Podman.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
    /// Number of the operation; absent if the request was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<i64>,
}
