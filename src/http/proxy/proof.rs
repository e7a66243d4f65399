//! Decides whether an agent must prove that it listens, and records the proof.

use super::listeners::Listeners;
use crate::{
    domain::ids::{Incarnation, WorkspaceId},
    http::state::Api,
};

impl Listeners {
    pub(super) async fn needs_proof(&self, api: &Api, id: WorkspaceId, incarnation: Incarnation) -> bool {
        let asked = async || {
            let described = api.ask_engine(api.0.engine.describe()).await;
            described.and_then(Result::ok).map(|engine| engine.rootless).ok_or(())
        };
        let in_user_space = match api.0.ops.gateways().is_rootless() {
            Some(rootless) => rootless,
            // If the engine does not respond, a proof is required. This costs only one additional request.
            None => self.in_user_space.get_or_try_init(asked).await.copied().unwrap_or(true),
        };
        in_user_space && self.lock().get(&id) != Some(&incarnation)
    }

    pub(super) fn proven(&self, api: &Api, id: WorkspaceId, incarnation: Incarnation) {
        let mut known = self.lock();
        known.retain(|id, _| api.0.store.member(*id).is_some());
        known.insert(id, incarnation);
    }
}
