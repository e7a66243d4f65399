//! A deterministic executor: tasks, time and every external effect, in an order that the test chooses.
//!
//! Most failures of such systems happen *between* two steps, so here the test controls every step. A task runs until it
//! waits. Each external effect that it requested (a transaction, an engine call) is [`Held`] until the test takes it,
//! which carries it out. Time stands still until the test advances it. The code that drives a [`Sim`] therefore decides
//! the whole order of events: by a seed (`scenario/mod.rs`), or by enumerating every order (`race.rs`, `crash.rs`).
//!
//! # Guarantees
//! - One thread, and neither clock nor randomness of the host: the same seed and the same choices give exactly the
//!   same history.
//! - An effect happens completely, at the moment it is taken, and at most once. A task that stops waiting does not
//!   undo it, as with a real engine.
//! - [`Sim::crash`] drops every task of the daemon wherever it is, and every transaction that was not carried out. The
//!   test decides which outstanding engine calls to keep: a request may still arrive after its sender has died.
//!
//! # Assumptions
//! - Between two waits a task only computes, and no other task can observe an intermediate state of it. In the real
//!   daemon, tasks compute in parallel on several threads. They share only maps behind locks, and hold no lock while
//!   they wait.
//! - The store answers without any delay: do not fire [`Sim::next_timer`] while a store effect is held. The engine may
//!   take any time.
//!
//! # Limits
//! - Transactions and queries of the store may take effect in any order; the daemon's single writer allows fewer
//!   orders. No test needs the stricter order so far.
//! - The disk is reliable: every committed change is present after a crash.

use std::{
    collections::BTreeMap,
    future::Future,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use ostler::{
    domain::time::{Awake, Timestamp},
    runtime::{
        clock::{Boxed, Clock, SharedClock},
        entropy::{Entropy, SharedEntropy},
        tasks::{SharedSpawn, Spawn, Stage},
    },
};

use crate::support::rng::Rng;

/// The process that a task belongs to and ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// The daemon: its tasks are dropped in a crash.
    Daemon,
    /// A second installation's daemon: its tasks continue when the first daemon crashes.
    Neighbour,
    /// The engine and other external actors: their tasks continue when a daemon crashes.
    Engine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EffectState {
    /// A transaction or a query.
    Store,
    /// An engine call.
    Engine,
}

/// The order in which ready tasks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskOrder {
    /// In wake-up order. The order of the tasks' computations does not change the result, so an exhaustive search needs
    /// no other order.
    AsWoken,
    /// In an order chosen by the seed.
    Seeded,
}

/// A requested effect that has not been carried out yet.
pub(crate) struct Held {
    /// Unique; increases with the time of the request.
    pub(crate) id: u64,
    /// The store's name of the transaction, or the engine's name of the method.
    pub(crate) label: &'static str,
    pub(crate) state: EffectState,
    /// The actor that requested the effect, if a test distinguishes several actors.
    pub(crate) side: u8,
    owner: Owner,
    effect: Box<dyn FnOnce() + Send>,
}

/// The public part of a [`Held`] effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: u64,
    pub(crate) label: &'static str,
    pub(crate) state: EffectState,
    pub(crate) side: u8,
}

struct Slot {
    owner: Owner,
    /// `None` while it is being polled.
    future: Option<Boxed<()>>,
    waker: Waker,
}

struct Core {
    wall: i64,
    readings: BTreeMap<Owner, u64>,
    awake: u64,
    tasks: BTreeMap<u64, Slot>,
    held: Vec<Held>,
    /// Ordered by due time, then by age. The value is the waiting task's waker; an entry is removed when it fires.
    timers: BTreeMap<(u64, u64), Option<Waker>>,
    made: u64,
    order: TaskOrder,
    choices: Rng,
    ids: Rng,
}

/// The simulated machine. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sim {
    core: Arc<Mutex<Core>>,
    woken: Arc<Mutex<Vec<u64>>>,
}

