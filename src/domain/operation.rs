//! Operations: what an operator, or an agent for itself, has ordered. Each is stored before anything is done.
//!
//! An operation is accepted, carried out by its workspace's worker, and ends. Operations of one workspace are carried
//! out one at a time, in the order in which they were accepted. They survive the end of the process: the next daemon
//! continues the open ones. See `ops/operation.rs`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    ids::{Incarnation, TrashId, WorkspaceId},
    naming::WorkspaceName,
    time::Timestamp,
};

/// Number of an operation. Later operations have higher numbers, and no number is used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationId(pub i64);

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for OperationId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// How often a row was changed: each change of a row of `workspaces` raises its revision by one, except the values that
/// heartbeats change, which are in another table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub i64);

/// What is to be done, with everything that is needed to do it again after a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Command {
    /// Start the container of a new workspace for the first time.
    Create,
    /// Start a workspace and everything that was paused along with it.
    Start {
        /// Whether a new, empty work volume may replace a missing one.
        new_volume: bool,
    },
    /// Stop a workspace and everything below it. The rows are paused already.
    Stop {
        /// The workspaces that were paused, parents first.
        targets: Vec<WorkspaceId>,
    },
    /// Stop the container of a hibernating row.
    Hibernate,
    /// Start a hibernated workspace.
    Wake,
    /// Stop and start a workspace in its container.
    Restart,
    /// Start a workspace in a new container.
    Recreate,
    /// Move what removed workspaces own to the trash. The rows are removed already.
    Remove {
        /// The workspaces that were removed, parents first.
        targets: Vec<WorkspaceId>,
    },
    /// Permanently delete what removed workspaces own. The rows are removed already.
    Purge {
        /// The workspaces that were removed, parents first.
        targets: Vec<WorkspaceId>,
    },
    /// Restore what undeleted workspaces owned. The rows are paused already.
    Undelete {
        /// The workspaces of the same removal, parents first.
        targets: Vec<UndeleteTarget>,
    },
    /// Restore a trash entry. The entry is claimed already.
    Restore {
        /// The entry.
        entry: TrashId,
    },
    /// Permanently delete a trash entry.
    Delete {
        /// The entry.
        entry: TrashId,
    },
}

/// A workspace of an undelete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndeleteTarget {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Text for the caller: the summary of its undelete, or why it is still removed.
    pub note: String,
    /// Whether it is still removed.
    pub skipped: bool,
}

impl Command {
    /// Every kind, as [`Self::kind`] returns it.
    pub const KINDS: [&'static str; 12] = [
        "create",
        "start",
        "stop",
        "hibernate",
        "wake",
        "restart",
        "recreate",
        "remove",
        "purge",
        "undelete",
        "restore",
        "delete",
    ];

    /// The kind, as one word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Hibernate => "hibernate",
            Self::Wake => "wake",
            Self::Restart => "restart",
            Self::Recreate => "recreate",
            Self::Remove { .. } => "remove",
            Self::Purge { .. } => "purge",
            Self::Undelete { .. } => "undelete",
            Self::Restore { .. } => "restore",
            Self::Delete { .. } => "delete",
        }
    }

    /// Whether it starts containers.
    #[must_use]
    pub fn starts(&self) -> bool {
        match self {
            Self::Create | Self::Start { .. } | Self::Wake | Self::Restart | Self::Recreate => true,
            Self::Stop { .. }
            | Self::Hibernate
            | Self::Remove { .. }
            | Self::Purge { .. }
            | Self::Undelete { .. }
            | Self::Restore { .. }
            | Self::Delete { .. } => false,
        }
    }

    /// Until when it can be cancelled.
    #[must_use]
    pub fn cancellable(&self) -> Cancellable {
        match self {
            Self::Start { .. } | Self::Wake => Cancellable::UntilStart,
            // Once it runs, it stops the old process before the transaction that could still refuse it.
            Self::Restart | Self::Recreate | Self::Delete { .. } => Cancellable::UntilRunning,
            Self::Create => Cancellable::Never("`ostler rm` removes the new workspace"),
            Self::Stop { .. } => {
                Cancellable::Never("the registry says paused already: `ostler start` starts the workspace")
            }
            Self::Hibernate => {
                Cancellable::Never("the workspace is hibernating: `ostler wake` starts it again")
            }
            Self::Remove { .. } | Self::Purge { .. } => {
                Cancellable::Never("the workspace is removed: `ostler undelete` restores it")
            }
            Self::Undelete { .. } | Self::Restore { .. } => Cancellable::Never(
                "the registry says restored already: wait for its end, then `ostler rm` removes the workspace",
            ),
        }
    }
}

