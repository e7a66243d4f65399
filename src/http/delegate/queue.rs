//! The queue of delegations, in which delegators take turns.

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
};

use tokio::sync::mpsc;

use crate::{domain::ids::WorkspaceId, store::Waiting};

/// Most delegations of one delegator in progress.
///
/// They do not count towards the delegator's messages in flight: a message above that limit is refused, whereas a
/// delegation above this limit waits. So this is the only limit for one delegator's delegations in progress.
const AT_ONCE_OF_ONE: usize = 8;

/// The queue of pending delegations.
pub(in crate::http) struct Delegations {
    pub(super) wanted: mpsc::UnboundedSender<Waiting>,
    pub(super) queue: Mutex<Option<mpsc::UnboundedReceiver<Waiting>>>,
}

impl Default for Delegations {
    fn default() -> Self {
        let (wanted, queue) = mpsc::unbounded_channel();
        Self { wanted, queue: Mutex::new(Some(queue)) }
    }
}

/// Waiting delegations, by delegator.
#[derive(Default)]
pub(super) struct Turns {
    /// The delegators in the order of their turns, each with its waiting delegations.
    waiting: VecDeque<(WorkspaceId, VecDeque<Waiting>)>,
    /// Delegations in progress, per delegator.
    running: HashMap<WorkspaceId, usize>,
}

impl Turns {
    pub(super) fn add(&mut self, new: Waiting) {
        match self.waiting.iter_mut().find(|(workspace, _)| *workspace == new.workspace) {
            Some((_, waiting)) => waiting.push_back(new),
            None => self.waiting.push_back((new.workspace, [new].into())),
        }
    }

    /// Takes the next delegation that may begin. It counts as in progress until [`Turns::end`].
    pub(super) fn begin(&mut self) -> Option<Waiting> {
        let may = |(workspace, _): &(WorkspaceId, _)| {
            self.running.get(workspace).is_none_or(|n| *n < AT_ONCE_OF_ONE)
        };
        let turn = self.waiting.iter().position(may)?;
        let (workspace, mut waiting) = self.waiting.remove(turn)?;
        let next = waiting.pop_front();
        if !waiting.is_empty() {
            self.waiting.push_back((workspace, waiting));
        }
        if next.is_some() {
            *self.running.entry(workspace).or_default() += 1;
        }
        next
    }

    pub(super) fn end(&mut self, of: WorkspaceId) {
        if let Some(running) = self.running.get_mut(&of) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(&of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::DelegationId;

    const fn waiting(workspace: u128, number: u128) -> Waiting {
        let id = DelegationId(uuid::Uuid::from_u128(workspace * 1000 + number));
        Waiting { id, workspace: WorkspaceId(uuid::Uuid::from_u128(workspace)) }
    }

    #[test]
    fn delegations_run_round_robin_within_per_workspace_limit() {
        let mut turns = Turns::default();
        for number in 0..10 {
            turns.add(waiting(1, number));
        }
        turns.add(waiting(2, 0));
        turns.add(waiting(3, 0));
        let mut begun = vec![];
        while let Some(next) = turns.begin() {
            begun.push(next);
        }
        let own = |range: std::ops::Range<u128>| range.map(|number| waiting(1, number));
        let expected: Vec<_> = own(0..1).chain([waiting(2, 0), waiting(3, 0)]).chain(own(1..8)).collect();
        assert_eq!(begun, expected, "workspaces take turns, each up to its share");
        turns.add(waiting(4, 0));
        assert_eq!(turns.begin(), Some(waiting(4, 0)), "a workspace at its share does not delay others");
        for one in begun.into_iter().chain([waiting(4, 0)]) {
            turns.end(one.workspace);
        }
        assert_eq!(
            (turns.begin(), turns.begin(), turns.begin()),
            (Some(waiting(1, 8)), Some(waiting(1, 9)), None)
        );
        turns.end(waiting(1, 8).workspace);
        turns.end(waiting(1, 9).workspace);
        assert!(turns.running.is_empty() && turns.waiting.is_empty(), "finished delegations leave no entry");
    }
}
