//! The registry's file: the only user of SQLite.
//!
//! Everything the rest of ostler knows of storage is [`Store`]: one method per question or change,
//! taking and returning the domain's types, with no trace of SQL in a signature, so that another store
//! can stand beside this one. The SQL of a noun lives in the file of that noun.
//!
//! A change states its own guard (allowed statuses, incarnation, age) inside its transaction; what it
//! returns says whether it applied. "Zero rows changed" means that somebody else was there first, and is
//! an answer, not an error. [`StoreError`] is only ever the store being unable to answer at all.

mod activity;
mod admins;
mod agents;
mod beats;
mod delegations;
mod events;
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
    domain::event::{Event, Passing},
    tasks::Stage,
};
use lane::{Lanes, Writer};
use log::OpenFile;
use roster::SharedRoster;

pub use activity::{Activity, ActivityPage, NewActivity, Queued, Summary};
pub use admins::AdminToken;
pub use agents::{Described, Vitals};
pub use beats::{Heard, Registration};
pub use delegations::{Attempt, Delegated, Delegation, Dispatched, NewDelegation, Waiting};
pub use lifecycle::{ClaimedRestart, ContainerEnd, Drowsy, GoneResult, PauseResult, SleepResult, Unless};
pub use memories::{Memory, MemoryQuery, Remembered};
pub use mirror::{DirectoryMark, MIRROR_FILE_NAME, Mirror, MirrorRecord};
pub use registry::{HostReach, Registry};
pub use roster::{Bearer, Holder, Member, Pause, Said, manages_status};
pub use sweeps::{Approval, HeldPlanRow, NewHeldPlan};
pub use tokens::{DeadToken, HeldToken, NewApiToken, StaleTokens, TokenIssue};
pub use trash::{ClaimGuard, DeleteGuard, NewClaim};
pub use workspaces::{
    AdoptedContainer, AdoptedWorkspace, BeginStart, Begun, ContainerAdoption, CreateResult, Found,
    LeftRemoved, NewWorkspace, PatchResult, PortRange, RemoveResult, Scope, StatusChange, UndeleteResult,
    UndeletedAlong, UndeletedPlace, WorkspaceEdit, WorkspacePatch,
};

/// The database's file name inside the data directory.
pub const FILE_NAME: &str = "ostler.db";

/// How long a statement waits for another connection.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Reading lanes. Two, so that a long listing does not hold up a short look.
const READERS: usize = 2;

/// Prepared statements a connection keeps: more than there are, so that none is ever prepared twice.
const STATEMENTS: usize = 192;

/// The most memory a reading lane keeps pages in, in KiB. A small registry never fills it; in one with a
/// million rows of history a listing of a thousand containers touches about half of it, again and again.
const READER_CACHE_KIB: i64 = 16 * 1024;

/// How many events a slow listener may lag behind before it has to catch up from the store.
const FEED_CAPACITY: usize = 1024;

/// The store could not answer. Never a statement about what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {found}{}", kind.what(), kind.advice())]
pub struct StoreError {
    found: String,
    kind: ErrorKind,
}

/// What is behind a [`StoreError`], by SQLite's code and never by its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorKind {
    /// The disk is full.
    Full,
    /// The disk, or its file system, failed.
    Io,
    /// The file or its directory cannot be written.
    ReadOnly,
    /// A file cannot be opened: for lack of space, descriptors or permission.
    CannotOpen,
    /// The file is damaged.
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
            Self::Mirror => "cannot write the instance's mirror file",
            Self::Full
            | Self::Io
            | Self::ReadOnly
            | Self::CannotOpen
            | Self::Damaged
            | Self::Replaced
            | Self::Other => "the registry's database cannot be used right now",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Full => ". Free some disk space; nothing was changed",
            Self::Io => ". The disk is full or failing: look at `df` and at the kernel's log",
            Self::ReadOnly => ". Make the data directory writable; nothing was changed",
            Self::CannotOpen => {
                ". The disk is full, or the data directory closed to ostler: look at `df` and at its owner and mode"
            }
            Self::Damaged => {
                ". The file is damaged, or its disk failing: look at the kernel's log, and start ostler again; it then \
                 looks at every page, and says what to do"
            }
            Self::Mirror => ". Nothing was changed",
            Self::Replaced => {
                ". Nothing is written any more, because it would be lost at the next start. The log says whether the open \
                 database was saved as `ostler.rescued-*.db` in the data directory. If it was, stop ostler, put that copy \
                 in the place of ostler.db, with no ostler.db-wal and ostler.db-shm beside it, and start"
            }
            Self::Other => "",
        }
    }
}

