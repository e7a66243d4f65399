//! Operations: the durable queue of what operators have ordered, and one worker for each workspace.
//!
//! An operation is stored before anything is done, in the transaction that changes the rows if its order changes rows.
//! The worker of its workspace carries it out: one operation at a time, in the order in which they were accepted. The
//! table is the queue. The transaction that ends an operation returns the next one, so a worker exists only while its
//! workspace has an operation that runs.
//!
//! * **Podman gives no answer:** the operation waits, and its caller gets that answer. It continues when a listing proves
//!   that Podman answers again.
//! * **The process ends:** the next daemon continues the open operations. Each can be carried out twice without harm: a
//!   stop finds the container stopped, and a start that has begun is known by the incarnation that its transaction
//!   stored in the operation.
//! * **A later stop:** it cancels starts that have not begun. A start that runs is abandoned by its transaction, which
//!   compares the revision on which it was decided.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::{OnceCell, broadcast, oneshot};

use super::{
    Affected, Applied, OpError, OpResult, Ops, Order, StartOrder, Up, accepted_starts::AcceptedStart,
};
use crate::{
    domain::{
        ids::WorkspaceId,
        naming::WorkspaceName,
        operation::{Command, Operation, OperationId, OperationState, Requester, UndeleteTarget},
        status::{Cause, Status},
        workspace::Kind,
    },
    engine::{ErrorKind, trusted::Untrusted},
    store::{CancelResult, NewOperation, Parked, StoreResult, Stored},
    testing::mutation::{Mutation, is},
};

/// Number of results that are kept for callers that are registered late: in the task of their transaction, and thus
/// before many more operations can have ended.
const FINISHED: usize = 32;

/// Delay before the end of an operation is written again, if the store could not write it.
const WRITE_AGAIN: Duration = Duration::from_secs(5);

/// What an operator, or an agent for itself, can order for an existing workspace.
#[derive(Clone, Debug)]
pub enum Request {
    /// Start it, restart it or recreate it.
    Up(Up),
    /// Stop it and everything below it.
    Stop,
    /// Hibernate it.
    Hibernate {
        /// Hibernate it even if it has active tasks or requests in flight.
        force: bool,
    },
    /// Wake it from hibernation.
    Wake,
    /// Undo its removal.
    Undelete {
        /// Its new name; `None` keeps the old one.
        name: Option<WorkspaceName>,
        /// Whether workspaces of the same removal stay removed.
        only: bool,
    },
}

/// An accepted order, from which its result can be awaited. Dropping it does not cancel the operation.
#[derive(Debug)]
pub struct Ticket {
    operation: Option<OperationId>,
    result: Result<oneshot::Receiver<OpResult<Vec<Affected>>>, OpResult<Vec<Affected>>>,
}

impl Ticket {
    /// The operation; `None` if there was nothing to do.
    #[must_use]
    pub fn operation(&self) -> Option<OperationId> {
        self.operation
    }

    /// Waits until the operation has ended, or until it waits for Podman: the results then are `Applied::Accepted`.
    ///
    /// # Errors
    /// Why it could not be carried out.
    pub async fn ended(self) -> OpResult<Vec<Affected>> {
        match self.result {
            Ok(result) => result.await.unwrap_or(Err(OpError::Stopping)),
            Err(known) => known,
        }
    }

    /// An order for which nothing has to be done.
    pub(super) fn no_op(workspace: WorkspaceId, why: impl Into<String>) -> Self {
        let done = Affected { id: workspace, result: Ok(Applied::Done(why.into())) };
        Self { operation: None, result: Err(Ok(vec![done])) }
    }
}

type Waiter = oneshot::Sender<OpResult<Vec<Affected>>>;

/// What this process knows about the operations that it carries out.
#[derive(Debug)]
pub(super) struct Operations {
    state: Mutex<State>,
    /// Set once the open operations of earlier processes are known. Before that, no operation is accepted: it could not
    /// be distinguished from these.
    recovered: OnceCell<()>,
    /// Sends the operations that ended or began to wait.
    changes: broadcast::Sender<OperationId>,
}

