//! The registry's database: the only module that uses SQLite.
//!
//! The rest of ostler accesses storage through [`Store`]: one method per query or change, taking and returning domain
//! types. No signature contains SQL, so that another store can be added beside this one. Each file contains the SQL for
//! one kind of data, such as workspaces, tokens or events.
//!
//! A change checks its own guard (allowed statuses, incarnation, age) inside its transaction and returns whether it
//! applied. If the guard does not hold, another change came first; this is a result, not an error. [`StoreError`]
//! always means that the store could not answer.

mod activity;
mod admins;
mod agents;
mod delegations;
mod events;
mod heartbeats;
mod lane;
mod lifecycle;
mod log;
mod memories;
mod migrate;
mod mirror;
#[cfg(test)]
mod query_plans;
mod registry;
mod roster;
mod row;
mod sweeps;
mod tokens;
mod trash;
mod workspaces;

use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig, vtab::array};
use tokio::sync::broadcast;

use crate::{
    domain::event::{Event, TransientEvent},
    runtime::tasks::Stage,
};
use lane::{Lanes, Writer};
use log::OpenFile;
use roster::SharedRoster;

pub use activity::{Activity, ActivityPage, NewActivity, Queued, Summary};
pub use admins::AdminToken;
pub use agents::{Described, Vitals};
pub use delegations::{Attempt, Delegated, Delegation, Dispatched, NewDelegation, Waiting};
pub use heartbeats::{Registration, ReportResult};
pub use lifecycle::{
    ClaimedRestart, ContainerEnd, GoneResult, HibernateReason, HibernateResult, PauseResult, Precondition,
};
pub use memories::{Memory, MemoryQuery, Remembered};
pub use mirror::{DirectoryMark, MIRROR_FILE_NAME, Mirror, MirrorRecord};
pub use registry::{HostReach, Registry};
pub use roster::{LastReport, Member, Pause, TokenOwner, TokenSubject, manages_status};
pub use sweeps::{Approval, HeldPlanRow, NewHeldPlan};
pub use tokens::{HeldToken, InvalidToken, NewApiToken, StaleTokens, TokenIssue};
pub use trash::{ClaimGuard, DeleteGuard, NewClaim};
pub use workspaces::{
    AdoptedContainer, AdoptedWorkspace, BeginStart, Begun, ContainerAdoption, CreateResult, Found,
    NewWorkspace, PatchResult, PortRange, RemoveResult, Scope, StatusChange, UndeleteResult, UndeleteSkip,
    UndeletedAlong, UndeletedUnder, WorkspaceEdit, WorkspacePatch,
};

/// The database's file name inside the data directory.
pub const FILE_NAME: &str = "ostler.db";

/// How long a statement waits for a lock that another connection holds.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Number of reading threads: two, so that a long listing does not delay a short query.
const READERS: usize = 2;

/// Capacity of each connection's cache of prepared statements. It exceeds the number of different statements, so that a
/// connection prepares each statement only once.
const STATEMENTS: usize = 192;

/// Page cache limit of a reading thread's connection, in KiB.
///
/// A small registry never fills the cache. In a registry with a million rows of history, a listing of a thousand
/// containers repeatedly reads pages that fill about half of it.
const READER_CACHE_KIB: i64 = 16 * 1024;

/// Number of events that a subscriber may lag behind. A slower subscriber misses events; it can read missed events from
/// the store, except transient ones.
const FEED_CAPACITY: usize = 1024;

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
    fn new(found: impl Into<String>) -> Self {
        Self { found: found.into(), kind: ErrorKind::Other }
    }

    fn mirror(error: &io::Error) -> Self {
        Self { found: format!("{error}. {}", advice_for(error)), kind: ErrorKind::Mirror }
    }

    fn replaced(path: &Path) -> Self {
        let found = format!("{} was deleted or replaced while ostler had it open", path.display());
        Self { found, kind: ErrorKind::Replaced }
    }

    /// Returns cause and advice without the introductory text, for messages that have their own introduction.
    fn found_and_advice(&self) -> String {
        format!("{}{}", self.found, self.kind.advice())
    }

    /// Error for a statement that panicked, or whose thread ended before it ran.
    fn unanswered() -> Self {
        Self::new("a statement was not completed; the log shows the cause")
    }

    fn closed() -> Self {
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
        wal = log::log_of(path).display()
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
    fn unreadable(path: &Path, error: &rusqlite::Error) -> Self {
        if is_of_the_disk(error) {
            Self::Store(StoreError { found: error.to_string(), kind: ErrorKind::of(error) })
        } else {
            Self::Damaged { path: path.to_owned(), found: error.to_string() }
        }
    }
}

fn is_of_the_disk(error: &rusqlite::Error) -> bool {
    match ErrorKind::of(error) {
        ErrorKind::Full | ErrorKind::Io | ErrorKind::ReadOnly | ErrorKind::CannotOpen => true,
        ErrorKind::Damaged | ErrorKind::Mirror | ErrorKind::Replaced | ErrorKind::Other => false,
    }
}

