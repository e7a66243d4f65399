//! The cost of a heartbeat in units that do not depend on the machine (commits and bytes). An answered heartbeat
//! survives a kill.
//!
//! The SQL statements of a heartbeat are counted in `src/store/reports/heartbeat.rs`, where the store's connection can be
//! traced.

use std::{collections::BTreeSet, fs, path::Path};

use ostler::{
    domain::{
        heartbeat::Heartbeat,
        ids::{TokenId, WorkspaceId},
        status::Status,
        time::Timestamp,
        token::Token,
    },
    store::{FILE_NAME, ReportResult, Store, TokenOwner, TokenSubject},
};
use rusqlite::{Connection, params};
use tempfile::TempDir;
use uuid::Uuid;

use super::{Fixture, T0, commits, minute, pin_log, registry, submit};

/// Number of workspaces.
const WORKSPACES: u64 = 10_000;

/// Maximum number of bytes written per heartbeat: its share of the pages that are logged, and of those that a
/// checkpoint copies.
const BYTES_MAX: usize = 5_000;

/// A registry of many online workspaces, each with an instance token and a row of realistic size.
struct Crowd {
    directory: TempDir,
    store: Store,
}

fn member(number: u64) -> (WorkspaceId, Token) {
    let id = Uuid::from_u128(u128::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)) << 64 | 1);
    let mut bytes = [9; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    (WorkspaceId(id), Token::from_random(bytes))
}

impl Crowd {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.found_registry(registry()).await.unwrap();
        drop(store);
        let mut sql = Connection::open(directory.path().join(FILE_NAME)).unwrap();
        fill(&mut sql);
        sql.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        drop(sql);
        let store = Store::open(directory.path()).unwrap();
        Self { directory, store }
    }

    fn token_owner(&self, number: u64) -> TokenOwner {
        match self.store.token_subject(&member(number).1.digest(), T0) {
            Some(TokenSubject::Workspace(token_owner)) => token_owner,
            other => panic!("the token of workspace {number} belongs to {other:?}"),
        }
    }

    /// Sends one heartbeat for each of these workspaces. All share one commit, except heartbeats that the writer took
    /// before the others arrived.
    async fn heartbeat(&self, numbers: &[u64], at: Timestamp) {
        let lock = Connection::open(self.directory.path().join(FILE_NAME)).unwrap();
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
        let waiting: Vec<_> = numbers
            .iter()
            .map(|number| submit(self.store.record_heartbeat(self.token_owner(*number), heartbeat(1), at)))
            .collect();
        lock.execute_batch("ROLLBACK").unwrap();
        for answer in waiting {
            assert_eq!(answer.await, Ok(ReportResult::Noted));
        }
    }
}

/// A complete heartbeat with all texts empty.
fn heartbeat(uptime_seconds: i64) -> Heartbeat {
    Heartbeat { uptime_seconds, ..Heartbeat::default() }
}

fn fill(sql: &mut Connection) {
    let tx = sql.transaction().unwrap();
    {
        let mut workspaces = tx
            .prepare(
                "INSERT INTO workspaces (key, id, name, kind, runtime, tier, spec, status, status_since, incarnation,
                                         created_at)
                 VALUES (?1, ?2, ?3, 'container', 'plain', 2, '{\"image\":\"example.org/agent:1\"}', 'online', ?4, 1, ?4)",
            )
            .unwrap();
        // Values as after an hour of operation. With smaller values, the row would grow at its first heartbeat, which
        // is not typical.
        let mut activity = tx
            .prepare(
                "INSERT INTO pulse (workspace, token_used_at, last_heartbeat_at, last_activity_at, error_rate, active_tasks,
                                    uptime_seconds, monthly_spend_cents)
                 VALUES (?1, ?2, ?2, ?2, 0.25, 2, 3600, 1234)",
            )
            .unwrap();
        let mut tokens = tx
            .prepare(
                "INSERT INTO tokens (id, workspace, kind, incarnation, digest, prefix, created_at)
                 VALUES (?1, ?2, 'instance', 1, ?3, ?4, ?5)",
            )
            .unwrap();
        for number in 1..=WORKSPACES {
            let (id, token) = member(number);
            let token_id = TokenId(Uuid::from_u128(id.0.as_u128() ^ 2));
            let key = number.cast_signed();
            workspaces.execute(params![key, id.0.as_bytes(), format!("w{number}"), T0.0]).unwrap();
            activity.execute(params![key, T0.0]).unwrap();
            tokens
                .execute(params![token_id.0.as_bytes(), key, token.digest().0, token.prefix(), T0.0])
                .unwrap();
        }
    }
    tx.commit().unwrap();
}

