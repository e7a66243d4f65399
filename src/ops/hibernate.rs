//! Hibernate and wake. The row becomes hibernating, the container is stopped and verified, then the row becomes
//! hibernated.

use serde_json::json;
use tokio::sync::oneshot;

use super::{
    Applied, OpError, OpResult, Ops, Order, Ticket, actor::Phase, pause::own, start::StartOrder,
    traffic::CloseRefusal,
};
use crate::{
    domain::{
        ids::WorkspaceId,
        operation::{Command, Operation, Requester},
        status::{Cause, Status},
        time::Timestamp,
        workspace::{Kind, Workspace},
    },
    store::{HibernateReason, HibernateResult, NewOperation, StatusChange, Stored},
    testing::mutation::{Mutation, is},
};

/// The result of an attempt to make a row hibernating.
enum Claimed {
    /// The row is hibernating, and the order that stops its container is queued.
    Begun(Finish),
    /// The agent has this many active tasks.
    Busy(u32),
    /// This many requests are in flight.
    InUse(u32),
    /// The workspace was active after it was checked, or its status does not allow hibernation.
    Raced,
}

/// The end of a hibernation.
enum Finish {
    /// Of an operation.
    Operation(Ticket),
    /// Of an order of a sweep.
    Order(oneshot::Receiver<OpResult<Applied>>),
}

impl Ops {
    /// Hibernates a workspace by order of an operator or of its agent. Succeeds if it is hibernated already.
    ///
    /// # Errors
    /// If it has active tasks or requests in flight and `force` is not set, if its status does not allow hibernation,
    /// or if its container could not be verified as stopped: then it stays hibernating, and `settle` continues. An
    /// engine that gives no answer is no error: `settle` stops the container later.
    pub async fn hibernate(&self, id: WorkspaceId, force: bool) -> OpResult<Applied> {
        own(self.accept_hibernation(id, force, Requester::Operator).await?.ended().await?, id)
    }

    pub(super) async fn accept_hibernation(
        &self,
        id: WorkspaceId,
        force: bool,
        by: Requester,
    ) -> OpResult<Ticket> {
        let row = self.0.row(id).await?;
        if row.kind == Kind::External {
            return Err(OpError::Conflict(row.runs_elsewhere("and ostler cannot hibernate it")));
        }
        if row.status == Status::Hibernated {
            return Ok(Ticket::no_op(id, "it is hibernated already"));
        }
        if row.status == Status::Hibernating {
            return self.accept(by.orders(id, Command::Hibernate)).await;
        }
        self.continue_operations().await?;
        match self.claim_hibernation(&row, HibernateReason::Ordered { force }, Some(by)).await? {
            Claimed::Begun(Finish::Operation(ticket)) => Ok(ticket),
            Claimed::Busy(active_tasks) => Err(OpError::Busy { active_tasks }),
            Claimed::InUse(open_requests) => Err(OpError::InUse { name: row.name, open_requests }),
            Claimed::Begun(Finish::Order(_)) | Claimed::Raced => {
                let status = self.0.row(id).await?.status;
                Err(OpError::Conflict(format!(
                    "workspace `{}` is {status}: only an online or degraded workspace can be hibernated",
                    row.name
                )))
            }
        }
    }

