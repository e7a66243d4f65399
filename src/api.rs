//! Requests and answers, shared by the CLI and the HTTP server.
//!
//! These types are the contract of `--json` and of the admin routes: plain data with public fields,
//! ids and times as text, and nothing of the layers that fill them. A field is never renamed or taken
//! away; the snapshot tests hold it to that.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// The body of every error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What happened, why, and what to do next.
    pub error: String,
}

/// `POST /workspaces`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CreateWorkspace {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The runtime's name; `plain` where none is given. `external` makes an external workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The image; the runtime's where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The command in place of the image's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// 1 to 4; 2 where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<u8>,
    /// The id, unique id prefix or name of the workspace above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// Whether its agent runs elsewhere.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
    /// Where an external agent is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A host directory bound at `/workspace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_dir: Option<String>,
    /// `read_only` or `read_write`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_access: Option<String>,
    /// Environment of its container.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The text of `/configs/config.yaml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// It is put to sleep after so many idle minutes; never where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hibernation_idle_minutes: Option<u32>,
    /// How many tasks its agent takes on at once, for peers to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_tasks: Option<u32>,
    /// Whether it is started anew when it is busy and nothing comes of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restart_when_wedged: bool,
    /// `push` or `poll`: whether messages are sent to an external agent, or wait until it polls them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_mode: Option<String>,
}

/// `PATCH /workspaces/:id`: what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PatchWorkspace {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for; empty or null for nothing.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "null_is_empty")]
    pub role: Option<String>,
    /// 1 to 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<u8>,
    /// The id, unique id prefix or name of the workspace above it; empty or null makes it a root.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "null_is_empty")]
    pub parent_id: Option<String>,
    /// The runtime's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The command; empty for the runtime's or the image's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Variables of its environment to set; null removes one. Others stay.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Option<String>>,
    /// Another host directory at `/workspace`, where there is one already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_dir: Option<String>,
    /// `read_only` or `read_write`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_access: Option<String>,
    /// The text of `/configs/config.yaml`: the next start writes it over the one that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Where an external agent is reached; empty for nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// It is put to sleep after so many idle minutes; 0 for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hibernation_idle_minutes: Option<u32>,
    /// How many tasks its agent takes on at once; 0 for unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_tasks: Option<u32>,
    /// Whether it is started anew when it is busy and nothing comes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_when_wedged: Option<bool>,
}

/// Null where a key is there and absent is something else: clients of the field make a root by `"parent_id": null`.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|text| Some(text.unwrap_or_default()))
}

/// `PATCH /workspaces/:id`, answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patched {
    /// `updated`.
    pub status: String,
    /// Whether its process has to be started anew for it to take effect.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_restart: bool,
    /// Whether its container has to be made anew for it to take effect.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_recreate: bool,
    /// What of it does not work as asked, or not as expected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Keys of the request that ostler does not know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
}

/// `GET /registry/discover/:id`, answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovered {
    /// Its id.
    pub id: String,
    /// Where the asker reaches it: through ostler.
    pub url: String,
    /// Its name.
    pub name: String,
}

/// A workspace in `GET /registry/:id/peers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Option<String>,
    /// 1 to 4.
    pub tier: u8,
    /// `provisioning`, `online`, …
    pub status: String,
    /// Where the asker reaches it: through ostler.
    pub url: String,
    /// The id of the workspace above it.
    pub parent_id: Option<String>,
    /// How many tasks it works on.
    pub active_tasks: u32,
    /// What its agent says of itself.
    pub agent_card: Option<serde_json::Value>,
}

/// `POST /registry/check-access`, answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessAnswer {
    /// Whether the two may talk to each other.
    pub allowed: bool,
}

/// `GET /workspaces/:id/state`, answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateView {
    /// Its id.
    pub workspace_id: String,
    /// `provisioning`, `online`, …
    pub status: String,
    /// Whether it is paused.
    pub paused: bool,
    /// `false`.
    pub deleted: bool,
}

/// `GET /workspaces/:id/state`, answered for one that is removed or never was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneView {
    /// Its id.
    pub workspace_id: String,
    /// `true`.
    pub deleted: bool,
}

