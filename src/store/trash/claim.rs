//! A claim on a container and volumes; the entry is kept once they are moved.

use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::move_state;
use crate::{
    domain::{
        event::EventKind,
        ids::{ContainerId, TrashId, WorkspaceId},
        time::Timestamp,
        trash::{TrashContents, TrashEntry, TrashReason, TrashState},
    },
    store::{Store, StoreResult, lane::Tx, row},
    testing::mutation::{Mutation, is},
};

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

fn add_item(tx: &Tx<'_>, trash: TrashId, item: &str, kind: &str, name: &str) -> StoreResult<bool> {
    let added = tx
        .sql
        .prepare_cached(
            "INSERT INTO trash_items (item, trash, kind, name) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        )?
        .execute(params![item, trash, kind, name])?;
    Ok(added > 0)
}

/// Writes a claim in the caller's transaction. `None` if its guard does not hold, or if its container or one of its
/// volumes is already claimed.
pub(in crate::store) fn insert_claim(
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
}
