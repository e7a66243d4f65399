//! Migration of a database file to the current schema, or its refusal.
//!
//! There are no downgrades. Before migrating, ostler writes a backup copy beside the file. All due migrations run in
//! one transaction: a failed upgrade, for lack of space or otherwise, leaves the old schema and never an intermediate
//! one.
//!
//! A file that is newer, damaged or not ostler's is refused, and no byte of it is changed. Replacing it by an empty
//! registry would make every container look unknown. The file is inspected through a connection that cannot write,
//! because even the switch to WAL mode would change another program's file.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use super::{OpenError, StoreError, error::is_of_the_disk, file_names::log_of, log, private::private_file};
use crate::testing::crash_point;

/// Marks a file as ostler's: ASCII `ostl`.
const APPLICATION_ID: i32 = 0x6f73_746c;

/// The migrations in order; the schema version is the number of those applied. Released ones never change.
pub(super) const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_keeper", include_str!("migrations/0001_keeper.sql")),
    ("0002_registry", include_str!("migrations/0002_registry.sql")),
    ("0003_field", include_str!("migrations/0003_field.sql")),
    ("0004_operations", include_str!("migrations/0004_operations.sql")),
];

/// Refuses a file that must not be opened for writing. Changes nothing in it.
pub(super) fn inspect(path: &Path) -> Result<(), OpenError> {
    let wal = log_of(path);
    let inspected = inspect_both(path, &wal);
    let Err(OpenError::Damaged { found, .. }) = &inspected else { return inspected };
    // SQLite also reports a read error of the disk as a malformed file. A backup does not help against that.
    read_through(path)?;
    read_through(&wal)?;
    if size_of(&wal)? > 0 && is_sound_alone(path) {
        return Err(OpenError::ForeignLog { path: path.to_owned(), found: found.clone() });
    }
    inspected
}

/// Whether the file without its log is an undamaged database of ostler's; the damage is then in the log.
fn is_sound_alone(path: &Path) -> bool {
    size_of(path).is_ok_and(|size| size > 0)
        && check_outline(path, false).is_ok()
        && open_for_inspection(path, false).is_ok_and(|sql| {
            identify(&sql, Some(path), MIGRATIONS.len()).is_ok() && check_integrity(&sql, path).is_ok()
        })
}

fn read_through(path: &Path) -> Result<(), OpenError> {
    let read = File::open(path).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
    match read {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(OpenError::Location { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn inspect_both(path: &Path, wal: &Path) -> Result<(), OpenError> {
    let damaged = |found: String| OpenError::Damaged { path: path.to_owned(), found };
    if size_of(path)? == 0 {
        // SQLite treats an empty file as a new database and discards the log beside it.
        return match size_of(wal)? {
            0 => Ok(()),
            left => Err(damaged(format!("the file is empty, but {} contains {left} bytes", wal.display()))),
        };
    }
    let has_log = wal.exists();
    check_outline(path, has_log)?;
    let sql = open_for_inspection(path, has_log).map_err(|error| OpenError::unreadable(path, &error))?;
    let found = identify(&sql, Some(path), MIGRATIONS.len());
    if matches!(found, Ok(_) | Err(OpenError::NotOurs { .. })) {
        check_integrity(&sql, path)?;
    }
    found?;
    if has_log {
        let alone = open_for_inspection(path, false).map_err(|error| OpenError::unreadable(path, &error))?;
        log::check(path, &sql, &alone)?;
    }
    log::warn_if_log_is_missing(path, &sql);
    Ok(())
}

/// Finds damage that SQLite overlooks.
///
/// SQLite treats a file of a few bytes as empty and overwrites it, and pads a truncated last page. With a log beside
/// the file, the file's length has no meaning.
fn check_outline(path: &Path, has_log: bool) -> Result<(), OpenError> {
    const SMALLEST_PAGE: usize = 512;
    let damaged = |found: &str| OpenError::Damaged { path: path.to_owned(), found: found.to_owned() };
    let location = |source| OpenError::Location { path: path.to_owned(), source };
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SMALLEST_PAGE as u64).read_to_end(&mut start))
        .map_err(location)?;
    if start.len() < SMALLEST_PAGE || !start.starts_with(b"SQLite format 3\0") {
        return Err(damaged("the file does not start with a SQLite header"));
    }
    let page = match u16::from_be_bytes([start[16], start[17]]) {
        1 => 65_536,
        size => u64::from(size),
    };
    if has_log || page == 0 || size_of(path)? % page == 0 {
        Ok(())
    } else {
        Err(damaged("the file is truncated"))
    }
}

/// Opens a file for inspection, together with its log if `has_log`. Otherwise reads only the file: `immutable` makes
/// SQLite ignore the log and keeps it from creating one.
fn open_for_inspection(path: &Path, has_log: bool) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match path.to_str().filter(|_| !has_log) {
        Some(name) => {
            // Escape the characters that have a meaning in a URI.
            let name: String = name.chars().map(escaped).collect();
            let uri = format!("file:{name}?immutable=1");
            Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)
        }
        None => Connection::open_with_flags(path, flags),
    }
}

