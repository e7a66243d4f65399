//! Memories: notes that agents store for themselves, their team or all workspaces.
//!
//! Each workspace's notes are bounded in number and total size. Beyond that, new notes are refused; none is deleted
//! automatically.

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreResult, row::word};
use crate::domain::{
    ids::{MemoryId, WorkspaceId},
    memory::{COUNT_MAX, Scope, TOTAL_MAX},
    time::Timestamp,
};

/// A note that an agent stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Must be unused when it is written.
    pub id: MemoryId,
    /// Workspace that wrote it.
    pub workspace: WorkspaceId,
    /// The text.
    pub content: String,
    /// Workspaces that may read it.
    pub scope: Scope,
    /// Free grouping chosen by the agent.
    pub namespace: String,
    /// Time of writing.
    pub created_at: Timestamp,
}

/// Filter of a memory query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryQuery {
    /// Selects the notes of this scope that the workspace may read. `None` selects all notes that the workspace wrote
    /// itself.
    pub scope: Option<Scope>,
    /// Text that the note contains; case-insensitive for ASCII letters.
    pub text: Option<String>,
    /// Exact namespace.
    pub namespace: Option<String>,
    /// Maximum number of memories to return.
    pub limit: u32,
}

/// Result of writing a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// The memory is stored.
    Stored,
    /// The workspace has reached the limit of number or size; nothing was stored.
    Full,
    /// Only a root may write with the global scope.
    NotRoot,
    /// The workspace is gone.
    Gone,
}

const COLUMNS: &str = "m.id, w.id, m.content, m.scope, m.namespace, m.created_at";

fn memory(row: &rusqlite::Row<'_>) -> rusqlite::Result<Memory> {
    let scope: String = row.get(3)?;
    Ok(Memory {
        id: row.get(0)?,
        workspace: row.get(1)?,
        content: row.get(2)?,
        scope: word("scope", &scope, Scope::parse(&scope))?,
        namespace: row.get(4)?,
        created_at: row.get(5)?,
    })
}

/// Condition for the rows of a scope that a workspace may read (`?1`).
///
/// A team is the workspace's parent and all children of that parent; for a root, the root and its children. All members
/// of a team may also send messages to each other.
fn within(scope: Option<Scope>) -> &'static str {
    match scope {
        None => "w.id = ?1",
        Some(Scope::Local) => "w.id = ?1 AND m.scope = 'LOCAL'",
        Some(Scope::Team) => {
            "m.scope = 'TEAM' AND m.workspace IN (
               SELECT key FROM workspaces
               WHERE status <> 'removed' AND id = (SELECT COALESCE(parent_id, id) FROM workspaces WHERE id = ?1)
               UNION SELECT key FROM workspaces
               WHERE status <> 'removed' AND parent_id = (SELECT COALESCE(parent_id, id) FROM workspaces WHERE id = ?1))"
        }
        Some(Scope::Global) => "m.scope = 'GLOBAL' AND w.status <> 'removed' AND ?1 IS NOT NULL",
    }
}

impl Store {
    /// Stores a memory.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn remember(&self, new: Memory) -> StoreResult<Remembered> {
        self.lanes
            .write("store memory", move |tx| {
                let found = tx
                    .sql
                    .prepare_cached(
                        "SELECT key, parent_id IS NULL FROM workspaces WHERE id = ?1 AND status <> 'removed'",
                    )?
                    .query_row([new.workspace], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?)))
                    .optional()?;
                let Some((key, is_root)) = found else { return Ok(Remembered::Gone) };
                if new.scope == Scope::Global && !is_root {
                    return Ok(Remembered::NotRoot);
                }
                let (count, bytes): (i64, i64) = tx
                    .sql
                    .prepare_cached(
                        "SELECT count(*), COALESCE(sum(bytes), 0) FROM memories WHERE workspace = ?1",
                    )?
                    .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))?;
                let length = i64::try_from(new.content.len()).unwrap_or(i64::MAX);
                if count >= COUNT_MAX || bytes.saturating_add(length) > TOTAL_MAX {
                    return Ok(Remembered::Full);
                }
                tx.sql
                    .prepare_cached(
                        "INSERT INTO memories (id, workspace, scope, namespace, content, bytes, created_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    )?
                    .execute(params![
                        new.id,
                        key,
                        new.scope.as_str(),
                        new.namespace,
                        new.content,
                        length,
                        new.created_at
                    ])?;
                Ok(Remembered::Stored)
            })
            .await
    }

    /// Returns memories that a workspace may read, newest first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn memories(&self, of: WorkspaceId, query: MemoryQuery) -> StoreResult<Vec<Memory>> {
        self.lanes
            .read("memories", move |sql| {
                let text = format!(
                    "SELECT {COLUMNS} FROM memories m JOIN workspaces w ON w.key = m.workspace
                     WHERE {} AND (?2 IS NULL OR instr(lower(m.content), lower(?2)) > 0)
                       AND (?3 IS NULL OR m.namespace = ?3)
                     ORDER BY m.sequence DESC LIMIT ?4",
                    within(query.scope)
                );
                let mut rows = sql.prepare_cached(&text)?;
                let rows = rows.query_map(params![of, query.text, query.namespace, query.limit], memory)?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Deletes a memory that the workspace wrote. `false` if there is none with this id.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn forget_memory(&self, of: WorkspaceId, id: MemoryId) -> StoreResult<bool> {
        self.lanes
            .write("delete memory", move |tx| {
                let gone = tx
                    .sql
                    .prepare_cached(
                        "DELETE FROM memories
                         WHERE id = ?2 AND workspace = (SELECT key FROM workspaces WHERE id = ?1)",
                    )?
                    .execute(params![of, id])?;
                Ok(gone > 0)
            })
            .await
    }
}