/// Handle to the registry's database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    lanes: Arc<Lanes>,
    feed: broadcast::Sender<Event>,
    transient: broadcast::Sender<TransientEvent>,
    roster: SharedRoster,
}

impl Store {
    /// Opens the database in `data_dir`; creates a missing directory (0700) or file (0600).
    ///
    /// # Errors
    /// The text of [`OpenError`] says what to do. An existing file is never replaced.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let path = data_dir.join(FILE_NAME);
        private_directory(data_dir)?;
        migrate::inspect(&path)?;
        private_file(&path)?;
        let sql = Connection::open(&path).map_err(StoreError::from)?;
        configure(&sql, &path)?;
        migrate::prepare(&sql, Some(&path))?;
        let file = OpenFile::begin(&sql, &path)?;
        let readers = (0..READERS).map(|_| open_reader(&path)).collect::<Result<_, _>>()?;
        let mirror = Arc::new(Mirror::Directory(data_dir.to_owned()));
        let writer = writer(sql).with_mirror(mirror).with_file(file);
        writer.load_roster()?;
        Self::of(writer, readers, path)
    }

    fn of(writer: Writer, readers: Vec<Connection>, path: PathBuf) -> Result<Self, OpenError> {
        let (feed, transient, roster) = writer.surroundings();
        let lanes = Lanes::threads(writer, readers).map_err(|source| OpenError::Location { path, source })?;
        Ok(Self { lanes: Arc::new(lanes), feed, transient, roster })
    }

    /// Opens an existing database for reading only; another process may be writing to it.
    ///
    /// # Errors
    /// If no database exists, it cannot be read, or [`Store::open`] would refuse it.
    pub fn open_read_only(data_dir: &Path) -> Result<Self, OpenError> {
        let path = data_dir.join(FILE_NAME);
        migrate::inspect(&path)?;
        let readers = (0..=READERS).map(|_| open_reader(&path)).collect::<Result<Vec<_>, _>>()?;
        let mut readers = readers.into_iter();
        let Some(first) = readers.next() else { return Err(StoreError::closed().into()) };
        // This store checks no tokens, so the in-memory state (the roster) is not loaded.
        Self::of(writer(first), readers.collect(), path)
    }

    /// Creates a store that executes all statements on the one connection of `disk`, each when `stage` runs it.
    ///
    /// The connection is in memory and outlives the store: a simulated crash drops the store and keeps `disk`.
    ///
    /// # Panics
    /// If the database in memory cannot be read.
    #[expect(clippy::expect_used, reason = "a database in memory cannot fail here")]
    pub fn staged(disk: &Disk, stage: Arc<dyn Stage>) -> Self {
        let writer = disk.lock();
        writer.load_roster().expect("a database in memory is readable");
        let (feed, transient, roster) = writer.surroundings();
        drop(writer);
        let lanes = Lanes::Staged { writer: Arc::clone(&disk.writer), stage };
        Self { lanes: Arc::new(lanes), feed, transient, roster }
    }

    /// Ends the store's threads; later calls fail. Moves the write-ahead log into the database file, so that the
    /// database can be copied as one file.
    pub async fn close(&self) {
        self.lanes.close().await;
    }

    /// Checks that the database is still the file at its path. Every write checks this first.
    ///
    /// # Errors
    /// [`StoreError`] says that the file was deleted or replaced, and what to do.
    pub async fn check_location(&self) -> StoreResult<()> {
        self.lanes.check_location().await
    }

    /// Subscribes to stored events from now on, in order, each sent after its commit.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.feed.subscribe()
    }

    /// Waits until the writing thread and one reading thread have each run a job. Does not return while the writing
    /// thread or all reading threads are stuck.
    ///
    /// Writes nothing, unless the last change could not be written. In that case it raises the generation, which needs
    /// space for the database and for the mirror.
    ///
    /// # Errors
    /// When the store cannot answer, or cannot write.
    pub async fn ping(&self) -> StoreResult<()> {
        let tried = |tx: &mut lane::Tx<'_>| {
            if tx.was_refused {
                tx.raise()?;
            }
            Ok(())
        };
        self.lanes.write("ping", tried).await?;
        self.lanes.read("ping", |sql| Ok(sql.query_row("SELECT 1", [], |_| Ok(()))?)).await
    }

    /// Subscribes to transient events from now on: events that are not stored, mostly heartbeats.
    #[must_use]
    pub fn subscribe_transient(&self) -> broadcast::Receiver<TransientEvent> {
        self.transient.subscribe()
    }
}

fn writer(sql: Connection) -> Writer {
    let (feed, _) = broadcast::channel(FEED_CAPACITY);
    let (transient, _) = broadcast::channel(FEED_CAPACITY);
    Writer::new(sql, feed, transient, SharedRoster::default())
}

