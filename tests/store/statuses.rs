//! The state machine: every combination of kind, status, cause and incarnation. Changes that are not permitted do
//! nothing.

use std::collections::BTreeSet;

use ostler::{
    domain::{
        ids::{Incarnation, WorkspaceId},
        status::{Cause, Failure, Status},
        time::Timestamp,
        token::TokenKind,
        trash::{TrashReason, TrashState},
        workspace::Kind,
    },
    store::StatusChange,
};
use rusqlite::{Connection, params, types::Value};
use serde_json::json;

use super::{Fixture, T0, commits, minute, new_workspace, pin_log};

/// The incarnation of every row in these tests.
const CURRENT: Incarnation = Incarnation(3);

struct Attempt {
    workspace: WorkspaceId,
    kind: Kind,
    from: Status,
    cause: Cause,
    incarnation: Option<Incarnation>,
}

impl Attempt {
    fn allowed(&self) -> bool {
        self.cause.sources().contains(&self.from)
            && self.cause.only_kind().is_none_or(|kind| kind == self.kind)
            && self.incarnation.is_none_or(|incarnation| incarnation == CURRENT)
    }

    fn description(&self) -> String {
        let Self { kind, from, cause, incarnation, .. } = self;
        format!("{cause:?} on a {kind:?} row that is {from}, for incarnation {incarnation:?} of {CURRENT:?}")
    }
}

fn row_of(sql: &Connection, workspace: WorkspaceId) -> Vec<(String, Value)> {
    let mut query = sql.prepare_cached("SELECT * FROM workspaces WHERE id = ?1").unwrap();
    let names: Vec<String> = query.column_names().into_iter().map(str::to_owned).collect();
    query
        .query_row([workspace.0.as_bytes()], |row| {
            names.iter().enumerate().map(|(at, name)| Ok((name.clone(), row.get(at)?))).collect()
        })
        .unwrap()
}

fn last_event(sql: &Connection) -> (i64, Option<Vec<u8>>, String, i64) {
    sql.query_row(
        "SELECT COALESCE(max(sequence), 0), workspace, payload, created_at FROM events",
        [],
        |row| {
            let sequence: i64 = row.get(0)?;
            if sequence == 0 {
                return Ok((0, None, String::new(), 0));
            }
            Ok((sequence, row.get(1)?, row.get(2)?, row.get(3)?))
        },
    )
    .unwrap()
}

/// One row per attempt, set to its status with direct SQL in one transaction.
async fn attempts(fixture: &Fixture) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let shape = fixture.create(new_workspace("shape", Kind::Container), T0).await;
    let mut sql = fixture.side();
    let tx = sql.transaction().unwrap();
    for kind in Kind::ALL {
        for from in Status::ALL {
            for cause in Cause::ALL {
                for incarnation in [None, Some(CURRENT), Some(Incarnation(2)), Some(Incarnation(4))] {
                    let workspace = WorkspaceId(super::uuid());
                    tx.execute(
                        "INSERT INTO workspaces (id, name, kind, runtime, tier, spec, status, failure, status_detail,
                                                 status_since, incarnation, created_at, removed_at)
                         SELECT ?1, ?2, ?3, runtime, tier, spec, ?4, ?5, 'before', ?6, ?7, ?6,
                                CASE ?4 WHEN 'removed' THEN ?6 END
                         FROM workspaces WHERE id = ?8",
                        params![
                            workspace.0.as_bytes(),
                            format!("w{}", attempts.len()),
                            kind.as_str(),
                            from.as_str(),
                            from.failure().map(Failure::as_str),
                            T0.0,
                            CURRENT.0,
                            shape.0.as_bytes()
                        ],
                    )
                    .unwrap();
                    attempts.push(Attempt { workspace, kind, from, cause, incarnation });
                }
            }
        }
    }
    tx.commit().unwrap();
    attempts
}

/// The random number that identifies the last checkpoint.
fn log_mark(sql: &Connection) -> i64 {
    sql.query_row("SELECT base FROM log_mark", [], |row| row.get(0)).unwrap()
}

fn expected_after(before: Vec<(String, Value)>, target: Status, at: Timestamp) -> Vec<(String, Value)> {
    let text = |text: &str| Value::Text(text.to_owned());
    before
        .into_iter()
        .map(|(column, value)| {
            let value = match column.as_str() {
                "status" => text(target.as_str()),
                "failure" => target.failure().map_or(Value::Null, |failure| text(failure.as_str())),
                "status_detail" => text("after"),
                "status_since" => Value::Integer(at.0),
                "removed_at" if target == Status::Removed => Value::Integer(at.0),
                "removed_at" => Value::Null,
                // Start of the up-period: kept through `degraded`, cleared by every other status.
                "online_since" => match (target, value) {
                    (Status::Online, Value::Null) => Value::Integer(at.0),
                    (Status::Online | Status::Degraded, since) => since,
                    _ => Value::Null,
                },
                "revision" => match value {
                    Value::Integer(revision) => Value::Integer(revision + 1),
                    Value::Null | Value::Real(_) | Value::Text(_) | Value::Blob(_) => {
                        panic!("it is a number")
                    }
                },
                _ => value,
            };
            (column, value)
        })
        .collect()
}

