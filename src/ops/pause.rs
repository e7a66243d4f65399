//! Pause and resume a workspace and everything below it.
//!
//! If a workspace is paused along with a workspace above it, its row records the id of that workspace, and both are
//! resumed together. A workspace that an operator paused separately stays paused when its parent is resumed.

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
    store::{PauseResult, Precondition, StatusChange},
};

/// The result of an order for one of the workspaces that it affects.
#[derive(Clone, Debug)]
pub struct Affected {
    /// The workspace.
    pub id: WorkspaceId,
    /// Its result.
    pub result: OpResult<Applied>,
}

/// How an operator's order starts a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up {
    /// Start it unless it runs.
    Start {
        /// Whether a new, empty work volume may replace a missing one.
        new_volume: bool,
    },
    /// Stop it, if it runs, and start it again in its container.
    Restart,
    /// Start it in a new container.
    Recreate,
}

impl Ops {
    /// Pauses a workspace and everything below it, and stops their containers. Succeeds if it is paused already.
    ///
    /// # Errors
    /// If nothing could be paused. The answer contains the result of each stop: if one failed, the row is paused
    /// anyway, and `settle` repeats the stop.
    pub async fn pause(&self, id: WorkspaceId) -> OpResult<Vec<Affected>> {
        let accepted = self.0.accepted_starts.so_far();
        let paused = match self.0.store.pause_workspace(id, self.0.clock.now()).await? {
            PauseResult::Paused(paused) => paused,
            PauseResult::BelowPaused(parent) => return Err(below_paused(&parent)),
            PauseResult::NotThere => return Err(OpError::NotFound("workspace not found".into())),
        };
        self.0.accepted_starts.overrule(paused.iter().copied().chain([id]), accepted);
        // Children first: no container may keep running below a stopped workspace. All stops are submitted before the
        // first is awaited, because each may take its whole grace period. There is no await between the submissions,
        // because a later order must be queued behind all of them.
        let stops: Vec<_> = paused
            .into_iter()
            .rev()
            .map(|id| {
                // An external workspace has no container to stop. Resuming an external workspace does not wait for
                // queued orders, so a stop order could be carried out after it and pause the workspace again.
                let is_external = self.0.store.member(id).is_some_and(|member| member.kind == Kind::External);
                (id, (!is_external).then(|| self.submit_stop(id)))
            })
            .collect();
        self.report_queued();
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

    /// The result of a stop that got no answer from the engine. If the row forbids that its containers run, `settle`
    /// stops them once the engine answers. The order then counts as accepted, and the result says that the container is
    /// not stopped yet.
    pub(super) async fn accepted(&self, id: WorkspaceId, error: &EngineError) -> OpResult<OpResult<Applied>> {
        let row = self.0.row(id).await?;
        if !row.status.forbids_running() {
            return Ok(Err(error.clone().into()));
        }
        let payload = serde_json::json!({ "container": row.container, "error": error.to_string() });
        self.0.store.emit(self.0.clock.now(), EventKind::StopFailed, Some(id), payload, None).await?;
        let detail = format!(
            "its container will be stopped when Podman answers. Podman does not answer now ({error})"
        );
        Ok(Ok(Applied::Done(detail)))
    }

    fn submit_stop(&self, id: WorkspaceId) -> tokio::sync::oneshot::Receiver<OpResult<Applied>> {
        self.submit(id, Order::Stop { swept: None })
    }

    /// Same as [`Ops::pause`], but returns only the result of the workspace itself.
    ///
    /// # Errors
    /// If it cannot be paused, or its container could not be verified as stopped.
    pub async fn stop(&self, id: WorkspaceId) -> OpResult<Applied> {
        own(self.pause(id).await?, id)
    }

    /// Resumes or starts a workspace, and everything that was paused along with it.
    ///
    /// # Errors
    /// If it is below a paused workspace, or cannot be started. The answer contains the result of each workspace.
    pub fn resume(
        &self,
        id: WorkspaceId,
        new_volume: bool,
    ) -> impl Future<Output = OpResult<Vec<Affected>>> + Send + use<> {
        self.bring_up(id, Up::Start { new_volume })
    }

    /// Starts, restarts or recreates a workspace, and starts everything that was paused along with it. That includes
    /// workspaces whose own start failed, or was interrupted by a crash, in an earlier resume.
    ///
    /// # Errors
    /// If it is below a paused workspace, or cannot be started. The answer contains the result of each workspace.
    pub fn bring_up(
        &self,
        id: WorkspaceId,
        how: Up,
    ) -> impl Future<Output = OpResult<Vec<Affected>>> + Send + use<> {
        // Before the first await: the caller reports the order as accepted after this call, and messages that arrive
        // later must wait for the start.
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
        let (row, order) = self.start_by_operator(id).await?;
        self.refuse_below_paused(&row).await?;
        let along = self.0.store.paused_along_with(id).await?;
        // From here on each workspace has its own entry, so that a message to one workspace does not wait for the start
        // of another.
        let along: Vec<_> = along.into_iter().map(|row| (self.0.accepted_starts.add(row.id), row)).collect();
        let overruled = || Ok(Applied::Raced("it was stopped meanwhile".into()));
        if accepted.is_overruled() {
            return Ok(vec![Affected { id, result: overruled() }]);
        }
        let own = match how {
            Up::Start { new_volume } => StartOrder { new_volume, ..order.clone() },
            Up::Restart => StartOrder { even_if_running: true, ..order.clone() },
            Up::Recreate => StartOrder { even_if_running: true, new_container: true, ..order.clone() },
        };
        let mut affected = vec![Affected { id, result: self.resume_one(&row, own).await }];
        drop(accepted);
        // One after the other, parents first: a child is not started below a paused parent.
        for (accepted, row) in along {
            let result = if accepted.is_overruled() {
                overruled()
            } else {
                self.resume_descendant(row.id, id, order.clone()).await
            };
            affected.push(Affected { id: row.id, result });
            drop(accepted);
        }
        Ok(affected)
    }

    /// Same as [`Ops::resume`], but returns only the result of the workspace itself.
    ///
    /// # Errors
    /// If it cannot be started; the error gives the reason and what to do.
    pub async fn start(&self, id: WorkspaceId, new_volume: bool) -> OpResult<Applied> {
        own(self.resume(id, new_volume).await?, id)
    }

    /// Resumes a workspace that was paused along with another one, unless its status was changed separately meanwhile.
    async fn resume_descendant(
        &self,
        id: WorkspaceId,
        with: WorkspaceId,
        order: StartOrder,
    ) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        match (row.status, row.paused_with) {
            (Status::Paused, Some(paused_with)) if paused_with == with => {}
            (Status::Paused, _) => {
                return Ok(Applied::Raced("it was stopped separately meanwhile, so it stays paused".into()));
            }
            (status, _) => return Ok(Applied::Raced(format!("it is {status} now"))),
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
                    payload: serde_json::json!({ "name": row.name, "resumed": true }),
                    at: self.0.clock.now(),
                };
                let precondition = Precondition::UndeletedAfter(order.decided_after.unwrap_or(i64::MAX));
                Ok(if self.0.store.change_status_under(change, precondition).await? {
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

/// The message that the wire protocol specifies (§5).
pub(super) fn below_paused(parent: &WorkspaceName) -> OpError {
    OpError::Conflict(format!("parent workspace \"{parent}\" is paused — resume it first"))
}

pub(super) fn own(affected: Vec<Affected>, id: WorkspaceId) -> OpResult<Applied> {
    let own = affected.into_iter().find(|affected| affected.id == id);
    own.map_or_else(|| Err(OpError::NotFound("workspace not found".into())), |affected| affected.result)
}
