//! Hibernate and wake. The row becomes hibernating, the container is stopped and verified, then the row becomes
//! hibernated.

use serde_json::json;
use tokio::sync::oneshot;

use super::{
    Applied, OpError, OpResult, Ops, Order,
    actor::Phase,
    start::{StartOrder, not_started},
    traffic::CloseRefusal,
};
use crate::{
    domain::{
        ids::WorkspaceId,
        status::{Cause, Status},
        time::Timestamp,
        workspace::{Kind, Workspace},
    },
    store::{HibernateReason, HibernateResult, StatusChange},
    testing::mutation::{Mutation, is},
};

/// The result of an attempt to make a row hibernating.
enum Claimed {
    /// The row is hibernating; the receiver resolves once the container is stopped.
    Begun(oneshot::Receiver<OpResult<Applied>>),
    /// The agent has this many active tasks.
    Busy(u32),
    /// This many requests are in flight.
    InUse(u32),
    /// The workspace was active after it was checked, or its status does not allow hibernation.
    Raced,
}

impl Ops {
    /// Hibernates a workspace by order of an operator or of its agent. Succeeds if it is hibernated already.
    ///
    /// # Errors
    /// If it has active tasks or requests in flight and `force` is not set, if its status does not allow hibernation,
    /// or if its container could not be verified as stopped: then it stays hibernating, and `settle` continues. An
    /// engine that gives no answer is no error: `settle` stops the container later.
    pub async fn hibernate(&self, id: WorkspaceId, force: bool) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        if row.kind == Kind::External {
            return Err(OpError::Conflict(row.runs_elsewhere("and ostler cannot hibernate it")));
        }
        if row.status == Status::Hibernated {
            return Ok(Applied::Done("it is hibernated already".into()));
        }
        let finished = if row.status == Status::Hibernating {
            self.submit(id, Order::FinishHibernation)
        } else {
            match self.claim_hibernation(&row, HibernateReason::Ordered { force }).await? {
                Claimed::Begun(finished) => finished,
                Claimed::Busy(active_tasks) => return Err(OpError::Busy { active_tasks }),
                Claimed::InUse(open_requests) => {
                    return Err(OpError::InUse { name: row.name, open_requests });
                }
                Claimed::Raced => {
                    let status = self.0.row(id).await?.status;
                    return Err(OpError::Conflict(format!(
                        "workspace `{}` is {status}: only an online or degraded workspace can be hibernated",
                        row.name
                    )));
                }
            }
        };
        self.report_queued();
        match finished.await.unwrap_or(Err(OpError::Stopping)) {
            Err(OpError::Engine(error)) if error.gave_no_answer() => self.accepted(id, &error).await?,
            done => done,
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
        match self.claim_hibernation(&row, HibernateReason::Idle { since, evidence }).await? {
            Claimed::Begun(finished) => finished.await.unwrap_or(Err(OpError::Stopping)),
            Claimed::Busy(_) | Claimed::InUse(_) | Claimed::Raced => {
                Ok(Applied::Raced("it was active meanwhile".into()))
            }
        }
    }

    /// Closes the workspace to messages, makes its row hibernating in one guarded update, and submits the order that
    /// stops its container. The workspace stays closed until that order is finished.
    ///
    /// The update runs in its own task. If a pass exceeds its time limit or a client disconnects, the future that waits
    /// here is dropped, but the store may still carry the update out. Only the task that gets the store's answer can
    /// decide whether to admit requests again. If they were admitted too early, a message would reach a container that
    /// is about to be stopped. If they were never admitted, every message would wait without end.
    async fn claim_hibernation(&self, row: &Workspace, why: HibernateReason) -> OpResult<Claimed> {
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
            let claimed = match ops.0.store.begin_hibernation(id, why, now).await {
                // Submitted in this task: only this order reopens the workspace. Without it, the workspace would stay
                // closed even after its row is no longer hibernating.
                Ok(HibernateResult::Begun) => Ok(Claimed::Begun(ops.submit(id, Order::FinishHibernation))),
                Ok(HibernateResult::Busy(tasks)) => Ok(Claimed::Busy(tasks)),
                Ok(HibernateResult::Raced) => Ok(Claimed::Raced),
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
            payload: json!({ "name": row.name, "tier": row.tier }),
            at: self.0.clock.now(),
        };
        Ok(if self.0.store.change_status(change).await? {
            Applied::Done("hibernated".into())
        } else {
            Applied::Raced("its status changed meanwhile".into())
        })
    }

    /// Wakes a hibernated workspace, never a paused one. A workspace that is hibernating is woken when its hibernation
    /// is finished; a running workspace is not changed.
    ///
    /// # Errors
    /// If it is below a paused workspace, or cannot be started.
    pub async fn wake(&self, id: WorkspaceId) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        if row.kind == Kind::External {
            return Err(OpError::Conflict(row.runs_elsewhere("and ostler cannot wake it")));
        }
        self.refuse_below_paused(&row).await?;
        // Queued together with the start, so that no order that follows this one comes between the two.
        let finished = match row.status {
            Status::Hibernating => Some(self.submit(id, Order::FinishHibernation)),
            Status::Hibernated => None,
            Status::Online | Status::Degraded | Status::Provisioning => {
                return Ok(Applied::Done(format!("it is {}", row.status)));
            }
            Status::Offline
            | Status::Failed(_)
            | Status::Paused
            | Status::AwaitingAgent
            | Status::Removed => {
                return Err(OpError::Conflict(format!(
                    "workspace `{name}` is {}, not hibernated: start it with `ostler start {name}`, after \
                     `ostler undelete {name}` if it was removed",
                    row.status,
                    name = row.name
                )));
            }
        };
        let order = StartOrder { cause: Some(Cause::Wake), ..StartOrder::default() };
        let started = self.order_start(id, order).await;
        if let Some(finished) = finished {
            // If the hibernation failed, the start was not carried out, and this error is the reason.
            not_started(finished.await.unwrap_or(Err(OpError::Stopping)))?;
        }
        started
    }
}
