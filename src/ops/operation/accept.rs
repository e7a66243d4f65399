//! Stores an operation, registers its caller, and starts its worker.

use tokio::sync::oneshot;

use super::Ticket;
use crate::{
    domain::operation::{Command, Operation, OperationState},
    ops::{OpError, OpResult, Ops, Order, not_found},
    store::{NewOperation, StoreResult, Stored},
};

impl Ops {
    /// Accepts an order that changes no row.
    pub(in crate::ops) async fn accept(&self, new: NewOperation) -> OpResult<Ticket> {
        let (store, now) = (self.0.store.clone(), self.0.clock.now());
        let ((), ticket) = self.accepting(async move { store.accept_operation(new, now).await }).await?;
        ticket.ok_or_else(not_found)
    }

    /// Runs a transaction that accepts an operation, and starts the worker for it.
    ///
    /// In its own task: the caller may be dropped at any time, but the store may still carry the transaction out. An
    /// operation without a worker would block its workspace until the next start of the daemon.
    pub(in crate::ops) async fn accepting<T: Send + 'static>(
        &self,
        transaction: impl Future<Output = StoreResult<Stored<T>>> + Send + 'static,
    ) -> OpResult<(T, Option<Ticket>)> {
        self.continue_operations().await?;
        let (reply, answer) = oneshot::channel();
        let ops = self.clone();
        self.0.spawn.spawn(Box::pin(async move {
            let done = transaction.await;
            let done = done.map(|stored| {
                ops.0.operations.report_cancelled(&stored.cancelled);
                (stored.result, stored.operation.map(|operation| ops.register(operation)))
            });
            // The caller may have stopped waiting.
            let _gone = reply.send(done);
        }));
        Ok(answer.await.map_err(|_| OpError::Stopping)??)
    }

    /// Registers the caller of an operation that was just stored. Starts a worker if it is the workspace's only open
    /// operation.
    pub(in crate::ops) fn register(&self, stored: Operation) -> Ticket {
        let (waiter, result) = oneshot::channel();
        let operation = Some(stored.id);
        let mut state = self.0.operations.lock();
        if let Some((_, ended)) = state.finished.iter().find(|(id, _)| *id == stored.id) {
            return Ticket { operation, result: Err(ended.clone()) };
        }
        let workspace = stored.workspace;
        state.waiters.entry(stored.id).or_insert((workspace, Vec::new())).1.push(waiter);
        if stored.command.starts() {
            state.starts.entry(stored.id).or_insert_with(|| self.0.accepted_starts.add(stored.workspace));
        }
        let is_behind_waiting = state.waiting.remove(&stored.workspace).is_some();
        if stored.command == Command::Create {
            state.creating.insert(stored.workspace);
        }
        drop(state);
        if stored.state != OperationState::Running {
            self.begin_demanded(&stored);
        }
        if stored.state == OperationState::Running {
            self.spawn_worker(stored);
        } else if is_behind_waiting {
            // Tries the waiting operation again at once, so that this caller learns what its order waits for.
            self.continue_waiting(stored.workspace);
        }
        Ticket { operation, result: Ok(result) }
    }

    /// Begins what the rows demand already, while the operation still waits for its turn: a stop must not wait until an
    /// earlier start has pulled its image. The worker repeats these orders, which then find nothing to do.
    fn begin_demanded(&self, operation: &Operation) {
        let (targets, order) = match &operation.command {
            Command::Stop { targets } => (targets.as_slice(), Order::Stop { swept: None }),
            Command::Remove { targets } => (targets.as_slice(), Order::MoveRemovedToTrash),
            Command::Purge { targets } => (targets.as_slice(), Order::Purge),
            Command::Hibernate => (std::slice::from_ref(&operation.workspace), Order::FinishHibernation),
            Command::Create
            | Command::Start { .. }
            | Command::Wake
            | Command::Restart
            | Command::Recreate
            | Command::Undelete { .. }
            | Command::Restore { .. }
            | Command::Delete { .. } => return,
        };
        for target in targets.iter().rev() {
            self.begin(*target, order.clone());
        }
    }
}
