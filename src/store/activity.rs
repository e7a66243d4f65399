//! What agents report for people to read.

use rusqlite::params;
use serde_json::Value;

use super::{Store, StoreResult, row::conversion};
use crate::domain::{ids::WorkspaceId, time::Timestamp};

/// How many reports are kept of each workspace.
const KEPT: u32 = 100;

/// A report.
#[derive(Clone, Debug, PartialEq)]
pub struct Activity {
    /// Its place among all reports.
    pub id: i64,
    /// As it was sent.
    pub payload: Value,
    /// When.
    pub created_at: Timestamp,
}

impl Store {
    /// Keeps a report, and forgets the oldest beyond the newest hundred. `false` when the workspace is gone.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn log_activity(&self, of: WorkspaceId, payload: Value, at: Timestamp) -> StoreResult<bool> {
        self.lanes
            .write("log activity", move |tx| {
                let logged = tx
                    .sql
                    .prepare_cached(
                        "INSERT INTO activity (workspace, payload, created_at)
                         SELECT key, ?2, ?3 FROM workspaces WHERE id = ?1 AND status <> 'removed'",
                    )?
                    .execute(params![of, payload.to_string(), at])?;
                tx.sql
                    .prepare_cached(
                        "DELETE FROM activity WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1)
                           AND sequence <= (SELECT sequence FROM activity
                                            WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1)
                                            ORDER BY sequence DESC LIMIT 1 OFFSET ?2)",
                    )?
                    .execute(params![of, KEPT])?;
                Ok(logged > 0)
            })
            .await
    }

    /// The reports of a workspace, newest first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn activity(&self, of: WorkspaceId) -> StoreResult<Vec<Activity>> {
        self.lanes
            .read("activity", move |sql| {
                let mut query = sql.prepare_cached(
                    "SELECT sequence, payload, created_at FROM activity
                     WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1) ORDER BY sequence DESC",
                )?;
                let reports = query.query_map([of], |row| {
                    let payload: String = row.get(1)?;
                    Ok(Activity {
                        id: row.get(0)?,
                        payload: serde_json::from_str(&payload).map_err(conversion)?,
                        created_at: row.get(2)?,
                    })
                })?;
                Ok(reports.collect::<Result<_, _>>()?)
            })
            .await
    }
}
