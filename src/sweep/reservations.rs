//! Reservations for the breaker: the workspaces that concurrent passes are about to affect.
//!
//! The breaker counts the last hour's events, and an event is written together with its action. Two passes judged at
//! the same moment would not see each other's actions, and together affect twice the limit. So a plan's workspaces are
//! reserved before the events are read, and a later plan counts them as affected. Only the later plan does: if both
//! did, both would wait for an operator although one may continue.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::domain::ids::WorkspaceId;

/// The reservations of all plans that are being judged or applied.
#[derive(Default)]
pub(super) struct Reservations(Mutex<Vec<(u64, BTreeSet<WorkspaceId>)>>);

/// Keeps a plan's reservations until it is dropped at the end of the run.
pub(super) struct Reserved<'a> {
    reservations: &'a Reservations,
    ticket: u64,
}

impl Reservations {
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, BTreeSet<WorkspaceId>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves a plan's workspaces. Returns those that were reserved before.
    pub(super) fn reserve(&self, plan: BTreeSet<WorkspaceId>) -> (Reserved<'_>, BTreeSet<WorkspaceId>) {
        let mut open = self.lock();
        let earlier = open.iter().flat_map(|(_, plan)| plan).copied().collect();
        let ticket = open.last().map_or(0, |(last, _)| last + 1);
        open.push((ticket, plan));
        (Reserved { reservations: self, ticket }, earlier)
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.reservations.lock().retain(|(ticket, _)| *ticket != self.ticket);
    }
}
