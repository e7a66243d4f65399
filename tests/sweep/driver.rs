//! Scheduling of passes: on time, one run at a time, and independent of each other.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use ostler::{
    domain::{ids::WorkspaceId, plan::Plan, runtime::AGENT, status::Status, time::Awake},
    runtime::{clock::SharedClock, wake::Wake},
    store::ReportResult,
    sweep::{Driver, DriverHandle, Mode, Pass, Requirement, Run, Snapshot, SweepError, Sweeper},
};
use tokio_util::sync::CancellationToken;

use crate::{
    simulation::{
        executor::{Owner, Sim, TaskOrder},
        installation::{IMAGE, Installation, healthy, prepared_world, request},
    },
    support::fake_engine::Fault,
};

/// Tolerance around the due time of a restart.
const TOLERANCE: Duration = Duration::from_millis(250);

/// An installation whose driver runs the passes and that receives the engine's events.
pub(super) fn driven() -> Installation {
    let sim = Sim::new(1, TaskOrder::AsWoken);
    let unreachable = Arc::new(|_| Err(std::io::ErrorKind::ConnectionRefused.into()));
    let site = Installation::with_agents(sim, prepared_world(), true, unreachable);
    site.watch();
    site
}

pub(super) fn online(site: &Installation, name: &str) -> WorkspaceId {
    let made = request(name, IMAGE);
    let id = site.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
    site.sim.pass(Duration::from_secs(4));
    assert_eq!(site.status(id), Status::Online, "a plain workspace did not come online after its start");
    id
}

/// Makes the workspace's container exit; returns the due time of the restart.
fn exits(site: &Installation, id: WorkspaceId) -> ostler::domain::time::Timestamp {
    let container = site.row(id).container.expect("it has a container");
    site.world.state().kill(&container, 1);
    site.sim.pass(Duration::from_secs(1));
    let row = site.row(id);
    assert_eq!(row.status, Status::Offline, "the event of the exit did not mark it offline");
    row.restart_due_at.expect("its restart has a due time")
}

/// Asserts that the workspace is restarted within the tolerance around `due`.
fn restarts_at(site: &Installation, id: WorkspaceId, due: ostler::domain::time::Timestamp, when: &str) {
    let before = site.row(id).incarnation;
    site.sim.pass((due - TOLERANCE).since(site.sim.now()));
    assert_eq!(site.row(id).incarnation, before, "{when}: it restarted before its back-off had passed");
    site.sim.pass((due + TOLERANCE).since(site.sim.now()));
    assert!(site.row(id).incarnation > before, "{when}: it was due at {due} and is not restarted");
}

#[test]
fn exited_workspace_restarts_when_due_at_any_time_of_the_period() {
    for seconds in (0..60).step_by(4) {
        let site = driven();
        let id = online(&site, "w");
        site.sim.pass(Duration::from_secs(seconds));
        let due = exits(&site, id);
        restarts_at(&site, id, due, &format!("{seconds} s into the period"));
    }
}

#[test]
fn crash_loop_waits_for_every_backoff() {
    let site = driven();
    let id = online(&site, "w");
    for exit in 1..=4 {
        let due = exits(&site, id);
        restarts_at(&site, id, due, &format!("after exit {exit}"));
        site.sim.pass(Duration::from_secs(3));
    }
}

#[test]
fn exited_workspaces_restart_when_due_even_if_many_exit() {
    let site = driven();
    let ids: Vec<_> = (0..5).map(|number| online(&site, &format!("w{number}"))).collect();
    let due: Vec<_> = ids.iter().map(|id| (*id, exits(&site, *id))).collect();
    for (id, due) in due {
        restarts_at(&site, id, due, "one of five");
    }
}

#[test]
fn exited_workspace_restarts_when_due_after_a_daemon_restart() {
    for down in [1, 5, 9] {
        let mut site = driven();
        let id = online(&site, "w");
        let due = exits(&site, id);
        site.sim.crash(|_| true);
        site.sim.pass(Duration::from_secs(down - 1));
        site.start_daemon();
        site.watch();
        restarts_at(&site, id, due, &format!("the daemon was down for {down} s"));
    }
}

