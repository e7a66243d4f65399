//! Decides when each pass runs, and limits each run: by a deadline, and by a guard that catches panics. No pass is
//! treated specially.
//!
//! One task, the driver, decides when runs begin. Every run is a task of its own, and the driver never waits for the
//! engine, the store or a run. For each pass, the driver keeps the time of the next scheduled run, the requested
//! wake-ups and the callers that wait for a run. Rules:
//!
//! * Two runs of the same pass never overlap. If a pass becomes due during its run (by schedule, wake-up or request),
//!   one more run follows.
//! * A wake-up that is requested for a certain time is fulfilled only by a run that begins at that time or later.
//! * A dry run begins at once, even during another run, and does not change the schedule.
//! * Runs that begin together share one container listing, which is requested after they became due.
//!
//! The driver also helps to detect that the process itself was stopped (SIGSTOP, a debugger, swap). It never sleeps
//! longer than [`TICK`], and before each sleep it passes the end of the sleep to `runtime/epoch.rs`. If any task reads
//! the clock well after that time and the driver has not run again, a new liveness epoch starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    context::{Sweeper, Ticket},
    pass::{Pass, Requirement},
    run::{Mode, Outcome, Run},
};
use crate::{
    domain::time::Awake,
    engine::trusted::Untrusted,
    runtime::{
        clock::{SharedClock, within},
        tasks::SharedSpawn,
        wake::Call,
    },
    testing::mutation::{Mutation, is},
};

/// The longest sleep of the driver. A stop of the process is detected if it lasts longer than this plus the allowed
/// lateness of a timer. The sum must stay well below the shortest liveness window, which is three minutes.
const TICK: Duration = Duration::from_secs(10);

/// The deadline of one run of a pass. A run may contain several stops, each with its grace period.
const DEADLINE: Duration = Duration::from_mins(5);

/// The public state of a pass.
#[derive(Clone, Debug)]
pub struct PassStatus {
    /// Name of the pass, unique.
    pub name: &'static str,
    /// What the pass does, in one line for the user.
    pub summary: &'static str,
    /// Time between scheduled runs.
    pub period: Duration,
    /// Whether a run is in progress; dry runs do not count.
    pub running: bool,
    /// Time at which the last run began; before the first run, the time at which that run became due.
    pub begun_at: Awake,
    /// The last finished run.
    pub last: Option<Run>,
}

struct Request {
    passes: Vec<&'static str>,
    mode: Mode,
    answer: oneshot::Sender<Vec<Run>>,
}

type Statuses = Arc<Mutex<BTreeMap<&'static str, PassStatus>>>;

/// Sends requests to the driver. Cheap to clone.
#[derive(Clone)]
pub struct DriverHandle {
    requests: mpsc::UnboundedSender<Request>,
    statuses: Statuses,
    order: Arc<Vec<&'static str>>,
}

impl DriverHandle {
    /// The state of all passes, in the order in which they run.
    #[must_use]
    pub fn statuses(&self) -> Vec<PassStatus> {
        let statuses = unpoisoned(&self.statuses);
        self.order.iter().filter_map(|name| statuses.get(name).cloned()).collect()
    }

