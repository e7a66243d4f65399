//! Upgrades: a database of every released schema, full of rows, is upgraded to the current one and keeps each row.
//!
//! The rows come from the files of `tests/store/old`, which those versions wrote. They are multiplied, so that every
//! status and every kind of token, trash entry and held plan occurs. Every value of every column of the old schema is
//! compared. Further checks cover upgrades that fail: killed at any point, without disk space, from a newer schema.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use ostler::store::{FILE_NAME, OpenError, Scope, Store};
use rusqlite::{Connection, params};
use tokio::runtime::Runtime;

use crate::{
    Settings,
    disk::{crowd::advises_space, mounts},
    report::Section,
    support::{old_schemas::OLD, tables::Tables},
};

/// The write-ahead log's file name, next to the database.
const LOG: &str = "ostler.db-wal";
/// Size of the log's header, and of each of its frames: a header and one page.
const HEADER: usize = 32;
const FRAME: usize = 24 + 4096;

pub(crate) fn run(settings: &Settings, section: &mut Section) {
    if let Err(error) = mounts::can_mount() {
        section.broke(format!(
            "this campaign cannot mount a file system. Run it as root on a machine with loop devices. {error}"
        ));
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it starts");
    let newest = newest_schema();
    section.expect(OLD.len() + 1 == newest as usize, || {
        format!(
            "there are {newest} schema versions, but files of {} old ones: one was released without its file",
            OLD.len()
        )
    });
    let copies = if settings.long { 900 } else { 120 };
    for (index, (schema, text)) in OLD.iter().enumerate() {
        let version = u32::try_from(index + 1).expect("a small number");
        let tried =
            Old::make(schema, text, version, copies).and_then(|old| old.try_all(&runtime, settings, section));
        if let Err(error) = tried {
            section.broke(format!("{schema}: {error}"));
        }
    }
}

fn output(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The schema version of a new database.
fn newest_schema() -> u32 {
    let directory = tempfile::tempdir().expect("a temp directory");
    drop(Store::open(directory.path()).expect("a new database can be made"));
    version_of(&directory.path().join(FILE_NAME)).expect("it can be read")
}

fn version_of(path: &Path) -> rusqlite::Result<u32> {
    Connection::open(path)?.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// A database of an old schema, full of rows, closed as its version would have closed it.
struct Old {
    schema: String,
    version: u32,
    bytes: Vec<u8>,
    rows: Tables,
}

impl Old {
    fn make(schema: &str, text: &str, version: u32, copies: u32) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(output)?;
        let path = directory.path().join(FILE_NAME);
        let mut sql = Connection::open(&path).map_err(output)?;
        sql.execute_batch("PRAGMA journal_mode = WAL").map_err(output)?;
        sql.execute_batch(text).map_err(output)?;
        multiply(&mut sql, copies).map_err(output)?;
        let rows = Tables::read(&sql).map_err(output)?;
        drop(sql);
        let bytes = fs::read(&path).map_err(output)?;
        Ok(Self { schema: schema.to_owned(), version, bytes, rows })
    }

    fn put(&self, data: &Path) -> Result<(), String> {
        fs::create_dir_all(data).map_err(output)?;
        fs::write(data.join(FILE_NAME), &self.bytes).map_err(output)
    }

    fn backup(&self, data: &Path) -> PathBuf {
        data.join(format!("ostler.backup-v{}.db", self.version))
    }

    fn try_all(&self, runtime: &Runtime, settings: &Settings, section: &mut Section) -> Result<(), String> {
        section.count("released schemas upgraded", 1);
        self.keeps_every_row(runtime, section)?;
        self.is_cut(section)?;
        self.is_killed(section, if settings.long { 120 } else { 24 })?;
        self.runs_out_of_space(section, if settings.long { 1 } else { 31 })?;
        self.is_newer(section)
    }

    /// Checks an upgraded database.
    fn expect_upgraded(&self, section: &mut Section, data: &Path, when: &str) -> Result<(), String> {
        let sql = Connection::open(data.join(FILE_NAME)).map_err(output)?;
        let after = Tables::read(&sql).map_err(output)?;
        section.count("rows compared", self.rows.rows());
        section.count("values compared", self.rows.values());
        for lost in self.rows.lost_in(&after).into_iter().take(5) {
            section.broke(format!("{}, {when}: {lost}", self.schema));
        }
        let check: String =
            sql.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(output)?;
        let strays: u32 = sql
            .query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0))
            .map_err(output)?;
        section.expect(check == "ok" && strays == 0, || {
            format!("{when}: integrity check: {check}; {strays} rows violate a foreign key")
        });
        let version = version_of(&data.join(FILE_NAME)).map_err(output)?;
        section.expect(version > self.version, || format!("{when}: the schema version is still {version}"));
        Ok(())
    }

    fn keeps_every_row(&self, runtime: &Runtime, section: &mut Section) -> Result<(), String> {
        let directory = tempfile::tempdir().map_err(output)?;
        let data = directory.path();
        self.put(data)?;
        let store = Store::open(data).map_err(output)?;
        self.expect_upgraded(section, data, "upgraded")?;
        let rows = runtime.block_on(store.describe_all(Scope::Any)).map_err(output)?;
        let there: u32 = Connection::open(data.join(FILE_NAME))
            .and_then(|sql| sql.query_row("SELECT count(*) FROM workspaces", [], |row| row.get(0)))
            .map_err(output)?;
        section.expect(rows.len() == there as usize, || {
            format!("{} of {there} workspaces can be read", rows.len())
        });
        section.count("workspaces read through the store", rows.len() as u64);
        section.expect(runtime.block_on(store.memory_is_true()) == Ok(true), || {
            "memory differs from the tables".into()
        });
        if let Err(error) = runtime.block_on(store.trash()) {
            section.broke(format!("{}: the trash cannot be read: {error}", self.schema));
        }
        if let Err(error) = runtime.block_on(store.events_after(0, 1_000_000)) {
            section.broke(format!("{}: events cannot be read: {error}", self.schema));
        }
        close(store, data);

        // The copy equals the original in content and schema.
        let copy = Connection::open(self.backup(data)).map_err(output)?;
        let copied = Tables::read(&copy).map_err(output)?;
        section
            .expect(copied == self.rows, || format!("{}: the copy differs from the original", self.schema));
        drop(copy);
        section.expect(version_of(&self.backup(data)).ok() == Some(self.version), || {
            "the copy has another schema version".into()
        });

        // Opening the database again must change neither it nor the copy. Compares content instead of bytes: the last
        // connection to close may leave a log, which the next open checkpoints.
        let content =
            || Tables::read(&Connection::open(data.join(FILE_NAME)).map_err(output)?).map_err(output);
        let (upgraded, copy) = (content()?, fs::read(self.backup(data)));
        for _ in 0..2 {
            close(Store::open(data).map_err(output)?, data);
        }
        section.expect(content()? == upgraded, || "opening the database again changed it".into());
        section.expect(fs::read(self.backup(data)).ok() == copy.ok(), || {
            "opening the database again changed its copy".into()
        });
        // Whether the log is deleted depends on which of the store's connections closes last.
        let more: Vec<_> = names(data).into_iter().filter(|name| name != LOG).collect();
        section.expect(more.len() == 2, || format!("an upgrade leaves more than its copy: {more:?}"));

        // The copy works as the database, and is upgraded in the same way.
        let restored = data.join("restored");
        fs::create_dir(&restored).map_err(output)?;
        fs::copy(self.backup(data), restored.join(FILE_NAME)).map_err(output)?;
        close(Store::open(&restored).map_err(output)?, &restored);
        self.expect_upgraded(section, &restored, "restored from the copy and upgraded")
    }

    /// Truncates the log within its header and around the end of every frame, as a power cut does: the content is old or
    /// new, never mixed. Cuts within the header and at the ends of frames are also opened: the content is new after it.
    fn is_cut(&self, section: &mut Section) -> Result<(), String> {
        let directory = tempfile::tempdir().map_err(output)?;
        let memory = mounts::Mounted::tmpfs(&directory.path().join("memory"), "400m")?;
        let whole = memory.at().join("whole");
        self.put(&whole)?;
        // A reader of the old content prevents the checkpoint of the log.
        let reader = Connection::open(whole.join(FILE_NAME)).map_err(output)?;
        reader.execute_batch("BEGIN; SELECT count(*) FROM registry").map_err(output)?;
        let store = Store::open(&whole).map_err(output)?;
        let log = fs::read(whole.join(LOG)).map_err(output)?;
        let database = fs::read(whole.join(FILE_NAME)).map_err(output)?;
        drop(reader);
        close(store, &whole);
        let frames = log.len().saturating_sub(HEADER) / FRAME;
        section.expect(frames > 1 && log.len() == HEADER + frames * FRAME, || {
            format!("the log of the upgrade has {} bytes, which are not whole frames", log.len())
        });
        let in_header = |at: usize| at < HEADER;
        let ends_frame = |at: usize| at >= HEADER && (at - HEADER).is_multiple_of(FRAME);
        let (mut old, mut new, mut opened) = (0, 0, 0);
        let around_end = |at: usize| ends_frame(at) || ends_frame(at + 1) || (at > 0 && ends_frame(at - 1));
        for at in (0..=log.len()).rev().filter(|at| in_header(*at) || around_end(*at)) {
            let data = memory.at().join("cut");
            fs::create_dir_all(&data).map_err(output)?;
            fs::write(data.join(FILE_NAME), &database).map_err(output)?;
            fs::write(data.join(LOG), &log[..at]).map_err(output)?;
            if self.expect_old_or_new(section, &data, &format!("its log cut at {at}"))? {
                old += 1;
            } else {
                new += 1;
            }
            // Opening a database takes long, so the cuts beside the end of a frame are not opened, except at the end of
            // the log: SQLite reads them like a cut at the end of the last whole frame.
            if in_header(at) || ends_frame(at) || at + FRAME > log.len() {
                opened += 1;
                let store = Store::open(&data).map_err(output)?;
                self.expect_upgraded(section, &data, "cut, then opened")?;
                close(store, &data);
            }
            fs::remove_dir_all(&data).map_err(output)?;
        }
        section.count("logs of an upgrade cut around every frame", old + new);
        section.count("of them opened", opened);
        section.expect(opened < old + new, || "every cut was opened, so none was left out".into());
        section.expect(old > 0 && new > 0, || {
            format!("the cuts left {old} old and {new} new databases, but both kinds must occur")
        });
        memory.leave()
    }

    /// Checks a database without upgrading it. Returns whether it is old.
    fn expect_old_or_new(&self, section: &mut Section, data: &Path, when: &str) -> Result<bool, String> {
        let sql = Connection::open(data.join(FILE_NAME)).map_err(output)?;
        let version: u32 = sql.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(output)?;
        let rows = Tables::read(&sql).map_err(output)?;
        if version == self.version {
            section
                .expect(rows == self.rows, || format!("{when}: the version is old, but the content is not"));
        } else {
            for lost in self.rows.lost_in(&rows).into_iter().take(5) {
                section.broke(format!("{when}, with the new version: {lost}"));
            }
        }
        Ok(version == self.version)
    }

    /// Kills the upgrading daemon when its files have reached a given size.
    fn is_killed(&self, section: &mut Section, times: u64) -> Result<(), String> {
        let (mut old, mut new) = (0, 0);
        for number in 0..times {
            let directory = tempfile::tempdir().map_err(output)?;
            let data = directory.path().join("data");
            self.put(&data)?;
            let daemon = Daemon::start(directory.path(), &data)?;
            // The first third of the daemons is killed during the copy, the second during the upgrade, the rest later.
            let share = number * 3 % times;
            let size = self.bytes.len() as u64 * share / times;
            let file = match number * 3 / times {
                0 => None,
                1 => Some(LOG),
                _ => Some(FILE_NAME),
            };
            let began = Instant::now();
            daemon.kill_when(|| {
                let grown = match file {
                    None => size_of_newest_copy(&data) > size,
                    Some(LOG) => size_of(&data.join(LOG)) > size,
                    // In the last third everything is written, and the daemon already continues.
                    Some(_) => data.join("instance.json").exists(),
                };
                grown || data.join("instance.json").exists() || began.elapsed().as_secs() > 60
            })?;
            section.count("daemons killed while they upgraded", 1);
            let was_old = self.expect_old_or_new(section, &data, &format!("killed, number {number}"))?;
            if was_old {
                old += 1;
            } else {
                new += 1;
            }
            let store = Store::open(&data).map_err(output)?;
            self.expect_upgraded_with_registry(section, &data)?;
            close(store, &data);
            let copy = Connection::open(self.backup(&data)).map_err(output)?;
            let copied = Tables::read(&copy).map_err(output)?;
            section.expect(copied == self.rows, || {
                format!("killed, number {number}: the copy differs from the original")
            });
            drop(copy);
            let left: Vec<_> = names(&data).into_iter().filter(|name| name.contains("backup")).collect();
            section
                .expect(left.len() == 1, || format!("killed, then opened: there must be one copy: {left:?}"));
        }
        section.count("of them with the old schema afterwards", old);
        section.count("of them with the new schema afterwards", new);
        section.expect(old > 0 && new > 0, || {
            format!("the kills left {old} old and {new} new databases, but both kinds must occur")
        });
        Ok(())
    }

    /// The daemon continues after the upgrade (it may be recovering, and settle what it finds), so this only checks
    /// that nothing is lost.
    fn expect_upgraded_with_registry(&self, section: &mut Section, data: &Path) -> Result<(), String> {
        let sql = Connection::open(data.join(FILE_NAME)).map_err(output)?;
        let rows = Tables::read(&sql).map_err(output)?;
        section.expect(rows.rows() >= self.rows.rows(), || "rows are gone after a kill".into());
        let version = version_of(&data.join(FILE_NAME)).map_err(output)?;
        section.expect(version > self.version, || {
            format!("opened after a kill, the schema version is still {version}")
        });
        Ok(())
    }

    /// Upgrades with free space that grows from none to enough, in steps of `step` pages. Each upgrade succeeds, or is
    /// refused and leaves the data unchanged.
    fn runs_out_of_space(&self, section: &mut Section, step: usize) -> Result<(), String> {
        let directory = tempfile::tempdir().map_err(output)?;
        let pages = self.bytes.len().div_ceil(4096);
        let (mut refused, mut upgraded) = (0, 0);
        for spare in (0..pages * 5 / 2 + 200).step_by(step) {
            let disk =
                mounts::Mounted::tmpfs(&directory.path().join("disk"), &format!("{}k", (pages + spare) * 4))?;
            let data = disk.at().join("data");
            self.put(&data)?;
            match Store::open(&data) {
                Ok(store) => {
                    upgraded += 1;
                    if upgraded % 16 == 1 {
                        self.expect_upgraded(section, &data, &format!("with {spare} free pages"))?;
                    }
                    close(store, &data);
                }
                Err(error) => {
                    refused += 1;
                    let message = error.to_string();
                    section.expect(advises_space(&message) && !message.contains("restore a backup"), || {
                        format!("with {spare} free pages, the refusal gives the wrong advice: {message}")
                    });
                    // The check itself needs disk space, so it uses a copy elsewhere.
                    let elsewhere = tempfile::tempdir().map_err(output)?;
                    for file in [FILE_NAME, LOG].iter().filter(|file| data.join(file).exists()) {
                        fs::copy(data.join(file), elsewhere.path().join(file)).map_err(output)?;
                    }
                    let old = self.expect_old_or_new(section, elsewhere.path(), "without free space")?;
                    section.expect(old, || {
                        format!("with {spare} free pages, the upgrade was refused, but the schema is new")
                    });
                    section.expect(fs::read(data.join(FILE_NAME)).ok().as_ref() == Some(&self.bytes), || {
                        format!("with {spare} free pages, the upgrade was refused, but the file was changed")
                    });
                    let incomplete: Vec<_> = names(&data)
                        .into_iter()
                        .filter(|name| self.is_incomplete_copy(&data.join(name)))
                        .collect();
                    section.expect(incomplete.is_empty(), || {
                        format!(
                            "with {spare} free pages, incomplete copies under final names: {incomplete:?}"
                        )
                    });
                    disk.remount("size=64m")?;
                    close(Store::open(&data).map_err(output)?, &data);
                    if refused % 16 == 1 {
                        self.expect_upgraded(section, &data, "with free space again")?;
                    }
                }
            }
            disk.leave()?;
        }
        section.count("upgrades refused for lack of space, and unchanged", refused);
        section.count("upgrades with enough space", upgraded);
        section.expect(refused > 0 && upgraded > 0, || {
            format!("{refused} upgrades were refused and {upgraded} succeeded, but both must occur")
        });
        Ok(())
    }

    /// Whether a file has the name of a complete copy, which messages recommend as a replacement for a damaged
    /// database, without being complete.
    fn is_incomplete_copy(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let claims = name.starts_with("ostler.backup-") && path.extension().is_some_and(|end| end == "db");
        let whole = || {
            let uri = format!("file:{}?immutable=1", path.display());
            Connection::open(uri).and_then(|sql| Tables::read(&sql)).is_ok_and(|rows| rows == self.rows)
        };
        claims && !whole()
    }

    /// Checks that a newer schema is refused, whether its version is in the file or only in the log.
    fn is_newer(&self, section: &mut Section) -> Result<(), String> {
        for in_log in [false, true] {
            let directory = tempfile::tempdir().map_err(output)?;
            let (made, data) = (directory.path().join("made"), directory.path().join("data"));
            self.put(&made)?;
            close(Store::open(&made).map_err(output)?, &made);
            let sql = Connection::open(made.join(FILE_NAME)).map_err(output)?;
            sql.pragma_update(None, "user_version", 4711).map_err(output)?;
            fs::create_dir(&data).map_err(output)?;
            if in_log {
                fs::copy(made.join(LOG), data.join(LOG)).map_err(output)?;
            } else {
                sql.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(output)?;
            }
            fs::copy(made.join(FILE_NAME), data.join(FILE_NAME)).map_err(output)?;
            let content = |data: &Path| [FILE_NAME, LOG].map(|file| fs::read(data.join(file)).ok());
            let before = content(&data);
            let opened = Store::open(&data);
            section.count("newer databases refused", 1);
            section.expect(matches!(opened, Err(OpenError::Newer { version: 4711, .. })), || {
                format!("a newer database: {:?}", opened.as_ref().err())
            });
            section.expect(content(&data) == before, || "a newer database was written to".into());
            section.expect(!self.backup(&data).exists(), || "a newer database was copied".into());
        }
        Ok(())
    }
}

