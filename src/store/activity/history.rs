//! The history of a workspace: rows are added, and the oldest ones are dropped beyond the limits.

use rusqlite::params;
use serde_json::Value;

use super::{NewActivity, insert};
use crate::{
    domain::{event::EventKind, ids::WorkspaceId},
    store::{Store, StoreResult, lane::Tx},
};

/// Rows of history kept per workspace.
const KEPT: u32 = 500;

/// Bytes of history kept per workspace.
const KEPT_BYTES: i64 = 4 << 20;

/// Drops the oldest rows of a workspace's history beyond the limits.
pub(super) fn prune(tx: &Tx<'_>, workspace: WorkspaceId) -> StoreResult<()> {
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
}