/// A row in `GET /workspaces/:id/activity`, in the shape that clients of the field read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActivityView {
    /// Its id: the cursor for `since_id`.
    pub id: String,
    /// Workspace that it is listed under.
    pub workspace_id: String,
    /// `a2a_receive`, `a2a_send`, `task_update`, …
    pub activity_type: String,
    /// Workspace that sent it; null for a user.
    pub source_id: Option<String>,
    /// Where it went.
    pub target_id: Option<String>,
    /// The method of the message; `notify` for a notice of the agent to its user.
    pub method: Option<String>,
    /// One line about it.
    pub summary: Option<String>,
    /// The message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_body: Option<Box<serde_json::value::RawValue>>,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_body: Option<Box<serde_json::value::RawValue>>,
    /// How long it took, in milliseconds.
    pub duration_ms: Option<i64>,
    /// `ok`, `error`, or the agent's own word.
    pub status: String,
    /// Why it failed.
    pub error_detail: Option<String>,
    /// When, RFC 3339.
    pub created_at: String,
    /// Its place among all rows: what `ack` takes.
    pub seq: i64,
    /// Sender and text of a message that the proxy passed on or stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<ActivityData>,
}

/// Sender and text of a message, for clients that do not read the message itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityData {
    /// `canvas_user` or `peer_agent`.
    pub source: String,
    /// Its text parts.
    pub text: String,
}

/// `POST /admin/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssueAdminToken {
    /// What it is for.
    pub name: String,
    /// How long it is valid, in seconds; for ever where none is given.
    pub expires_in_seconds: Option<u64>,
}

/// `POST /admin/tokens`, answered. Shown this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedAdminToken {
    /// The token.
    pub auth_token: String,
    /// What it is for.
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
    /// The row's id, by which it is revoked.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// The token's first characters.
    pub prefix: String,
    /// When it was issued, RFC 3339.
    pub created_at: String,
    /// From when on it is invalid, RFC 3339.
    pub expires_at: Option<String>,
}

/// A workspace, in lists and alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the contract")]
pub struct WorkspaceView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Option<String>,
    /// 1 to 4.
    pub tier: u8,
    /// `provisioning`, `online`, …
    pub status: String,
    /// Of a failed one: `provision_timeout`, `start_error` or `parked`.
    pub failure: Option<String>,
    /// Why it is in this status, where there is something to say.
    pub status_detail: Option<String>,
    /// Since when, RFC 3339.
    pub status_since: String,
    /// Where it is reached.
    pub url: Option<String>,
    /// The id of the workspace above it.
    pub parent_id: Option<String>,
    /// The runtime's name.
    pub runtime: String,
    /// Whether its agent runs elsewhere.
    pub external: bool,
    /// The image.
    pub image: Option<String>,
    /// How often it was started.
    pub incarnation: u32,
    /// The engine's id of its container.
    pub container_id: Option<String>,
    /// The port of 127.0.0.1 its container publishes.
    pub host_port: Option<u16>,
    /// Whether its container was made from something else than its row says now: `recreate` applies it.
    pub drifted: bool,
    /// What ostler is doing with it right now, such as `start: pulling image …`.
    pub operation: Option<String>,
    /// When it was created, RFC 3339.
    pub created_at: String,
    /// When it was removed, RFC 3339.
    pub removed_at: Option<String>,
    /// How many tasks it works on.
    pub active_tasks: u32,
    /// How many it takes on at once, where it is known.
    pub max_concurrent_tasks: Option<u32>,
    /// The share of its recent requests that failed.
    pub last_error_rate: f64,
    /// One of its recent errors; nobody but itself and an admin is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sample_error: Option<String>,
    /// For how long its agent has been up, in seconds.
    pub uptime_seconds: i64,
    /// What it works on; nobody but itself and an admin is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_task: Option<String>,
    /// What its agent has spent this month, in cents.
    pub monthly_spend: i64,
    /// Its agent's own word for how it is.
    pub runtime_state: String,
    /// What its agent says of itself.
    pub agent_card: Option<serde_json::Value>,
    /// When its agent was last heard, RFC 3339.
    pub last_heartbeat_at: Option<String>,
    /// When something last happened there, RFC 3339.
    pub last_activity_at: Option<String>,
    /// Since when it is flagged as busy without result, RFC 3339.
    pub wedged_since: Option<String>,
    /// Fields that its agent last sent and that could not be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields_refused: Vec<String>,
    /// When it is started again, where it is offline, RFC 3339.
    pub restart_due_at: Option<String>,
    /// It is put to sleep after so many idle minutes.
    pub hibernation_idle_minutes: Option<u32>,
    /// Whether it is started anew when it is busy and nothing comes of it.
    pub restart_when_wedged: bool,
    /// Why messages to it fail although it is up, where that can be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_note: Option<String>,
    /// Which limits of its container do not hold on this host. This and the six below: of one workspace, for admins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits_note: Option<String>,
    /// The command in place of the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The names of its environment variables; values may be secrets and are never shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_names: Vec<String>,
    /// The directory of this machine at /workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_dir: Option<String>,
    /// `read_only` where it may only be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_access: Option<String>,
    /// Whether the next start writes that text over the file that is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub config_pending: bool,
    /// How long the text for /configs/config.yaml is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_bytes: Option<usize>,
    /// `poll` where messages wait until its agent polls them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_mode: Option<String>,
}

