//! What an agent asks about other workspaces: its peers, their addresses, and access.

use serde::{Deserialize, Serialize};

/// Response to `GET /registry/discover/:id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovered {
    /// Id of the workspace.
    pub id: String,
    /// URL to which the caller sends messages for this workspace. It is a route of ostler, not the agent's own address.
    pub url: String,
    /// Name of the workspace.
    pub name: String,
}

/// A workspace in `GET /registry/:id/peers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// Id of the peer.
    pub id: String,
    /// Name of the peer.
    pub name: String,
    /// The purpose of the peer.
    pub role: Option<String>,
    /// Resource tier, 1 to 4.
    pub tier: u8,
    /// Status, such as `provisioning` or `online`.
    pub status: String,
    /// URL to which the caller sends messages for this workspace. It is a route of ostler, not the agent's own address.
    pub url: String,
    /// Id of the parent workspace.
    pub parent_id: Option<String>,
    /// Number of tasks that the agent is working on, as last reported.
    pub active_tasks: u32,
    /// The agent's self-description, as last reported.
    pub agent_card: Option<serde_json::Value>,
}

/// Response to `POST /registry/check-access`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessAnswer {
    /// Whether the two workspaces may exchange messages.
    pub allowed: bool,
}
