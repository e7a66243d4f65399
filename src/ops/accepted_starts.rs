//! Start orders of operators, from the moment they are accepted until they are carried out.
//!
//! Until a start's transaction, the row keeps its status from before the order, such as paused or failed. But a client
//! whose order was accepted expects that its next message waits for the result of the start. Messages do not wait for a
//! restart: the old process answers until it is stopped, which may be much later if an image is pulled first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;

use crate::domain::ids::WorkspaceId;

/// The accepted starts of all workspaces.
#[derive(Clone, Debug)]
pub struct AcceptedStarts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    orders: Mutex<Orders>,
    // Not a `watch` channel, which wakes its waiters in random order: a simulator run must be exactly reproducible.
    ended: broadcast::Sender<()>,
}

#[derive(Debug, Default)]
struct Orders {
    of: BTreeMap<WorkspaceId, BTreeSet<u64>>,
    next: u64,
}

/// An accepted start. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct AcceptedStart {
    all: AcceptedStarts,
    workspace: WorkspaceId,
    number: u64,
}

impl AcceptedStart {
    /// Whether a later stop has cancelled this start. A cancelled start must not be carried out.
    pub(super) fn is_overruled(&self) -> bool {
        !self.all.orders().of.get(&self.workspace).is_some_and(|of| of.contains(&self.number))
    }
}

impl Drop for AcceptedStart {
    fn drop(&mut self) {
        self.all.end([self.workspace], |number| number == self.number);
    }
}

/// Marks the starts that have been accepted before a certain moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct AcceptedBefore(u64);

impl AcceptedStarts {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared { orders: Mutex::default(), ended: broadcast::Sender::new(1) }))
    }

    pub(super) fn add(&self, workspace: WorkspaceId) -> AcceptedStart {
        let mut orders = self.orders();
        let number = orders.next;
        orders.next += 1;
        orders.of.entry(workspace).or_default().insert(number);
        drop(orders);
        AcceptedStart { all: self.clone(), workspace, number }
    }

    pub(super) fn so_far(&self) -> AcceptedBefore {
        AcceptedBefore(self.orders().next)
    }

    /// Ends the starts that were accepted before a later stop.
    pub(super) fn overrule(
        &self,
        workspaces: impl IntoIterator<Item = WorkspaceId>,
        accepted: AcceptedBefore,
    ) {
        self.end(workspaces, |number| number < accepted.0);
    }

    fn end(&self, workspaces: impl IntoIterator<Item = WorkspaceId>, which: impl Fn(u64) -> bool) {
        let mut orders = self.orders();
        for workspace in workspaces {
            if let Some(of) = orders.of.get_mut(&workspace) {
                of.retain(|number| !which(*number));
                if of.is_empty() {
                    orders.of.remove(&workspace);
                }
            }
        }
        drop(orders);
        // There may be no receiver.
        let _receivers = self.0.ended.send(());
    }

    /// Whether an accepted start is going to bring this workspace up.
    #[must_use]
    pub fn has(&self, workspace: WorkspaceId) -> bool {
        self.orders().of.contains_key(&workspace)
    }

    /// A receiver that is notified whenever a start was carried out, failed, or was overruled by a stop.
    #[must_use]
    pub fn ends(&self) -> StartEnds {
        StartEnds(self.0.ended.subscribe())
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.0.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`AcceptedStarts::ends`].
#[derive(Debug)]
pub struct StartEnds(broadcast::Receiver<()>);

impl StartEnds {
    /// Waits until a start has ended since this was created or last called.
    pub async fn next(&mut self) {
        // A lagged receiver means at least one event, which is enough. The channel does not close while the caller
        // holds the sender.
        let _one_or_more = self.0.recv().await;
    }
}
