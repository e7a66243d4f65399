//! Containers and volumes as listed by the engine: the input of every plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    ids::{ContainerId, WorkspaceId},
    time::Timestamp,
};

/// State of a container in one listing. `engine/podman/states.rs` maps every state word of Podman to one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Created and not started since. At most the OCI runtime's own process exists, never the agent.
    Created,
    /// Its process runs.
    Running,
    /// Its process is frozen by `podman pause`: it keeps its memory, ports and token but answers nothing.
    Paused,
    /// Being stopped; the process may still run.
    Stopping,
    /// Its process has exited.
    Exited,
    /// Being deleted: its process has exited, and it can never start again. An interrupted deletion leaves this state.
    Removing,
    /// Any other word. Never a reason to act, since its process may run.
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

    /// Whether its process may be alive; true for `Unknown`.
    #[must_use]
    pub fn may_run(self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::Stopping | Self::Unknown => true,
            Self::Created | Self::Exited | Self::Removing => false,
        }
    }

    /// Whether it can be started again after its process has exited.
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
    /// Name without a leading slash.
    pub name: String,
    /// Labels, including those of the image.
    pub labels: BTreeMap<String, String>,
    /// State in this listing.
    pub state: ContainerState,
    /// Exit code, once its process has exited.
    pub exit_code: Option<i32>,
    /// Time of its last start, in whole seconds.
    pub started_at: Option<Timestamp>,
    /// Names of its networks, whether it runs or not.
    pub networks: Vec<String>,
}

/// A change of a container reported by the engine. Events may be late, repeated or missing: an event triggers a
/// listing, never an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The container.
    pub container: ContainerId,
    /// Workspace in its label; `None` if the label is missing or invalid.
    pub workspace: Option<WorkspaceId>,
    /// Kind of the change.
    pub what: ContainerEventKind,
    /// Time of the change by the engine's clock.
    pub at: Timestamp,
}

/// The container changes that ostler handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerEventKind {
    /// Its process was started.
    Started,
    /// Its process exited, for any reason.
    Died {
        /// Exit code, if the engine reports it.
        exit_code: Option<i32>,
    },
    /// It was deleted.
    Removed,
}

/// A volume in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedVolume {
    /// Name of the volume.
    pub name: String,
    /// Labels of the volume.
    pub labels: BTreeMap<String, String>,
}

/// Everything with a label of this instance in one trusted listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Containers in any state.
    pub containers: Vec<ObservedContainer>,
    /// Volumes.
    pub volumes: Vec<ObservedVolume>,
}
