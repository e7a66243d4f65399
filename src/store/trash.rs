//! The trash: a workspace's container and volumes are claimed, kept, and then restored or deleted.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;

use super::{Store, StoreResult, lane::Tx, row};
use crate::domain::{
    event::EventKind,
    ids::{ContainerId, TrashId, WorkspaceId},
    time::Timestamp,
    trash::{NamedContainer, TrashContents, TrashEntry, TrashReason, TrashState},
};
use crate::testing::mutation::{Mutation, is};

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

/// Precondition of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimGuard {
    /// The row's status is `removed`.
    RowRemoved,
    /// The workspace has no row. The claim fails if an adoption has created the row in the meantime.
    NoRow,
    /// The workspace has a row, and the row does not refer to this container.
    NotTheRows(ContainerId),
}

/// Claim on a container and volumes that are to be moved to the trash.
#[derive(Clone, Debug)]
pub struct NewClaim {
    /// Id of the new entry.
    pub id: TrashId,
    /// Workspace that owned the container and volumes.
    pub workspace: WorkspaceId,
    /// Name of the workspace. It is stored in the entry, because the workspace may have no row.
    pub workspace_name: String,
    /// Why the container and volumes are moved.
    pub reason: TrashReason,
    /// Evidence for the decision; part of the event.
    pub evidence: String,
    /// Container and volumes to move.
    pub contents: TrashContents,
    /// Checked in the transaction of the claim.
    pub guard: ClaimGuard,
    /// End of the retention; the entry is not deleted automatically before it.
    pub keep_until: Timestamp,
    /// The sweep pass that decided the claim, if any. Such a claim counts towards the breaker's limit, unless an
    /// operator ordered the removal.
    pub swept_by: Option<&'static str>,
}

const COLUMNS: &str = "id, workspace, workspace_name, reason, evidence, state, created_at, keep_until";

fn entry(row: &Row<'_>) -> rusqlite::Result<TrashEntry> {
    let (reason, state): (String, String) = (row.get(3)?, row.get(5)?);
    Ok(TrashEntry {
        id: row.get(0)?,
        workspace: row.get(1)?,
        workspace_name: row.get(2)?,
        reason: row::word("reason", &reason, TrashReason::ALL.into_iter().find(|r| r.as_str() == reason))?,
        evidence: row.get(4)?,
        contents: TrashContents::default(),
        state: row::word("state", &state, TrashState::ALL.into_iter().find(|s| s.as_str() == state))?,
        created_at: row.get(6)?,
        keep_until: row.get(7)?,
    })
}

fn with_contents(sql: &Connection, mut entry: TrashEntry) -> StoreResult<TrashEntry> {
    let mut query =
        sql.prepare_cached("SELECT item, kind, name FROM trash_items WHERE trash = ?1 ORDER BY item")?;
    let items = query.query_map([entry.id], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
    })?;
    for item in items {
        let (item, kind, name) = item?;
        if kind == "container" {
            let id = item.try_into().map_err(row::conversion)?;
            entry.contents.container = Some(NamedContainer { id, name });
        } else {
            entry.contents.volumes.push(item);
        }
    }
    Ok(entry)
}

fn entries(sql: &Connection, text: &str, bind: impl rusqlite::Params) -> StoreResult<Vec<TrashEntry>> {
    let found = sql.prepare_cached(text)?.query_map(bind, entry)?.collect::<Result<Vec<_>, _>>()?;
    found.into_iter().map(|entry| with_contents(sql, entry)).collect()
}

