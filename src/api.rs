//! Request and response bodies, shared by the CLI and the HTTP server.
//!
//! These types define the JSON of `--json` and of the admin routes. They are plain data with public fields; ids and
//! times are text. They depend on no other layer. Fields are never renamed or removed; snapshot tests check this.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// The body of every error response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What failed, why, and what to do next.
    pub error: String,
}

/// `POST /workspaces`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CreateWorkspace {
    /// Unique among live workspaces.
    pub name: String,
    /// The purpose of the workspace, as free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Name of the runtime; default `plain`. `external` creates an external workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Image; default: the runtime's image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Command that replaces the image's own command; empty: not replaced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Resource tier, 1 to 4; default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<u8>,
    /// Id, unique id prefix or name of the parent workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// Whether the agent runs outside ostler's containers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
    /// URL at which an external agent is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Absolute path of a host directory, mounted at `/workspace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_dir: Option<String>,
    /// `read_only` or `read_write`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_access: Option<String>,
    /// Environment variables of the container.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Content of `/configs/config.yaml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Idle minutes after which the workspace hibernates; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hibernation_idle_minutes: Option<u32>,
    /// Number of tasks that the agent accepts at once; shown to peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_tasks: Option<u32>,
    /// Whether to restart the workspace when it is stalled (busy without progress).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restart_when_wedged: bool,
    /// `push`: messages are sent to the external agent. `poll`: messages are stored until the agent polls them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_mode: Option<String>,
}

/// `PATCH /workspaces/:id`. A setting whose field is absent stays unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PatchWorkspace {
    /// New name, unique among live workspaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The purpose of the workspace; empty or null clears it.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "null_is_empty")]
    pub role: Option<String>,
    /// Resource tier, 1 to 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<u8>,
    /// Id, unique id prefix or name of the new parent; empty or null makes the workspace a root.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "null_is_empty")]
    pub parent_id: Option<String>,
    /// Name of the new runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The new image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The new command; empty selects the command of the runtime or of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Environment variables to set. The value null removes a variable. Variables that are not listed stay unchanged.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Option<String>>,
    /// Another host directory for `/workspace`. Allowed only if the workspace has a host directory already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_dir: Option<String>,
    /// `read_only` or `read_write`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_access: Option<String>,
    /// Content of `/configs/config.yaml`. The next start overwrites the existing file with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// URL at which an external agent is reached; empty clears it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Idle minutes after which the workspace hibernates; 0: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hibernation_idle_minutes: Option<u32>,
    /// Number of tasks that the agent accepts at once; 0: unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_tasks: Option<u32>,
    /// Whether to restart the workspace when it is stalled (busy without progress).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_when_wedged: Option<bool>,
}

/// Deserializes null as an empty string, so that null differs from an absent key. Existing clients send
/// `"parent_id": null` to make a workspace a root.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|text| Some(text.unwrap_or_default()))
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

/// `POST /admin/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssueAdminToken {
    /// The purpose of the token.
    pub name: String,
    /// Lifetime in seconds; absent: unlimited.
    pub expires_in_seconds: Option<u64>,
}

/// Response to `POST /admin/tokens`. The token is shown only here.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedAdminToken {
    /// The token in plain text.
    pub auth_token: String,
    /// The purpose of the token.
    pub name: String,
}

impl std::fmt::Debug for IssuedAdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IssuedAdminToken `{}` [redacted]", self.name)
    }
}

/// A token in `GET /admin/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminTokenView {
    /// Id of the row; used to revoke the token.
    pub id: String,
    /// The purpose of the token.
    pub name: String,
    /// The first characters of the token.
    pub prefix: String,
    /// Time of issue, RFC 3339.
    pub created_at: String,
    /// Time at which the token expires, RFC 3339; null if it does not expire.
    pub expires_at: Option<String>,
}

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
    /// `config_bytes` are filled only when an admin requests a single workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits_note: Option<String>,
    /// Command that replaces the image's own command; empty: not replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Names of the environment variables. Values may be secrets and are never shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_names: Vec<String>,
    /// Host directory mounted at `/workspace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_dir: Option<String>,
    /// `read_only` if the container may not write to `/workspace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_access: Option<String>,
    /// Whether the next start overwrites `/configs/config.yaml` with the text in the registry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub config_pending: bool,
    /// Length in bytes of the text for `/configs/config.yaml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_bytes: Option<usize>,
    /// `poll` if messages are stored until the agent polls them; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_mode: Option<String>,
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

