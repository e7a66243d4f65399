//! Accepts operations: each in the transaction that changes the rows.

use super::queue::{NewOperation, cancel_starts, insert_operation};
use crate::{
    domain::{
        ids::{TrashId, WorkspaceId},
        naming::WorkspaceName,
        operation::{Command, Operation, OperationId, Requester, UndeleteTarget},
        time::Timestamp,
        trash::TrashState,
        workspace::Kind,
    },
    store::{
        HibernateReason, HibernateResult, PauseResult, Store, StoreResult,
        lane::Tx,
        lifecycle::{hibernate, pause},
        trash::{entry_being_restored, move_state},
        workspaces::{
            CreateResult, NewWorkspace, RemoveResult, UndeleteResult, UndeletedAlong, UndeletedUnder, create,
            remove, undelete,
        },
    },
};

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
}
