//! Connections to the database: opening one, and the pragmas and settings of each.

use std::{io, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, config::DbConfig, vtab::array};

use super::{OpenError, StoreError, StoreResult};

/// How long a statement waits for a lock that another connection holds.
pub(super) const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Capacity of each connection's cache of prepared statements. It exceeds the number of different statements, so that a
/// connection prepares each statement only once.
pub(super) const STATEMENTS: usize = 192;

/// Page cache limit of a reading thread's connection, in KiB.
///
/// A small registry never fills the cache. In a registry with a million rows of history, a listing of a thousand
/// containers repeatedly reads pages that fill about half of it.
const READER_CACHE_KIB: i64 = 16 * 1024;

/// Applies the pragmas and settings that every connection needs, on disk or in memory.
pub(super) fn apply_pragmas(sql: &Connection) -> StoreResult<()> {
    // Plan each statement once, independent of bound values. Otherwise SQLite plans again at every execution where a
    // bound value could matter: `LIMIT ?` is enough, or a partial index on a table that rows are deleted from.
    sql.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    sql.pragma_update(None, "foreign_keys", true)?;
    array::load_module(sql)?;
    sql.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(())
}

pub(super) fn configure(sql: &Connection, path: &Path) -> Result<(), OpenError> {
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

pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sql = Connection::open_with_flags(path, flags)
        .map_err(|error| OpenError::Location { path: path.to_owned(), source: io::Error::other(error) })?;
    sql.busy_timeout(BUSY_WAIT).map_err(StoreError::from)?;
    sql.pragma_update(None, "query_only", true).map_err(StoreError::from)?;
    sql.pragma_update(None, "cache_size", -READER_CACHE_KIB).map_err(StoreError::from)?;
    apply_pragmas(&sql)?;
    Ok(sql)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::store::{FILE_NAME, migrate};

    pub(in crate::store) fn file(dir: &std::path::Path) -> Connection {
        let path = dir.join(FILE_NAME);
        let sql = Connection::open(&path).unwrap();
        configure(&sql, &path).unwrap();
        migrate::prepare(&sql, Some(&path)).unwrap();
        sql
    }

    #[test]
    fn reader_connection_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let writer = file(dir.path());
        let reader = open_reader(&dir.path().join(FILE_NAME)).unwrap();
        for statement in [
            "INSERT INTO registry (only_row, instance, generation) VALUES (1, randomblob(16), 0)",
            "PRAGMA user_version = 9",
            "CREATE TABLE notes (text TEXT) STRICT",
            "PRAGMA query_only = off; DELETE FROM events",
        ] {
            let refused = reader.execute_batch(statement);
            assert!(
                refused.is_err_and(|error| error.to_string().contains("readonly")),
                "{statement} was allowed"
            );
        }
        assert_eq!(writer.query_row("SELECT count(*) FROM registry", [], |row| row.get(0)), Ok(0));
    }

    #[test]
    fn database_is_configured_with_synchronous_full() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        let sql = Connection::open(&path).unwrap();
        configure(&sql, &path).unwrap();
        let synchronous: u32 = sql.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        assert_eq!(synchronous, 2, "FULL: otherwise a power loss loses acknowledged changes");
    }
}