/// `POST /workspaces/:id/undelete`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Undelete {
    /// New name for the restored workspace, if the old one is taken.
    pub name: Option<String>,
    /// Restore only this workspace, not the descendants that were removed together with it.
    pub only: bool,
}

/// `POST /workspaces/:id/start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Start {
    /// Create a new, empty work volume if the old one no longer exists.
    pub new_volume: bool,
}

/// A token in `GET /workspaces/:id/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Id of the row; used to revoke the token.
    pub id: String,
    /// The first characters of the token.
    pub prefix: String,
    /// `instance`: belongs to the current container of the workspace. `api`: issued by an operator, or for an external
    /// agent.
    pub kind: String,
    /// Time of issue, RFC 3339.
    pub created_at: String,
    /// Time of the last use, RFC 3339.
    pub last_used_at: Option<String>,
    /// Time at which the token expires, RFC 3339; null if it does not expire.
    pub expires_at: Option<String>,
}

/// Response to `GET /workspaces/:id/tokens`: the valid tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenList {
    /// The valid tokens of the workspace.
    pub tokens: Vec<TokenView>,
    /// Number of `tokens`.
    pub count: usize,
}

/// `POST /workspaces/:id/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssueToken {
    /// Lifetime in seconds; absent: unlimited.
    pub expires_in_seconds: Option<u64>,
}

/// Response to `POST /workspaces/:id/tokens`. The token is shown only here.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// The token in plain text.
    pub auth_token: String,
    /// Workspace that owns the token.
    pub workspace_id: String,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IssuedToken for {} [redacted]", self.workspace_id)
    }
}

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
}

/// `POST /adopt`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adopt {
    /// Names, workspace ids or unique id prefixes of the unknown workspaces to adopt. Ignored if `all` is set.
    pub which: Vec<String>,
    /// Adopt every unknown workspace. Ends the registry's recovery, unless a workspace that has a container could not
    /// be adopted.
    pub all: bool,
    /// Only report what would be done.
    pub dry_run: bool,
    /// Id of the instance whose identity this registry takes over, so that it can adopt the containers and volumes that
    /// carry this id. Works only for an empty registry.
    pub instance: Option<String>,
}

/// Result of an adoption.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptOutcome {
    /// The workspaces that were adopted or would be adopted, and those that could not be.
    pub items: Vec<AdoptItem>,
    /// Whether the registry is still recovering: unknown containers and volumes are kept until an operator decides.
    pub recovering: bool,
}

/// One unknown workspace in the result of an adoption.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptItem {
    /// Id of the workspace, from the labels.
    pub workspace_id: String,
    /// Name of the workspace, from the labels.
    pub name: String,
    /// The engine's id of the container.
    pub container_id: Option<String>,
    /// Names of the volumes of the workspace.
    pub volumes: Vec<String>,
    /// Whether the workspace was adopted, or would be in a dry run.
    pub adopted: bool,
    /// What was done and what could not be rebuilt.
    pub detail: String,
}

/// A pass in `GET /sweeps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassView {
    /// Name of the pass, such as `settle`.
    pub name: String,
    /// One-line description.
    pub summary: String,
    /// Interval between runs, in seconds.
    pub period_seconds: u64,
    /// Whether the pass is running now.
    pub running: bool,
    /// The last run; null if there was none.
    pub last: Option<PassRun>,
    /// The plan that waits for approval; null if there is none.
    pub held: Option<HeldPlan>,
}

/// One run of a pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassRun {
    /// Name of the pass.
    pub pass: String,
    /// Start time, RFC 3339.
    pub started_at: String,
    /// Duration in milliseconds.
    pub took_ms: u64,
    /// `done`, `dry_run`, `held`, `untrusted` (the engine returned no trusted listing), `failed`, `timed_out` or
    /// `panicked`.
    pub outcome: String,
    /// Reason for the outcome, if there is one.
    pub detail: Option<String>,
    /// The planned actions, each with its result.
    pub actions: Vec<ActionView>,
    /// Findings that become actions if they persist.
    pub watching: Vec<String>,
    /// Number of actions left for the next run.
    pub left_over: usize,
}

/// One planned action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionView {
    /// The action and its target, such as `put container 6f1c0c5e0d0f into the trash`.
    pub action: String,
    /// Name or id of the workspace.
    pub workspace: String,
    /// The evidence on which the action was decided.
    pub evidence: String,
    /// `planned`, `applied`, `raced` (not applied, because the row has changed since the plan), `failed`, `held`.
    pub result: String,
    /// Reason for the result, if there is one.
    pub detail: Option<String>,
}

