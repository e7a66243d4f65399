//! Tests of the store's public interface, with the real SQLite in a temporary directory.
//!
//! Every test gets a new registry, and reads committed data over a second connection. SQLite is not mocked, because a
//! mock accepts statements that the database rejects.

mod budgets;
mod commits;
mod delegations;
mod files;
mod heartbeats;
mod held_plans;
mod old;
mod operations;
mod rows;
mod statuses;
mod tokens;
mod trash;
mod undelete;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Waker},
};

use ostler::{
    domain::{
        ids::{ContainerId, InstanceId, TokenId, TrashId, WorkspaceId},
        naming::WorkspaceName,
        spec::WorkspaceSpec,
        status::{Cause, Failure, Status},
        time::Timestamp,
        token::{Token, TokenDigest},
        trash::{NamedContainer, TrashContents, TrashReason},
        workspace::{Delivery, Kind, Workspace},
    },
    store::{
        BeginStart, Begun, ClaimGuard, CreateResult, FILE_NAME, NewClaim, NewWorkspace, Registry, Store,
        TokenIssue,
    },
};
use rusqlite::{Connection, params, types::Value};
use tempfile::TempDir;
use uuid::Uuid;

/// Start time of the tests. They pass in every time explicitly, and none of them waits.
pub(crate) const T0: Timestamp = Timestamp(1_700_000_000_000);

/// Milliseconds per minute.
pub(crate) const MINUTE: i64 = 60_000;

/// The time `number` minutes after `T0`.
pub(crate) fn minute(number: i64) -> Timestamp {
    Timestamp(T0.0 + number * MINUTE)
}

/// A number unique within this process.
fn next() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

pub(crate) fn uuid() -> Uuid {
    Uuid::from_u128(0x5707_0000_0000_4000_8000_0000_0000_0000 | u128::from(next()))
}

/// A unique container id.
pub(crate) fn container_id() -> ContainerId {
    format!("{:064x}", next()).try_into().unwrap()
}

pub(crate) fn name(text: &str) -> WorkspaceName {
    text.parse().unwrap()
}

/// A token, and the data about it that the store receives.
pub(crate) fn token() -> (Token, TokenIssue) {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&next().to_be_bytes());
    let token = Token::from_random(bytes);
    let issue = TokenIssue { id: TokenId(uuid()), digest: token.digest(), prefix: token.prefix() };
    (token, issue)
}

/// A new workspace with default values.
pub(crate) fn new_workspace(called: &str, kind: Kind) -> NewWorkspace {
    NewWorkspace {
        id: WorkspaceId(uuid()),
        name: name(called),
        kind,
        delivery: Delivery::Push,
        spec: WorkspaceSpec {
            runtime: "plain".into(),
            image: "example.org/agent:1".into(),
            ..WorkspaceSpec::default()
        },
        token: None,
    }
}

/// Polls a change once, which hands it to the store's writer. The caller must have blocked the writer.
pub(crate) fn submit<F: Future>(change: F) -> Pin<Box<F>> {
    let mut change = Box::pin(change);
    let waited = change.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(waited.is_pending(), "the store answered while its writer was blocked");
    change
}

