//! The doctor, and its dependencies.

use std::{path::PathBuf, sync::Arc};

use super::{configuration::Configured, network::description::Network};
use crate::{domain::ids::InstanceId, engine::Engine, runtime::clock::SharedClock, store::Store};

/// Runs the checks of a running daemon.
#[derive(Clone)]
pub struct Doctor(pub(super) Arc<DoctorParts>);

/// The dependencies of a [`Doctor`].
pub struct DoctorParts {
    /// The registry's database.
    pub store: Store,
    /// The engine, with deadlines on its calls.
    pub engine: Arc<dyn Engine>,
    /// Wall clock and timers.
    pub clock: SharedClock,
    /// The instance whose containers and volumes are checked.
    pub instance: InstanceId,
    /// The directory that contains the database; its file system is checked for free space.
    pub data_dir: PathBuf,
    /// Where the daemon listens for agents, and how workspaces reach it.
    pub network: Network,
    /// The configuration in force, and the file it came from.
    pub configuration: Arc<dyn Configured>,
}

impl Doctor {
    /// Wraps `parts` for shared use; clones share them.
    #[must_use]
    pub fn new(parts: DoctorParts) -> Self {
        Self(Arc::new(parts))
    }

    /// The configuration in force.
    #[must_use]
    pub fn configuration(&self) -> &dyn Configured {
        &*self.0.configuration
    }
}
