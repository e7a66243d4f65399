//! The record of a scenario, shared with the tasks that carry it out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ostler::domain::{ids::WorkspaceId, token::Token};

use super::super::{
    commands::CommandHistory,
    invariants::{Broken, PurgeOrder},
};

/// The record of a scenario, shared with the tasks that carry it out.
#[derive(Default)]
pub(super) struct Book {
    pub(super) history: Vec<String>,
    pub(super) command_history: CommandHistory,
    /// How often each kind of event was caused.
    pub(super) done: BTreeMap<&'static str, u64>,
    pub(super) running_passes: Vec<&'static str>,
    pub(super) checks: usize,
    /// Tokens seen so far: of agents that ran, and of external ones.
    pub(super) tokens: Vec<Token>,
    /// Tokens that an operator issued, with their workspace.
    pub(super) operator_tokens: Vec<(WorkspaceId, Token)>,
    /// A violation found in a task.
    pub(super) broken: Option<Broken>,
    /// Messages sent, by the marker that identifies them: sender and target.
    pub(super) sent: BTreeMap<String, (Option<WorkspaceId>, WorkspaceId)>,
    /// Workspaces for which an operator requested a new volume in place of a lost one.
    pub(super) new_volumes: BTreeSet<WorkspaceId>,
    /// Purges that an operator ordered.
    pub(super) purge_orders: Vec<PurgeOrder>,
    /// Reported statuses, each with the check number at which it was requested.
    pub(super) reported_statuses: Vec<(WorkspaceId, String, usize)>,
    pub(super) arrived: u64,
    pub(super) destructive_runs: usize,
    pub(super) reports_accepted: usize,
    pub(super) whole_listings: usize,
}

pub(super) type Shared = Arc<Mutex<Book>>;

pub(super) fn open(book: &Shared) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    pub(super) fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    pub(super) fn note(&mut self, what: impl Into<String>) {
        self.history.push(what.into());
    }

    /// Records an operator's order to delete the trash of these workspaces permanently; returns the order's index.
    pub(super) fn order_purge(&mut self, order: PurgeOrder) -> usize {
        self.purge_orders.push(order);
        self.purge_orders.len() - 1
    }

    /// Records the answer to a purge order. From now on an undelete cancels the order. A refused order has no effect.
    pub(super) fn purge_answered(&mut self, index: usize, status: u16) {
        let order = &mut self.purge_orders[index];
        order.answered = Some(self.checks + 1);
        if (400..500).contains(&status) {
            (order.tree, order.targets) = (None, BTreeSet::new());
        }
    }

    /// Records that the daemon was killed, so that open requests will never be answered.
    pub(super) fn cut_off(&mut self) {
        self.command_history.interrupt(self.checks);
        for order in &mut self.purge_orders {
            order.answered.get_or_insert(self.checks + 1);
        }
    }

    pub(super) fn broke(&mut self, how: Broken) {
        self.broken.get_or_insert(how);
    }
}
