//! Mirror file beside the database: distinguishes a lost registry from a new one.
//!
//! It holds the registry's identity and generation. The generation rises with every creation, start, removal, pause and
//! any other change that must not be undone unnoticed when an older copy of the database is restored. A new database
//! beside an old mirror, or a database with a lower generation than its mirror, was lost or restored from a copy; the
//! registry then keeps unknown containers and volumes until an operator decides, instead of moving them to the trash.
//!
//! The writer prepares the new mirror before it commits a change, and moves it into place right after, before any
//! caller is answered. A crash between the two leaves the mirror with a lower generation than the database, never with
//! a higher one; no caller was answered then. The mirror also identifies the directory it was written in, so that a
//! copied directory is detected.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

use crate::{domain::ids::InstanceId, testing::crash_point};

/// The mirror's file name inside the data directory.
pub const MIRROR_FILE_NAME: &str = "instance.json";

/// Content of the mirror file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorRecord {
    /// Id of the registry.
    pub instance: InstanceId,
    /// The registry's generation at the last update of the mirror.
    pub generation: i64,
    /// Whether an engine was accepted. Its sentinel volume must then exist.
    pub engine_accepted: bool,
    /// Device of the directory that the mirror was written in.
    pub device: u64,
    /// Inode of that directory.
    pub inode: u64,
    /// Creation time of that directory, in nanoseconds since 1970, if the file system records it. The root directories
    /// of two file systems may have the same inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<i64>,
}

/// Identifies the directory that holds a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryMark {
    /// Device number; some file systems get a new one at every mount.
    pub device: u64,
    /// Inode of the directory.
    pub inode: u64,
    /// Creation time in nanoseconds since 1970, if the file system records it.
    pub born: Option<i64>,
}

impl MirrorRecord {
    /// Returns the record with the given directory as the one it was written in.
    #[must_use]
    pub fn placed(self, mark: DirectoryMark) -> Self {
        Self { device: mark.device, inode: mark.inode, born: mark.born, ..self }
    }

    /// Whether the mirror was written in another directory than the given one. The device is not compared, because some
    /// file systems get a new number at every mount.
    #[must_use]
    pub fn is_of_another(&self, mark: DirectoryMark) -> bool {
        let born_elsewhere = self.born.zip(mark.born).is_some_and(|(then, now)| then != now);
        self.inode != mark.inode || born_elsewhere
    }
}

/// A new generation that is written to a second file and not yet moved into the mirror's place.
#[derive(Debug)]
pub(super) struct Prepared<'m> {
    mirror: &'m Mirror,
    record: MirrorRecord,
    _alone: MutexGuard<'static, ()>,
}

impl Prepared<'_> {
    /// Moves the prepared file into the mirror's place, durably.
    pub(super) fn publish(self) -> io::Result<()> {
        match self.mirror {
            Mirror::Memory(held) => {
                *held.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.record);
                Ok(())
            }
            Mirror::Directory(directory) => install(directory),
        }
    }
}

/// Held from reading the mirror until the second file is renamed. Otherwise two concurrent updates would write to the
/// same second file, and the lower generation could remain.
static CHANGING: Mutex<()> = Mutex::new(());

/// Location of the mirror.
#[derive(Debug)]
pub enum Mirror {
    /// A file in this directory.
    Directory(PathBuf),
    /// Memory, for the simulator. The record survives a simulated crash, as a file survives a real one.
    Memory(Mutex<Option<MirrorRecord>>),
}

impl Mirror {
    /// Reads the mirror; `None` if it does not exist.
    ///
    /// # Errors
    /// If the mirror exists and cannot be read. An unreadable mirror is never treated as a missing one.
    pub fn read(&self) -> io::Result<Option<MirrorRecord>> {
        match self {
            Self::Memory(record) => Ok(record.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            Self::Directory(directory) => match fs::read(directory.join(MIRROR_FILE_NAME)) {
                Ok(bytes) => serde_json::from_slice(&bytes)
                    .map(Some)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    /// Replaces the whole mirror, durably: a crash leaves the old one or the new one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, record: &MirrorRecord) -> io::Result<()> {
        let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        self.put(record)
    }

    /// Changes the mirror; concurrent updates wait. Returns whether a mirror exists.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn update(&self, change: impl FnOnce(&mut MirrorRecord)) -> io::Result<bool> {
        let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut record) = self.read()? else { return Ok(false) };
        let before = record.clone();
        change(&mut record);
        if record != before {
            self.put(&record)?;
        }
        Ok(true)
    }

    /// Stores a generation if it is higher than the current one.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn note_generation(&self, generation: i64) -> io::Result<()> {
        self.update(|record| record.generation = record.generation.max(generation)).map(drop)
    }

