//! When passes run: timers, orders to run now, deadlines, and a guard against panics. Knows no pass.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Look, Mode, Outcome, Pass, Run, Sight, Sweeper};
use crate::{
    clock::{SharedClock, within},
    domain::time::Awake,
    engine::trusted::Untrusted,
    tasks::SharedSpawn,
    wake::Call,
};

/// The most one run of a pass may take. Stops wait for graces, several per run.
const DEADLINE: Duration = Duration::from_mins(5);

/// What is known of a pass from outside.
#[derive(Clone, Debug)]
pub struct PassStatus {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// How often.
    pub period: Duration,
    /// Whether it runs now.
    pub running: bool,
    /// When it was last begun, or first due.
    pub begun_at: Awake,
    /// The last run.
    pub last: Option<Run>,
}

struct Request {
    passes: Vec<&'static str>,
    mode: Mode,
    answer: oneshot::Sender<Vec<Run>>,
}

type Statuses = Arc<Mutex<BTreeMap<&'static str, PassStatus>>>;

/// Asks the driver from outside.
#[derive(Clone)]
pub struct DriverHandle {
    requests: mpsc::UnboundedSender<Request>,
    statuses: Statuses,
    order: Arc<Vec<&'static str>>,
}

impl DriverHandle {
    /// The passes' states, in the order in which they run.
    #[must_use]
    pub fn statuses(&self) -> Vec<PassStatus> {
        let statuses = unpoisoned(&self.statuses);
        self.order.iter().filter_map(|name| statuses.get(name).cloned()).collect()
    }

    /// Runs these passes now and answers what came of them. A pass that is running is waited for.
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

/// Runs passes when they are due.
pub struct Driver {
    sweeper: Arc<Sweeper>,
    passes: Vec<Arc<dyn Pass>>,
    clock: SharedClock,
    spawn: SharedSpawn,
    requests: mpsc::UnboundedReceiver<Request>,
    calls: mpsc::UnboundedReceiver<Call>,
    statuses: Statuses,
    due: BTreeMap<&'static str, Awake>,
}

impl Driver {
    /// A driver and the handle to ask it by. Every pass is due at once: a start looks at everything.
    #[must_use]
    pub fn new(
        sweeper: Arc<Sweeper>,
        passes: Vec<Arc<dyn Pass>>,
        clock: SharedClock,
        spawn: SharedSpawn,
        calls: mpsc::UnboundedReceiver<Call>,
    ) -> (Self, DriverHandle) {
        let (sender, requests) = mpsc::unbounded_channel();
        let known = passes.iter().map(|pass| {
            let (name, summary, period) = (pass.name(), pass.summary(), pass.period());
            (name, PassStatus { name, summary, period, running: false, begun_at: clock.awake(), last: None })
        });
        let statuses: Statuses = Arc::new(Mutex::new(known.collect()));
        let due = passes.iter().map(|pass| (pass.name(), clock.awake())).collect();
        let order = Arc::new(passes.iter().map(|pass| pass.name()).collect());
        let handle = DriverHandle { requests: sender, statuses: Arc::clone(&statuses), order };
        (Self { sweeper, passes, clock, spawn, requests, calls, statuses, due }, handle)
    }

    /// Runs until `stop`. Runs that have begun are not interrupted; they end with the process's tasks.
    pub async fn drive(mut self, stop: CancellationToken) {
        loop {
            let wait = self.until_next();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                request = self.requests.recv() => match request {
                    Some(request) => self.serve(request).await,
                    None => return,
                },
                Some(call) = self.calls.recv() => self.note(call),
                () = self.clock.sleep(wait) => self.run_due().await,
            }
        }
    }

    /// A pass is wanted before its turn.
    fn note(&mut self, call: Call) {
        let wanted = self.clock.awake() + call.after;
        if let Some(due) = self.due.get_mut(call.pass) {
            *due = wanted.min(*due);
        }
    }

    fn until_next(&self) -> Duration {
        let next = self.due.values().min().copied().unwrap_or_default();
        next.since(self.clock.awake())
    }

