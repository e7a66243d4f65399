//! A row of a workspace's activity.

use serde::{Deserialize, Serialize};

/// A row in `GET /workspaces/:id/activity`, in the format that existing clients read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActivityView {
    /// Id of the row. As the value of `since_id` in a later request, it selects only newer rows.
    pub id: String,
    /// Workspace under which the row is listed.
    pub workspace_id: String,
    /// Type of the row, such as `a2a_receive`, `a2a_send` or `task_update`.
    pub activity_type: String,
    /// Workspace that sent the message; null for a user.
    pub source_id: Option<String>,
    /// Workspace that the message was sent to.
    pub target_id: Option<String>,
    /// Method of the message; `notify` for a notification from the agent to its user.
    pub method: Option<String>,
    /// One-line summary.
    pub summary: Option<String>,
    /// Body of the request, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_body: Option<Box<serde_json::value::RawValue>>,
    /// Body of the response, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_body: Option<Box<serde_json::value::RawValue>>,
    /// Duration in milliseconds.
    pub duration_ms: Option<i64>,
    /// `ok`, `error`, or a value that the agent reported.
    pub status: String,
    /// Reason of the failure.
    pub error_detail: Option<String>,
    /// Time of the row, RFC 3339.
    pub created_at: String,
    /// Sequence number, unique among the rows of all workspaces. An agent that polls sends it to
    /// `POST /workspaces/:id/activity/ack` to acknowledge all its rows up to this one.
    pub seq: i64,
    /// Sender and text of a message that the proxy forwarded or stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<ActivityData>,
}

/// Sender and text of a message, for clients that do not parse the message itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityData {
    /// `peer_agent` if a workspace sent the message, `canvas_user` if a user did.
    pub source: String,
    /// The text parts of the message.
    pub text: String,
}