#[tokio::test]
async fn only_permitted_status_changes_apply_each_with_one_event() {
    let fixture = Fixture::new().await;
    let attempts = attempts(&fixture).await;
    let (sql, pin) = (fixture.side(), fixture.side());
    pin_log(&pin);
    let mut counted = commits(&fixture.path());
    let mut applied = 0;
    for attempt in &attempts {
        let (before, event_before) = (row_of(&sql, attempt.workspace), last_event(&sql));
        let mark_before = log_mark(&sql);
        let change = StatusChange {
            workspace: attempt.workspace,
            cause: attempt.cause,
            incarnation: attempt.incarnation,
            detail: Some("after".into()),
            payload: json!({ "attempt": attempt.workspace }),
            at: minute(1),
        };
        let changed = fixture.store.change_status(change).await.unwrap();
        assert_eq!(changed, attempt.allowed(), "{}", attempt.description());
        let now = commits(&fixture.path());
        // A checkpoint of a long log begins with a transaction of its own, which changes the mark.
        counted += usize::from(log_mark(&sql) != mark_before);
        let event_after = last_event(&sql);
        if changed {
            applied += 1;
            assert_eq!(
                now,
                counted + 1,
                "one transaction for the row and its event: {}",
                attempt.description()
            );
            let after = expected_after(before, attempt.cause.target(), minute(1));
            assert_eq!(row_of(&sql, attempt.workspace), after, "{}", attempt.description());
            let payload = json!({ "attempt": attempt.workspace }).to_string();
            let of = Some(attempt.workspace.0.as_bytes().to_vec());
            assert_eq!(
                event_after,
                (event_before.0 + 1, of, payload, minute(1).0),
                "{}",
                attempt.description()
            );
        } else {
            assert_eq!(now, counted, "a refused change writes nothing: {}", attempt.description());
            assert_eq!(row_of(&sql, attempt.workspace), before, "{}", attempt.description());
            assert_eq!(event_after, event_before, "{}", attempt.description());
        }
        counted = now;
    }
    let allowed = attempts.iter().filter(|attempt| attempt.allowed()).count();
    assert_eq!((attempts.len(), applied), (2 * 12 * Cause::ALL.len() * 4, allowed));
    // Changes of other rows have not affected a row whose change was refused.
    for attempt in attempts.iter().filter(|attempt| !attempt.allowed()) {
        let row = fixture.row(attempt.workspace).await;
        assert_eq!((row.status, row.status_since), (attempt.from, T0), "{}", attempt.description());
    }
}

#[tokio::test]
async fn status_change_of_a_missing_row_does_nothing() {
    let fixture = Fixture::new().await;
    let change = StatusChange {
        workspace: WorkspaceId(super::uuid()),
        cause: Cause::Pause,
        incarnation: None,
        detail: None,
        payload: json!({}),
        at: T0,
    };
    let before = fixture.dump();
    assert!(!fixture.store.change_status(change).await.unwrap());
    assert_eq!(fixture.dump(), before);
}

/// The values in `CHECK (column IN ('a', 'b'))` of a table in schema.sql.
fn checked(table: &str, column: &str) -> BTreeSet<String> {
    let schema = include_str!("../../schema.sql");
    let begin = schema.find(&format!("CREATE TABLE {table} (")).unwrap();
    let body = &schema[begin..begin + schema[begin..].find("\n) STRICT").unwrap()];
    let opening = format!("CHECK ({column} IN (");
    let list =
        &body[body.find(&opening).unwrap_or_else(|| panic!("{table} has no `{opening}`")) + opening.len()..];
    let list = &list[..list.find(')').unwrap()];
    list.split(',').map(|value| value.trim().trim_matches('\'').to_owned()).collect()
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    texts.into_iter().map(str::to_owned).collect()
}

#[test]
fn schema_checks_match_the_domain_enums() {
    assert_eq!(checked("workspaces", "status"), texts(Status::ALL.map(Status::as_str)));
    assert_eq!(checked("workspaces", "failure"), texts(Failure::ALL.map(Failure::as_str)));
    assert_eq!(checked("workspaces", "kind"), texts(Kind::ALL.map(Kind::as_str)));
    assert_eq!(checked("tokens", "kind"), texts(TokenKind::ALL.map(TokenKind::as_str)));
    assert_eq!(checked("trash", "state"), texts(TrashState::ALL.map(TrashState::as_str)));
    assert_eq!(checked("trash", "reason"), texts(TrashReason::ALL.map(TrashReason::as_str)));
}

#[tokio::test]
async fn schema_refuses_inconsistent_status_columns() {
    let fixture = Fixture::new().await;
    let id = fixture.container("alpha").await;
    for wrong in [
        "status = 'failed', failure = NULL",
        "status = 'online', failure = 'parked'",
        "status = 'sleeping'",
        "status = 'removed'",
        "removed_at = 1",
    ] {
        let text = format!("UPDATE workspaces SET {wrong} WHERE id = ?1");
        let refused = fixture.side().execute(&text, [id.0.as_bytes()]);
        assert!(refused.is_err_and(|error| error.to_string().contains("CHECK")), "{wrong} was stored");
    }
}
