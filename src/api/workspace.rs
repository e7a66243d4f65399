//! A workspace: its state, its creation, a change of its settings, and its removal.

use serde::{Deserialize, Serialize};

use super::spec::SpecView;

/// A workspace, in lists and in single responses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the contract")]
pub struct WorkspaceView {
    /// Id of the workspace.
    pub id: String,
    /// Unique among live workspaces.
    pub name: String,
    /// The purpose of the workspace.
    pub role: Option<String>,
    /// Resource tier, 1 to 4.
    pub tier: u8,
    /// Status, such as `provisioning` or `online`.
    pub status: String,
    /// Kind of failure of a failed workspace: `provision_timeout`, `start_error` or `parked`.
    pub failure: Option<String>,
    /// Reason for the status, if there is one.
    pub status_detail: Option<String>,
    /// Time of the last status change, RFC 3339.
    pub status_since: String,
    /// URL at which the agent is reached.
    pub url: Option<String>,
    /// Id of the parent workspace.
    pub parent_id: Option<String>,
    /// Name of the runtime.
    pub runtime: String,
    /// Whether the agent runs outside ostler's containers.
    pub external: bool,
    /// The image; null if there is none.
    pub image: Option<String>,
    /// Number of starts so far.
    pub incarnation: u32,
    /// The engine's id of the container.
    pub container_id: Option<String>,
    /// The port of 127.0.0.1 that the container publishes.
    pub host_port: Option<u16>,
    /// Whether the workspace's settings have changed since the container was created. `recreate` creates a container
    /// with the current settings.
    pub drifted: bool,
    /// The operation in progress, such as `start: pulling image …`.
    pub operation: Option<String>,
    /// Time of creation, RFC 3339.
    pub created_at: String,
    /// Time of removal, RFC 3339.
    pub removed_at: Option<String>,
    /// Number of tasks that the agent is working on, as last reported.
    pub active_tasks: u32,
    /// Number of tasks that the agent accepts at once; null if unknown.
    pub max_concurrent_tasks: Option<u32>,
    /// Share of the agent's recent requests that failed, 0 to 1, as last reported.
    pub last_error_rate: f64,
    /// One of the agent's recent errors; shown only to the workspace itself and to admins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sample_error: Option<String>,
    /// Uptime of the agent in seconds, as last reported.
    pub uptime_seconds: i64,
    /// The agent's current task; shown only to the workspace itself and to admins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_task: Option<String>,
    /// The agent's spending of this month in cents, as last reported.
    pub monthly_spend: i64,
    /// Description of its state that the agent last reported. The agent may choose any text.
    pub runtime_state: String,
    /// The agent's self-description, as last reported.
    pub agent_card: Option<serde_json::Value>,
    /// Time of the last heartbeat, RFC 3339.
    pub last_heartbeat_at: Option<String>,
    /// Time of the last activity, RFC 3339.
    pub last_activity_at: Option<String>,
    /// Time at which the workspace was flagged as stalled (busy without progress), RFC 3339.
    pub wedged_since: Option<String>,
    /// Names of the fields in the agent's last report whose values were not usable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields_refused: Vec<String>,
    /// Time of the next automatic restart of an offline workspace, RFC 3339.
    pub restart_due_at: Option<String>,
    /// Idle minutes after which the workspace hibernates; null: never.
    pub hibernation_idle_minutes: Option<u32>,
    /// Whether the workspace is restarted when it is stalled (busy without progress).
    pub restart_when_wedged: bool,
    /// Why messages to a running workspace fail, if that can be detected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_note: Option<String>,
    /// Resource limits of the container that this host does not enforce. This field and the following ones up to
    /// `config_pending` are filled only when an admin requests a single workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits_note: Option<String>,
    /// The settings of the container.
    #[serde(flatten)]
    pub spec: SpecView,
    /// Whether the next start overwrites `/configs/config.yaml` with the text in the registry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub config_pending: bool,
    /// `poll` if messages are stored until the agent polls them; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_mode: Option<String>,
}

/// Response to `GET /workspaces/:id/state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateView {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Status, such as `provisioning` or `online`.
    pub status: String,
    /// Whether the workspace is paused.
    pub paused: bool,
    /// Always `false`.
    pub deleted: bool,
}

/// Response to `GET /workspaces/:id/state` for a workspace that was removed or never existed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneView {
    /// The id that was asked for.
    pub workspace_id: String,
    /// Always `true`.
    pub deleted: bool,
}

/// Response to `POST /workspaces`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedWorkspace {
    /// Id of the new workspace.
    pub id: String,
    /// Name of the new workspace.
    pub name: String,
    /// Status of the row.
    pub status: String,
    /// `true` for an external workspace.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
    /// Number of the operation that starts it; absent for an external workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<i64>,
    /// How an external agent connects. Contains the agent's token, which is shown only here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// Warnings about requested settings that do not work as requested on this host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Keys of the request that ostler does not know and has ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
}

/// Addresses and token for an external agent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Base URL of ostler.
    pub platform_url: String,
    /// The agent's token in plain text.
    pub auth_token: String,
    /// URL for registering.
    pub registry_endpoint: String,
    /// URL for heartbeats.
    pub heartbeat_endpoint: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection to {} [token redacted]", self.platform_url)
    }
}

/// Response to `PATCH /workspaces/:id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patched {
    /// Always `updated`.
    pub status: String,
    /// Whether the change takes effect only after a restart of the workspace.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_restart: bool,
    /// Whether the change takes effect only after the workspace's container is recreated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_recreate: bool,
    /// Warnings about requested settings that do not work as requested, or have an effect that the caller may not
    /// expect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Keys of the request that ostler does not know and has ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
}

/// Response to `DELETE /workspaces/:id[?confirm=true]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveOutcome {
    /// `removed`, or `confirmation_required` if the workspace has children.
    pub status: String,
    /// Number of descendants that were removed too.
    #[serde(default)]
    pub cascade_deleted: usize,
    /// Work that ostler does only when the engine answers again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Number of the operation that moves the container and volumes to the trash, or deletes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<i64>,
    /// Whether the workspace's container and volumes have been permanently deleted. Present if `?purge=true` was
    /// requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<bool>,
    /// Why the container and volumes are not deleted yet. ostler retries the deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_error: Option<String>,
    /// Children that a confirmed removal would include.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Child>,
    /// Number of `children`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub children_count: usize,
}

/// A child in a [`RemoveOutcome`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Id of the child.
    pub id: String,
    /// Name of the child.
    pub name: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "signature required by serde")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}
