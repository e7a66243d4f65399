//! The database files: permissions, refused files, and the effects of a full or read-only disk.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use ostler::{
    domain::{event::EventKind, ids::InstanceId, workspace::Kind},
    store::{CreateResult, FILE_NAME, Mirror, MirrorRecord, OpenError, Scope, Store},
};
use rusqlite::Connection;
use serde_json::json;

use super::{Fixture, T0, dump, new_workspace, registry, uuid};
use crate::support::assert_root;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o7777
}

/// Every file of a directory with its bytes, except SQLite's shared memory, which SQLite rebuilds.
fn content(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_none_or(|e| e != "db-shm"))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

/// The bytes of a healthy database of several pages, with an empty log.
async fn healthy() -> Vec<u8> {
    let fixture = Fixture::new().await;
    for number in 0..60 {
        fixture.container(&format!("workspace-{number}")).await;
    }
    let left: i64 =
        fixture.side().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0, "the log could not be emptied");
    fs::read(fixture.path()).unwrap()
}

fn refused(directory: &Path, what: &str) -> OpenError {
    match Store::open(directory) {
        Err(error) => error,
        Ok(_) => panic!("the database was opened, {what}"),
    }
}

#[tokio::test]
async fn database_files_are_readable_by_their_owner_only() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("made/by/ostler");
    let store = Store::open(&data).unwrap();
    store.found_registry(registry()).await.unwrap();
    assert_eq!(mode(&data), 0o700);
    for file in [FILE_NAME, "ostler.db-wal", "ostler.db-shm"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    drop(store);

    let loose = tempfile::tempdir().unwrap();
    fs::write(loose.path().join(FILE_NAME), healthy().await).unwrap();
    fs::set_permissions(loose.path(), PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(loose.path().join(FILE_NAME), PermissionsExt::from_mode(0o644)).unwrap();
    let store = Store::open(loose.path()).unwrap();
    store.emit(T0, EventKind::ContainerStopped, None, json!({}), None).await.unwrap();
    assert_eq!(mode(loose.path()), 0o700, "other users can still enter the directory");
    for file in [FILE_NAME, "ostler.db-wal", "ostler.db-shm"] {
        assert_eq!(mode(&loose.path().join(file)), 0o600, "{file}");
    }
}

#[tokio::test]
async fn directory_with_other_files_keeps_its_mode() {
    let shared = tempfile::tempdir().unwrap();
    fs::write(shared.path().join("foreign-file"), "").unwrap();
    fs::set_permissions(shared.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    drop(Store::open(shared.path()).unwrap());
    assert_eq!(mode(shared.path()), 0o1777, "the mode of a shared directory was changed");
    assert_eq!(mode(&shared.path().join(FILE_NAME)), 0o600);
}

#[tokio::test]
async fn read_only_store_reads_and_never_writes() {
    let fixture = Fixture::new().await;
    let id = fixture.container("alpha").await;
    let reader = Store::open_read_only(fixture.directory()).unwrap();
    let before = fixture.dump();
    let refused = reader.create_workspace(new_workspace("beta", Kind::Container), T0).await.unwrap_err();
    assert!(refused.to_string().contains("readonly"), "{refused}");
    assert_eq!(fixture.dump(), before);
    assert!(reader.workspace(id).await.unwrap().is_some());
    let later = fixture.container("gamma").await;
    assert!(reader.workspace(later).await.unwrap().is_some(), "a commit of another process is not visible");
}

#[test]
fn read_only_store_does_not_create_a_database() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Store::open_read_only(directory.path()).is_err());
    assert!(content(directory.path()).is_empty());
}

/// Damaged database files, with a name for each kind of damage.
fn damages(healthy: &[u8]) -> Vec<(String, Vec<u8>)> {
    const PAGE: usize = 4096;
    let pages = healthy.len() / PAGE;
    assert!(pages > 8, "the healthy file is too small to be damaged in many places");
    let mut damages: Vec<(String, Vec<u8>)> = Vec::new();
    for length in
        [1, 50, 99, 100, PAGE, PAGE + 100, healthy.len() / 2, healthy.len() - PAGE, healthy.len() - 1]
    {
        damages.push((format!("truncated to {length} bytes"), healthy[..length].to_vec()));
    }
    let mut starts = vec![0, 16, 40, 100];
    starts.extend((1..pages).map(|page| page * PAGE));
    for start in starts {
        let mut bytes = healthy.to_vec();
        bytes[start..start + 32].fill(0xA5);
        damages.push((format!("overwritten at {start}"), bytes));
    }
    damages.push(("all zeros".into(), vec![0; healthy.len()]));
    damages.push(("a text".into(), b"notes on what to keep\n".repeat(400)));
    damages
}

