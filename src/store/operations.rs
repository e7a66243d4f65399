//! Operations: what operators have ordered. The table is the queue of each workspace's worker.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;

use super::{
    HibernateReason, HibernateResult, PauseResult, Store, StoreResult,
    lane::Tx,
    lifecycle::{hibernate, pause},
    row,
    trash::{entry_being_restored, move_state},
    workspaces::{
        CreateResult, NewWorkspace, RemoveResult, UndeleteResult, UndeletedAlong, UndeletedUnder, create,
        remove, undelete,
    },
};
use crate::{
    domain::{
        event::EventKind,
        heartbeat::cut,
        ids::{Incarnation, TrashId, WorkspaceId},
        naming::WorkspaceName,
        operation::{
            Cancellable, Command, Operation, OperationId, OperationState, Requester, Revision, UndeleteTarget,
        },
        time::Timestamp,
        trash::TrashState,
        workspace::Kind,
    },
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
const BY_OPERATOR: &str = "an operator cancelled it";

/// Longest stored result, in bytes.
const DETAIL_MAX_BYTES: usize = 4096;

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

/// Result of a transaction that accepts an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    /// Result of the change of the rows.
    pub result: T,
    /// The operation; `None` if the order was refused, or if it has no requester.
    pub operation: Option<Operation>,
    /// Earlier operations that this one has cancelled.
    pub cancelled: Vec<(OperationId, WorkspaceId)>,
}

impl<T> Stored<T> {
    fn refused(result: T) -> Self {
        Self { result, operation: None, cancelled: Vec::new() }
    }
}

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

/// Stores an operation if a requester is given.
fn accepted(
    tx: &mut Tx<'_>,
    by: Option<Requester>,
    workspace: WorkspaceId,
    command: impl FnOnce() -> Command,
    at: Timestamp,
) -> StoreResult<Option<Operation>> {
    by.map(|by| insert_operation(tx, by.orders(workspace, command()), at)).transpose()
}

fn newest_open(sql: &Connection, workspace: WorkspaceId) -> StoreResult<Option<Operation>> {
    let mut query = sql.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM operations WHERE workspace = ?1 AND ended_at IS NULL ORDER BY id DESC LIMIT 1"
    ))?;
    Ok(query.query_row([workspace], operation).optional()?)
}

