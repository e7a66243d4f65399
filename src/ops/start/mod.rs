//! Start: a fixed sequence of steps, so that no crash and no race leaves a container with the wrong token.
//!
//! Prepare (image, volumes, a container *created*) → verify that the previous token owner's container is stopped → one
//! transaction (incarnation + 1, new token, older tokens revoked) → write the token file and read it back → re-read
//! the row → start the container → re-read the row. From the transaction on, every listing shows the container, which
//! protects its token from `revoke_stale_tokens`. If preparing fails, a running container is not touched.
//!
//! If the engine's start call times out or reports that the container runs already, the running process may hold an
//! older token. The container is then stopped and verified, and all steps from the transaction on are repeated.
//!
//! Limit: if a token write times out, the engine may carry it out much later, even after a later start has written its
//! own token and read it back. The file then contains the older token. ostler cannot distinguish this from an agent
//! that saved the token from its `register` answer. A restart repairs it.

mod begin;
mod container_spec;
mod failure;
mod files;
mod prepare;
mod readiness;
mod spec_hash;
mod volumes;

use super::{Applied, Inner, OpError, OpResult, Ops, actor::Phase, paused_by_hand};
use crate::{
    domain::{
        ids::{ContainerId, WorkspaceId},
        observed::ContainerState,
        operation::{OperationId, Revision},
        runtime::Readiness,
        status::{Cause, Status},
        trash::{NamedContainer, TrashEntry, TrashReason, TrashState},
        workspace::{Kind, Workspace},
    },
    engine::ErrorKind,
    testing::mutation::{Mutation, is},
};

pub(super) use files::{CONFIG_DIRECTORY, TOKEN_FILE};
pub(super) use spec_hash::{hash_of, is_made_from};

/// Parameters of a start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartOrder {
    /// Cause of the status change; `None` for a row that is already provisioning. `StartByOperator` stands for any
    /// cause by which an operator may start a workspace.
    pub cause: Option<Cause>,
    /// Whether a running container is stopped and started again.
    pub even_if_running: bool,
    /// Whether the container is replaced by a new one.
    pub new_container: bool,
    /// Whether a new, empty work volume may replace a missing one.
    pub new_volume: bool,
    /// Revision of the row on which the start was decided; `None` means the revision when the start begins. If the
    /// workspace was stopped, or removed and undeleted, since that revision, the start is abandoned.
    pub decided_on: Option<Revision>,
    /// The operation on whose behalf the workspace is started; `None` for a sweep.
    pub operation: Option<OperationId>,
    /// For a restart of a degraded or stalled workspace: the pass that ordered it, and the reason.
    pub degraded: Option<(&'static str, String)>,
}

impl StartOrder {
    /// The cause that applies to a row with this status; `None` if the order may not start it. No two of an operator's
    /// causes apply to the same status. If a stop changes the status after the order has read the row, the cause does
    /// not apply any more, and the order's transaction fails.
    fn cause_from(&self, status: Status) -> Option<Cause> {
        let cause = self.cause?;
        let operator = [Cause::Restart, Cause::Resume, Cause::StartByOperator];
        let causes =
            if cause == Cause::StartByOperator { &operator[..] } else { std::slice::from_ref(&cause) };
        causes.iter().copied().find(|cause| cause.sources().contains(&status))
    }
}

/// A container that is ready to be started.
struct Prepared {
    container: ContainerId,
    spec_hash: String,
    /// Whether this order created it.
    made_now: bool,
    /// The container that it replaces.
    replaces: Option<NamedContainer>,
}