/// What to do about a file that cannot be used.
pub(crate) fn advice_for(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::StorageFull {
        "Free some disk space; nothing was changed"
    } else if error.kind() == io::ErrorKind::InvalidData {
        "Its content is damaged: put back the one that belongs to this database, or move it away; the next start \
         writes it anew from the database"
    } else if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) {
        "The disk is failing: look at the kernel's log"
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

    /// What was found and what to do about it, for a message that says the rest itself.
    fn found_and_advice(&self) -> String {
        format!("{}{}", self.found, self.kind.advice())
    }

    /// A statement panicked, or the lanes ended before its turn came.
    fn unanswered() -> Self {
        Self::new("a statement got no answer, and the log says why")
    }

    fn closed() -> Self {
        Self::new("it was closed")
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self { found: error.to_string(), kind: ErrorKind::of(&error) }
    }
}

/// What the store answers.
pub type StoreResult<T> = Result<T, StoreError>;

/// Why a database was not opened. The file is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory or the file cannot be made or reached.
    #[error("cannot use {path}: {source}. {}", advice_for(source))]
    Place {
        /// What could not be used.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Written by a later version.
    #[error(
        "{path} has schema version {version}, and this ostler knows only {known}: it was written by a newer \
         one. Install that version again, or restore a backup: put `ostler.backup-v{known}.db` in its place, with no \
         ostler.db-wal and ostler.db-shm beside it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        version: u32,
        /// The newest this program knows.
        known: u32,
    },
    /// Damaged.
    #[error(
        "{path} is damaged ({found}). It was left untouched. Stop ostler, copy the file somewhere safe, then \
         put a backup in its place (any `ostler.backup-*.db` beside it), or move it away and start: \
         the running containers can then be taken back with `ostler adopt --all`. In both cases move ostler.db-wal and \
         ostler.db-shm away too: they belong to the damaged file"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// The log beside it belongs to another database.
    #[error(
        "{wal} does not belong to {path} ({found}): the database was replaced, and the log of the one before still lies \
         beside it. Nothing was changed. If you have put a copy in its place, move ostler.db-wal and ostler.db-shm away \
         (keep them) and start again: the copy is then used as it is. If you want what was there before, put the former \
         ostler.db back beside its log",
        wal = log::log_of(path).display()
    )]
    ForeignLog {
        /// The database.
        path: PathBuf,
        /// What shows it.
        found: String,
    },
    /// Another program's database.
    #[error(
        "{path} is a database of another program. Choose another data directory with --data-dir. If it was \
         ostler's, it is damaged: put a backup in its place (any `ostler.backup-*.db` beside it), with no \
         ostler.db-wal and ostler.db-shm beside it"
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// The copy before a migration failed.
    #[error("the database was not migrated, because it could not be copied to {copy} first: {found}")]
    Backup {
        /// Where the copy was to be.
        copy: PathBuf,
        /// What went wrong.
        found: String,
    },
    /// A migration failed and was rolled back.
    #[error("migration {name} failed and was rolled back: {found}. Please report this")]
    Migration {
        /// Which.
        name: String,
        /// What went wrong.
        found: String,
    },
    /// A setting could not be made.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    /// A file that could not be used: damaged, unless the disk is what refused. Nobody should put a
    /// backup in the place of a good database because the disk is full.
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

