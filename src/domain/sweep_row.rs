//! The rows that sweep passes decide on, as the store reads them.

use std::collections::HashMap;

use crate::domain::{
    ids::{ContainerId, Incarnation, WorkspaceId},
    status::Status,
    time::Timestamp,
    workspace::Kind,
};

/// The columns of a workspace row that sweeps decide on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepRow {
    /// Never reused by another workspace.
    pub id: WorkspaceId,
    /// Unique among live workspaces.
    pub name: String,
    /// Status stored in the row.
    pub status: Status,
    /// Current container according to the row; `None` for external workspaces and before the first start.
    pub container: Option<ContainerId>,
    /// Number of starts. If it has changed since planning, the workspace was restarted and the action is not applied.
    pub incarnation: Incarnation,
    /// Time of the last status change.
    pub status_since: Timestamp,
    /// Name of its runtime in the configuration.
    pub runtime: String,
}

/// A workspace that has no container in a listing, and whose instance tokens are older than the grace period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleCandidate {
    /// Workspace that owns the tokens.
    pub workspace: WorkspaceId,
    /// Name of that workspace.
    pub name: String,
    /// Status of that workspace.
    pub status: String,
    /// Creation time of the token.
    pub token_created_at: Timestamp,
    /// Last use of the token; `None` if it was never used.
    pub token_used_at: Option<Timestamp>,
}

/// An online or degraded row whose last heartbeat is not recent, or is far in the future because the clock was set
/// back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuietRow {
    /// The workspace row.
    pub row: SweepRow,
    /// Container or external.
    pub kind: Kind,
    /// Time of its last heartbeat.
    pub heartbeat_at: Option<Timestamp>,
    /// Number of active tasks in its last heartbeat.
    pub active_tasks: u32,
    /// Time of its last activity.
    pub active_at: Option<Timestamp>,
    /// Time at which it was flagged as wedged; `None` if it is not flagged.
    pub wedged_since: Option<Timestamp>,
    /// Whether the operator allows a restart when it is wedged.
    pub restart_when_wedged: bool,
}

/// An online or degraded row with a hibernation policy and without active tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdleRow {
    /// The workspace row.
    pub row: SweepRow,
    /// Minutes of idleness before it hibernates.
    pub idle_minutes: u32,
    /// Time of its last activity.
    pub active_at: Option<Timestamp>,
    /// Start of the current up-period. Idle time before it does not count: a workspace that was just woken must not
    /// hibernate again at once.
    pub online_since: Option<Timestamp>,
}

/// The pending restarts in the store, from one query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestartsDue {
    /// Offline rows whose restart is due, with the due time, the earliest first.
    pub rows: Vec<(SweepRow, Timestamp)>,
    /// Due time of the next restart that is not due yet.
    pub next_at: Option<Timestamp>,
}

pub(crate) fn by_id(rows: &[SweepRow]) -> HashMap<WorkspaceId, &SweepRow> {
    rows.iter().map(|row| (row.id, row)).collect()
}