    /// Hibernates a workspace that has been idle since the given time, unless it was active meanwhile.
    ///
    /// # Errors
    /// If the store fails, or its container could not be verified as stopped.
    pub async fn hibernate_idle(
        &self,
        id: WorkspaceId,
        since: Timestamp,
        evidence: String,
    ) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        if let Some(paused) = self.0.paused_by_hand(&row).await? {
            return Ok(Applied::Raced(paused));
        }
        match self.claim_hibernation(&row, HibernateReason::Idle { since, evidence }, None).await? {
            Claimed::Begun(Finish::Order(finished)) => finished.await.unwrap_or(Err(OpError::Stopping)),
            Claimed::Begun(Finish::Operation(ticket)) => own(ticket.ended().await?, id),
            Claimed::Busy(_) | Claimed::InUse(_) | Claimed::Raced => {
                Ok(Applied::Raced("it was active meanwhile".into()))
            }
        }
    }

    /// Closes the workspace to messages, makes its row hibernating in one guarded update, and submits the order that
    /// stops its container: as an operation if `by` is given. The workspace stays closed until that order is finished.
    ///
    /// The update runs in its own task. If a pass exceeds its time limit or a client disconnects, the future that waits
    /// here is dropped, but the store may still carry the update out. Only the task that gets the store's answer can
    /// decide whether to admit requests again. If they were admitted too early, a message would reach a container that
    /// is about to be stopped. If they were never admitted, every message would wait without end.
    async fn claim_hibernation(
        &self,
        row: &Workspace,
        why: HibernateReason,
        by: Option<Requester>,
    ) -> OpResult<Claimed> {
        let (id, traffic) = (row.id, &self.0.traffic);
        let (idle_since, force) = match &why {
            HibernateReason::Ordered { force } => (None, *force),
            HibernateReason::Idle { since, .. } => (Some(*since), false),
        };
        let closed = traffic.close_if_quiet(id, idle_since);
        match closed {
            Err(CloseRefusal::Open(open)) if !force => return Ok(Claimed::InUse(open)),
            Err(CloseRefusal::Recent) if !force => return Ok(Claimed::Raced),
            Ok(()) | Err(_) => {}
        }
        let (reply, answer) = oneshot::channel();
        let ops = self.clone();
        self.0.spawn.spawn(Box::pin(async move {
            let now = ops.0.clock.now();
            let begun = ops.0.store.accept_hibernation(id, why, by, now).await;
            // Submitted in this task: only this order reopens the workspace. Without it, the workspace would stay
            // closed even after its row is no longer hibernating.
            let claimed = match begun {
                Ok(Stored { result: HibernateResult::Begun, operation: Some(stored), .. }) => {
                    Ok(Claimed::Begun(Finish::Operation(ops.register(stored))))
                }
                Ok(Stored { result: HibernateResult::Begun, operation: None, .. }) => {
                    Ok(Claimed::Begun(Finish::Order(ops.submit(id, Order::FinishHibernation))))
                }
                Ok(Stored { result: HibernateResult::Busy(tasks), .. }) => Ok(Claimed::Busy(tasks)),
                Ok(Stored { result: HibernateResult::Raced, .. }) => Ok(Claimed::Raced),
                Err(error) => Err(error.into()),
            };
            if closed.is_ok() && !matches!(claimed, Ok(Claimed::Begun(_))) {
                ops.0.traffic.release(id);
            }
            // The caller may have stopped waiting.
            let _gone = reply.send(claimed);
        }));
        answer.await.unwrap_or(Err(OpError::Stopping))
    }

    pub(super) async fn finish_hibernation_now(&self, id: WorkspaceId, phase: &Phase) -> OpResult<Applied> {
        let done = self.verify_hibernated(id, phase).await;
        // Reopened whatever the result is. The row's status then decides whether held messages wait on, are delivered,
        // or get an error.
        self.0.traffic.reopen(id);
        done
    }

    async fn verify_hibernated(&self, id: WorkspaceId, phase: &Phase) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        if row.status == Status::Hibernated {
            return Ok(Applied::Done("hibernated".into()));
        }
        if row.status != Status::Hibernating {
            return Ok(Applied::Raced(format!("it is {} now", row.status)));
        }
        phase.report("hibernate: stopping its container");
        self.0.recognise_engine().await?;
        if !is(Mutation::HibernatedBeforeStop) {
            self.stop_containers_of(&row).await?;
        }
        let change = StatusChange {
            workspace: id,
            cause: Cause::FinishHibernation,
            incarnation: None,
            detail: None,
            payload: json!({ "name": row.name, "tier": row.spec.tier }),
            at: self.0.clock.now(),
        };
        Ok(if self.0.store.change_status(change).await? {
            Applied::Done("hibernated".into())
        } else {
            Applied::Raced("its status changed meanwhile".into())
        })
    }

    /// Accepts an operator's wake.
    pub(super) async fn accept_wake(&self, id: WorkspaceId, by: Requester) -> OpResult<Ticket> {
        let row = self.0.row(id).await?;
        if let Some(no_op) = self.check_wake(&row).await? {
            return Ok(Ticket::no_op(id, no_op));
        }
        self.accept(NewOperation { decided_on: Some(row.revision), ..by.orders(id, Command::Wake) }).await
    }

    /// Wakes a hibernated workspace for a message, never a paused one. A workspace that is hibernating is woken when its
    /// hibernation is finished; a running workspace is not changed. No operation is stored: the message waits for the
    /// result, and is lost with this process too.
    ///
    /// # Errors
    /// If it is below a paused workspace, or cannot be started.
    pub async fn wake(&self, id: WorkspaceId) -> OpResult<Applied> {
        self.wake_for(id, None).await
    }

    /// Returns the reason why a wake has nothing to do, if there is one.
    async fn check_wake(&self, row: &Workspace) -> OpResult<Option<String>> {
        if row.kind == Kind::External {
            return Err(OpError::Conflict(row.runs_elsewhere("and ostler cannot wake it")));
        }
        self.refuse_below_paused(row).await?;
        match row.status {
            Status::Hibernating | Status::Hibernated => Ok(None),
            Status::Online | Status::Degraded | Status::Provisioning => {
                Ok(Some(format!("it is {}", row.status)))
            }
            Status::Offline
            | Status::Failed(_)
            | Status::Paused
            | Status::AwaitingAgent
            | Status::Removed => Err(OpError::Conflict(format!(
                "workspace `{name}` is {}, not hibernated: start it with `ostler start {name}`, after \
                 `ostler undelete {name}` if it was removed",
                row.status,
                name = row.name
            ))),
        }
    }

    pub(super) async fn wake_for(&self, id: WorkspaceId, operation: Option<&Operation>) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        // A wake that has begun is continued whatever its row looks like by now.
        let begun = match operation {
            Some(operation) => self.operation(operation.id).await?.begun,
            None => false,
        };
        if !begun && let Some(no_op) = self.check_wake(&row).await? {
            return Ok(Applied::Done(no_op));
        }
        // Queued together with the start, so that no order that follows this one comes between the two.
        let finished = (row.status == Status::Hibernating).then(|| self.submit(id, Order::FinishHibernation));
        let order = StartOrder { cause: Some(Cause::Wake), ..StartOrder::default() };
        let started = match operation {
            Some(operation) => self.start_once(operation, order).await,
            None => self.order(id, Order::Start(order)).await,
        };
        if let Some(finished) = finished {
            // If the hibernation failed, the start was not carried out, and this error is the reason.
            finished.await.unwrap_or(Err(OpError::Stopping))?;
        }
        started
    }
}