impl Ops {
    pub(super) async fn start_now(
        &self,
        id: WorkspaceId,
        order: StartOrder,
        phase: &Phase,
    ) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        let order = StartOrder { decided_on: order.decided_on.or(Some(row.revision)), ..order };
        if row.kind == Kind::External {
            return Err(OpError::Conflict(row.runs_elsewhere("and is started there")));
        }
        if let Some(raced) = self.0.not_to_be_started(&row, &order).await? {
            return Ok(Applied::Raced(raced));
        }
        self.0.refuse_start_while_recovering(&row, &order).await?;
        let mut started = self.prepare_and_begin(&row, &order, phase).await;
        if let Err(OpError::Engine(error)) = &started
            && error.kind == ErrorKind::HalfStarted
            && !is(Mutation::KeepHalfStarted)
        {
            // Treated like a container with `exit_lost`: a new one replaces it, and the old one goes to the trash
            // with its data.
            tracing::warn!(workspace = %row.name, %error, "container cannot start again; creating a new one");
            let order = StartOrder { new_container: true, ..order };
            started = self.prepare_and_begin(&self.0.row(id).await?, &order, phase).await;
        } else if let Err(OpError::Engine(error)) = &started
            && error.kind == ErrorKind::Absent
        {
            // The container was removed after this order inspected it. The second run finds no container, and creates
            // one.
            tracing::warn!(workspace = %row.name, %error, "container disappeared during the start; creating a new one");
            started = self.prepare_and_begin(&self.0.row(id).await?, &order, phase).await;
        }
        match started {
            Err(error @ (OpError::Impossible(_) | OpError::Invalid(_) | OpError::NoRuntime { .. })) => {
                // If the socket leads to a different engine, the image and the volumes are missing there. That does not
                // show that this workspace cannot start.
                self.0.recognise_engine().await?;
                self.0.note_impossible(id, &error).await?;
                Err(error)
            }
            other => other,
        }
    }

    async fn prepare_and_begin(
        &self,
        row: &Workspace,
        order: &StartOrder,
        phase: &Phase,
    ) -> OpResult<Applied> {
        let runtime = self.0.runtime(&row.spec.runtime)?;
        self.0.recognise_engine().await?;
        let Some(prepared) = self.0.prepare(row, &runtime, order, phase).await? else {
            return Ok(Applied::Raced("it was removed meanwhile".into()));
        };
        // The socket may lead to a different engine by now. A container created there must not become the row's
        // container: from then on, its id would identify that engine as ours.
        if prepared.made_now
            && let Err(error) = self.0.recognise_engine().await
        {
            self.0.discard(row.id, &prepared).await;
            return Err(error.into());
        }
        let cause = order.cause_from(row.status).unwrap_or(Cause::Restart);
        let done = {
            // Limits how many starts run at once, as after a boot. Acquired only here because pulling the image, which
            // can take long, is done by now. The transaction checks the row again.
            phase.report("start: waiting for other starts");
            let _permit = self.0.actors.starts.acquire().await;
            self.0.begin_and_run((row.id, &row.name), (cause, order), &runtime, &prepared, phase).await
        };
        match done {
            Ok(Some(incarnation)) => {
                self.0.actors.note_begun(row.id, incarnation, self.0.clock.now());
                if prepared.replaces.is_some()
                    && let Err(error) = self.finish_replacing(row.id, phase).await
                {
                    // The workspace is started anyway; `settle` completes the move to the trash.
                    tracing::warn!(workspace = %row.id, %error, "replaced container is not in the trash yet");
                }
                if runtime.readiness == Readiness::Container {
                    self.watch_readiness(row.id, incarnation, prepared.container);
                }
                Ok(Applied::Done("started".into()))
            }
            Ok(None) => {
                self.0.discard(row.id, &prepared).await;
                let status = self.0.row(row.id).await?.status;
                Ok(Applied::Raced(format!("the start was abandoned: it is {status} now")))
            }
            Err(error) => {
                self.0.discard(row.id, &prepared).await;
                Err(error)
            }
        }
    }

    /// Moves the replaced container, which the start's transaction has claimed, to the trash.
    async fn finish_replacing(&self, id: WorkspaceId, phase: &Phase) -> OpResult<()> {
        let claimed =
            |entry: &TrashEntry| entry.reason == TrashReason::Replaced && entry.state == TrashState::Claimed;
        for entry in self.0.store.trash_of(vec![id]).await?.iter().filter(|entry| claimed(entry)) {
            self.finish_move_to_trash_now(entry.id, phase).await?;
        }
        Ok(())
    }
}

impl Inner {
    /// Whether the sweeps start the workspace again when the engine answers. `false` if the row cannot be read.
    pub(super) async fn is_retried(&self, id: WorkspaceId) -> bool {
        self.row(id).await.is_ok_and(|row| {
            row.status == Status::Provisioning
                || (row.status == Status::Offline && row.restart_due_at.is_some())
        })
    }

    /// The reason why this order has become pointless; `None` if the start is still needed.
    async fn not_to_be_started(&self, row: &Workspace, order: &StartOrder) -> OpResult<Option<String>> {
        if row.status != Status::Provisioning && order.cause_from(row.status).is_none() {
            return Ok(Some(format!("it is {} now", row.status)));
        }
        let begun =
            row.status == Status::Provisioning && self.actors.begun_at(row.id, row.incarnation).is_some();
        let up = (begun || matches!(row.status, Status::Online | Status::Degraded)) && !order.even_if_running;
        let Some(container) = row.container.as_ref().filter(|_| up) else { return Ok(None) };
        match self.engine.inspect_container(container).await {
            Ok(seen) if seen.state == ContainerState::Paused => Err(OpError::Conflict(format!(
                "{}, `ostler restart {}` starts it as a new process",
                paused_by_hand(container),
                row.name
            ))),
            Ok(seen) if seen.state.may_run() => Ok(Some("it is running already".into())),
            Ok(_) => Ok(None),
            Err(error) if error.kind == ErrorKind::Absent => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
