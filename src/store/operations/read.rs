//! Reads operations.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{
    domain::{
        ids::WorkspaceId,
        naming::WorkspaceName,
        operation::{Operation, OperationId, OperationState, Requester, Revision},
    },
    store::{Store, StoreResult, row},
};

impl Store {
    /// Returns the open operations, oldest first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn open_operations(&self) -> StoreResult<Vec<Operation>> {
        self.lanes
            .read("open operations", |sql| {
                let mut query = sql.prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM operations WHERE ended_at IS NULL ORDER BY id"
                ))?;
                Ok(query.query_map([], operation)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Returns the newest operations, newest first, of one workspace or of all.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn operations(
        &self,
        workspace: Option<WorkspaceId>,
        limit: u32,
    ) -> StoreResult<Vec<Operation>> {
        self.lanes
            .read("operations", move |sql| {
                let which = if workspace.is_some() { "workspace = ?1" } else { "?1 IS NULL" };
                let mut query = sql.prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM operations WHERE {which} ORDER BY id DESC LIMIT ?2"
                ))?;
                Ok(query.query_map(params![workspace, limit], operation)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Returns an operation; `None` if it does not exist or is forgotten.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn operation(&self, id: OperationId) -> StoreResult<Option<Operation>> {
        self.lanes.read("operation", move |sql| one(sql, id)).await
    }
}

pub(in crate::store) fn one(sql: &Connection, id: OperationId) -> StoreResult<Option<Operation>> {
    let mut query = sql.prepare_cached(&format!("SELECT {COLUMNS} FROM operations WHERE id = ?1"))?;
    Ok(query.query_row([id.0], operation).optional()?)
}

/// Columns that [`operation`] reads, in its order.
pub(in crate::store) const COLUMNS: &str = "id, workspace, workspace_name, command, requested_by, revision, state, detail, incarnation, created_at, \
                       started_at, ended_at, cancel_requested, begun";

pub(in crate::store) fn operation(row: &Row<'_>) -> rusqlite::Result<Operation> {
    let (command, requested_by, state): (String, String, String) = (row.get(3)?, row.get(4)?, row.get(6)?);
    Ok(Operation {
        id: OperationId(row.get(0)?),
        workspace: row.get(1)?,
        workspace_name: WorkspaceName::stored(row.get(2)?),
        command: serde_json::from_str(&command).map_err(row::conversion)?,
        requested_by: row::word("requested_by", &requested_by, Requester::parse(&requested_by))?,
        revision: Revision(row.get(5)?),
        state: row::word(
            "state",
            &state,
            OperationState::ALL.into_iter().find(|known| known.as_str() == state),
        )?,
        detail: row.get(7)?,
        incarnation: row.get(8)?,
        created_at: row.get(9)?,
        started_at: row.get(10)?,
        ended_at: row.get(11)?,
        cancel_requested: row.get(12)?,
        begun: row.get(13)?,
    })
}
