//! From the transaction to the running container: stop the previous token owner, issue a token, write it, start.

use super::{Prepared, StartOrder};
use crate::{
    domain::{
        ids::{Incarnation, TrashId, WorkspaceId},
        naming::WorkspaceName,
        runtime::{Runtime, User},
        status::{Cause, Status},
        trash::{NamedContainer, TrashContents, TrashReason},
    },
    engine::{EngineError, ErrorKind},
    ops::{Inner, OpError, OpResult, actor::Phase},
    store::{BeginStart, ClaimGuard, NewClaim},
    testing::{
        crash_point,
        mutation::{Mutation, is},
    },
};

/// Maximum number of start calls for one order, when each times out or finds the container running.
const ATTEMPTS: u32 = 3;

impl Inner {
    /// All steps from the transaction to the running container. `None` if the row was changed by another action.
    pub(super) async fn begin_and_run(
        &self,
        (id, name): (WorkspaceId, &WorkspaceName),
        (cause, order): (Cause, &StartOrder),
        runtime: &Runtime,
        prepared: &Prepared,
        phase: &Phase,
    ) -> OpResult<Option<Incarnation>> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            phase.report("start: stopping the old process");
            let previous_owners = prepared.replaces.iter().map(|old| &old.id).chain([&prepared.container]);
            for previous_owner in previous_owners.filter(|_| !is(Mutation::LetOldProcessRun)) {
                self.stop_and_verify(previous_owner, runtime.stop_grace).await?;
            }
            let token = self.entropy.token();
            let next = BeginStart {
                workspace: id,
                cause,
                container: prepared.container.clone(),
                spec_hash: prepared.spec_hash.clone(),
                token: self.issue(&token),
                decided_on: order.decided_on,
                operation: order.operation,
                replaces: prepared.replaces.as_ref().map(|old| self.claim_of_replaced(name, id, old)),
                degraded: order.degraded.clone(),
                at: self.clock.now(),
            };
            let Some(begun) = self.store.begin_start(next).await? else { return Ok(None) };
            phase.report("start: writing its token");
            self.write_files((id, name), runtime, &prepared.container, &token).await?;
            if !self.still_starting(id, begun.incarnation).await? {
                return Ok(None);
            }
            phase.report("start: starting its container");
            self.serve_before_start(id).await;
            crash_point::before("start: start its container");
            match self.engine.start_container(&prepared.container).await {
                Ok(()) => crash_point::after("start: start its container"),
                Err(error) if is(Mutation::AnyStartIsMine) && error.kind == ErrorKind::Conflict => {}
                Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::TimedOut) => {
                    last = Some(error);
                    continue;
                }
                Err(error) => {
                    let shared = self.row(id).await?.spec.workspace_dir;
                    let failure =
                        |error: &EngineError| start_failure(error, name, shared.as_deref(), runtime.user);
                    return Err(self.verdict_of(&prepared.container, error, failure).await);
                }
            }
            if self.still_starting(id, begun.incarnation).await? {
                return Ok(Some(begun.incarnation));
            }
            self.stop_and_verify(&prepared.container, runtime.stop_grace).await?;
            return Ok(None);
        }
        // Each attempt timed out, or found the container running. The container may run with an older token, so it is
        // stopped.
        self.stop_and_verify(&prepared.container, runtime.stop_grace).await?;
        Err(last.map_or_else(
            || OpError::Impossible("its container could not be started".into()),
            OpError::Engine,
        ))
    }

    /// The trash claim on the container that is replaced. Its volumes stay with the workspace.
    fn claim_of_replaced(&self, name: &WorkspaceName, id: WorkspaceId, old: &NamedContainer) -> NewClaim {
        NewClaim {
            id: TrashId(self.entropy.uuid()),
            workspace: id,
            workspace_name: name.to_string(),
            reason: TrashReason::Replaced,
            evidence: "it was replaced by a new container".into(),
            contents: TrashContents { container: Some(old.clone()), volumes: Vec::new() },
            guard: ClaimGuard::NotTheRows(old.id.clone()),
            keep_until: self.clock.now() + self.settings().trash_retention,
            swept_by: None,
        }
    }

    async fn still_starting(&self, id: WorkspaceId, incarnation: Incarnation) -> OpResult<bool> {
        let row = self.row(id).await?;
        // A heartbeat before this read has already made it online, or degraded if the agent reported that.
        let up = matches!(row.status, Status::Provisioning | Status::Online | Status::Degraded);
        Ok(row.incarnation == incarnation && up)
    }
}

fn start_failure(error: &EngineError, name: &WorkspaceName, shared: Option<&str>, user: User) -> String {
    if error.kind == ErrorKind::PortInUse {
        return format!(
            "its port on this host is in use ({}). Run `ostler recreate {name}` to give it another port, or free the \
             port and run `ostler start {name}`",
            error.message
        );
    }
    // The OCI runtime's message names only the directory inside the container.
    let denied = error.message.to_ascii_lowercase().contains("permission denied");
    let shared = shared.filter(|_| denied).map_or_else(String::new, |shared| {
        format!(". /workspace is {shared} on this host: user {user} must have access to that directory")
    });
    format!("its container failed to start: {}{shared}", error.message)
}
