//! Activity: messages through the proxy, messages that wait for an agent to poll them, notices, and agents' reports of
//! their work.
//!
//! Each workspace's history is bounded by count and by bytes; the oldest rows are dropped. A message that waits to be
//! polled does not belong to the history and is never dropped to make room. If the mailbox is full, the next message is
//! refused.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::{Store, StoreResult, lane::Tx, row::word};
use crate::domain::{
    activity::{ActivityQuery, TYPES},
    event::EventKind,
    ids::{ActivityId, WorkspaceId},
    time::Timestamp,
};

/// Rows of history kept per workspace.
const KEPT: u32 = 500;
/// Bytes of history kept per workspace.
const KEPT_BYTES: i64 = 4 << 20;
/// Maximum number of messages that wait for one agent. The next constant limits their bytes.
const WAITING_MAX: i64 = 500;
const WAITING_BYTES_MAX: i64 = 32 << 20;
/// A page ends when the bodies of its rows reach this many bytes.
const PAGE_BYTES: usize = 4 << 20;

/// Source of a row's one-line summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Summary {
    /// This text, or none.
    Text(Option<String>),
    /// The row is a message to the workspace. The summary contains the workspace's name.
    Message {
        /// Why it failed; `None` if it succeeded.
        failed: Option<String>,
    },
}

/// Row of activity to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewActivity {
    /// Must be unused.
    pub id: ActivityId,
    /// Workspace that the row is listed under.
    pub workspace: WorkspaceId,
    /// One of [`TYPES`].
    pub activity_type: &'static str,
    /// Workspace that sent the message; `None` for a user, and for a notice to the user.
    pub source: Option<WorkspaceId>,
    /// Target: the id of a workspace, or text from the agent that reports it.
    pub target: Option<String>,
    /// Method of the message.
    pub method: Option<String>,
    /// One-line summary.
    pub summary: Summary,
    /// `ok`, `error`, or a word chosen by the agent.
    pub status: String,
    /// Error text from the agent.
    pub error_detail: Option<String>,
    /// Duration in milliseconds.
    pub duration_ms: Option<i64>,
    /// Body as JSON.
    pub request_body: Option<String>,
    /// Body as JSON.
    pub response_body: Option<String>,
    /// Time of the message or report.
    pub at: Timestamp,
}

/// Row of activity as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Position among the rows of all workspaces; increases with each new row.
    pub sequence: i64,
    /// Clients use it as a cursor.
    pub id: ActivityId,
    /// One of [`TYPES`].
    pub activity_type: &'static str,
    /// Id of the workspace that sent it; `None` for a user, and for a notice to the user.
    pub source: Option<String>,
    /// Target: the id of a workspace, or text from the agent that reports it.
    pub target: Option<String>,
    /// Method of the message.
    pub method: Option<String>,
    /// One-line summary.
    pub summary: Option<String>,
    /// `ok`, `error`, or a word chosen by the agent.
    pub status: String,
    /// Error text from the agent.
    pub error_detail: Option<String>,
    /// Duration in milliseconds.
    pub duration_ms: Option<i64>,
    /// Body as JSON.
    pub request_body: Option<String>,
    /// Body as JSON.
    pub response_body: Option<String>,
    /// Time of the message or report.
    pub at: Timestamp,
}

/// Result of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActivityPage {
    /// Rows, newest first; oldest first if the query has a cursor.
    Rows(Vec<Activity>),
    /// The workspace has no row with the cursor's id; the row may have been dropped.
    UnknownCursor,
}

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

impl Summary {
    fn line(self, method: Option<&str>, workspace: &str) -> Option<String> {
        match self {
            Self::Text(text) => text,
            Self::Message { failed: None } => Some(format!("{} → {workspace}", method.unwrap_or("message"))),
            Self::Message { failed: Some(why) } => Some(format!("A2A request to {workspace} failed: {why}")),
        }
    }
}

