//! Who this registry is, and that nobody else is it at the same time.
//!
//! Two ostlers with one identity would reap each other's containers. So a data directory is locked, an
//! identity is locked on the machine, a copied data directory is refused until a person says which of the
//! two goes on, and a database that knows less than its mirror is treated as lost: it holds everything
//! it does not know.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{
    clock::Clock,
    crash_point,
    domain::ids::InstanceId,
    entropy::Entropy,
    store::{Mirror, MirrorRecord, Registry, Scope, Store, StoreError},
};

/// Why this process may not be this registry's daemon.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process holds a lock.
    #[error("{what} is in use by another ostler{}. Stop that one first, or choose another --data-dir", holder(*pid))]
    Held {
        /// What it holds.
        what: String,
        /// Its process id, where it left one.
        pid: Option<u32>,
    },
    /// The data directory was copied.
    #[error(
        "the data directory {path} is a copy: its mirror was written in another directory. If the original is no \
         longer used (it was moved or restored here), say `ostler doctor --accept-copy`; if it is, two ostlers would \
         fight over the same containers: use `--data-dir` with a new directory instead"
    )]
    Copied {
        /// The directory.
        path: PathBuf,
    },
    /// Database and mirror are two registries'.
    #[error(
        "the database in {path} is instance {database}, and instance.json beside it says {mirror}: they do not belong \
         together. Put back the one that belongs to the containers of this machine, or move instance.json away to go \
         on with the database's identity"
    )]
    Mixed {
        /// The directory.
        path: PathBuf,
        /// The database's identity.
        database: InstanceId,
        /// The mirror's identity.
        mirror: InstanceId,
    },
    /// A file could not be used.
    #[error("cannot use {path}: {source}. {}", crate::store::advice_for(source))]
    Place {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// A held lock: released when dropped, or when the process ends in whatever way.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a data directory, making the directory where it is missing.
    ///
    /// # Errors
    /// [`IdentityError::Held`] names the process that has it.
    pub fn data_directory(data_dir: &Path) -> Result<Self, IdentityError> {
        private_directory(data_dir)?;
        Self::take(&data_dir.join("ostler.lock"), format!("the data directory {}", data_dir.display()))
    }

    /// Takes the lock of an identity on this machine.
    ///
    /// # Errors
    /// [`IdentityError::Held`] names the process that has it.
    pub fn instance(runtime_dir: &Path, instance: InstanceId) -> Result<Self, IdentityError> {
        private_directory(runtime_dir)?;
        Self::take(&runtime_dir.join(format!("{instance}.lock")), format!("the identity {instance}"))
    }

    fn take(path: &Path, what: String) -> Result<Self, IdentityError> {
        let place = |source| IdentityError::Place { path: path.to_owned(), source };
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(place)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(place)?;
                return Err(IdentityError::Held { what, pid: pid.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(place(source)),
        }
        crash_point::before("lock: say who holds it");
        file.set_len(0).map_err(place)?;
        file.rewind().map_err(place)?;
        writeln!(file, "{}", std::process::id()).map_err(place)?;
        crash_point::after("lock: say who holds it");
        Ok(Self { _file: file })
    }
}

/// Makes a directory for the daemon's user alone; one that exists is left with the mode it has, unless
/// it is ours to tighten.
fn private_directory(path: &Path) -> Result<(), IdentityError> {
    let place = |source| IdentityError::Place { path: path.to_owned(), source };
    let existed = path.is_dir();
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(place)?;
    if !existed {
        fs::set_permissions(path, PermissionsExt::from_mode(0o700)).map_err(place)?;
    }
    Ok(())
}

/// Finds out who this registry is: a new one, the one it was, or one that was lost.
///
/// # Errors
/// Why it must not be served.
pub async fn establish(
    store: &Store,
    mirror: &Mirror,
    data_dir: &Path,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Registry, IdentityError> {
    let place = |source| IdentityError::Place { path: data_dir.join(crate::store::MIRROR_FILE_NAME), source };
    let now = clock.now();
    let (device, inode) = mirror.place().map_err(place)?;
    let known_record = mirror.read().map_err(place)?;
    if let Some(record) = &known_record
        && record.inode != inode
    {
        // The device is not compared: some file systems number theirs anew at every mount.
        return Err(IdentityError::Copied { path: data_dir.to_owned() });
    }
    let registry = match (store.registry().await?, &known_record) {
        (None, None) => {
            let instance = InstanceId(entropy.uuid());
            Registry { instance, generation: 0, recovering_since: None, engine_accepted_at: None }
        }
        (None, Some(record)) => Registry {
            instance: record.instance,
            generation: record.generation,
            // From its first transaction on: a crash before the event below must not disarm the hold.
            recovering_since: Some(now),
            engine_accepted_at: record.engine_accepted.then_some(now),
        },
        (Some(registry), Some(record))
            if registry.instance != record.instance && !has_become_it(store, &registry).await? =>
        {
            return Err(IdentityError::Mixed {
                path: data_dir.to_owned(),
                database: registry.instance,
                mirror: record.instance,
            });
        }
        (Some(registry), _) => registry,
    };
    let was_there = store.registry().await?.is_some();
    if !was_there {
        store.found_registry(registry).await?;
    }
    if let Some(record) = &known_record {
        let lost = if !was_there {
            Some("the database was new beside an old mirror: the registry was lost")
        } else if registry.generation < record.generation {
            Some("the database is older than its mirror: it was restored from a copy")
        } else {
            None
        };
        if let Some(why) = lost {
            tracing::warn!(why, "unknown containers are held: look at `ostler adopt --dry-run`");
            store.begin_recovery(now, record.generation, why.to_owned()).await?;
        }
    }
    let known = known_record.as_ref().map_or(0, |record| record.generation);
    let record = MirrorRecord {
        instance: registry.instance,
        generation: registry.generation.max(known),
        engine_accepted: registry.engine_accepted_at.is_some(),
        device,
        inode,
    };
    // Not where nothing is new: a full disk must not keep a registry that could be read from being served.
    if known_record.as_ref() != Some(&record) {
        crash_point::before("identity: write the mirror");
        mirror.write(&record).map_err(place)?;
        crash_point::after("identity: write the mirror");
    }
    Ok(store.registry().await?.unwrap_or(registry))
}

/// Whether a registry took over its identity and its mirror does not say so yet, because the process ended between
/// the two: it has made nothing since, and holds everything it does not know.
async fn has_become_it(store: &Store, registry: &Registry) -> Result<bool, StoreError> {
    let waits = registry.recovering_since.is_some() && registry.engine_accepted_at.is_none();
    Ok(waits && store.workspaces(Scope::Any).await?.is_empty())
}

/// A person says that this copy goes on and the original is no longer used.
///
/// # Errors
/// When the directory is in use or its mirror cannot be written.
pub fn accept_copy(data_dir: &Path) -> Result<(), IdentityError> {
    let _lock = Lock::data_directory(data_dir)?;
    let mirror = Mirror::Directory(data_dir.to_owned());
    let place = |source| IdentityError::Place { path: data_dir.join(crate::store::MIRROR_FILE_NAME), source };
    let (device, inode) = mirror.place().map_err(place)?;
    if let Some(record) = mirror.read().map_err(place)? {
        crash_point::before("identity: accept a copy");
        mirror.write(&MirrorRecord { device, inode, ..record }).map_err(place)?;
        crash_point::after("identity: accept a copy");
    }
    Ok(())
}

/// Becomes another instance: only an empty registry may, and only if nobody on this machine is it.
/// Takes effect at the next start.
///
/// # Errors
/// [`IdentityError::Held`] when somebody is it; `Ok(false)` when the registry is not empty.
pub async fn become_instance(
    store: &Store,
    mirror: &Mirror,
    runtime_dir: &Path,
    instance: InstanceId,
    clock: &dyn Clock,
) -> Result<bool, IdentityError> {
    let _lock = Lock::instance(runtime_dir, instance)?;
    if !store.become_instance(instance, clock.now()).await? {
        return Ok(false);
    }
    let place = |source| IdentityError::Place { path: PathBuf::from(crate::store::MIRROR_FILE_NAME), source };
    if let Some(record) = mirror.read().map_err(place)? {
        crash_point::before("identity: become another instance");
        mirror.write(&MirrorRecord { instance, engine_accepted: false, ..record }).map_err(place)?;
        crash_point::after("identity: become another instance");
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::SystemClock, entropy::SystemEntropy};

    async fn established(store: &Store, data_dir: &Path) -> Result<Registry, IdentityError> {
        let mirror = Mirror::Directory(data_dir.to_owned());
        establish(store, &mirror, data_dir, &SystemClock::start(), &SystemEntropy).await
    }

    #[tokio::test]
    async fn a_takeover_that_was_killed_before_the_mirror_knew_is_finished_at_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        established(&store, directory.path()).await.unwrap();
        let other = InstanceId(SystemEntropy.uuid());
        let now = SystemClock::start().now();
        assert_eq!(store.become_instance(other, now).await, Ok(true));

        let registry = established(&store, directory.path()).await.unwrap();
        assert_eq!(registry.instance, other);
        assert!(registry.recovering_since.is_some(), "it would reap what it does not know");
        let record = Mirror::Directory(directory.path().to_owned()).read().unwrap().unwrap();
        assert_eq!((record.instance, record.engine_accepted), (other, false));
    }

    #[tokio::test]
    async fn a_database_that_has_been_at_work_does_not_take_anothers_mirror_for_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        established(&store, directory.path()).await.unwrap();
        let now = SystemClock::start().now();
        assert_eq!(store.become_instance(InstanceId(SystemEntropy.uuid()), now).await, Ok(true));
        store.accept_engine(now, "an engine".into()).await.unwrap();
        let refused = established(&store, directory.path()).await;
        assert!(matches!(refused, Err(IdentityError::Mixed { .. })), "{refused:?}");
    }
}
