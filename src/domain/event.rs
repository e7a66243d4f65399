//! Events: each is written in the transaction of the change that it reports.

use serde::{Deserialize, Serialize};

use super::{ids::WorkspaceId, time::Timestamp};

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// Kind of an event. Its word is defined by the wire protocol (§9) or by ostler.
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
    /// A workspace is being created or started.
    Provisioning = "WORKSPACE_PROVISIONING",
    /// A workspace became online.
    Online = "WORKSPACE_ONLINE",
    /// An external workspace awaits its agent.
    AwaitingAgent = "WORKSPACE_AWAITING_AGENT",
    /// The container of a workspace is gone or has exited.
    Offline = "WORKSPACE_OFFLINE",
    /// A workspace is up, but its agent reports errors, is stalled or misses heartbeats.
    Degraded = "WORKSPACE_DEGRADED",
    /// A start failed.
    ProvisionFailed = "WORKSPACE_PROVISION_FAILED",
    /// A workspace is not restarted any more, because its restart budget is used up.
    Parked = "WORKSPACE_PARKED",
    /// A workspace was paused.
    Paused = "WORKSPACE_PAUSED",
    /// The agent of a workspace is busy, but makes no progress.
    Wedged = "WORKSPACE_WEDGED",
    /// A workspace was restarted after missing heartbeats, or because its agent made no progress.
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
    /// A workspace hibernates: its container is being stopped.
    Hibernating = "WORKSPACE_HIBERNATING",
    /// The container of a hibernating workspace was stopped.
    Hibernated = "WORKSPACE_HIBERNATED",
    /// A workspace was removed.
    Removed = "WORKSPACE_REMOVED",
    /// A removal was undone.
    Undeleted = "WORKSPACE_UNDELETED",
    /// A row was rebuilt from a container's labels.
    Adopted = "WORKSPACE_ADOPTED",
    /// A new incarnation began without a change of status.
    Started = "WORKSPACE_STARTED",
    /// A container could not be stopped; the stop will be retried.
    StopFailed = "CONTAINER_STOP_FAILED",
    /// A container that must not run was stopped.
    ContainerStopped = "CONTAINER_STOPPED",
    /// A move of a container or volumes to the trash began.
    ContainerReaped = "CONTAINER_REAPED",
    /// A move to the trash is complete.
    TrashKept = "TRASH_KEPT",
    /// A container or volumes were restored from the trash.
    TrashRestored = "TRASH_RESTORED",
    /// The permanent deletion of a trash entry began or is complete.
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
    /// The registry was lost or restored from a backup. Sweeps start, stop and delete nothing until an operator has
    /// decided what to do.
    RegistryRecovering = "REGISTRY_RECOVERING",
    /// The registry is no longer recovering.
    RegistrySettled = "REGISTRY_SETTLED",
    /// An operation was accepted; nothing was done yet.
    OperationAccepted = "OPERATION_ACCEPTED",
    /// An operation waits until Podman answers.
    OperationWaiting = "OPERATION_WAITING",
    /// An operation ended.
    OperationEnded = "OPERATION_ENDED",
    /// An engine was accepted as belonging to this instance.
    EngineAccepted = "ENGINE_ACCEPTED",
}

/// An event as stored and sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Number of the event. All events of an instance are numbered in one sequence.
    pub id: i64,
    /// Word of its [`EventKind`].
    pub event_type: String,
    /// Workspace that the event is about; `None` if it is about the whole instance.
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
    /// Workspace that the event is about.
    pub workspace_id: WorkspaceId,
    /// Details. Never contains a secret.
    pub payload: serde_json::Value,
    /// Time of the event.
    pub created_at: Timestamp,
}
