//! Messages that wait for an agent to poll them.

use rusqlite::params;

use super::{
    NewActivity,
    history::prune,
    insert, key_of,
    read::{ASKED_FOR, location, waiting},
};
use crate::{
    domain::{activity::ActivityQuery, ids::WorkspaceId},
    store::{Store, StoreResult},
};

/// Maximum number of messages that wait for one agent. The next constant limits their bytes.
const WAITING_MAX: i64 = 500;

const WAITING_BYTES_MAX: i64 = 32 << 20;

/// Result of queueing a message for an agent that polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// The message is stored.
    Stored,
    /// The mailbox is full; nothing was stored.
    Full,
    /// The workspace is gone; nothing was stored.
    Gone,
}

impl Store {
    /// Stores a message for an agent that polls. The message waits until a later poll confirms it with a cursor.
    ///
    /// # Errors
    /// When the store cannot answer. Nothing was stored then, and the sender must get an error.
    pub async fn queue_message(&self, message: NewActivity) -> StoreResult<Queued> {
        self.lanes
            .write("queue message", move |tx| {
                let (count, bytes): (i64, i64) = tx
                    .sql
                    .prepare_cached(
                        "SELECT count(*), COALESCE(sum(bytes), 0) FROM activity
                         WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1) AND waiting = 1",
                    )?
                    .query_row([message.workspace], |row| Ok((row.get(0)?, row.get(1)?)))?;
                if count >= WAITING_MAX || bytes >= WAITING_BYTES_MAX {
                    return Ok(Queued::Full);
                }
                Ok(if insert(tx, message, true)?.is_some() { Queued::Stored } else { Queued::Gone })
            })
            .await
    }

    /// Records that an agent has polled the rows of a query up to a position. Those messages no longer wait. Messages
    /// outside the query's filter still wait, because they were not sent to the agent. Returns whether any message had
    /// waited.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn note_polled(&self, of: WorkspaceId, up_to: i64, query: ActivityQuery) -> StoreResult<bool> {
        self.lanes
            .write("record polled", move |tx| {
                let Some(key) = key_of(tx.sql, of)? else { return Ok(false) };
                let text = format!(
                    "UPDATE activity SET waiting = 0
                     WHERE workspace = ?1 AND waiting = 1 AND sequence <= ?2 AND {ASKED_FOR}"
                );
                let changed = tx.sql.prepare_cached(&text)?.execute(params![
                    key,
                    up_to,
                    query.activity_type,
                    query.from_user(),
                    query.peer
                ])?;
                if changed > 0 {
                    prune(tx, of)?;
                }
                Ok(changed > 0)
            })
            .await
    }

    /// Returns the position of the newest waiting message that matches a query, up to the query's cursor.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn waiting_up_to(&self, of: WorkspaceId, query: ActivityQuery) -> StoreResult<Option<i64>> {
        self.lanes
            .read("waiting up to", move |sql| {
                let (Some(key), Some(cursor)) = (key_of(sql, of)?, query.after) else { return Ok(None) };
                let Some(location) = location(sql, key, cursor)? else { return Ok(None) };
                waiting(sql, key, &query, Some(location))
            })
            .await
    }
}
