//! Locks on the data directory and on the identity, so that only one daemon on this machine serves a registry.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::{fs::OFlags, io::Errno, process::geteuid};

use super::IdentityError;
use crate::{domain::ids::InstanceId, testing::crash_point};

/// A lock that this process holds. Dropping it releases it; if the process ends without that, the kernel releases it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    /// The locked directory; `None` if its file system cannot lock directories. The lock file alone is not enough:
    /// after its deletion, another process could lock a new file.
    _directory: Option<File>,
}

impl Lock {
    /// Locks a data directory, and creates the directory if it does not exist.
    ///
    /// # Errors
    /// [`IdentityError::Held`] with the id of the process that holds it.
    pub fn data_directory(data_dir: &Path) -> Result<Self, IdentityError> {
        private_directory(data_dir)?;
        let what = format!("the data directory {}", data_dir.display());
        let path = data_dir.join("ostler.lock");
        let directory = File::open(data_dir)
            .map_err(|source| IdentityError::Location { path: data_dir.to_owned(), source })?;
        let directory = match directory.try_lock() {
            Ok(()) => Some(directory),
            Err(TryLockError::WouldBlock) => {
                let pid = fs::read_to_string(&path).unwrap_or_default();
                return Err(IdentityError::Held { what, pid: pid.trim().parse().ok() });
            }
            // Some network file systems do not lock directories; the lock file is used alone then.
            Err(TryLockError::Error(_)) => None,
        };
        Ok(Self { _directory: directory, ..Self::take(&path, what)? })
    }

    /// Locks an identity on this machine.
    ///
    /// # Errors
    /// [`IdentityError::Held`] with the id of the process that holds it.
    pub fn instance(runtime_dir: &Path, instance: InstanceId) -> Result<Self, IdentityError> {
        private_directory(runtime_dir)?;
        refuse_insecure_directory(runtime_dir)?;
        Self::take(&runtime_dir.join(format!("{instance}.lock")), format!("the identity {instance}"))
    }

    fn take(path: &Path, what: String) -> Result<Self, IdentityError> {
        let location = |source| IdentityError::Location { path: path.to_owned(), source };
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        // Without this flag, `set_len` below would truncate the target of a symbolic link that another user created.
        let options = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let mut file = match options.open(path) {
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                return Err(IdentityError::Untrusted {
                    path: path.to_owned(),
                    found: "it is a symbolic link".into(),
                });
            }
            other => other.map_err(location)?,
        };
        let metadata = file.metadata().map_err(location)?;
        if !metadata.is_file() || !is_own(&metadata) {
            let found = format!("it is not a regular file of this user (owner {})", metadata.uid());
            return Err(IdentityError::Untrusted { path: path.to_owned(), found });
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(location)?;
                return Err(IdentityError::Held { what, pid: pid.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(location(source)),
        }
        crash_point::before("lock: write the process id");
        file.set_len(0).map_err(location)?;
        file.rewind().map_err(location)?;
        writeln!(file, "{}", std::process::id()).map_err(location)?;
        crash_point::after("lock: write the process id");
        Ok(Self { _file: file, _directory: None })
    }
}

/// Creates a directory that only the daemon's user can access. An existing directory keeps its mode.
fn private_directory(path: &Path) -> Result<(), IdentityError> {
    let location = |source| IdentityError::Location { path: path.to_owned(), source };
    let existed = path.is_dir();
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(location)?;
    if !existed {
        fs::set_permissions(path, PermissionsExt::from_mode(0o700)).map_err(location)?;
    }
    Ok(())
}

/// Whether the file belongs to this user or to root, which can access everything anyway.
fn is_own(metadata: &fs::Metadata) -> bool {
    metadata.uid() == geteuid().as_raw() || metadata.uid() == 0
}

/// Refuses a runtime directory that another user created or can write to. Without `XDG_RUNTIME_DIR` the runtime
/// directory is below `/tmp`, where any user may have created a directory of this name first.
fn refuse_insecure_directory(path: &Path) -> Result<(), IdentityError> {
    let metadata = fs::symlink_metadata(path)
        .map_err(|source| IdentityError::Location { path: path.to_owned(), source })?;
    let found = if metadata.is_symlink() && !is_own(&metadata) {
        "it is a symbolic link of another user".to_owned()
    } else {
        let metadata =
            fs::metadata(path).map_err(|source| IdentityError::Location { path: path.to_owned(), source })?;
        if !is_own(&metadata) {
            format!("it belongs to user {}", metadata.uid())
        } else if metadata.mode() & 0o022 != 0 {
            format!("other users may write to it (mode {:o})", metadata.mode() & 0o7777)
        } else {
            return Ok(());
        }
    };
    Err(IdentityError::Untrusted { path: path.to_owned(), found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::entropy::{Entropy, SystemEntropy};

    fn refusal<T: std::fmt::Debug>(answer: Result<T, IdentityError>) -> String {
        match answer {
            Err(error) => error.to_string(),
            Ok(lock) => panic!("not refused: {lock:?}"),
        }
    }

    #[test]
    fn lock_file_symlink_is_refused_and_its_target_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (runtime, target) = (directory.path().join("run"), directory.path().join("precious"));
        fs::write(&target, "precious").unwrap();
        DirBuilder::new().mode(0o700).create(&runtime).unwrap();
        let instance = InstanceId(SystemEntropy.uuid());
        std::os::unix::fs::symlink(&target, runtime.join(format!("{instance}.lock"))).unwrap();
        let message = refusal(Lock::instance(&runtime, instance));
        assert!(message.contains("symbolic link") && message.contains("XDG_RUNTIME_DIR"), "{message}");
        assert_eq!(fs::read_to_string(target).unwrap(), "precious", "the target of the link was truncated");
    }

    #[test]
    fn runtime_directory_is_refused_when_others_may_write_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = directory.path().join("run");
        fs::create_dir(&runtime).unwrap();
        for mode in [0o777, 0o1777, 0o720] {
            fs::set_permissions(&runtime, PermissionsExt::from_mode(mode)).unwrap();
            let message = refusal(Lock::instance(&runtime, InstanceId(SystemEntropy.uuid())));
            assert!(message.contains("other users may write"), "{message}");
        }
        fs::set_permissions(&runtime, PermissionsExt::from_mode(0o755)).unwrap();
        Lock::instance(&runtime, InstanceId(SystemEntropy.uuid())).unwrap();
    }

    #[test]
    fn runtime_directory_of_another_user_is_refused() {
        assert!(geteuid().is_root(), "this test needs root: it changes the owner of a directory");
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(directory.path(), Some(4711), None).unwrap();
        let message = refusal(Lock::instance(directory.path(), InstanceId(SystemEntropy.uuid())));
        assert!(message.contains("belongs to user 4711"), "{message}");
    }

    #[test]
    fn data_directory_stays_locked_when_its_lock_file_is_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::data_directory(directory.path()).unwrap();
        fs::remove_file(directory.path().join("ostler.lock")).unwrap();
        let message = refusal(Lock::data_directory(directory.path()));
        assert!(message.contains("in use by another ostler"), "{message}");
        drop(lock);
        Lock::data_directory(directory.path()).unwrap();
    }
}
