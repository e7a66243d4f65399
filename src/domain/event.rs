//! Events: what happened, each written in the transaction of the change it tells of.

use serde::{Deserialize, Serialize};

use super::{ids::WorkspaceId, time::Timestamp};

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// What an event tells. The words are part of the wire protocol (§9) or ostler's own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum EventKind { $($(#[$doc])* $variant,)* }

        impl EventKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stored and sent form.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

event_kinds! {
    /// Being created or started.
    Provisioning = "WORKSPACE_PROVISIONING",
    /// Came online.
    Online = "WORKSPACE_ONLINE",
    /// External, waiting for its agent.
    AwaitingAgent = "WORKSPACE_AWAITING_AGENT",
    /// Its container is gone or ended.
    Offline = "WORKSPACE_OFFLINE",
    /// Up but unwell.
    Degraded = "WORKSPACE_DEGRADED",
    /// A start failed.
    ProvisionFailed = "WORKSPACE_PROVISION_FAILED",
    /// Given up after too many restarts.
    Parked = "WORKSPACE_PARKED",
    /// Paused.
    Paused = "WORKSPACE_PAUSED",
    /// Busy, and nothing has come of it for a while.
    Wedged = "WORKSPACE_WEDGED",
    /// Silent for so long that it is started anew.
    RestartedSilent = "WORKSPACE_RESTARTED_SILENT",
    /// What may be changed of a row was changed.
    Updated = "WORKSPACE_UPDATED",
    /// An agent sent another card.
    CardUpdated = "AGENT_CARD_UPDATED",
    /// Fields that an agent sent could not be used.
    FieldsRefused = "AGENT_FIELDS_REFUSED",
    /// Requests of an agent are refused, several in a row.
    RequestsRefused = "AGENT_REQUESTS_REFUSED",
    /// A beat. Told to whoever listens, never stored.
    Heartbeat = "WORKSPACE_HEARTBEAT",
    /// An agent began or ended a task. Told to whoever listens, never stored.
    TaskUpdated = "TASK_UPDATED",
    /// A notice of an agent to its user. Sent to those who follow events; stored as activity.
    AgentMessage = "AGENT_MESSAGE",
    /// Going to sleep.
    Hibernating = "WORKSPACE_HIBERNATING",
    /// Asleep.
    Hibernated = "WORKSPACE_HIBERNATED",
    /// Removed.
    Removed = "WORKSPACE_REMOVED",
    /// A removal was taken back.
    Undeleted = "WORKSPACE_UNDELETED",
    /// A row was rebuilt from a container's labels.
    Adopted = "WORKSPACE_ADOPTED",
    /// A new incarnation began without a change of status.
    StartedAnew = "WORKSPACE_STARTED_ANEW",
    /// Its container could not be stopped, and will be again.
    StopFailed = "CONTAINER_STOP_FAILED",
    /// A container that must not run was stopped.
    ContainerStopped = "CONTAINER_STOPPED",
    /// Container or volumes claimed for the trash.
    ContainerReaped = "CONTAINER_REAPED",
    /// They lie in the trash now.
    TrashKept = "TRASH_KEPT",
    /// They were brought back.
    TrashRestored = "TRASH_RESTORED",
    /// They were deleted for good.
    TrashDeleted = "TRASH_DELETED",
    /// An api token was issued.
    TokenIssued = "TOKEN_ISSUED",
    /// A person revoked a token.
    TokenRevoked = "TOKEN_REVOKED",
    /// An admin token was issued.
    AdminTokenIssued = "ADMIN_TOKEN_ISSUED",
    /// An admin token was revoked.
    AdminTokenRevoked = "ADMIN_TOKEN_REVOKED",
    /// A sweep revoked stale instance tokens.
    TokensRevoked = "TOKENS_REVOKED",
    /// The breaker held a plan.
    SweepHeld = "SWEEP_HELD",
    /// A person approved a held plan.
    SweepApproved = "SWEEP_APPROVED",
    /// The registry was found lost or restored: unknown things are held.
    RegistryRecovering = "REGISTRY_RECOVERING",
    /// Everything unknown has been decided upon.
    RegistrySettled = "REGISTRY_SETTLED",
    /// An engine was accepted as ours.
    EngineAccepted = "ENGINE_ACCEPTED",
}

/// An event as it is stored and sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the one sequence of all events.
    pub id: i64,
    /// What it tells, see [`EventKind`].
    pub event_type: String,
    /// Whom it concerns.
    pub workspace_id: Option<WorkspaceId>,
    /// The particulars. Never holds a secret.
    pub payload: serde_json::Value,
    /// When.
    pub created_at: Timestamp,
}

/// Something that is told to whoever listens and not stored: it has no place in the sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passing {
    /// What it tells.
    pub kind: EventKind,
    /// Whom it concerns.
    pub workspace_id: WorkspaceId,
    /// The particulars. Never holds a secret.
    pub payload: serde_json::Value,
    /// When.
    pub created_at: Timestamp,
}