struct TaskWaker {
    task: u64,
    queued: AtomicBool,
    woken: Arc<Mutex<Vec<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.woken.lock().unwrap().push(self.task);
        }
    }
}

/// Maximum number of steps of an operation without faults or races. More steps are reported as an endless loop.
const CALM_STEPS: usize = 200_000;

impl Sim {
    /// A machine whose choices and ids come from `seed`. Its wall clock starts in November 2023.
    pub(crate) fn new(seed: u64, order: TaskOrder) -> Self {
        let core = Core {
            wall: 1_700_000_000_000,
            readings: BTreeMap::new(),
            awake: 0,
            tasks: BTreeMap::new(),
            held: Vec::new(),
            timers: BTreeMap::new(),
            made: 0,
            order,
            choices: Rng::new(seed, 1),
            ids: Rng::new(seed, 2),
        };
        Self { core: Arc::new(Mutex::new(core)), woken: Arc::default() }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap()
    }

    /// Takes choices from another stream of the seed from now on.
    pub(crate) fn reseed(&self, seed: u64, stream: u64) {
        self.core().choices = Rng::new(seed, stream);
    }

    /// Makes a choice with the seed's generator.
    pub(crate) fn choose<T>(&self, choose: impl FnOnce(&mut Rng) -> T) -> T {
        choose(&mut self.core().choices)
    }

    pub(crate) fn clock(&self) -> SharedClock {
        self.clock_of(Owner::Engine)
    }

    /// A clock that counts how often its owner has read it.
    pub(crate) fn clock_of(&self, owner: Owner) -> SharedClock {
        Arc::new(SimClock { sim: self.clone(), owner })
    }

    /// How often `owner` has read the wall clock.
    pub(crate) fn readings(&self, owner: Owner) -> u64 {
        self.core().readings.get(&owner).copied().unwrap_or_default()
    }

    pub(crate) fn entropy(&self) -> SharedEntropy {
        Arc::new(SimEntropy(self.clone()))
    }

    /// Returns a spawner whose tasks end when `owner` ends.
    pub(crate) fn spawner(&self, owner: Owner) -> SharedSpawn {
        Arc::new(SimSpawn { sim: self.clone(), owner })
    }

    /// Returns a [`Stage`] of the daemon that holds effects on `state` requested by `side`.
    pub(crate) fn stage(&self, state: EffectState, side: u8) -> Arc<dyn Stage> {
        self.stage_of(Owner::Daemon, state, side)
    }

    /// Like `stage`, for effects that another `owner` requests.
    pub(crate) fn stage_of(&self, owner: Owner, state: EffectState, side: u8) -> Arc<dyn Stage> {
        Arc::new(SimStage { sim: self.clone(), owner, state, side })
    }

    pub(crate) fn spawn(&self, owner: Owner, task: impl Future<Output = ()> + Send + 'static) {
        let mut core = self.core();
        core.made += 1;
        let id = core.made;
        let waker = TaskWaker { task: id, queued: AtomicBool::new(true), woken: Arc::clone(&self.woken) };
        let waker = Arc::new(waker);
        // The waker's flag `queued` prevents a second entry in the queue. `Requeued` clears it when the task is polled.
        let slot = Slot {
            owner,
            future: Some(Box::pin(Requeued { waker: Arc::clone(&waker), task: Box::pin(task) })),
            waker: waker.into(),
        };
        core.tasks.insert(id, slot);
        drop(core);
        self.woken.lock().unwrap().push(id);
    }

    /// Runs every task until each of them waits.
    pub(crate) fn run_ready(&self) {
        while self.run_one() {}
    }

    /// Runs one woken task until it waits. `false` if no task was woken.
    pub(crate) fn run_one(&self) -> bool {
        while let Some(id) = self.next_woken() {
            let Some((mut future, waker)) = self
                .core()
                .tasks
                .get_mut(&id)
                .and_then(|slot| slot.future.take().map(|future| (future, slot.waker.clone())))
            else {
                continue;
            };
            // The lock must be free here: the task takes it for time, ids and the stage.
            let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
            let mut core = self.core();
            if done {
                core.tasks.remove(&id);
            } else if let Some(slot) = core.tasks.get_mut(&id) {
                slot.future = Some(future);
            }
            return true;
        }
        false
    }