impl Default for Operations {
    fn default() -> Self {
        Self { state: Mutex::default(), recovered: OnceCell::new(), changes: broadcast::Sender::new(64) }
    }
}

#[derive(Debug, Default)]
struct State {
    /// The callers of open operations; none after they were answered that their operation waits.
    waiters: BTreeMap<OperationId, (WorkspaceId, Vec<Waiter>)>,
    /// The last results, for callers that are registered only after their operation has ended.
    finished: VecDeque<(OperationId, OpResult<Vec<Affected>>)>,
    /// Workspaces whose oldest operation waits for Podman, with a text for operators.
    waiting: BTreeMap<WorkspaceId, String>,
    /// New workspaces whose first start is not queued yet, or is in progress: sweeps leave them alone.
    creating: BTreeSet<WorkspaceId>,
    /// Starts that messages wait for.
    starts: BTreeMap<OperationId, AcceptedStart>,
}

impl Operations {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports the result of an operation that has ended.
    fn report(&self, id: OperationId, done: &OpResult<Vec<Affected>>) {
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
    pub(super) fn report_cancelled(&self, cancelled: &[(OperationId, WorkspaceId)]) {
        for (operation, workspace) in cancelled {
            let result = Ok(Applied::Raced("it was stopped meanwhile".into()));
            self.report(*operation, &Ok(vec![Affected { id: *workspace, result }]));
        }
        // Entries in `waiting` stay: another operation of such a workspace may be its oldest open one. The next listing
        // continues it, or finds that there is none.
    }

    /// Reports to all callers of a workspace that its oldest operation waits.
    fn report_waiting(&self, operation: &Operation, why: &str) {
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
    pub(super) fn creating(&self) -> BTreeSet<WorkspaceId> {
        self.lock().creating.clone()
    }

    /// Ends the wait of messages for the start of an operation's own workspace.
    pub(super) fn release_start(&self, id: OperationId) {
        self.lock().starts.remove(&id);
    }

    /// What the oldest operation of a workspace waits for, as text for operators.
    pub(super) fn waits(&self, workspace: WorkspaceId) -> Option<String> {
        self.lock().waiting.get(&workspace).cloned()
    }

    /// Number of entries, which open operations cause.
    pub(super) fn remembered(&self) -> usize {
        let state = self.lock();
        state.waiters.len() + state.waiting.len() + state.starts.len()
    }
}

impl Ops {
    /// Accepts an order for a workspace. When this returns, the operation is stored, and its place among the operations
    /// of the workspace is fixed.
    ///
    /// # Errors
    /// If the order is refused. Nothing was changed then.
    pub async fn operate(&self, id: WorkspaceId, request: Request, by: Requester) -> OpResult<Ticket> {
        match request {
            Request::Up(up) => self.accept_up(id, up, by).await,
            Request::Stop => self.accept_stop(id, by).await,
            Request::Hibernate { force } => self.accept_hibernation(id, force, by).await,
            Request::Wake => self.accept_wake(id, by).await,
            Request::Undelete { name, only } => self.accept_undelete(id, name, only, by).await,
        }
    }

    /// Accepts an order that changes no row.
    pub(super) async fn accept(&self, new: NewOperation) -> OpResult<Ticket> {
        let (store, now) = (self.0.store.clone(), self.0.clock.now());
        let ((), ticket) = self.accepting(async move { store.accept_operation(new, now).await }).await?;
        ticket.ok_or_else(super::not_found)
    }

    /// Runs a transaction that accepts an operation, and starts the worker for it.
    ///
    /// In its own task: the caller may be dropped at any time, but the store may still carry the transaction out. An
    /// operation without a worker would block its workspace until the next start of the daemon.
    pub(super) async fn accepting<T: Send + 'static>(
        &self,
        transaction: impl Future<Output = StoreResult<Stored<T>>> + Send + 'static,
    ) -> OpResult<(T, Option<Ticket>)> {
        self.continue_operations().await?;
        let (reply, answer) = oneshot::channel();
        let ops = self.clone();
        self.0.spawn.spawn(Box::pin(async move {
            let done = transaction.await;
            let done = done.map(|stored| {
                ops.0.operations.report_cancelled(&stored.cancelled);
                (stored.result, stored.operation.map(|operation| ops.register(operation)))
            });
            // The caller may have stopped waiting.
            let _gone = reply.send(done);
        }));
        Ok(answer.await.map_err(|_| OpError::Stopping)??)
    }

    /// Registers the caller of an operation that was just stored. Starts a worker if it is the workspace's only open
    /// operation.
    pub(super) fn register(&self, stored: Operation) -> Ticket {
        let (waiter, result) = oneshot::channel();
        let operation = Some(stored.id);
        let mut state = self.0.operations.lock();
        if let Some((_, ended)) = state.finished.iter().find(|(id, _)| *id == stored.id) {
            return Ticket { operation, result: Err(ended.clone()) };
        }
        let workspace = stored.workspace;
        state.waiters.entry(stored.id).or_insert((workspace, Vec::new())).1.push(waiter);
        if stored.command.starts() {
            state.starts.entry(stored.id).or_insert_with(|| self.0.accepted_starts.add(stored.workspace));
        }
        let is_behind_waiting = state.waiting.remove(&stored.workspace).is_some();
        if stored.command == Command::Create {
            state.creating.insert(stored.workspace);
        }
        drop(state);
        if stored.state != OperationState::Running {
            self.begin_demanded(&stored);
        }
        if stored.state == OperationState::Running {
            self.spawn_worker(stored);
        } else if is_behind_waiting {
            // Tries the waiting operation again at once, so that this caller learns what its order waits for.
            self.continue_waiting(stored.workspace);
        }
        Ticket { operation, result: Ok(result) }
    }

    /// Begins what the rows demand already, while the operation still waits for its turn: a stop must not wait until an
    /// earlier start has pulled its image. The worker repeats these orders, which then find nothing to do.
    fn begin_demanded(&self, operation: &Operation) {
        let (targets, order) = match &operation.command {
            Command::Stop { targets } => (targets.as_slice(), Order::Stop { swept: None }),
            Command::Remove { targets } => (targets.as_slice(), Order::MoveRemovedToTrash),
            Command::Purge { targets } => (targets.as_slice(), Order::Purge),
            Command::Hibernate => (std::slice::from_ref(&operation.workspace), Order::FinishHibernation),
            Command::Create
            | Command::Start { .. }
            | Command::Wake
            | Command::Restart
            | Command::Recreate
            | Command::Undelete { .. }
            | Command::Restore { .. }
            | Command::Delete { .. } => return,
        };
        for target in targets.iter().rev() {
            self.begin(*target, order.clone());
        }
    }

    fn spawn_worker(&self, operation: Operation) {
        let ops = self.clone();
        self.0.spawn.spawn(Box::pin(async move { ops.carry_out_from(operation).await }));
    }

    fn continue_waiting(&self, workspace: WorkspaceId) {
        let ops = self.clone();
        self.0.spawn.spawn(Box::pin(async move {
            match ops.0.store.continue_operation(workspace, ops.0.clock.now()).await {
                Ok(Some(operation)) => ops.carry_out_from(operation).await,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%workspace, %error, "waiting operation cannot be continued now");
                    // Tried again when the next listing proves that Podman answers.
                    let text = "waiting until the registry can be written".to_owned();
                    ops.0.operations.lock().waiting.insert(workspace, text);
                }
            }
        }));
    }

    /// Continues the operations that wait for Podman. Called when Podman has answered.
    pub(super) fn continue_all_waiting(&self) {
        let waiting = std::mem::take(&mut self.0.operations.lock().waiting);
        for workspace in waiting.into_keys() {
            self.continue_waiting(workspace);
        }
    }

    /// Continues the operations that an earlier process left open; once in this process. In a registry that is
    /// recovering, they are closed instead: they may be older than what the engine shows.
    ///
    /// # Errors
    /// If the store cannot answer.
    pub async fn continue_operations(&self) -> OpResult<()> {
        self.0.operations.recovered.get_or_try_init(|| self.recover_operations()).await.copied()
    }

    async fn recover_operations(&self) -> OpResult<()> {
        let open = self.0.store.open_operations().await?;
        if is(Mutation::ForgetOperations) {
            return Ok(());
        }
        let recovering = self.0.is_recovering().await?;
        let mut heads = BTreeMap::new();
        for operation in open {
            if recovering {
                let why = "the registry was lost or restored meanwhile; give the order again".to_owned();
                let now = self.0.clock.now();
                self.0.store.end_operation(operation, OperationState::Failed, Some(why), now).await?;
            } else {
                heads.entry(operation.workspace).or_insert(operation);
            }
        }
        for (workspace, head) in heads {
            tracing::info!(%workspace, operation = head.id.0, kind = head.command.kind(), "continuing an operation");
            if head.state == OperationState::Running {
                self.spawn_worker(head);
            } else {
                self.continue_waiting(workspace);
            }
        }
        Ok(())
    }

    /// Cancels an operation if it has not done anything yet.
    ///
    /// # Errors
    /// If there is no such operation, or if it cannot be cancelled any more; the error then says what to do instead.
    pub async fn cancel(&self, id: OperationId) -> OpResult<Operation> {
        let changes = self.0.operations.changes.subscribe();
        match self.0.store.cancel_operation(id, self.0.clock.now()).await? {
            CancelResult::Cancelled(next) => {
                self.0.operations.report(id, &Err(cancelled_by_operator()));
                let cancelled = self.operation(id).await?;
                self.0.operations.lock().waiting.remove(&cancelled.workspace);
                match next {
                    Some(next) => self.spawn_worker(next),
                    // It may have been behind one that waits.
                    None => self.continue_waiting(cancelled.workspace),
                }
                Ok(cancelled)
            }
            // Its worker ends it.
            CancelResult::Requested => self.until_ended(id, changes).await,
            CancelResult::Refused(instead) => {
                Err(OpError::Conflict(format!("operation {id} cannot be cancelled: {instead}")))
            }
            CancelResult::Ended(state) => {
                Err(OpError::Conflict(format!("operation {id} has ended already: it is {}", state.as_str())))
            }
            CancelResult::NotThere => Err(no_operation(id)),
        }
    }

    /// Returns an operation.
    ///
    /// # Errors
    /// If there is no such operation.
    pub async fn operation(&self, id: OperationId) -> OpResult<Operation> {
        self.0.store.operation(id).await?.ok_or_else(|| no_operation(id))
    }

    /// Waits until an operation has ended. The caller limits the time.
    ///
    /// # Errors
    /// If there is no such operation.
    pub async fn await_operation(&self, id: OperationId) -> OpResult<Operation> {
        self.until_ended(id, self.0.operations.changes.subscribe()).await
    }

    async fn until_ended(
        &self,
        id: OperationId,
        mut changes: broadcast::Receiver<OperationId>,
    ) -> OpResult<Operation> {
        loop {
            let operation = self.operation(id).await?;
            if !operation.state.is_open() {
                return Ok(operation);
            }
            // Read again only after a change of this operation, or after changes that were missed.
            loop {
                match changes.recv().await {
                    Ok(other) if other != id => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return Err(OpError::Stopping),
                }
            }
        }
    }

    /// Carries out an operation, and then the following ones of its workspace.
    async fn carry_out_from(&self, first: Operation) {
        let mut current = Some(first);
        while let Some(operation) = current.take() {
            if operation.command.starts() {
                let mut state = self.0.operations.lock();
                let accepted = || self.0.accepted_starts.add(operation.workspace);
                state.starts.entry(operation.id).or_insert_with(accepted);
            }
            let early = is(Mutation::DoneTooEarly);
            let next = if early { self.end(&operation, &Ok(Vec::new())).await.1 } else { None };
            // If a panic ended this task, no later operation of the workspace would run.
            let mut done = self.attempt(&operation).await;
            let mut unanswered = self.unanswered(&done).await;
            if let Some(Unanswered::Once) = unanswered {
                done = self.attempt(&operation).await;
                unanswered = self.unanswered(&done).await;
            }
            if let Some(Unanswered::Away(why)) = unanswered {
                match self.park(&operation, &why).await {
                    Parked::Cancelled(next) => {
                        self.0.operations.report(operation.id, &Err(cancelled_by_operator()));
                        current = next;
                        continue;
                    }
                    Parked::Waits => return,
                }
            }
            let (state, next) =
                if early { (OperationState::Done, next) } else { self.end(&operation, &done).await };
            let done = match state {
                OperationState::Cancelled => Err(cancelled_by_operator()),
                OperationState::Failed => {
                    let (operation, kind) = (operation.id.0, operation.command.kind());
                    tracing::warn!(operation, kind, ?done, "operation failed");
                    done
                }
                OperationState::Accepted
                | OperationState::Running
                | OperationState::Waiting
                | OperationState::Done
                | OperationState::Skipped => done,
            };
            current = next;
            self.0.operations.report(operation.id, &done);
        }
    }

    async fn attempt(&self, operation: &Operation) -> OpResult<Vec<Affected>> {
        let done = AssertUnwindSafe(self.perform(operation)).catch_unwind().await;
        done.unwrap_or_else(|_| {
            tracing::error!(operation = operation.id.0, "operation panicked; the sweeps finish its work");
            Err(OpError::Conflict("an internal error interrupted this operation; see the log".into()))
        })
    }

    /// Whether the engine gave no answer to one of an operation's orders.
    async fn unanswered(&self, done: &OpResult<Vec<Affected>>) -> Option<Unanswered> {
        let unanswered = |error: &OpError| {
            if let OpError::Engine(error) = error
                && error.gave_no_answer()
            {
                return Some(error.clone());
            }
            None
        };
        let error = match done {
            Err(error) => unanswered(error),
            Ok(affected) => affected.iter().find_map(|one| one.result.as_ref().err().and_then(unanswered)),
        }?;
        let away = error.kind == ErrorKind::Unreachable
            || matches!(self.0.recognise_engine().await, Err(Untrusted::NoAnswer(_)));
        Some(if away {
            let why = format!("it continues when Podman answers. Podman does not answer now ({error})");
            Unanswered::Away(why)
        } else {
            Unanswered::Once
        })
    }

    /// Makes an operation wait, and answers its callers. Repeats this until the store can write: an operation that runs
    /// according to its row needs a worker.
    async fn park(&self, operation: &Operation, why: &str) -> Parked {
        loop {
            let now = self.0.clock.now();
            let parked = self.0.store.park_operation(operation.clone(), why.to_owned(), now).await;
            if !matches!(parked, Ok(Parked::Cancelled(_))) {
                self.0.operations.report_waiting(operation, why);
            }
            match parked {
                Ok(parked) => return parked,
                Err(error) => {
                    tracing::warn!(operation = operation.id.0, %error, "cannot record that an operation waits");
                    self.0.operations.lock().waiting.remove(&operation.workspace);
                    self.0.clock.sleep(WRITE_AGAIN).await;
                }
            }
        }
    }

    /// Writes the end of an operation. Repeats this until the store can write.
    async fn end(
        &self,
        operation: &Operation,
        done: &OpResult<Vec<Affected>>,
    ) -> (OperationState, Option<Operation>) {
        let (state, detail) = summary(operation, done);
        let continues = state == OperationState::Failed && is_demanded(&operation.command);
        let more = if continues { ". The sweeps keep trying what the registry demands" } else { "" };
        let detail = detail.map(|detail| format!("{detail}{more}"));
        loop {
            let (ended, detail) = (operation.clone(), detail.clone());
            match self.0.store.end_operation(ended, state, detail, self.0.clock.now()).await {
                Ok(ended) => return ended,
                Err(error) => {
                    tracing::warn!(operation = operation.id.0, %error, "cannot record the end of an operation");
                    self.0.clock.sleep(WRITE_AGAIN).await;
                }
            }
        }
    }

    async fn perform(&self, operation: &Operation) -> OpResult<Vec<Affected>> {
        let id = operation.workspace;
        let own = |result| Ok(vec![Affected { id, result }]);
        match &operation.command {
            Command::Create => {
                let started = self.start_once(operation, StartOrder::default()).await;
                let row = self.0.row(id).await?;
                own(match started {
                    // A sweep has started it already.
                    Ok(Applied::Raced(_)) if self.0.actors.begun_at(id, row.incarnation).is_some() => {
                        Ok(Applied::Done("started".into()))
                    }
                    started => started,
                })
            }
            Command::Start { new_volume } => {
                self.bring_up_now(operation, Up::Start { new_volume: *new_volume }).await
            }
            Command::Restart => match operation.requested_by {
                Requester::Operator => self.bring_up_now(operation, Up::Restart).await,
                Requester::Agent(_) => {
                    let cause = Some(Cause::Restart);
                    let order = StartOrder { cause, even_if_running: true, ..StartOrder::default() };
                    own(self.start_once(operation, order).await)
                }
            },
            Command::Recreate => self.bring_up_now(operation, Up::Recreate).await,
            Command::Wake => own(self.wake_for(id, Some(operation)).await),
            Command::Stop { targets } => self.stop_all(targets).await,
            Command::Hibernate => own(self.order(id, Order::FinishHibernation).await),
            Command::Remove { targets } => Ok(self.order_all(targets, &Order::MoveRemovedToTrash).await),
            Command::Purge { targets } => Ok(self.order_all(targets, &Order::Purge).await),
            Command::Undelete { targets } => self.undelete_all(targets).await,
            Command::Restore { entry } => own(self.order(id, Order::Restore(*entry)).await),
            Command::Delete { entry } => own(self.delete_for_operator(id, *entry).await),
        }
    }

    /// Starts the operation's own workspace, unless the operation has begun that start already: before Podman ceased to
    /// answer, or in a process that has ended.
    pub(super) async fn start_once(&self, operation: &Operation, order: StartOrder) -> OpResult<Applied> {
        let id = operation.workspace;
        let order =
            StartOrder { decided_on: Some(operation.revision), operation: Some(operation.id), ..order };
        // Read again: an earlier attempt of this process may have begun the start.
        let begun = self.operation(operation.id).await?.incarnation;
        let Some(begun) = begun else { return self.order(id, Order::Start(order)).await };
        let row = self.0.row(id).await?;
        match row.status {
            Status::Online | Status::Degraded => Ok(Applied::Done("started".into())),
            // The token of the begun incarnation is lost, or its container was not started: the start is repeated.
            Status::Provisioning if row.incarnation == begun => {
                let order = StartOrder { even_if_running: false, new_container: false, ..order };
                match self.order(id, Order::Start(order)).await {
                    // A sweep has repeated it already.
                    Ok(Applied::Raced(_))
                        if self.0.actors.begun_at(id, self.0.row(id).await?.incarnation).is_some() =>
                    {
                        Ok(Applied::Done("started".into()))
                    }
                    done => done,
                }
            }
            Status::Provisioning
            | Status::Offline
            | Status::Failed(_)
            | Status::Paused
            | Status::Hibernating
            | Status::Hibernated
            | Status::AwaitingAgent
            | Status::Removed => Ok(Applied::Raced(format!("it was started, and is {} now", row.status))),
        }
    }

    /// Submits the same order for several workspaces, children first, and waits for all results.
    async fn order_all(&self, targets: &[WorkspaceId], order: &Order) -> Vec<Affected> {
        // No container may keep running below a stopped or removed workspace. All orders are submitted before the first
        // is awaited, because each may take its whole grace period.
        let begun: Vec<_> = targets.iter().rev().map(|id| (*id, self.submit(*id, order.clone()))).collect();
        let mut affected = Vec::with_capacity(begun.len());
        for (id, answer) in begun {
            affected.push(Affected { id, result: answer.await.unwrap_or(Err(OpError::Stopping)) });
        }
        affected.reverse();
        affected
    }

    async fn stop_all(&self, targets: &[WorkspaceId]) -> OpResult<Vec<Affected>> {
        // An external workspace has no container to stop. Its pause must not wait for the engine.
        let is_external =
            |id: &WorkspaceId| self.0.store.member(*id).is_some_and(|member| member.kind == Kind::External);
        let (external, contained): (Vec<_>, Vec<_>) = targets.iter().partition(|id| is_external(id));
        let mut stopped = self.order_all(&contained, &Order::Stop { swept: None }).await;
        let paused = |id| Affected { id, result: Ok(Applied::Done("paused".into())) };
        stopped.extend(external.into_iter().map(paused));
        stopped.sort_by_key(|one| targets.iter().position(|id| *id == one.id));
        Ok(stopped)
    }

    async fn undelete_all(&self, targets: &[UndeleteTarget]) -> OpResult<Vec<Affected>> {
        let mut affected = Vec::with_capacity(targets.len());
        for target in targets {
            let result = if target.skipped {
                Err(OpError::Conflict(target.note.clone()))
            } else {
                self.restore_contents(target.workspace, &target.note).await
            };
            affected.push(Affected { id: target.workspace, result });
        }
        Ok(affected)
    }
}

