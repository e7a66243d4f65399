//! Permanent deletion of trash entries. An entry is claimed first. Nothing is deleted by force or while it is in use.

use super::{Applied, OpError, OpResult, Ops, Order, Ticket, actor::Phase, pause::own};
use crate::{
    domain::{
        ids::{TrashId, WorkspaceId},
        operation::{Command, Requester},
        trash::TrashState,
    },
    engine::ErrorKind,
    store::{DeleteGuard, NewOperation},
    testing::{
        crash_point,
        mutation::{Mutation, is},
    },
};

impl Ops {
    /// Permanently deletes a trash entry by order of an operator.
    ///
    /// # Errors
    /// If there is no such entry, or if its container or a volume is in use.
    pub async fn delete(&self, entry: TrashId) -> OpResult<Applied> {
        let (workspace, ticket) = self.delete_for(entry, Requester::Operator).await?;
        own(ticket.ended().await?, workspace)
    }

    /// Accepts the deletion of a trash entry by order of `by`. Returns its workspace, too.
    ///
    /// # Errors
    /// If there is no such entry.
    pub async fn delete_for(&self, entry: TrashId, by: Requester) -> OpResult<(WorkspaceId, Ticket)> {
        let found = self.0.store.trash_entry(entry).await?;
        let none = "there is no such trash entry; `ostler trash ls` lists the entries";
        let found = found.ok_or_else(|| OpError::NotFound(none.into()))?;
        let new = NewOperation {
            fallback_name: found.workspace_name,
            ..by.orders(found.workspace, Command::Delete { entry })
        };
        Ok((found.workspace, self.accept(new).await?))
    }

    pub(super) async fn delete_for_operator(&self, id: WorkspaceId, entry: TrashId) -> OpResult<Applied> {
        self.order(id, Order::Delete { entry, guard: DeleteGuard::Named, swept_by: None }).await
    }

    pub(super) async fn delete_now(
        &self,
        entry: TrashId,
        guard: DeleteGuard,
        swept_by: Option<&'static str>,
        phase: &Phase,
    ) -> OpResult<Applied> {
        phase.report("trash: deleting permanently");
        self.0.recognise_engine().await?;
        let at = self.0.clock.now();
        let claimed = self.0.store.begin_delete(entry, guard, swept_by, at).await?;
        let Some(found) = self.0.store.trash_entry(entry).await? else {
            return Ok(Applied::Raced("the entry no longer exists".into()));
        };
        if !claimed && found.state != TrashState::Deleting {
            return Ok(Applied::Raced(
                "the entry cannot be deleted: it is being moved or restored, or a live workspace needs it"
                    .into(),
            ));
        }
        if let Some(container) = &found.contents.container {
            crash_point::before("delete: delete a container");
            match self.0.engine.delete_container(&container.id).await {
                Ok(()) => crash_point::after("delete: delete a container"),
                Err(error) if error.kind == ErrorKind::Conflict => {
                    return self.in_use(entry, &error.message).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        for volume in &found.contents.volumes {
            crash_point::before("delete: delete a volume");
            match self.0.engine.delete_volume(volume).await {
                Ok(()) => crash_point::after("delete: delete a volume"),
                Err(error) if error.kind == ErrorKind::Conflict => {
                    return self.in_use(entry, &error.message).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        // A different engine may have answered that the objects do not exist. In that case the entry stays claimed, and
        // a later order finishes the deletion.
        if !is(Mutation::BelieveAnyEngine) {
            self.0.recognise_engine().await?;
        }
        self.0.store.finish_delete(entry, self.0.clock.now()).await?;
        Ok(Applied::Done("permanently deleted".into()))
    }

    /// Keeps an entry whose container or volume is in use.
    async fn in_use(&self, entry: TrashId, message: &str) -> OpResult<Applied> {
        self.0.store.cancel_transition(entry).await?;
        Err(OpError::Conflict(format!("it is in use and was kept: {message}")))
    }
}