/// What came of an order: `POST /workspaces/:id/{start,stop,restart,recreate,undelete}`, and of create.
///
/// Orders are carried out whether or not the client stays: with `?wait=false` the answer comes as soon as the order is
/// queued, or is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderOutcome {
    /// The workspace's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The status the row really has afterwards.
    pub status: String,
    /// What there is to say about it, such as why it failed and what to do next.
    pub detail: Option<String>,
    /// The workspaces below it that the order was for too, and what came of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub along: Vec<AffectedView>,
    /// Whether the order is only queued, because nobody waits: the status is the one of before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
}

/// What came of an order for a workspace below the one it was given for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffectedView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The status the row really has afterwards.
    pub status: String,
    /// What there is to say about it.
    pub detail: Option<String>,
    /// Whether it could not be done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}

/// `POST /workspaces`, answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedWorkspace {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its status.
    pub status: String,
    /// `true` for an external one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
    /// How an external agent connects; holds its token, shown this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// What does not work as asked on this machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Keys of the request that ostler does not know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
}

/// How an external agent connects.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its id.
    pub workspace_id: String,
    /// Where ostler is reached.
    pub platform_url: String,
    /// Its token.
    pub auth_token: String,
    /// Where it registers.
    pub registry_endpoint: String,
    /// Where it beats.
    pub heartbeat_endpoint: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection to {} [token redacted]", self.platform_url)
    }
}

/// `DELETE /workspaces/:id[?confirm=true]`, answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveOutcome {
    /// `removed`, or `confirmation_required` when there are children.
    pub status: String,
    /// How many below it were removed too.
    #[serde(default)]
    pub cascade_deleted: usize,
    /// What is not done yet, while the engine gives no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether what it owned is deleted for good by now, where that was ordered (`?purge=true`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<bool>,
    /// Why it is not; ostler goes on trying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_error: Option<String>,
    /// The children that would go too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Child>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub children_count: usize,
}

/// A child in a [`RemoveOutcome`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// `POST /workspaces/:id/undelete`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Undelete {
    /// The name to come back under, where the old one is taken.
    pub name: Option<String>,
    /// Leave removed what the same removal took along from below it.
    pub only: bool,
}

/// `POST /workspaces/:id/start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Start {
    /// Make a new, empty work volume where the old one is gone.
    pub new_volume: bool,
}

/// A token in `GET /workspaces/:id/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// The row's id, by which it is revoked.
    pub id: String,
    /// The token's first characters.
    pub prefix: String,
    /// `instance` or `api`.
    pub kind: String,
    /// When it was issued, RFC 3339.
    pub created_at: String,
    /// When it was last used, RFC 3339.
    pub last_used_at: Option<String>,
    /// From when on it is invalid, RFC 3339.
    pub expires_at: Option<String>,
}

/// `GET /workspaces/:id/tokens`: the live ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenList {
    /// The tokens.
    pub tokens: Vec<TokenView>,
    /// How many.
    pub count: usize,
}

/// `POST /workspaces/:id/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssueToken {
    /// How long it is valid, in seconds; for ever where none is given.
    pub expires_in_seconds: Option<u64>,
}