/// Whether the rows demand what was ordered, so that the sweeps carry it out even if the operation failed.
fn is_demanded(command: &Command) -> bool {
    match command {
        Command::Create
        | Command::Stop { .. }
        | Command::Hibernate
        | Command::Remove { .. }
        | Command::Purge { .. }
        | Command::Undelete { .. } => true,
        Command::Start { .. }
        | Command::Wake
        | Command::Restart
        | Command::Recreate
        | Command::Restore { .. }
        | Command::Delete { .. } => false,
    }
}

/// How the engine gave no answer.
enum Unanswered {
    /// It gives no answer now either. Contains what the operation waits for.
    Away(String),
    /// It answers again: it was stopped for a moment, or one call takes too long, such as a pull or the stop of a
    /// container. The operation is attempted once more, and then has failed: repeating it for ever would block the
    /// workspace. The sweeps repeat what its row demands.
    Once,
}

fn cancelled_by_operator() -> OpError {
    OpError::Conflict("an operator cancelled it".into())
}

fn no_operation(id: OperationId) -> OpError {
    OpError::NotFound(format!("there is no operation {id}: `ostler operations` lists the newest ones"))
}

/// The state in which an operation ends, and a text for operators: the result for the workspace that the order named,
/// and the number of other workspaces for which it failed.
fn summary(operation: &Operation, done: &OpResult<Vec<Affected>>) -> (OperationState, Option<String>) {
    let affected = match done {
        Ok(affected) => affected,
        Err(error) => return (OperationState::Failed, Some(error.to_string())),
    };
    let own = affected.iter().find(|one| one.id == operation.workspace).map(|one| &one.result);
    let (state, detail) = match own {
        None => (OperationState::Done, None),
        Some(Ok(Applied::Done(detail))) => (OperationState::Done, Some(detail.clone())),
        Some(Ok(Applied::Raced(why))) => (OperationState::Skipped, Some(why.clone())),
        Some(Ok(Applied::Accepted(why))) => (OperationState::Waiting, Some(why.clone())),
        Some(Err(error)) => (OperationState::Failed, Some(error.to_string())),
    };
    let others = affected.iter().filter(|one| one.id != operation.workspace);
    let failed: Vec<_> =
        others.filter_map(|one| one.result.as_ref().err().map(|error| (one.id, error))).collect();
    match failed.first() {
        Some((id, error)) if state == OperationState::Done => {
            let text =
                format!("failed for {} of the workspaces below it; the first is {id}: {error}", failed.len());
            (OperationState::Failed, Some(text))
        }
        Some(_) | None => (state, detail),
    }
}
