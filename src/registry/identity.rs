//! The identity of this registry, and the rules that keep it unique on this machine.
//!
//! Two daemons with the same identity would remove each other's containers. Four rules prevent this. A daemon locks its
//! data directory. A daemon locks its identity on the machine. A copied data directory is refused until the operator
//! decides which of the two directories is used. The registry counts as lost if its database is new although a mirror
//! file exists, or if the database is older than its mirror file: ostler then keeps all containers and volumes that the
//! registry does not know until the operator decides.

use std::path::{Path, PathBuf};

use super::{IdentityError, Lock};
use crate::{
    domain::ids::InstanceId,
    runtime::{clock::Clock, entropy::Entropy},
    store::{Mirror, MirrorRecord, Registry, Scope, Store, StoreError},
    testing::crash_point,
};

/// Reads the mirror file, and refuses a copied data directory as the start of a daemon does. Changes and locks nothing.
///
/// Returns `None` if there is no mirror.
///
/// # Errors
/// The error says why a daemon must not serve this directory.
pub fn refuse_copy(data_dir: &Path) -> Result<Option<MirrorRecord>, IdentityError> {
    let mirror = Mirror::Directory(data_dir.to_owned());
    let location =
        |source| IdentityError::Location { path: data_dir.join(crate::store::MIRROR_FILE_NAME), source };
    let Some(record) = mirror.read().map_err(location)? else { return Ok(None) };
    if record.is_of_another(mirror.location().map_err(location)?) {
        return Err(IdentityError::Copied { path: data_dir.to_owned() });
    }
    Ok(Some(record))
}

/// Returns the registry's row, and refuses a database and a mirror that belong to different registries. Changes
/// nothing.
///
/// # Errors
/// The error says why a daemon must not serve this database with this mirror.
pub async fn refuse_mixed(
    store: &Store,
    record: Option<&MirrorRecord>,
    data_dir: &Path,
) -> Result<Option<Registry>, IdentityError> {
    let registry = store.registry().await?;
    if let (Some(registry), Some(record)) = (registry, record)
        && registry.instance != record.instance
        && !has_become_instance(store, &registry).await?
    {
        return Err(IdentityError::Mixed {
            path: data_dir.to_owned(),
            database: registry.instance,
            mirror: record.instance,
        });
    }
    Ok(registry)
}

