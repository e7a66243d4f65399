//! One actor per workspace: it carries out every engine change for that workspace, one at a time.
//!
//! Orders are queued and never dropped. An order that equals the last waiting one is merged with it, and both callers
//! get the same result. An actor exists only while it has orders. Sweep passes submit their actions here like every
//! other caller, so no sweep acts between two steps of a start.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::{Semaphore, oneshot};

use super::{
    Inner, OpError, OpResult, Ops, RESTART_DUE, adopt::AdoptOrder, move_to_trash::MoveToTrash,
    start::StartOrder,
};
use crate::domain::{
    ids::{ContainerId, Incarnation, TrashId, WorkspaceId},
    time::Timestamp,
};
use crate::store::{DeleteGuard, Precondition};

/// An action on a workspace's containers, volumes or network in the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Start its container as a new incarnation.
    Start(StartOrder),
    /// Stop its containers and verify that they are stopped, if its row still forbids that they run.
    Stop {
        /// The pass that ordered the stop, and its evidence; both go into the event. `None` for an operator's order.
        swept: Option<(&'static str, String)>,
    },
    /// Stop the containers of an undeleted row and verify it, unless the row was started since.
    StopUndeleted,
    /// Move a container and volumes to the trash.
    MoveToTrash(MoveToTrash),
    /// Move everything that the removed row still owns to the trash.
    MoveRemovedToTrash,
    /// Permanently delete everything that the removed row owned.
    Purge,
    /// Finish an interrupted move to the trash.
    FinishMoveToTrash(TrashId),
    /// Restore a trash entry to its live row.
    Restore(TrashId),
    /// Permanently delete a trash entry.
    Delete {
        /// The entry to delete.
        entry: TrashId,
        /// Condition that must still hold.
        guard: DeleteGuard,
        /// The pass that decided it; `None` for an operator's order.
        swept_by: Option<&'static str>,
    },
    /// Rebuild the row from the engine.
    Adopt(AdoptOrder),
    /// Make the token of its running process the current one, if the registry does not know that token.
    TakeTokenOver,
    /// Stop the container of a hibernating row and verify it.
    FinishHibernation,
    /// Start an offline workspace again, if its restart is due.
    RestartDue,
    /// Restart a running workspace that is degraded or stalled, unless it has recovered since.
    RestartDegraded {
        /// The restart is skipped if this no longer holds.
        precondition: Precondition,
        /// The reason, shown to operators.
        why: String,
        /// The pass that ordered the restart. The breaker counts the restart for this pass.
        swept_by: &'static str,
    },
    /// Delete its network, unless the workspace is live again or a container uses the network.
    ForgetNetwork,
    /// Inspect the container again; if it is gone or has exited, mark the workspace offline.
    MarkOffline(Incarnation),
    /// Inspect the container again; if it runs, mark the workspace online.
    MarkReady(Incarnation, ContainerId),
}

impl Order {
    fn restarts_degraded(&self) -> bool {
        matches!(self, Self::RestartDegraded { .. })
    }
}

/// The result of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The order was carried out. Contains a description for the caller.
    Done(String),
    /// The order's precondition no longer holds, and nothing was done. Contains the reason.
    Raced(String),
    /// The order is stored and continues when Podman answers. Contains what it waits for.
    Accepted(String),
}

type Waiter = oneshot::Sender<OpResult<Applied>>;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Order, Vec<Waiter>)>,
    phase: String,
    /// Whether the order being carried out is a `RestartDegraded`.
    restarts_degraded: bool,
}

