//! The mirror beside the database: what tells a lost registry from a new one.
//!
//! It holds the identity and the registry's generation, which rises with every creation, start, removal, pause and
//! whatever else a copy of the database must not take back unnoticed. A new database beside an old mirror, or a
//! database of a lower generation than its mirror, was lost or restored from a copy, and holds what it does not know.
//! The writer prepares the new mirror before it commits a change and puts it in place right after, before anybody is
//! answered: a crash in between leaves it behind by something that nobody has acted upon, never ahead.
//! It also names the directory it was written in, so that a copied one is noticed.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

use crate::{crash_point, domain::ids::InstanceId};

/// The mirror's file name inside the data directory.
pub const MIRROR_FILE_NAME: &str = "instance.json";

/// What the mirror says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorRecord {
    /// The identity.
    pub instance: InstanceId,
    /// The registry's generation.
    pub generation: i64,
    /// Whether an engine has been accepted, so that its sentinel has to be there.
    pub engine_accepted: bool,
    /// The device of the directory it was written in.
    pub device: u64,
    /// The inode of that directory.
    pub inode: u64,
    /// When that directory was made, in nanoseconds since 1970, where its file system knows. Two directories that are
    /// roots of file systems may have the same inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<i64>,
}

/// Which directory a mirror lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryMark {
    /// Its device: file systems may number theirs anew at every mount.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970, where its file system knows.
    pub born: Option<i64>,
}

impl MirrorRecord {
    /// The same, written in that directory.
    #[must_use]
    pub fn placed(self, mark: DirectoryMark) -> Self {
        Self { device: mark.device, inode: mark.inode, born: mark.born, ..self }
    }

    /// Whether it was written in another directory than that one. The device is not compared: some file systems
    /// number theirs anew at every mount.
    #[must_use]
    pub fn is_of_another(&self, mark: DirectoryMark) -> bool {
        let born_elsewhere = self.born.zip(mark.born).is_some_and(|(then, now)| then != now);
        self.inode != mark.inode || born_elsewhere
    }
}

/// A generation that is written beside the mirror and not yet in its place.
#[derive(Debug)]
pub(super) struct Prepared<'m> {
    mirror: &'m Mirror,
    record: MirrorRecord,
    _alone: MutexGuard<'static, ()>,
}

impl Prepared<'_> {
    /// Puts it in place, durably.
    pub(super) fn publish(self) -> io::Result<()> {
        match self.mirror {
            Mirror::Memory(held) => {
                *held.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.record);
                Ok(())
            }
            Mirror::Directory(directory) => put_in_place(directory),
        }
    }
}

/// Held from reading to renaming: two creations at once would write into one new file, and the lower of
/// their generations could stay.
static CHANGING: Mutex<()> = Mutex::new(());

/// Where the mirror is kept.
#[derive(Debug)]
pub enum Mirror {
    /// In a file of the data directory.
    Directory(PathBuf),
    /// In memory, for the simulator: it survives a crash as the file does.
    Memory(Mutex<Option<MirrorRecord>>),
}

impl Mirror {
    /// What it says; `None` where there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read: that is never the same as there being none.
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

    /// Replaces it whole, durably: a crash leaves the old one or the new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, record: &MirrorRecord) -> io::Result<()> {
        let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        self.put(record)
    }

    /// Changes it, and nothing else can in between. Answers whether there is one.
    ///
    /// # Errors
    /// When it cannot be read or written.
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

    /// Remembers a generation, if it is higher than the one it holds.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn note_generation(&self, generation: i64) -> io::Result<()> {
        self.update(|record| record.generation = record.generation.max(generation)).map(drop)
    }

    /// Writes a higher generation beside the mirror. `None` where there is no mirror, or nothing higher to say.
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
                put_in_place(directory)
            }
        }
    }

    /// Which directory it is kept in.
    ///
    /// # Errors
    /// When the directory cannot be looked at.
    pub fn place(&self) -> io::Result<DirectoryMark> {
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

fn put_in_place(directory: &Path) -> io::Result<()> {
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
    fn record_is_of_another_directory_when_inode_or_birth_differ() {
        let here = DirectoryMark { device: 1, inode: 2, born: Some(7) };
        let record = record(3).placed(here);
        assert!(
            !record.is_of_another(DirectoryMark { device: 9, ..here }),
            "remounted under another device number"
        );
        assert!(
            !record.is_of_another(DirectoryMark { born: None, ..here }),
            "a file system without birth times"
        );
        assert!(record.is_of_another(DirectoryMark { inode: 3, ..here }));
        assert!(
            record.is_of_another(DirectoryMark { born: Some(8), ..here }),
            "the root of another file system"
        );
    }

    #[test]
    fn prepared_generation_is_not_in_the_mirror_until_published() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = Mirror::Directory(dir.path().to_owned());
        mirror.write(&record(3)).unwrap();
        drop(mirror.prepare_generation(4).unwrap());
        assert_eq!(mirror.read().unwrap(), Some(record(3)), "an abandoned change is in the mirror");
        mirror.prepare_generation(4).unwrap().unwrap().publish().unwrap();
        assert_eq!(mirror.read().unwrap(), Some(record(4)));
        assert!(mirror.prepare_generation(4).unwrap().is_none());
    }

    #[test]
    fn the_generation_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = Mirror::Directory(dir.path().to_owned());
        assert_eq!(mirror.read().unwrap(), None);
        let record = record(3).placed(mirror.place().unwrap());
        mirror.write(&record).unwrap();
        mirror.note_generation(7).unwrap();
        mirror.note_generation(4).unwrap();
        assert_eq!(mirror.read().unwrap(), Some(MirrorRecord { generation: 7, ..record }));
    }

    #[test]
    fn creations_at_once_leave_a_whole_mirror_with_the_highest_generation() {
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
    fn an_unreadable_mirror_is_an_error_and_not_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MIRROR_FILE_NAME), "{").unwrap();
        assert!(Mirror::Directory(dir.path().to_owned()).read().is_err());
    }
}