/// Writes a row and returns its workspace's name; `None` if the workspace is gone.
fn insert(tx: &Tx<'_>, new: NewActivity, waiting: bool) -> StoreResult<Option<String>> {
    let found = tx
        .sql
        .prepare_cached("SELECT key, name FROM workspaces WHERE id = ?1 AND status <> 'removed'")?
        .query_row([new.workspace], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let Some((key, name)) = found else { return Ok(None) };
    let summary = new.summary.line(new.method.as_deref(), &name);
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let bytes = length(&new.request_body) + length(&new.response_body) + length(&new.error_detail);
    tx.sql
        .prepare_cached(
            "INSERT INTO activity (id, workspace, activity_type, source_id, target_id, method, summary, status,
                                   error_detail, duration_ms, request_body, response_body, created_at, waiting, bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )?
        .execute(params![
            new.id,
            key,
            new.activity_type,
            new.source.map(|source| source.to_string()),
            new.target,
            new.method,
            summary,
            new.status,
            new.error_detail,
            new.duration_ms,
            new.request_body,
            new.response_body,
            new.at,
            waiting,
            i64::try_from(bytes).unwrap_or(i64::MAX)
        ])?;
    Ok(Some(name))
}

/// Drops the oldest rows of a workspace's history beyond the limits.
fn prune(tx: &Tx<'_>, workspace: WorkspaceId) -> StoreResult<()> {
    let mut query = tx.sql.prepare_cached(
        "SELECT sequence, bytes FROM activity
         WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1) AND waiting = 0 ORDER BY sequence DESC",
    )?;
    let mut rows = query.query([workspace])?;
    let (mut count, mut total) = (0_u32, 0_i64);
    while let Some(row) = rows.next()? {
        count += 1;
        total += row.get::<_, i64>(1)?;
        if count > KEPT || total > KEPT_BYTES {
            let newest_dropped: i64 = row.get(0)?;
            tx.sql
                .prepare_cached(
                    "DELETE FROM activity WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1)
                       AND waiting = 0 AND sequence <= ?2",
                )?
                .execute(params![workspace, newest_dropped])?;
            return Ok(());
        }
    }
    Ok(())
}

const COLUMNS: &str = "sequence, id, activity_type, source_id, target_id, method, summary, status, error_detail, \
     duration_ms, request_body, response_body, created_at";

fn activity(row: &rusqlite::Row<'_>) -> rusqlite::Result<Activity> {
    let activity_type: String = row.get(2)?;
    Ok(Activity {
        sequence: row.get(0)?,
        id: row.get(1)?,
        activity_type: word(
            "activity_type",
            &activity_type,
            TYPES.into_iter().find(|known| *known == activity_type),
        )?,
        source: row.get(3)?,
        target: row.get(4)?,
        method: row.get(5)?,
        summary: row.get(6)?,
        status: row.get(7)?,
        error_detail: row.get(8)?,
        duration_ms: row.get(9)?,
        request_body: row.get(10)?,
        response_body: row.get(11)?,
        at: row.get(12)?,
    })
}

/// Filter of a query. `?1` is the workspace; `?2` is a position among all rows.
const ASKED_FOR: &str = "(?3 IS NULL OR activity_type = ?3) AND (?4 IS NULL OR (source_id IS NULL) = ?4) \
     AND (?5 IS NULL OR source_id = ?5 OR target_id = ?5)";