/// `POST /workspaces/:id/tokens`, answered. Shown this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// The token.
    pub auth_token: String,
    /// Whom it speaks for.
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
    /// Its id.
    pub id: String,
    /// Whose things these were.
    pub workspace_id: String,
    /// What it was called.
    pub workspace_name: String,
    /// `removed`, `unknown`, `stray` or `replaced`.
    pub reason: String,
    /// What that was decided on.
    pub evidence: String,
    /// The engine's id of the container.
    pub container_id: Option<String>,
    /// Names of the volumes.
    pub volumes: Vec<String>,
    /// What it costs in disk, in bytes, where the engine says so.
    pub size_bytes: Option<u64>,
    /// `claimed`, `kept`, `restoring` or `deleting`.
    pub state: String,
    /// When it was put there, RFC 3339.
    pub created_at: String,
    /// Until when it is kept, RFC 3339.
    pub keep_until: String,
}

/// `POST /trash/empty`: entries to delete for good; all of them where none is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmptyTrash {
    /// Ids or unique id prefixes of entries, or names of workspaces.
    pub entries: Vec<String>,
}

/// What came of `POST /trash/empty` and `POST /trash/:id/restore`, per entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashOutcome {
    /// The entry's id.
    pub id: String,
    /// Whose things these were.
    pub workspace_name: String,
    /// Whether it was done.
    pub done: bool,
    /// What was done, or why not.
    pub detail: String,
}

/// `POST /adopt`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adopt {
    /// Names, workspace ids or unique id prefixes of unknown things; with none and `all`, every one.
    pub which: Vec<String>,
    /// Adopt everything unknown. Ends the recovery, unless something with a container could not be adopted.
    pub all: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Take over the labels of this instance, into an empty registry.
    pub instance: Option<String>,
}

/// What came of an adoption.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptOutcome {
    /// What was, or would be, adopted, and what could not be.
    pub items: Vec<AdoptItem>,
    /// Whether the registry is still recovering: unknown things are held until decided upon.
    pub recovering: bool,
}

/// One unknown workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptItem {
    /// The workspace's id, from the labels.
    pub workspace_id: String,
    /// Its name, from the labels.
    pub name: String,
    /// The engine's id of the container.
    pub container_id: Option<String>,
    /// Names of its volumes.
    pub volumes: Vec<String>,
    /// Whether it was adopted (or would be).
    pub adopted: bool,
    /// What was done and what could not be rebuilt.
    pub detail: String,
}

/// A pass in `GET /sweeps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassView {
    /// Its name.
    pub name: String,
    /// What it does, in a line.
    pub summary: String,
    /// How often, in seconds.
    pub period_seconds: u64,
    /// Whether it runs now.
    pub running: bool,
    /// The last run, if there was one.
    pub last: Option<PassRun>,
    /// The plan that waits for approval, if any.
    pub held: Option<HeldPlan>,
}

/// One run of a pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassRun {
    /// The pass.
    pub pass: String,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// `done`, `dry_run`, `held`, `untrusted` (no listing to act on), `failed`, `timed_out` or `panicked`.
    pub outcome: String,
    /// Why, where there is something to say.
    pub detail: Option<String>,
    /// What was planned, and what came of each.
    pub actions: Vec<ActionView>,
    /// What is being watched and will be acted on if it stays so.
    pub watching: Vec<String>,
    /// How many actions were left for the next run.
    pub left_over: usize,
}

/// One planned action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionView {
    /// What is done to what, such as `put container 6f1c0c5e0d0f into the trash`.
    pub action: String,
    /// The workspace's name or id.
    pub workspace: String,
    /// What it was decided on.
    pub evidence: String,
    /// `planned`, `applied`, `raced` (the row changed meanwhile: skipped), `failed`, `held`.
    pub result: String,
    /// Why, where there is something to say.
    pub detail: Option<String>,
}

/// A plan the breaker held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPlan {
    /// Its id, for `ostler sweep approve`.
    pub id: String,
    /// The pass.
    pub pass: String,
    /// Why it was held.
    pub reason: String,
    /// When, RFC 3339.
    pub held_at: String,
    /// Exactly what approving it allows.
    pub actions: Vec<ActionView>,
}

/// `POST /sweeps/run`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSweeps {
    /// Names of passes; every one where none is given.
    pub passes: Vec<String>,
    /// Only plan.
    pub dry_run: bool,
}