/// A registry in a temporary directory.
pub(crate) struct Fixture {
    directory: TempDir,
    pub(crate) store: Store,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let fixture = Self::without_identity();
        fixture.store.found_registry(registry()).await.unwrap();
        fixture
    }

    /// A database without a registry row, in which creating a workspace fails.
    pub(crate) fn without_identity() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        Self { directory, store }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join(FILE_NAME)
    }

    /// A second connection; it sees only committed data.
    pub(crate) fn side(&self) -> Connection {
        let sql = Connection::open(self.path()).unwrap();
        sql.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
        sql
    }

    pub(crate) async fn create(&self, new: NewWorkspace, at: Timestamp) -> WorkspaceId {
        let id = new.id;
        let made = self.store.create_workspace(new, at).await.unwrap();
        assert!(
            matches!(made, CreateResult::Created(_)),
            "the fixture's workspace was not created: {made:?}"
        );
        id
    }

    pub(crate) async fn container(&self, called: &str) -> WorkspaceId {
        self.create(new_workspace(called, Kind::Container), T0).await
    }

    pub(crate) async fn child(&self, called: &str, parent: WorkspaceId) -> WorkspaceId {
        let mut new = new_workspace(called, Kind::Container);
        new.spec.parent = Some(parent);
        self.create(new, T0).await
    }

    /// Starts the workspace as the start operation does, and returns the token for its container.
    pub(crate) async fn start(&self, id: WorkspaceId, at: Timestamp) -> Option<(Begun, Token)> {
        let (token, issue) = token();
        let begin = BeginStart {
            workspace: id,
            cause: Cause::Restart,
            container: container_id(),
            spec_hash: "hash".into(),
            token: issue,
            decided_on: None,
            operation: None,
            replaces: None,
            degraded: None,
            at,
        };
        let started = self.store.begin_start(begin).await.unwrap()?;
        Some((started, token))
    }

    /// A container workspace that is online, and its token.
    pub(crate) async fn online(&self, called: &str, at: Timestamp) -> (WorkspaceId, Token) {
        let id = self.container(called).await;
        let (_, token) = self.start(id, at).await.unwrap();
        self.force(id, Status::Online);
        (id, token)
    }

    pub(crate) async fn row(&self, id: WorkspaceId) -> Workspace {
        self.store.workspace(id).await.unwrap().unwrap()
    }

    pub(crate) async fn remove(&self, id: WorkspaceId, at: Timestamp) {
        self.store.remove_workspace(id, true, false, at).await.unwrap();
    }

    /// Sets a status directly in the table, without the checks of the state machine.
    pub(crate) fn force(&self, id: WorkspaceId, status: Status) {
        let changed = self
            .side()
            .execute(
                "UPDATE workspaces SET status = ?2, failure = ?3,
                   removed_at = CASE ?2 WHEN 'removed' THEN status_since END WHERE id = ?1",
                params![id.0.as_bytes(), status.as_str(), status.failure().map(Failure::as_str)],
            )
            .unwrap();
        assert_eq!(changed, 1);
    }

    /// All rows of the database, one per line. If two dumps are equal, nothing was changed in between.
    pub(crate) fn dump(&self) -> String {
        dump(&self.side())
    }

    pub(crate) fn number(&self, query: &str) -> i64 {
        self.side().query_row(query, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// Sequence, type and workspace of every event.
    pub(crate) async fn events(&self) -> Vec<(i64, String, Option<WorkspaceId>)> {
        let events = self.store.events_after(0, 100_000).await.unwrap();
        events.into_iter().map(|event| (event.id, event.event_type, event.workspace_id)).collect()
    }
}

pub(crate) fn registry() -> Registry {
    Registry { instance: InstanceId(uuid()), generation: 0, recovering_since: None, engine_accepted_at: None }
}

/// All rows except that of `log_mark`, which changes whenever the database is opened.
pub(crate) fn dump(sql: &Connection) -> String {
    let tables: Vec<String> = strings(
        sql,
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'log_mark' ORDER BY name",
    );
    let mut text = String::new();
    for table in tables {
        let mut query = sql.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = query.column_count();
        let mut rows = query.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<Value> = (0..columns).map(|column| row.get(column).unwrap()).collect();
            writeln!(text, "{table}: {values:?}").unwrap();
        }
    }
    text
}

pub(crate) fn strings(sql: &Connection, query: &str) -> Vec<String> {
    let mut query = sql.prepare(query).unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// A claim for a container and a work volume.
pub(crate) fn claim(workspace: WorkspaceId, reason: TrashReason, guard: ClaimGuard) -> NewClaim {
    NewClaim {
        id: TrashId(uuid()),
        workspace,
        workspace_name: "claimed".into(),
        reason,
        evidence: "seen by the test".into(),
        contents: contents(),
        guard,
        keep_until: minute(100),
        swept_by: None,
    }
}

pub(crate) fn contents() -> TrashContents {
    let id = container_id();
    let volumes = vec![format!("config-of-{id}"), format!("work-of-{id}")];
    TrashContents { container: Some(NamedContainer { name: format!("name-of-{id}"), id }), volumes }
}

pub(crate) fn digest(token: &Token) -> TokenDigest {
    token.digest()
}

/// Number of transactions in the write-ahead log since the log was last restarted.
///
/// The last frame of a transaction contains the size of the database after it; in all other frames that field is zero.
pub(crate) fn commits(database: &Path) -> usize {
    let log = std::fs::read(database.with_extension("db-wal")).unwrap();
    let word = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let frame = 24 + word(8) as usize;
    let salts = &log[16..24];
    let frames = (32..).step_by(frame).take_while(|at| at + frame <= log.len());
    frames.take_while(|at| &log[at + 8..at + 16] == salts).filter(|at| word(at + 4) != 0).count()
}

/// Opens a read transaction. Until it ends, SQLite does not restart the write-ahead log, and [`commits`] counts every
/// later transaction.
pub(crate) fn pin_log(sql: &Connection) {
    sql.execute_batch("BEGIN; SELECT count(*) FROM registry").unwrap();
}
