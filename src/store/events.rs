//! The one sequence of everything that happened.

use rusqlite::{Connection, Row, params};

use super::{Store, StoreResult, row};
use crate::domain::{
    event::{Event, EventKind},
    ids::WorkspaceId,
    time::Timestamp,
};

/// Appends an event. Private to the store: an event is only ever written with the change it tells of.
pub(super) fn append(
    sql: &Connection,
    at: Timestamp,
    kind: EventKind,
    workspace: Option<WorkspaceId>,
    payload: serde_json::Value,
    swept_by: Option<&str>,
) -> StoreResult<Event> {
    sql.prepare_cached(
        "INSERT INTO events (event_type, workspace, payload, created_at, swept_by) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![kind.as_str(), workspace, payload.to_string(), at, swept_by])?;
    Ok(Event {
        id: sql.last_insert_rowid(),
        event_type: kind.as_str().to_owned(),
        workspace_id: workspace,
        payload,
        created_at: at,
    })
}

/// The sequence number of the newest event; 0 where there is none.
pub(super) fn newest_sequence(sql: &Connection) -> StoreResult<i64> {
    Ok(sql.prepare_cached("SELECT ifnull(max(sequence), 0) FROM events")?.query_row([], |row| row.get(0))?)
}

/// Whether somebody was undeleted after an event: what was ordered before is void since.
pub(super) fn was_undeleted_after(
    sql: &Connection,
    workspace: WorkspaceId,
    sequence: i64,
) -> StoreResult<bool> {
    Ok(sql
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM events WHERE workspace = ?1 AND sequence > ?2 AND event_type = ?3)",
        )?
        .query_row(params![workspace, sequence, EventKind::Undeleted.as_str()], |row| row.get(0))?)
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let payload: String = row.get(3)?;
    Ok(Event {
        id: row.get(0)?,
        event_type: row.get(1)?,
        workspace_id: row.get(2)?,
        payload: serde_json::from_str(&payload).map_err(row::conversion)?,
        created_at: row.get(4)?,
    })
}

impl Store {
    /// The newest events, newest first, of one workspace or of all.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn newest_events(&self, of: Option<WorkspaceId>, limit: u32) -> StoreResult<Vec<Event>> {
        self.lanes
            .read("newest events", move |sql| {
                let select = "SELECT sequence, event_type, workspace, payload, created_at FROM events";
                let text = match of {
                    Some(_) => format!("{select} WHERE workspace = ?1 ORDER BY sequence DESC LIMIT ?2"),
                    None => format!("{select} WHERE ?1 IS NULL ORDER BY sequence DESC LIMIT ?2"),
                };
                let mut query = sql.prepare_cached(&text)?;
                Ok(query.query_map(params![of, limit], event)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Events after a sequence number, oldest first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn events_after(&self, sequence: i64, limit: u32) -> StoreResult<Vec<Event>> {
        self.lanes
            .read("events after", move |sql| {
                let mut query = sql.prepare_cached(
                    "SELECT sequence, event_type, workspace, payload, created_at FROM events
                     WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
                )?;
                Ok(query.query_map(params![sequence, limit], event)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Tells of something that changed no row: an engine's doing.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn tell(
        &self,
        at: Timestamp,
        kind: EventKind,
        workspace: Option<WorkspaceId>,
        payload: serde_json::Value,
        swept_by: Option<&'static str>,
    ) -> StoreResult<()> {
        self.lanes.write("tell", move |tx| tx.tell(at, kind, workspace, payload, swept_by)).await
    }

    /// Deletes events older than `before`, at most `limit` of them. Answers how many.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn forget_events(&self, before: Timestamp, limit: u32) -> StoreResult<usize> {
        self.lanes
            .write("forget events", move |tx| {
                Ok(tx
                    .sql
                    .prepare_cached(
                        "DELETE FROM events WHERE sequence IN
                           (SELECT sequence FROM events ORDER BY sequence LIMIT ?2) AND created_at < ?1",
                    )?
                    .execute(params![before, limit])?)
            })
            .await
    }
}
