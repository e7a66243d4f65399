//! Containers and volumes as listed by the engine: the input of plans that compare rows with the engine.

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
    /// Created, and not started since. A process of the OCI runtime may exist already, but not the agent's.
    Created,
    /// Its process runs.
    Running,
    /// Its process is frozen by `podman pause`. The process keeps its memory, its ports and its token, but does not
    /// answer.
    Paused,
    /// Being stopped; the process may still run.
    Stopping,
    /// Its process has exited.
    Exited,
    /// Being deleted: its process has exited, and it can never be started again. A container keeps this state if its
    /// deletion was interrupted.
    Removing,
    /// Podman reported an unknown word. No action may depend on this state, because the process may run.
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

/// A change of a container, reported by the engine. Events may be late, repeated or missing. An event is therefore only
/// a reason to inspect the container, and the result of the inspection decides.
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

/// All containers and volumes with the label of this instance in one trusted listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Containers in any state.
    pub containers: Vec<ObservedContainer>,
    /// Volumes.
    pub volumes: Vec<ObservedVolume>,
}
