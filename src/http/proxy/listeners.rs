//! Remembers which containers' agents are known to listen.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

use crate::domain::ids::{Incarnation, WorkspaceId};

/// Containers whose agent is known to listen.
///
/// Needed for rootless Podman, which forwards ports in user space: it accepts every connection and closes it if the
/// agent does not listen, so a successful connect proves nothing.
#[derive(Default)]
pub(in crate::http) struct Listeners {
    /// Whether ports are forwarded in user space. Requested from the engine once, if no other component has done so.
    pub(super) in_user_space: OnceCell<bool>,
    known: Mutex<HashMap<WorkspaceId, Incarnation>>,
}

impl Listeners {
    pub(super) fn unproven(&self, id: WorkspaceId) {
        self.lock().remove(&id);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<WorkspaceId, Incarnation>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