fn names(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data).expect("it can be listed");
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.ends_with("-shm"))
        .collect();
    names.sort();
    names
}

fn size_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The copy may have another name until it is complete.
fn size_of_newest_copy(data: &Path) -> u64 {
    let copies =
        names(data).into_iter().filter(|name| name.contains("backup") && !name.ends_with("-journal"));
    copies.map(|name| size_of(&data.join(name))).max().unwrap_or(0)
}

fn close(store: Store, data: &Path) {
    drop(store);
    while mounts::open_files_below(data) > 0 {
        std::thread::yield_now();
    }
}

/// The real daemon, without an engine. It needs none here, because it opens its database before it connects to one.
struct Daemon(std::process::Child);

impl Daemon {
    fn start(directory: &Path, data: &Path) -> Result<Self, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OSTLER_")) {
            command.env_remove(name);
        }
        let config = directory.join("config.toml");
        // With these settings the daemon keeps old rows, which it would otherwise delete after their retention.
        let keep = "[sweep]\nevent_retention = \"10000d\"\ntrash_retention = \"10000d\"\n";
        fs::write(&config, keep).map_err(output)?;
        // A free port chosen by the kernel; nothing connects to it.
        let port =
            TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr()).map_err(output)?.port();
        command
            .arg("serve")
            .env("OSTLER_CONFIG", &config)
            .env("OSTLER_DATA_DIR", data)
            .env("OSTLER_RUNTIME_DIR", directory.join("run"))
            .env("OSTLER_ENGINE_SOCKET", format!("unix://{}", directory.join("no-engine.sock").display()))
            .env("OSTLER_NETWORK_PORT", port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("log")).map_err(output)?);
        command.spawn().map(Self).map_err(output)
    }

    /// Polls without a pause, because the awaited state is short.
    fn kill_when(mut self, reached: impl Fn() -> bool) -> Result<(), String> {
        while !reached() {
            if let Some(status) = self.0.try_wait().map_err(output)? {
                return Err(format!("the daemon exited unexpectedly: {status}"));
            }
            std::thread::yield_now();
        }
        self.0.kill().map_err(output)?;
        self.0.wait().map(drop).map_err(output)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // No effect if it was already killed and reaped.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Copies every row `copies` times, with new keys, and with every keyword that its columns allow. A table that
/// allows only one row stays as it is.
///
/// It knows columns, not tables, so the next old schema needs no change here. Unique values are made unique by column
/// name or type; all others stay as the old version wrote them.
fn multiply(sql: &mut Connection, copies: u32) -> rusqlite::Result<()> {
    let tables: Vec<String> = sql
        .prepare(
            "SELECT t.name FROM sqlite_schema t WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'
               AND NOT EXISTS (SELECT 1 FROM pragma_table_info(t.name) c WHERE c.name = 'only_row')",
        )?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    sql.pragma_update(None, "foreign_keys", false)?;
    let tx = sql.transaction()?;
    for table in tables {
        let columns: Vec<String> = tx
            .prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let values: Vec<_> = columns.iter().map(|column| varied(&table, column)).collect();
        let (columns, values) = (columns.join(", "), values.join(", "));
        tx.execute_batch(&format!("CREATE TEMP TABLE first AS SELECT * FROM {table}"))?;
        let mut insert =
            tx.prepare(&format!("INSERT INTO {table} ({columns}) SELECT {values} FROM first"))?;
        for copy in 1..=copies {
            insert.execute(params![copy])?;
        }
        drop(insert);
        tx.execute_batch("DROP TABLE first")?;
    }
    tx.commit()
}

/// SQL for a column's value in copy `?1`.
fn varied(table: &str, column: &str) -> String {
    let words = |words: &[&str]| {
        let cases: Vec<_> =
            words.iter().enumerate().map(|(index, word)| format!("WHEN {index} THEN '{word}'")).collect();
        format!("CASE ?1 % {} {} END", words.len(), cases.join(" "))
    };
    match (table, column) {
        (_, "failure") => {
            format!(
                "CASE WHEN failure IS NULL THEN NULL ELSE {} END",
                words(&["provision_timeout", "start_error", "parked"])
            )
        }
        ("trash", "reason") => words(&["removed", "unknown", "stray", "replaced"]),
        ("trash", "state") => words(&["claimed", "kept", "restoring", "deleting"]),
        // A volume may have any name, but only a container id names a container.
        ("trash_items", "kind") => {
            format!("CASE length(item) WHEN 64 THEN {} ELSE kind END", words(&["container", "volume"]))
        }
        ("held_plans", "approved_at") => "CASE ?1 % 2 WHEN 0 THEN held_at + ?1 END".into(),
        (_, "status_detail") => {
            "CASE ?1 % 3 WHEN 0 THEN 'détail « ' || ?1 || ' »' ELSE status_detail END".into()
        }
        (_, "key" | "sequence") => format!("{column} + 100000 * ?1"),
        (_, "host_port") => "host_port + 40 * ?1".into(),
        (_, "name" | "item" | "pass" | "container_id") => {
            format!(
                "CASE length({column}) WHEN 64 THEN printf('%08x', ?1) || substr({column}, 9) ELSE {column} || '-' || ?1 END"
            )
        }
        // References by key, and unique blobs.
        _ => format!(
            "CASE typeof({column}) WHEN 'blob' THEN unhex(printf('%08x', ?1) || substr(hex({column}), 9))
               WHEN 'integer' THEN {column} + {} ELSE {column} END",
            if column == "workspace" { "100000 * ?1" } else { "0" }
        ),
    }
}