fn guard_holds(tx: &Tx<'_>, claim: &NewClaim) -> StoreResult<bool> {
    let row: Option<(String, Option<String>)> = tx
        .sql
        .prepare_cached("SELECT status, container_id FROM workspaces WHERE id = ?1")?
        .query_row([claim.workspace], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if is(Mutation::ClaimUnguarded) {
        return Ok(true);
    }
    Ok(match (&claim.guard, row) {
        (ClaimGuard::RowRemoved, Some((status, _))) => status == "removed",
        (ClaimGuard::NoRow, row) => row.is_none(),
        (ClaimGuard::NotTheRows(container), Some((_, held))) => held.as_deref() != Some(container.as_str()),
        (ClaimGuard::RowRemoved | ClaimGuard::NotTheRows(_), None) => false,
    })
}

fn add_item(tx: &Tx<'_>, trash: TrashId, item: &str, kind: &str, name: &str) -> StoreResult<bool> {
    let added = tx
        .sql
        .prepare_cached(
            "INSERT INTO trash_items (item, trash, kind, name) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        )?
        .execute(params![item, trash, kind, name])?;
    Ok(added > 0)
}

/// Changes the state of an entry if it is one of `from`. The caller emits the event.
fn move_state(tx: &Tx<'_>, id: TrashId, from: &[TrashState], to: TrashState) -> StoreResult<bool> {
    let from: Vec<_> = from.iter().map(|state| state.as_str()).collect();
    let moved = tx
        .sql
        .prepare_cached(
            "UPDATE trash SET state = ?2 WHERE id = ?1 AND state IN (SELECT value FROM rarray(?3))",
        )?
        .execute(params![id, to.as_str(), row::texts(&from)])?;
    Ok(moved > 0)
}

/// Marks a removed workspace's entry as `restoring`. `false` if the workspace has no entry that can be restored.
pub(super) fn begin_restore(tx: &Tx<'_>, workspace: WorkspaceId) -> StoreResult<bool> {
    let moved = tx
        .sql
        .prepare_cached(
            "UPDATE trash SET state = 'restoring'
             WHERE workspace = ?1 AND reason = 'removed' AND state IN ('claimed', 'kept')",
        )?
        .execute([workspace])?;
    Ok(moved > 0)
}

impl Store {
    /// Claims a container and volumes for the trash. `None` if the guard does not hold, or if another entry has claimed
    /// one of them; then nothing was written.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn claim_for_trash(&self, claim: NewClaim, at: Timestamp) -> StoreResult<Option<TrashEntry>> {
        self.lanes.write("claim for trash", move |tx| insert_claim(tx, claim, at)).await
    }

    /// Marks a claimed entry as kept, after its container was stopped and renamed. `false` if the entry was not in the
    /// state `claimed`.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn mark_in_trash(&self, entry: TrashId, at: Timestamp) -> StoreResult<bool> {
        self.lanes
            .write("mark in trash", move |tx| {
                let moved = move_state(tx, entry, &[TrashState::Claimed], TrashState::Kept)?;
                if moved {
                    emit_entry_event(tx, at, EventKind::TrashKept, entry, json!({}))?;
                }
                Ok(moved)
            })
            .await
    }

    /// Removes an item that no longer exists from an entry.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn drop_from_trash(&self, entry: TrashId, item: String) -> StoreResult<()> {
        self.lanes
            .write("drop from trash", move |tx| {
                tx.sql
                    .prepare_cached("DELETE FROM trash_items WHERE trash = ?1 AND item = ?2")?
                    .execute(params![entry, item])?;
                Ok(())
            })
            .await
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

    /// Cancels the deletion or restore of an entry: sets its state back to `kept`.
    ///
    /// Used if an object to be deleted is in use, or if a restore has no workspace to restore to.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn cancel_transition(&self, entry: TrashId) -> StoreResult<()> {
        self.lanes
            .write("cancel transition", move |tx| {
                let from = [TrashState::Deleting, TrashState::Restoring];
                move_state(tx, entry, &from, TrashState::Kept).map(drop)
            })
            .await
    }

    /// Marks an entry whose workspace has no row as `restoring`. The caller then adopts the workspace.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn begin_restore(&self, entry: TrashId) -> StoreResult<bool> {
        self.lanes
            .write("begin restore", move |tx| {
                move_state(tx, entry, &[TrashState::Kept, TrashState::Claimed], TrashState::Restoring)
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
                Ok(purged > 0)
            })
            .await
    }

    /// Returns all entries, oldest first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn trash(&self) -> StoreResult<Vec<TrashEntry>> {
        self.lanes
            .read("trash", |sql| {
                entries(sql, &format!("SELECT {COLUMNS} FROM trash ORDER BY created_at, id"), [])
            })
            .await
    }

    /// Returns one entry, in any state.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn trash_entry(&self, id: TrashId) -> StoreResult<Option<TrashEntry>> {
        self.lanes
            .read("trash entry", move |sql| {
                Ok(entries(sql, &format!("SELECT {COLUMNS} FROM trash WHERE id = ?1"), [id])?.pop())
            })
            .await
    }

    /// Returns the entries of some workspaces.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn trash_of(&self, workspaces: Vec<WorkspaceId>) -> StoreResult<Vec<TrashEntry>> {
        self.lanes
            .read("trash of", move |sql| {
                let text = format!(
                    "SELECT {COLUMNS} FROM trash WHERE workspace IN (SELECT value FROM rarray(?1)) ORDER BY id"
                );
                entries(sql, &text, [row::ids(&workspaces)])
            })
            .await
    }

    /// Returns the entries that a sweep needs: all entries of the listed workspaces, and all entries in the state
    /// `claimed` or `restoring`. The container and volumes of the latter may be missing in the listing.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn relevant_trash(&self, listed: Vec<WorkspaceId>) -> StoreResult<Vec<TrashEntry>> {
        self.lanes
            .read("relevant trash", move |sql| {
                let open = if is(Mutation::FinishListedClaims) {
                    "FALSE"
                } else {
                    "state IN ('claimed', 'restoring')"
                };
                let text = format!(
                    "SELECT {COLUMNS} FROM trash WHERE workspace IN (SELECT value FROM rarray(?1)) OR {open}
                     ORDER BY id"
                );
                entries(sql, &text, [row::ids(&listed)])
            })
            .await
    }

    /// Returns entries past their retention, and those whose deletion was interrupted by a crash. At most `limit`.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn trash_due(&self, now: Timestamp, limit: u32) -> StoreResult<Vec<TrashEntry>> {
        self.lanes
            .read("trash due", move |sql| {
                let text = format!(
                    "SELECT {COLUMNS} FROM trash
                     WHERE state = 'deleting' OR (state = 'kept' AND keep_until < ?1)
                     ORDER BY keep_until LIMIT ?2"
                );
                entries(sql, &text, params![now, limit])
            })
            .await
    }
}