/// Determines the identity of this registry: the one in the database, that of a lost registry from its mirror, or a new
/// one.
///
/// # Errors
/// The error says why the registry must not be served.
pub async fn establish(
    store: &Store,
    mirror: &Mirror,
    data_dir: &Path,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Registry, IdentityError> {
    let location =
        |source| IdentityError::Location { path: data_dir.join(crate::store::MIRROR_FILE_NAME), source };
    let now = clock.now();
    let mark = mirror.location().map_err(location)?;
    let known_record = mirror.read().map_err(location)?;
    if let Some(record) = &known_record
        && record.is_of_another(mark)
    {
        return Err(IdentityError::Copied { path: data_dir.to_owned() });
    }
    let registry = match (refuse_mixed(store, known_record.as_ref(), data_dir).await?, &known_record) {
        (None, None) => {
            let instance = InstanceId(entropy.uuid());
            Registry { instance, generation: 0, recovering_since: None, engine_accepted_at: None }
        }
        (None, Some(record)) => Registry {
            instance: record.instance,
            generation: record.generation,
            // Set in the first transaction: after a crash before `begin_recovery` below, the next start must keep
            // unknown containers too.
            recovering_since: Some(now),
            engine_accepted_at: record.engine_accepted.then_some(now),
        },
        (Some(registry), _) => registry,
    };
    let was_there = store.registry().await?.is_some();
    if !was_there {
        store.found_registry(registry).await?;
    }
    if let Some(record) = &known_record {
        let lost = if !was_there {
            Some("the database is new, although its mirror file exists: the registry was lost")
        } else if registry.generation < record.generation {
            Some("the database is older than its mirror file: it was restored from a copy")
        } else {
            None
        };
        if let Some(why) = lost {
            tracing::warn!(
                why,
                "registry is recovering: unknown containers are kept, see `ostler adopt --dry-run`"
            );
            store.begin_recovery(now, record.generation, why.to_owned()).await?;
        }
    }
    let known = known_record.as_ref().map_or(0, |record| record.generation);
    let record = MirrorRecord {
        instance: registry.instance,
        generation: registry.generation.max(known),
        engine_accepted: registry.engine_accepted_at.is_some(),
        device: mark.device,
        inode: mark.inode,
        born: mark.born,
    };
    // The mirror is written only if its content changes: a full disk must not prevent serving a registry that can be
    // read.
    if known_record.as_ref() != Some(&record) {
        crash_point::before("identity: write the mirror");
        let written = mirror.write(&record);
        crash_point::after("identity: write the mirror");
        match written {
            // The mirror is outdated since a crash, and updating it fails, for example because the disk is full. The
            // registry is served nevertheless: the mirror names this identity, and the store refuses every change that
            // raises the generation.
            Err(error) if known_record.is_some_and(|known| known.instance == record.instance) => {
                tracing::warn!(%error, "mirror file cannot be updated: operations are refused until it can be");
            }
            other => other.map_err(location)?,
        }
    }
    Ok(store.registry().await?.unwrap_or(registry))
}

/// Whether the registry took over its identity with [`become_instance`], and the process ended before it updated the
/// mirror. The registry then has no workspaces, has accepted no engine, and keeps unknown containers and volumes.
async fn has_become_instance(store: &Store, registry: &Registry) -> Result<bool, StoreError> {
    let waits = registry.recovering_since.is_some() && registry.engine_accepted_at.is_none();
    Ok(waits && store.workspaces(Scope::Any).await?.is_empty())
}

/// Records the operator's decision to use this copy; the original is no longer used.
///
/// The copy may be old. A comparison with its mirror does not show that, because the mirror was copied with the
/// database. The mirror's generation is therefore raised above that of the database, so that the next start keeps all
/// containers and volumes that the registry does not know. A directory that is no copy is left unchanged.
///
/// # Errors
/// The directory is in use, its database cannot be read, or its mirror cannot be written.
pub async fn accept_copy(data_dir: &Path) -> Result<(), IdentityError> {
    let _lock = Lock::data_directory(data_dir)?;
    let mirror = Mirror::Directory(data_dir.to_owned());
    let location =
        |source| IdentityError::Location { path: data_dir.join(crate::store::MIRROR_FILE_NAME), source };
    let mark = mirror.location().map_err(location)?;
    // The mirror may have a lower generation than the database if the directory was copied while a daemon used it, or
    // after a daemon was killed.
    let database = if data_dir.join(crate::store::FILE_NAME).try_exists().map_err(location)? {
        Store::open_read_only(data_dir)?.registry().await?.map_or(0, |registry| registry.generation)
    } else {
        0
    };
    crash_point::before("identity: accept a copy");
    mirror
        .update(|record| {
            if record.is_of_another(mark) {
                *record = record.clone().placed(mark);
                record.generation = record.generation.max(database) + 1;
            }
        })
        .map_err(location)?;
    crash_point::after("identity: accept a copy");
    Ok(())
}

/// Takes over the identity `instance`. Allowed only for a registry without workspaces, and only if no process on this
/// machine holds that identity. Takes effect at the next start.
///
/// # Errors
/// [`IdentityError::Held`] if another process holds the identity. `Ok(false)` means that the registry has workspaces.
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
    let location =
        |source| IdentityError::Location { path: PathBuf::from(crate::store::MIRROR_FILE_NAME), source };
    let rename = |record: &mut MirrorRecord| (record.instance, record.engine_accepted) = (instance, false);
    crash_point::before("identity: become another instance");
    mirror.update(rename).map_err(location)?;
    crash_point::after("identity: become another instance");
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use rustix::process::geteuid;

    use super::*;
    use crate::runtime::{clock::SystemClock, entropy::SystemEntropy};

    async fn established(store: &Store, data_dir: &Path) -> Result<Registry, IdentityError> {
        let mirror = Mirror::Directory(data_dir.to_owned());
        establish(store, &mirror, data_dir, &SystemClock::start(), &SystemEntropy).await
    }

    #[tokio::test]
    async fn invalid_mirror_content_is_reported_as_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        established(&store, directory.path()).await.unwrap();
        fs::write(directory.path().join(crate::store::MIRROR_FILE_NAME), "garbage").unwrap();
        let message = established(&store, directory.path()).await.unwrap_err().to_string();
        assert!(message.contains("content is damaged") && !message.contains("writable"), "{message}");
    }

    /// A separate file system, unmounted on drop. Mounting it requires root.
    struct Mounted(tempfile::TempDir);

    impl Mounted {
        fn new(options: &str) -> Self {
            assert!(geteuid().is_root(), "this test needs root: it mounts a file system");
            let directory = tempfile::tempdir().unwrap();
            let mounted = std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("mode=0700,{options}"), "ostler-test"])
                .arg(directory.path())
                .status();
            assert!(mounted.is_ok_and(|status| status.success()), "root could not mount a file system");
            Self(directory)
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let unmounted = std::process::Command::new("umount").arg("--lazy").arg(self.0.path()).status();
            assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
        }
    }

    #[tokio::test]
    async fn data_directory_copied_to_another_file_system_is_refused() {
        let (inode, born) = (
            |mounted: &Mounted| fs::metadata(mounted.0.path()).unwrap().ino(),
            |mounted: &Mounted| fs::metadata(mounted.0.path()).unwrap().created().unwrap(),
        );
        let original = Mounted::new("size=4m");
        // Two mounts in quick succession may get the same creation time: file systems use a clock that advances only
        // every few milliseconds.
        let copy = loop {
            let copy = Mounted::new("size=4m");
            if born(&copy) != born(&original) {
                break copy;
            }
        };
        assert_eq!(
            inode(&original),
            inode(&copy),
            "the test needs equal inodes, so that only the creation times differ"
        );
        let store = Store::open(original.0.path()).unwrap();
        established(&store, original.0.path()).await.unwrap();
        store.close().await;
        for file in [crate::store::FILE_NAME, crate::store::MIRROR_FILE_NAME] {
            fs::copy(original.0.path().join(file), copy.0.path().join(file)).unwrap();
        }
        let store = Store::open(copy.0.path()).unwrap();
        let refused = established(&store, copy.0.path()).await;
        assert!(matches!(refused, Err(IdentityError::Copied { .. })), "{refused:?}");
        // If the files are copied while a daemon uses them, the copied mirror may have a lower generation than the
        // database.
        Mirror::Directory(copy.0.path().to_owned()).update(|record| record.generation = -5).unwrap();
        accept_copy(copy.0.path()).await.unwrap();
        let registry = established(&store, copy.0.path()).await.unwrap();
        assert!(
            registry.recovering_since.is_some(),
            "unknown containers are not kept, but the accepted copy may be an old backup"
        );
    }

    #[tokio::test]
    async fn outdated_mirror_does_not_block_start_on_a_full_disk() {
        let small = Mounted::new("size=4m,nr_inodes=16");
        let data = small.0.path();
        let store = Store::open(data).unwrap();
        let first = established(&store, data).await.unwrap();
        let mirror = Mirror::Directory(data.to_owned());
        mirror.update(|record| record.generation = -1).unwrap();
        for number in 0..16 {
            let _no_inode_is_left = fs::write(data.join(format!("filling-{number}")), "");
        }
        assert!(fs::write(data.join("one more"), "").is_err(), "inodes are still free");
        assert_eq!(established(&store, data).await.unwrap(), first);
        assert_eq!(mirror.read().unwrap().unwrap().generation, -1);
        fs::remove_file(data.join("filling-0")).unwrap();
        established(&store, data).await.unwrap();
        assert_eq!(mirror.read().unwrap().unwrap().generation, first.generation);
    }

    #[tokio::test]
    async fn interrupted_identity_takeover_completes_at_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        established(&store, directory.path()).await.unwrap();
        let other = InstanceId(SystemEntropy.uuid());
        let now = SystemClock::start().now();
        assert_eq!(store.become_instance(other, now).await, Ok(true));

        let registry = established(&store, directory.path()).await.unwrap();
        assert_eq!(registry.instance, other);
        assert!(registry.recovering_since.is_some(), "unknown containers would be moved to the trash");
        let record = Mirror::Directory(directory.path().to_owned()).read().unwrap().unwrap();
        assert_eq!((record.instance, record.engine_accepted), (other, false));
    }

    #[tokio::test]
    async fn mirror_of_another_instance_is_refused_when_engine_was_accepted() {
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