    fn next_woken(&self) -> Option<u64> {
        let mut woken = self.woken.lock().unwrap();
        if woken.is_empty() {
            return None;
        }
        let mut core = self.core();
        let index = match core.order {
            TaskOrder::AsWoken => 0,
            TaskOrder::Seeded => core.choices.below(woken.len()),
        };
        Some(woken.remove(index))
    }

    /// The held effects, oldest first.
    pub(crate) fn held(&self) -> Vec<Seen> {
        let seen = |held: &Held| Seen { id: held.id, label: held.label, state: held.state, side: held.side };
        self.core().held.iter().map(seen).collect()
    }

    /// Carries out a held effect.
    pub(crate) fn take(&self, id: u64) {
        let held = self.remove(id);
        (held.effect)();
    }

    fn remove(&self, id: u64) -> Held {
        let mut core = self.core();
        let index = core.held.iter().position(|held| held.id == id).expect("it is held");
        core.held.remove(index)
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.core().wall)
    }

    /// Time until the next timer.
    pub(crate) fn next_timer(&self) -> Option<Duration> {
        let core = self.core();
        core.timers
            .first_key_value()
            .map(|((due, _), _)| Duration::from_millis(due.saturating_sub(core.awake)))
    }

    /// Advances time to the next timer and fires it. `false` if there is none.
    pub(crate) fn fire_next_timer(&self) -> bool {
        let mut core = self.core();
        let Some(((due, _), waker)) = core.timers.pop_first() else { return false };
        // A timer that became due while the machine was frozen fires late.
        let passed = due.saturating_sub(core.awake);
        core.awake += passed;
        core.wall += i64::try_from(passed).expect("a test's time fits");
        drop(core);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Advances time without running tasks or firing timers, like a stopped process.
    pub(crate) fn freeze(&self, time: Duration) {
        let mut core = self.core();
        core.awake += u64::try_from(time.as_millis()).unwrap();
        core.wall += i64::try_from(time.as_millis()).unwrap();
    }

    /// Advances time while no timer exists.
    pub(crate) fn idle(&self, time: Duration) {
        let mut core = self.core();
        assert!(core.timers.is_empty(), "time cannot pass idly: a timer exists");
        core.awake += u64::try_from(time.as_millis()).unwrap();
        core.wall += i64::try_from(time.as_millis()).unwrap();
    }

    /// Moves the wall clock only: it was set, or the machine was suspended. Awake time does not move.
    pub(crate) fn jump(&self, by_ms: i64) {
        self.core().wall += by_ms;
    }

    /// Ends the daemon. Of its outstanding engine calls, those that `survives` selects may still happen; all its other
    /// effects are dropped.
    pub(crate) fn crash(&self, mut survives: impl FnMut(Seen) -> bool) {
        let mut core = self.core();
        let dead = core.tasks.iter().filter(|(_, slot)| slot.owner == Owner::Daemon).map(|(id, _)| *id);
        let dead: Vec<_> = dead.collect();
        let mut dropped_tasks: Vec<_> = dead.iter().filter_map(|id| core.tasks.remove(id)).collect();
        let (kept, dropped): (Vec<_>, Vec<_>) = mem::take(&mut core.held).into_iter().partition(|held| {
            let seen = Seen { id: held.id, label: held.label, state: held.state, side: held.side };
            held.owner != Owner::Daemon || (held.state == EffectState::Engine && survives(seen))
        });
        core.held = kept;
        // Dropping a task cancels its timers, which takes the lock.
        drop(core);
        dropped_tasks.clear();
        drop(dropped);
    }

    /// Drops all tasks and effects. Tasks and the machine refer to each other, so without this call neither is freed.
    pub(crate) fn end(&self) {
        let mut core = self.core();
        let (tasks, held) = (mem::take(&mut core.tasks), mem::take(&mut core.held));
        drop(core);
        drop(tasks);
        drop(held);
    }

    /// Runs the ready tasks and takes the oldest effect. `false` if none was held.
    pub(crate) fn step_calmly(&self) -> bool {
        self.run_ready();
        let Some(oldest) = self.held().first().copied() else { return false };
        self.take(oldest.id);
        true
    }

    /// Runs `work` to its end without faults or races; advances time as needed.
    pub(crate) fn calmly<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let done = Arc::new(Mutex::new(None));
        let answer = Arc::clone(&done);
        self.spawn(Owner::Daemon, async move {
            let value = work.await;
            *answer.lock().unwrap() = Some(value);
        });
        for _ in 0..CALM_STEPS {
            self.run_ready();
            if let Some(value) = done.lock().unwrap().take() {
                return value;
            }
            assert!(
                self.step_calmly() || self.fire_next_timer(),
                "a task waits, and no effect or timer is left"
            );
        }
        panic!("the work does not end");
    }

    /// Advances time by `time` without faults or races.
    pub(crate) fn pass(&self, time: Duration) {
        let until = self.core().awake + u64::try_from(time.as_millis()).expect("a test's time fits");
        for _ in 0..CALM_STEPS {
            if self.step_calmly() {
                continue;
            }
            let awake = self.core().awake;
            match self.next_timer() {
                Some(wait) if awake + u64::try_from(wait.as_millis()).unwrap() <= until => {
                    self.fire_next_timer();
                }
                _ => {
                    let mut core = self.core();
                    core.wall += i64::try_from(until - awake).unwrap();
                    core.awake = until;
                    return;
                }
            }
        }
        panic!("endless steps within {time:?}");
    }

    /// Runs all started work until it ends; advances time as needed.
    pub(crate) fn quiesce(&self) {
        for _ in 0..CALM_STEPS {
            if !self.step_calmly() && !self.fire_next_timer() {
                return;
            }
        }
        panic!("the simulation never comes to rest");
    }
}

