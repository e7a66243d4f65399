//! A machine in a box: tasks, time, and everything that has an effect, in an order that somebody chooses.
//!
//! Most of what went wrong in systems like this one went wrong *between* two steps. So nothing here
//! happens by itself. A task runs until it waits; what it asked of the world (a transaction, an engine
//! call) is [`Held`] until the test takes it; time stands still until the test moves it. Whoever drives a
//! [`Sim`] therefore decides the whole order of events, by a seed (`smoke.rs`) or one after the other
//! until none is left (`race.rs`, `crash.rs`).
//!
//! # Guarantees
//! - One thread, no clock and no randomness of the host: the same seed and the same choices give the same
//!   history, to the letter.
//! - An effect happens whole, at the moment it is taken, and at most once. A task that gave up waiting
//!   does not undo it, as with a real engine.
//! - [`Sim::crash`] drops every task of the daemon in the middle of whatever it was doing, and every
//!   transaction that was not carried out. What the engine was asked is the test's to keep or to drop:
//!   a request may still arrive after its sender has died.
//!
//! # Assumptions
//! - Between two waits a task only computes: no other task can see it half way. Tasks of a
//!   multi-threaded runtime do run side by side there, but share nothing other than locked maps that are
//!   never held across a wait.
//! - The store answers within an instant: [`Sim::next_timer`] is not to be fired while one of its effects
//!   is held. The engine may take as long as it likes.
//!
//! # Limits
//! - Transactions and queries of the store may take effect in any order, which is more than the daemon's
//!   one writer allows. No test needs the stricter order so far.
//! - The disk is honest: what was committed is there after a crash.

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
    clock::{Boxed, Clock, SharedClock},
    domain::time::{Awake, Timestamp},
    entropy::{Entropy, SharedEntropy},
    tasks::{SharedSpawn, Spawn, Stage},
};

use crate::support::rng::Rng;

/// Whom a task belongs to: who takes it along when they die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// The daemon: gone in a crash.
    Daemon,
    /// A second installation's daemon: goes on when the first one dies.
    Neighbour,
    /// The engine, and whoever else lives outside: goes on without a daemon.
    Engine,
}

/// Where an effect happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A transaction or a query.
    Store,
    /// A call of the engine.
    Engine,
}

/// The order in which ready tasks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskOrder {
    /// As they were woken. What they compute commutes, so an exhaustive search needs no other order.
    AsWoken,
    /// As the seed says.
    Seeded,
}

/// An effect somebody asked for and nobody has let happen yet.
pub(crate) struct Held {
    /// Names it; later ones have greater numbers.
    pub(crate) id: u64,
    /// What it is: the store's name of the transaction, the engine's of the method.
    pub(crate) label: &'static str,
    /// Where it happens.
    pub(crate) place: Place,
    /// Which of several actors asked, where a test tells them apart.
    pub(crate) side: u8,
    owner: Owner,
    effect: Box<dyn FnOnce() + Send>,
}

/// What a test may know of a [`Held`] effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: u64,
    pub(crate) label: &'static str,
    pub(crate) place: Place,
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
    /// By due time, then by age. A waiting task's waker; gone once it was fired.
    timers: BTreeMap<(u64, u64), Option<Waker>>,
    made: u64,
    order: TaskOrder,
    choices: Rng,
    ids: Rng,
}

/// The machine. Cheap to clone.
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

/// The most steps anything calm may take: more is a loop without an end.
const CALM_STEPS: usize = 200_000;

impl Sim {
    /// A machine whose choices and ids come from `seed`. Its clock stands in November 2023.
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

    /// Choices come from another stream of the seed from now on.
    pub(crate) fn reseed(&self, seed: u64, stream: u64) {
        self.core().choices = Rng::new(seed, stream);
    }

    /// The seed's choices.
    pub(crate) fn choose<T>(&self, choose: impl FnOnce(&mut Rng) -> T) -> T {
        choose(&mut self.core().choices)
    }

    pub(crate) fn clock(&self) -> SharedClock {
        self.clock_of(Owner::Engine)
    }

    /// A clock of which it is known how often its owner has read it.
    pub(crate) fn clock_of(&self, owner: Owner) -> SharedClock {
        Arc::new(SimClock { sim: self.clone(), owner })
    }

    /// How often somebody has read the wall clock.
    pub(crate) fn readings(&self, owner: Owner) -> u64 {
        self.core().readings.get(&owner).copied().unwrap_or_default()
    }

    pub(crate) fn entropy(&self) -> SharedEntropy {
        Arc::new(SimEntropy(self.clone()))
    }

    /// Starts tasks that die with `owner`.
    pub(crate) fn spawner(&self, owner: Owner) -> SharedSpawn {
        Arc::new(SimSpawn { sim: self.clone(), owner })
    }

    /// Holds effects at `place`, asked for by `side`.
    pub(crate) fn stage(&self, place: Place, side: u8) -> Arc<dyn Stage> {
        self.stage_of(Owner::Daemon, place, side)
    }

    /// The same, for one of several daemons.
    pub(crate) fn stage_of(&self, owner: Owner, place: Place, side: u8) -> Arc<dyn Stage> {
        Arc::new(SimStage { sim: self.clone(), owner, place, side })
    }