/// The simulator's database in memory. A simulated crash keeps its committed transactions. Clones share one database.
#[derive(Clone)]
pub struct Disk {
    writer: Arc<Mutex<Writer>>,
}

impl Disk {
    /// Creates a migrated database in memory.
    ///
    /// # Errors
    /// If SQLite fails; not expected in memory.
    pub fn in_memory() -> Result<Self, OpenError> {
        let sql = Connection::open_in_memory().map_err(StoreError::from)?;
        apply_pragmas(&sql)?;
        migrate::prepare(&sql, None)?;
        Ok(Self { writer: Arc::new(Mutex::new(writer(sql))) })
    }

    /// Creates a copy of the database. A search with ten thousand simulator runs copies one migrated database, which is
    /// faster than a migration in each run.
    ///
    /// # Errors
    /// If SQLite fails; not expected in memory.
    pub fn copy(&self) -> Result<Self, OpenError> {
        let mut sql = Connection::open_in_memory().map_err(StoreError::from)?;
        self.lock().copy_to(&mut sql)?;
        apply_pragmas(&sql)?;
        // All lanes share one connection here.
        sql.set_prepared_statement_cache_capacity(STATEMENTS * 4);
        Ok(Self { writer: Arc::new(Mutex::new(self::writer(sql))) })
    }

    /// Empties all tables and keeps the prepared statements, so that a search with ten thousand simulator runs prepares
    /// each statement only once.
    ///
    /// # Errors
    /// If SQLite fails; not expected in memory.
    pub fn wipe(&self) -> StoreResult<()> {
        self.lock().wipe()
    }

    /// Simulates a disk with space for `free_pages` more pages: SQLite itself refuses changes that need more.
    ///
    /// # Panics
    /// If the database in memory cannot report its size.
    pub fn fill(&self, free_pages: u32) {
        self.lock().limit_to(Some(free_pages));
    }

    /// Ends the simulated full disk.
    ///
    /// # Panics
    /// If the size limit of the database in memory cannot be set.
    pub fn free(&self) {
        self.lock().limit_to(None);
    }

    /// Makes the store write its generation to this mirror too, as a store opened with [`Store::open`] does to its
    /// mirror file.
    pub fn mirror_to(&self, mirror: Arc<Mirror>) {
        self.lock().mirror_to(mirror);
    }

    /// Returns how many rows the connection has changed so far. If two calls return the same number, nothing was
    /// written in between.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.lock().changes()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates a directory with mode 0700. An existing directory gets that mode only if it contains nothing but ostler's
/// files.
///
/// A directory with other files (`--data-dir /tmp`) keeps its mode; ostler's files in it are private in any case.
fn private_directory(path: &Path) -> Result<(), OpenError> {
    let location = |source| OpenError::Location { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(location)?;
    for entry in std::fs::read_dir(path).map_err(location)? {
        let name = entry.map_err(location)?.file_name();
        let ours = ["ostler.", MIRROR_FILE_NAME, "quickstart"];
        if !ours.iter().any(|known| name.to_string_lossy().starts_with(known)) {
            return Ok(());
        }
    }
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).map_err(location)
}

/// Creates the file before SQLite does: SQLite gives its auxiliary files the mode of this one.
fn private_file(path: &Path) -> Result<(), OpenError> {
    let location = |source| OpenError::Location { path: path.to_owned(), source };
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(location)?;
    file.set_permissions(PermissionsExt::from_mode(0o600)).map_err(location)
}

/// Applies the pragmas and settings that every connection needs, on disk or in memory.
fn apply_pragmas(sql: &Connection) -> StoreResult<()> {
    // Plan each statement once, independent of bound values. Otherwise SQLite plans again at every execution where a
    // bound value could matter: `LIMIT ?` is enough, or a partial index on a table that rows are deleted from.
    sql.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    sql.pragma_update(None, "foreign_keys", true)?;
    array::load_module(sql)?;
    sql.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(())
}

fn configure(sql: &Connection, path: &Path) -> Result<(), OpenError> {
    let damaged = |error: rusqlite::Error| OpenError::unreadable(path, &error);
    sql.busy_timeout(BUSY_WAIT).map_err(StoreError::from)?;
    let mode: String =
        sql.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(damaged)?;
    if mode != "wal" {
        return Err(StoreError::new(format!(
            "the file system does not support WAL, only journal mode `{mode}`"
        ))
        .into());
    }
    sql.pragma_update(None, "synchronous", "FULL").map_err(StoreError::from)?;
    Ok(apply_pragmas(sql)?)
}

fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sql = Connection::open_with_flags(path, flags)
        .map_err(|error| OpenError::Location { path: path.to_owned(), source: io::Error::other(error) })?;
    sql.busy_timeout(BUSY_WAIT).map_err(StoreError::from)?;
    sql.pragma_update(None, "query_only", true).map_err(StoreError::from)?;
    sql.pragma_update(None, "cache_size", -READER_CACHE_KIB).map_err(StoreError::from)?;
    apply_pragmas(&sql)?;
    Ok(sql)
}