#[test]
fn overdue_restart_runs_at_once_after_a_daemon_restart() {
    let mut site = driven();
    let id = online(&site, "w");
    exits(&site, id);
    let before = site.row(id).incarnation;
    site.sim.crash(|_| true);
    site.sim.pass(Duration::from_mins(3));
    site.start_daemon();
    site.sim.pass(TOLERANCE);
    assert!(
        site.row(id).incarnation > before,
        "it was not restarted, although its back-off ended while the daemon was down"
    );
}

/// A workspace whose agent sends heartbeats.
fn agent(site: &Installation, name: &str) -> WorkspaceId {
    let mut made = request(name, IMAGE);
    AGENT.clone_into(&mut made.spec.runtime);
    let id = site.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
    site.sim.pass(Duration::from_secs(1));
    assert_eq!(site.heartbeat(id, healthy()), Some(ReportResult::Noted));
    id
}

/// The daemon's process is frozen for ten minutes. Afterwards the passes can begin before the daemon reads the
/// heartbeats that were sent meanwhile.
#[test]
fn status_is_unchanged_when_daemon_is_frozen_for_ten_minutes() {
    for phase in (0..60).step_by(7) {
        let site = driven();
        let ids = [agent(&site, "one"), agent(&site, "two")];
        let plain = online(&site, "plain");
        for _ in 0..8 {
            site.sim.pass(Duration::from_secs(20));
            site.all_heartbeat();
        }
        site.sim.pass(Duration::from_secs(phase));
        site.sim.freeze(Duration::from_mins(10));
        site.sim.pass(Duration::from_secs(15));
        site.all_heartbeat();
        for _ in 0..15 {
            site.sim.pass(Duration::from_secs(20));
            site.all_heartbeat();
        }
        for id in ids.into_iter().chain([plain]) {
            let row = site.row(id);
            assert_eq!((row.status, row.incarnation.0), (Status::Online, 1), "{phase} s: {}", row.name);
        }
    }
}

/// A pass that records its runs and takes a configured time.
struct Probe {
    name: &'static str,
    requires: Requirement,
    clock: SharedClock,
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
struct Record {
    begun: Vec<Awake>,
    now: usize,
    most_at_once: usize,
    /// Durations of the next runs, in order; later runs take no time.
    takes: Vec<Duration>,
}

const PERIOD: Duration = Duration::from_mins(1);

#[async_trait]
impl Pass for Probe {
    fn name(&self) -> &'static str {
        self.name
    }

    fn summary(&self) -> &'static str {
        "Records when it runs"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    fn requires(&self) -> Requirement {
        self.requires
    }

    async fn plan(&self, _: &Sweeper, _: &Snapshot) -> Result<Plan, SweepError> {
        let takes = {
            let mut record = self.record.lock().unwrap();
            record.begun.push(self.clock.awake());
            record.now += 1;
            record.most_at_once = record.most_at_once.max(record.now);
            if record.takes.is_empty() { Duration::ZERO } else { record.takes.remove(0) }
        };
        if !takes.is_zero() {
            self.clock.sleep(takes).await;
        }
        self.record.lock().unwrap().now -= 1;
        Ok(Plan::default())
    }
}

/// A driver that runs only probes.
struct Probed {
    site: Installation,
    handle: DriverHandle,
    wake: Wake,
    records: Vec<Arc<Mutex<Record>>>,
}

