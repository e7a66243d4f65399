//! What this process knows about open operations: their callers, and what waits.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OnceCell, broadcast, oneshot};

use crate::{
    domain::{
        ids::WorkspaceId,
        operation::{Operation, OperationId},
    },
    ops::{Affected, Applied, OpResult, accepted_starts::AcceptedStart},
};

/// Number of results that are kept for callers that are registered late: in the task of their transaction, and thus
/// before many more operations can have ended.
const FINISHED: usize = 32;

pub(super) type Waiter = oneshot::Sender<OpResult<Vec<Affected>>>;

/// What this process knows about the operations that it carries out.
#[derive(Debug)]
pub(in crate::ops) struct Operations {
    pub(super) state: Mutex<State>,
    /// Set once the open operations of earlier processes are known. Before that, no operation is accepted: it could not
    /// be distinguished from these.
    pub(super) recovered: OnceCell<()>,
    /// Sends the operations that ended or began to wait.
    pub(super) changes: broadcast::Sender<OperationId>,
}

impl Default for Operations {
    fn default() -> Self {
        Self { state: Mutex::default(), recovered: OnceCell::new(), changes: broadcast::Sender::new(64) }
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The callers of open operations; none after they were answered that their operation waits.
    pub(super) waiters: BTreeMap<OperationId, (WorkspaceId, Vec<Waiter>)>,
    /// The last results, for callers that are registered only after their operation has ended.
    pub(super) finished: VecDeque<(OperationId, OpResult<Vec<Affected>>)>,
    /// Workspaces whose oldest operation waits for Podman, with a text for operators.
    pub(super) waiting: BTreeMap<WorkspaceId, String>,
    /// New workspaces whose first start is not queued yet, or is in progress: sweeps leave them alone.
    pub(super) creating: BTreeSet<WorkspaceId>,
    /// Starts that messages wait for.
    pub(super) starts: BTreeMap<OperationId, AcceptedStart>,
}

impl Operations {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports the result of an operation that has ended.
    pub(super) fn report(&self, id: OperationId, done: &OpResult<Vec<Affected>>) {
        let mut state = self.lock();
        state.starts.remove(&id);
        if state.finished.len() == FINISHED {
            state.finished.pop_front();
        }
        state.finished.push_back((id, done.clone()));
        if let Some((workspace, waiters)) = state.waiters.remove(&id) {
            state.creating.remove(&workspace);
            for waiter in waiters {
                // The receiver may have been dropped; that is not an error.
                let _gone = waiter.send(done.clone());
            }
        }
        drop(state);
        let _receivers = self.changes.send(id);
    }

    /// Reports to the callers of starts that a later stop has cancelled them.
    pub(in crate::ops) fn report_cancelled(&self, cancelled: &[(OperationId, WorkspaceId)]) {
        for (operation, workspace) in cancelled {
            let result = Ok(Applied::Raced("it was stopped meanwhile".into()));
            self.report(*operation, &Ok(vec![Affected { id: *workspace, result }]));
        }
        // Entries in `waiting` stay: another operation of such a workspace may be its oldest open one. The next listing
        // continues it, or finds that there is none.
    }

    /// Reports to all callers of a workspace that its oldest operation waits.
    pub(super) fn report_waiting(&self, operation: &Operation, why: &str) {
        let mut state = self.lock();
        let text = format!("{}: waiting until Podman answers", operation.command.kind());
        state.waiting.insert(operation.workspace, text);
        state.creating.remove(&operation.workspace);
        let State { waiters, starts, .. } = &mut *state;
        starts.remove(&operation.id);
        for (id, (workspace, waiter)) in waiters.iter_mut().filter(|(_, (of, _))| *of == operation.workspace)
        {
            starts.remove(id);
            for waiter in std::mem::take(waiter) {
                let accepted = Affected { id: *workspace, result: Ok(Applied::Accepted(why.to_owned())) };
                let _gone = waiter.send(Ok(vec![accepted]));
            }
        }
        drop(state);
        let _receivers = self.changes.send(operation.id);
    }

    /// New workspaces whose first start is open.
    pub(in crate::ops) fn creating(&self) -> BTreeSet<WorkspaceId> {
        self.lock().creating.clone()
    }

    /// Ends the wait of messages for the start of an operation's own workspace.
    pub(in crate::ops) fn release_start(&self, id: OperationId) {
        self.lock().starts.remove(&id);
    }

    /// What the oldest operation of a workspace waits for, as text for operators.
    pub(in crate::ops) fn waits(&self, workspace: WorkspaceId) -> Option<String> {
        self.lock().waiting.get(&workspace).cloned()
    }

    /// Number of entries, which open operations cause.
    pub(in crate::ops) fn remembered(&self) -> usize {
        let state = self.lock();
        state.waiters.len() + state.waiting.len() + state.starts.len()
    }
}
