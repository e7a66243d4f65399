//! Restoring from the trash: the container gets its old name back, then the entry is deleted.

use super::{AdoptRequest, Affected, Applied, OpError, OpResult, Ops, Ticket, actor::Phase};
use crate::{
    domain::{
        ids::{TrashId, WorkspaceId},
        operation::Requester,
        status::Status,
        trash::{TrashReason, TrashState},
    },
    engine::ErrorKind,
    testing::{
        crash_point,
        mutation::{Mutation, is},
    },
};

impl Ops {
    /// Restores a trash entry: a removed workspace is undeleted; an unknown container and its volumes are adopted.
    ///
    /// # Errors
    /// If the entry is gone or is being deleted, or if its workspace has another container by now.
    pub async fn restore(&self, entry: TrashId) -> OpResult<Applied> {
        let (workspace, ticket) = self.restore_for(entry, Requester::Operator).await?;
        self.restored(workspace, ticket).await
    }

    /// Accepts the restore of a trash entry by order of `by`. Returns its workspace, too.
    ///
    /// # Errors
    /// As for [`Ops::restore`].
    pub async fn restore_for(&self, entry: TrashId, by: Requester) -> OpResult<(WorkspaceId, Ticket)> {
        let gone =
            || OpError::NotFound("there is no such trash entry; `ostler trash ls` lists the entries".into());
        let found = self.0.store.trash_entry(entry).await?.ok_or_else(gone)?;
        if found.state == TrashState::Deleting {
            return Err(OpError::Conflict("it is being permanently deleted and cannot be restored".into()));
        }
        match found.reason {
            TrashReason::Removed => {
                let ticket = self.accept_undelete(found.workspace, None, false, by).await?;
                Ok((found.workspace, ticket))
            }
            TrashReason::Unknown => {
                let (store, now) = (self.0.store.clone(), self.0.clock.now());
                let transaction = async move { store.accept_restore(entry, Some(by), now).await };
                let (_is_restoring, ticket) = self.accepting(transaction).await?;
                Ok((found.workspace, ticket.ok_or_else(gone)?))
            }
            TrashReason::Stray | TrashReason::Replaced => Err(OpError::Conflict(format!(
                "workspace `{}` has another container now, so this one cannot be restored. It is kept, stopped, as \
                 `{}` until {}: copy what you need with `podman cp`",
                found.workspace_name,
                crate::domain::naming::trash_name(entry),
                found.keep_until
            ))),
        }
    }

    /// Waits for a restore, and describes the results for all workspaces of the removal that it undoes.
    ///
    /// # Errors
    /// If it could not be carried out.
    pub async fn restored(&self, id: WorkspaceId, ticket: Ticket) -> OpResult<Applied> {
        let affected = ticket.ended().await?;
        let (own, along): (Vec<_>, Vec<_>) = affected.into_iter().partition(|affected| affected.id == id);
        let own = own.into_iter().next().map_or_else(|| Err(super::not_found()), |own| own.result)?;
        let Applied::Done(summary) = own else { return Ok(own) };
        let mut summaries = vec![summary];
        for Affected { id, result } in along {
            let name = self.0.row(id).await?.name;
            let what = match result {
                Ok(Applied::Done(summary) | Applied::Raced(summary) | Applied::Accepted(summary)) => summary,
                Err(error) => error.to_string(),
            };
            summaries.push(format!("{name}: {what}"));
        }
        Ok(Applied::Done(summaries.join("; ")))
    }

    pub(super) async fn restore_now(
        &self,
        id: WorkspaceId,
        entry: TrashId,
        phase: &Phase,
    ) -> OpResult<Applied> {
        phase.report("trash: restoring its container and volumes");
        let Some(found) = self.0.store.trash_entry(entry).await?.filter(|e| e.state == TrashState::Restoring)
        else {
            return Ok(Applied::Raced("the entry is no longer being restored".into()));
        };
        self.0.recognise_engine().await?;
        let row = self.0.store.workspace(id).await?;
        if row.as_ref().is_none_or(|row| row.status == Status::Removed)
            && found.reason == TrashReason::Unknown
        {
            // Adopted before the container is renamed: if the adoption fails, there is no row for the container, and it
            // stays in the trash.
            self.adopt_restored(&found).await?;
        }
        if let Some(container) = &found.contents.container {
            crash_point::before("restore: rename a container");
            match self.0.engine.rename_container(&container.id, &container.name).await {
                Ok(()) => crash_point::after("restore: rename a container"),
                // A different engine would also answer that the container is absent, so the engine is checked. Without
                // the check, the entry would be finished while the container in the accepted engine kept its trash
                // name, and no listing would attribute the container to its workspace.
                Err(error) if error.kind == ErrorKind::Absent => {
                    self.0.recognise_engine().await?;
                }
                // An earlier rename may have succeeded although it was reported as failed. Or another container has the
                // name by now, which is allowed because the row identifies its container by id.
                Err(error) => match self.0.engine.inspect_container(&container.id).await {
                    Ok(seen) if seen.name == container.name || error.kind == ErrorKind::Conflict => {}
                    _ => return Err(error.into()),
                },
            }
        }
        self.0.store.finish_restore(entry, self.0.clock.now()).await?;
        Ok(Applied::Done("restored and paused: `ostler start` starts it".into()))
    }

    async fn adopt_restored(&self, entry: &crate::domain::trash::TrashEntry) -> OpResult<()> {
        let request =
            AdoptRequest { workspace: entry.workspace, contents: entry.contents.clone(), known: None };
        let adopted = self.adopt_contents(&request, "restored from the trash").await;
        // The restore is cancelled, because every repeated attempt would fail in the same way.
        if let Err(OpError::Conflict(_) | OpError::Invalid(_)) = adopted
            && !is(Mutation::RestoreForever)
        {
            self.0.store.cancel_transition(entry.id).await?;
        }
        adopted.map(drop)
    }
}