/// Whether a start on behalf of this operation may still begin.
pub(super) fn may_begin(sql: &Connection, id: OperationId) -> StoreResult<bool> {
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
pub(super) fn note_incarnation(
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
fn end(
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
fn promote(tx: &Tx<'_>, workspace: WorkspaceId, at: Timestamp) -> StoreResult<Option<Operation>> {
    let mut query = tx.sql.prepare_cached(&format!(
        "UPDATE operations SET state = 'running', started_at = COALESCE(started_at, ?2)
         WHERE state = 'accepted'
           AND id = (SELECT min(id) FROM operations WHERE workspace = ?1 AND ended_at IS NULL)
         RETURNING {COLUMNS}"
    ))?;
    Ok(query.query_row(params![workspace, at], operation).optional()?)
}

impl Store {
    /// Accepts an operation whose order changes no row yet.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn accept_operation(&self, new: NewOperation, at: Timestamp) -> StoreResult<Stored<()>> {
        self.lanes
            .write("accept operation", move |tx| {
                let operation = Some(insert_operation(tx, new, at)?);
                Ok(Stored { result: (), operation, cancelled: Vec::new() })
            })
            .await
    }

    /// Creates a workspace's row, as [`Store::create_workspace`] does, and accepts the operation that starts it. An
    /// external workspace needs none.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn accept_creation(
        &self,
        new: NewWorkspace,
        by: Option<Requester>,
        at: Timestamp,
    ) -> StoreResult<Stored<CreateResult>> {
        self.lanes
            .write("create workspace", move |tx| {
                let created = create(tx, &new, at)?;
                let starts = new.kind == Kind::Container && matches!(created, CreateResult::Created(_));
                let by = by.filter(|_| starts);
                let operation = accepted(tx, by, new.id, || Command::Create, at)?;
                Ok(Stored { result: created, operation, cancelled: Vec::new() })
            })
            .await
    }

    /// Pauses a workspace and its descendants, as [`Store::pause_workspace`] does, and accepts the operation that stops
    /// their containers. Cancels starts of these workspaces that have not begun.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn accept_stop(
        &self,
        id: WorkspaceId,
        by: Option<Requester>,
        at: Timestamp,
    ) -> StoreResult<Stored<PauseResult>> {
        self.lanes
            .write("pause workspace", move |tx| {
                let paused = pause(tx, id, at)?;
                let PauseResult::Paused(targets) = &paused else { return Ok(Stored::refused(paused)) };
                let cancelled = cancel_starts(tx, targets, at)?;
                let operation = accepted(tx, by, id, || Command::Stop { targets: targets.clone() }, at)?;
                Ok(Stored { result: paused, operation, cancelled })
            })
            .await
    }

    /// Sets the status to `hibernating`, as [`Store::begin_hibernation`] does, and accepts the operation that stops the
    /// container.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn accept_hibernation(
        &self,
        id: WorkspaceId,
        why: HibernateReason,
        by: Option<Requester>,
        at: Timestamp,
    ) -> StoreResult<Stored<HibernateResult>> {
        self.lanes
            .write("begin hibernation", move |tx| {
                let begun = hibernate(tx, id, why, at)?;
                let by = by.filter(|_| begun == HibernateResult::Begun);
                let operation = accepted(tx, by, id, || Command::Hibernate, at)?;
                Ok(Stored { result: begun, operation, cancelled: Vec::new() })
            })
            .await
    }

    /// Removes a row, as [`Store::remove_workspace`] does, and accepts the operation that moves what it owned to the
    /// trash, or deletes it.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn accept_removal(
        &self,
        id: WorkspaceId,
        (cascade, purge): (bool, bool),
        by: Option<Requester>,
        at: Timestamp,
    ) -> StoreResult<Stored<RemoveResult>> {
        self.lanes
            .write("remove workspace", move |tx| {
                let result = remove(tx, id, cascade, purge, at)?;
                let RemoveResult::Removed { removed } = &result else { return Ok(Stored::refused(result)) };
                let cancelled = cancel_starts(tx, removed, at)?;
                let command = || {
                    let targets = removed.clone();
                    if purge { Command::Purge { targets } } else { Command::Remove { targets } }
                };
                let operation = accepted(tx, by, id, command, at)?;
                Ok(Stored { result, operation, cancelled })
            })
            .await
    }

    /// Undoes a removal, as [`Store::undelete_workspace`] does, and accepts the operation that restores what the
    /// workspaces owned. `describe` returns the texts for the caller.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn accept_undelete(
        &self,
        id: WorkspaceId,
        (name, only): (Option<WorkspaceName>, bool),
        describe: impl FnOnce(Vec<UndeletedAlong>, &UndeletedUnder) -> Vec<UndeleteTarget> + Send + 'static,
        by: Option<Requester>,
        at: Timestamp,
    ) -> StoreResult<Stored<UndeleteResult>> {
        self.lanes
            .write("undelete workspace", move |tx| {
                let result = undelete(tx, id, name, only, at)?;
                let UndeleteResult::Back { along, under, .. } = &result else {
                    return Ok(Stored::refused(result));
                };
                let command = || Command::Undelete { targets: describe(along.clone(), under) };
                let operation = accepted(tx, by, id, command, at)?;
                Ok(Stored { result, operation, cancelled: Vec::new() })
            })
            .await
    }

    /// Marks an entry as `restoring` and accepts the operation that restores it. `false` if the entry cannot be restored
    /// any more.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn accept_restore(
        &self,
        entry: TrashId,
        by: Option<Requester>,
        at: Timestamp,
    ) -> StoreResult<Stored<bool>> {
        self.lanes
            .write("begin restore", move |tx| {
                move_state(tx, entry, &[TrashState::Kept, TrashState::Claimed], TrashState::Restoring)?;
                let found = entry_being_restored(tx.sql, entry)?;
                let (Some((workspace, name)), Some(by)) = (&found, by) else {
                    return Ok(Stored::refused(found.is_some()));
                };
                let orders = by.orders(*workspace, Command::Restore { entry });
                let new = NewOperation { fallback_name: name.clone(), ..orders };
                let operation = Some(insert_operation(tx, new, at)?);
                Ok(Stored { result: true, operation, cancelled: Vec::new() })
            })
            .await
    }

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

fn one(sql: &Connection, id: OperationId) -> StoreResult<Option<Operation>> {
    let mut query = sql.prepare_cached(&format!("SELECT {COLUMNS} FROM operations WHERE id = ?1"))?;
    Ok(query.query_row([id.0], operation).optional()?)
}

/// Columns that [`operation`] reads, in its order.
const COLUMNS: &str = "id, workspace, workspace_name, command, requested_by, revision, state, detail, incarnation, created_at, \
                       started_at, ended_at, cancel_requested, begun";

fn operation(row: &Row<'_>) -> rusqlite::Result<Operation> {
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
