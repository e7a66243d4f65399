//! What the engine says is there: the input of every plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    ids::{ContainerId, WorkspaceId},
    time::Timestamp,
};

/// What a container is doing, as one listing saw it. `engine/podman/states.rs` maps every word of Podman to one of
/// these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Created and not started since. At most the runtime's own process waits there, never the agent.
    Created,
    /// Its process runs.
    Running,
    /// Its process is frozen by `podman pause`: it holds its memory, its ports and its token, and answers nothing.
    Paused,
    /// Being stopped. The process may still run.
    Stopping,
    /// Its process has ended.
    Exited,
    /// Being deleted: its process has ended, and it never starts again. A deletion that was interrupted leaves it so.
    Removing,
    /// Any other word. Never acted upon: its process may run.
    Unknown,
}

impl ContainerState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Exited,
        Self::Removing,
        Self::Unknown,
    ];

    /// Whether its process may be alive. `Unknown` may be.
    #[must_use]
    pub fn may_run(self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::Stopping | Self::Unknown => true,
            Self::Created | Self::Exited | Self::Removing => false,
        }
    }

    /// Whether it can ever be started again once its process has ended.
    #[must_use]
    pub fn can_start_again(self) -> bool {
        match self {
            Self::Created | Self::Running | Self::Paused | Self::Stopping | Self::Exited | Self::Unknown => {
                true
            }
            Self::Removing => false,
        }
    }
}

/// A container in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedContainer {
    /// The engine's id.
    pub id: ContainerId,
    /// The name, without a leading slash.
    pub name: String,
    /// Its labels, the image's among them.
    pub labels: BTreeMap<String, String>,
    /// What it does.
    pub state: ContainerState,
    /// The code its process ended with, once it has.
    pub exit_code: Option<i32>,
    /// When its process was last started, to the second.
    pub started_at: Option<Timestamp>,
    /// Names of the networks that it is attached to, running or not.
    pub networks: Vec<String>,
}

/// Something that happened to a container. News, not knowledge: it may be late, come twice or not at all,
/// so it is a reason to look and never a reason to act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The container.
    pub container: ContainerId,
    /// The workspace its label names; `None` where the label is missing or no id.
    pub workspace: Option<WorkspaceId>,
    /// What happened.
    pub what: ContainerEventKind,
    /// When, by the engine's clock.
    pub at: Timestamp,
}

/// What can happen to a container, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerEventKind {
    /// Its process was started.
    Started,
    /// Its process ended, for whatever reason.
    Died {
        /// The code it ended with, where the engine says so.
        exit_code: Option<i32>,
    },
    /// It was deleted.
    Removed,
}

/// A volume in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedVolume {
    /// The name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Everything that carries a label of this instance, as one trusted look found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Containers in any state.
    pub containers: Vec<ObservedContainer>,
    /// Volumes.
    pub volumes: Vec<ObservedVolume>,
}
