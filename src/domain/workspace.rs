//! A workspace, as stored in its row.

use serde::{Deserialize, Serialize};

use super::{
    ids::{ContainerId, Incarnation, WorkspaceId},
    naming::WorkspaceName,
    operation::Revision,
    runtime::Tier,
    spec::WorkspaceSpec,
    status::Status,
    time::Timestamp,
};

/// Where a workspace's agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// In a container managed by ostler.
    Container,
    /// Elsewhere; ostler only registers it.
    External,
}

impl Kind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Container, Self::External];

    /// The form in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::External => "external",
        }
    }
}

/// How messages reach an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// ostler sends messages to the agent; the sender receives the agent's answer.
    #[default]
    Push,
    /// ostler stores messages until the agent polls them; the sender gets the answer `queued`.
    Poll,
}

impl Delivery {
    /// Both values.
    pub const ALL: [Self; 2] = [Self::Push, Self::Poll];

    /// The form in the database and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Poll => "poll",
        }
    }

    /// Parses the output of `Delivery::as_str`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|delivery| delivery.as_str() == word)
    }
}

/// A row of the table of workspaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Never reused by another workspace.
    pub id: WorkspaceId,
    /// Unique among workspaces that are not removed.
    pub name: WorkspaceName,
    /// Container or external.
    pub kind: Kind,
    /// Delivery of messages; only an external agent may poll.
    pub delivery: Delivery,
    /// Everything that an operator can change.
    pub spec: WorkspaceSpec,
    /// Current status.
    pub status: Status,
    /// Explanation of the status, if there is one.
    pub status_detail: Option<String>,
    /// Time of the last status change; other changes do not affect it.
    pub status_since: Timestamp,
    /// Number of starts.
    pub incarnation: Incarnation,
    /// Its current container. Any other container of this workspace is moved to the trash by a sweep.
    pub container: Option<ContainerId>,
    /// Serial number in the name of the newest container. Each attempt to create a container uses a new number.
    pub container_serial: u32,
    /// Port of 127.0.0.1 that its container publishes.
    pub host_port: Option<u16>,
    /// Hash of the inputs with which its container was created. If the hash of the present inputs differs, the inputs
    /// have changed since.
    pub container_spec_hash: Option<String>,
    /// Whether the next start must write the configuration of the spec over the one in the config volume.
    pub config_pending: bool,
    /// Whether a work volume was created. If the volume is missing later, a start fails instead of creating an empty
    /// one.
    pub has_work_volume: bool,
    /// Revision of the row.
    pub revision: Revision,
    /// Workspace whose pause also paused this one.
    pub paused_with: Option<WorkspaceId>,
    /// Workspace whose removal also removed this one, and whose undelete restores it.
    pub removed_with: Option<WorkspaceId>,
    /// Time of the next restart, if it is offline and the restart budget allows one.
    pub restart_due_at: Option<Timestamp>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time of removal.
    pub removed_at: Option<Timestamp>,
}

impl Workspace {
    /// Whether it needs a work volume. A workspace with a bound host directory needs none, nor does a sandbox.
    #[must_use]
    pub fn wants_work_volume(&self) -> bool {
        self.spec.tier != Tier::SANDBOX && self.spec.workspace_dir.is_none()
    }

    /// Error text for an order that needs a container, given to an external workspace. `so` continues the phrase "its
    /// agent runs elsewhere,". The last sentence gives the next step, for example how to resume a paused workspace.
    #[must_use]
    pub fn runs_elsewhere(&self, so: &str) -> String {
        let next = if self.status == Status::Paused {
            format!("It is paused: `ostler start {}` resumes it", self.name)
        } else {
            format!("`ostler why {}` shows its status and history", self.name)
        };
        format!("workspace `{}` is external: its agent runs elsewhere, {so}. {next}", self.name)
    }
}
