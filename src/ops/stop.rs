//! Stop: the row becomes paused first; then the container is stopped and verified.

use serde_json::json;

use super::{Applied, Inner, OpResult, Ops, actor::Phase};
use crate::{
    domain::{
        event::EventKind,
        ids::{ContainerId, WorkspaceId},
        naming::{LABEL_WORKSPACE, Owner, container_owner, is_labelled_as},
        workspace::Workspace,
    },
    engine::{EngineError, EngineResult, ErrorKind},
    testing::{
        crash_point,
        mutation::{Mutation, is},
    },
};

impl Ops {
    pub(super) async fn stop_now(
        &self,
        id: WorkspaceId,
        swept: Option<(&'static str, String)>,
        phase: &Phase,
    ) -> OpResult<Applied> {
        phase.report("stop: stopping its container");
        let row = self.0.row(id).await?;
        // A start that was decided before the stop is abandoned by its transaction. If the row allows that its container
        // runs, it was started on a later order.
        if !row.status.forbids_running() {
            return Ok(Applied::Raced(format!("it is {} now", row.status)));
        }
        // A different engine has none of the containers, which would look like success.
        self.0.recognise_engine().await?;
        self.stop_containers_of(&row).await?;
        if let Some((pass, evidence)) = swept {
            let payload = json!({ "evidence": evidence, "container": row.container, "pass": pass });
            let (at, counted) = (self.0.clock.now(), is(Mutation::StopsAreDestructive).then_some(pass));
            self.0.store.emit(at, EventKind::ContainerStopped, Some(id), payload, counted).await?;
        }
        Ok(Applied::Done("its container is stopped".into()))
    }

    /// Stops the containers that a removal had not stopped yet when it was undone.
    pub(super) async fn stop_undeleted_now(&self, id: WorkspaceId, phase: &Phase) -> OpResult<Applied> {
        phase.report("undelete: stopping its container");
        let row = self.0.row(id).await?;
        if !row.status.forbids_running() {
            return Ok(Applied::Raced(format!("it is {} now", row.status)));
        }
        self.0.recognise_engine().await?;
        self.stop_containers_of(&row).await?;
        Ok(Applied::Done("its container is stopped".into()))
    }

    /// Stops every container of a row and verifies it. A failure is also reported by a `StopFailed` event.
    pub(super) async fn stop_containers_of(&self, row: &Workspace) -> OpResult<()> {
        let grace = self.0.stop_grace(row);
        for container in self.0.containers_of(row).await? {
            if let Err(error) = self.0.stop_and_verify(&container, grace).await {
                let payload = json!({ "container": container, "error": error.to_string() });
                self.0
                    .store
                    .emit(self.0.clock.now(), EventKind::StopFailed, Some(row.id), payload, None)
                    .await?;
                return Err(error.into());
            }
        }
        // A different engine has none of the containers, which looks like success, and the socket may lead to one since
        // the first check.
        self.0.recognise_engine().await?;
        Ok(())
    }
}

impl Inner {
    pub(super) fn stop_grace(&self, row: &Workspace) -> std::time::Duration {
        self.settings()
            .runtimes
            .get(&row.spec.runtime)
            .map_or(std::time::Duration::from_secs(10), |runtime| runtime.stop_grace)
    }

    /// Stops a container and verifies its state. A successful answer does not prove that the container is stopped,
    /// because another process may have started it again.
    pub(super) async fn stop_and_verify(
        &self,
        container: &ContainerId,
        grace: std::time::Duration,
    ) -> EngineResult<()> {
        crash_point::before("stop: stop a container");
        self.engine.stop_container(container, grace).await?;
        crash_point::after("stop: stop a container");
        match self.engine.inspect_container(container).await {
            Ok(seen) if seen.state.may_run() => Err(EngineError::new(
                ErrorKind::Other,
                format!("stop container {}", container.short()),
                "it still runs after the stop",
            )),
            Ok(_) => Ok(()),
            Err(error) if error.kind == ErrorKind::Absent => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The containers of a workspace: all listed ones whose labels and name belong to it, and the container in its row.
    /// The row's container is also inspected by its id, because it may have another name, and because a listing may be
    /// incomplete or older than the container.
    pub(super) async fn containers_of(&self, row: &Workspace) -> OpResult<Vec<ContainerId>> {
        let listed = self.engine.list_containers(LABEL_WORKSPACE, Some(&row.id.to_string())).await?;
        let ours = listed.into_iter().filter(|container| {
            match container_owner(self.settings().instance, &container.name, &container.labels) {
                Owner::Workspace(workspace, _) => workspace == row.id,
                // A container in the trash is stopped already, except one that is being restored.
                Owner::Trash(..) => row.container.as_ref() == Some(&container.id),
                Owner::Foreign | Owner::Unrelated => false,
            }
        });
        let mut ours: Vec<_> = ours.map(|container| container.id).collect();
        if let Some(own) =
            row.container.as_ref().filter(|own| !ours.contains(*own) && !is(Mutation::NamesAreProof))
        {
            match self.engine.inspect_container(own).await {
                Ok(seen) if is_labelled_as(self.settings().instance, row.id, &seen.labels) => {
                    ours.push(seen.id);
                }
                Ok(_) => {}
                Err(error) if error.kind == ErrorKind::Absent => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ours)
    }
}