/// The registry. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    lanes: Arc<Lanes>,
    feed: broadcast::Sender<Event>,
    passing: broadcast::Sender<Passing>,
    roster: SharedRoster,
}

impl Store {
    /// Opens the database in `data_dir`, making both where they are missing (0700 and 0600).
    ///
    /// # Errors
    /// [`OpenError`] says what to do; an existing file is never replaced.
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
        let (feed, passing, roster) = writer.surroundings();
        let lanes = Lanes::threads(writer, readers).map_err(|source| OpenError::Place { path, source })?;
        Ok(Self { lanes: Arc::new(lanes), feed, passing, roster })
    }

    /// Opens an existing database for reading only: another process may be writing to it.
    ///
    /// # Errors
    /// When there is none, or it cannot be read, or it is one that [`Store::open`] refuses.
    pub fn open_read_only(data_dir: &Path) -> Result<Self, OpenError> {
        let path = data_dir.join(FILE_NAME);
        migrate::inspect(&path)?;
        let readers = (0..=READERS).map(|_| open_reader(&path)).collect::<Result<Vec<_>, _>>()?;
        let mut readers = readers.into_iter();
        let Some(first) = readers.next() else { return Err(StoreError::closed().into()) };
        // Nobody presents a token here, so nothing is kept in memory.
        Self::of(writer(first), readers.collect(), path)
    }

    /// A store on one connection whose every statement takes effect when `stage` says so. The
    /// connection may be in memory, and survives the store: the simulator's crash drops everything else.
    ///
    /// # Panics
    /// When a database in memory cannot be read.
    #[expect(clippy::expect_used, reason = "a database in memory has nothing that could fail")]
    pub fn staged(disk: &Disk, stage: Arc<dyn Stage>) -> Self {
        let writer = disk.lock();
        writer.load_roster().expect("a database in memory can be read");
        let (feed, passing, roster) = writer.surroundings();
        drop(writer);
        let lanes = Lanes::Staged { writer: Arc::clone(&disk.writer), stage };
        Self { lanes: Arc::new(lanes), feed, passing, roster }
    }

    /// Ends every lane: nothing is answered any more. The log is moved into the file, so that the database is one file
    /// that can be copied.
    pub async fn close(&self) {
        self.lanes.close().await;
    }

    /// Whether the database is still the file at its path: a write checks that first.
    ///
    /// # Errors
    /// [`StoreError`] says that it was deleted or replaced, and what to do.
    pub async fn check_place(&self) -> StoreResult<()> {
        self.lanes.check_place().await
    }

    /// Events from now on, in order, each after its commit.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.feed.subscribe()
    }

    /// Waits for both lanes: a writer or reader that is stuck gives no answer. Where the last change could not be
    /// written, one is tried that takes room in the database and beside it; otherwise nothing is written.
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

    /// What is told and not stored, from now on: beats, mostly.
    #[must_use]
    pub fn overhear(&self) -> broadcast::Receiver<Passing> {
        self.passing.subscribe()
    }
}

fn writer(sql: Connection) -> Writer {
    let (feed, _) = broadcast::channel(FEED_CAPACITY);
    let (passing, _) = broadcast::channel(FEED_CAPACITY);
    Writer::new(sql, feed, passing, SharedRoster::default())
}

/// What survives a crash in the simulator: committed transactions, nothing else. Clones are one disk.
#[derive(Clone)]
pub struct Disk {
    writer: Arc<Mutex<Writer>>,
}

impl Disk {
    /// A fresh, migrated database in memory.
    ///
    /// # Errors
    /// When SQLite refuses, which it has no reason to.
    pub fn in_memory() -> Result<Self, OpenError> {
        let sql = Connection::open_in_memory().map_err(StoreError::from)?;
        furnish(&sql)?;
        migrate::prepare(&sql, None)?;
        Ok(Self { writer: Arc::new(Mutex::new(writer(sql))) })
    }

