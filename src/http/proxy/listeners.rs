//! Remembers which containers' agents are known to listen.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

use crate::{
    domain::ids::{Incarnation, WorkspaceId},
    http::Api,
};

/// Containers whose agent is known to listen.
///
/// Needed for rootless Podman, which forwards ports in user space: it accepts every connection and closes it if the
/// agent does not listen, so a successful connect proves nothing.
#[derive(Default)]
pub(in crate::http) struct Listeners {
    /// Whether ports are forwarded in user space. Requested from the engine once, if no other component has done so.
    in_user_space: OnceCell<bool>,
    known: Mutex<HashMap<WorkspaceId, Incarnation>>,
}

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

    pub(super) fn unproven(&self, id: WorkspaceId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WorkspaceId, Incarnation>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