fn escaped(letter: char) -> String {
    match letter {
        '%' | '?' | '#' => format!("%{:02x}", u32::from(letter)),
        _ => letter.to_string(),
    }
}

fn size_of(path: &Path) -> Result<u64, OpenError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(OpenError::Location { path: path.to_owned(), source }),
    }
}

/// Creates the schema, or migrates it to the current version.
pub(super) fn prepare(sql: &Connection, path: Option<&Path>) -> Result<(), OpenError> {
    apply(sql, path, MIGRATIONS)
}

/// Schema version of a file that is empty or ostler's.
struct Identity {
    fresh: bool,
    version: u32,
}

fn identify(sql: &Connection, path: Option<&Path>, known: usize) -> Result<Identity, OpenError> {
    let path = || path.map(Path::to_owned).unwrap_or_default();
    let damaged = |error: rusqlite::Error| OpenError::unreadable(&path(), &error);
    let version: u32 = sql.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(damaged)?;
    let owner: i32 = sql.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(damaged)?;
    let tables: u32 =
        sql.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(damaged)?;
    let fresh = version == 0 && tables == 0;
    if !fresh && owner != APPLICATION_ID {
        return Err(OpenError::NotOurs { path: path() });
    }
    let known = u32::try_from(known).unwrap_or(u32::MAX);
    if version > known {
        Err(OpenError::Newer { path: path(), version, known })
    } else {
        Ok(Identity { fresh, version })
    }
}

fn apply(sql: &Connection, path: Option<&Path>, migrations: &[(&str, &str)]) -> Result<(), OpenError> {
    let Identity { fresh, version } = identify(sql, path, migrations.len())?;
    let target = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    if version < target
        && !fresh
        && let Some(path) = path
    {
        crash_point::before("migrate: copy the file");
        back_up(sql, path, version)?;
        crash_point::after("migrate: copy the file");
    }
    if version == target {
        return Ok(());
    }
    let done = begin_and_apply(sql, &migrations[version as usize..], target);
    if done.is_err() && !sql.is_autocommit() {
        sql.execute_batch("ROLLBACK").map_err(StoreError::from)?;
    }
    done
}

/// Applies the due migrations in one transaction. A failure leaves it open for the caller to roll back.
fn begin_and_apply(sql: &Connection, due: &[(&str, &str)], target: u32) -> Result<(), OpenError> {
    let of_the_store = |error| OpenError::from(StoreError::from(error));
    sql.execute_batch("BEGIN IMMEDIATE").map_err(of_the_store)?;
    for (name, text) in due {
        sql.execute_batch(text).map_err(|error| {
            if is_of_the_disk(&error) {
                return of_the_store(error);
            }
            OpenError::Migration { name: (*name).to_owned(), found: error.to_string() }
        })?;
    }
    let version = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {target}");
    sql.execute_batch(&version).map_err(of_the_store)?;
    crash_point::before("migrate: commit the migrations");
    sql.execute_batch("COMMIT").map_err(of_the_store)?;
    crash_point::after("migrate: commit the migrations");
    Ok(())
}

/// Reads every page once, so that a damaged file is refused before ostler uses a part of it. This takes milliseconds
/// for the registry of one machine.
fn check_integrity(sql: &Connection, path: &Path) -> Result<(), OpenError> {
    let found = sql
        .query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
        .map_err(|error| OpenError::unreadable(path, &error))?;
    if found == "ok" { Ok(()) } else { Err(OpenError::Damaged { path: path.to_owned(), found }) }
}

/// Copies the file before it is changed.
///
/// The copy's name contains the schema version. The copy is renamed to that name only when it is complete and on disk,
/// because error messages advise users to replace a damaged database by the file of that name.
fn back_up(sql: &Connection, path: &Path, version: u32) -> Result<PathBuf, OpenError> {
    let copy = path.with_extension(format!("backup-v{version}.db"));
    let unfinished = path.with_extension(format!("backup-v{version}.unfinished"));
    let done = copy_to(sql, &unfinished).and_then(|()| {
        fs::rename(&unfinished, &copy)
            .and_then(|()| File::open(copy.parent().unwrap_or(Path::new(".")))?.sync_all())
            .map_err(|source| OpenError::Location { path: copy.clone(), source })
    });
    if done.is_err() {
        // Delete the incomplete copy: the disk may be full, and the next attempt makes a new copy in any case.
        let _never_made = fs::remove_file(&unfinished);
    }
    done.map(|()| copy)
}

