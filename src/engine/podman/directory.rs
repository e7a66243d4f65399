//! The directory of a volume, as seen on this host.
//!
//! Podman keeps listing a volume whose directory was deleted, and then fails every start with a misleading message.
//! ostler can see the directory only if it sees the same storage as Podman. This is the case if the parent directory
//! exists and has the volume's name. Without this check, all volumes in the storage of another host, container or user
//! would seem to be gone.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, chown},
    path::Path,
};

use rustix::fs::{Mode, OFlags, open, openat};

use crate::domain::runtime::User;

/// Whether a volume's directory is known to be missing. `false` if this cannot be determined.
pub(super) fn is_missing(name: &str, mount_point: &Path) -> bool {
    is_ours_to_see(name, mount_point)
        && fs::symlink_metadata(mount_point).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Creates a volume's missing directory with its owner. An existing directory is not changed.
pub(super) fn make(name: &str, mount_point: &Path, owner: User) -> io::Result<()> {
    if !is_ours_to_see(name, mount_point) {
        return Err(io::Error::other(format!(
            "its directory {} is in a storage that is not accessible",
            mount_point.display()
        )));
    }
    match fs::DirBuilder::new().mode(0o755).create(mount_point) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    chown(mount_point, Some(owner.uid), Some(owner.gid)).inspect_err(|_| {
        // A directory with the wrong owner is removed again. If it stayed, it would no longer count as missing, and
        // nothing would repair it.
        let _ = fs::remove_dir(mount_point);
    })
}

/// Reads a regular file directly below a volume's directory, at most one byte more than `length`.
///
/// The agent controls the content of the volume. Links are therefore not followed, and opening a file never blocks.
pub(super) fn read(name: &str, mount_point: &Path, file: &str, length: usize) -> io::Result<Vec<u8>> {
    if !is_ours_to_see(name, mount_point) || file.is_empty() || file.contains('/') {
        return Err(io::ErrorKind::NotFound.into());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = open(mount_point, flags | OFlags::DIRECTORY, Mode::empty())?;
    let opened = openat(&directory, file, flags | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
    let opened = fs::File::from(opened);
    if !opened.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut content = Vec::with_capacity(length + 1);
    opened.take(length as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
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
    use std::os::unix::fs::{MetadataExt, symlink};

    use rustix::fs::FileType;

    #[test]
    fn directory_counts_as_missing_only_if_storage_is_visible() {
        let storage = tempfile::tempdir().unwrap();
        let volume = storage.path().join("v");
        let mount_point = volume.join("_data");
        assert!(
            !is_missing("v", &mount_point),
            "a directory in an inaccessible storage was reported missing"
        );
        fs::create_dir(&volume).unwrap();
        assert!(is_missing("v", &mount_point));
        assert!(!is_missing("w", &mount_point), "a directory with another name was accepted");
        fs::create_dir(&mount_point).unwrap();
        assert!(!is_missing("v", &mount_point));
    }

    #[test]
    fn only_regular_files_inside_the_volume_are_read() {
        let storage = tempfile::tempdir().unwrap();
        let mount_point = storage.path().join("v").join("_data");
        fs::create_dir_all(&mount_point).unwrap();
        let at = |name: &str| mount_point.join(name);
        fs::write(at("token"), "secret").unwrap();
        fs::write(storage.path().join("outside"), "secret").unwrap();
        symlink("token", at("link")).unwrap();
        symlink("../../outside", at("out")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(read("v", &mount_point, "token", 6).unwrap(), b"secret");
        assert_eq!(read("v", &mount_point, "token", 3).unwrap(), b"secr", "a longer file was not cut");
        for file in
            ["none", "link", "out", "directory", "fifo", "", ".", "..", "../../outside", "/etc/passwd"]
        {
            assert!(read("v", &mount_point, file, 6).is_err(), "{file:?} was read");
        }
        assert!(read("w", &mount_point, "token", 6).is_err(), "a directory with another name was accepted");
        symlink("_data", storage.path().join("v").join("other")).unwrap();
        assert!(
            read("v", &storage.path().join("v").join("other"), "token", 6).is_err(),
            "a symbolic link was followed"
        );
    }

    #[test]
    fn missing_volume_directory_is_created_and_existing_one_kept() {
        let storage = tempfile::tempdir().unwrap();
        let volume = storage.path().join("v");
        let mount_point = volume.join("_data");
        let me = fs::metadata(storage.path()).unwrap();
        let owner = User { uid: me.uid(), gid: me.gid() };
        assert!(
            make("v", &mount_point, owner).is_err(),
            "a directory was created in an inaccessible storage"
        );
        fs::create_dir(&volume).unwrap();
        make("v", &mount_point, owner).unwrap();
        fs::write(mount_point.join("kept"), "").unwrap();
        make("v", &mount_point, owner).unwrap();
        assert!(mount_point.join("kept").exists());
    }
}