    /// Writes a higher generation to a second file. `None` if there is no mirror, or its generation is not lower.
    pub(super) fn prepare_generation(&self, generation: i64) -> io::Result<Option<Prepared<'_>>> {
        let alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = self.read()?.filter(|record| record.generation < generation) else {
            return Ok(None);
        };
        let record = MirrorRecord { generation, ..record };
        if let Self::Directory(directory) = self {
            write_beside(directory, &serde_json::to_vec_pretty(&record)?)?;
        }
        Ok(Some(Prepared { mirror: self, record, _alone: alone }))
    }

    fn put(&self, record: &MirrorRecord) -> io::Result<()> {
        match self {
            Self::Memory(held) => {
                *held.lock().unwrap_or_else(PoisonError::into_inner) = Some(record.clone());
                Ok(())
            }
            Self::Directory(directory) => {
                write_beside(directory, &serde_json::to_vec_pretty(record)?)?;
                install(directory)
            }
        }
    }

    /// Returns the directory that holds the mirror.
    ///
    /// # Errors
    /// If the directory's metadata cannot be read.
    pub fn location(&self) -> io::Result<DirectoryMark> {
        match self {
            Self::Memory(_) => Ok(DirectoryMark { device: 0, inode: 0, born: None }),
            Self::Directory(directory) => {
                let metadata = fs::metadata(directory)?;
                let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
                Ok(DirectoryMark {
                    device: metadata.dev(),
                    inode: metadata.ino(),
                    born: born.and_then(|born| i64::try_from(born.as_nanos()).ok()),
                })
            }
        }
    }
}

fn beside(directory: &Path) -> PathBuf {
    directory.join(format!("{MIRROR_FILE_NAME}.new"))
}

fn write_beside(directory: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(beside(directory))?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn install(directory: &Path) -> io::Result<()> {
    crash_point::before("mirror: replace the file");
    fs::rename(beside(directory), directory.join(MIRROR_FILE_NAME))?;
    crash_point::after("mirror: replace the file");
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn record(generation: i64) -> MirrorRecord {
        let instance = InstanceId(Uuid::from_u128(5));
        MirrorRecord { instance, generation, engine_accepted: true, device: 1, inode: 2, born: None }
    }

    #[test]
    fn mirror_is_of_another_directory_if_inode_or_birth_differs() {
        let here = DirectoryMark { device: 1, inode: 2, born: Some(7) };
        let record = record(3).placed(here);
        assert!(
            !record.is_of_another(DirectoryMark { device: 9, ..here }),
            "a remount with another device number was taken for a copy"
        );
        assert!(
            !record.is_of_another(DirectoryMark { born: None, ..here }),
            "a missing creation time was taken for a copy"
        );
        assert!(record.is_of_another(DirectoryMark { inode: 3, ..here }));
        assert!(
            record.is_of_another(DirectoryMark { born: Some(8), ..here }),
            "the root of another file system was not detected"
        );
    }

    #[test]
    fn prepared_generation_is_not_in_the_mirror_until_published() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = Mirror::Directory(dir.path().to_owned());
        mirror.write(&record(3)).unwrap();
        drop(mirror.prepare_generation(4).unwrap());
        assert_eq!(mirror.read().unwrap(), Some(record(3)), "an abandoned change was written to the mirror");
        mirror.prepare_generation(4).unwrap().unwrap().publish().unwrap();
        assert_eq!(mirror.read().unwrap(), Some(record(4)));
        assert!(mirror.prepare_generation(4).unwrap().is_none());
    }

    #[test]
    fn mirror_generation_never_decreases() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = Mirror::Directory(dir.path().to_owned());
        assert_eq!(mirror.read().unwrap(), None);
        let record = record(3).placed(mirror.location().unwrap());
        mirror.write(&record).unwrap();
        mirror.note_generation(7).unwrap();
        mirror.note_generation(4).unwrap();
        assert_eq!(mirror.read().unwrap(), Some(MirrorRecord { generation: 7, ..record }));
    }

    #[test]
    fn concurrent_updates_keep_the_highest_mirror_generation() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = Mirror::Directory(dir.path().to_owned());
        mirror.write(&record(0)).unwrap();
        std::thread::scope(|scope| {
            for generation in 1..=24 {
                let mirror = &mirror;
                scope.spawn(move || mirror.note_generation(generation).unwrap());
            }
        });
        assert_eq!(mirror.read().unwrap().map(|record| record.generation), Some(24));
    }

    #[test]
    fn unreadable_mirror_is_an_error_and_not_missing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MIRROR_FILE_NAME), "{").unwrap();
        assert!(Mirror::Directory(dir.path().to_owned()).read().is_err());
    }
}
