//! Removes workspaces with everything below them, and forgets removed ones.

use rusqlite::params;
use serde_json::json;

use super::{
    read::{descendants, is_live, many, one},
    status::{StatusChange, change_status},
};
use crate::{
    domain::{
        event::EventKind,
        ids::WorkspaceId,
        naming::WorkspaceName,
        status::{Cause, Status},
        time::Timestamp,
    },
    store::{
        Store, StoreResult,
        lane::Tx,
        row::{self},
        tokens::revoke_instance_tokens,
    },
};

/// Result of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoveResult {
    /// The status of all these rows is now `removed`.
    Removed {
        /// The workspace and its descendants.
        removed: Vec<WorkspaceId>,
    },
    /// The workspace has children, and `cascade` was not set; contains the direct children.
    HasChildren(Vec<(WorkspaceId, WorkspaceName)>),
    /// No live row has this id.
    NotThere,
}

impl Store {
    /// Removes a row and, with `cascade`, its descendants, and revokes their instance tokens.
    ///
    /// Their containers and volumes are removed later. With `purge`, the rows record that these are to be deleted
    /// permanently.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn remove_workspace(
        &self,
        id: WorkspaceId,
        cascade: bool,
        purge: bool,
        at: Timestamp,
    ) -> StoreResult<RemoveResult> {
        Ok(self.accept_removal(id, (cascade, purge), None, at).await?.result)
    }

    /// Deletes the oldest rows that were removed before `before`. Returns how many.
    ///
    /// Deletes at most `limit` rows, no row in `keep`, and no row that has a trash entry or a child row.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn forget_removed(
        &self,
        before: Timestamp,
        keep: Vec<WorkspaceId>,
        limit: u32,
    ) -> StoreResult<usize> {
        self.lanes
            .write("delete old removed rows", move |tx| {
                Ok(tx
                    .sql
                    .prepare_cached(
                        "DELETE FROM workspaces WHERE key IN (
                           SELECT w.key FROM workspaces w
                           WHERE w.status = 'removed' AND w.removed_at < ?1
                             AND w.id NOT IN (SELECT value FROM rarray(?2))
                             AND NOT EXISTS (SELECT 1 FROM trash t WHERE t.workspace = w.id)
                             AND NOT EXISTS (SELECT 1 FROM workspaces c WHERE c.parent_id = w.id)
                           ORDER BY w.removed_at LIMIT ?3)",
                    )?
                    .execute(params![before, row::ids(&keep), limit])?)
            })
            .await
    }
}

/// See [`Store::remove_workspace`].
pub(in crate::store) fn remove(
    tx: &mut Tx<'_>,
    id: WorkspaceId,
    cascade: bool,
    purge: bool,
    at: Timestamp,
) -> StoreResult<RemoveResult> {
    if !is_live(tx.sql, id)? {
        return Ok(RemoveResult::NotThere);
    }
    let below = descendants(tx.sql, id)?;
    if !below.is_empty() && !cascade {
        let children = many(tx.sql, "WHERE w.parent_id = ?1 AND w.status <> 'removed'", [id])?;
        return Ok(RemoveResult::HasChildren(children.into_iter().map(|w| (w.id, w.name)).collect()));
    }
    let mut removed = vec![id];
    removed.extend(below);
    for workspace in &removed {
        let along = Some(id).filter(|_| *workspace != id);
        // A workspace that was paused on its own gets no `paused_with`: after an undelete, it must not
        // resume together with the others.
        let stopped = one(tx.sql, *workspace)?
            .is_some_and(|row| row.status == Status::Paused && row.paused_with.is_none());
        let payload = if *workspace == id {
            json!({ "cascade_deleted": removed.len() - 1 })
        } else {
            json!({ "removed_with": id })
        };
        let change = StatusChange {
            workspace: *workspace,
            cause: Cause::Remove,
            incarnation: None,
            detail: None,
            payload,
            at,
        };
        change_status(tx, &change, EventKind::Removed)?;
        revoke_instance_tokens(tx, *workspace, at)?;
        tx.sql
            .prepare_cached(
                // The assignment also clears the purge order of an earlier removal, which does not apply to
                // this removal.
                "UPDATE workspaces SET removed_with = ?2, paused_with = ?3,
                   purge_ordered_at = CASE WHEN ?4 THEN ?5 END WHERE id = ?1",
            )?
            .execute(params![workspace, along, along.filter(|_| !stopped), purge, at])?;
        tx.sql
            .prepare_cached("DELETE FROM pulse WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1)")?
            .execute([workspace])?;
    }
    Ok(RemoveResult::Removed { removed })
}