#[tokio::test]
async fn damaged_database_is_refused_with_advice_and_left_unchanged() {
    for (damage, bytes) in damages(&healthy().await) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        fs::write(&path, &bytes).unwrap();
        let errors =
            [Some(refused(directory.path(), &damage)), Store::open_read_only(directory.path()).err()];
        for error in errors {
            let error = error.unwrap_or_else(|| panic!("the database was opened for reading, {damage}"));
            let message = error.to_string();
            assert!(message.contains(path.to_str().unwrap()), "{damage}: {message}");
            assert!(
                message.contains("restore a backup") && message.contains("ostler.db-wal"),
                "{damage}: the error has no next step: {message}"
            );
        }
        assert_eq!(
            content(directory.path()),
            BTreeMap::from([(path, bytes)]),
            "{damage}: something was written"
        );
    }
}

#[tokio::test]
async fn newer_database_is_refused_and_left_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE_NAME);
    let mut bytes = healthy().await;
    bytes[60..64].copy_from_slice(&7_u32.to_be_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = refused(directory.path(), "although newer");
    assert!(matches!(error, OpenError::Newer { version: 7, known: 4, .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("Install that version again") && message.contains("ostler.backup-v4.db"),
        "{message}"
    );
    assert_eq!(content(directory.path()), BTreeMap::from([(path, bytes)]));
}

#[tokio::test]
async fn newer_database_and_its_log_are_left_unchanged_after_a_crash() {
    let fixture = Fixture::new().await;
    let side = fixture.side();
    side.pragma_update(None, "user_version", 7).unwrap();
    // The state after a power cut: the newer version number is only in the log.
    let directory = tempfile::tempdir().unwrap();
    for file in [FILE_NAME, "ostler.db-wal"] {
        fs::copy(fixture.directory().join(file), directory.path().join(file)).unwrap();
    }
    let before = content(directory.path());
    assert_eq!(before.len(), 2);
    assert!(matches!(refused(directory.path(), "although newer"), OpenError::Newer { version: 7, .. }));
    assert_eq!(content(directory.path()), before);
}

#[tokio::test]
async fn log_left_by_a_crash_is_replayed() {
    let fixture = Fixture::new().await;
    let id = fixture.container("alpha").await;
    let directory = tempfile::tempdir().unwrap();
    for file in [FILE_NAME, "ostler.db-wal"] {
        fs::copy(fixture.directory().join(file), directory.path().join(file)).unwrap();
    }
    let store = Store::open(directory.path()).unwrap();
    assert!(store.workspace(id).await.unwrap().is_some());
    assert_eq!(dump(&Connection::open(directory.path().join(FILE_NAME)).unwrap()), fixture.dump());
}

#[tokio::test]
async fn empty_database_file_beside_a_log_is_refused() {
    let fixture = Fixture::new().await;
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(FILE_NAME), "").unwrap();
    fs::copy(fixture.directory().join("ostler.db-wal"), directory.path().join("ostler.db-wal")).unwrap();
    let before = content(directory.path());
    assert!(matches!(refused(directory.path(), "although empty beside a log"), OpenError::Damaged { .. }));
    assert_eq!(content(directory.path()), before, "the log, the registry's only remaining data, was changed");
}

#[test]
fn database_of_another_program_is_refused_and_left_unchanged() {
    for journal in ["delete", "wal"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        let other = Connection::open(&path).unwrap();
        other.pragma_update(None, "journal_mode", journal).unwrap();
        other.execute_batch("CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('mine')").unwrap();
        drop(other);
        let before = content(directory.path());
        let error = refused(directory.path(), "although another program's");
        assert!(matches!(error, OpenError::NotOurs { .. }), "{error}");
        assert!(error.to_string().contains("--data-dir"), "{error}");
        assert_eq!(content(directory.path()), before, "a database in journal mode {journal} was changed");
    }
}

#[test]
fn store_opens_in_a_path_with_special_characters() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("what? 100% #1 ü");
    drop(Store::open(&data).unwrap());
    drop(Store::open(&data).unwrap());
    assert!(data.join(FILE_NAME).exists());
}