    /// Another one that holds what this one holds: a search that begins ten thousand times does not migrate as often.
    ///
    /// # Errors
    /// When SQLite refuses, which it has no reason to.
    pub fn copy(&self) -> Result<Self, OpenError> {
        let mut sql = Connection::open_in_memory().map_err(StoreError::from)?;
        self.lock().copy_to(&mut sql)?;
        furnish(&sql)?;
        // Every lane's statements are on one connection here.
        sql.set_prepared_statement_cache_capacity(STATEMENTS * 4);
        Ok(Self { writer: Arc::new(Mutex::new(self::writer(sql))) })
    }

    /// Everything goes but the tables themselves, and what was prepared for them: a search that begins ten thousand
    /// times prepares no statement twice.
    ///
    /// # Errors
    /// When SQLite refuses, which it has no reason to.
    pub fn wipe(&self) -> StoreResult<()> {
        self.lock().wipe()
    }

    /// The disk is full, but for so many pages: what needs more is refused by SQLite itself.
    ///
    /// # Panics
    /// When a database in memory cannot be asked for its size.
    pub fn fill(&self, free_pages: u32) {
        self.lock().limit_to(Some(free_pages));
    }

    /// There is room on the disk again.
    ///
    /// # Panics
    /// When a database in memory cannot be told its size.
    pub fn free(&self) {
        self.lock().limit_to(None);
    }

    /// Keeps the generation in this mirror from now on, as a database in a directory does in the file beside it.
    pub fn mirror_to(&self, mirror: Arc<Mirror>) {
        self.lock().mirror_to(mirror);
    }

    /// How many rows were ever changed in it. Where it is what it was, nothing was written meanwhile.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.lock().changes()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a directory that only its owner may enter, and tightens one that is ours alone. One that holds
/// other things (somebody said `--data-dir /tmp`) keeps its mode: the files in it are private all the same.
fn private_directory(path: &Path) -> Result<(), OpenError> {
    let place = |source| OpenError::Place { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(place)?;
    for entry in std::fs::read_dir(path).map_err(place)? {
        let name = entry.map_err(place)?.file_name();
        let ours = ["ostler.", MIRROR_FILE_NAME, "quickstart"];
        if !ours.iter().any(|known| name.to_string_lossy().starts_with(known)) {
            return Ok(());
        }
    }
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).map_err(place)
}

/// Makes the file before SQLite does, because SQLite gives its own files the mode of this one.
fn private_file(path: &Path) -> Result<(), OpenError> {
    let place = |source| OpenError::Place { path: path.to_owned(), source };
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(place)?;
    file.set_permissions(PermissionsExt::from_mode(0o600)).map_err(place)
}

/// What every connection has, wherever its database lies.
fn furnish(sql: &Connection) -> StoreResult<()> {
    // One plan for each statement, whatever is bound to it. Without this, SQLite plans a statement anew at every
    // execution where a bound value could matter: a `LIMIT ?` is enough, or a partial index on a table deleted from.
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
        return Err(StoreError::new(format!("the file system allows no WAL, only `{mode}`")).into());
    }
    sql.pragma_update(None, "synchronous", "FULL").map_err(StoreError::from)?;
    Ok(furnish(sql)?)
}

fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sql = Connection::open_with_flags(path, flags)
        .map_err(|error| OpenError::Place { path: path.to_owned(), source: io::Error::other(error) })?;
    sql.busy_timeout(BUSY_WAIT).map_err(StoreError::from)?;
    sql.pragma_update(None, "query_only", true).map_err(StoreError::from)?;
    sql.pragma_update(None, "cache_size", -READER_CACHE_KIB).map_err(StoreError::from)?;
    furnish(&sql)?;
    Ok(sql)
}
