//! Finds and reads workspace rows.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    domain::{
        access::STEPS_MAX,
        ids::{IdPrefix, WorkspaceId, id_prefix},
        naming::WorkspaceName,
        operation::Revision,
        status::Status,
        workspace::Workspace,
    },
    store::{
        Store, StoreResult,
        workspace_columns::{WORKSPACE_COLUMNS, workspace},
    },
    testing::mutation::{Mutation, is},
};

/// Which rows a query considers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Rows that are not removed.
    Live,
    /// Removed rows only.
    Removed,
    /// All rows; a live row comes before a removed one of the same name.
    Any,
}

impl Scope {
    pub(in crate::store) fn condition(self) -> &'static str {
        match self {
            Self::Live => "w.status <> 'removed'",
            Self::Removed => "w.status = 'removed'",
            Self::Any => "TRUE",
        }
    }
}

/// Result of resolving a name, id or id prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Exactly one row matches.
    One(Box<Workspace>),
    /// Several rows match: their names and ids.
    Many(Vec<(WorkspaceName, WorkspaceId)>),
    /// No row matches; contains the names that exist (at most 10000).
    None(Vec<WorkspaceName>),
}

impl Store {
    /// Returns a row, removed or not.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn workspace(&self, id: WorkspaceId) -> StoreResult<Option<Workspace>> {
        self.lanes.read("workspace", move |sql| one(sql, id)).await
    }

    /// Finds a row by name, id or unique id prefix. An exact name takes precedence over an id prefix, unless the name
    /// itself looks like an id prefix. A complete id takes precedence over a name.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn find_workspace(&self, reference: String, scope: Scope) -> StoreResult<Found> {
        self.lanes
            .read("find workspace", move |sql| {
                let within = scope.condition();
                let prefix = id_prefix(&reference);
                // A complete id is never looked up as a name: otherwise a workspace whose name is the id of another
                // workspace would receive the requests meant for the other one.
                if let Some(prefix) =
                    prefix.filter(|prefix| prefix.whole().is_some() && !is(Mutation::NamesBeforeIds))
                {
                    return match by_id_prefix(sql, prefix, within)?.into_iter().next() {
                        Some(found) => Ok(Found::One(found.into())),
                        None => names(sql, within).map(Found::None),
                    };
                }
                let mut named = many(
                    sql,
                    &format!(
                        "WHERE w.name = ?1 AND {within} ORDER BY w.status = 'removed', w.removed_at DESC"
                    ),
                    [&reference],
                )?;
                prefer_restorable(sql, &mut named)?;
                let live = named.iter().filter(|row| row.status != Status::Removed).count();
                // Names that look like an id prefix are refused, but older rows may have one. If such a name matches
                // one workspace and an id prefix another, the result is ambiguous.
                let shadowing = prefix.filter(|prefix| prefix.is_id_prefix() && !named.is_empty());
                if let Some(prefix) = shadowing.filter(|_| !is(Mutation::NamesBeforeIds)) {
                    let mut all = by_id_prefix(sql, prefix, within)?;
                    all.retain(|row| named.iter().all(|named| named.id != row.id));
                    if !all.is_empty() {
                        all.extend(named);
                        return Ok(Found::Many(all.into_iter().map(|w| (w.name, w.id)).collect()));
                    }
                }
                if named.len() == 1 || live == 1 {
                    return Ok(named
                        .into_iter()
                        .next()
                        .map_or(Found::None(Vec::new()), |w| Found::One(w.into())));
                }
                if named.len() > 1 {
                    return Ok(Found::Many(named.into_iter().map(|w| (w.name, w.id)).collect()));
                }
                let mut by_id =
                    prefix.map(|prefix| by_id_prefix(sql, prefix, within)).transpose()?.unwrap_or_default();
                prefer_restorable(sql, &mut by_id)?;
                if by_id.len() > 1 {
                    return Ok(Found::Many(by_id.into_iter().map(|w| (w.name, w.id)).collect()));
                }
                match by_id.into_iter().next() {
                    Some(found) => Ok(Found::One(found.into())),
                    None => names(sql, within).map(Found::None),
                }
            })
            .await
    }

    /// Returns rows, oldest first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn workspaces(&self, scope: Scope) -> StoreResult<Vec<Workspace>> {
        self.lanes
            .read("workspaces", move |sql| {
                many(sql, &format!("WHERE {} ORDER BY w.created_at, w.key", scope.condition()), [])
            })
            .await
    }
}

pub(in crate::store) fn one(sql: &Connection, id: WorkspaceId) -> StoreResult<Option<Workspace>> {
    let text = format!("SELECT {WORKSPACE_COLUMNS} FROM workspaces w WHERE w.id = ?1");
    Ok(sql.prepare_cached(&text)?.query_row([id], workspace).optional()?)
}

pub(in crate::store) fn many(
    sql: &Connection,
    tail: &str,
    bind: impl rusqlite::Params,
) -> StoreResult<Vec<Workspace>> {
    let text = format!("SELECT {WORKSPACE_COLUMNS} FROM workspaces w {tail}");
    Ok(sql.prepare_cached(&text)?.query_map(bind, workspace)?.collect::<Result<_, _>>()?)
}

