//! The directory behind a volume, looked at on this host.
//!
//! Podman goes on listing a volume whose directory was deleted, and then fails every start with words
//! that name something else. It can be seen from here only if this process sees the same storage, and
//! only a directory that bears the volume's name proves that: otherwise another host's, another
//! container's or another user's storage would look like one whose volumes are all gone.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, chown},
    path::Path,
};

use crate::domain::runtime::User;

/// Whether a volume's directory is known to be gone. `false` where it cannot be told.
pub(super) fn is_missing(name: &str, mount_point: &Path) -> bool {
    is_ours_to_see(name, mount_point)
        && fs::symlink_metadata(mount_point).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Makes a volume's missing directory, with its owner. One that is there stays as it is.
pub(super) fn make(name: &str, mount_point: &Path, owner: User) -> io::Result<()> {
    if !is_ours_to_see(name, mount_point) {
        return Err(io::Error::other(format!(
            "its directory {} lies in a storage that cannot be reached from here",
            mount_point.display()
        )));
    }
    match fs::DirBuilder::new().mode(0o755).create(mount_point) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    chown(mount_point, Some(owner.uid), Some(owner.gid)).inspect_err(|_| {
        // Not left behind with the wrong owner: it would no longer look missing.
        let _ = fs::remove_dir(mount_point);
    })
}

fn is_ours_to_see(name: &str, mount_point: &Path) -> bool {
    mount_point.is_absolute()
        && mount_point
            .parent()
            .filter(|parent| parent.file_name().is_some_and(|found| found == name))
            .is_some_and(Path::is_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn only_a_storage_that_can_be_seen_can_miss_a_directory() {
        let storage = tempfile::tempdir().unwrap();
        let volume = storage.path().join("v");
        let mount_point = volume.join("_data");
        assert!(!is_missing("v", &mount_point), "the storage cannot be seen, yet the directory was missed");
        fs::create_dir(&volume).unwrap();
        assert!(is_missing("v", &mount_point));
        assert!(!is_missing("w", &mount_point), "a directory of another name is no proof");
        fs::create_dir(&mount_point).unwrap();
        assert!(!is_missing("v", &mount_point));
    }

    #[test]
    fn a_missing_directory_is_made_for_its_owner_and_a_present_one_stays() {
        let storage = tempfile::tempdir().unwrap();
        let volume = storage.path().join("v");
        let mount_point = volume.join("_data");
        let me = fs::metadata(storage.path()).unwrap();
        let owner = User { uid: me.uid(), gid: me.gid() };
        assert!(make("v", &mount_point, owner).is_err(), "a directory was made in a storage nobody sees");
        fs::create_dir(&volume).unwrap();
        make("v", &mount_point, owner).unwrap();
        fs::write(mount_point.join("kept"), "").unwrap();
        make("v", &mount_point, owner).unwrap();
        assert!(mount_point.join("kept").exists());
    }
}
