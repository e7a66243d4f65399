//! Pause and resume: of a workspace and everything below it.
//!
//! Whoever is paused along with another remembers with whom, and comes back with it: a workspace that a person had
//! paused by itself stays paused when its parent is resumed.

use super::{Applied, OpError, OpResult, Ops, Order, accepted_starts::AcceptedStart, start::StartOrder};
use crate::{
    domain::{
        event::EventKind,
        ids::WorkspaceId,
        naming::WorkspaceName,
        status::{Cause, Status},
        workspace::{Kind, Workspace},
    },
    engine::EngineError,
    store::{PauseResult, StatusChange, Unless},
};

/// What came of an order for one of the workspaces it was for.
#[derive(Clone, Debug)]
pub struct Affected {
    /// Which.
    pub id: WorkspaceId,
    /// What came of it.
    pub result: OpResult<Applied>,
}

/// How an operator's order brings a workspace up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up {
    /// Start it unless it runs.
    Start {
        /// Whether an empty work volume may replace one that is gone.
        new_volume: bool,
    },
    /// Stop it, if it runs, and start it again in its container.
    Restart,
    /// Start it in a new container.
    Recreate,
}

impl Ops {
    /// Pauses a workspace and everything below it, and sees their containers stopped. Paused already is success.
    ///
    /// # Errors
    /// When nothing could be paused. What came of each stop is in the answer: where one failed the row says paused
    /// all the same, and `settle` goes on trying.
    pub async fn pause(&self, id: WorkspaceId) -> OpResult<Vec<Affected>> {
        let accepted = self.0.accepted_starts.so_far();
        let paused = match self.0.store.pause_workspace(id, self.0.clock.now()).await? {
            PauseResult::Paused(paused) => paused,
            PauseResult::BelowPaused(parent) => return Err(below_paused(&parent)),
            PauseResult::NotThere => return Err(OpError::NotFound("workspace not found".into())),
        };
        self.0.accepted_starts.overrule(paused.iter().copied().chain([id]), accepted);
        // Children first: nothing is left running below a workspace that is stopped. All are begun before any is
        // waited for, because each may take its whole grace.
        let mut stops = Vec::with_capacity(paused.len());
        for id in paused.into_iter().rev() {
            let row = self.0.row(id).await;
            // Nothing of an external one is to be stopped, and an order to do so would pause it again, should it come
            // after its resume, which waits for no order.
            let external = row.is_ok_and(|row| row.kind == Kind::External);
            stops.push((id, (!external).then(|| self.submit_stop(id))));
        }
        let mut affected = Vec::with_capacity(stops.len());
        for (id, stop) in stops {
            let result = match stop {
                Some(stop) => match stop.await.unwrap_or(Err(OpError::Stopping)) {
                    Err(OpError::Engine(error)) if error.gave_no_answer() => {
                        self.accepted(id, &error).await?
                    }
                    result => result,
                },
                None => Ok(Applied::Done("paused".into())),
            };
            affected.push(Affected { id, result });
        }
        affected.reverse();
        Ok(affected)
    }

    /// The row says that nothing of it may run, and `settle` stops the container once the engine answers: the order is accepted, and the
    /// answer says that it is not carried out yet.
    pub(super) async fn accepted(&self, id: WorkspaceId, error: &EngineError) -> OpResult<OpResult<Applied>> {
        let row = self.0.row(id).await?;
        if !row.status.forbids_running() {
            return Ok(Err(error.clone().into()));
        }
        let told = serde_json::json!({ "container": row.container, "error": error.to_string() });
        self.0.store.tell(self.0.clock.now(), EventKind::StopFailed, Some(id), told, None).await?;
        let said =
            format!("its container will be stopped when Podman is back. It gives no answer now ({error})");
        Ok(Ok(Applied::Done(said)))
    }

    fn submit_stop(&self, id: WorkspaceId) -> tokio::sync::oneshot::Receiver<OpResult<Applied>> {
        self.submit(id, Order::Stop { swept: None })
    }

    /// Pauses as [`Ops::pause`] does; answers for the workspace itself.
    ///
    /// # Errors
    /// When it cannot be paused, or its container was not seen stopped.
    pub async fn stop(&self, id: WorkspaceId) -> OpResult<Applied> {
        own(self.pause(id).await?, id)
    }

    /// Resumes, or starts, a workspace and whatever was paused along with it.
    ///
    /// # Errors
    /// When it is below a paused one, or cannot be started at all. What came of each is in the answer.
    pub fn resume(
        &self,
        id: WorkspaceId,
        new_volume: bool,
    ) -> impl Future<Output = OpResult<Vec<Affected>>> + Send + use<> {
        self.bring_up(id, Up::Start { new_volume })
    }

