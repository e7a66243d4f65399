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
/// is queued or refused.
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
    /// Whether the order is only queued, because the client does not wait. `status` is then the status before the
    /// order.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
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