/// The page number of each frame in a log, and the size of a frame in bytes.
fn frames(database: &Path) -> (Vec<u32>, usize) {
    let log = fs::read(database.with_extension("db-wal")).unwrap();
    let word = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let frame = 24 + word(8) as usize;
    let of_this_log = (32..)
        .step_by(frame)
        .take_while(|at| at + frame <= log.len())
        .take_while(|at| log[at + 8..at + 16] == log[16..24]);
    (of_this_log.map(word).collect(), frame)
}

#[tokio::test]
async fn waiting_heartbeats_share_a_commit() {
    let crowd = Crowd::new().await;
    let database = crowd.directory.path().join(FILE_NAME);
    let pin = Connection::open(&database).unwrap();
    crowd.heartbeat(&[1], minute(1)).await;
    pin_log(&pin);
    let before = commits(&database);
    let numbers: Vec<_> = (1..=256).map(|number| number * 37).collect();
    crowd.heartbeat(&numbers, minute(2)).await;
    // The writer may have taken the first heartbeat before the others arrived.
    let shared = commits(&database) - before;
    assert!(shared <= 2, "256 concurrent heartbeats needed {shared} commits, each with an fsync");
}

#[tokio::test]
async fn heartbeat_writes_at_most_5000_bytes() {
    const BATCH: usize = 64;
    const BATCHES: usize = 12;
    let crowd = Crowd::new().await;
    let database = crowd.directory.path().join(FILE_NAME);
    let pin = Connection::open(&database).unwrap();
    crowd.heartbeat(&[1], minute(1)).await;
    pin_log(&pin);
    let (before, _) = frames(&database);
    // Neighbouring rows share a page, so the rows are spread over the whole table.
    let mut random = 1_u64;
    for _ in 0..BATCHES {
        let batch: Vec<_> = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % WORKSPACES + 1
        })
        .take(BATCH)
        .collect();
        crowd.heartbeat(&batch, minute(2)).await;
    }
    let (after, frame) = frames(&database);
    let logged = &after[before.len()..];
    let copied = logged.iter().collect::<BTreeSet<_>>().len();
    let bytes = (logged.len() + copied) * frame / (BATCH * BATCHES);
    assert!(
        bytes <= BYTES_MAX,
        "a heartbeat writes {bytes} bytes, more than {BYTES_MAX}: {} pages were logged for {} heartbeats in {BATCHES} \
         batches, and a checkpoint copies {copied}. Did the row of a heartbeat grow, or get an index?",
        logged.len(),
        BATCH * BATCHES
    );
}

/// A copy of the files while the store is open, as `kill -9` would leave them.
fn copy_files(directory: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in [FILE_NAME.to_owned(), format!("{FILE_NAME}-wal")] {
        fs::copy(directory.join(&name), copy.path().join(&name)).unwrap();
    }
    copy
}

#[tokio::test]
async fn answered_heartbeat_survives_a_kill() {
    let fixture = Fixture::new().await;
    let (id, token) = fixture.online("alpha", T0).await;
    for second in 1..=20 {
        let at = Timestamp(minute(1).0 + second * 1000);
        let Some(TokenSubject::Workspace(token_owner)) = fixture.store.token_subject(&token.digest(), at)
        else {
            panic!("the token is not valid");
        };
        let heartbeat =
            Heartbeat { current_task: format!("step {second}"), active_tasks: 1, ..heartbeat(second) };
        assert_eq!(fixture.store.record_heartbeat(token_owner, heartbeat, at).await, Ok(ReportResult::Noted));
        let left = copy_files(fixture.directory());
        let after = Store::open(left.path()).unwrap();
        let described = after.describe(id).await.unwrap().unwrap();
        assert_eq!(described.vitals.last_heartbeat_at, Some(at), "heartbeat {second} was answered and lost");
        assert_eq!(described.vitals.current_task, format!("step {second}"));
        assert_eq!(described.vitals.uptime_seconds, second);
        assert_eq!(described.row.status, Status::Online);
    }
}
