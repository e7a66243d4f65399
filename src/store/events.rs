//! Queries and changes of the event history.

use rusqlite::{Connection, OptionalExtension, Row, params};

use std::collections::BTreeSet;

use super::{
    Store, StoreResult,
    card_digest::{CARD_DIGEST, card_digest},
    history::forget,
    lane::Tx,
    row,
};
use crate::domain::{
    event::{Event, EventKind},
    ids::WorkspaceId,
    time::Timestamp,
};

/// Replaces an agent card's digest by the card itself, for each workspace only in its newest event with a digest: older
/// events refer to other cards, or to the same card again.
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
        // Beyond this total size, events keep the digest: no request may make the daemon load the cards of all
        // workspaces.
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

fn newest_sequence(sql: &Connection) -> StoreResult<i64> {
    Ok(sql.prepare_cached("SELECT ifnull(max(sequence), 0) FROM events")?.query_row([], |row| row.get(0))?)
}

/// The most bytes of payloads read at once; larger than the largest payload.
///
/// Payloads contain text from agents; a request that lists events must not make the daemon load all of it.
const BYTES_AT_ONCE: usize = 4 << 20;

/// Reads events until their payloads reach the limit.
fn bounded(mut rows: rusqlite::Rows<'_>) -> StoreResult<Vec<Event>> {
    let (mut events, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        bytes += row.get_ref(3)?.as_bytes().map_or(0, <[u8]>::len);
        // The first event is always returned. Otherwise a subscriber that reads missed events could never continue
        // after a large one.
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
    /// Returns the newest events, newest first, of one workspace or of all; fewer than `limit` if they are large.
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

    /// Returns events after a sequence number, oldest first. Returns fewer than `limit` if the events are large, but
    /// none only if there is no later event.
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

    /// Adds the agent card to an event from the feed, if the event refers to the current card of its workspace.
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

    /// Returns the sequence number of the newest event; 0 if there is none.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn newest_sequence(&self) -> StoreResult<i64> {
        self.lanes.read("newest sequence", newest_sequence).await
    }

    /// Emits an event that does not report the change of a row, for example an event about an action in the engine.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn emit(
        &self,
        at: Timestamp,
        kind: EventKind,
        workspace: Option<WorkspaceId>,
        payload: serde_json::Value,
        swept_by: Option<&'static str>,
    ) -> StoreResult<()> {
        self.append_event(at, (kind, workspace, payload), swept_by, |_| Ok(true)).await
    }

    /// Appends an event if a condition holds inside the transaction.
    pub(super) async fn append_event(
        &self,
        at: Timestamp,
        (kind, workspace, payload): (EventKind, Option<WorkspaceId>, serde_json::Value),
        swept_by: Option<&'static str>,
        condition: impl FnOnce(&mut Tx<'_>) -> StoreResult<bool> + Send + 'static,
    ) -> StoreResult<()> {
        self.lanes
            .write("emit event", move |tx| {
                if condition(tx)? {
                    tx.emit(at, kind, workspace, payload, swept_by)?;
                }
                Ok(())
            })
            .await
    }

    /// Deletes events older than `before`, at most `limit` of them. Returns how many.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn forget_events(&self, before: Timestamp, limit: u32) -> StoreResult<usize> {
        self.lanes
            .write("delete old events", move |tx| {
                forget(
                    tx.sql,
                    "sequence IN (SELECT sequence FROM events ORDER BY sequence LIMIT ?2) AND created_at < ?1",
                    params![before, limit],
                )
            })
            .await
    }
}
