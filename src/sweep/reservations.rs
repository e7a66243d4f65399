//! Reservations for the breaker: the workspaces that concurrent passes are about to affect.
//!
//! The breaker counts the events of the last hour, and an event is written together with its action. Without
//! reservations, two plans that are judged at the same moment would not count each other's actions, and together could
//! affect twice the limit. Each plan's workspaces are therefore reserved before the events are read, and later plans
//! count them as affected. An earlier plan does not count the workspaces of a later one. Otherwise both plans would be
//! held, although one of them may continue.

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

    /// Reserves a plan's workspaces. Returns the reservation, and the workspaces that earlier plans have reserved.
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
