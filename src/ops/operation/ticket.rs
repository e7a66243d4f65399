//! What can be ordered, and the result of an accepted order.

use tokio::sync::oneshot;

use crate::{
    domain::{ids::WorkspaceId, naming::WorkspaceName, operation::OperationId},
    ops::{Affected, Applied, OpError, OpResult, Up},
};

/// What an operator, or an agent for itself, can order for an existing workspace.
#[derive(Clone, Debug)]
pub enum Request {
    /// Start it, restart it or recreate it.
    Up(Up),
    /// Stop it and everything below it.
    Stop,
    /// Hibernate it.
    Hibernate {
        /// Hibernate it even if it has active tasks or requests in flight.
        force: bool,
    },
    /// Wake it from hibernation.
    Wake,
    /// Undo its removal.
    Undelete {
        /// Its new name; `None` keeps the old one.
        name: Option<WorkspaceName>,
        /// Whether workspaces of the same removal stay removed.
        only: bool,
    },
}

/// An accepted order, from which its result can be awaited. Dropping it does not cancel the operation.
#[derive(Debug)]
pub struct Ticket {
    pub(super) operation: Option<OperationId>,
    pub(super) result: Result<oneshot::Receiver<OpResult<Vec<Affected>>>, OpResult<Vec<Affected>>>,
}

impl Ticket {
    /// The operation; `None` if there was nothing to do.
    #[must_use]
    pub fn operation(&self) -> Option<OperationId> {
        self.operation
    }

    /// Waits until the operation has ended, or until it waits for Podman: the results then are `Applied::Accepted`.
    ///
    /// # Errors
    /// Why it could not be carried out.
    pub async fn ended(self) -> OpResult<Vec<Affected>> {
        match self.result {
            Ok(result) => result.await.unwrap_or(Err(OpError::Stopping)),
            Err(known) => known,
        }
    }

    /// An order for which nothing has to be done.
    pub(in crate::ops) fn no_op(workspace: WorkspaceId, why: impl Into<String>) -> Self {
        let done = Affected { id: workspace, result: Ok(Applied::Done(why.into())) };
        Self { operation: None, result: Err(Ok(vec![done])) }
    }
}
