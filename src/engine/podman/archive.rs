//! Single files as tar archives, the format in which Podman transfers files.

use std::io::{self, Read};

use super::super::{FileToWrite, TOO_LONG};
use crate::domain::time::Timestamp;

/// Maximum size of a file that is read, in bytes. ostler reads only tokens and configurations.
pub(super) const FILE_MAX_BYTES: usize = 1 << 20;
/// Maximum size of an archive of such a file, in bytes. It includes headers, padding and end marker.
pub(super) const ARCHIVE_MAX_BYTES: usize = FILE_MAX_BYTES + (64 << 10);

/// Creates an archive of one file, with its owner and mode, which Podman preserves.
pub(super) fn pack(file: &FileToWrite, modified: Timestamp) -> io::Result<Vec<u8>> {
    let FileToWrite { name, content, mode, owner } = file;
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::other(format!("`{name}` is not a valid file name")));
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(content.len() as u64);
    header.set_mode(*mode);
    header.set_uid(owner.uid.into());
    header.set_gid(owner.gid.into());
    header.set_mtime(u64::try_from(modified.0 / 1000).unwrap_or(0));
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, name, content.as_slice())?;
    archive.into_inner()
}

fn unusable(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// Content of the archive's first file. [`io::ErrorKind::InvalidData`] if it is not a regular file or is too long.
pub(super) fn unpack(archive: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let mut entry = archive.entries()?.next().ok_or_else(|| io::Error::other("the archive is empty"))??;
    if !entry.header().entry_type().is_file() {
        let kind = entry.header().entry_type();
        let kind = if kind.is_dir() {
            "a directory"
        } else if kind.is_fifo() {
            "a FIFO"
        } else if kind.is_symlink() {
            "a link"
        } else {
            "a special file"
        };
        return Err(unusable(format!("it is {kind}, not a regular file")));
    }
    if entry.size() > FILE_MAX_BYTES as u64 {
        return Err(unusable(TOO_LONG));
    }
    let mut content = Vec::new();
    entry.read_to_end(&mut content)?;
    if content.len() as u64 == entry.size() { Ok(content) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::runtime::User;

    fn file(name: &str, content: Vec<u8>) -> FileToWrite {
        FileToWrite { name: name.into(), content, mode: 0o600, owner: User { uid: 1000, gid: 1001 } }
    }

    #[test]
    fn packed_file_keeps_content_owner_and_mode() {
        let packed = pack(&file(".auth_token", b"secret".into()), Timestamp(7_000)).unwrap();
        assert_eq!(unpack(&packed).unwrap(), b"secret");
        let mut archive = tar::Archive::new(packed.as_slice());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        let header = entry.header();
        assert_eq!(entry.path().unwrap().to_str(), Some(".auth_token"));
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (1000, 1001));
        assert_eq!((header.mode().unwrap(), header.mtime().unwrap()), (0o600, 7));
    }

    #[test]
    fn packed_file_name_with_a_directory_is_refused() {
        for name in ["", ".", "..", "a/b", "../a", "a\0"] {
            assert!(pack(&file(name, Vec::new()), Timestamp(0)).is_err(), "{name:?}");
        }
    }

    #[test]
    fn unpack_refuses_oversized_truncated_and_non_file_entries() {
        let packed = |length| pack(&file("f", vec![0; length]), Timestamp(0)).unwrap();
        assert_eq!(unpack(&packed(FILE_MAX_BYTES)).unwrap().len(), FILE_MAX_BYTES);
        assert!(packed(FILE_MAX_BYTES).len() <= ARCHIVE_MAX_BYTES);
        let kind = |archive: &[u8]| unpack(archive).unwrap_err().kind();
        assert_eq!(kind(&packed(FILE_MAX_BYTES + 1)), io::ErrorKind::InvalidData);
        assert!(unpack(&packed(2000)[..1000]).is_err());
        assert!(unpack(&[]).is_err());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "d/", io::empty()).unwrap();
        assert_eq!(kind(&archive.into_inner().unwrap()), io::ErrorKind::InvalidData);
    }
}
