//! Recognising the accepted engine: by its sentinel, or by containers whose ids the registry knows.

use async_trait::async_trait;

use super::{Inner, OpResult, Ops};
use crate::{
    domain::{
        ids::{ContainerId, WorkspaceId},
        naming::LABEL_WORKSPACE,
        observed::ObservedContainer,
    },
    engine::{
        EngineError, ErrorKind, InspectedContainer,
        trusted::{self, Evidence, Untrusted},
    },
    store::Store,
};

/// Evidence from the registry that an engine is the accepted one.
pub struct OwnContainers<'a>(pub &'a Store);

#[async_trait]
impl Evidence for OwnContainers<'_> {
    async fn knows_one_of(&self, containers: &[ObservedContainer]) -> Result<bool, String> {
        let named = |container: &ObservedContainer| -> Option<WorkspaceId> {
            container.labels.get(LABEL_WORKSPACE)?.parse().ok()
        };
        let workspaces: Vec<_> = containers.iter().filter_map(named).collect();
        if workspaces.is_empty() {
            return Ok(false);
        }
        let rows = self.0.sweep_rows(workspaces.clone()).await.map_err(|error| error.to_string())?;
        let entries = self.0.trash_of(workspaces).await.map_err(|error| error.to_string())?;
        Ok(containers.iter().any(|container| {
            let is_it = |id: &_| *id == container.id;
            rows.iter().any(|row| row.container.as_ref().is_some_and(is_it))
                || entries
                    .iter()
                    .any(|entry| entry.contents.container.as_ref().is_some_and(|held| is_it(&held.id)))
        }))
    }
}

impl Inner {
    /// Checks that the engine is the accepted one.
    pub(super) async fn recognise_engine(&self) -> Result<(), Untrusted> {
        trusted::recognise(&*self.engine, self.settings().instance, &OwnContainers(&self.store)).await
    }

    /// A container in the accepted engine; `None` if that engine does not know it.
    ///
    /// A different engine also answers that the container is absent, and the socket may lead back to the accepted
    /// engine before the engine is checked. The absence is therefore observed again after the first check, and the
    /// engine is then checked a second time, as in a [`trusted::snapshot`].
    pub(super) async fn find_container(&self, id: &ContainerId) -> OpResult<Option<InspectedContainer>> {
        match self.engine.inspect_container(id).await {
            Err(error) if error.kind == ErrorKind::Absent => {}
            other => return Ok(Some(other?)),
        }
        self.recognise_engine().await?;
        match self.engine.inspect_container(id).await {
            Err(error) if error.kind == ErrorKind::Absent => {}
            other => return Ok(Some(other?)),
        }
        self.recognise_engine().await?;
        Ok(None)
    }
}

impl Ops {
    /// Returns an error if the engine answers and is not the accepted one. The action would wait without end, because
    /// only an operator can accept an engine. Rejected: accepting the engine automatically if the registry owns
    /// nothing, because the socket may lead to another user's engine at that moment, and the workspace would then exist
    /// there. If the engine gives no answer, the action can wait, and the engine's error is returned as `Some`.
    pub(super) async fn refuse_another_engine(&self) -> OpResult<Option<EngineError>> {
        let registry = self.0.store.registry().await?;
        if registry.is_some_and(|registry| registry.engine_accepted_at.is_some()) {
            match self.0.recognise_engine().await {
                Err(error @ Untrusted::SentinelMissing(_)) => return Err(error.into()),
                Err(Untrusted::NoAnswer(error)) => return Ok(Some(error)),
                Ok(()) | Err(Untrusted::RegistryFailed(_)) => return Ok(None),
            }
        }
        Ok(self.0.engine.describe().await.err().filter(EngineError::gave_no_answer))
    }
}
