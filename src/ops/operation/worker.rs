//! The worker of a workspace: attempts its operations one after the other, and records how each ends.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;

use super::cancel::cancelled_by_operator;
use crate::{
    domain::operation::{Command, Operation, OperationState},
    engine::{ErrorKind, trusted::Untrusted},
    ops::{Affected, Applied, OpError, OpResult, Ops},
    store::Parked,
    testing::mutation::{Mutation, is},
};

/// Delay before the end of an operation is written again, if the store could not write it.
const WRITE_AGAIN: Duration = Duration::from_secs(5);

impl Ops {
    /// Carries out an operation, and then the following ones of its workspace.
    pub(super) async fn carry_out_from(&self, first: Operation) {
        let mut current = Some(first);
        while let Some(operation) = current.take() {
            if operation.command.starts() {
                let mut state = self.0.operations.lock();
                let accepted = || self.0.accepted_starts.add(operation.workspace);
                state.starts.entry(operation.id).or_insert_with(accepted);
            }
            let early = is(Mutation::DoneTooEarly);
            let next = if early { self.end(&operation, &Ok(Vec::new())).await.1 } else { None };
            // If a panic ended this task, no later operation of the workspace would run.
            let mut done = self.attempt(&operation).await;
            let mut unanswered = self.unanswered(&done).await;
            if let Some(Unanswered::Once) = unanswered {
                done = self.attempt(&operation).await;
                unanswered = self.unanswered(&done).await;
            }
            if let Some(Unanswered::Away(why)) = unanswered {
                match self.park(&operation, &why).await {
                    Parked::Cancelled(next) => {
                        self.0.operations.report(operation.id, &Err(cancelled_by_operator()));
                        current = next;
                        continue;
                    }
                    Parked::Waits => return,
                }
            }
            let (state, next) =
                if early { (OperationState::Done, next) } else { self.end(&operation, &done).await };
            let done = match state {
                OperationState::Cancelled => Err(cancelled_by_operator()),
                OperationState::Failed => {
                    let (operation, kind) = (operation.id.0, operation.command.kind());
                    tracing::warn!(operation, kind, ?done, "operation failed");
                    done
                }
                OperationState::Accepted
                | OperationState::Running
                | OperationState::Waiting
                | OperationState::Done
                | OperationState::Skipped => done,
            };
            current = next;
            self.0.operations.report(operation.id, &done);
        }
    }

    async fn attempt(&self, operation: &Operation) -> OpResult<Vec<Affected>> {
        let done = AssertUnwindSafe(self.perform(operation)).catch_unwind().await;
        done.unwrap_or_else(|_| {
            tracing::error!(operation = operation.id.0, "operation panicked; the sweeps finish its work");
            Err(OpError::Conflict("an internal error interrupted this operation; see the log".into()))
        })
    }

    /// Whether the engine gave no answer to one of an operation's orders.
    async fn unanswered(&self, done: &OpResult<Vec<Affected>>) -> Option<Unanswered> {
        let unanswered = |error: &OpError| {
            if let OpError::Engine(error) = error
                && error.gave_no_answer()
            {
                return Some(error.clone());
            }
            None
        };
        let error = match done {
            Err(error) => unanswered(error),
            Ok(affected) => affected.iter().find_map(|one| one.result.as_ref().err().and_then(unanswered)),
        }?;
        let away = error.kind == ErrorKind::Unreachable
            || matches!(self.0.recognise_engine().await, Err(Untrusted::NoAnswer(_)));
        Some(if away {
            let why = format!("it continues when Podman answers. Podman does not answer now ({error})");
            Unanswered::Away(why)
        } else {
            Unanswered::Once
        })
    }

    /// Makes an operation wait, and answers its callers. Repeats this until the store can write: an operation that runs
    /// according to its row needs a worker.
    async fn park(&self, operation: &Operation, why: &str) -> Parked {
        loop {
            let now = self.0.clock.now();
            let parked = self.0.store.park_operation(operation.clone(), why.to_owned(), now).await;
            if !matches!(parked, Ok(Parked::Cancelled(_))) {
                self.0.operations.report_waiting(operation, why);
            }
            match parked {
                Ok(parked) => return parked,
                Err(error) => {
                    tracing::warn!(operation = operation.id.0, %error, "cannot record that an operation waits");
                    self.0.operations.lock().waiting.remove(&operation.workspace);
                    self.0.clock.sleep(WRITE_AGAIN).await;
                }
            }
        }
    }

    /// Writes the end of an operation. Repeats this until the store can write.
    async fn end(
        &self,
        operation: &Operation,
        done: &OpResult<Vec<Affected>>,
    ) -> (OperationState, Option<Operation>) {
        let (state, detail) = summary(operation, done);
        let continues = state == OperationState::Failed && is_demanded(&operation.command);
        let more = if continues { ". The sweeps keep trying what the registry demands" } else { "" };
        let detail = detail.map(|detail| format!("{detail}{more}"));
        loop {
            let (ended, detail) = (operation.clone(), detail.clone());
            match self.0.store.end_operation(ended, state, detail, self.0.clock.now()).await {
                Ok(ended) => return ended,
                Err(error) => {
                    tracing::warn!(operation = operation.id.0, %error, "cannot record the end of an operation");
                    self.0.clock.sleep(WRITE_AGAIN).await;
                }
            }
        }
    }
}

/// Whether the rows demand what was ordered, so that the sweeps carry it out even if the operation failed.
fn is_demanded(command: &Command) -> bool {
    match command {
        Command::Create
        | Command::Stop { .. }
        | Command::Hibernate
        | Command::Remove { .. }
        | Command::Purge { .. }
        | Command::Undelete { .. } => true,
        Command::Start { .. }
        | Command::Wake
        | Command::Restart
        | Command::Recreate
        | Command::Restore { .. }
        | Command::Delete { .. } => false,
    }
}

/// How the engine gave no answer.
enum Unanswered {
    /// It gives no answer now either. Contains what the operation waits for.
    Away(String),
    /// It answers again: it was stopped for a moment, or one call takes too long, such as a pull or the stop of a
    /// container. The operation is attempted once more, and then has failed: repeating it for ever would block the
    /// workspace. The sweeps repeat what its row demands.
    Once,
}

/// The state in which an operation ends, and a text for operators: the result for the workspace that the order named,
/// and the number of other workspaces for which it failed.
fn summary(operation: &Operation, done: &OpResult<Vec<Affected>>) -> (OperationState, Option<String>) {
    let affected = match done {
        Ok(affected) => affected,
        Err(error) => return (OperationState::Failed, Some(error.to_string())),
    };
    let own = affected.iter().find(|one| one.id == operation.workspace).map(|one| &one.result);
    let (state, detail) = match own {
        None => (OperationState::Done, None),
        Some(Ok(Applied::Done(detail))) => (OperationState::Done, Some(detail.clone())),
        Some(Ok(Applied::Raced(why))) => (OperationState::Skipped, Some(why.clone())),
        Some(Ok(Applied::Accepted(why))) => (OperationState::Waiting, Some(why.clone())),
        Some(Err(error)) => (OperationState::Failed, Some(error.to_string())),
    };
    let others = affected.iter().filter(|one| one.id != operation.workspace);
    let failed: Vec<_> =
        others.filter_map(|one| one.result.as_ref().err().map(|error| (one.id, error))).collect();
    match failed.first() {
        Some((id, error)) if state == OperationState::Done => {
            let text =
                format!("failed for {} of the workspaces below it; the first is {id}: {error}", failed.len());
            (OperationState::Failed, Some(text))
        }
        Some(_) | None => (state, detail),
    }
}