/// The queues of all workspaces, and what this process remembers about them.
pub(super) struct Actors {
    queues: Mutex<BTreeMap<WorkspaceId, Queue>>,
    /// Rows that are being created, before their first order is queued; they count as busy.
    reserved: Mutex<BTreeSet<WorkspaceId>>,
    /// The incarnations that this process started, and when.
    begun: Mutex<BTreeMap<WorkspaceId, (Incarnation, Timestamp)>>,
    /// Workspaces whose container this process has seen running in a listing.
    seen_running: Mutex<BTreeSet<WorkspaceId>>,
    /// Orders that failed because the engine gave no answer: the sweeps repeat them once it answers.
    waiting: Mutex<BTreeMap<WorkspaceId, Waiting>>,
    /// Limits how many starts use the engine at once.
    pub(super) starts: Semaphore,
}

/// The kind of action that is repeated when the engine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Start,
    Stop,
}

impl Waiting {
    fn of(order: &Order) -> Option<Self> {
        match order {
            Order::Start(_) | Order::RestartDue => Some(Self::Start),
            Order::Stop { .. } | Order::StopUndeleted | Order::FinishHibernation => Some(Self::Stop),
            Order::MoveToTrash(_)
            | Order::MoveRemovedToTrash
            | Order::Purge
            | Order::FinishMoveToTrash(_)
            | Order::Restore(_)
            | Order::Delete { .. }
            | Order::Adopt(_)
            | Order::TakeTokenOver
            | Order::RestartDegraded { .. }
            | Order::ForgetNetwork
            | Order::MarkOffline(_)
            | Order::MarkReady(..) => None,
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Start => "start: waiting until Podman answers",
            Self::Stop => "stop: waiting until Podman answers",
        }
    }
}

