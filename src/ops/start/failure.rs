//! What a failed engine call means for a start: transient, or impossible until an operator acts.

use serde_json::json;

use crate::{
    domain::{
        ids::{ContainerId, WorkspaceId},
        status::{Cause, Failure, Status},
    },
    engine::{EngineError, ErrorKind},
    ops::{Inner, OpError, OpResult},
    store::StatusChange,
};

impl Inner {
    /// Converts an engine error: to `Impossible` if it is permanent (an operator has to act), to `Engine` if it is
    /// transient. It is transient if the engine did not answer, if the engine is not recognised as the accepted one, or
    /// if the container is half-started, in which case the next attempt creates a new container.
    pub(super) async fn verdict(
        &self,
        error: EngineError,
        emit: impl FnOnce(&EngineError) -> String,
    ) -> OpError {
        let engines_own =
            matches!(error.kind, ErrorKind::Unreachable | ErrorKind::TimedOut | ErrorKind::HalfStarted);
        if engines_own || self.recognise_engine().await.is_err() {
            return OpError::Engine(error);
        }
        OpError::Impossible(emit(&error))
    }

    /// Same as `verdict`, for a call on a container. If the container was removed meanwhile, the result is an engine
    /// error of kind `Absent`, and the order begins again with a new container. Because a missing file is also reported
    /// as `Absent`, the container is inspected.
    pub(super) async fn verdict_of(
        &self,
        container: &ContainerId,
        error: EngineError,
        emit: impl FnOnce(&EngineError) -> String,
    ) -> OpError {
        if error.kind == ErrorKind::Absent {
            match self.engine.inspect_container(container).await {
                Ok(_) => {}
                Err(error) => return OpError::Engine(error),
            }
        }
        self.verdict(error, emit).await
    }

    /// Marks a workspace without a running container as unable to start. Paused workspaces stay paused.
    pub(super) async fn note_impossible(&self, id: WorkspaceId, error: &OpError) -> OpResult<()> {
        let row = self.row(id).await?;
        let change = |cause| StatusChange {
            workspace: id,
            cause,
            incarnation: Some(row.incarnation),
            detail: Some(error.to_string()),
            payload: json!({ "error": error.to_string(), "runtime": row.spec.runtime, "source": "start" }),
            at: self.clock.now(),
        };
        // The cause applies to the status that was read, and not to `paused`, so that a stop in between is not
        // overwritten.
        let retry = match row.status {
            Status::Offline | Status::Failed(Failure::ProvisionTimeout) => Some(Cause::Restart),
            Status::Failed(Failure::StartError) => Some(Cause::StartByOperator),
            Status::Provisioning
            | Status::Online
            | Status::Degraded
            | Status::Failed(Failure::Parked)
            | Status::Paused
            | Status::Hibernating
            | Status::Hibernated
            | Status::AwaitingAgent
            | Status::Removed => None,
        };
        if let Some(cause) = retry {
            self.store.change_status(change(cause)).await?;
        }
        self.store.change_status(change(Cause::StartImpossible)).await?;
        Ok(())
    }
}