    /// Runs these passes now (all passes if `passes` is empty) and returns the results. A pass that is already running
    /// runs once more afterwards; a dry run begins at once. The result is empty if the driver has stopped.
    pub async fn run_now(&self, passes: Vec<&'static str>, mode: Mode) -> Vec<Run> {
        let (answer, done) = oneshot::channel();
        if self.requests.send(Request { passes, mode, answer }).is_err() {
            return Vec::new();
        }
        done.await.unwrap_or_default()
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pass, its schedule and its pending requests.
struct Slot {
    pass: Arc<dyn Pass>,
    /// Time of the next scheduled run.
    due: Awake,
    /// Times of requested wake-ups that no run has fulfilled yet.
    wakes: BTreeSet<Awake>,
    /// Callers that wait for the next run that begins.
    callers: Vec<oneshot::Sender<Run>>,
    running: bool,
}

impl Slot {
    /// When the next run should begin. `None` during a run: the driver then waits for the end of that run.
    fn wanted_at(&self, now: Awake) -> Option<Awake> {
        if self.running {
            return None;
        }
        let asked = if self.callers.is_empty() { None } else { Some(now) };
        [Some(self.due), self.wakes.first().copied(), asked].into_iter().flatten().min()
    }

    /// Marks the pass as running, removes the wake-ups that a run at `now` fulfils, and returns the waiting callers.
    fn begin(&mut self, now: Awake) -> Vec<oneshot::Sender<Run>> {
        self.running = true;
        if self.due <= now {
            // Computed from the previous due time and not from `now`, so that passes with equal periods stay due at the
            // same time and share listings.
            let next = self.due + self.pass.period();
            self.due = if next > now { next } else { now + self.pass.period() };
        }
        // Later wake-ups stay: the change that they were requested for may not have happened yet.
        self.wakes = self.wakes.split_off(&(now + Duration::from_millis(1)));
        std::mem::take(&mut self.callers)
    }
}

/// Message to the driver that a run of a pass has ended.
struct Ended {
    pass: &'static str,
    /// Delay after which the pass requests another run, which may be before its next scheduled one.
    again_after: Option<Duration>,
}

/// Runs passes when they are due.
pub struct Driver {
    sweeper: Arc<Sweeper>,
    slots: Vec<Slot>,
    clock: SharedClock,
    spawn: SharedSpawn,
    requests: mpsc::UnboundedReceiver<Request>,
    calls: mpsc::UnboundedReceiver<Call>,
    ended: mpsc::UnboundedReceiver<Ended>,
    report: mpsc::UnboundedSender<Ended>,
    statuses: Statuses,
}

impl Driver {
    /// Creates a driver and its handle. Every pass is due at once, so that all passes run when the daemon starts.
    #[must_use]
    pub fn new(
        sweeper: Arc<Sweeper>,
        passes: Vec<Arc<dyn Pass>>,
        clock: SharedClock,
        spawn: SharedSpawn,
        calls: mpsc::UnboundedReceiver<Call>,
    ) -> (Self, DriverHandle) {
        let (sender, requests) = mpsc::unbounded_channel();
        let (report, ended) = mpsc::unbounded_channel();
        let known = passes.iter().map(|pass| {
            let (name, summary, period) = (pass.name(), pass.summary(), pass.period());
            (name, PassStatus { name, summary, period, running: false, begun_at: clock.awake(), last: None })
        });
        let statuses: Statuses = Arc::new(Mutex::new(known.collect()));
        let order = Arc::new(passes.iter().map(|pass| pass.name()).collect());
        let handle = DriverHandle { requests: sender, statuses: Arc::clone(&statuses), order };
        let slots = passes.into_iter().map(|pass| {
            let (due, wakes, callers) = (clock.awake(), BTreeSet::new(), Vec::new());
            Slot { pass, due, wakes, callers, running: false }
        });
        let slots = slots.collect();
        (Self { sweeper, slots, clock, spawn, requests, calls, ended, report, statuses }, handle)
    }

    /// Schedules runs until `stop` is cancelled. Runs that have begun are not interrupted: they end as tasks of their
    /// own.
    pub async fn drive(mut self, stop: CancellationToken) {
        let mut epoch = self.sweeper.liveness_epoch();
        loop {
            self.begin_due();
            let wait = self.until_next();
            self.sweeper.expect_tick(self.clock.awake() + wait);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = self.ended.recv() => self.note_end(&ended),
                request = self.requests.recv() => match request {
                    Some(request) => self.accept(request),
                    None => return,
                },
                Some(call) = self.calls.recv() => self.wake(call.pass, call.after),
                () = self.clock.sleep(wait) => {}
            }
            // Checked before the next decision. After a freeze, a suspend or a clock change all passes run, as after a
            // start, because times on the wall clock at which work is due may have passed.
            let now = self.sweeper.liveness_epoch();
            if now != epoch {
                epoch = now;
                self.make_all_due();
            }
        }
    }

    fn make_all_due(&mut self) {
        let now = self.clock.awake();
        for slot in &mut self.slots {
            slot.due = slot.due.min(now);
        }
    }

    fn wake(&mut self, pass: &'static str, after: Duration) {
        if is(Mutation::LoseWakeUps) {
            return;
        }
        let at = self.clock.awake() + after;
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.pass.name() == pass) {
            slot.wakes.insert(at);
        }
    }

