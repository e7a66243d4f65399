//! Pages of a workspace's activity.

use rusqlite::{Connection, OptionalExtension, params};

use super::key_of;
use crate::{
    domain::{
        activity::{ActivityQuery, TYPES},
        ids::{ActivityId, WorkspaceId},
        time::Timestamp,
    },
    store::{Store, StoreResult, row::word},
};

/// A page ends when the bodies of its rows reach this many bytes.
const PAGE_BYTES: usize = 4 << 20;

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
pub(super) const ASKED_FOR: &str = "(?3 IS NULL OR activity_type = ?3) AND (?4 IS NULL OR (source_id IS NULL) = ?4) \
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

/// Returns the position of the oldest waiting message that matches a query. With `up_to`, returns that of the newest
/// one at or before this position.
pub(super) fn waiting(
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

/// Returns the position of a cursor among a workspace's rows.
pub(super) fn location(sql: &Connection, key: i64, cursor: ActivityId) -> StoreResult<Option<i64>> {
    Ok(sql
        .prepare_cached("SELECT sequence FROM activity WHERE id = ?1 AND workspace = ?2")?
        .query_row(params![cursor, key], |row| row.get(0))
        .optional()?)
}

impl Store {
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