    pub(crate) fn spawn(&self, owner: Owner, task: impl Future<Output = ()> + Send + 'static) {
        let mut core = self.core();
        core.made += 1;
        let id = core.made;
        let waker = TaskWaker { task: id, queued: AtomicBool::new(true), woken: Arc::clone(&self.woken) };
        let waker = Arc::new(waker);
        // The flag lives in the waker; a task that is about to be polled clears it through the slot.
        let slot = Slot {
            owner,
            future: Some(Box::pin(Requeued { waker: Arc::clone(&waker), task: Box::pin(task) })),
            waker: waker.into(),
        };
        core.tasks.insert(id, slot);
        drop(core);
        self.woken.lock().unwrap().push(id);
    }

    /// Runs every task until each of them waits for something.
    pub(crate) fn run_ready(&self) {
        while self.run_one() {}
    }

    /// Runs one of the tasks that were woken, until it waits for something. `false` when there is none.
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
            // The lock is free here: the task will want time, ids and the stage.
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

    /// What is held, the oldest first.
    pub(crate) fn held(&self) -> Vec<Seen> {
        let seen = |held: &Held| Seen { id: held.id, label: held.label, place: held.place, side: held.side };
        self.core().held.iter().map(seen).collect()
    }

    /// Lets a held effect happen.
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

    /// How long it is until the next timer.
    pub(crate) fn next_timer(&self) -> Option<Duration> {
        let core = self.core();
        core.timers
            .first_key_value()
            .map(|((due, _), _)| Duration::from_millis(due.saturating_sub(core.awake)))
    }

    /// Time passes until the next timer, which fires. Answers whether there was one.
    pub(crate) fn fire_next_timer(&self) -> bool {
        let mut core = self.core();
        let Some(((due, _), waker)) = core.timers.pop_first() else { return false };
        // One that fell due while the machine was frozen fires late.
        let passed = due.saturating_sub(core.awake);
        core.awake += passed;
        core.wall += i64::try_from(passed).expect("a test's time is short");
        drop(core);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Time passes in which no task runs and no timer fires: as for a process that is stopped.
    pub(crate) fn freeze(&self, time: Duration) {
        let mut core = self.core();
        core.awake += u64::try_from(time.as_millis()).unwrap();
        core.wall += i64::try_from(time.as_millis()).unwrap();
    }

    /// Time passes in which nothing was due.
    pub(crate) fn idle(&self, time: Duration) {
        let mut core = self.core();
        assert!(core.timers.is_empty(), "something is due");
        core.awake += u64::try_from(time.as_millis()).unwrap();
        core.wall += i64::try_from(time.as_millis()).unwrap();
    }

    /// The wall clock is set, or the machine was asleep: awake time does not move.
    pub(crate) fn jump(&self, by_ms: i64) {
        self.core().wall += by_ms;
    }

    /// The daemon dies. Of the engine calls it had asked for and that have not happened, those that
    /// `survives` names may still happen; nothing else of it does.
    pub(crate) fn crash(&self, mut survives: impl FnMut(Seen) -> bool) {
        let mut core = self.core();
        let dead = core.tasks.iter().filter(|(_, slot)| slot.owner == Owner::Daemon).map(|(id, _)| *id);
        let dead: Vec<_> = dead.collect();
        let mut dropped_tasks: Vec<_> = dead.iter().filter_map(|id| core.tasks.remove(id)).collect();
        let (kept, dropped): (Vec<_>, Vec<_>) = mem::take(&mut core.held).into_iter().partition(|held| {
            let seen = Seen { id: held.id, label: held.label, place: held.place, side: held.side };
            held.owner != Owner::Daemon || (held.place == Place::Engine && survives(seen))
        });
        core.held = kept;
        // Dropping a task cancels its timers, for which it needs the lock.
        drop(core);
        dropped_tasks.clear();
        drop(dropped);
    }

    /// Drops everything. Tasks hold the machine and the machine holds them: without this, nobody lets go.
    pub(crate) fn end(&self) {
        let mut core = self.core();
        let (tasks, held) = (mem::take(&mut core.tasks), mem::take(&mut core.held));
        drop(core);
        drop(tasks);
        drop(held);
    }

    /// One step without surprises: the oldest effect is taken. `false` when none was held.
    pub(crate) fn step_calmly(&self) -> bool {
        self.run_ready();
        let Some(oldest) = self.held().first().copied() else { return false };
        self.take(oldest.id);
        true
    }

    /// Carries `work` out without surprises, time passing as it needs.
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
            assert!(self.step_calmly() || self.fire_next_timer(), "something waits for nothing, for ever");
        }
        panic!("this does not end");
    }

    /// So much time passes without surprises.
    pub(crate) fn pass(&self, time: Duration) {
        let until = self.core().awake + u64::try_from(time.as_millis()).expect("a test's time is short");
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
        panic!("there is no end to what happens within {time:?}");
    }

    /// Everything that was begun comes to its end, time passing as it needs.
    pub(crate) fn quiesce(&self) {
        for _ in 0..CALM_STEPS {
            if !self.step_calmly() && !self.fire_next_timer() {
                return;
            }
        }
        panic!("this never comes to rest");
    }
}

/// A task that may be woken again from the moment it is polled.
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

/// Waits for its timer; takes it along when it is dropped.
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
    place: Place,
    side: u8,
}

impl Stage for SimStage {
    fn submit(&self, label: &'static str, effect: Box<dyn FnOnce() + Send>) {
        let mut core = self.sim.core();
        core.made += 1;
        let (owner, place, side) = (self.owner, self.place, self.side);
        let held = Held { id: core.made, label, place, side, owner, effect };
        core.held.push(held);
    }
}