/// A task that clears its waker's flag `queued` whenever it is polled, so that it can be queued again from then on.
struct Requeued {
    waker: Arc<TaskWaker>,
    task: Boxed<()>,
}

impl Future for Requeued {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.waker.queued.store(false, Ordering::Relaxed);
        self.task.as_mut().poll(context)
    }
}

struct SimClock {
    sim: Sim,
    owner: Owner,
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        *self.sim.core().readings.entry(self.owner).or_default() += 1;
        self.sim.now()
    }

    fn awake(&self) -> Awake {
        Awake(self.sim.core().awake)
    }

    fn sleep(&self, duration: Duration) -> Boxed<()> {
        let mut core = self.sim.core();
        core.made += 1;
        let key =
            (core.awake.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)), core.made);
        core.timers.insert(key, None);
        drop(core);
        Box::pin(Sleep { sim: self.sim.clone(), key })
    }
}

/// Waits for its timer; dropping it removes the timer.
struct Sleep {
    sim: Sim,
    key: (u64, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match self.sim.core().timers.get_mut(&self.key) {
            None => Poll::Ready(()),
            Some(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.sim.core().timers.remove(&self.key);
    }
}

struct SimEntropy(Sim);

impl Entropy for SimEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut core = self.0.core();
        for chunk in bytes.chunks_mut(8) {
            let random = core.ids.next().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }
}

struct SimSpawn {
    sim: Sim,
    owner: Owner,
}

impl Spawn for SimSpawn {
    fn spawn(&self, task: Boxed<()>) {
        self.sim.spawn(self.owner, task);
    }
}

struct SimStage {
    sim: Sim,
    owner: Owner,
    state: EffectState,
    side: u8,
}

impl Stage for SimStage {
    fn submit(&self, label: &'static str, effect: Box<dyn FnOnce() + Send>) {
        let mut core = self.sim.core();
        core.made += 1;
        let (owner, state, side) = (self.owner, self.state, self.side);
        let held = Held { id: core.made, label, state, side, owner, effect };
        core.held.push(held);
    }
}
