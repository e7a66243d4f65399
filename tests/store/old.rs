//! Migration of databases of every older schema: no row is lost.

use ostler::{
    domain::{
        ids::WorkspaceId,
        status::{Failure, Status},
        time::Timestamp,
        token::TokenDigest,
    },
    store::{FILE_NAME, Scope, Store, TokenSubject},
};
use rusqlite::Connection;
use uuid::Uuid;

use super::files::SmallDisk;
use crate::support::{old_schemas::OLD, tables::Tables};

const T: i64 = 1_700_000_000_000;

/// The workspaces of every file.
const SINCE_1: &[(&str, Status)] = &[
    ("lead", Status::Online),
    ("worker", Status::Degraded),
    ("asleep", Status::Hibernated),
    ("stopped", Status::Paused),
    ("broken", Status::Failed(Failure::StartError)),
    ("gone", Status::Removed),
    ("phone", Status::AwaitingAgent),
    ("down", Status::Offline),
    ("starting", Status::Provisioning),
];

/// Those that the files of schema 3 and later have in addition.
const SINCE_3: &[(&str, Status)] = &[
    ("team", Status::Removed),
    ("worker", Status::Removed),
    ("stopping", Status::Hibernating),
    ("slow", Status::Failed(Failure::ProvisionTimeout)),
    ("parked", Status::Failed(Failure::Parked)),
    ("returning", Status::Offline),
    ("hook", Status::Online),
    ("helper", Status::Paused),
    ("orphan", Status::Paused),
];

#[tokio::test]
async fn every_released_schema_migrates_and_keeps_every_row() {
    for (version, (schema, text)) in (1..).zip(OLD) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        let before = {
            let sql = Connection::open(&path).unwrap();
            sql.execute_batch(text).unwrap();
            Tables::read(&sql).unwrap()
        };
        assert!(before.rows() > 30 && before.values() > 200, "{schema}: the file has too little data");
        let store = Store::open(directory.path()).unwrap_or_else(|error| panic!("{schema}: {error}"));
        let after = Tables::read(&Connection::open(&path).unwrap()).unwrap();
        assert_eq!(before.lost_in(&after), Vec::<String>::new(), "{schema}");
        let copy = directory.path().join(format!("ostler.backup-v{version}.db"));
        assert!(copy.exists(), "{schema}: no backup was made before the migration");

        let rows = store.describe_all(Scope::Any).await.unwrap();
        let statuses: Vec<_> = rows.iter().map(|one| (one.row.name.as_str(), one.row.status)).collect();
        let added: &[_] = if version < 3 { &[] } else { SINCE_3 };
        assert_eq!(statuses, [SINCE_1, added].concat(), "{schema}");
        let lead = &rows[0].row;
        assert_eq!(lead.spec.env.get("KEY").map(String::as_str), Some("value"), "{schema}");
        assert_eq!((lead.host_port, lead.status_since), (Some(21_001), Timestamp(T + 1)), "{schema}");
        // Tokens stay valid, so no agent is affected.
        let token_owner = store.token_subject(&TokenDigest([1; 32]), Timestamp(T));
        let Some(TokenSubject::Workspace(token_owner)) = token_owner else {
            panic!("{schema}: {token_owner:?}")
        };
        assert_eq!(token_owner.workspace, WorkspaceId(Uuid::from_u128(101)), "{schema}");
        assert_eq!(
            store.token_subject(&TokenDigest([6; 32]), Timestamp(T)),
            None,
            "{schema}: a revoked token is valid"
        );
        assert!(store.may_communicate(lead.id, rows[1].row.id, true), "{schema}: the tree was lost");
        assert_eq!(store.memory_is_true().await, Ok(true), "{schema}");
        // A workspace that was offline in a schema without the restart budget is not restarted automatically.
        let due = store.restarts_due(Timestamp(i64::MAX)).await.unwrap().rows;
        let due: Vec<_> = due.iter().map(|(row, at)| (row.name.as_str(), *at)).collect();
        let expected = if version < 3 { vec![] } else { vec![("returning", Timestamp(T + 10_015))] };
        assert_eq!(due, expected, "{schema}");
    }
}

/// A file under the backup's name must be a complete copy, because messages advise users to restore it.
#[test]
fn migration_does_not_begin_when_disk_has_no_space_for_backup() {
    let disk = SmallDisk::new("2m");
    std::fs::create_dir(disk.data()).unwrap();
    let path = disk.data().join(FILE_NAME);
    let sql = Connection::open(&path).unwrap();
    sql.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    sql.execute_batch(OLD[0].1).unwrap();
    let rows = Tables::read(&sql).unwrap();
    drop(sql);
    let bytes = std::fs::read(&path).unwrap();
    // Space for SQLite's files beside the database and for a part of the copy.
    let room = disk.data().join("room");
    std::fs::write(&room, vec![0; 100 << 10]).unwrap();
    let ballast = disk.fill();
    std::fs::remove_file(room).unwrap();

    let message =
        Store::open(&disk.data()).err().expect("the database was migrated without a backup").to_string();
    assert!(message.contains("the backup to") && message.contains("Free some disk space"), "{message}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "the database was changed without a backup");
    let copy = disk.data().join("ostler.backup-v1.db");
    assert!(!copy.exists(), "a partial backup was left");

    std::fs::remove_file(ballast).unwrap();
    // The state after a process was killed while it made its copy.
    let unfinished = disk.data().join("ostler.backup-v1.unfinished");
    std::fs::write(&unfinished, "half a copy").unwrap();
    drop(Store::open(&disk.data()).unwrap());
    assert_eq!(Tables::read(&Connection::open(copy).unwrap()).unwrap(), rows);
    assert!(!unfinished.exists(), "a partial backup was left beside the complete one");
}

/// A release that changes the schema adds to `OLD` a database with the previous schema, written by the previous
/// release.
#[test]
fn every_older_schema_has_a_test_database() {
    let migrations = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/migrations")).unwrap();
    let mut names: Vec<_> = migrations
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".sql").to_owned())
        .collect();
    names.sort();
    let old: Vec<_> = OLD.iter().map(|(schema, _)| (*schema).to_owned()).collect();
    assert_eq!(old, names[..names.len() - 1]);
}
