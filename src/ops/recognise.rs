//! Recognising the engine that was accepted: by its sentinel, or by containers that the registry knows by their ids.

use async_trait::async_trait;

use super::{Inner, OpResult, Ops};
use crate::{
    domain::{ids::WorkspaceId, naming::LABEL_WORKSPACE, observed::ObservedContainer},
    engine::trusted::{self, Evidence, Untrusted},
    store::Store,
};

/// The registry as evidence of its engine.
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
        let rows = self.0.known_rows(workspaces.clone()).await.map_err(|error| error.to_string())?;
        let entries = self.0.trash_of(workspaces).await.map_err(|error| error.to_string())?;
        Ok(containers.iter().any(|container| {
            let is_it = |id: &_| *id == container.id;
            rows.iter().any(|row| row.container.as_ref().is_some_and(is_it))
                || entries
                    .iter()
                    .any(|entry| entry.things.container.as_ref().is_some_and(|held| is_it(&held.id)))
        }))
    }
}

impl Inner {
    /// Whether the engine is the one that was accepted.
    pub(super) async fn recognise_engine(&self) -> Result<(), Untrusted> {
        trusted::recognise(&*self.engine, self.settings.instance, &OwnContainers(&self.store)).await
    }
}

impl Ops {
    /// Makes the sentinel again where it is gone and the registry owns nothing in any engine: nothing can be mistaken
    /// then, and a first creation would wait for ever.
    pub(super) async fn accept_engine_if_nothing_is_owned(&self) -> OpResult<()> {
        let accepted = self.0.store.registry().await?.is_some_and(|registry| {
            registry.engine_accepted_at.is_some() && registry.recovering_since.is_none()
        });
        if accepted && self.0.store.owns_nothing().await? {
            // Where the engine gives no answer, the start of what is created says so.
            if let Ok(false) = trusted::has_sentinel(&*self.0.engine, self.0.settings.instance).await {
                self.accept_engine().await?;
            }
        }
        Ok(())
    }
}