/// Until when an operation can be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancellable {
    /// Until the transaction that begins the start: until then nothing that runs was touched.
    UntilStart,
    /// Until its worker begins to carry it out.
    UntilRunning,
    /// Never, because the rows were changed when it was accepted. Contains what to do instead.
    Never(&'static str),
}

/// State of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationState {
    /// It waits until earlier operations of its workspace have ended.
    Accepted,
    /// Its worker carries it out.
    Running,
    /// Podman gave no answer. It continues when Podman answers.
    Waiting,
    /// It was carried out.
    Done,
    /// It was pointless when it was carried out: nothing was done.
    Skipped,
    /// It could not be carried out.
    Failed,
    /// An operator, or a later operation, cancelled it before it did anything.
    Cancelled,
}

impl OperationState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Running,
        Self::Waiting,
        Self::Done,
        Self::Skipped,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The form in the database and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Accepted | Self::Running | Self::Waiting)
    }
}

/// On whose order something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requester {
    /// A user with an admin token, or the owner of the daemon's socket.
    Operator,
    /// The agent of this workspace.
    Agent(WorkspaceId),
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::Agent(workspace) => write!(f, "agent:{workspace}"),
        }
    }
}

impl Requester {
    /// Parses the form that `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None => (text == "operator").then_some(Self::Operator),
            Some(("agent", workspace)) => workspace.parse().ok().map(Self::Agent),
            Some(_) => None,
        }
    }
}

/// An operation as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its number.
    pub id: OperationId,
    /// The workspace that the order named.
    pub workspace: WorkspaceId,
    /// The workspace's name when the operation was accepted.
    pub workspace_name: WorkspaceName,
    /// What is done.
    pub command: Command,
    /// On whose order.
    pub requested_by: Requester,
    /// Revision of the workspace's row when the operation was accepted.
    pub revision: Revision,
    /// State.
    pub state: OperationState,
    /// What it waits for, or its result; `None` while there is neither.
    pub detail: Option<String>,
    /// Whether its worker is to abandon it.
    pub cancel_requested: bool,
    /// Whether it has begun to start its workspace or one below it.
    pub begun: bool,
    /// The incarnation that it has begun. After a crash, a start that has begun is not begun again.
    pub incarnation: Option<Incarnation>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its worker began to carry it out for the first time.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_kind_is_the_tag_of_its_stored_form() {
        let (targets, entry) = (Vec::new(), TrashId(uuid::Uuid::nil()));
        let all = [
            Command::Create,
            Command::Start { new_volume: true },
            Command::Stop { targets: targets.clone() },
            Command::Hibernate,
            Command::Wake,
            Command::Restart,
            Command::Recreate,
            Command::Remove { targets: targets.clone() },
            Command::Purge { targets },
            Command::Undelete { targets: Vec::new() },
            Command::Restore { entry },
            Command::Delete { entry },
        ];
        assert_eq!(all.each_ref().map(Command::kind), Command::KINDS);
        for command in all {
            let stored = serde_json::to_value(&command).unwrap();
            assert_eq!(stored["kind"], command.kind());
            assert_eq!(serde_json::from_value::<Command>(stored).unwrap(), command);
        }
    }

    #[test]
    fn requester_is_parsed_from_its_text() {
        for requester in [Requester::Operator, Requester::Agent(WorkspaceId(uuid::Uuid::max()))] {
            assert_eq!(Requester::parse(&requester.to_string()), Some(requester));
        }
        for unknown in ["", "agent", "agent:x", "operator:", "root"] {
            assert_eq!(Requester::parse(unknown), None, "{unknown}");
        }
    }
}