pub(in crate::store) fn name_taken(sql: &Connection, name: &WorkspaceName) -> StoreResult<bool> {
    Ok(sql
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM workspaces WHERE name = ?1 AND status <> 'removed')")?
        .query_row([name.as_str()], |row| row.get(0))?)
}

pub(super) fn is_live(sql: &Connection, id: WorkspaceId) -> StoreResult<bool> {
    Ok(sql
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM workspaces WHERE id = ?1 AND status <> 'removed')")?
        .query_row([id], |row| row.get(0))?)
}

/// Sorts rows so that each parent comes before its children.
pub(in crate::store) fn parents_first(rows: Vec<Workspace>) -> Vec<Workspace> {
    let mut left = rows;
    let mut ordered: Vec<Workspace> = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let below: BTreeSet<_> = left.iter().map(|row| row.id).collect();
        let (later, now): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|row| row.spec.parent.is_some_and(|parent| below.contains(&parent)));
        if now.is_empty() {
            // A cycle, which the store never creates: keep the remaining rows in any order.
            ordered.extend(later);
            break;
        }
        ordered.extend(now);
        left = later;
    }
    ordered
}

/// Drops purged workspaces from the candidates if another candidate is live or can be restored. If all are purged, all
/// stay, because their history can still be read.
fn prefer_restorable(sql: &Connection, candidates: &mut Vec<Workspace>) -> StoreResult<()> {
    if candidates.len() < 2 {
        return Ok(());
    }
    let mut kept = Vec::with_capacity(candidates.len());
    for row in candidates.iter() {
        if row.status != Status::Removed || !is_deleted(sql, row.id)? {
            kept.push(row.clone());
        }
    }
    if !kept.is_empty() {
        *candidates = kept;
    }
    Ok(())
}

/// Returns whether the resources of a removed row were purged, or are being purged.
pub(super) fn is_deleted(sql: &Connection, id: WorkspaceId) -> StoreResult<bool> {
    Ok(sql
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM workspaces WHERE id = ?1 AND purged_at IS NOT NULL)
                 OR EXISTS (SELECT 1 FROM trash
                            WHERE workspace = ?1 AND reason = 'removed' AND state = 'deleting')",
        )?
        .query_row([id], |row| row.get(0))?)
}

pub(in crate::store) fn descendants(sql: &Connection, id: WorkspaceId) -> StoreResult<Vec<WorkspaceId>> {
    let mut query = sql.prepare_cached(
        "WITH RECURSIVE below (id) AS (
           SELECT w.id FROM workspaces w WHERE w.parent_id = ?1 AND w.status <> 'removed'
           UNION
           SELECT w.id FROM below b JOIN workspaces w ON w.parent_id = b.id AND w.status <> 'removed')
         SELECT id FROM below",
    )?;
    Ok(query.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Returns the nearest paused workspace among this one and its ancestors.
pub(in crate::store) fn paused_in_chain(
    sql: &Connection,
    from: WorkspaceId,
) -> StoreResult<Option<WorkspaceName>> {
    let mut query = sql.prepare_cached(
        "WITH RECURSIVE above (id, parent_id, name, status, depth) AS (
           SELECT w.id, w.parent_id, w.name, w.status, 0 FROM workspaces w WHERE w.id = ?1
           UNION ALL
           SELECT w.id, w.parent_id, w.name, w.status, a.depth + 1 FROM above a JOIN workspaces w ON w.id = a.parent_id
           WHERE a.depth < ?2)
         SELECT name FROM above WHERE status = 'paused' ORDER BY depth LIMIT 1",
    )?;
    let steps = u32::try_from(STEPS_MAX).unwrap_or(u32::MAX);
    let name: Option<String> = query.query_row(params![from, steps], |row| row.get(0)).optional()?;
    Ok(name.map(WorkspaceName::stored))
}

fn names(sql: &Connection, within: &str) -> StoreResult<Vec<WorkspaceName>> {
    let mut query =
        sql.prepare_cached(&format!("SELECT DISTINCT w.name FROM workspaces w WHERE {within} LIMIT 10000"))?;
    let names = query.query_map([], |row| row.get(0).map(WorkspaceName::stored))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// Returns at most five rows. An id prefix is a range of ids, so the query uses the index of the ids.
fn by_id_prefix(sql: &Connection, prefix: IdPrefix, within: &str) -> StoreResult<Vec<Workspace>> {
    let text = format!("WHERE w.id BETWEEN ?1 AND ?2 AND {within} LIMIT 5");
    many(sql, &text, params![prefix.first, prefix.last])
}

/// Whether the workspace was stopped or undeleted after its row had this revision. A start that was decided on that
/// revision must then be abandoned. `None` never is: the start was decided on the row as it is.
pub(in crate::store) fn was_stopped_since(
    sql: &Connection,
    id: WorkspaceId,
    decided_on: Option<Revision>,
) -> StoreResult<bool> {
    let Some(Revision(revision)) = decided_on else { return Ok(false) };
    Ok(sql
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM workspaces WHERE id = ?1 AND stopped_revision > ?2)")?
        .query_row(params![id, revision], |row| row.get(0))?)
}
