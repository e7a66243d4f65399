//! Ends, parks, continues and cancels operations.

use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::{
    queue::{BY_OPERATOR, DETAIL_MAX_BYTES, end, promote},
    read::{COLUMNS, one, operation},
};
use crate::{
    domain::{
        event::EventKind,
        heartbeat::cut,
        ids::WorkspaceId,
        operation::{Cancellable, Operation, OperationId, OperationState},
        time::Timestamp,
    },
    store::{Store, StoreResult},
};

/// Result of an attempt to make an operation wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parked {
    /// It waits.
    Waits,
    /// It was to be cancelled, and has ended. Contains the operation that runs next, if its workspace has one.
    Cancelled(Option<Operation>),
}

/// Result of a request to cancel an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelResult {
    /// It is cancelled, and nothing was done. Contains the operation that runs next, if its workspace has one.
    Cancelled(Option<Operation>),
    /// Its worker has begun, and will give it up before it starts anything.
    Requested,
    /// It cannot be cancelled; contains what to do instead.
    Refused(&'static str),
    /// It has ended already.
    Ended(OperationState),
    /// There is no such operation, or it is forgotten.
    NotThere,
}

impl Store {
    /// Ends an operation that its worker has carried out. Returns the state in which it ended, and the next operation of
    /// the workspace, which now runs. An operation that was to be cancelled and has begun nothing ends as cancelled.
    ///
    /// # Errors
    /// When the store cannot answer. The operation then stays open.
    pub async fn end_operation(
        &self,
        ended: Operation,
        state: OperationState,
        detail: Option<String>,
        at: Timestamp,
    ) -> StoreResult<(OperationState, Option<Operation>)> {
        self.lanes
            .write("end operation", move |tx| {
                let state = match one(tx.sql, ended.id)? {
                    Some(stored) => end(tx, &stored, state, detail, at)?,
                    None => state,
                };
                Ok((state, promote(tx, ended.workspace, at)?))
            })
            .await
    }

    /// Records that an operation waits for the engine. If it is to be cancelled, it ends instead.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn park_operation(&self, parked: Operation, why: String, at: Timestamp) -> StoreResult<Parked> {
        self.lanes
            .write("park operation", move |tx| {
                let Some(found) = one(tx.sql, parked.id)? else { return Ok(Parked::Waits) };
                if found.cancel_requested && !found.begun {
                    end(tx, &found, OperationState::Cancelled, Some(BY_OPERATOR.into()), at)?;
                    return promote(tx, found.workspace, at).map(Parked::Cancelled);
                }
                let why = cut(why, DETAIL_MAX_BYTES);
                tx.sql
                    .prepare_cached(
                        "UPDATE operations SET state = 'waiting', detail = ?2 WHERE id = ?1 AND ended_at IS NULL",
                    )?
                    .execute(params![found.id.0, why])?;
                // Repeated at every attempt, but reported once.
                if found.detail.is_none() {
                    let payload = json!({ "operation": found.id, "kind": found.command.kind(), "detail": why });
                    tx.emit(at, EventKind::OperationWaiting, Some(found.workspace), payload, None)?;
                }
                Ok(Parked::Waits)
            })
            .await
    }

    /// Makes the oldest open operation of a workspace run again. `None` if there is none, or if it is running already.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn continue_operation(
        &self,
        workspace: WorkspaceId,
        at: Timestamp,
    ) -> StoreResult<Option<Operation>> {
        self.lanes
            .write("continue operation", move |tx| {
                let mut query = tx.sql.prepare_cached(&format!(
                    "UPDATE operations SET state = 'running', started_at = COALESCE(started_at, ?2)
                     WHERE state IN ('accepted', 'waiting')
                       AND id = (SELECT min(id) FROM operations WHERE workspace = ?1 AND ended_at IS NULL)
                     RETURNING {COLUMNS}"
                ))?;
                Ok(query.query_row(params![workspace, at], operation).optional()?)
            })
            .await
    }

    /// Requests that an operation is cancelled.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn cancel_operation(&self, id: OperationId, at: Timestamp) -> StoreResult<CancelResult> {
        self.lanes
            .write("cancel operation", move |tx| {
                let Some(found) = one(tx.sql, id)? else { return Ok(CancelResult::NotThere) };
                if !found.state.is_open() {
                    return Ok(CancelResult::Ended(found.state));
                }
                let cancellable = found.command.cancellable();
                if let Cancellable::Never(instead) = cancellable {
                    return Ok(CancelResult::Refused(instead));
                }
                if found.begun {
                    return Ok(CancelResult::Refused(
                        "it has started a container already: `ostler stop` stops it",
                    ));
                }
                if cancellable == Cancellable::UntilRunning && found.started_at.is_some() {
                    return Ok(CancelResult::Refused(
                        "it was begun already, and may have stopped or deleted something",
                    ));
                }
                if found.state == OperationState::Running {
                    tx.sql
                        .prepare_cached("UPDATE operations SET cancel_requested = 1 WHERE id = ?1")?
                        .execute([id.0])?;
                    return Ok(CancelResult::Requested);
                }
                end(tx, &found, OperationState::Cancelled, Some(BY_OPERATOR.into()), at)?;
                promote(tx, found.workspace, at).map(CancelResult::Cancelled)
            })
            .await
    }
}
