//! The beginning and the end of a restore from the trash.

use rusqlite::{Connection, OptionalExtension};
use serde_json::json;

use crate::{
    domain::{
        event::EventKind,
        ids::{TrashId, WorkspaceId},
        time::Timestamp,
    },
    store::{Store, StoreResult, lane::Tx},
};

/// Marks a removed workspace's entry as `restoring`. `false` if the workspace has no entry that can be restored.
pub(in crate::store) fn begin_restore(tx: &Tx<'_>, workspace: WorkspaceId) -> StoreResult<bool> {
    let moved = tx
        .sql
        .prepare_cached(
            "UPDATE trash SET state = 'restoring'
             WHERE workspace = ?1 AND reason = 'removed' AND state IN ('claimed', 'kept')",
        )?
        .execute([workspace])?;
    Ok(moved > 0)
}

/// Returns the workspace and its name, if the entry is being restored.
pub(in crate::store) fn entry_being_restored(
    sql: &Connection,
    entry: TrashId,
) -> StoreResult<Option<(WorkspaceId, String)>> {
    Ok(sql
        .prepare_cached("SELECT workspace, workspace_name FROM trash WHERE id = ?1 AND state = 'restoring'")?
        .query_row([entry], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?)
}

impl Store {
    /// Marks an entry whose workspace has no row as `restoring`. The caller then adopts the workspace.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn begin_restore(&self, entry: TrashId, at: Timestamp) -> StoreResult<bool> {
        Ok(self.accept_restore(entry, None, at).await?.result)
    }

    /// Deletes the entry of a finished restore. `false` if it was not in the state `restoring`.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn finish_restore(&self, entry: TrashId, at: Timestamp) -> StoreResult<bool> {
        self.lanes
            .write("finish restore", move |tx| {
                let workspace: Option<WorkspaceId> = tx
                    .sql
                    .prepare_cached(
                        "DELETE FROM trash WHERE id = ?1 AND state = 'restoring' RETURNING workspace",
                    )?
                    .query_row([entry], |row| row.get(0))
                    .optional()?;
                if workspace.is_some() {
                    tx.emit(at, EventKind::TrashRestored, workspace, json!({ "trash_id": entry }), None)?;
                }
                Ok(workspace.is_some())
            })
            .await
    }
}
