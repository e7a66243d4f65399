//! One actor per workspace: whatever changes its things in the engine happens here, one at a time.
//!
//! Orders queue, none is dropped, and an order equal to the last one waiting joins it instead of being
//! done twice. Actors exist only while there is something to do. Because a pass submits its actions here
//! like everybody else, no sweep ever acts between two steps of a start.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::{Semaphore, oneshot};

use super::{
    Inner, OpError, OpResult, Ops, RESTART_DUE, adopt::AdoptOrder, put_away::PutAway, start::StartOrder,
};
use crate::domain::{
    ids::{ContainerId, Incarnation, TrashId, WorkspaceId},
    time::Timestamp,
};
use crate::store::{DeleteGuard, Unless};

/// Something to do with a workspace's things in the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Bring its container up as a new incarnation.
    Start(StartOrder),
    /// See its containers stopped, as long as its row forbids that they run.
    Stop {
        /// The pass that found it, if one did: then it is told of and counted.
        swept: Option<(&'static str, String)>,
    },
    /// See the containers of an undeleted row stopped, unless it was started since.
    StopUndeleted,
    /// Put things into the trash.
    PutAway(PutAway),
    /// Put whatever the removed row still owns into the trash.
    PutAwayRemoved,
    /// Delete for good whatever the removed row owned.
    Purge,
    /// Finish a claim that was left half done.
    FinishPutAway(TrashId),
    /// Give things back from the trash to a live row.
    Restore(TrashId),
    /// Delete a trash entry for good.
    Delete {
        /// Which.
        entry: TrashId,
        /// Only if this is so.
        guard: DeleteGuard,
        /// The pass, if one decided it.
        swept_by: Option<&'static str>,
    },
    /// Rebuild its row.
    Adopt(AdoptOrder),
    /// Make the token its running process holds the current one, if the registry never heard of it.
    TakeTokenOver,
    /// See the container of a row that is falling asleep stopped.
    FinishHibernation,
    /// Start again what is offline, if that is due.
    RestartDue,
    /// Start anew what runs and gives no good sign of life, unless it has given one.
    RestartUnwell {
        /// What keeps it from being done.
        unless: Unless,
        /// Why, for people.
        why: String,
        /// The pass that decided it: the breaker counts it.
        swept_by: &'static str,
    },
    /// Delete its network, unless it is back or a container belongs to it.
    ForgetNetwork,
    /// Note that its container is gone or has ended, after another look.
    MarkOffline(Incarnation),
    /// Note that its container runs, after another look.
    MarkReady(Incarnation, ContainerId),
}

impl Order {
    fn restarts_unwell(&self) -> bool {
        matches!(self, Self::RestartUnwell { .. })
    }

    /// Whether another of the same kind is done with this one. It counts from when it was said last then.
    fn is_joined_by(&mut self, other: &Self) -> bool {
        if let (Self::Start(this), Self::Start(other)) = (&mut *self, other) {
            let said_after = this.said_after.max(other.said_after);
            let is_same = *this == StartOrder { said_after: this.said_after, ..other.clone() };
            if is_same {
                this.said_after = said_after;
            }
            return is_same;
        }
        *self == *other
    }
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was done; what there is to say about it.
    Done(String),
    /// What it was decided on no longer holds: nothing was done.
    Raced(String),
}

type Waiter = oneshot::Sender<OpResult<Applied>>;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Order, Vec<Waiter>)>,
    phase: String,
    /// Whether the order being carried out is a restart of what gives no good sign of life.
    restarts_unwell: bool,
}

/// The actors at work.
pub(super) struct Actors {
    queues: Mutex<BTreeMap<WorkspaceId, Queue>>,
    /// Rows that are being made: nobody is at work on them yet, and somebody is about to be.
    reserved: Mutex<BTreeSet<WorkspaceId>>,
    /// The incarnations this process brought up, and when.
    begun: Mutex<BTreeMap<WorkspaceId, (Incarnation, Timestamp)>>,
    /// Workspaces whose container this process has seen running in a listing.
    seen_running: Mutex<BTreeSet<WorkspaceId>>,
    /// Orders that met an engine which gave no answer: the sweeps go on with them once it does.
    waiting: Mutex<BTreeMap<WorkspaceId, Waiting>>,
    /// Starts that may touch the engine at once.
    pub(super) starts: Semaphore,
}

