//! Starts workers: for a new operation, after an outage of Podman, and for the open operations of an earlier process.

use std::collections::BTreeMap;

use crate::{
    domain::{
        ids::WorkspaceId,
        operation::{Operation, OperationState},
    },
    ops::{OpResult, Ops},
    testing::mutation::{Mutation, is},
};

impl Ops {
    pub(super) fn spawn_worker(&self, operation: Operation) {
        let ops = self.clone();
        self.0.spawn.spawn(Box::pin(async move { ops.carry_out_from(operation).await }));
    }

    pub(super) fn continue_waiting(&self, workspace: WorkspaceId) {
        let ops = self.clone();
        self.0.spawn.spawn(Box::pin(async move {
            match ops.0.store.continue_operation(workspace, ops.0.clock.now()).await {
                Ok(Some(operation)) => ops.carry_out_from(operation).await,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%workspace, %error, "waiting operation cannot be continued now");
                    // Tried again when the next listing proves that Podman answers.
                    let text = "waiting until the registry can be written".to_owned();
                    ops.0.operations.lock().waiting.insert(workspace, text);
                }
            }
        }));
    }

    /// Continues the operations that wait for Podman. Called when Podman has answered.
    pub(in crate::ops) fn continue_all_waiting(&self) {
        let waiting = std::mem::take(&mut self.0.operations.lock().waiting);
        for workspace in waiting.into_keys() {
            self.continue_waiting(workspace);
        }
    }

    /// Continues the operations that an earlier process left open; once in this process. In a registry that is
    /// recovering, they are closed instead: they may be older than what the engine shows.
    ///
    /// # Errors
    /// If the store cannot answer.
    pub async fn continue_operations(&self) -> OpResult<()> {
        self.0.operations.recovered.get_or_try_init(|| self.recover_operations()).await.copied()
    }

    async fn recover_operations(&self) -> OpResult<()> {
        let open = self.0.store.open_operations().await?;
        if is(Mutation::ForgetOperations) {
            return Ok(());
        }
        let recovering = self.0.is_recovering().await?;
        let mut heads = BTreeMap::new();
        for operation in open {
            if recovering {
                let why = "the registry was lost or restored meanwhile; give the order again".to_owned();
                let now = self.0.clock.now();
                self.0.store.end_operation(operation, OperationState::Failed, Some(why), now).await?;
            } else {
                heads.entry(operation.workspace).or_insert(operation);
            }
        }
        for (workspace, head) in heads {
            tracing::info!(%workspace, operation = head.id.0, kind = head.command.kind(), "continuing an operation");
            if head.state == OperationState::Running {
                self.spawn_worker(head);
            } else {
                self.continue_waiting(workspace);
            }
        }
        Ok(())
    }
}
