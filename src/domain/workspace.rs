//! A workspace, as its row says.

use serde::{Deserialize, Serialize};

use super::{
    ids::{ContainerId, Incarnation, WorkspaceId},
    naming::WorkspaceName,
    runtime::Tier,
    spec::Spec,
    status::Status,
    time::Timestamp,
};

/// Where a workspace's agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// In a container that ostler keeps.
    Container,
    /// Elsewhere; ostler only knows of it.
    External,
}

impl Kind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Container, Self::External];

    /// The stored form.
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
    /// They are sent to it, and their sender has its answer.
    #[default]
    Push,
    /// They are stored until it polls them, and their sender is told so.
    Poll,
}

impl Delivery {
    /// Both ways.
    pub const ALL: [Self; 2] = [Self::Push, Self::Poll];

    /// The stored and sent form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Poll => "poll",
        }
    }

    /// The way of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|delivery| delivery.as_str() == word)
    }
}

/// How a workspace sleeps, what it takes on, and what may be done with it when it is stuck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Habits {
    /// It is put to sleep after so many idle minutes; never where there are none.
    pub hibernation_idle_minutes: Option<u32>,
    /// How many tasks its agent takes on at once, for peers to know.
    pub max_concurrent_tasks: Option<u32>,
    /// Whether it is started anew when it is busy and nothing comes of it.
    pub restart_when_wedged: bool,
    /// How messages reach its agent; only an external one may poll.
    pub delivery: Delivery,
}

/// The row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Its identity.
    pub id: WorkspaceId,
    /// Its name.
    pub name: WorkspaceName,
    /// What it is for, in a person's words.
    pub role: Option<String>,
    /// Container or external.
    pub kind: Kind,
    /// The name of its runtime.
    pub runtime: String,
    /// How much of the machine it gets.
    pub tier: Tier,
    /// Above it in the tree.
    pub parent: Option<WorkspaceId>,
    /// What its container is made from.
    pub spec: Spec,
    /// What it is.
    pub status: Status,
    /// Why, where there is something to say.
    pub status_detail: Option<String>,
    /// Since when. Only a status change moves it.
    pub status_since: Timestamp,
    /// How many times it was started.
    pub incarnation: Incarnation,
    /// Its container. Anything else that looks like one of its containers is a stray.
    pub container: Option<ContainerId>,
    /// The serial of the newest container name handed out; each attempt gets a new one.
    pub container_serial: u32,
    /// The port of 127.0.0.1 its container publishes.
    pub host_port: Option<u16>,
    /// The hash of what its container was made from; another hash now means it has drifted.
    pub container_spec_hash: Option<String>,
    /// Whether the configuration of its spec is to be written over the one in its config volume at the next start.
    pub config_pending: bool,
    /// Whether a work volume was made for it. If so and it is gone, nothing starts by itself.
    pub has_work_volume: bool,
    /// Where an external agent is reached.
    pub url: Option<String>,
    /// How it sleeps, what it takes on, what may be done with it.
    pub habits: Habits,
    /// The workspace whose pause took this one along.
    pub paused_with: Option<WorkspaceId>,
    /// The workspace whose removal took this one along, and whose undelete brings it back.
    pub removed_with: Option<WorkspaceId>,
    /// When it is started again, where it is offline and the budget allows it.
    pub restart_due_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was removed.
    pub removed_at: Option<Timestamp>,
}

impl Workspace {
    /// Whether it works in a volume of its own: not in a directory of the host's, and not a sandbox.
    #[must_use]
    pub fn wants_work_volume(&self) -> bool {
        self.tier != Tier::SANDBOX && self.spec.workspace_dir.is_none()
    }

    /// Says why an order for a container cannot be carried out for an external workspace. `so` continues "its agent runs
    /// elsewhere". For a paused one it says what resumes it.
    #[must_use]
    pub fn runs_elsewhere(&self, so: &str) -> String {
        let next = if self.status == Status::Paused {
            format!("It is paused here: `ostler start {}` resumes it", self.name)
        } else {
            format!("`ostler why {}` says what is known of it", self.name)
        };
        format!("workspace `{}` is external: its agent runs elsewhere, {so}. {next}", self.name)
    }
}
