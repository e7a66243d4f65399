//! Cancels an operation, and waits for its end.

use tokio::sync::broadcast;

use crate::{
    domain::operation::{Operation, OperationId},
    ops::{OpError, OpResult, Ops},
    store::CancelResult,
};

impl Ops {
    /// Cancels an operation if it has not done anything yet.
    ///
    /// # Errors
    /// If there is no such operation, or if it cannot be cancelled any more; the error then says what to do instead.
    pub async fn cancel(&self, id: OperationId) -> OpResult<Operation> {
        let changes = self.0.operations.changes.subscribe();
        match self.0.store.cancel_operation(id, self.0.clock.now()).await? {
            CancelResult::Cancelled(next) => {
                self.0.operations.report(id, &Err(cancelled_by_operator()));
                let cancelled = self.operation(id).await?;
                self.0.operations.lock().waiting.remove(&cancelled.workspace);
                match next {
                    Some(next) => self.spawn_worker(next),
                    // It may have been behind one that waits.
                    None => self.continue_waiting(cancelled.workspace),
                }
                Ok(cancelled)
            }
            // Its worker ends it.
            CancelResult::Requested => self.until_ended(id, changes).await,
            CancelResult::Refused(instead) => {
                Err(OpError::Conflict(format!("operation {id} cannot be cancelled: {instead}")))
            }
            CancelResult::Ended(state) => {
                Err(OpError::Conflict(format!("operation {id} has ended already: it is {}", state.as_str())))
            }
            CancelResult::NotThere => Err(no_operation(id)),
        }
    }

    /// Returns an operation.
    ///
    /// # Errors
    /// If there is no such operation.
    pub async fn operation(&self, id: OperationId) -> OpResult<Operation> {
        self.0.store.operation(id).await?.ok_or_else(|| no_operation(id))
    }

    /// Waits until an operation has ended. The caller limits the time.
    ///
    /// # Errors
    /// If there is no such operation.
    pub async fn await_operation(&self, id: OperationId) -> OpResult<Operation> {
        self.until_ended(id, self.0.operations.changes.subscribe()).await
    }

    async fn until_ended(
        &self,
        id: OperationId,
        mut changes: broadcast::Receiver<OperationId>,
    ) -> OpResult<Operation> {
        loop {
            let operation = self.operation(id).await?;
            if !operation.state.is_open() {
                return Ok(operation);
            }
            // Read again only after a change of this operation, or after changes that were missed.
            loop {
                match changes.recv().await {
                    Ok(other) if other != id => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return Err(OpError::Stopping),
                }
            }
        }
    }
}

pub(super) fn cancelled_by_operator() -> OpError {
    OpError::Conflict("an operator cancelled it".into())
}

fn no_operation(id: OperationId) -> OpError {
    OpError::NotFound(format!("there is no operation {id}: `ostler operations` lists the newest ones"))
}