/// Keeps a workspace busy until its first order is queued.
pub(super) struct Reservation<'a> {
    actors: &'a Actors,
    workspace: WorkspaceId,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        unpoisoned(&self.actors.reserved).remove(&self.workspace);
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Actors {
    pub(super) fn new(concurrent_starts: usize) -> Self {
        Self {
            queues: Mutex::default(),
            reserved: Mutex::default(),
            begun: Mutex::default(),
            seen_running: Mutex::default(),
            waiting: Mutex::default(),
            starts: Semaphore::new(concurrent_starts.clamp(1, Semaphore::MAX_PERMITS)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkspaceId, Queue>> {
        unpoisoned(&self.queues)
    }

    pub(super) fn busy(&self) -> BTreeSet<WorkspaceId> {
        // The reservations are read before the queues. An order enters its queue before its reservation ends, so the
        // workspace is in at least one of the two sets.
        let reserved = unpoisoned(&self.reserved).clone();
        self.lock().keys().copied().chain(reserved).collect()
    }

    pub(super) fn restarting_degraded(&self) -> BTreeSet<WorkspaceId> {
        let restarts = |queue: &Queue| {
            queue.restarts_degraded || queue.waiting.iter().any(|(order, _)| order.restarts_degraded())
        };
        self.lock().iter().filter(|(_, queue)| restarts(queue)).map(|(id, _)| *id).collect()
    }

    pub(super) fn reserve(&self, workspace: WorkspaceId) -> Reservation<'_> {
        unpoisoned(&self.reserved).insert(workspace);
        Reservation { actors: self, workspace }
    }

    pub(super) fn note_begun(&self, workspace: WorkspaceId, incarnation: Incarnation, at: Timestamp) {
        unpoisoned(&self.begun).insert(workspace, (incarnation, at));
    }

    pub(super) fn begun_at(&self, workspace: WorkspaceId, incarnation: Incarnation) -> Option<Timestamp> {
        let begun = unpoisoned(&self.begun).get(&workspace).copied();
        begun.filter(|(of, _)| *of == incarnation).map(|(_, at)| at)
    }

    /// Records the workspaces that have a running container, from a listing. Drops entries of workspaces that are no
    /// longer registered.
    pub(super) fn note_running(&self, running: &[WorkspaceId], is_live: &dyn Fn(WorkspaceId) -> bool) {
        let mut seen = unpoisoned(&self.seen_running);
        seen.extend(running);
        seen.retain(|workspace| is_live(*workspace));
        drop(seen);
        unpoisoned(&self.begun).retain(|workspace, _| is_live(*workspace));
        // A listing proves that the engine answers. A sweep now repeats the waiting starts, so their entries are
        // dropped. An entry for a stop remains only while its container runs.
        unpoisoned(&self.waiting).retain(|workspace, what| {
            *what == Waiting::Stop && running.contains(workspace) && is_live(*workspace)
        });
    }

    /// Records the action that waits for the engine; `None` removes the entry.
    fn note_waiting(&self, workspace: WorkspaceId, waits: Option<Waiting>) {
        let mut waiting = unpoisoned(&self.waiting);
        match waits {
            Some(what) => waiting.insert(workspace, what),
            None => waiting.remove(&workspace),
        };
    }

    /// Whether this process started that incarnation, or has seen a container of the workspace running in a listing.
    pub(super) fn has_run(&self, workspace: WorkspaceId, incarnation: Incarnation) -> bool {
        self.begun_at(workspace, incarnation).is_some() || unpoisoned(&self.seen_running).contains(&workspace)
    }

    /// Number of entries remembered about workspaces.
    pub(super) fn remembered(&self) -> usize {
        unpoisoned(&self.begun).len() + unpoisoned(&self.seen_running).len() + unpoisoned(&self.waiting).len()
    }

    /// What the order in progress is doing.
    pub(super) fn phase(&self, workspace: WorkspaceId) -> Option<String> {
        let phase = self.lock().get(&workspace).map(|queue| queue.phase.clone());
        phase.filter(|phase| !phase.is_empty())
    }

    /// What a sweep repeats once the engine answers.
    pub(super) fn waits(&self, workspace: WorkspaceId) -> Option<String> {
        unpoisoned(&self.waiting).get(&workspace).map(|what| what.description().to_owned())
    }

    /// Queues an order. Returns whether an actor has to be spawned for it.
    fn push(&self, workspace: WorkspaceId, order: Order, waiter: Waiter) -> bool {
        let mut queues = self.lock();
        let idle = !queues.contains_key(&workspace);
        let queue = queues.entry(workspace).or_default();
        if let Some((last, waiters)) = queue.waiting.back_mut()
            && *last == order
        {
            waiters.push(waiter);
        } else {
            queue.waiting.push_back((order, vec![waiter]));
        }
        idle
    }

    /// The next order. If there is none, removes the queue and returns `None`, and the actor ends. Both happen under
    /// one lock, so that an order pushed at the same time gets a new actor.
    fn pop(&self, workspace: WorkspaceId) -> Option<(Order, Vec<Waiter>)> {
        let mut queues = self.lock();
        let next = queues.get_mut(&workspace).and_then(|queue| {
            let next = queue.waiting.pop_front();
            queue.restarts_degraded = next.as_ref().is_some_and(|(order, _)| order.restarts_degraded());
            next
        });
        if next.is_none() {
            queues.remove(&workspace);
        }
        next
    }

    fn set_phase(&self, workspace: WorkspaceId, phase: String) {
        if let Some(queue) = self.lock().get_mut(&workspace) {
            queue.phase = phase;
        }
    }
}

/// Reports the current phase of an order.
#[derive(Clone)]
pub(super) struct Phase {
    inner: Arc<Inner>,
    workspace: WorkspaceId,
}

impl Phase {
    pub(super) fn report(&self, phase: impl Into<String>) {
        self.inner.actors.set_phase(self.workspace, phase.into());
    }
}

impl Ops {
    /// Submits an order and waits for its result. Dropping the future does not cancel the order.
    ///
    /// # Errors
    /// The reason why it was not carried out.
    pub async fn order(&self, workspace: WorkspaceId, order: Order) -> OpResult<Applied> {
        let answer = self.submit(workspace, order);
        answer.await.unwrap_or(Err(OpError::Stopping))
    }

    /// Submits an order. It is carried out even if the receiver is dropped.
    pub(super) fn submit(
        &self,
        workspace: WorkspaceId,
        order: Order,
    ) -> oneshot::Receiver<OpResult<Applied>> {
        let (waiter, answer) = oneshot::channel();
        if self.0.actors.push(workspace, order, waiter) {
            let ops = self.clone();
            self.0.spawn.spawn(Box::pin(async move { ops.work(workspace).await }));
        }
        answer
    }

    async fn work(&self, workspace: WorkspaceId) {
        let mut may_release_children = false;
        while let Some((order, waiters)) = self.0.actors.pop(workspace) {
            may_release_children |=
                matches!(order, Order::Start(_) | Order::RestartDue | Order::MarkOffline(_));
            let may_wait = Waiting::of(&order);
            // If a panic ended this task, the queue would stay without an actor, and no later order on the workspace
            // would run.
            let done = AssertUnwindSafe(self.carry_out(workspace, order)).catch_unwind().await;
            let done = done.unwrap_or_else(|_| {
                tracing::error!(%workspace, "order panicked; the sweeps finish its work");
                Err(OpError::Conflict("an internal error interrupted this operation; see the log".into()))
            });
            if let Some(what) = may_wait {
                self.note_waiting(workspace, what, &done).await;
            }
            self.0.actors.set_phase(workspace, String::new());
            for waiter in waiters {
                // The receiver may have been dropped; that is not an error.
                let _gone = waiter.send(done.clone());
            }
        }
        // Requested only after the actor has ended, because the restart of a workspace waits until its parent is no
        // longer busy.
        if may_release_children {
            self.0.wake.after(RESTART_DUE, Duration::ZERO);
        }
    }

    /// Records from an order's result whether its action waits for the engine. If the engine did not answer a start and
    /// no sweep repeats it, an earlier entry stays.
    async fn note_waiting(&self, workspace: WorkspaceId, what: Waiting, done: &OpResult<Applied>) {
        match done {
            Err(OpError::Engine(error)) if error.gave_no_answer() => {
                if what == Waiting::Stop || self.0.is_retried(workspace).await {
                    self.0.actors.note_waiting(workspace, Some(what));
                }
            }
            Ok(_) | Err(_) => self.0.actors.note_waiting(workspace, None),
        }
    }

    async fn carry_out(&self, workspace: WorkspaceId, order: Order) -> OpResult<Applied> {
        let phase = Phase { inner: Arc::clone(&self.0), workspace };
        match order {
            Order::Start(order) => self.start_now(workspace, order, &phase).await,
            Order::Stop { swept } => self.stop_now(workspace, swept, &phase).await,
            Order::StopUndeleted => self.stop_undeleted_now(workspace, &phase).await,
            Order::MoveToTrash(order) => self.move_to_trash_now(workspace, order, &phase).await,
            Order::MoveRemovedToTrash => self.move_removed_to_trash_now(workspace, &phase).await,
            Order::Purge => self.purge_now(workspace, &phase).await,
            Order::FinishMoveToTrash(entry) => self.finish_move_to_trash_now(entry, &phase).await,
            Order::Restore(entry) => self.restore_now(workspace, entry, &phase).await,
            Order::Delete { entry, guard, swept_by } => self.delete_now(entry, guard, swept_by, &phase).await,
            Order::Adopt(order) => self.adopt_now(workspace, order, &phase).await,
            Order::TakeTokenOver => self.take_token_over_now(workspace).await,
            Order::ForgetNetwork => self.forget_network_now(workspace).await,
            Order::FinishHibernation => self.finish_hibernation_now(workspace, &phase).await,
            Order::RestartDue => self.restart_due_now(workspace, &phase).await,
            Order::RestartDegraded { precondition, why, swept_by } => {
                self.restart_degraded_now(workspace, precondition, (why, swept_by), &phase).await
            }
            Order::MarkOffline(incarnation) => self.mark_offline_now(workspace, incarnation).await,
            Order::MarkReady(incarnation, container) => {
                self.mark_ready_now(workspace, incarnation, &container).await
            }
        }
    }
}
