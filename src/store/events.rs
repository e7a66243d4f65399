//! The one sequence of everything that happened.

use rusqlite::{Connection, OptionalExtension, Row, params};

use std::collections::BTreeSet;

use super::{
    Store, StoreResult,
    agents::{CARD_DIGEST, card_digest},
    lane::Tx,
    row,
};
use crate::domain::{
    bounds::{EVENT_OVERHEAD_BYTES, HISTORY_MAX_BYTES},
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

/// Counts bytes of history; answers how many there are.
fn grow_by(sql: &Connection, bytes: i64) -> StoreResult<i64> {
    Ok(sql
        .prepare_cached(
            "INSERT INTO history (only_row, bytes) VALUES (1, ?1)
             ON CONFLICT (only_row) DO UPDATE SET bytes = bytes + ?1 RETURNING bytes",
        )?
        .query_row([bytes], |row| row.get(0))?)
}

/// What an event counts for. To the letter as [`append`] counts it.
const BYTES: &str = "octet_length(payload) + 128";

/// What decisions are still taken from: destructive actions of the last hour (the breaker counts them) and undeletes (a
/// start that was ordered before one is void). No flood of events may push these out.
const FREE_TO_GO: &str = "(swept_by IS NULL AND event_type <> 'WORKSPACE_UNDELETED' OR created_at < ?1)";

/// For how long an event that decisions are taken from is safe.
const PROTECTED_MS: i64 = 60 * 60 * 1000;

/// Takes the older half of its history from the workspace with the largest one: a flood costs nobody but its author.
fn trim(sql: &Connection, at: Timestamp) -> StoreResult<()> {
    let before = Timestamp(at.0 - PROTECTED_MS);
    let largest: Option<(Option<WorkspaceId>, i64)> = sql
        .prepare_cached(&format!(
            "SELECT workspace, count(*) FROM events WHERE {FREE_TO_GO}
             GROUP BY workspace ORDER BY sum({BYTES}) DESC LIMIT 1"
        ))?
        .query_row([before], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((workspace, count)) = largest else { return Ok(()) };
    forget(
        sql,
        &format!(
            "sequence IN (SELECT sequence FROM events WHERE workspace IS ?2 AND {FREE_TO_GO} ORDER BY sequence LIMIT ?3)"
        ),
        params![before, workspace, (count / 2).max(1)],
    )?;
    Ok(())
}

/// Deletes events and counts them off; answers how many.
fn forget(sql: &Connection, which: &str, bind: impl rusqlite::Params) -> StoreResult<usize> {
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

/// Puts the card in the place of its digest in the newest event that tells of it: older ones told of other cards, or
/// would repeat it.
fn add_cards<'a>(sql: &Connection, newest_first: impl Iterator<Item = &'a mut Event>) -> StoreResult<()> {
    let (mut seen, mut bytes) = (BTreeSet::new(), 0);
    for event in newest_first {
        let (Some(workspace), Some(digest)) = (event.workspace_id, event.payload.get(CARD_DIGEST)) else {
            continue;
        };
        if !seen.insert(workspace) {
            continue;
        }
        let mut query = sql.prepare_cached(
            "SELECT r.agent_card FROM reports r JOIN workspaces w ON w.key = r.workspace WHERE w.id = ?1",
        )?;
        let card: Option<Option<String>> = query.query_row([workspace], |row| row.get(0)).optional()?;
        let Some(card) = card.flatten().filter(|card| *digest == card_digest(card)) else { continue };
        bytes += card.len();
        // Beyond that the digest stands for it: nobody may make the daemon hold the cards of all workspaces.
        if bytes > BYTES_AT_ONCE {
            break;
        }
        let card = serde_json::from_str(&card).map_err(row::conversion)?;
        if let Some(payload) = event.payload.as_object_mut() {
            payload.remove(CARD_DIGEST);
            payload.insert("agent_card".into(), card);
        }
    }
    Ok(())
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

/// The most bytes of payloads that are read at once: what agents say of themselves is in them, and whoever lists events
/// must not make the daemon hold all of it. More than one payload may have.
const BYTES_AT_ONCE: usize = 4 << 20;

/// Reads events until they are as many bytes as are read at once.
fn bounded(mut rows: rusqlite::Rows<'_>) -> StoreResult<Vec<Event>> {
    let (mut events, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        bytes += row.get_ref(3)?.as_bytes().map_or(0, <[u8]>::len);
        // One is always answered: a listener that catches up would otherwise never get past it.
        if bytes > BYTES_AT_ONCE && !events.is_empty() {
            break;
        }
        events.push(event(row)?);
    }
    Ok(events)
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
    /// The newest events, newest first, of one workspace or of all: fewer than `limit` where they are large.
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
                let mut events = bounded(query.query(params![of, limit])?)?;
                add_cards(sql, events.iter_mut())?;
                Ok(events)
            })
            .await
    }

    /// Events after a sequence number, oldest first: none where there are none, and otherwise fewer than `limit` where
    /// they are large.
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
                let mut events = bounded(query.query(params![sequence, limit])?)?;
                add_cards(sql, events.iter_mut().rev())?;
                Ok(events)
            })
            .await
    }

    /// An event as the feed brings it, with the card it tells of.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn with_card(&self, mut event: Event) -> StoreResult<Event> {
        if event.payload.get(CARD_DIGEST).is_none() {
            return Ok(event);
        }
        self.lanes
            .read("with card", move |sql| {
                add_cards(sql, std::iter::once(&mut event))?;
                Ok(event)
            })
            .await
    }

    /// The sequence number of the newest event; 0 where there is none.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn newest_sequence(&self) -> StoreResult<i64> {
        self.lanes.read("newest sequence", newest_sequence).await
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
        self.append_event(at, (kind, workspace, payload), swept_by, |_| Ok(true)).await
    }

    /// Appends an event, if a condition still holds inside the transaction.
    pub(super) async fn append_event(
        &self,
        at: Timestamp,
        (kind, workspace, payload): (EventKind, Option<WorkspaceId>, serde_json::Value),
        swept_by: Option<&'static str>,
        condition: impl FnOnce(&mut Tx<'_>) -> StoreResult<bool> + Send + 'static,
    ) -> StoreResult<()> {
        self.lanes
            .write("tell", move |tx| {
                if condition(tx)? {
                    tx.tell(at, kind, workspace, payload, swept_by)?;
                }
                Ok(())
            })
            .await
    }

    /// Deletes events older than `before`, at most `limit` of them. Answers how many.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn forget_events(&self, before: Timestamp, limit: u32) -> StoreResult<usize> {
        self.lanes
            .write("forget events", move |tx| {
                forget(
                    tx.sql,
                    "sequence IN (SELECT sequence FROM events ORDER BY sequence LIMIT ?2) AND created_at < ?1",
                    params![before, limit],
                )
            })
            .await
    }
}
