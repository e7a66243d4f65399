//! What passes that run side by side are about to hit.
//!
//! The breaker counts what the last hour's events say, and an event comes with the deed. Two passes judged
//! at the same moment would each see none of the other's, and hit twice the limit together. So a plan's hits
//! are written down before the events are asked for, and whoever comes later counts them as done. Only the
//! later one does: if both did, both would wait for a person where one may go on.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::domain::ids::WorkspaceId;

/// The hits of plans that are judged or applied right now.
#[derive(Default)]
pub(super) struct Hits(Mutex<Vec<(u64, BTreeSet<WorkspaceId>)>>);

/// Keeps a plan's hits written down until its run has ended.
pub(super) struct Reserved<'a> {
    hits: &'a Hits,
    ticket: u64,
}

impl Hits {
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, BTreeSet<WorkspaceId>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a plan's hits down. Answers those that were written down before it.
    pub(super) fn reserve(&self, plan: BTreeSet<WorkspaceId>) -> (Reserved<'_>, BTreeSet<WorkspaceId>) {
        let mut open = self.lock();
        let earlier = open.iter().flat_map(|(_, plan)| plan).copied().collect();
        let ticket = open.last().map_or(0, |(last, _)| last + 1);
        open.push((ticket, plan));
        (Reserved { hits: self, ticket }, earlier)
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.hits.lock().retain(|(ticket, _)| *ticket != self.ticket);
    }
}
