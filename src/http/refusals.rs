//! Requests of known workspaces that were refused, counted until one succeeds.
//!
//! A runtime never looks at the status of an answer, so an agent whose requests are refused goes silent without a
//! trace. After a few refusals in a row the history of its workspace says so, once.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::Api;
use crate::domain::ids::WorkspaceId;

/// From so many refusals in a row on they are worth an event: one may be an accident.
const TOLD_AFTER: u32 = 3;
/// The most workspaces that are counted. Each had a token once, so there are never many.
const COUNTED_MAX: usize = 10_000;

/// How many requests of each workspace were refused since the last that succeeded.
#[derive(Default)]
pub(super) struct Refusals {
    counts: Mutex<HashMap<WorkspaceId, u32>>,
    /// How many there are, so that a heartbeat takes the lock only when there is something to forget.
    held: AtomicUsize,
}

impl Refusals {
    /// Counts a refusal; whether it is the one to report.
    fn count(&self, workspace: WorkspaceId) -> bool {
        // Numbers only: a panic elsewhere cannot have left them half written.
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= COUNTED_MAX && !counts.contains_key(&workspace) {
            counts.clear();
        }
        let count = counts.entry(workspace).or_default();
        *count = count.saturating_add(1);
        let told = *count == TOLD_AFTER;
        self.held.store(counts.len(), Ordering::Relaxed);
        told
    }

    /// A request of this workspace has succeeded.
    pub(super) fn forget(&self, workspace: WorkspaceId) {
        if self.held.load(Ordering::Relaxed) > 0 {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.remove(&workspace);
            self.held.store(counts.len(), Ordering::Relaxed);
        }
    }
}

impl Api {
    /// Counts a refused request of a workspace, and reports the third in a row.
    pub(super) fn note_refused(&self, workspace: WorkspaceId, request: &'static str, reason: &'static str) {
        if !self.0.refusals.count(workspace) {
            return;
        }
        let (store, now) = (self.0.store.clone(), self.0.clock.now());
        self.0.spawn.spawn(Box::pin(async move {
            if let Err(error) = store.note_refused_requests(workspace, request, reason, now).await {
                tracing::warn!(%workspace, %error, "refused requests are not recorded");
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_third_refusal_in_a_row_is_reported_once() {
        let refusals = Refusals::default();
        let id = WorkspaceId(Uuid::from_u128(1));
        let told: Vec<bool> = (0..10).map(|_| refusals.count(id)).collect();
        assert_eq!(told.iter().filter(|told| **told).count(), 1, "{told:?}");
        assert!(told[2], "{told:?}");
        refusals.forget(id);
        assert!(!refusals.count(id), "it begins again after a success");
    }

    #[test]
    fn the_table_of_refusals_is_bounded() {
        let refusals = Refusals::default();
        for number in 0..(COUNTED_MAX as u128 * 2 + 5) {
            refusals.count(WorkspaceId(Uuid::from_u128(number)));
        }
        assert!(refusals.counts.lock().unwrap().len() <= COUNTED_MAX);
    }
}