/// Writes a claim in the caller's transaction. `None` if its guard does not hold, or if its container or one of its
/// volumes is already claimed.
pub(super) fn insert_claim(
    tx: &mut Tx<'_>,
    claim: NewClaim,
    at: Timestamp,
) -> StoreResult<Option<TrashEntry>> {
    if !guard_holds(tx, &claim)? || already_claimed(tx, &claim.contents)? {
        return Ok(None);
    }
    tx.sql
        .prepare_cached(
            "INSERT INTO trash (id, workspace, workspace_name, reason, evidence, state, created_at, keep_until)
             VALUES (?1, ?2, ?3, ?4, ?5, 'claimed', ?6, ?7)",
        )?
        .execute(params![
            claim.id,
            claim.workspace,
            claim.workspace_name,
            claim.reason.as_str(),
            claim.evidence,
            at,
            claim.keep_until
        ])?;
    if let Some(container) = &claim.contents.container {
        add_item(tx, claim.id, container.id.as_str(), "container", &container.name)?;
    }
    for volume in &claim.contents.volumes {
        add_item(tx, claim.id, volume, "volume", volume)?;
    }
    let payload = json!({
        "trash_id": claim.id,
        "reason": claim.reason,
        "evidence": claim.evidence,
        "container": claim.contents.container.as_ref().map(|c| c.id.as_str()),
        "volumes": claim.contents.volumes,
    });
    let counted = claim.swept_by.filter(|_| !claim.reason.ordered_by_operator());
    tx.emit(at, EventKind::ContainerReaped, Some(claim.workspace), payload, counted)?;
    Ok(Some(TrashEntry {
        id: claim.id,
        workspace: claim.workspace,
        workspace_name: claim.workspace_name,
        reason: claim.reason,
        evidence: claim.evidence,
        contents: claim.contents,
        state: TrashState::Claimed,
        created_at: at,
        keep_until: claim.keep_until,
    }))
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

fn already_claimed(tx: &Tx<'_>, contents: &TrashContents) -> StoreResult<bool> {
    let items: Vec<&str> = contents
        .volumes
        .iter()
        .map(String::as_str)
        .chain(contents.container.as_ref().map(|container| container.id.as_str()))
        .collect();
    Ok(tx
        .sql
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM trash_items WHERE item IN (SELECT value FROM rarray(?1)))",
        )?
        .query_row([row::texts(&items)], |row| row.get(0))?)
}

fn emit_entry_event(
    tx: &mut Tx<'_>,
    at: Timestamp,
    kind: EventKind,
    entry: TrashId,
    mut payload: serde_json::Value,
) -> StoreResult<()> {
    let workspace: Option<WorkspaceId> = tx
        .sql
        .prepare_cached("SELECT workspace FROM trash WHERE id = ?1")?
        .query_row([entry], |row| row.get(0))
        .optional()?;
    payload["trash_id"] = json!(entry);
    if workspace.is_some() { tx.emit(at, kind, workspace, payload, None) } else { Ok(()) }
}
