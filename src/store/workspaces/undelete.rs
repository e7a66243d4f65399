//! Undeletes workspaces, with the descendants that the same removal took along.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

use super::{
    create::add_heartbeat_row,
    read::{descendants, is_deleted, many, name_taken, one, parents_first},
    status::{StatusChange, change_status},
};
use crate::{
    domain::{
        event::EventKind,
        ids::WorkspaceId,
        naming::WorkspaceName,
        status::{Cause, Status},
        time::Timestamp,
        workspace::Workspace,
    },
    store::{Store, StoreResult, lane::Tx, trash::begin_restore},
    testing::mutation::{Mutation, is},
};

/// Result of an undelete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UndeleteResult {
    /// The row is live again, with status `paused`.
    Back {
        /// Whether an entry of the trash is being restored to the workspace.
        restoring: bool,
        /// The descendants that the same removal had removed, parents first.
        along: Vec<UndeletedAlong>,
        /// Effect on the workspace's position in the tree, and on workspaces that were below it before.
        under: UndeletedUnder,
    },
    /// A live workspace has that name.
    NameTaken,
    /// Its resources were purged, or are being purged.
    Deleted,
    /// No removed row has this id.
    NotThere,
}

/// Effect of an undelete on the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UndeletedUnder {
    /// Name of the workspace's parent, if the parent is removed. The workspace is a root until the parent is undeleted.
    pub removed_parent: Option<WorkspaceName>,
    /// Workspaces that were roots because their parent was removed, and are now below that parent again.
    pub returned: Vec<WorkspaceName>,
    /// Workspaces that were roots for the same reason and stay roots, because they are not paused: no workspace may run
    /// below a paused parent.
    pub skipped_roots: Vec<WorkspaceName>,
}

/// Effect of an undelete on a descendant that the same removal had removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndeletedAlong {
    /// Id of the descendant.
    pub id: WorkspaceId,
    /// Name of the descendant, as stored.
    pub name: WorkspaceName,
    /// Why it is still removed; `None` if it was undeleted too.
    pub left: Option<UndeleteSkip>,
}

/// Why an undelete leaves a descendant of the same removal removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UndeleteSkip {
    /// A live workspace has its name.
    NameTaken,
    /// Its resources were purged, or are being purged.
    Deleted,
    /// The contained ancestor stays removed. An undelete of that ancestor also restores the descendant.
    Below(WorkspaceName),
}

impl Store {
    /// Undoes a removal. One transaction sets the row's status to `paused` and the state of its trash entry to
    /// `restoring`.
    ///
    /// A row whose parent is removed becomes a root. It moves back below that parent when the parent is undeleted,
    /// unless an operator has moved or started it in the meantime. Unless `only` is set, the descendants that the same
    /// removal had removed are undeleted too, parents first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn undelete_workspace(
        &self,
        id: WorkspaceId,
        name: Option<WorkspaceName>,
        only: bool,
        at: Timestamp,
    ) -> StoreResult<UndeleteResult> {
        Ok(self.accept_undelete(id, (name, only), |_, _| Vec::new(), None, at).await?.result)
    }
}

/// Returns the descendants that were removed together with this workspace and are still removed, parents first.
fn removed_along(tx: &Tx<'_>, row: &Workspace) -> StoreResult<Vec<Workspace>> {
    let removal = row.removed_with.unwrap_or(row.id);
    let group =
        parents_first(many(tx.sql, "WHERE w.removed_with = ?1 ORDER BY w.created_at, w.key", [removal])?);
    if removal == row.id {
        return Ok(group);
    }
    let mut within = BTreeSet::from([row.id]);
    let mut below = Vec::new();
    for other in group {
        if other.spec.parent.is_some_and(|parent| within.contains(&parent)) {
            within.insert(other.id);
            below.push(other);
        }
    }
    Ok(below)
}

/// Undeletes one row. Returns whether an entry of the trash is being restored to it. `along` is set for a descendant:
/// the workspace whose undelete restores it too, and whether the descendant is to resume with that workspace.
pub(super) fn undelete_row(
    tx: &mut Tx<'_>,
    id: WorkspaceId,
    name: &WorkspaceName,
    along: Option<(WorkspaceId, bool)>,
    at: Timestamp,
) -> StoreResult<bool> {
    tx.sql
        .prepare_cached(
            "UPDATE workspaces SET name = ?2, purge_ordered_at = NULL, stopped_revision = revision + 1,
               was_below = (SELECT p.id FROM workspaces p
                            WHERE p.id = COALESCE(workspaces.parent_id, workspaces.was_below) AND p.status = 'removed'),
               parent_id = (SELECT p.id FROM workspaces p
                            WHERE p.id = COALESCE(workspaces.parent_id, workspaces.was_below) AND p.status <> 'removed')
             WHERE id = ?1",
        )?
        .execute(params![id, name.as_str()])?;
    let with = along.map(|(with, _)| with);
    let reason = removed_parent(tx.sql, id)?
        .map(|parent| format!("its parent `{parent}` is removed, so it is now a root of the tree"));
    let change = StatusChange {
        workspace: id,
        cause: Cause::Undelete,
        incarnation: None,
        detail: None,
        payload: json!({ "name": name, "undeleted_with": with, "reason": reason }),
        at,
    };
    change_status(tx, &change, EventKind::Undeleted)?;
    if let Some((with, true)) = along {
        tx.sql
            .prepare_cached("UPDATE workspaces SET paused_with = ?2 WHERE id = ?1")?
            .execute(params![id, with])?;
    }
    add_heartbeat_row(tx, id)?;
    begin_restore(tx, id)
}