impl Probed {
    fn new(probes: &[(&'static str, Requirement)], takes: &[Duration]) -> Self {
        let site = Installation::new(1, TaskOrder::AsWoken);
        let clock = site.sim.clock();
        let mut records = Vec::new();
        let mut passes: Vec<Arc<dyn Pass>> = Vec::new();
        for (name, requires) in probes {
            let record = Record { takes: takes.to_vec(), ..Record::default() };
            let record = Arc::new(Mutex::new(record));
            records.push(Arc::clone(&record));
            passes.push(Arc::new(Probe { name, requires: *requires, clock: Arc::clone(&clock), record }));
        }
        let (wake, calls) = Wake::new();
        let sweeper = Arc::clone(&site.daemon.app.sweeper);
        let (driver, handle) = Driver::new(sweeper, passes, clock, site.sim.spawner(Owner::Daemon), calls);
        site.sim.spawn(Owner::Daemon, driver.drive(CancellationToken::new()));
        Self { site, handle, wake, records }
    }

    fn one(takes: &[Duration]) -> Self {
        Self::new(&[("probe", Requirement::Store)], takes)
    }

    fn pass(&self, seconds: u64) {
        self.site.sim.pass(Duration::from_secs(seconds));
    }

    /// Requests a run; the returned cell is filled when the run is done.
    fn ask(&self, mode: Mode) -> Arc<Mutex<Option<Vec<Run>>>> {
        let (handle, answer) = (self.handle.clone(), Arc::new(Mutex::new(None)));
        let payload = Arc::clone(&answer);
        self.site.sim.spawn(Owner::Daemon, async move {
            let runs = handle.run_now(vec!["probe"], mode).await;
            *payload.lock().unwrap() = Some(runs);
        });
        answer
    }

    /// Start times of the first probe's runs, in seconds since the start.
    fn begun(&self) -> Vec<u64> {
        self.records[0].lock().unwrap().begun.iter().map(|at| at.0 / 1000).collect()
    }

    fn most_at_once(&self) -> usize {
        self.records[0].lock().unwrap().most_at_once
    }
}

#[test]
fn pass_never_runs_twice_at_once() {
    let probed = Probed::one(&[Duration::from_secs(20)]);
    probed.pass(5);
    let answers = [probed.ask(Mode::Apply), probed.ask(Mode::Apply)];
    probed.pass(5);
    assert_eq!(probed.most_at_once(), 1, "two runs of one pass took place at the same time");
    probed.pass(20);
    assert_eq!(probed.begun(), [0, 20], "requests during a run must cause exactly one more run, after it");
    for answer in answers {
        assert_eq!(answer.lock().unwrap().as_ref().map(Vec::len), Some(1), "a caller did not get the result");
    }
}

#[test]
fn timer_that_fires_during_a_run_causes_one_more_run() {
    let probed = Probed::one(&[PERIOD + Duration::from_secs(15)]);
    probed.pass(80);
    assert_eq!(probed.begun(), [0, 75], "a timer that fired during a run was skipped");
    assert_eq!(probed.most_at_once(), 1);
}

#[test]
fn dry_run_does_not_delay_real_runs() {
    let probed = Probed::one(&[Duration::ZERO, Duration::from_secs(70)]);
    probed.pass(30);
    let dry = probed.ask(Mode::DryRun);
    probed.pass(31);
    assert_eq!(probed.begun(), [0, 30, 60], "the run that the timer starts must not wait for a dry run");
    probed.pass(40);
    assert!(dry.lock().unwrap().is_some(), "the dry run was not answered");
}

#[test]
fn wake_ups_run_a_pass_at_the_requested_times() {
    let probed = Probed::one(&[]);
    probed.pass(1);
    for after in [6, 14, 90] {
        probed.wake.after("probe", Duration::from_secs(after));
    }
    probed.pass(100);
    assert_eq!(
        probed.begun(),
        [0, 7, 15, 60, 91],
        "expected runs at the start, at the wake-ups (7, 15 and 91 s) and after the period (60 s)"
    );
}

#[test]
fn wake_up_due_during_a_run_is_served_after_it() {
    let probed = Probed::one(&[Duration::from_secs(10)]);
    probed.pass(2);
    probed.wake.after("probe", Duration::from_secs(3));
    probed.pass(30);
    assert_eq!(probed.begun(), [0, 10]);
}

#[test]
fn pass_without_engine_snapshot_does_not_wait_for_the_engine() {
    let probed = Probed::new(&[("store", Requirement::Store), ("engine", Requirement::Engine)], &[]);
    probed.pass(30);
    probed.site.world.inject(|call| {
        if call.method.starts_with("list_") { Fault::Slow(Duration::from_secs(9)) } else { Fault::None }
    });
    probed.pass(31);
    assert_eq!(probed.begun(), [0, 60], "a slow listing delayed a pass that needs no listing");
    probed.wake.after("store", Duration::ZERO);
    probed.pass(1);
    assert_eq!(probed.begun(), [0, 60, 61], "a wake-up waited for a listing that it does not need");
}

#[test]
fn passes_due_at_the_same_time_share_one_listing() {
    let probed = Probed::new(&[("one", Requirement::Engine), ("two", Requirement::Engine)], &[]);
    probed.pass(61);
    let listings =
        probed.site.world.state().log.iter().filter(|call| call.method == "list_containers").count();
    assert_eq!(listings, 2, "expected one listing for both passes at the start, and one after their period");
}
