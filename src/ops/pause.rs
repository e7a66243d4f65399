//! Pause and resume a workspace and everything below it.
//!
//! If a workspace is paused along with a workspace above it, its row records the id of that workspace, and both are
//! resumed together. A workspace that an operator paused separately stays paused when its parent is resumed.

use super::{Applied, OpError, OpResult, Ops, Order, Ticket, not_found, start::StartOrder};
use crate::{
    domain::{
        ids::WorkspaceId,
        naming::WorkspaceName,
        operation::{Command, Operation, Requester, Revision},
        status::{Cause, Status},
        workspace::{Kind, Workspace},
    },
    store::{NewOperation, PauseResult, Precondition, StatusChange},
};

/// The result of an order for one of the workspaces that it affects.
#[derive(Clone, Debug)]
pub struct Affected {
    /// The workspace.
    pub id: WorkspaceId,
    /// Its result.
    pub result: OpResult<Applied>,
}

/// How an operator's order starts a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up {
    /// Start it unless it runs.
    Start {
        /// Whether a new, empty work volume may replace a missing one.
        new_volume: bool,
    },
    /// Stop it, if it runs, and start it again in its container.
    Restart,
    /// Start it in a new container.
    Recreate,
}

impl Ops {
    /// Pauses a workspace and everything below it, and stops their containers. Succeeds if it is paused already.
    ///
    /// # Errors
    /// If nothing could be paused. The answer contains the result of each stop: if one failed, the row is paused
    /// anyway, and `settle` repeats the stop.
    pub async fn pause(&self, id: WorkspaceId) -> OpResult<Vec<Affected>> {
        self.accept_stop(id, Requester::Operator).await?.ended().await
    }

    pub(super) async fn accept_stop(&self, id: WorkspaceId, by: Requester) -> OpResult<Ticket> {
        let (store, now) = (self.0.store.clone(), self.0.clock.now());
        let starts = self.0.accepted_starts.clone();
        let accepted = starts.so_far();
        let transaction = async move {
            let stored = store.accept_stop(id, Some(by), now).await?;
            if let PauseResult::Paused(paused) = &stored.result {
                starts.overrule(paused.iter().copied().chain([id]), accepted);
            }
            Ok(stored)
        };
        let (paused, ticket) = self.accepting(transaction).await?;
        match paused {
            PauseResult::Paused(_) => ticket.ok_or_else(not_found),
            PauseResult::BelowPaused(parent) => Err(below_paused(&parent)),
            PauseResult::NotThere => Err(not_found()),
        }
    }

    /// Same as [`Ops::pause`], but returns only the result of the workspace itself.
    ///
    /// # Errors
    /// If it cannot be paused, or its container could not be verified as stopped.
    pub async fn stop(&self, id: WorkspaceId) -> OpResult<Applied> {
        own(self.pause(id).await?, id)
    }

    /// Resumes or starts a workspace, and everything that was paused along with it.
    ///
    /// # Errors
    /// If it is below a paused workspace, or cannot be started. The answer contains the result of each workspace.
    pub async fn resume(&self, id: WorkspaceId, new_volume: bool) -> OpResult<Vec<Affected>> {
        self.bring_up(id, Up::Start { new_volume }).await
    }

    /// Starts, restarts or recreates a workspace, and starts everything that was paused along with it. That includes
    /// workspaces whose own start failed, or was interrupted by a crash, in an earlier resume.
    ///
    /// # Errors
    /// If it is below a paused workspace, or cannot be started. The answer contains the result of each workspace.
    pub async fn bring_up(&self, id: WorkspaceId, how: Up) -> OpResult<Vec<Affected>> {
        self.accept_up(id, how, Requester::Operator).await?.ended().await
    }

    pub(super) async fn accept_up(&self, id: WorkspaceId, how: Up, by: Requester) -> OpResult<Ticket> {
        let row = self.0.row(id).await?;
        self.refuse_below_paused(&row).await?;
        if row.kind == Kind::External && row.status != Status::Paused {
            return Err(OpError::Conflict(row.runs_elsewhere("and is started there")));
        }
        let command = match how {
            Up::Start { new_volume } => Command::Start { new_volume },
            Up::Restart => Command::Restart,
            Up::Recreate => Command::Recreate,
        };
        self.accept(NewOperation { decided_on: Some(row.revision), ..by.orders(id, command) }).await
    }

