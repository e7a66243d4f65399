//! The mirror beside the database: what tells a lost registry from a new one.
//!
//! It holds the identity and how many rows were ever made. A new database beside an old mirror, or a
//! database that has made fewer rows than its mirror remembers, was lost or restored from a copy, and
//! what it does not know is held instead of reaped. The mirror is written after the row and before the
//! row's container is made: a crash in between leaves it behind, which means nothing, never ahead.
//! It also names the directory it was written in, so that a copied one is noticed.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
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
    /// How many rows were ever made.
    pub generation: i64,
    /// Whether an engine has been accepted, so that its sentinel has to be there.
    pub engine_accepted: bool,
    /// The device of the directory it was written in.
    pub device: u64,
    /// The inode of that directory.
    pub inode: u64,
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
                Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
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

    /// Remembers that so many rows have been made.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn note_generation(&self, generation: i64) -> io::Result<()> {
        let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read()? {
            Some(record) if record.generation < generation => {
                self.put(&MirrorRecord { generation, ..record })
            }
            _ => Ok(()),
        }
    }

    fn put(&self, record: &MirrorRecord) -> io::Result<()> {
        match self {
            Self::Memory(held) => {
                *held.lock().unwrap_or_else(PoisonError::into_inner) = Some(record.clone());
                Ok(())
            }
            Self::Directory(directory) => replace(directory, &serde_json::to_vec_pretty(record)?),
        }
    }

    /// The device and inode of the directory it is kept in.
    ///
    /// # Errors
    /// When the directory cannot be looked at.
    pub fn place(&self) -> io::Result<(u64, u64)> {
        match self {
            Self::Memory(_) => Ok((0, 0)),
            Self::Directory(directory) => {
                let metadata = fs::metadata(directory)?;
                Ok((metadata.dev(), metadata.ino()))
            }
        }
    }
}

fn replace(directory: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = directory.join(format!("{MIRROR_FILE_NAME}.new"));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    crash_point::before("mirror: replace the file");
    fs::rename(&new, directory.join(MIRROR_FILE_NAME))?;
    crash_point::after("mirror: replace the file");
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn the_generation_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = Mirror::Directory(dir.path().to_owned());
        assert_eq!(mirror.read().unwrap(), None);
        let (device, inode) = mirror.place().unwrap();
        let record = MirrorRecord {
            instance: InstanceId(Uuid::from_u128(5)),
            generation: 3,
            engine_accepted: true,
            device,
            inode,
        };
        mirror.write(&record).unwrap();
        mirror.note_generation(7).unwrap();
        mirror.note_generation(4).unwrap();
        assert_eq!(mirror.read().unwrap(), Some(MirrorRecord { generation: 7, ..record }));
    }

    #[test]
    fn creations_at_once_leave_a_whole_mirror_with_the_highest_generation() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = Mirror::Directory(dir.path().to_owned());
        let (device, inode) = mirror.place().unwrap();
        let instance = InstanceId(Uuid::from_u128(5));
        mirror
            .write(&MirrorRecord { instance, generation: 0, engine_accepted: false, device, inode })
            .unwrap();
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
