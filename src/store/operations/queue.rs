//! The steps of transactions on the queue: store, end, promote.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

use super::read::{COLUMNS, operation};
use crate::{
    domain::{
        event::EventKind,
        heartbeat::cut,
        ids::{Incarnation, WorkspaceId},
        naming::WorkspaceName,
        operation::{Command, Operation, OperationId, OperationState, Requester, Revision},
        time::Timestamp,
    },
    store::{StoreResult, lane::Tx, row},
    testing::mutation::{Mutation, is},
};

/// Number of ended operations that are kept.
const KEPT: i64 = 1000;

/// Time for which the result of an operation is kept, in milliseconds: one hour. An old operation that has just ended can
/// still be looked up.
const KEPT_MS: i64 = 60 * 60 * 1000;

/// Number of operations after which an ended one is deleted, even if it has just ended.
const KEPT_MAX: i64 = 10_000;

/// Result of an operation that an operator cancelled.
pub(super) const BY_OPERATOR: &str = "an operator cancelled it";

/// Longest stored result, in bytes.
pub(super) const DETAIL_MAX_BYTES: usize = 4096;

/// An operation to accept.
#[derive(Clone, Debug)]
pub struct NewOperation {
    /// The workspace that the order names.
    pub workspace: WorkspaceId,
    /// The name to store if the workspace has no row.
    pub fallback_name: String,
    /// What is to be done.
    pub command: Command,
    /// On whose order.
    pub requested_by: Requester,
    /// Revision of the row on which the order was decided; `None` means the present one.
    pub decided_on: Option<Revision>,
}

impl Requester {
    /// The operation that this requester orders.
    pub(crate) fn orders(self, workspace: WorkspaceId, command: Command) -> NewOperation {
        NewOperation {
            workspace,
            fallback_name: String::new(),
            command,
            requested_by: self,
            decided_on: None,
        }
    }
}

/// Stores an accepted operation, unless it equals the newest one that waits for its turn: that one then stands for both.
/// Its state is `running` if its workspace has no other open operation: the caller then has to start a worker for it.
pub(super) fn insert_operation(tx: &mut Tx<'_>, new: NewOperation, at: Timestamp) -> StoreResult<Operation> {
    let NewOperation { workspace, fallback_name, command, requested_by, decided_on } = new;
    let row: Option<(String, i64)> = tx
        .sql
        .prepare_cached("SELECT name, revision FROM workspaces WHERE id = ?1")?
        .query_row([workspace], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (name, revision) = row.unwrap_or((fallback_name, 0));
    let revision = decided_on.map_or(revision, |Revision(revision)| revision);
    let newest = newest_open(tx.sql, workspace)?;
    let is_free = newest.is_none() || is(Mutation::TwoAtOnce);
    // One that runs or has begun may have passed the step that the new order is about.
    let is_ahead =
        |open: &Operation| open.state == OperationState::Running || open.begun || open.cancel_requested;
    let is_equal = |open: &Operation| open.command == command && open.requested_by == requested_by;
    if let Some(equal) = newest.filter(|open| is_equal(open) && !is_ahead(open)) {
        // The later decision counts: a stop before it does not void it.
        let revision = Revision(equal.revision.0.max(revision));
        tx.sql
            .prepare_cached("UPDATE operations SET revision = ?2 WHERE id = ?1")?
            .execute(params![equal.id.0, revision.0])?;
        return Ok(Operation { revision, ..equal });
    }
    let state = if is_free { OperationState::Running } else { OperationState::Accepted };
    let started_at = is_free.then_some(at);
    let text = serde_json::to_string(&command).map_err(row::conversion)?;
    tx.sql
        .prepare_cached(
            "INSERT INTO operations (workspace, workspace_name, kind, command, requested_by, revision, state, created_at,
                                     started_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            workspace,
            name,
            command.kind(),
            text,
            requested_by.to_string(),
            revision,
            state.as_str(),
            at,
            started_at
        ])?;
    let id = OperationId(tx.sql.last_insert_rowid());
    tx.sql
        .prepare_cached(
            "DELETE FROM operations WHERE id <= ?1 AND (ended_at < ?2 OR ended_at IS NOT NULL AND id <= ?3)",
        )?
        .execute(params![id.0 - KEPT, Timestamp(at.0 - KEPT_MS), id.0 - KEPT_MAX])?;
    let payload =
        json!({ "operation": id, "kind": command.kind(), "requested_by": requested_by.to_string() });
    tx.emit(at, EventKind::OperationAccepted, Some(workspace), payload, None)?;
    Ok(Operation {
        id,
        workspace,
        workspace_name: WorkspaceName::stored(name),
        command,
        requested_by,
        revision: Revision(revision),
        state,
        detail: None,
        cancel_requested: false,
        begun: false,
        incarnation: None,
        created_at: at,
        started_at,
        ended_at: None,
    })
}

