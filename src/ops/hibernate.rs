//! Hibernate and wake: the row says hibernating, the container is seen stopped, then it says hibernated.

use serde_json::json;

use super::{
    Applied, OpError, OpResult, Ops, Order,
    actor::Phase,
    start::{StartOrder, not_started},
};
use crate::{
    domain::{
        ids::WorkspaceId,
        status::{Cause, Status},
        time::Timestamp,
        workspace::{Kind, Workspace},
    },
    mutation::{Mutation, is},
    store::{Drowsy, SleepResult, StatusChange},
};

impl Ops {
    /// Puts a workspace to sleep, on a person's or its own word. Asleep already is success.
    ///
    /// # Errors
    /// When it works on something and is not forced, when its status allows no sleep, or when its container was not
    /// seen stopped: it is hibernating then, and `settle` goes on. An engine that gives no answer is waited for.
    pub async fn hibernate(&self, id: WorkspaceId, force: bool) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        if row.kind == Kind::External {
            return Err(OpError::Conflict(row.runs_elsewhere("and ostler cannot put it to sleep")));
        }
        if row.status == Status::Hibernated {
            return Ok(Applied::Done("it sleeps already".into()));
        }
        if row.status != Status::Hibernating {
            match self.claim_sleep(&row, Drowsy::Ordered { force }).await? {
                SleepResult::Begun => {}
                SleepResult::Busy(active_tasks) => return Err(OpError::Busy { active_tasks }),
                SleepResult::Raced => {
                    let status = self.0.row(id).await?.status;
                    return Err(OpError::Conflict(format!(
                        "workspace `{}` is {status}: only one that is online or degraded can be put to sleep",
                        row.name
                    )));
                }
            }
        }
        match self.order(id, Order::FinishHibernation).await {
            Err(OpError::Engine(error)) if error.gave_no_answer() => self.accepted(id, &error).await?,
            done => done,
        }
    }

    /// Puts a workspace to sleep that was idle since then, unless something has happened there meanwhile.
    ///
    /// # Errors
    /// When the store cannot answer, or its container was not seen stopped.
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
        match self.claim_sleep(&row, Drowsy::Idle { since, evidence }).await? {
            SleepResult::Begun => self.order(id, Order::FinishHibernation).await,
            SleepResult::Busy(_) | SleepResult::Raced => {
                Ok(Applied::Raced("something happened there".into()))
            }
        }
    }

    /// Closes it to messages and claims it in one guarded update. It stays closed until the container is stopped.
    async fn claim_sleep(&self, row: &Workspace, why: Drowsy) -> OpResult<SleepResult> {
        let (id, traffic) = (row.id, &self.0.traffic);
        let (idle_since, force) = match &why {
            Drowsy::Ordered { force } => (None, *force),
            Drowsy::Idle { since, .. } => (Some(*since), false),
        };
        if !traffic.close_if_quiet(id, idle_since) && !force {
            return Ok(SleepResult::Busy(traffic.open(id)));
        }
        let now = self.0.clock.now();
        let claimed = self.0.store.begin_hibernation(id, why, now).await;
        if !matches!(claimed, Ok(SleepResult::Begun)) {
            traffic.reopen(id);
        }
        Ok(claimed?)
    }

    pub(super) async fn finish_hibernation_now(&self, id: WorkspaceId, phase: &Phase) -> OpResult<Applied> {
        let done = self.see_asleep(id, phase).await;
        // Whatever came of it: messages wait for what the row says, or are told.
        self.0.traffic.reopen(id);
        done
    }

    async fn see_asleep(&self, id: WorkspaceId, phase: &Phase) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        if row.status != Status::Hibernating {
            return Ok(Applied::Raced(format!("it is {} now", row.status)));
        }
        phase.say("hibernate: stopping its container");
        self.0.recognise_engine().await?;
        if !is(Mutation::SayAsleepFirst) {
            self.stop_containers_of(&row).await?;
        }
        let change = StatusChange {
            workspace: id,
            cause: Cause::FinishHibernation,
            incarnation: None,
            detail: None,
            told: json!({ "name": row.name, "tier": row.tier }),
            at: self.0.clock.now(),
        };
        Ok(if self.0.store.change_status(change).await? {
            Applied::Done("asleep".into())
        } else {
            Applied::Raced("its status changed meanwhile".into())
        })
    }

    /// Wakes a workspace: from sleep only, never from a pause. One that is falling asleep is woken after that; one
    /// that is up is left alone.
    ///
    /// # Errors
    /// When it is below a paused one, or cannot be started.
    pub async fn wake(&self, id: WorkspaceId) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        if row.kind == Kind::External {
            return Err(OpError::Conflict(row.runs_elsewhere("and ostler cannot wake it")));
        }
        self.refuse_below_paused(&row).await?;
        match row.status {
            Status::Hibernating => {
                let _seen_below = not_started(self.order(id, Order::FinishHibernation).await)?;
            }
            Status::Hibernated => {}
            Status::Online | Status::Degraded | Status::Provisioning => {
                return Ok(Applied::Done(format!("it is {}", row.status)));
            }
            Status::Offline
            | Status::Failed(_)
            | Status::Paused
            | Status::AwaitingAgent
            | Status::Removed => {
                return Err(OpError::Conflict(format!(
                    "workspace `{}` is {}, not asleep: `ostler start` starts what is not",
                    row.name, row.status
                )));
            }
        }
        let order = StartOrder { cause: Some(Cause::Wake), ..StartOrder::default() };
        self.order_start(id, order).await
    }
}
