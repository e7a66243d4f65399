//! Counts the consecutive refused requests of each known workspace.
//!
//! Runtimes ignore the status of a response. So an agent whose requests are refused would seem to send nothing, and no
//! record would show the reason. After several consecutive refusals, one event is stored in the history of its
//! workspace.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::domain::ids::WorkspaceId;

/// Number of consecutive refusals that causes the event. A single refusal may be accidental.
const REPORTED_AFTER: u32 = 3;
/// The most workspaces with a count. Beyond this, all counts are dropped. The number stays far below it, because only
/// workspaces that have or had a token are counted.
const COUNTED_MAX: usize = 10_000;

/// For each workspace, the number of refused requests since the last one that succeeded.
#[derive(Default)]
pub(super) struct Refusals {
    counts: Mutex<HashMap<WorkspaceId, u32>>,
    /// Number of entries in `counts`, so that a heartbeat takes the lock only if there are any.
    held: AtomicUsize,
}

impl Refusals {
    /// Counts a refusal. Returns whether this refusal is to be reported.
    pub(super) fn count(&self, workspace: WorkspaceId) -> bool {
        // A poisoned lock is safe to use: the map holds only numbers.
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= COUNTED_MAX && !counts.contains_key(&workspace) {
            counts.clear();
        }
        let count = counts.entry(workspace).or_default();
        *count = count.saturating_add(1);
        let is_due = *count == REPORTED_AFTER;
        self.held.store(counts.len(), Ordering::Relaxed);
        is_due
    }

    /// Resets the count after a request of this workspace succeeded.
    pub(super) fn forget(&self, workspace: WorkspaceId) {
        if self.held.load(Ordering::Relaxed) > 0 {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.remove(&workspace);
            self.held.store(counts.len(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn third_consecutive_refusal_is_reported_once() {
        let refusals = Refusals::default();
        let id = WorkspaceId(Uuid::from_u128(1));
        let reported: Vec<bool> = (0..10).map(|_| refusals.count(id)).collect();
        assert_eq!(reported.iter().filter(|reported| **reported).count(), 1, "{reported:?}");
        assert!(reported[2], "{reported:?}");
        refusals.forget(id);
        assert!(!refusals.count(id), "the count restarts after a success");
    }

    #[test]
    fn refusal_table_is_bounded() {
        let refusals = Refusals::default();
        for number in 0..(COUNTED_MAX as u128 * 2 + 5) {
            refusals.count(WorkspaceId(Uuid::from_u128(number)));
        }
        assert!(refusals.counts.lock().unwrap().len() <= COUNTED_MAX);
    }
}
