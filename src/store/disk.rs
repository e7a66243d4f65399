//! The simulator's database in memory, and the store that works on it.

use std::sync::{Arc, Mutex, PoisonError};

use super::lane::{Lanes, Writer};
use rusqlite::Connection;

use super::{
    Mirror, OpenError, Store, StoreError, StoreResult,
    connection::{STATEMENTS, apply_pragmas},
    migrate, writer,
};
use crate::runtime::tasks::Stage;

impl Store {
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
}

/// The simulator's database in memory. A simulated crash keeps its committed transactions. Clones share one database.
#[derive(Clone)]
pub struct Disk {
    pub(super) writer: Arc<Mutex<Writer>>,
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