/// A plan that the circuit breaker held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPlan {
    /// Id of the plan; the argument of `ostler sweep approve`.
    pub id: String,
    /// Name of the pass.
    pub pass: String,
    /// Why the plan was held.
    pub reason: String,
    /// Time at which it was held, RFC 3339.
    pub held_at: String,
    /// The actions that are applied after an approval. An approval allows no other actions.
    pub actions: Vec<ActionView>,
}

/// `POST /sweeps/run`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSweeps {
    /// Names of the passes; empty selects all.
    pub passes: Vec<String>,
    /// Report the planned actions without applying them.
    pub dry_run: bool,
}

/// `POST /sweeps/:pass/approve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovePlan {
    /// Id or unique id prefix of the plan.
    pub plan_id: String,
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

/// `POST /workspaces/:id/exec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CreateExec {
    /// The command followed by its arguments.
    pub command: Vec<String>,
    /// Whether to allocate a terminal.
    pub tty: bool,
    /// Whether standard input is connected.
    pub stdin: bool,
    /// Environment variables to add.
    pub env: BTreeMap<String, String>,
    /// User inside the container; absent: the agent's user.
    pub user: Option<String>,
}

/// Response to `POST /workspaces/:id/exec`.
///
/// `POST /exec/:id/start?tty=…&stays=…` then upgrades the connection (`Upgrade: tcp`, 101) to the command's stream.
/// With a terminal the stream is raw. Otherwise it consists of frames: an 8-byte header (stream 1 or 2, three zero
/// bytes, big-endian length) followed by as many bytes of output. With `stays=true` the client declares that it keeps
/// its sending side open until it disconnects. ostler then ends the command when the client disconnects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedExec {
    /// Id of the command.
    pub id: String,
}

/// `POST /exec/:id/resize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeExec {
    /// Width in characters.
    pub columns: u16,
    /// Height in lines.
    pub rows: u16,
}

/// `GET /exec/:id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStatus {
    /// Exit code; null while the command runs.
    pub exit_code: Option<i32>,
}

/// Response to `GET /doctor` and to `POST /doctor/{accept-engine,accept-copy}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorReport {
    /// One entry for each check that ran.
    pub checks: Vec<Check>,
}

/// One check of the doctor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Name of the check, such as `engine`.
    pub name: String,
    /// `ok`, `warn` or `fail`.
    pub verdict: String,
    /// What the check found.
    pub found: String,
    /// What to do about it, if anything.
    pub advice: Option<String>,
}

/// `GET /config`: the configuration in force, and how it differs from the file's current content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningConfig {
    /// The file that the daemon read; null if there was none.
    pub file: Option<PathBuf>,
    /// Every key with the value in force.
    pub settings: Vec<RunningSetting>,
    /// The keys whose value in the file differs from the value in force.
    pub differences: Vec<ConfigDifference>,
    /// Why the file cannot be read or used now. The daemon keeps its values, but would refuse to start with this file.
    pub problem: Option<String>,
}

/// A key of the daemon's configuration and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningSetting {
    /// Name of the key, such as `sweep.unknown_grace`.
    pub key: String,
    /// The value in TOML syntax, without the values of environment variables; null if unset.
    pub value: Option<String>,
}

/// A key whose value in the file differs from the value in the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDifference {
    /// Name of the key, such as `sweep.unknown_grace`; `runtimes.NAME` if the runtime exists only in the daemon or only
    /// in the file.
    pub key: String,
    /// Value in the daemon in TOML syntax; null if unset. Values of environment variables are hidden, so `running` and
    /// `configured` may look equal.
    pub running: Option<String>,
    /// Value in the file, or the default if the file does not set the key.
    pub configured: Option<String>,
    /// The action after which the value in the file takes effect: `reload` or `restart`.
    pub applied_by: String,
}

/// Response to `POST /reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The file that was read; null if there is none.
    pub file: Option<PathBuf>,
    /// Keys that were applied, with the old value (`running`) and the new one (`configured`).
    pub applied: Vec<ConfigDifference>,
    /// Keys that take effect only after a restart of the daemon.
    pub waiting: Vec<ConfigDifference>,
}

/// Response to `GET /ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Always `ready`.
    pub status: String,
    /// Whether the registry was lost or restored, so that unknown containers are kept until an operator decides about
    /// them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovering: bool,
}

/// Response to `GET /health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
    /// Identifies this registry: constant for the lifetime of a data directory, and not secret.
    pub registry: String,
    /// Version of the daemon; only for admins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Process id of the daemon; only for admins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}