/// `POST /sweeps/:pass/approve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovePlan {
    /// The plan's id or unique id prefix.
    pub plan_id: String,
}

/// The first thing on a stream of events whose client has seen events that the registry does not have: it was restored
/// from an older copy, and the sequence goes on from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsReset {
    /// Always true.
    pub reset: bool,
    /// The newest event there is.
    pub last_event_id: i64,
}

/// An event, in `GET /events`, `GET /events/:workspaceId` and the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// Its sequence number.
    pub id: i64,
    /// `WORKSPACE_ONLINE`, …
    pub event_type: String,
    /// Whom it concerns.
    pub workspace_id: Option<String>,
    /// The particulars.
    pub payload: serde_json::Value,
    /// When, RFC 3339.
    pub created_at: String,
}

/// Something that `GET /events/stream` tells in passing: it is not stored, and has no id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassingView {
    /// What: `WORKSPACE_HEARTBEAT`, `TASK_UPDATED`.
    pub event_type: String,
    /// Whom it concerns.
    pub workspace_id: String,
    /// The particulars.
    pub payload: serde_json::Value,
    /// When.
    pub created_at: String,
}

/// `POST /workspaces/:id/exec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CreateExec {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether its input is connected.
    pub stdin: bool,
    /// Added to its environment.
    pub env: BTreeMap<String, String>,
    /// Who it runs as, where not the agent.
    pub user: Option<String>,
}

/// `POST /workspaces/:id/exec`, answered. `POST /exec/:id/start?tty=…&stays=…` then upgrades the connection
/// (`Upgrade: tcp`, 101) to the command's stream: raw with a terminal, otherwise in frames of an
/// 8-byte header (stream 1 or 2, three zero bytes, length big-endian) and bytes. With `stays=true` the client keeps its
/// side open until it leaves, and the command is ended when it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedExec {
    /// The command's id.
    pub id: String,
}

/// `POST /exec/:id/resize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeExec {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// `GET /exec/:id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStatus {
    /// The code it ended with; none while it runs.
    pub exit_code: Option<i32>,
}

/// `GET /doctor`, and `POST /doctor/{accept-engine,accept-copy}` answer with one too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorReport {
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// One thing the doctor looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What, such as `engine`.
    pub name: String,
    /// `ok`, `warn` or `fail`.
    pub verdict: String,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// `GET /config`: the daemon's configuration, and how the one that it would read now differs from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningConfig {
    /// The file that the daemon has read; null if there was none.
    pub file: Option<PathBuf>,
    /// Every key with the value in force.
    pub settings: Vec<RunningSetting>,
    /// The keys that differ.
    pub differences: Vec<ConfigDifference>,
    /// Why the file cannot be read or used now. The daemon keeps the values it has, and would not start with the file.
    pub problem: Option<String>,
}

/// A key of the daemon's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningSetting {
    /// Such as `sweep.unknown_grace`.
    pub key: String,
    /// As written in TOML, without the values of environment variables; null where nothing is set.
    pub value: Option<String>,
}

/// A key that has another value in the file than in the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDifference {
    /// Such as `sweep.unknown_grace`; `runtimes.NAME` for a runtime that only one of them has.
    pub key: String,
    /// In the daemon, as written in TOML; null where nothing is set. The values of environment variables are not
    /// shown, so both may read the same.
    pub running: Option<String>,
    /// In the file, or by its absence the default.
    pub configured: Option<String>,
    /// What applies it: `reload` or `restart`.
    pub applied_by: String,
}

/// `POST /reload`, answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The file that was read; null if there is none.
    pub file: Option<PathBuf>,
    /// What was changed, with the values before (`running`) and from now on (`configured`).
    pub applied: Vec<ConfigDifference>,
    /// What waits for a restart of the daemon.
    pub waiting: Vec<ConfigDifference>,
}

/// `GET /ready`, answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// `ready`.
    pub status: String,
    /// Whether the registry was lost or restored, and what it does not know waits for an operator.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovering: bool,
}

/// `GET /health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// Tells this registry from another one: the same for the life of a data directory, and no secret.
    pub registry: String,
    /// The daemon's version; admins only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The daemon's process id; admins only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}