/// A file system of a given size; mounting it requires root.
pub(super) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(super) fn new(size: &str) -> Self {
        assert_root();
        let disk = Self(tempfile::tempdir().unwrap());
        disk.run("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "ostler-test"]);
        disk
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let ran = Command::new(program).args(arguments).arg(self.0.path()).output();
        let ran = ran.unwrap_or_else(|error| panic!("{program}: {error}"));
        let stderr = String::from_utf8_lossy(&ran.stderr);
        assert!(
            ran.status.success(),
            "`{program} {}` fails although run as root: {stderr}",
            arguments.join(" ")
        );
    }

    pub(super) fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// Fills the disk completely and returns the file to delete.
    pub(super) fn fill(&self) -> PathBuf {
        let ballast = self.0.path().join("ballast");
        let mut file = fs::File::create(&ballast).unwrap();
        for block in [4096, 1] {
            while std::io::Write::write_all(&mut file, &vec![0; block]).is_ok() {}
        }
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The unmount is lazy, because the store's threads may still be closing files.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[tokio::test]
async fn writes_fail_on_a_full_disk_until_space_is_freed() {
    let disk = SmallDisk::new("2m");
    let store = Store::open(&disk.data()).unwrap();
    store.found_registry(registry()).await.unwrap();
    let mirror = Mirror::Directory(disk.data());
    let record = MirrorRecord {
        instance: InstanceId(uuid()),
        generation: 0,
        engine_accepted: false,
        device: 0,
        inode: 0,
        born: None,
    };
    let record = record.placed(mirror.location().unwrap());
    mirror.write(&record).unwrap();

    let ballast = disk.fill();
    let mut made: i64 = 0;
    let message = loop {
        let new = new_workspace(&format!("workspace-{made}"), Kind::Container);
        match store.create_workspace(new, T0).await {
            Ok(CreateResult::Created(_)) => made += 1,
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(message.contains("Free some disk space"), "{message}");
    assert_eq!(store.workspaces(Scope::Any).await.unwrap().len(), usize::try_from(made).unwrap());
    assert_eq!(store.registry().await.unwrap().unwrap().generation, made, "a creation was committed in part");
    assert_eq!(store.events_after(0, 10_000).await.unwrap().len(), usize::try_from(made).unwrap());
    let mirrored = MirrorRecord { generation: made, ..record };
    assert_eq!(mirror.read().unwrap(), Some(mirrored.clone()), "the mirror differs from the committed state");

    fs::remove_file(ballast).unwrap();
    let again = store.create_workspace(new_workspace("later", Kind::Container), T0).await;
    assert_eq!(again, Ok(CreateResult::Created(made + 1)));
    assert_eq!(mirror.read().unwrap(), Some(MirrorRecord { generation: made + 1, ..mirrored }));
}

/// A registry with workspaces of these names. Its store is open.
async fn served_with(rows: &[&str]) -> Fixture {
    let fixture = Fixture::new().await;
    for name in rows {
        fixture.container(name).await;
    }
    fixture
}

fn copy_files(from: &Path, to: &Path, files: &[&str]) {
    for file in files {
        fs::copy(from.join(file), to.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

async fn names_in(directory: &Path) -> Vec<String> {
    let store = Store::open(directory).unwrap();
    let rows = store.workspaces(Scope::Any).await.unwrap();
    rows.into_iter().map(|row| row.name.to_string()).collect()
}

#[tokio::test]
async fn clean_stop_leaves_a_single_complete_database_file() {
    let fixture = served_with(&["alpha", "beta"]).await;
    fixture.store.close().await;
    let left: Vec<_> = content(fixture.directory()).into_keys().collect();
    assert_eq!(left, [fixture.path()], "a file was left beside the database");
    assert!(!fixture.directory().join("ostler.db-shm").exists());
    let elsewhere = tempfile::tempdir().unwrap();
    copy_files(fixture.directory(), elsewhere.path(), &[FILE_NAME]);
    // Opening the copy for reading first must not prevent the start.
    drop(Store::open_read_only(elsewhere.path()).unwrap());
    assert_eq!(names_in(elsewhere.path()).await, ["alpha", "beta"]);
    let refused = fixture.store.workspaces(Scope::Any).await.unwrap_err().to_string();
    assert!(refused.contains("closed"), "{refused}");
}

/// Copies the database of an open store to a path.
type MakeCopy = fn(&Fixture, &Path);

#[tokio::test]
async fn database_copy_beside_a_foreign_log_is_refused() {
    let copies: [(&str, MakeCopy); 3] = [
        ("a copy made after the daemon was stopped", |fixture, to| {
            let stopped = tempfile::tempdir().unwrap();
            copy_files(fixture.directory(), stopped.path(), &[FILE_NAME, "ostler.db-wal"]);
            let store = Store::open(stopped.path()).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(store.close());
                });
            });
            fs::copy(stopped.path().join(FILE_NAME), to).unwrap();
        }),
        ("a copy made by SQLite", |fixture, to| {
            fixture.side().execute("VACUUM INTO ?1", [to.to_str().unwrap()]).unwrap();
        }),
        ("a copy of the file from an earlier start", |fixture, to| {
            fixture.side().execute("UPDATE log_mark SET base = base + 1, state = 'checkpoint'", []).unwrap();
            fixture.side().execute("VACUUM INTO ?1", [to.to_str().unwrap()]).unwrap();
            fixture.side().execute("UPDATE log_mark SET base = base - 1, state = 'open'", []).unwrap();
        }),
    ];
    for (what, make_copy) in copies {
        let fixture = served_with(&["alpha"]).await;
        let kept = tempfile::tempdir().unwrap();
        let copy = kept.path().join("copy.db");
        make_copy(&fixture, &copy);
        fixture.container("beta").await;
        // The daemon was killed and left its log; then the copy replaces the database file.
        let killed = tempfile::tempdir().unwrap();
        copy_files(fixture.directory(), killed.path(), &[FILE_NAME, "ostler.db-wal"]);
        fs::copy(&copy, killed.path().join(FILE_NAME)).unwrap();
        let before = content(killed.path());
        let error = refused(killed.path(), &format!("{what}, beside a foreign log"));
        assert!(matches!(error, OpenError::ForeignLog { .. }), "{what}: {error}");
        let message = error.to_string();
        for part in ["ostler.db-wal", "ostler.db-shm", "does not belong"] {
            assert!(message.contains(part), "{what}: `{part}` is missing: {message}");
        }
        assert_eq!(content(killed.path()), before, "{what}: something was changed");
        // Follow the advice in the error message.
        fs::remove_file(killed.path().join("ostler.db-wal")).unwrap();
        let _absent = fs::remove_file(killed.path().join("ostler.db-shm"));
        assert_eq!(names_in(killed.path()).await, ["alpha"], "{what}");
    }
}

#[tokio::test]
async fn log_of_killed_daemon_is_replayed_if_it_matches_database() {
    let fixture = served_with(&["alpha"]).await;
    let killed = tempfile::tempdir().unwrap();
    copy_files(fixture.directory(), killed.path(), &[FILE_NAME, "ostler.db-wal"]);
    for round in 0..3 {
        let store = Store::open(killed.path()).unwrap();
        let name = format!("round-{round}");
        assert!(matches!(
            store.create_workspace(new_workspace(&name, Kind::Container), T0).await,
            Ok(CreateResult::Created(_))
        ));
        // Simulate another kill: take a copy of the files while the store is open.
        let next = tempfile::tempdir().unwrap();
        copy_files(killed.path(), next.path(), &[FILE_NAME, "ostler.db-wal"]);
        drop(store);
        copy_files(next.path(), killed.path(), &[FILE_NAME, "ostler.db-wal"]);
    }
    assert_eq!(names_in(killed.path()).await, ["alpha", "round-0", "round-1", "round-2"]);
}

#[tokio::test]
async fn long_log_is_checkpointed_while_serving() {
    let fixture = served_with(&[]).await;
    let log = fixture.directory().join("ostler.db-wal");
    let longest = 8 << 20;
    for number in 0..400 {
        let payload = json!({ "text": "x".repeat(60_000) });
        fixture.store.emit(T0, EventKind::ContainerStopped, None, payload, None).await.unwrap();
        let size = fs::metadata(&log).unwrap().len();
        assert!(size < longest, "the log has {size} bytes after event {number}");
    }
    let killed = tempfile::tempdir().unwrap();
    copy_files(fixture.directory(), killed.path(), &[FILE_NAME, "ostler.db-wal"]);
    let store = Store::open(killed.path()).unwrap();
    // Older events may be gone, because the history is bounded in bytes.
    assert_eq!(store.newest_events(None, 1).await.unwrap().first().map(|event| event.id), Some(400));
}

#[tokio::test]
async fn deletion_of_the_open_database_stops_writes_and_saves_a_copy() {
    for gone in [FILE_NAME, "ostler.db-wal"] {
        let fixture = served_with(&["alpha"]).await;
        fixture.store.check_location().await.unwrap();
        fs::remove_file(fixture.directory().join(gone)).unwrap();
        let refused = fixture.store.create_workspace(new_workspace("beta", Kind::Container), T0).await;
        let message = refused.expect_err("a row was created that is lost at the next start").to_string();
        assert!(message.contains(gone) && message.contains("deleted or replaced"), "{message}");
        assert!(message.contains("ostler.rescued-"), "no next step: {message}");
        assert!(fixture.store.check_location().await.is_err());
        let rescued = fixture.directory().join("ostler.rescued-1.db");
        assert_eq!(mode(&rescued), 0o600);
        assert!(
            !fixture.directory().join("ostler.rescued-2.db").exists(),
            "the open database was saved twice"
        );
        let saved = tempfile::tempdir().unwrap();
        fs::copy(rescued, saved.path().join(FILE_NAME)).unwrap();
        assert_eq!(names_in(saved.path()).await, ["alpha"], "{gone}");
    }
}

#[tokio::test]
async fn writes_are_refused_when_the_open_database_was_replaced() {
    let fixture = served_with(&["alpha"]).await;
    let other = served_with(&["other"]).await;
    let copy = fixture.directory().join("incoming.db");
    other.side().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    fs::rename(copy, fixture.path()).unwrap();
    let refused = fixture.store.create_workspace(new_workspace("beta", Kind::Container), T0).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("replaced")));
}

#[tokio::test]
async fn store_opens_once_a_full_disk_has_space_again() {
    let disk = SmallDisk::new("2m");
    fs::create_dir(disk.data()).unwrap();
    let ballast = disk.fill();
    let message = refused(&disk.data(), "although nothing can be written").to_string();
    assert!(
        message.contains("full") || message.contains("No space left") || message.contains("I/O error"),
        "{message}"
    );
    fs::remove_file(ballast).unwrap();
    let store = Store::open(&disk.data()).unwrap();
    store.found_registry(registry()).await.unwrap();
}

/// SQLite needs space for a log's shared memory, which a full disk does not have. The error must not report damage:
/// users would replace an intact database by an old backup.
#[tokio::test]
async fn database_on_a_full_disk_is_not_reported_as_damaged() {
    let fixture = Fixture::new().await;
    let id = fixture.container("alpha").await;
    let disk = SmallDisk::new("2m");
    fs::create_dir(disk.data()).unwrap();
    for file in [FILE_NAME, "ostler.db-wal"] {
        fs::copy(fixture.directory().join(file), disk.data().join(file)).unwrap();
    }
    let ballast = disk.fill();
    let before = content(&disk.data());
    let message = refused(&disk.data(), "although nothing can be written").to_string();
    assert!(!message.contains("damaged") && !message.contains("backup"), "{message}");
    assert!(message.contains("check `df`"), "{message}");
    assert_eq!(content(&disk.data()), before);
    fs::remove_file(ballast).unwrap();
    assert!(Store::open(&disk.data()).unwrap().workspace(id).await.unwrap().is_some());
}

#[tokio::test]
async fn read_only_disk_is_reported_until_it_is_writable_again() {
    let disk = SmallDisk::new("2m");
    fs::create_dir(disk.data()).unwrap();
    let path = disk.data().join(FILE_NAME);
    let bytes = healthy().await;
    fs::write(&path, &bytes).unwrap();
    disk.run("mount", &["-o", "remount,ro"]);
    let message = refused(&disk.data(), "although nothing can be written").to_string();
    assert!(message.contains("Read-only file system") && message.contains("writable"), "{message}");
    assert_eq!(content(&disk.data()), BTreeMap::from([(path, bytes)]));
    disk.run("mount", &["-o", "remount,rw"]);
    let store = Store::open(&disk.data()).unwrap();
    assert_eq!(
        store.create_workspace(new_workspace("later", Kind::Container), T0).await,
        Ok(CreateResult::Created(61))
    );
}
