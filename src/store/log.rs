//! The write-ahead log (`ostler.db-wal`), and the check that it belongs to the database file.
//!
//! SQLite replays any log beside a database file. If a user replaces the database by a copy and leaves the old log
//! there, the log silently overwrites or damages the copy. SQLite stores in neither file which other file it belongs
//! to. So ostler keeps a mark in the database, the row of `log_mark`, with a number and a state:
//!
//! - Before a checkpoint, the mark gets a new random number and the state `checkpoint`.
//! - When the checkpoint has moved the whole log into the file, the first transaction in the new log sets the state
//!   `open`.
//!
//! So, read without its log, the file shows `checkpoint`; read with its log, it shows `open` and the same number. A
//! copy made through SQLite has `open` in the file itself, an older copy has another number, and a copy made after the
//! daemon was stopped has `closed`: none of them matches the log.
//!
//! SQLite's own automatic checkpoints are off, including the one when the database is closed: they would move `open`
//! into the file.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, config::DbConfig};

use super::{
    OpenError, StoreError, StoreResult, connection::BUSY_WAIT, file_names::log_of, private::private_file,
};
use crate::testing::crash_point;

/// Log size in bytes from which a commit is followed by a checkpoint.
const CHECKPOINT_BYTES: u64 = 4 << 20;
/// A checkpoint that did not move the whole log is retried when the log has grown by this many bytes.
const RETRY_BYTES: u64 = 1 << 20;
/// How long a checkpoint waits for readers. All changes wait during this time.
const READERS_WAIT: Duration = Duration::from_millis(100);
/// Bytes of a log's header and of its first frame's header.
const HEADERS: u64 = 32 + 24;
/// Maximum number of rescue copies beside one database.
const RESCUES: u32 = 20;

/// Content of the mark: number and state.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    base: i64,
    state: String,
}

/// Reads the mark; `None` in a database that has none yet.
fn read_mark(sql: &Connection) -> rusqlite::Result<Option<Mark>> {
    let exists: bool = sql.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'log_mark')",
        [],
        |row| row.get(0),
    )?;
    if !exists {
        return Ok(None);
    }
    let mark = |row: &rusqlite::Row<'_>| Ok(Mark { base: row.get(0)?, state: row.get(1)? });
    sql.query_row("SELECT base, state FROM log_mark", [], mark).optional()
}

/// Refuses a database whose log belongs to another database. `whole` reads the file with its log, `alone` reads only
/// the file.
pub(super) fn check(path: &Path, whole: &Connection, alone: &Connection) -> Result<(), OpenError> {
    let page: u32 = whole
        .pragma_query_value(None, "page_size", |row| row.get(0))
        .map_err(|error| OpenError::unreadable(path, &error))?;
    let log = log_of(path);
    let holds_frames = fs::metadata(&log).is_ok_and(|metadata| metadata.len() >= HEADERS + u64::from(page));
    let mark = read_mark(whole).map_err(|error| OpenError::unreadable(path, &error))?;
    let Some(mark) = mark.filter(|_| holds_frames) else { return Ok(()) };
    // In the other states, a checkpoint may have moved any part of the log into the file, so the marks cannot be
    // compared.
    if mark.state != "open" {
        return Ok(());
    }
    match read_mark(alone) {
        Ok(Some(own)) if own.state == "checkpoint" && own.base == mark.base => Ok(()),
        Ok(_) => Err(OpenError::ForeignLog {
            path: path.to_owned(),
            found: "their checkpoint marks differ".to_owned(),
        }),
        // The file itself is unreadable, so moving the log away would not help.
        Err(error) => Err(OpenError::Damaged { path: path.to_owned(), found: error.to_string() }),
    }
}

/// Warns about a database that was copied without its log while a daemon was writing to it.
pub(super) fn warn_if_log_is_missing(path: &Path, sql: &Connection) {
    let without_log = fs::metadata(log_of(path)).map_or(0, |metadata| metadata.len()) == 0;
    if without_log
        && let Ok(Some(mark)) = read_mark(sql)
        && mark.state == "checkpoint"
    {
        tracing::warn!(
            database = %path.display(),
            "the database was not closed and its log (-wal) is missing: the file may be a copy of ostler.db alone, \
             without the changes after the last checkpoint; copy ostler.db and ostler.db-wal together, or stop ostler \
             first"
        );
    }
}

/// Device and inode of a file.
type Location = (u64, u64);

fn location_of(path: &Path) -> io::Result<Location> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Database file that a writer has open, and its log.
pub(super) struct OpenFile {
    path: PathBuf,
    log: PathBuf,
    file_location: Location,
    log_location: Option<Location>,
    checkpoint_at: u64,
    /// Whether a rescue copy was attempted after the file was found replaced.
    rescued: bool,
}