fn newest_open(sql: &Connection, workspace: WorkspaceId) -> StoreResult<Option<Operation>> {
    let mut query = sql.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM operations WHERE workspace = ?1 AND ended_at IS NULL ORDER BY id DESC LIMIT 1"
    ))?;
    Ok(query.query_row([workspace], operation).optional()?)
}

/// Whether a start on behalf of this operation may still begin.
pub(in crate::store) fn may_begin(sql: &Connection, id: OperationId) -> StoreResult<bool> {
    if is(Mutation::CancelledGoesOn) {
        return Ok(true);
    }
    Ok(sql
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM operations WHERE id = ?1 AND state = 'running' AND cancel_requested = 0)",
        )?
        .query_row([id.0], |row| row.get(0))?)
}

/// Records that an operation has begun a start, and the incarnation if it is that of its own workspace.
pub(in crate::store) fn note_incarnation(
    sql: &Connection,
    id: OperationId,
    workspace: WorkspaceId,
    incarnation: Incarnation,
) -> StoreResult<()> {
    sql.prepare_cached(
        "UPDATE operations SET begun = 1, incarnation = CASE workspace WHEN ?2 THEN ?3 ELSE incarnation END WHERE id = ?1",
    )?
    .execute(params![id.0, workspace, incarnation])?;
    Ok(())
}

/// Cancels the starts that a stop of these workspaces makes pointless and that have not begun. A start that runs is
/// abandoned by its transaction.
pub(super) fn cancel_starts(
    tx: &mut Tx<'_>,
    workspaces: &[WorkspaceId],
    at: Timestamp,
) -> StoreResult<Vec<(OperationId, WorkspaceId)>> {
    let mut cancelled = Vec::new();
    for workspace in workspaces {
        let mut query = tx.sql.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM operations WHERE workspace = ?1 AND ended_at IS NULL AND state IN ('accepted', 'waiting')"
        ))?;
        let open: Vec<_> = query.query_map([workspace], operation)?.collect::<Result<_, _>>()?;
        for pointless in open.iter().filter(|open| open.command.starts() && !open.begun) {
            end(tx, pointless, OperationState::Cancelled, Some("another order cancelled it".into()), at)?;
            cancelled.push((pointless.id, *workspace));
        }
    }
    Ok(cancelled)
}

/// Ends an operation, whose row was read in this transaction. Returns the state in which it ended.
pub(super) fn end(
    tx: &mut Tx<'_>,
    stored: &Operation,
    state: OperationState,
    detail: Option<String>,
    at: Timestamp,
) -> StoreResult<OperationState> {
    if !stored.state.is_open() {
        return Ok(stored.state);
    }
    let (state, detail) = match (stored.begun, state) {
        (false, _) if stored.cancel_requested => (OperationState::Cancelled, Some(BY_OPERATOR.to_owned())),
        // It is not true that nothing was done: a container was started or replaced before a later order overtook it.
        (true, OperationState::Skipped) => {
            let why = detail.unwrap_or_default();
            (OperationState::Failed, Some(format!("a later order overtook it after it had begun: {why}")))
        }
        (true | false, _) => (state, detail),
    };
    let detail = detail.map(|text| cut(text, DETAIL_MAX_BYTES));
    tx.sql
        .prepare_cached("UPDATE operations SET state = ?2, detail = ?3, ended_at = ?4 WHERE id = ?1")?
        .execute(params![stored.id.0, state.as_str(), detail, at])?;
    let payload = json!({
        "operation": stored.id, "kind": stored.command.kind(), "state": state.as_str(), "detail": detail,
    });
    tx.emit(at, EventKind::OperationEnded, Some(stored.workspace), payload, None)?;
    Ok(state)
}

/// Marks the oldest accepted operation of a workspace as running, unless another one runs or waits.
pub(super) fn promote(tx: &Tx<'_>, workspace: WorkspaceId, at: Timestamp) -> StoreResult<Option<Operation>> {
    let mut query = tx.sql.prepare_cached(&format!(
        "UPDATE operations SET state = 'running', started_at = COALESCE(started_at, ?2)
         WHERE state = 'accepted'
           AND id = (SELECT min(id) FROM operations WHERE workspace = ?1 AND ended_at IS NULL)
         RETURNING {COLUMNS}"
    ))?;
    Ok(query.query_row(params![workspace, at], operation).optional()?)
}
