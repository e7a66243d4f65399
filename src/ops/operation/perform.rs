//! What each kind of operation does.

use crate::{
    domain::{
        ids::WorkspaceId,
        operation::{Command, Operation, Requester, UndeleteTarget},
        status::{Cause, Status},
        workspace::Kind,
    },
    ops::{Affected, Applied, OpError, OpResult, Ops, Order, StartOrder, Up},
};

impl Ops {
    pub(super) async fn perform(&self, operation: &Operation) -> OpResult<Vec<Affected>> {
        let id = operation.workspace;
        let own = |result| Ok(vec![Affected { id, result }]);
        match &operation.command {
            Command::Create => {
                let started = self.start_once(operation, StartOrder::default()).await;
                let row = self.0.row(id).await?;
                own(match started {
                    // A sweep has started it already.
                    Ok(Applied::Raced(_)) if self.0.actors.begun_at(id, row.incarnation).is_some() => {
                        Ok(Applied::Done("started".into()))
                    }
                    started => started,
                })
            }
            Command::Start { new_volume } => {
                self.bring_up_now(operation, Up::Start { new_volume: *new_volume }).await
            }
            Command::Restart => match operation.requested_by {
                Requester::Operator => self.bring_up_now(operation, Up::Restart).await,
                Requester::Agent(_) => {
                    let cause = Some(Cause::Restart);
                    let order = StartOrder { cause, even_if_running: true, ..StartOrder::default() };
                    own(self.start_once(operation, order).await)
                }
            },
            Command::Recreate => self.bring_up_now(operation, Up::Recreate).await,
            Command::Wake => own(self.wake_for(id, Some(operation)).await),
            Command::Stop { targets } => self.stop_all(targets).await,
            Command::Hibernate => own(self.order(id, Order::FinishHibernation).await),
            Command::Remove { targets } => Ok(self.order_all(targets, &Order::MoveRemovedToTrash).await),
            Command::Purge { targets } => Ok(self.order_all(targets, &Order::Purge).await),
            Command::Undelete { targets } => self.undelete_all(targets).await,
            Command::Restore { entry } => own(self.order(id, Order::Restore(*entry)).await),
            Command::Delete { entry } => own(self.delete_for_operator(id, *entry).await),
        }
    }

    /// Starts the operation's own workspace, unless the operation has begun that start already: before Podman ceased to
    /// answer, or in a process that has ended.
    pub(in crate::ops) async fn start_once(
        &self,
        operation: &Operation,
        order: StartOrder,
    ) -> OpResult<Applied> {
        let id = operation.workspace;
        let order =
            StartOrder { decided_on: Some(operation.revision), operation: Some(operation.id), ..order };
        // Read again: an earlier attempt of this process may have begun the start.
        let begun = self.operation(operation.id).await?.incarnation;
        let Some(begun) = begun else { return self.order(id, Order::Start(order)).await };
        let row = self.0.row(id).await?;
        match row.status {
            Status::Online | Status::Degraded => Ok(Applied::Done("started".into())),
            // The token of the begun incarnation is lost, or its container was not started: the start is repeated.
            Status::Provisioning if row.incarnation == begun => {
                let order = StartOrder { even_if_running: false, new_container: false, ..order };
                match self.order(id, Order::Start(order)).await {
                    // A sweep has repeated it already.
                    Ok(Applied::Raced(_))
                        if self.0.actors.begun_at(id, self.0.row(id).await?.incarnation).is_some() =>
                    {
                        Ok(Applied::Done("started".into()))
                    }
                    done => done,
                }
            }
            Status::Provisioning
            | Status::Offline
            | Status::Failed(_)
            | Status::Paused
            | Status::Hibernating
            | Status::Hibernated
            | Status::AwaitingAgent
            | Status::Removed => Ok(Applied::Raced(format!("it was started, and is {} now", row.status))),
        }
    }

    /// Submits the same order for several workspaces, children first, and waits for all results.
    async fn order_all(&self, targets: &[WorkspaceId], order: &Order) -> Vec<Affected> {
        // No container may keep running below a stopped or removed workspace. All orders are submitted before the first
        // is awaited, because each may take its whole grace period.
        let begun: Vec<_> = targets.iter().rev().map(|id| (*id, self.submit(*id, order.clone()))).collect();
        let mut affected = Vec::with_capacity(begun.len());
        for (id, answer) in begun {
            affected.push(Affected { id, result: answer.await.unwrap_or(Err(OpError::Stopping)) });
        }
        affected.reverse();
        affected
    }

    async fn stop_all(&self, targets: &[WorkspaceId]) -> OpResult<Vec<Affected>> {
        // An external workspace has no container to stop. Its pause must not wait for the engine.
        let is_external =
            |id: &WorkspaceId| self.0.store.member(*id).is_some_and(|member| member.kind == Kind::External);
        let (external, contained): (Vec<_>, Vec<_>) = targets.iter().partition(|id| is_external(id));
        let mut stopped = self.order_all(&contained, &Order::Stop { swept: None }).await;
        let paused = |id| Affected { id, result: Ok(Applied::Done("paused".into())) };
        stopped.extend(external.into_iter().map(paused));
        stopped.sort_by_key(|one| targets.iter().position(|id| *id == one.id));
        Ok(stopped)
    }

    async fn undelete_all(&self, targets: &[UndeleteTarget]) -> OpResult<Vec<Affected>> {
        let mut affected = Vec::with_capacity(targets.len());
        for target in targets {
            let result = if target.skipped {
                Err(OpError::Conflict(target.note.clone()))
            } else {
                self.restore_contents(target.workspace, &target.note).await
            };
            affected.push(Affected { id: target.workspace, result });
        }
        Ok(affected)
    }
}
