//! The event history as a table: one sequence of all events, whose size is limited.

use rusqlite::{Connection, OptionalExtension, params};

use super::error::StoreResult;
use crate::domain::{
    bounds::{EVENT_OVERHEAD_BYTES, HISTORY_MAX_BYTES},
    event::{Event, EventKind},
    ids::WorkspaceId,
    time::Timestamp,
};

/// Appends an event. Private to the store, so that an event is only written together with the change it reports.
pub(super) fn append(
    sql: &Connection,
    at: Timestamp,
    kind: EventKind,
    workspace: Option<WorkspaceId>,
    payload: serde_json::Value,
    swept_by: Option<&str>,
) -> StoreResult<Event> {
    let text = payload.to_string();
    sql.prepare_cached(
        "INSERT INTO events (event_type, workspace, payload, created_at, swept_by) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![kind.as_str(), workspace, text, at, swept_by])?;
    let id = sql.last_insert_rowid();
    let bytes = i64::try_from(text.len() + EVENT_OVERHEAD_BYTES).unwrap_or(i64::MAX);
    if grow_by(sql, bytes)? > HISTORY_MAX_BYTES {
        trim(sql, at)?;
    }
    Ok(Event { id, event_type: kind.as_str().to_owned(), workspace_id: workspace, payload, created_at: at })
}

/// Adds to the size of the history, in bytes; returns the new size.
fn grow_by(sql: &Connection, bytes: i64) -> StoreResult<i64> {
    Ok(sql
        .prepare_cached(
            "INSERT INTO history (only_row, bytes) VALUES (1, ?1)
             ON CONFLICT (only_row) DO UPDATE SET bytes = bytes + ?1 RETURNING bytes",
        )?
        .query_row([bytes], |row| row.get(0))?)
}

/// Size of an event in SQL. Must equal the size computed in [`append`].
const BYTES: &str = "octet_length(payload) + 128";

/// Condition for events that may be trimmed (`?1` is one hour ago).
///
/// Destructive actions of the last hour are excluded, because the breaker counts them. A flood of other events must not
/// delete these.
const TRIMMABLE: &str = "(swept_by IS NULL OR created_at < ?1)";

/// Age up to which the excluded events are kept, in milliseconds.
const PROTECTED_MS: i64 = 60 * 60 * 1000;

/// Deletes the older half of the events of the workspace whose events are largest in total. So a workspace that emits
/// too many events loses only its own history.
fn trim(sql: &Connection, at: Timestamp) -> StoreResult<()> {
    let before = Timestamp(at.0 - PROTECTED_MS);
    let largest: Option<(Option<WorkspaceId>, i64)> = sql
        .prepare_cached(&format!(
            "SELECT workspace, count(*) FROM events WHERE {TRIMMABLE}
             GROUP BY workspace ORDER BY sum({BYTES}) DESC LIMIT 1"
        ))?
        .query_row([before], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((workspace, count)) = largest else { return Ok(()) };
    forget(
        sql,
        &format!(
            "sequence IN (SELECT sequence FROM events WHERE workspace IS ?2 AND {TRIMMABLE} ORDER BY sequence LIMIT ?3)"
        ),
        params![before, workspace, (count / 2).max(1)],
    )?;
    Ok(())
}

/// Deletes events and subtracts their size; returns how many.
pub(super) fn forget(sql: &Connection, which: &str, bind: impl rusqlite::Params) -> StoreResult<usize> {
    let (mut count, mut bytes) = (0, 0_i64);
    let mut delete = sql.prepare_cached(&format!("DELETE FROM events WHERE {which} RETURNING {BYTES}"))?;
    let mut rows = delete.query(bind)?;
    while let Some(row) = rows.next()? {
        (count, bytes) = (count + 1, bytes + row.get::<_, i64>(0)?);
    }
    if count > 0 {
        grow_by(sql, -bytes)?;
    }
    Ok(count)
}
