//! Permanent deletion: an entry is claimed for it, and its row forgets what was deleted.

use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::read::{COLUMNS, entries};
use crate::{
    domain::{
        event::EventKind,
        ids::{TrashId, WorkspaceId},
        time::Timestamp,
        trash::TrashReason,
    },
    store::{Store, StoreResult, lane::Tx},
    testing::mutation::{Mutation, is},
};

/// Precondition of a permanent deletion, besides that no live workspace owns the entry's volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteGuard {
    /// No further precondition: an operator named the entry.
    Named,
    /// The entry's retention ended before this time.
    RetentionEndedBefore(Timestamp),
    /// The entry's workspace is removed, and its last removal ordered a purge. If a workspace was undeleted after a
    /// purge order and removed again without one, its entry is kept for the whole retention.
    PurgeOrdered,
}

impl Store {
    /// Claims an entry for deletion; afterwards it cannot be restored.
    ///
    /// Returns `false` if the guard does not hold, or if a live workspace owns its volumes.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn begin_delete(
        &self,
        entry: TrashId,
        guard: DeleteGuard,
        swept_by: Option<&'static str>,
        at: Timestamp,
    ) -> StoreResult<bool> {
        let (past, ordered) = match guard {
            DeleteGuard::Named => (None, false),
            DeleteGuard::RetentionEndedBefore(time) => (Some(time), false),
            DeleteGuard::PurgeOrdered => (None, !is(Mutation::PurgeEverything)),
        };
        self.lanes
            .write("begin delete", move |tx| {
                let moved = tx
                    .sql
                    .prepare_cached(
                        "UPDATE trash SET state = 'deleting'
                         WHERE id = ?1 AND state = 'kept' AND (?2 IS NULL OR keep_until < ?2)
                           AND (reason IN ('stray', 'replaced')
                                OR NOT EXISTS (SELECT 1 FROM workspaces w
                                               WHERE w.id = trash.workspace AND w.status <> 'removed'))
                           AND (NOT ?3
                                OR EXISTS (SELECT 1 FROM workspaces w
                                           WHERE w.id = trash.workspace AND w.status = 'removed'
                                             AND w.purge_ordered_at IS NOT NULL))",
                    )?
                    .execute(params![entry, past, ordered])?;
                if moved > 0 && swept_by.is_some() {
                    let found =
                        entries(tx.sql, &format!("SELECT {COLUMNS} FROM trash WHERE id = ?1"), [entry])?;
                    let payload = json!({ "trash_id": entry, "phase": "claimed for deletion" });
                    for entry in found {
                        let counted = swept_by.filter(|_| !entry.reason.ordered_by_operator());
                        tx.emit(
                            at,
                            EventKind::TrashDeleted,
                            Some(entry.workspace),
                            payload.clone(),
                            counted,
                        )?;
                    }
                }
                Ok(moved > 0)
            })
            .await
    }

    /// Deletes an entry whose container and volumes have been deleted.
    ///
    /// If it was the last entry of a removed workspace with the reason `removed`, the workspace's row also loses its
    /// references to container, port and work volume. An entry in another state than `deleting` is not deleted.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn finish_delete(&self, entry: TrashId, at: Timestamp) -> StoreResult<()> {
        self.lanes
            .write("finish delete", move |tx| {
                let deleted: Option<(WorkspaceId, String)> = tx
                    .sql
                    .prepare_cached(
                        "DELETE FROM trash WHERE id = ?1 AND state = 'deleting' RETURNING workspace, reason",
                    )?
                    .query_row([entry], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?;
                let Some((workspace, reason)) = deleted else { return Ok(()) };
                if reason == TrashReason::Removed.as_str() {
                    forget_deleted(tx, workspace, at)?;
                }
                let payload = json!({ "trash_id": entry, "phase": "deleted" });
                tx.emit(at, EventKind::TrashDeleted, Some(workspace), payload, None)
            })
            .await
    }

    /// Marks a purge as finished: nothing of the removed workspace exists or can be restored any more.
    ///
    /// Returns `false` if the trash still has an entry of the workspace, or if the purge order was cancelled.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn finish_purge(&self, workspace: WorkspaceId, at: Timestamp) -> StoreResult<bool> {
        self.lanes
            .write("finish purge", move |tx| {
                let purged = tx
                    .sql
                    .prepare_cached(
                        "UPDATE workspaces SET container_id = NULL, host_port = NULL, has_work_volume = 0, purged_at = ?2,
                                purge_ordered_at = NULL
                         WHERE id = ?1 AND status = 'removed' AND purge_ordered_at IS NOT NULL
                           AND NOT EXISTS (SELECT 1 FROM trash t WHERE t.workspace = ?1)",
                    )?
                    .execute(params![workspace, at])?;
                // An earlier attempt may have finished it.
                let is_purged = "SELECT EXISTS (SELECT 1 FROM workspaces
                                                WHERE id = ?1 AND status = 'removed' AND purged_at IS NOT NULL)";
                Ok(purged > 0
                    || tx.sql.prepare_cached(is_purged)?.query_row([workspace], |row| row.get(0))?)
            })
            .await
    }
}

/// Clears a removed row's references to its deleted container and volumes. Changes nothing if the workspace has another
/// entry with the reason `removed`, because that entry can still be restored to the row.
fn forget_deleted(tx: &Tx<'_>, workspace: WorkspaceId, at: Timestamp) -> StoreResult<()> {
    tx.sql
        .prepare_cached(
            "UPDATE workspaces SET container_id = NULL, host_port = NULL, has_work_volume = 0, purged_at = ?2
             WHERE id = ?1 AND status = 'removed'
               AND NOT EXISTS (SELECT 1 FROM trash t WHERE t.workspace = ?1 AND t.reason = 'removed')",
        )?
        .execute(params![workspace, at])?;
    Ok(())
}