    /// Starts, restarts or recreates a workspace, and starts what was paused along with it: whichever order brings it
    /// up, nothing that was stopped with it stays behind. That includes workspaces whose own start failed, or was cut off
    /// by a crash, when it was resumed before.
    ///
    /// # Errors
    /// When it is below a paused one, or cannot be started at all. What came of each is in the answer.
    pub fn bring_up(
        &self,
        id: WorkspaceId,
        how: Up,
    ) -> impl Future<Output = OpResult<Vec<Affected>>> + Send + use<> {
        // Before anything is waited for: whoever tells that the order is accepted has called this, and messages that
        // come after that wait for it.
        let accepted = self.0.accepted_starts.add(id);
        let ops = self.clone();
        async move { ops.bring_up_now(id, how, accepted).await }
    }

    async fn bring_up_now(
        &self,
        id: WorkspaceId,
        how: Up,
        accepted: AcceptedStart,
    ) -> OpResult<Vec<Affected>> {
        let (row, order) = self.start_by_person(id).await?;
        self.refuse_below_paused(&row).await?;
        let along = self.0.store.paused_along_with(id).await?;
        // Each for itself from here on: whose start is over is not waited for because of another's.
        let along: Vec<_> = along.into_iter().map(|row| (self.0.accepted_starts.add(row.id), row)).collect();
        let own = match how {
            Up::Start { new_volume } => StartOrder { new_volume, ..order.clone() },
            Up::Restart => StartOrder { even_if_running: true, ..order.clone() },
            Up::Recreate => StartOrder { even_if_running: true, new_container: true, ..order.clone() },
        };
        let mut affected = vec![Affected { id, result: self.resume_one(&row, own).await }];
        drop(accepted);
        // One after the other, parents first: a child is not started below one that is paused.
        for (accepted, row) in along {
            affected
                .push(Affected { id: row.id, result: self.resume_along(row.id, id, order.clone()).await });
            drop(accepted);
        }
        Ok(affected)
    }

    /// Starts as [`Ops::resume`] does; answers for the workspace itself.
    ///
    /// # Errors
    /// When it cannot be started; says why and what to do.
    pub async fn start(&self, id: WorkspaceId, new_volume: bool) -> OpResult<Applied> {
        own(self.resume(id, new_volume).await?, id)
    }

    /// Resumes what was paused along with another, unless something has become of it by itself meanwhile.
    async fn resume_along(&self, id: WorkspaceId, with: WorkspaceId, order: StartOrder) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        match (row.status, row.paused_with) {
            (Status::Paused, Some(paused_with)) if paused_with == with => {}
            (Status::Paused, _) => {
                return Ok(Applied::Raced("it was stopped separately meanwhile, so it stays paused".into()));
            }
            (status, _) => return Ok(Applied::Raced(format!("it is {status} meanwhile"))),
        }
        self.resume_one(&row, order).await
    }

    async fn resume_one(&self, row: &Workspace, order: StartOrder) -> OpResult<Applied> {
        match row.kind {
            Kind::Container => self.order_start(row.id, order).await,
            Kind::External if row.status == Status::Paused => {
                let change = StatusChange {
                    workspace: row.id,
                    cause: Cause::AwaitAgain,
                    incarnation: None,
                    detail: None,
                    told: serde_json::json!({ "name": row.name, "resumed": true }),
                    at: self.0.clock.now(),
                };
                let unless = Unless::UndeletedAfter(order.said_after.unwrap_or(i64::MAX));
                Ok(if self.0.store.change_status_unless(change, unless).await? {
                    Applied::Done("waiting for its agent".into())
                } else {
                    Applied::Raced("its status changed meanwhile".into())
                })
            }
            Kind::External => Err(OpError::Conflict(row.runs_elsewhere("and is started there"))),
        }
    }

    pub(super) async fn refuse_below_paused(&self, row: &Workspace) -> OpResult<()> {
        let Some(parent) = row.parent else { return Ok(()) };
        match self.0.store.paused_above(parent).await? {
            Some(paused) => Err(below_paused(&paused)),
            None => Ok(()),
        }
    }
}

/// The protocol's words (§5).
pub(super) fn below_paused(parent: &WorkspaceName) -> OpError {
    OpError::Conflict(format!("parent workspace \"{parent}\" is paused — resume it first"))
}

pub(super) fn own(affected: Vec<Affected>, id: WorkspaceId) -> OpResult<Applied> {
    let own = affected.into_iter().find(|affected| affected.id == id);
    own.map_or_else(|| Err(OpError::NotFound("workspace not found".into())), |affected| affected.result)
}
