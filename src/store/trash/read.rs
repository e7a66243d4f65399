//! The entries of the trash, read with their contents.

use rusqlite::{Connection, Row, params};

use crate::{
    domain::{
        ids::{TrashId, WorkspaceId},
        time::Timestamp,
        trash::{NamedContainer, TrashContents, TrashEntry, TrashReason, TrashState},
    },
    store::{Store, StoreResult, row},
    testing::mutation::{Mutation, is},
};

pub(super) const COLUMNS: &str =
    "id, workspace, workspace_name, reason, evidence, state, created_at, keep_until";

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

pub(super) fn entries(
    sql: &Connection,
    text: &str,
    bind: impl rusqlite::Params,
) -> StoreResult<Vec<TrashEntry>> {
    let found = sql.prepare_cached(text)?.query_map(bind, entry)?.collect::<Result<Vec<_>, _>>()?;
    found.into_iter().map(|entry| with_contents(sql, entry)).collect()
}

impl Store {
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
