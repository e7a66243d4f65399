//! Opens the registry while locking its data directory and its identity.

use std::sync::Arc;

use crate::{
    config::Config,
    registry::{Lock, identity},
    runtime::{
        clock::{SharedClock, SystemClock},
        entropy::SystemEntropy,
    },
    store::{Mirror, Registry, Store},
};

/// The locks of a daemon: that of its identity, which is released first, and that of its data directory.
pub(super) struct Locks {
    _instance: Lock,
    _directory: Lock,
}

/// The opened registry.
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) clock: SharedClock,
    pub(super) mirror: Arc<Mirror>,
    pub(super) registry: Registry,
}

/// Locks the data directory, opens the database, determines its identity, and locks that identity on this machine.
///
/// # Errors
/// If another daemon holds one of the locks, or the registry must not be served.
pub(super) async fn open(config: &Config) -> anyhow::Result<(Locks, Opened)> {
    let directory = Lock::data_directory(&config.data_dir)?;
    let store = Store::open(&config.data_dir)?;
    let clock: SharedClock = Arc::new(SystemClock::start());
    let mirror = Arc::new(Mirror::Directory(config.data_dir.clone()));
    let registry = identity::establish(&store, &mirror, &config.data_dir, &*clock, &SystemEntropy).await?;
    let instance = Lock::instance(&config.runtime_dir, registry.instance)?;
    let locks = Locks { _instance: instance, _directory: directory };
    Ok((locks, Opened { store, clock, mirror, registry }))
}

/// Accepts this data directory although it is a copy, so that the daemon can be started with it.
///
/// # Errors
/// If the directory is in use or cannot be written.
pub async fn accept_copy(config: Config) -> anyhow::Result<()> {
    Ok(identity::accept_copy(&config.data_dir).await?)
}