    async fn run_due(&mut self) {
        let now = self.clock.awake();
        let passes = self.passes.clone();
        let due: Vec<_> = passes
            .into_iter()
            .filter(|pass| self.due.get(pass.name()).is_some_and(|at| *at <= now))
            .collect();
        for pass in &due {
            self.due.insert(pass.name(), now + pass.period());
        }
        // One that is still running is left alone until its next turn.
        let idle =
            |pass: &Arc<dyn Pass>| !unpoisoned(&self.statuses).get(pass.name()).is_some_and(|s| s.running);
        let due: Vec<_> = due.into_iter().filter(idle).collect();
        if !due.is_empty() {
            drop(self.begin(due, Mode::Apply).await);
        }
    }

    async fn serve(&mut self, request: Request) {
        let wanted =
            |pass: &&Arc<dyn Pass>| request.passes.is_empty() || request.passes.contains(&pass.name());
        let passes: Vec<_> = self.passes.iter().filter(wanted).cloned().collect();
        let runs = self.begin(passes, request.mode).await;
        let answer = request.answer;
        self.spawn.spawn(Box::pin(async move {
            let done = join_all(runs).await.into_iter().flatten().collect();
            // Whoever asked may have gone; the runs count all the same.
            let _gone = answer.send(done);
        }));
    }

    /// Takes one look for all of them and begins their runs, each in a task of its own.
    async fn begin(&self, passes: Vec<Arc<dyn Pass>>, mode: Mode) -> Vec<oneshot::Receiver<Run>> {
        let glance = Arc::new(self.sweeper.glance());
        let look = if passes.iter().any(|pass| pass.sight() == Sight::Engine) {
            self.sweeper.look().await.map(Arc::new)
        } else {
            Ok(Arc::clone(&glance))
        };
        if let Err(why) = &look {
            tracing::warn!(error = %why, "no sweep of containers acts: there is no listing to trust");
        }
        let sight = |pass: &Arc<dyn Pass>| match pass.sight() {
            Sight::Engine => look.clone(),
            Sight::Store => Ok(Arc::clone(&glance)),
        };
        passes
            .into_iter()
            .map(|pass| (sight(&pass), pass))
            .map(|(look, pass)| self.begin_one(pass, look, mode))
            .collect()
    }

    fn begin_one(
        &self,
        pass: Arc<dyn Pass>,
        look: Result<Arc<Look>, Untrusted>,
        mode: Mode,
    ) -> oneshot::Receiver<Run> {
        let (answer, done) = oneshot::channel();
        let (sweeper, clock, statuses) =
            (Arc::clone(&self.sweeper), Arc::clone(&self.clock), Arc::clone(&self.statuses));
        if let Some(status) = unpoisoned(&statuses).get_mut(pass.name()) {
            status.begun_at = clock.awake();
        }
        mark(&statuses, pass.name(), true, None);
        self.spawn.spawn(Box::pin(async move {
            let run = match look {
                Ok(look) => guarded(&sweeper, &*pass, &look, mode, &clock).await,
                Err(why) => empty_run(pass.name(), &clock, Outcome::Untrusted(told(&why))),
            };
            mark(&statuses, pass.name(), false, (mode == Mode::Apply).then(|| run.clone()));
            // Nobody may be waiting for it.
            let _gone = answer.send(run);
        }));
        done
    }
}

fn told(why: &Untrusted) -> String {
    match why {
        Untrusted::NoAnswer(error) => format!("{why}: {error}"),
        Untrusted::SentinelMissing(_) => why.to_string(),
    }
}

fn mark(statuses: &Statuses, name: &'static str, running: bool, last: Option<Run>) {
    if let Some(status) = unpoisoned(statuses).get_mut(name) {
        status.running = running;
        status.last = last.or(status.last.take());
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
    }
}

/// Runs a pass within its deadline; a panic in it ends this run and nothing else.
async fn guarded(sweeper: &Sweeper, pass: &dyn Pass, look: &Look, mode: Mode, clock: &SharedClock) -> Run {
    let work = AssertUnwindSafe(sweeper.run(pass, look, mode)).catch_unwind();
    match within(&**clock, DEADLINE, work).await {
        Some(Ok(run)) => run,
        Some(Err(_)) => {
            tracing::error!(pass = pass.name(), "a pass panicked; it runs again at its next turn");
            empty_run(pass.name(), clock, Outcome::Panicked)
        }
        None => {
            tracing::error!(
                pass = pass.name(),
                "a pass took longer than it may; it runs again at its next turn"
            );
            empty_run(pass.name(), clock, Outcome::TimedOut)
        }
    }
}
