//! Activity: messages through the proxy, messages that wait for an agent to poll them, notices, and agents' reports of
//! their work.
//!
//! Each workspace's history is bounded by count and by bytes; the oldest rows are dropped. A message that waits to be
//! polled does not belong to the history and is never dropped to make room. If the mailbox is full, the next message is
//! refused.

mod history;
mod mailbox;
mod read;

use rusqlite::{Connection, OptionalExtension, params};

use super::{StoreResult, lane::Tx};
use crate::domain::{
    ids::{ActivityId, WorkspaceId},
    time::Timestamp,
};

pub use mailbox::Queued;
pub use read::{Activity, ActivityPage};

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

impl Summary {
    fn line(self, method: Option<&str>, workspace: &str) -> Option<String> {
        match self {
            Self::Text(text) => text,
            Self::Message { failed: None } => Some(format!("{} → {workspace}", method.unwrap_or("message"))),
            Self::Message { failed: Some(why) } => Some(format!("A2A request to {workspace} failed: {why}")),
        }
    }
}

/// Row of activity to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewActivity {
    /// Must be unused.
    pub id: ActivityId,
    /// Workspace that the row is listed under.
    pub workspace: WorkspaceId,
    /// One of [`TYPES`](crate::domain::activity::TYPES).
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

fn key_of(sql: &Connection, of: WorkspaceId) -> StoreResult<Option<i64>> {
    Ok(sql
        .prepare_cached("SELECT key FROM workspaces WHERE id = ?1")?
        .query_row([of], |row| row.get(0))
        .optional()?)
}