impl OpenFile {
    /// Sets up a database that was just opened for writing: disables automatic checkpoints, and moves the log into the
    /// file.
    pub(super) fn begin(sql: &Connection, path: &Path) -> Result<Self, OpenError> {
        let location = |source| OpenError::Location { path: path.to_owned(), source };
        sql.pragma_update(None, "wal_autocheckpoint", 0).map_err(StoreError::from)?;
        // No automatic checkpoint on close either: on a full disk it could move only a part of the log into the file,
        // with the mark `open`.
        sql.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(StoreError::from)?;
        let log = log_of(path);
        let file_location = location_of(path).map_err(location)?;
        let mut open = Self {
            path: path.to_owned(),
            log,
            file_location,
            log_location: None,
            checkpoint_at: CHECKPOINT_BYTES,
            rescued: false,
        };
        open.checkpoint(sql);
        open.log_location = location_of(&open.log).ok();
        Ok(open)
    }

    /// Checks that the paths still lead to the files that are open. Costs two `stat` calls.
    pub(super) fn check_location(&self) -> StoreResult<()> {
        let is_there = |path: &Path, location: Location| match location_of(path) {
            Ok(now) => now == location,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        let replaced = if is_there(&self.path, self.file_location) {
            self.log_location.filter(|location| !is_there(&self.log, *location)).map(|_| &self.log)
        } else {
            Some(&self.path)
        };
        match replaced {
            None => Ok(()),
            Some(path) => Err(StoreError::replaced(path)),
        }
    }

    /// Saves the open database to a new file beside its path, after `check_location` has failed. Later calls do
    /// nothing.
    pub(super) fn rescue(&mut self, sql: &Connection) {
        if std::mem::replace(&mut self.rescued, true) {
            return;
        }
        match self.save(sql) {
            Ok(copy) => tracing::error!(
                copy = %copy.display(),
                "the open database was saved: stop ostler, replace ostler.db by this copy, move ostler.db-wal and \
                 ostler.db-shm away, and start ostler"
            ),
            Err(error) => tracing::error!(%error, "the open database could not be saved"),
        }
    }

    fn save(&self, sql: &Connection) -> Result<PathBuf, OpenError> {
        let copies = (1..=RESCUES).map(|number| self.path.with_extension(format!("rescued-{number}.db")));
        let free = copies.filter(|copy| !copy.exists()).take(1).next();
        let copy = free.ok_or_else(|| StoreError::new("too many rescued copies in the data directory"))?;
        private_file(&copy)?;
        let name = copy.to_str().ok_or_else(|| StoreError::new("the path of the copy is not UTF-8"))?;
        crash_point::before("store: save the open database");
        sql.execute("VACUUM INTO ?1", [name]).map_err(StoreError::from)?;
        crash_point::after("store: save the open database");
        Ok(copy)
    }

    /// Runs a checkpoint after a commit if the log is long enough.
    pub(super) fn after_commit(&mut self, sql: &Connection) {
        if self.log_size() >= self.checkpoint_at {
            self.checkpoint(sql);
        }
    }

    /// Moves the whole log into the database file before the last connection closes, unless the file is no longer at
    /// its path.
    pub(super) fn close(&self, sql: &Connection) {
        if self.check_location().is_err() {
            return;
        }
        let closed = mark(sql, "closed").and_then(|()| move_log(sql));
        match closed {
            // The journal mode is changed too, because in WAL mode even a reader would create a log beside the file.
            Ok(true) => match sql.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(())) {
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(%error, "write-ahead log not removed: another program is reading the database");
                }
            },
            Ok(false) => tracing::warn!(
                "write-ahead log not moved into the database: another program is reading the database"
            ),
            Err(error) => {
                tracing::warn!(%error, "the write-ahead log could not be moved into the database");
            }
        }
    }

    /// Runs a checkpoint. If it fails, the log grows until a later attempt succeeds.
    fn checkpoint(&mut self, sql: &Connection) {
        let done = mark(sql, "checkpoint").and_then(|()| move_log(sql)).and_then(|moved| {
            if moved {
                mark(sql, "open")?;
            }
            Ok(moved)
        });
        self.checkpoint_at = match done {
            Ok(true) => CHECKPOINT_BYTES,
            Ok(false) => self.log_size() + RETRY_BYTES,
            Err(error) => {
                tracing::warn!(%error, "checkpoint of the database failed");
                self.log_size() + RETRY_BYTES
            }
        };
    }

    fn log_size(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |metadata| metadata.len())
    }
}

/// Writes the mark's state; `checkpoint` also sets a new number.
fn mark(sql: &Connection, state: &str) -> StoreResult<()> {
    sql.execute(
        "INSERT INTO log_mark (only_row, base, state) VALUES (1, random(), ?1)
         ON CONFLICT (only_row) DO UPDATE SET
           base = CASE excluded.state WHEN 'checkpoint' THEN excluded.base ELSE base END, state = excluded.state",
        [state],
    )?;
    Ok(())
}

/// Moves the log into the file. `false` if readers prevented that for a part of the log.
fn move_log(sql: &Connection) -> StoreResult<bool> {
    sql.busy_timeout(READERS_WAIT)?;
    crash_point::before("log: checkpoint into the database");
    let busy = sql.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
    crash_point::after("log: checkpoint into the database");
    sql.busy_timeout(BUSY_WAIT)?;
    Ok(!busy?)
}
