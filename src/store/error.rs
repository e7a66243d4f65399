//! Errors of the store, each with advice for the operator.

use std::{
    io,
    path::{Path, PathBuf},
};

use rusqlite::ErrorCode;

use super::file_names::log_of;

/// The store could not answer. This error never means that a row is missing or that a guard does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {found}{}", kind.what(), kind.advice())]
pub struct StoreError {
    found: String,
    kind: ErrorKind,
}

/// Error kind of a [`StoreError`], derived from SQLite's error code and never from its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorKind {
    /// No space left on the disk.
    Full,
    /// The disk or its file system failed.
    Io,
    /// The file or its directory is not writable.
    ReadOnly,
    /// A file cannot be opened for lack of space, descriptors or permission.
    CannotOpen,
    /// The database file is damaged.
    Damaged,
    /// The mirror file could not be written, so nothing was changed.
    Mirror,
    /// The file was deleted or replaced while it was open.
    Replaced,
    /// Anything else.
    Other,
}

impl ErrorKind {
    fn of(error: &rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::SystemIoFailure) => Self::Io,
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            Some(ErrorCode::CannotOpen) => Self::CannotOpen,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged,
            _ => Self::Other,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Mirror => "cannot write the mirror file of the registry's identity",
            Self::Full
            | Self::Io
            | Self::ReadOnly
            | Self::CannotOpen
            | Self::Damaged
            | Self::Replaced
            | Self::Other => "the registry's database is not usable at present",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Full => ". Free some disk space; nothing was changed",
            Self::Io => ". The disk is full or failing: check `df` and the kernel log",
            Self::ReadOnly => ". Make the data directory writable; nothing was changed",
            Self::CannotOpen => {
                ". The disk is full, or ostler may not access the data directory: check `df`, and its owner and mode"
            }
            Self::Damaged => {
                ". The file is damaged, or its disk is failing. Check the kernel log, then restart ostler: it checks \
                 every page and reports what to do"
            }
            Self::Mirror => ". Nothing was changed",
            Self::Replaced => {
                ". Changes are refused, because the next start would lose them. The daemon's log shows whether the \
                 open database was saved as `ostler.rescued-*.db` in the data directory. If so, stop ostler, replace \
                 ostler.db by that copy, move ostler.db-wal and ostler.db-shm away, and start ostler"
            }
            Self::Other => "",
        }
    }
}

/// Returns advice for a file that cannot be used.
pub(crate) fn advice_for(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::StorageFull {
        "Free some disk space"
    } else if error.kind() == io::ErrorKind::InvalidData {
        "Its content is damaged: restore the file that belongs to this database, or move it away; the next start \
         then writes it again from the database"
    } else if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) {
        "The disk is failing: check the kernel log"
    } else {
        "Check that the directory exists and is writable"
    }
}

impl StoreError {
    pub(super) fn new(found: impl Into<String>) -> Self {
        Self { found: found.into(), kind: ErrorKind::Other }
    }

    pub(super) fn mirror(error: &io::Error) -> Self {
        Self { found: format!("{error}. {}", advice_for(error)), kind: ErrorKind::Mirror }
    }

    pub(super) fn replaced(path: &Path) -> Self {
        let found = format!("{} was deleted or replaced while ostler had it open", path.display());
        Self { found, kind: ErrorKind::Replaced }
    }

    /// Returns cause and advice without the introductory text, for messages that have their own introduction.
    pub(super) fn found_and_advice(&self) -> String {
        format!("{}{}", self.found, self.kind.advice())
    }

    /// Error for a statement that panicked, or whose thread ended before it ran.
    pub(super) fn unanswered() -> Self {
        Self::new("a statement was not completed; the log shows the cause")
    }

    pub(super) fn closed() -> Self {
        Self::new("the database is closed")
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self { found: error.to_string(), kind: ErrorKind::of(&error) }
    }
}

/// Result of a store operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// Why a database was not opened. The file is left unchanged.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory or the file cannot be created or accessed.
    #[error("cannot use {path}: {source}. {}", advice_for(source))]
    Location {
        /// File or directory that could not be used.
        path: PathBuf,
        /// Error from the operating system.
        source: io::Error,
    },
    /// The database was written by a later version.
    #[error(
        "{path} has schema version {version}, but this version of ostler supports only {known}: a newer version \
         wrote it. Install that version again, or restore a backup: replace the file by \
         `ostler.backup-v{known}.db`, and move ostler.db-wal and ostler.db-shm away"
    )]
    Newer {
        /// Path of the database.
        path: PathBuf,
        /// Schema version of the file.
        version: u32,
        /// Newest schema version this program supports.
        known: u32,
    },
    /// The database is damaged.
    #[error(
        "{path} is damaged ({found}). Nothing was changed. Stop ostler and move the file, ostler.db-wal and \
         ostler.db-shm to a safe place. Then restore a backup (copy any `ostler.backup-*.db` to that path), or start \
         without a database and adopt the running containers with `ostler adopt --all`"
    )]
    Damaged {
        /// Path of the database.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// The write-ahead log beside the file belongs to another database.
    #[error(
        "{wal} does not belong to {path} ({found}): the database was replaced, but the log of the previous one was \
         left. Nothing was changed. To use the current ostler.db, move ostler.db-wal and ostler.db-shm away (keep \
         them) and start again. To use the previous database, move the previous ostler.db back beside its log",
        wal = log_of(path).display()
    )]
    ForeignLog {
        /// Path of the database.
        path: PathBuf,
        /// Why the log does not belong to the database.
        found: String,
    },
    /// The file is a database of another program.
    #[error(
        "{path} is a database of another program. Choose another data directory with `--data-dir`. If it was \
         ostler's database, it is damaged: restore a backup (any `ostler.backup-*.db`), and move ostler.db-wal and \
         ostler.db-shm away"
    )]
    NotOurs {
        /// Path of the database.
        path: PathBuf,
    },
    /// The backup before a migration failed; nothing was migrated.
    #[error("the database was not migrated, because the backup to {copy} failed: {found}")]
    Backup {
        /// Path the backup was to be written to.
        copy: PathBuf,
        /// Cause and advice.
        found: String,
    },
    /// A migration failed and was rolled back.
    #[error("migration {name} failed and was rolled back: {found}. Report this as a bug")]
    Migration {
        /// Name of the migration.
        name: String,
        /// Error from SQLite.
        found: String,
    },
    /// A pragma or another setup step failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    /// Classifies an error from reading the file as damage, unless the disk or its permissions caused it. A full disk
    /// must not lead a user to replace an intact database by a backup.
    pub(super) fn unreadable(path: &Path, error: &rusqlite::Error) -> Self {
        if is_of_the_disk(error) {
            Self::Store(StoreError { found: error.to_string(), kind: ErrorKind::of(error) })
        } else {
            Self::Damaged { path: path.to_owned(), found: error.to_string() }
        }
    }
}

pub(super) fn is_of_the_disk(error: &rusqlite::Error) -> bool {
    match ErrorKind::of(error) {
        ErrorKind::Full | ErrorKind::Io | ErrorKind::ReadOnly | ErrorKind::CannotOpen => true,
        ErrorKind::Damaged | ErrorKind::Mirror | ErrorKind::Replaced | ErrorKind::Other => false,
    }
}