/// Returns the name of the removed parent below which a root is to be moved when that parent is undeleted.
pub(super) fn removed_parent(sql: &Connection, id: WorkspaceId) -> StoreResult<Option<WorkspaceName>> {
    let mut query = sql.prepare_cached(
        "SELECT p.name FROM workspaces w JOIN workspaces p ON p.id = w.was_below
         WHERE w.id = ?1 AND w.parent_id IS NULL AND p.status = 'removed'",
    )?;
    let name: Option<String> = query.query_row([id], |row| row.get(0)).optional()?;
    Ok(name.map(WorkspaceName::stored))
}

/// Moves workspaces back below `parent`: those that became roots because they were undeleted while `parent` was
/// removed. A workspace that is not paused stays a root, because `parent` is paused.
pub(super) fn return_below(
    tx: &mut Tx<'_>,
    parent: WorkspaceId,
    under: &mut UndeletedUnder,
    at: Timestamp,
) -> StoreResult<()> {
    for row in many(tx.sql, "WHERE w.was_below = ?1 ORDER BY w.created_at, w.key", [parent])? {
        let may_move = row.status != Status::Removed && row.spec.parent.is_none();
        // A removed row keeps `was_below`: its own undelete reads it.
        if !may_move || descendants(tx.sql, row.id)?.contains(&parent) {
            continue;
        }
        if row.status != Status::Paused {
            under.skipped_roots.push(row.name);
            continue;
        }
        tx.sql
            .prepare_cached("UPDATE workspaces SET parent_id = ?2, was_below = NULL WHERE id = ?1")?
            .execute([row.id, parent])?;
        let payload =
            json!({ "parent_id": parent, "reason": "moved back below its parent, which was undeleted" });
        tx.emit(at, EventKind::Updated, Some(row.id), payload, None)?;
        under.returned.push(row.name);
    }
    Ok(())
}

/// Undeletes the descendants in `below`, where possible. If the name of one is taken, its own descendants stay removed
/// too, because they would lose their position in the tree.
fn undelete_descendants(
    tx: &mut Tx<'_>,
    with: WorkspaceId,
    below: Vec<Workspace>,
    under: &mut UndeletedUnder,
    at: Timestamp,
) -> StoreResult<Vec<UndeletedAlong>> {
    let mut waiting: BTreeMap<WorkspaceId, WorkspaceName> = BTreeMap::new();
    let mut along = Vec::with_capacity(below.len());
    for row in below {
        let above = row.spec.parent.and_then(|parent| waiting.get(&parent)).cloned();
        let left = if let Some(above) = above {
            waiting.insert(row.id, above.clone());
            Some(UndeleteSkip::Below(above))
        } else if is_deleted(tx.sql, row.id)? {
            Some(UndeleteSkip::Deleted)
        } else if name_taken(tx.sql, &row.name)? {
            waiting.insert(row.id, row.name.clone());
            Some(UndeleteSkip::NameTaken)
        } else {
            undelete_row(tx, row.id, &row.name, Some((with, row.paused_with.is_some())), at)?;
            return_below(tx, row.id, under, at)?;
            None
        };
        along.push(UndeletedAlong { id: row.id, name: row.name, left });
    }
    Ok(along)
}

/// Updates `removed_with` of the rows that the undelete of `back` left removed. It then names the highest ancestor that
/// is still removed, so that an undelete of that ancestor restores them too.
pub(super) fn regroup_skipped(tx: &Tx<'_>, back: WorkspaceId) -> StoreResult<()> {
    let left = parents_first(many(tx.sql, "WHERE w.removed_with = ?1", [back])?);
    let mut highest: BTreeMap<WorkspaceId, WorkspaceId> = BTreeMap::new();
    for row in left {
        let above = row.spec.parent.and_then(|parent| highest.get(&parent)).copied();
        highest.insert(row.id, above.unwrap_or(row.id));
        tx.sql
            .prepare_cached("UPDATE workspaces SET removed_with = ?2 WHERE id = ?1")?
            .execute(params![row.id, above])?;
    }
    Ok(())
}

/// See [`Store::undelete_workspace`].
pub(in crate::store) fn undelete(
    tx: &mut Tx<'_>,
    id: WorkspaceId,
    name: Option<WorkspaceName>,
    only: bool,
    at: Timestamp,
) -> StoreResult<UndeleteResult> {
    let Some(row) = one(tx.sql, id)?.filter(|row| row.status == Status::Removed) else {
        return Ok(UndeleteResult::NotThere);
    };
    let name = name.unwrap_or_else(|| row.name.clone());
    if name_taken(tx.sql, &name)? {
        return Ok(UndeleteResult::NameTaken);
    }
    if is_deleted(tx.sql, id)? && !is(Mutation::UndeleteDeleted) {
        return Ok(UndeleteResult::Deleted);
    }
    let below = if only || is(Mutation::UndeleteAlone) { Vec::new() } else { removed_along(tx, &row)? };
    let restoring = undelete_row(tx, id, &name, None, at)?;
    let mut under = UndeletedUnder { removed_parent: removed_parent(tx.sql, id)?, ..Default::default() };
    return_below(tx, id, &mut under, at)?;
    let along = undelete_descendants(tx, id, below, &mut under, at)?;
    if !is(Mutation::UndeleteAlone) {
        regroup_skipped(tx, id)?;
    }
    Ok(UndeleteResult::Back { restoring, along, under })
}
