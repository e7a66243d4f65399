//! Events: each is written in the transaction of the change that it reports.

use serde::{Deserialize, Serialize};

use super::{ids::WorkspaceId, time::Timestamp};

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// Kind of an event. The words are part of the wire protocol (§9) or defined by ostler.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum EventKind { $($(#[$doc])* $variant,)* }

        impl EventKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The form in the database and on the wire.
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
    /// Became online.
    Online = "WORKSPACE_ONLINE",
    /// External, awaiting its agent.
    AwaitingAgent = "WORKSPACE_AWAITING_AGENT",
    /// Its container is gone or has exited.
    Offline = "WORKSPACE_OFFLINE",
    /// Up, but with errors, wedged or without heartbeats.
    Degraded = "WORKSPACE_DEGRADED",
    /// A start failed.
    ProvisionFailed = "WORKSPACE_PROVISION_FAILED",
    /// Not restarted any more because the restart budget is used up.
    Parked = "WORKSPACE_PARKED",
    /// Paused.
    Paused = "WORKSPACE_PAUSED",
    /// Busy without progress for a while.
    Wedged = "WORKSPACE_WEDGED",
    /// Restarted after missing heartbeats.
    RestartedSilent = "WORKSPACE_RESTARTED_SILENT",
    /// An editable field of the row was changed.
    Updated = "WORKSPACE_UPDATED",
    /// An agent sent a different agent card.
    CardUpdated = "AGENT_CARD_UPDATED",
    /// Fields sent by an agent could not be used.
    FieldsRefused = "AGENT_FIELDS_REFUSED",
    /// Several consecutive requests of an agent were refused.
    RequestsRefused = "AGENT_REQUESTS_REFUSED",
    /// A heartbeat. Emitted to subscribers only, never stored.
    Heartbeat = "WORKSPACE_HEARTBEAT",
    /// An agent began or ended a task. Emitted to subscribers only, never stored.
    TaskUpdated = "TASK_UPDATED",
    /// A notice of an agent to its user. Emitted to subscribers, and stored as activity.
    AgentMessage = "AGENT_MESSAGE",
    /// Hibernating: its container is being stopped.
    Hibernating = "WORKSPACE_HIBERNATING",
    /// Hibernated.
    Hibernated = "WORKSPACE_HIBERNATED",
    /// Removed.
    Removed = "WORKSPACE_REMOVED",
    /// A removal was undone.
    Undeleted = "WORKSPACE_UNDELETED",
    /// A row was rebuilt from a container's labels.
    Adopted = "WORKSPACE_ADOPTED",
    /// A new incarnation began without a change of status.
    Started = "WORKSPACE_STARTED",
    /// Its container could not be stopped; the stop will be retried.
    StopFailed = "CONTAINER_STOP_FAILED",
    /// A container that must not run was stopped.
    ContainerStopped = "CONTAINER_STOPPED",
    /// A container or volumes were claimed for the trash.
    ContainerReaped = "CONTAINER_REAPED",
    /// The move to the trash is complete.
    TrashKept = "TRASH_KEPT",
    /// Restored from the trash.
    TrashRestored = "TRASH_RESTORED",
    /// Deleted permanently from the trash.
    TrashDeleted = "TRASH_DELETED",
    /// An api token was issued.
    TokenIssued = "TOKEN_ISSUED",
    /// An operator revoked a token.
    TokenRevoked = "TOKEN_REVOKED",
    /// An admin token was issued.
    AdminTokenIssued = "ADMIN_TOKEN_ISSUED",
    /// An admin token was revoked.
    AdminTokenRevoked = "ADMIN_TOKEN_REVOKED",
    /// A sweep revoked stale instance tokens.
    TokensRevoked = "TOKENS_REVOKED",
    /// The breaker held a plan.
    SweepHeld = "SWEEP_HELD",
    /// An operator approved a held plan.
    SweepApproved = "SWEEP_APPROVED",
    /// The registry was lost or restored from a backup; unknown objects are left alone until they are decided on.
    RegistryRecovering = "REGISTRY_RECOVERING",
    /// Every unknown object has been decided on.
    RegistrySettled = "REGISTRY_SETTLED",
    /// An engine was accepted as belonging to this instance.
    EngineAccepted = "ENGINE_ACCEPTED",
}

/// An event as stored and sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the single sequence of all events.
    pub id: i64,
    /// Word of its [`EventKind`].
    pub event_type: String,
    /// Workspace that it concerns; `None` for the whole instance.
    pub workspace_id: Option<WorkspaceId>,
    /// Details. Never contains a secret.
    pub payload: serde_json::Value,
    /// Time of the change.
    pub created_at: Timestamp,
}

/// A transient event: emitted to subscribers but not stored, so it has no position in the sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransientEvent {
    /// Kind of the event.
    pub kind: EventKind,
    /// Workspace that it concerns.
    pub workspace_id: WorkspaceId,
    /// Details. Never contains a secret.
    pub payload: serde_json::Value,
    /// Time of the event.
    pub created_at: Timestamp,
}
