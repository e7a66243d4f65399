//! An order to a workspace and its outcome.

use serde::{Deserialize, Serialize};

/// `POST /workspaces/:id/start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Start {
    /// Create a new, empty work volume if the old one no longer exists.
    pub new_volume: bool,
}

/// `POST /workspaces/:id/undelete`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Undelete {
    /// New name for the restored workspace, if the old one is taken.
    pub name: Option<String>,
    /// Restore only this workspace, not the descendants that were removed together with it.
    pub only: bool,
}

/// Result of an order: response to `POST /workspaces/:id/{start,stop,restart,recreate,hibernate,wake,undelete}`.
///
/// An order is carried out even if the client disconnects. With `?wait=false` the response is sent as soon as the order
/// is accepted or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderOutcome {
    /// Id of the workspace.
    pub id: String,
    /// Name of the workspace.
    pub name: String,
    /// Status of the row after the order.
    pub status: String,
    /// Details, such as why the order failed and what to do next.
    pub detail: Option<String>,
    /// Descendants that the order included, each with its result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub along: Vec<AffectedView>,
    /// Whether the order is only accepted: because the client does not wait, or because Podman gives no answer, in which
    /// case `detail` says so. `status` is then the stored status right after the
    /// acceptance; the container may not match it yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
    /// Number of the operation that carries the order out; absent if there was nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<i64>,
}

/// Result of an order for a descendant of the workspace that the order named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffectedView {
    /// Id of the descendant.
    pub id: String,
    /// Name of the descendant.
    pub name: String,
    /// Status of the row after the order.
    pub status: String,
    /// Details of the result.
    pub detail: Option<String>,
    /// Whether the order failed for this workspace.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}