/// With `after`, returns the rows after that position, oldest first. Otherwise returns the newest rows, newest first.
fn rows(sql: &Connection, key: i64, query: &ActivityQuery, after: Option<i64>) -> StoreResult<Vec<Activity>> {
    let order = if after.is_some() { "ASC" } else { "DESC" };
    // The filter `since` of a poll does not apply to waiting messages, because the agent has not received them yet.
    let text = format!(
        "SELECT {COLUMNS} FROM activity INDEXED BY activity_of_workspace
         WHERE workspace = ?1 AND sequence > ?2 AND {ASKED_FOR}
           AND (?6 IS NULL OR created_at >= ?6 OR (?7 AND waiting = 1)) AND (?8 IS NULL OR created_at < ?8)
         ORDER BY sequence {order} LIMIT ?9"
    );
    let mut query_rows = sql.prepare_cached(&text)?;
    let rows = query_rows.query_map(
        params![
            key,
            after.unwrap_or(0),
            query.activity_type,
            query.from_user(),
            query.peer,
            query.since,
            query.is_poll,
            query.before,
            query.limit
        ],
        activity,
    )?;
    let (mut page, mut bytes) = (Vec::new(), 0);
    for row in rows {
        let row = row?;
        bytes += row.request_body.as_ref().map_or(0, String::len);
        bytes += row.response_body.as_ref().map_or(0, String::len);
        page.push(row);
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    Ok(page)
}

/// Returns the position of the oldest waiting message that matches a query. With `up_to`, returns that of the newest
/// one at or before this position.
fn waiting(
    sql: &Connection,
    key: i64,
    query: &ActivityQuery,
    up_to: Option<i64>,
) -> StoreResult<Option<i64>> {
    let (which, upper) = up_to.map_or(("min", i64::MAX), |location| ("max", location));
    let text = format!(
        "SELECT {which}(sequence) FROM activity INDEXED BY activity_waiting
         WHERE workspace = ?1 AND waiting = 1 AND sequence <= ?2 AND {ASKED_FOR}"
    );
    Ok(sql
        .prepare_cached(&text)?
        .query_row(params![key, upper, query.activity_type, query.from_user(), query.peer], |row| {
            row.get(0)
        })?)
}

fn page(sql: &Connection, key: i64, query: &ActivityQuery, after: Option<i64>) -> StoreResult<Vec<Activity>> {
    let page = rows(sql, key, query, after)?;
    if !query.is_poll || after.is_some() || query.before.is_some() {
        return Ok(page);
    }
    // The client's next poll uses a row of this page as its cursor, and all waiting messages up to a cursor count as
    // polled. So the page must begin with the oldest waiting message, even if a page of the newest rows does not
    // contain it.
    let Some(oldest) = waiting(sql, key, query, None)? else { return Ok(page) };
    if page.last().is_some_and(|last| last.sequence <= oldest) {
        return Ok(page);
    }
    let mut page = rows(sql, key, query, Some(oldest - 1))?;
    page.reverse();
    Ok(page)
}

/// Returns the position of a cursor among a workspace's rows.
fn location(sql: &Connection, key: i64, cursor: ActivityId) -> StoreResult<Option<i64>> {
    Ok(sql
        .prepare_cached("SELECT sequence FROM activity WHERE id = ?1 AND workspace = ?2")?
        .query_row(params![cursor, key], |row| row.get(0))
        .optional()?)
}

fn key_of(sql: &Connection, of: WorkspaceId) -> StoreResult<Option<i64>> {
    Ok(sql
        .prepare_cached("SELECT key FROM workspaces WHERE id = ?1")?
        .query_row([of], |row| row.get(0))
        .optional()?)
}

impl Store {
    /// Writes rows of history and drops the oldest beyond the limits. Returns how many were written; rows of removed
    /// workspaces are skipped.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn log_activity(&self, rows: Vec<NewActivity>) -> StoreResult<usize> {
        self.lanes
            .write("log activity", move |tx| {
                let mut written = 0;
                let mut touched = std::collections::BTreeSet::new();
                for row in rows {
                    let workspace = row.workspace;
                    if insert(tx, row, false)?.is_some() {
                        written += 1;
                        touched.insert(workspace);
                    }
                }
                for workspace in touched {
                    prune(tx, workspace)?;
                }
                Ok(written)
            })
            .await
    }

    /// Writes an agent's notice to its user, and sends it to subscribers as a transient event with the workspace's
    /// name. `false` if the workspace is gone.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn note_notice(&self, row: NewActivity, mut payload: Value) -> StoreResult<bool> {
        self.lanes
            .write("record notice", move |tx| {
                let (workspace, at) = (row.workspace, row.at);
                let Some(name) = insert(tx, row, false)? else { return Ok(false) };
                prune(tx, workspace)?;
                payload["name"] = name.into();
                tx.pass(at, EventKind::AgentMessage, workspace, || payload);
                Ok(true)
            })
            .await
    }

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

    /// Returns rows of a workspace's activity; none for an unknown workspace.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn activity(&self, of: WorkspaceId, query: ActivityQuery) -> StoreResult<ActivityPage> {
        self.lanes
            .read("activity", move |sql| {
                let Some(key) = key_of(sql, of)? else { return Ok(ActivityPage::Rows(Vec::new())) };
                let after = match query.after {
                    None => None,
                    Some(cursor) => match location(sql, key, cursor)? {
                        None => return Ok(ActivityPage::UnknownCursor),
                        found => found,
                    },
                };
                page(sql, key, &query, after).map(ActivityPage::Rows)
            })
            .await
    }
}
