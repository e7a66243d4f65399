//! Activity: messages that passed through the proxy, messages that wait for an agent to poll them, notices, and
//! what agents report of their work.
//!
//! History is a ring for each workspace, bounded by count and by bytes. A message that waits to be polled is no
//! history: it is never dropped to make room. When a mailbox is full, the next sender is refused instead.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::{Store, StoreResult, lane::Tx, row::word};
use crate::domain::{
    activity::{ActivityQuery, TYPES},
    event::EventKind,
    ids::{ActivityId, WorkspaceId},
    time::Timestamp,
};

/// Rows of history kept of each workspace.
const KEPT: u32 = 500;
/// Bytes of history kept of each workspace.
const KEPT_BYTES: i64 = 4 << 20;
/// The most messages that wait for one agent, and their bytes.
const WAITING_MAX: i64 = 500;
const WAITING_BYTES_MAX: i64 = 32 << 20;
/// An answer ends after the row that reaches this many bytes of bodies.
const PAGE_BYTES: usize = 4 << 20;

/// What a row says in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Summary {
    /// This, or nothing.
    Text(Option<String>),
    /// Which message went to the workspace, and why it failed; the line names the workspace.
    Message {
        /// Why it failed.
        failed: Option<String>,
    },
}

/// A row to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewActivity {
    /// Its id, never used before.
    pub id: ActivityId,
    /// Workspace that the row is listed under.
    pub workspace: WorkspaceId,
    /// One of [`TYPES`].
    pub activity_type: &'static str,
    /// Workspace that sent it; `None` for a user.
    pub source: Option<WorkspaceId>,
    /// Where it went.
    pub target: Option<String>,
    /// The method of the message.
    pub method: Option<String>,
    /// One line about it.
    pub summary: Summary,
    /// `ok`, `error`, or the agent's own word.
    pub status: String,
    /// Why it failed, in the agent's words.
    pub error_detail: Option<String>,
    /// How long it took.
    pub duration_ms: Option<i64>,
    /// JSON.
    pub request_body: Option<String>,
    /// JSON.
    pub response_body: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// A row as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Its place among all rows.
    pub sequence: i64,
    /// Its id.
    pub id: ActivityId,
    /// One of [`TYPES`].
    pub activity_type: &'static str,
    /// Id of the workspace that sent it.
    pub source: Option<String>,
    /// Where it went.
    pub target: Option<String>,
    /// The method of the message.
    pub method: Option<String>,
    /// One line about it.
    pub summary: Option<String>,
    /// `ok`, `error`, or the agent's own word.
    pub status: String,
    /// Why it failed.
    pub error_detail: Option<String>,
    /// How long it took.
    pub duration_ms: Option<i64>,
    /// JSON.
    pub request_body: Option<String>,
    /// JSON.
    pub response_body: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// The answer to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActivityPage {
    /// These rows.
    Rows(Vec<Activity>),
    /// The workspace has no row of the id that was to be the cursor, or no longer has it.
    UnknownCursor,
}

/// What came of a message for an agent that polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It is stored.
    Stored,
    /// As much waits already as may: nothing was stored.
    Full,
    /// The workspace is gone: nothing was stored.
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

/// Writes a row, and answers its workspace's name. `None` when the workspace is gone.
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

/// Drops the oldest rows of history beyond what is kept of a workspace.
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

/// Which rows a query is about; with `?1`, and `?2` for a place among all rows.
const ASKED_FOR: &str = "(?3 IS NULL OR activity_type = ?3) AND (?4 IS NULL OR (source_id IS NULL) = ?4) \
     AND (?5 IS NULL OR source_id = ?5 OR target_id = ?5)";

/// Rows after a place, or the newest.
fn rows(sql: &Connection, key: i64, query: &ActivityQuery, after: Option<i64>) -> StoreResult<Vec<Activity>> {
    let order = if after.is_some() { "ASC" } else { "DESC" };
    // What waits has not arrived, however long ago it was sent.
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

/// The oldest message that waits, or, up to a place, the newest.
fn waiting(
    sql: &Connection,
    key: i64,
    query: &ActivityQuery,
    up_to: Option<i64>,
) -> StoreResult<Option<i64>> {
    let (which, upper) = up_to.map_or(("min", i64::MAX), |place| ("max", place));
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
    // A client takes a row of this page as its cursor, and a cursor retires all that waited before it. So the page has
    // to begin at the oldest message that waits, even where the newest rows do not reach back to it.
    let Some(oldest) = waiting(sql, key, query, None)? else { return Ok(page) };
    if page.last().is_some_and(|last| last.sequence <= oldest) {
        return Ok(page);
    }
    let mut page = rows(sql, key, query, Some(oldest - 1))?;
    page.reverse();
    Ok(page)
}

/// The place of a cursor among a workspace's rows.
fn place(sql: &Connection, key: i64, cursor: ActivityId) -> StoreResult<Option<i64>> {
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
    /// Writes rows of history, and drops the oldest beyond what is kept. Answers how many were written: those of
    /// removed workspaces are not.
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

    /// Writes a notice of an agent to its user, and passes it to those who follow events, with the workspace's name.
    /// `false` when the workspace is gone.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn note_notice(&self, row: NewActivity, mut told: Value) -> StoreResult<bool> {
        self.lanes
            .write("note notice", move |tx| {
                let (workspace, at) = (row.workspace, row.at);
                let Some(name) = insert(tx, row, false)? else { return Ok(false) };
                prune(tx, workspace)?;
                told["name"] = name.into();
                tx.pass(at, EventKind::AgentMessage, workspace, || told);
                Ok(true)
            })
            .await
    }

    /// Stores a message for an agent that polls: it waits there until the agent has polled past it.
    ///
    /// # Errors
    /// When the store cannot answer: then nothing was stored, and the sender has to be told.
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

    /// Notes that an agent has polled what a query is about up to a row: none of it waits any more. Other messages go on
    /// waiting: it was not sent those. Answers whether anything waited.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn note_polled(&self, of: WorkspaceId, up_to: i64, query: ActivityQuery) -> StoreResult<bool> {
        self.lanes
            .write("note polled", move |tx| {
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

    /// The newest message that waits, of those that a query with a cursor is about and up to that cursor, as a place
    /// among all rows.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn waiting_up_to(&self, of: WorkspaceId, query: ActivityQuery) -> StoreResult<Option<i64>> {
        self.lanes
            .read("waiting up to", move |sql| {
                let (Some(key), Some(cursor)) = (key_of(sql, of)?, query.after) else { return Ok(None) };
                let Some(place) = place(sql, key, cursor)? else { return Ok(None) };
                waiting(sql, key, &query, Some(place))
            })
            .await
    }

    /// Rows of a workspace's activity. An unknown workspace has none.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn activity(&self, of: WorkspaceId, query: ActivityQuery) -> StoreResult<ActivityPage> {
        self.lanes
            .read("activity", move |sql| {
                let Some(key) = key_of(sql, of)? else { return Ok(ActivityPage::Rows(Vec::new())) };
                let after = match query.after {
                    None => None,
                    Some(cursor) => match place(sql, key, cursor)? {
                        None => return Ok(ActivityPage::UnknownCursor),
                        found => found,
                    },
                };
                page(sql, key, &query, after).map(ActivityPage::Rows)
            })
            .await
    }
}