    pub(super) async fn bring_up_now(&self, operation: &Operation, how: Up) -> OpResult<Vec<Affected>> {
        let id = operation.workspace;
        let row = self.0.row(id).await?;
        self.refuse_below_paused(&row).await?;
        let along = self.0.store.paused_along_with(id).await?;
        // From here on each workspace has its own entry, so that a message to one workspace does not wait for the start
        // of another.
        let along: Vec<_> = along.into_iter().map(|row| (self.0.accepted_starts.add(row.id), row)).collect();
        let order = StartOrder { cause: Some(Cause::StartByOperator), ..StartOrder::default() };
        let own = match how {
            Up::Start { new_volume } => StartOrder { new_volume, ..order.clone() },
            Up::Restart => StartOrder { even_if_running: true, ..order.clone() },
            Up::Recreate => StartOrder { even_if_running: true, new_container: true, ..order.clone() },
        };
        let result = match row.kind {
            Kind::Container => self.start_once(operation, own).await,
            Kind::External => self.await_agent(&row, operation.revision).await,
        };
        self.0.operations.release_start(operation.id);
        let mut affected = vec![Affected { id, result }];
        // One after the other, parents first: a child is not started below a paused parent.
        for (accepted, row) in along {
            let result = if accepted.is_overruled() || self.is_given_up(operation).await? {
                Ok(Applied::Raced("it was stopped meanwhile".into()))
            } else {
                let order = StartOrder {
                    decided_on: Some(row.revision),
                    operation: Some(operation.id),
                    ..order.clone()
                };
                self.resume_descendant(row.id, id, order).await
            };
            affected.push(Affected { id: row.id, result });
            drop(accepted);
        }
        Ok(affected)
    }

    /// Same as [`Ops::resume`], but returns only the result of the workspace itself.
    ///
    /// # Errors
    /// If it cannot be started; the error gives the reason and what to do.
    pub async fn start(&self, id: WorkspaceId, new_volume: bool) -> OpResult<Applied> {
        own(self.resume(id, new_volume).await?, id)
    }

    /// Resumes a workspace that was paused along with another one, unless its status was changed separately meanwhile.
    async fn resume_descendant(
        &self,
        id: WorkspaceId,
        with: WorkspaceId,
        order: StartOrder,
    ) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        match (row.status, row.paused_with) {
            (Status::Paused, Some(paused_with)) if paused_with == with => {}
            (Status::Paused, _) => {
                return Ok(Applied::Raced("it was stopped separately meanwhile, so it stays paused".into()));
            }
            (status, _) => return Ok(Applied::Raced(format!("it is {status} now"))),
        }
        match row.kind {
            Kind::Container => self.order(id, Order::Start(order)).await,
            Kind::External => self.await_agent(&row, order.decided_on.unwrap_or(row.revision)).await,
        }
    }

    /// Whether a cascade must not go on: its workspace was stopped, or the operation is to be cancelled.
    async fn is_given_up(&self, operation: &Operation) -> OpResult<bool> {
        let stored = self.operation(operation.id).await?;
        let row = self.0.row(operation.workspace).await?;
        Ok((stored.cancel_requested && !stored.begun) || row.status == Status::Paused)
    }

    async fn await_agent(&self, row: &Workspace, decided_on: Revision) -> OpResult<Applied> {
        let change = StatusChange {
            workspace: row.id,
            cause: Cause::AwaitAgain,
            incarnation: None,
            detail: None,
            payload: serde_json::json!({ "name": row.name, "resumed": true }),
            at: self.0.clock.now(),
        };
        Ok(if self.0.store.change_status_under(change, Precondition::StoppedSince(decided_on)).await? {
            Applied::Done("waiting for its agent".into())
        } else {
            Applied::Raced("its status changed meanwhile".into())
        })
    }

    pub(super) async fn refuse_below_paused(&self, row: &Workspace) -> OpResult<()> {
        let Some(parent) = row.spec.parent else { return Ok(()) };
        match self.0.store.paused_above(parent).await? {
            Some(paused) => Err(below_paused(&paused)),
            None => Ok(()),
        }
    }
}

/// The message that the wire protocol specifies (§5).
pub(super) fn below_paused(parent: &WorkspaceName) -> OpError {
    OpError::Conflict(format!("parent workspace \"{parent}\" is paused — resume it first"))
}

/// Returns the result for one workspace.
///
/// # Errors
/// If it could not be carried out for that workspace.
pub fn own(affected: Vec<Affected>, id: WorkspaceId) -> OpResult<Applied> {
    let own = affected.into_iter().find(|affected| affected.id == id);
    own.map_or_else(|| Err(OpError::NotFound("workspace not found".into())), |affected| affected.result)
}