fn copy_to(sql: &Connection, copy: &Path) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| OpenError::Backup {
        copy: copy.to_owned(),
        found: StoreError::from(error).found_and_advice(),
    };
    let location = |source| OpenError::Location { path: copy.to_owned(), source };
    match fs::remove_file(copy) {
        // The deleted copy was left by a process that was killed while it copied.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(location(source)),
    }
    // The copy must be private, as it contains environment variables and token digests.
    private_file(copy)?;
    let mut target = Connection::open(copy).map_err(failed)?;
    // No rollback is needed: the target file is empty before the copy.
    target.pragma_update(None, "journal_mode", "OFF").map_err(failed)?;
    rusqlite::backup::Backup::new(sql, &mut target)
        .and_then(|backup| backup.run_to_completion(1024, std::time::Duration::ZERO, None))
        .map_err(failed)?;
    drop(target);
    File::open(copy).and_then(|file| file.sync_all()).map_err(location)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema_of(sql: &Connection) -> Vec<String> {
        let mut rows =
            sql.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
        let texts = rows.query_map([], |row| row.get::<_, String>(0)).unwrap();
        texts
            .map(|text| {
                let lines = text.unwrap();
                let bare = lines.lines().map(|line| line.split("--").next().unwrap_or_default());
                // `ALTER TABLE` places commas and brackets differently.
                let text = bare.collect::<Vec<_>>().join(" ");
                let spaced = text.replace('(', " ( ").replace(')', " ) ").replace(',', " , ");
                spaced.split_whitespace().collect::<Vec<_>>().join(" ")
            })
            .collect()
    }

    #[test]
    fn schema_sql_matches_the_migrated_schema() {
        let migrated = Connection::open_in_memory().unwrap();
        prepare(&migrated, None).unwrap();
        let written = Connection::open_in_memory().unwrap();
        written.execute_batch(include_str!("../../schema.sql")).unwrap();
        assert_eq!(schema_of(&migrated), schema_of(&written));
    }

    #[test]
    fn migration_creates_a_backup_first_and_keeps_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ostler.db");
        let sql = Connection::open(&path).unwrap();
        prepare(&sql, Some(&path)).unwrap();
        sql.execute(
            "INSERT INTO registry (only_row, instance, generation) VALUES (1, randomblob(16), 7)",
            [],
        )
        .unwrap();
        let mut next = MIGRATIONS.to_vec();
        next.push(("9999_test", "CREATE TABLE extra (x INTEGER) STRICT"));
        apply(&sql, Some(&path), &next).unwrap();
        let generation: i64 = sql.query_row("SELECT generation FROM registry", [], |row| row.get(0)).unwrap();
        assert_eq!(generation, 7);
        let copy =
            Connection::open(dir.path().join(format!("ostler.backup-v{}.db", MIGRATIONS.len()))).unwrap();
        let kept: i64 = copy.query_row("SELECT generation FROM registry", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 7, "rows are in the copy");
        assert!(copy.prepare("SELECT x FROM extra").is_err(), "the copy has the old schema");
    }

    #[test]
    fn failed_migration_changes_nothing() {
        let sql = Connection::open_in_memory().unwrap();
        prepare(&sql, None).unwrap();
        let before = schema_of(&sql);
        let mut next = MIGRATIONS.to_vec();
        next.push(("9999_bad", "CREATE TABLE extra (x INTEGER) STRICT; CREATE TABLE registry (y)"));
        let error = apply(&sql, None, &next).unwrap_err().to_string();
        assert!(error.contains("9999_bad"), "{error}");
        assert_eq!(schema_of(&sql), before);
    }

    #[test]
    fn failed_upgrade_of_several_migrations_keeps_old_schema() {
        let sql = Connection::open_in_memory().unwrap();
        apply(&sql, None, &MIGRATIONS[..1]).unwrap();
        let before = schema_of(&sql);
        let mut next = MIGRATIONS.to_vec();
        next.push(("9999_bad", "CREATE TABLE registry (y)"));
        let error = apply(&sql, None, &next).unwrap_err().to_string();
        assert!(error.contains("9999_bad"), "{error}");
        assert_eq!(schema_of(&sql), before, "an intermediate schema was left");
        let version: u32 = sql.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(version, 1);
    }

    #[test]
    fn newer_database_is_refused() {
        let sql = Connection::open_in_memory().unwrap();
        prepare(&sql, None).unwrap();
        sql.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(prepare(&sql, None), Err(OpenError::Newer { version: 99, .. })));
    }

    #[test]
    fn foreign_database_is_refused() {
        let sql = Connection::open_in_memory().unwrap();
        sql.execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
        assert!(matches!(prepare(&sql, None), Err(OpenError::NotOurs { .. })));
    }
}
