//! An event, stored or transient.

use serde::{Deserialize, Serialize};

/// An event, in `GET /events`, `GET /events/:workspaceId` and the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// Sequence number of the event.
    pub id: i64,
    /// Type of the event, such as `WORKSPACE_ONLINE`.
    pub event_type: String,
    /// Workspace that the event concerns; null if it concerns none.
    pub workspace_id: Option<String>,
    /// Fields that depend on `event_type`.
    pub payload: serde_json::Value,
    /// Time of the event, RFC 3339.
    pub created_at: String,
}

/// A transient event on `GET /events/stream`: it is not stored and has no id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransientEventView {
    /// `WORKSPACE_HEARTBEAT` or `TASK_UPDATED`.
    pub event_type: String,
    /// Workspace that the event concerns.
    pub workspace_id: String,
    /// Fields that depend on `event_type`.
    pub payload: serde_json::Value,
    /// Time of the event, RFC 3339.
    pub created_at: String,
}

/// First message of an event stream whose client has seen event ids that the registry does not have.
///
/// This happens when the registry was restored from an older copy; the sequence continues from the copy's last event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsReset {
    /// Always true.
    pub reset: bool,
    /// Id of the newest event in the registry.
    pub last_event_id: i64,
}