    fn note_end(&mut self, ended: &Ended) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.pass.name() == ended.pass) {
            slot.running = false;
        }
        if let Some(after) = ended.again_after {
            self.wake(ended.pass, after);
        }
    }

    fn until_next(&self) -> Duration {
        let now = self.clock.awake();
        let next = self.slots.iter().filter_map(|slot| slot.wanted_at(now)).min();
        next.map_or(TICK, |next| next.since(now).min(TICK))
    }

    /// Begins every run that is due now.
    fn begin_due(&mut self) {
        let now = self.clock.awake();
        let mut begun = Vec::new();
        for slot in &mut self.slots {
            if slot.wanted_at(now).is_some_and(|at| at <= now) {
                begun.push((Arc::clone(&slot.pass), slot.begin(now)));
            }
        }
        let ticket = self.sweeper.ticket();
        for (pass, callers) in begun {
            mark(&self.statuses, pass.name(), |status| {
                status.begun_at = now;
                status.running = true;
            });
            self.begin(pass, Mode::Apply, ticket, callers);
        }
    }

    fn accept(&mut self, request: Request) {
        let Request { passes, mode, answer } = request;
        let mut runs = Vec::new();
        let ticket = self.sweeper.ticket();
        let mut dry = Vec::new();
        for slot in &mut self.slots {
            if !passes.is_empty() && !passes.contains(&slot.pass.name()) {
                continue;
            }
            let (caller, run) = oneshot::channel();
            runs.push(run);
            match mode {
                Mode::Apply => slot.callers.push(caller),
                Mode::DryRun => dry.push((Arc::clone(&slot.pass), caller)),
            }
        }
        for (pass, caller) in dry {
            self.begin(pass, mode, ticket, vec![caller]);
        }
        self.spawn.spawn(Box::pin(async move {
            let done = join_all(runs).await.into_iter().flatten().collect();
            // The caller may no longer wait; the runs are carried out anyway.
            let _gone = answer.send(done);
        }));
    }

    /// Begins a run in a task of its own.
    fn begin(&self, pass: Arc<dyn Pass>, mode: Mode, ticket: Ticket, callers: Vec<oneshot::Sender<Run>>) {
        let (sweeper, clock, statuses) =
            (Arc::clone(&self.sweeper), Arc::clone(&self.clock), Arc::clone(&self.statuses));
        let report = self.report.clone();
        self.spawn.spawn(Box::pin(async move {
            let run = guarded(&sweeper, &*pass, mode, ticket, &clock).await;
            if mode == Mode::Apply {
                let again_after = run.again_after;
                mark(&statuses, pass.name(), |status| {
                    status.running = false;
                    status.last = Some(run.clone());
                });
                // A stopped driver has dropped the receiver.
                let _stopped = report.send(Ended { pass: pass.name(), again_after });
            }
            for caller in callers {
                // The caller may no longer wait.
                let _gone = caller.send(run.clone());
            }
        }));
    }
}

fn untrusted_reason(why: &Untrusted) -> String {
    match why {
        Untrusted::NoAnswer(error) => format!("{why}: {error}"),
        Untrusted::SentinelMissing(_) | Untrusted::RegistryFailed(_) => why.to_string(),
    }
}

fn mark(statuses: &Statuses, name: &'static str, change: impl FnOnce(&mut PassStatus)) {
    if let Some(status) = unpoisoned(statuses).get_mut(name) {
        change(status);
    }
}

fn empty_run(pass: &'static str, clock: &SharedClock, outcome: Outcome) -> Run {
    let started_at = clock.now();
    Run {
        pass,
        started_at,
        took: Duration::ZERO,
        outcome,
        actions: Vec::new(),
        watching: Vec::new(),
        left_over: 0,
        again_after: None,
    }
}

/// Takes a snapshot and runs the pass on it, within the deadline. A panic ends only this run.
async fn guarded(sweeper: &Sweeper, pass: &dyn Pass, mode: Mode, ticket: Ticket, clock: &SharedClock) -> Run {
    let work = async {
        let snapshot = match pass.requires() {
            Requirement::Engine => sweeper.snapshot_after(ticket).await,
            Requirement::Store => Ok(Arc::new(sweeper.clock_snapshot())),
        };
        match snapshot {
            Ok(snapshot) => sweeper.run(pass, &snapshot, mode).await,
            Err(why) => empty_run(pass.name(), clock, Outcome::Untrusted(untrusted_reason(&why))),
        }
    };
    match within(&**clock, DEADLINE, AssertUnwindSafe(work).catch_unwind()).await {
        Some(Ok(run)) => run,
        Some(Err(_)) => {
            tracing::error!(pass = pass.name(), "sweep pass panicked; it runs again when it is due");
            empty_run(pass.name(), clock, Outcome::Panicked)
        }
        None => {
            tracing::error!(
                pass = pass.name(),
                "sweep pass exceeded its deadline; it runs again when it is due"
            );
            empty_run(pass.name(), clock, Outcome::TimedOut)
        }
    }
}