/// What waits for the engine.
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
            Order::PutAway(_)
            | Order::PutAwayRemoved
            | Order::Purge
            | Order::FinishPutAway(_)
            | Order::Restore(_)
            | Order::Delete { .. }
            | Order::Adopt(_)
            | Order::TakeTokenOver
            | Order::RestartUnwell { .. }
            | Order::ForgetNetwork
            | Order::MarkOffline(_)
            | Order::MarkReady(..) => None,
        }
    }

    fn says(self) -> &'static str {
        match self {
            Self::Start => "start: waits until Podman answers",
            Self::Stop => "stop: waits until Podman answers",
        }
    }
}

/// Keeps a workspace busy until an order of its own does.
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
        // Reservations first: one that ends has become an order by then.
        let reserved = unpoisoned(&self.reserved).clone();
        self.lock().keys().copied().chain(reserved).collect()
    }

    pub(super) fn restarting_unwell(&self) -> BTreeSet<WorkspaceId> {
        let restarts = |queue: &Queue| {
            queue.restarts_unwell || queue.waiting.iter().any(|(order, _)| order.restarts_unwell())
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

    /// Takes in a listing: these workspaces have a running container. Forgets those that are not registered any more.
    pub(super) fn note_running(&self, running: &[WorkspaceId], is_live: &dyn Fn(WorkspaceId) -> bool) {
        let mut seen = unpoisoned(&self.seen_running);
        seen.extend(running);
        seen.retain(|workspace| is_live(*workspace));
        drop(seen);
        unpoisoned(&self.begun).retain(|workspace, _| is_live(*workspace));
        // The engine answers: a start is begun again by a sweep, a stop has something left to stop or has not.
        unpoisoned(&self.waiting).retain(|workspace, what| {
            *what == Waiting::Stop && running.contains(workspace) && is_live(*workspace)
        });
    }

    /// Keeps whether something waits for the engine, after an order that it answered or that waits for it.
    fn note_waiting(&self, workspace: WorkspaceId, waits: Option<Waiting>) {
        let mut waiting = unpoisoned(&self.waiting);
        match waits {
            Some(what) => waiting.insert(workspace, what),
            None => waiting.remove(&workspace),
        };
    }

    /// Whether this process knows that a container of that incarnation ran while this process did.
    pub(super) fn has_run(&self, workspace: WorkspaceId, incarnation: Incarnation) -> bool {
        self.begun_at(workspace, incarnation).is_some() || unpoisoned(&self.seen_running).contains(&workspace)
    }

    /// How many workspaces are remembered.
    pub(super) fn remembered(&self) -> usize {
        unpoisoned(&self.begun).len() + unpoisoned(&self.seen_running).len() + unpoisoned(&self.waiting).len()
    }

    pub(super) fn operation(&self, workspace: WorkspaceId) -> Option<String> {
        let phase = self.lock().get(&workspace).map(|queue| queue.phase.clone());
        phase
            .filter(|phase| !phase.is_empty())
            .or_else(|| unpoisoned(&self.waiting).get(&workspace).map(|what| what.says().to_owned()))
    }

    /// Queues an order. Answers whether an actor has to be started for it.
    fn push(&self, workspace: WorkspaceId, order: Order, waiter: Waiter) -> bool {
        let mut queues = self.lock();
        let idle = !queues.contains_key(&workspace);
        let queue = queues.entry(workspace).or_default();
        if let Some((last, waiters)) = queue.waiting.back_mut()
            && last.is_joined_by(&order)
        {
            waiters.push(waiter);
        } else {
            queue.waiting.push_back((order, vec![waiter]));
        }
        idle
    }

    /// The next order, or the end of the actor: decided under one lock, so that no order falls between.
    fn pop(&self, workspace: WorkspaceId) -> Option<(Order, Vec<Waiter>)> {
        let mut queues = self.lock();
        let next = queues.get_mut(&workspace).and_then(|queue| {
            let next = queue.waiting.pop_front();
            queue.restarts_unwell = next.as_ref().is_some_and(|(order, _)| order.restarts_unwell());
            next
        });
        if next.is_none() {
            queues.remove(&workspace);
        }
        next
    }

    fn say(&self, workspace: WorkspaceId, phase: String) {
        if let Some(queue) = self.lock().get_mut(&workspace) {
            queue.phase = phase;
        }
    }
}

/// Lets an order say what it is doing.
#[derive(Clone)]
pub(super) struct Phase {
    inner: Arc<Inner>,
    workspace: WorkspaceId,
}

impl Phase {
    pub(super) fn say(&self, phase: impl Into<String>) {
        self.inner.actors.say(self.workspace, phase.into());
    }
}

impl Ops {
    /// Gives an order and waits for what comes of it. Dropping the future does not take it back.
    ///
    /// # Errors
    /// Why it was not carried out.
    pub async fn order(&self, workspace: WorkspaceId, order: Order) -> OpResult<Applied> {
        self.submit(workspace, order).await.unwrap_or(Err(OpError::Stopping))
    }

    /// Gives an order. It is carried out whether or not the answer is waited for.
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
        if let Some(queued) = &self.1 {
            queued.tell();
        }
        answer
    }

    async fn work(&self, workspace: WorkspaceId) {
        let mut may_release_children = false;
        while let Some((order, waiters)) = self.0.actors.pop(workspace) {
            may_release_children |=
                matches!(order, Order::Start(_) | Order::RestartDue | Order::MarkOffline(_));
            let may_wait = Waiting::of(&order);
            // A panic in one order must not leave the workspace without an actor for ever.
            let done = AssertUnwindSafe(self.carry_out(workspace, order)).catch_unwind().await;
            let done = done.unwrap_or_else(|_| {
                tracing::error!(%workspace, "an order panicked; the sweeps finish what it began");
                Err(OpError::Conflict("an internal fault interrupted this; see the log".into()))
            });
            if let Some(what) = may_wait {
                self.note_waiting(workspace, what, &done).await;
            }
            self.0.actors.say(workspace, String::new());
            for waiter in waiters {
                // Nobody waiting any more is no fault.
                let _gone = waiter.send(done.clone());
            }
        }
        // After the actor is gone: what waits for its parent is begun only when that is not busy any more.
        if may_release_children {
            self.0.wake.after(RESTART_DUE, Duration::ZERO);
        }
    }

    /// Keeps what waits for the engine, by what came of an order. A start that nothing tries again waits for nothing, and
    /// leaves what waited before it.
    async fn note_waiting(&self, workspace: WorkspaceId, what: Waiting, done: &OpResult<Applied>) {
        match done {
            Err(OpError::Engine(error)) if error.gave_no_answer() => {
                if what == Waiting::Stop || self.0.is_begun_again(workspace).await {
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
            Order::PutAway(order) => self.put_away_now(workspace, order, &phase).await,
            Order::PutAwayRemoved => self.put_away_removed_now(workspace, &phase).await,
            Order::Purge => self.purge_now(workspace, &phase).await,
            Order::FinishPutAway(entry) => self.finish_put_away_now(entry, &phase).await,
            Order::Restore(entry) => self.restore_now(workspace, entry, &phase).await,
            Order::Delete { entry, guard, swept_by } => self.delete_now(entry, guard, swept_by, &phase).await,
            Order::Adopt(order) => self.adopt_now(workspace, order, &phase).await,
            Order::TakeTokenOver => self.take_token_over_now(workspace).await,
            Order::ForgetNetwork => self.forget_network_now(workspace).await,
            Order::FinishHibernation => self.finish_hibernation_now(workspace, &phase).await,
            Order::RestartDue => self.restart_due_now(workspace, &phase).await,
            Order::RestartUnwell { unless, why, swept_by } => {
                self.restart_unwell_now(workspace, unless, (why, swept_by), &phase).await
            }
            Order::MarkOffline(incarnation) => self.mark_offline_now(workspace, incarnation).await,
            Order::MarkReady(incarnation, container) => {
                self.mark_ready_now(workspace, incarnation, &container).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_that_differ_only_in_when_they_were_said_are_one_said_last() {
        let start = |said_after, new_container| {
            Order::Start(StartOrder { new_container, said_after, ..StartOrder::default() })
        };
        let mut first = start(Some(1), true);
        assert!(first.is_joined_by(&start(Some(7), true)));
        assert_eq!(first, start(Some(7), true));
        assert!(first.is_joined_by(&start(Some(3), true)));
        assert_eq!(first, start(Some(7), true), "it was said at 7 too");
        assert!(!first.is_joined_by(&start(Some(9), false)));
        assert_eq!(first, start(Some(7), true), "nothing joined it");
    }
}
