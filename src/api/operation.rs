//! Operations: orders that were accepted, with their state.

use serde::{Deserialize, Serialize};

/// An operation: element of `GET /operations`; response to `GET /operations/:id` and `POST /operations/:id/cancel`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationView {
    /// Number of the operation. Unique and increasing.
    pub id: i64,
    /// `create`, `start`, `stop`, `hibernate`, `wake`, `restart`, `recreate`, `remove`, `purge`, `undelete`, `restore` or
    /// `delete`.
    pub kind: String,
    /// Id of the workspace that the order named.
    pub workspace_id: String,
    /// Name of that workspace when the operation was accepted.
    pub workspace_name: String,
    /// `operator`, or `agent:` and the id of the workspace whose agent gave the order.
    pub requested_by: String,
    /// `accepted` (waits for earlier operations of its workspace), `running`, `waiting` (for Podman), `done`, `skipped`
    /// (there was nothing to do, or a later order made it
    /// pointless), `failed` or `cancelled`.
    pub state: String,
    /// While it runs: what is being done.
    pub progress: Option<String>,
    /// What it waits for, or its result.
    pub detail: Option<String>,
    /// Whether it is to be cancelled: its worker gives it up once the call in progress ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_requested: bool,
    /// Revision of the workspace's row when the operation was accepted.
    pub revision: i64,
    /// When it was accepted.
    pub created_at: String,
    /// When it was first carried out.
    pub started_at: Option<String>,
    /// When it ended.
    pub ended_at: Option<String>,
}
