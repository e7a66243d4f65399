//! Orders of people to start something, from the moment they are accepted until they are carried out.
//!
//! Until its transaction the row still says what it said before the order: paused, failed, or up with the process that a
//! restart is about to end. Whoever was told that the order is accepted expects the next message to wait for what
//! comes of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;

use crate::domain::{
    ids::{Incarnation, WorkspaceId},
    status::Status,
};

/// The accepted starts of all workspaces.
#[derive(Clone, Debug)]
pub struct AcceptedStarts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// For each order, the incarnation that it replaces, if it is a restart.
    orders: Mutex<BTreeMap<WorkspaceId, Vec<Option<Incarnation>>>>,
    // No `watch`, which wakes those who wait in an order that it draws: the simulator repeats a life to the letter.
    ended: broadcast::Sender<()>,
}

/// Counts as an accepted start until it is dropped.
#[derive(Debug)]
pub(super) struct AcceptedStart {
    all: AcceptedStarts,
    workspace: WorkspaceId,
    replaces: Option<Incarnation>,
}

impl Drop for AcceptedStart {
    fn drop(&mut self) {
        let mut orders = self.all.orders();
        if let Some(of) = orders.get_mut(&self.workspace) {
            if let Some(at) = of.iter().position(|replaces| *replaces == self.replaces) {
                of.swap_remove(at);
            }
            if of.is_empty() {
                orders.remove(&self.workspace);
            }
        }
        drop(orders);
        // Nobody may wait.
        let _heard = self.all.0.ended.send(());
    }
}

impl AcceptedStarts {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared { orders: Mutex::default(), ended: broadcast::Sender::new(1) }))
    }

    pub(super) fn add(&self, workspace: WorkspaceId, replaces: Option<Incarnation>) -> AcceptedStart {
        self.orders().entry(workspace).or_default().push(replaces);
        AcceptedStart { all: self.clone(), workspace, replaces }
    }

    /// Whether one is about to bring this workspace up.
    #[must_use]
    pub fn has(&self, workspace: WorkspaceId) -> bool {
        self.orders().contains_key(&workspace)
    }

    /// Whether one is about to replace what a row with this status and incarnation says.
    #[must_use]
    pub fn will_replace(&self, workspace: WorkspaceId, status: Status, incarnation: Incarnation) -> bool {
        let is_down = matches!(status, Status::Paused | Status::Failed(_));
        let orders = self.orders();
        orders
            .get(&workspace)
            .is_some_and(|of| of.iter().any(|replaces| replaces.map_or(is_down, |old| old == incarnation)))
    }

    /// Hears whenever one has been carried out or has failed.
    #[must_use]
    pub fn ends(&self) -> StartEnds {
        StartEnds(self.0.ended.subscribe())
    }

    fn orders(&self) -> MutexGuard<'_, BTreeMap<WorkspaceId, Vec<Option<Incarnation>>>> {
        self.0.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`AcceptedStarts::ends`].
#[derive(Debug)]
pub struct StartEnds(broadcast::Receiver<()>);

impl StartEnds {
    /// Waits until one has ended since this was made or last asked.
    pub async fn next(&mut self) {
        // Too many to be told one by one are as good as one. Nothing closes it while the sender is held by whoever asks.
        let _one_or_more = self.0.recv().await;
    }
}
