//! A whole installation on the simulated machine of `executor.rs`: the daemon, its disk and its engine.
//!
//! Disk, mirror and the engine's state outlive the daemon, as in reality. [`Installation::crash`] drops only the
//! daemon; [`Installation::start_daemon`] starts the next one with the same steps as the real daemon.

use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, header},
};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use ostler::{
    app::{App, Backends, Parts, Sides, Surroundings},
    doctor::{BuiltIn, Network},
    domain::{
        address::Allow,
        budget::RestartBudget,
        heartbeat::Heartbeat,
        ids::{ContainerId, InstanceId, TokenId, WorkspaceId},
        naming::{LABEL_INSTANCE, LABEL_SPEC, LABEL_WORKSPACE, VolumeKind, container_name, volume_name},
        observed::ContainerState,
        ports::PortRange,
        runtime::{AGENT, PLAIN, Runtime, Tier, User},
        spec::WorkspaceSpec,
        status::Status,
        time::Timestamp,
        token::Token,
        workspace::{Delivery, Workspace},
    },
    engine::{
        ContainerSpec, Engine, Environment, Mount, MountSource,
        bounded::{Bounded, Deadlines},
        trusted,
    },
    http::{Dial, PipeTo, router},
    ops::{Access, CreateRequest, Limits, OpResult, Ops, Settings},
    registry::identity,
    runtime::{clock::Boxed, tasks::AtOnce},
    store::{
        Disk, Mirror, MirrorRecord, Registry, ReportResult, Scope, Store, TokenIssue, TokenOwner,
        TokenSubject,
    },
    sweep::{DriverHandle, Mode, Pass, Run, Snapshot, Sweeper, watch_engine},
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use uuid::Uuid;

use super::executor::{EffectState, Owner, Sim, TaskOrder};
use crate::support::fake_engine::{FakeContainer, FakeEngine, FakeVolume, World};

/// Image of every container here.
pub(crate) const IMAGE: &str = "agent:1";
/// Admin token of every installation.
const ADMIN: &str = "YW4gYWRtaW4gdG9rZW4sIG9mIDMyIGJ5dGVzIGluIGE";
/// An image that only a pull can provide.
pub(crate) const REMOTE_IMAGE: &str = "registry.example/agent:2";

pub(crate) const INSTANCE: InstanceId =
    InstanceId(Uuid::from_u128(0x0a57_1e70_0000_4000_8000_0000_0000_0001));
/// The second installation, which runs a daemon (`Installation::neighbour`). The instance `NEIGHBOUR` runs none; it
/// consists only of containers.
const SECOND_INSTALLATION: InstanceId =
    InstanceId(Uuid::from_u128(0x0a57_1e70_0000_4000_8000_0000_0000_0003));
const NEIGHBOUR: InstanceId = InstanceId(Uuid::from_u128(0x0a57_1e70_0000_4000_8000_0000_0000_0002));

/// Which component requests an effect, so that a test can distinguish a command's effects from a sweep's.
pub(crate) const OPS: u8 = 0;
/// See [`OPS`].
pub(crate) const SWEEPS: u8 = 1;
/// See [`OPS`].
pub(crate) const AGENTS: u8 = 2;

/// Retention of events.
pub(crate) const EVENT_RETENTION: Duration = Duration::from_hours(30 * 24);

/// A response: its HTTP status, and its body; `Null` where the body is not JSON.
pub(crate) type AskFuture = Boxed<(u16, Value)>;

/// One run of the daemon, from start to crash.
pub(crate) struct Daemon {
    /// Its store is the one through which agents' reports are recorded.
    pub(crate) app: App,
    /// Sends queries to the driver. The driver runs only if the plan is `driven`.
    sweeps: DriverHandle,
    stop_driving: CancellationToken,
    /// Every route, called without a connection. Built at the first request.
    routes: OnceCell<Router>,
}

impl Daemon {
    /// Number of per-workspace entries that the daemon keeps in memory outside the store.
    pub(crate) fn remembered(&self) -> usize {
        self.app.ops.remembered()
    }

    /// Names of the passes that the driver is running now.
    pub(crate) fn running_passes(&self) -> Vec<&'static str> {
        let statuses = self.sweeps.statuses();
        statuses.into_iter().filter(|status| status.running).map(|status| status.name).collect()
    }
}

/// Identity of an installation: its instance id, and the owner of its tasks.
#[derive(Clone, Copy)]
struct Ownership {
    instance: InstanceId,
    owner: Owner,
}

const OURS: Ownership = Ownership { instance: INSTANCE, owner: Owner::Daemon };
const NEIGHBOURS: Ownership = Ownership { instance: SECOND_INSTALLATION, owner: Owner::Neighbour };

/// A simulated installation.
pub(crate) struct Installation {
    pub(crate) sim: Sim,
    pub(crate) world: Arc<World>,
    pub(crate) daemon: Daemon,
    /// Reads committed data at once, without a simulation step.
    pub(crate) reader: Store,
    pub(crate) disk: Disk,
    mirror: Arc<Mirror>,
    plan: Plan,
}

/// The properties that stay the same for every daemon of one installation.
#[derive(Clone)]
struct Plan {
    ownership: Ownership,
    /// Applied to the sweeper at every start. Tests of the invariants use it to plant a defect.
    change_sweeper: fn(Sweeper) -> Sweeper,
    /// Whether the driver runs due passes; otherwise the test runs them.
    driven: bool,
    /// Connects to an agent's address.
    pipe_to: PipeTo,
}

impl Plan {
    fn of(ownership: Ownership) -> Self {
        let unreachable: PipeTo = Arc::new(|_| Err(std::io::ErrorKind::ConnectionRefused.into()));
        Self { ownership, change_sweeper: |sweeper| sweeper, driven: false, pipe_to: unreachable }
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        self.sim.end();
        // A disk whose user panicked in the middle of a transaction is not reused.
        if !std::thread::panicking() {
            USED.with_borrow_mut(|used| used.push(self.disk.clone()));
        }
    }
}

/// The result of a future that never waits.
pub(crate) fn now_or_panic<T>(work: impl Future<Output = T>) -> T {
    work.now_or_never().expect("the future does not wait")
}

thread_local! {
    static BLANK: Disk = Disk::in_memory().expect("a database in memory opens");
    static USED: RefCell<Vec<Disk>> = const { RefCell::new(Vec::new()) };
}

/// A migrated disk that holds only the admin token: a wiped disk of an earlier installation, or a copy of the first
/// one. Migrating and preparing statements is the slowest part of creating an installation.
fn blank_disk() -> Disk {
    let used = USED.with_borrow_mut(Vec::pop);
    let disk = match used {
        Some(used) => {
            used.wipe().expect("a database in memory can be wiped");
            used
        }
        None => BLANK.with(|blank| blank.copy().expect("a database in memory can be copied")),
    };
    let token = Token::parse(ADMIN).expect("it is a valid token");
    let issue =
        TokenIssue { id: TokenId(Uuid::from_u128(1)), digest: token.digest(), prefix: token.prefix() };
    let store = Store::staged(&disk, Arc::new(AtOnce));
    let issued = store.issue_admin_token(issue, "operator".into(), None, Timestamp(0));
    now_or_panic(issued).expect("the store answers");
    disk
}

fn settings() -> Settings {
    Settings {
        instance: INSTANCE,
        runtimes: runtimes(),
        ports: PortRange { first: 21_000, last: 21_063 },
        platform_port: 7700,
        platform_url: None,
        isolate: false,
        log_bytes: 10 << 20,
        trash_retention: Duration::from_hours(14 * 24),
        restart: RestartBudget::default(),
        limits: limits(),
        access: Access { root_siblings: true, wakes_per_hour: 60, external: Allow::default() },
        concurrent_starts: 2,
    }
}

fn runtimes() -> BTreeMap<String, Runtime> {
    BTreeMap::from([(PLAIN.to_owned(), Runtime::plain()), (AGENT.to_owned(), Runtime::agent())])
}

fn limits() -> Limits {
    Limits {
        absence_grace: Duration::from_mins(5),
        unknown_grace: Duration::from_mins(10),
        removed_retention: Duration::from_hours(30 * 24),
        event_retention: EVENT_RETENTION,
    }
}

impl Installation {
    /// A new installation whose daemon has just started for the first time.
    pub(crate) fn new(seed: u64, order: TaskOrder) -> Self {
        Self::planned(seed, order, Plan::of(OURS))
    }

    /// Like `new`, with a sweeper that is changed at every start: for tests of the invariants.
    pub(crate) fn with_sweeper(seed: u64, order: TaskOrder, change_sweeper: fn(Sweeper) -> Sweeper) -> Self {
        Self::planned(seed, order, Plan { change_sweeper, ..Plan::of(OURS) })
    }

    /// An installation with reachable agents. The driver runs due passes if `driven`, else the test does.
    pub(crate) fn with_agents(sim: Sim, world: Arc<World>, driven: bool, pipe_to: PipeTo) -> Self {
        Self::on(sim, world, Plan { driven, pipe_to, ..Plan::of(OURS) })
    }

    /// A second installation on the same engine.
    pub(crate) fn neighbour(&self) -> Self {
        Self::on(self.sim.clone(), Arc::clone(&self.world), Plan::of(NEIGHBOURS))
    }

    fn planned(seed: u64, order: TaskOrder, plan: Plan) -> Self {
        Self::on(Sim::new(seed, order), prepared_world(), plan)
    }

    fn on(sim: Sim, world: Arc<World>, plan: Plan) -> Self {
        let disk = blank_disk();
        let reader = Store::staged(&disk, Arc::new(AtOnce));
        let mirror = Arc::new(Mirror::Memory(Mutex::default()));
        disk.mirror_to(Arc::clone(&mirror));
        let daemon = start(&sim, &disk, &reader, &world, &mirror, &plan);
        Self { sim, world, daemon, reader, disk, mirror, plan }
    }

    /// Starts a daemon: determines identity, mirror and sentinel, and then builds all in-memory state again.
    pub(crate) fn start_daemon(&mut self) {
        self.daemon = start(&self.sim, &self.disk, &self.reader, &self.world, &self.mirror, &self.plan);
    }

    /// Instance id whose label its containers carry.
    pub(crate) fn instance(&self) -> InstanceId {
        self.plan.ownership.instance
    }

    /// A request with the admin token, over the daemon's ordinary routes.
    pub(crate) fn as_operator(&self, method: &str, path: &str, body: Option<Value>) -> AskFuture {
        self.ask(method, path, ADMIN, body)
    }

    /// A request with this token, over the daemon's ordinary routes.
    pub(crate) fn ask(&self, method: &str, path: &str, token: &str, body: Option<Value>) -> AskFuture {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.map_or_else(Body::empty, |body| Body::from(body.to_string())))
            .expect("a well-formed request");
        let mut routes = self.daemon.routes.get_or_init(|| self.routes()).clone();
        Box::pin(async move {
            let Ok(answer) = routes.call(request).await;
            let status = answer.status().as_u16();
            let body = answer
                .into_body()
                .collect()
                .await
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default();
            (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
        })
    }

    fn routes(&self) -> Router {
        let Self { daemon, plan, .. } = self;
        let surroundings = Surroundings {
            data_dir: PathBuf::new(),
            runtime_dir: PathBuf::new(),
            network: Network { port: 7700, ..Network::default() },
            configuration: Arc::new(BuiltIn),
            dial: Dial::Pipe(Arc::clone(&plan.pipe_to)),
        };
        router(daemon.app.api(daemon.sweeps.clone(), surroundings))
    }

    /// Subscribes the daemon to the engine's container events. After each connection a snapshot is due; without a
    /// driver, the passes that a test runs take it.
    pub(crate) fn watch(&self) {
        let watch = self.daemon.app.watch(self.daemon.sweeps.clone());
        self.sim.spawn(self.plan.ownership.owner, watch_engine(watch));
    }

    /// Stops the daemon's process for `time`, then resumes it. A driver announces its own ticks. Without a driver, this
    /// function announces a tick for the moment at which the freeze begins.
    pub(crate) fn freeze(&self, time: Duration) {
        if !self.plan.driven {
            self.daemon.app.listening.expect_tick(self.sim.clock().awake());
        }
        self.sim.freeze(time);
    }

    /// Reboots the host: ends the daemon and every container of its workspaces, then starts the daemon. Returns the
    /// workspaces whose containers ran.
    pub(crate) fn reboot(&mut self) -> Vec<WorkspaceId> {
        self.sim.crash(|_| false);
        let mut ran = Vec::new();
        for row in self.rows() {
            let Some(container) = row.container else { continue };
            let mut state = self.world.state();
            if state.containers.get(&container).is_some_and(|container| container.state.may_run()) {
                state.kill(&container, 137);
                ran.push(row.id);
            }
        }
        self.start_daemon();
        ran
    }

    /// Kills the daemon and starts it again. `survives` selects the in-flight engine calls that still arrive.
    pub(crate) fn crash(&mut self, survives: impl FnMut(super::executor::Seen) -> bool) {
        self.sim.crash(survives);
        self.start_daemon();
    }

    /// Determines which registry the disk holds and whether it is older than its mirror, as a starting daemon does
    /// first.
    pub(crate) fn establish(&self) -> Registry {
        let (clock, entropy) = (self.sim.clock(), self.sim.entropy());
        let establish = identity::establish(&self.reader, &self.mirror, Path::new(""), &*clock, &*entropy);
        now_or_panic(establish).expect("the registry may be served")
    }

    /// Kills the daemon, replaces its database with a copy, and starts it again.
    pub(crate) fn restore_copy(&mut self, copy: Disk) {
        self.sim.crash(|_| false);
        copy.mirror_to(Arc::clone(&self.mirror));
        self.reader = Store::staged(&copy, Arc::new(AtOnce));
        self.disk = copy;
        self.establish();
        self.start_daemon();
    }

    /// Every row, including removed ones.
    pub(crate) fn rows(&self) -> Vec<Workspace> {
        now_or_panic(self.reader.workspaces(Scope::Any)).expect("the store answers")
    }

    pub(crate) fn row(&self, id: WorkspaceId) -> Workspace {
        now_or_panic(self.reader.workspace(id)).expect("the store answers").expect("there is such a row")
    }

    pub(crate) fn status(&self, id: WorkspaceId) -> Status {
        self.row(id).status
    }

    /// Runs a command to its answer, without faults or races.
    pub(crate) fn calmly<T, F>(&self, order: impl FnOnce(Ops) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.sim.calmly(order(self.daemon.app.ops.clone()))
    }

    /// Creates a plain workspace and checks that it is online.
    pub(crate) fn online(&self, name: &str) -> WorkspaceId {
        let made = request(name, IMAGE);
        let id = self.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
        self.sim.quiesce();
        assert_eq!(self.status(id), Status::Online, "a plain workspace did not come online after its start");
        id
    }

    /// Creates a workspace of the `agent` runtime and starts it; no heartbeat has been received yet.
    pub(crate) fn create_started(&self, mut made: CreateRequest) -> WorkspaceId {
        AGENT.clone_into(&mut made.spec.runtime);
        let id = self.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
        self.sim.quiesce();
        assert_eq!(
            self.status(id),
            Status::Provisioning,
            "it does not wait for the first heartbeat of its agent"
        );
        id
    }

    /// Creates a workspace of the `agent` runtime that is online after its first heartbeat.
    pub(crate) fn create_online(&self, made: CreateRequest) -> WorkspaceId {
        let id = self.create_started(made);
        assert_eq!(self.heartbeat(id, healthy()), Some(ReportResult::Noted));
        assert_eq!(self.status(id), Status::Online, "it did not come online with its first heartbeat");
        id
    }

    /// Token owner of the token that the process in a workspace's container holds; `None` if no container runs or the
    /// token is not valid for a workspace.
    pub(crate) fn token_owner(&self, id: WorkspaceId) -> Option<TokenOwner> {
        let container = self.container(id).filter(|container| container.state.may_run())?;
        let token = token_of(container.held_token.as_deref())?;
        match self.reader.token_subject(&token.digest(), self.sim.now())? {
            TokenSubject::Workspace(token_owner) => Some(token_owner),
            TokenSubject::Admin => None,
        }
    }

    /// Sends a heartbeat from the agent in a workspace's container, recorded at once. `None` if no process with a
    /// valid token runs.
    pub(crate) fn heartbeat(&self, id: WorkspaceId, heartbeat: Heartbeat) -> Option<ReportResult> {
        let token_owner = self.token_owner(id)?;
        Some(
            now_or_panic(self.reader.record_heartbeat(token_owner, heartbeat, self.daemon.app.clock.now()))
                .expect("the store answers"),
        )
    }

    /// Sends a healthy heartbeat from every running agent, and for every degraded workspace, whatever its runtime.
    pub(crate) fn all_heartbeat(&self) {
        let sends = |row: &Workspace| row.spec.runtime == AGENT || row.status == Status::Degraded;
        for row in self.rows().into_iter().filter(sends) {
            self.heartbeat(row.id, healthy());
        }
    }

    /// Stops the driver; passes that have begun continue. From now on the test runs the passes.
    pub(crate) fn stop_driver(&self) {
        self.daemon.stop_driving.cancel();
        self.sim.run_ready();
    }

    /// A snapshot from a trusted listing, without faults or races.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let sweeper = Arc::clone(&self.daemon.app.sweeper);
        self.sim.calmly(async move { sweeper.snapshot().await }).expect("the listing is trusted")
    }

    /// Takes one snapshot and runs every pass on it once, without faults or races.
    pub(crate) fn sweep(&self) -> Vec<Run> {
        let sweeper = Arc::clone(&self.daemon.app.sweeper);
        self.sim.calmly(async move {
            let Ok(snapshot) = sweeper.snapshot().await else { return Vec::new() };
            let mut runs = Vec::new();
            for pass in ostler::sweep::all() {
                runs.push(sweeper.run(&*pass, &snapshot, Mode::Apply).await);
            }
            runs
        })
    }

    /// Takes one snapshot and runs one pass on it, without faults or races.
    pub(crate) fn run(&self, pass: &str) -> Run {
        let (sweeper, pass) = (Arc::clone(&self.daemon.app.sweeper), pass_named(pass));
        self.sim.calmly(async move {
            let snapshot = sweeper.snapshot().await.expect("the listing is trusted");
            sweeper.run(&*pass, &snapshot, Mode::Apply).await
        })
    }

    /// Runs cycles of all passes until nothing is left to do, to watch or to wait for. In each cycle every agent sends
    /// a heartbeat, and every plan that the breaker holds is approved. The engine must be free of faults.
    ///
    /// # Panics
    /// If it does not converge within a fixed number of cycles.
    pub(crate) fn converge(&self) -> Vec<Run> {
        self.try_to_converge().unwrap_or_else(|left| panic!("{left}"))
    }

    /// Like `converge`; after the fixed number of cycles, `Err` lists what is left to do.
    pub(crate) fn try_to_converge(&self) -> Result<Vec<Run>, String> {
        const CYCLES: usize = 60;
        let mut last = Vec::new();
        let mut quiet = 0;
        for _ in 0..CYCLES {
            self.sim.quiesce();
            self.all_heartbeat();
            last = self.sweep();
            self.sim.quiesce();
            for run in &last {
                if let ostler::sweep::Outcome::Held { plan, .. } = run.outcome {
                    now_or_panic(self.reader.approve_plan(run.pass.to_owned(), plan, self.sim.now()))
                        .unwrap();
                }
            }
            let waits = self.rows().iter().any(|row| row.restart_due_at.is_some());
            let idle = !waits && last.iter().all(|run| run.actions.is_empty() && run.watching.is_empty());
            quiet = if idle { quiet + 1 } else { 0 };
            if quiet == 2 {
                return Ok(last);
            }
            self.sim.pass(Duration::from_mins(1));
        }
        let left = last.iter().flat_map(|run| {
            let done = run.actions.iter().map(|one| format!("{} ({:?})", one.planned.evidence, one.verdict));
            done.chain(run.watching.iter().cloned())
        });
        let left = left.collect::<Vec<_>>().join("; ");
        Err(format!("after {CYCLES} cycles there is still work to do or to watch: {left}"))
    }

    /// The container that a workspace's row names, as the engine has it.
    pub(crate) fn container(&self, id: WorkspaceId) -> Option<FakeContainer> {
        let container = self.row(id).container?;
        self.world.state().containers.get(&container).cloned()
    }

    /// Removes a workspace's container at the engine, without the daemon.
    pub(crate) fn remove_container(&self, id: WorkspaceId) {
        let container = self.row(id).container.expect("it has one");
        self.world.state().remove(&container);
    }

    /// Adds a container and volumes with this instance's labels that no row knows.
    pub(crate) fn add_unknown(&self) -> WorkspaceId {
        let id = WorkspaceId(self.sim.entropy().uuid());
        add_foreign_container(&self.world, INSTANCE, id, &container_name(id, 1));
        id
    }
}

/// An engine that holds two images (one only pullable) and containers that the daemon must not touch.
pub(crate) fn prepared_world() -> Arc<World> {
    let world = Arc::new(World::default());
    world.state().images.insert(IMAGE.to_owned());
    world.state().pullable.insert(REMOTE_IMAGE.to_owned());
    add_foreign(&world);
    world
}

/// A connection to the engine, with the daemon's deadlines.
fn engine(sim: &Sim, world: &Arc<World>, owner: Owner, side: u8) -> Arc<dyn Engine> {
    let stage = sim.stage_of(owner, EffectState::Engine, side);
    let fake = FakeEngine::connect(Arc::clone(world), stage, sim.clock(), sim.spawner(Owner::Engine));
    Arc::new(Bounded::new(Arc::new(fake), sim.clock(), Deadlines::default()))
}

fn start(
    sim: &Sim,
    disk: &Disk,
    reader: &Store,
    world: &Arc<World>,
    mirror: &Arc<Mirror>,
    plan: &Plan,
) -> Daemon {
    let Ownership { instance, owner } = plan.ownership;
    create_identity(sim, reader, world, mirror, instance);
    let backends = |store_side, engine_side| Backends {
        store: Store::staged(disk, sim.stage_of(owner, EffectState::Store, store_side)),
        engine: engine(sim, world, owner, engine_side),
    };
    let (mut app, calls) = App::new(Parts {
        sides: Sides {
            ops: backends(OPS, OPS),
            sweeps: backends(SWEEPS, SWEEPS),
            routes: backends(AGENTS, OPS),
        },
        clock: sim.clock_of(owner),
        entropy: sim.entropy(),
        spawn: sim.spawner(owner),
        mirror: Arc::clone(mirror),
        settings: Settings { instance, ..settings() },
    });
    let sweeper = Arc::into_inner(app.sweeper).expect("only the app refers to its sweeper");
    app.sweeper = Arc::new((plan.change_sweeper)(sweeper));
    let (driver, sweeps) = app.driver(ostler::sweep::all(), calls);
    let stop_driving = CancellationToken::new();
    let ops = app.ops.clone();
    sim.spawn(owner, async move { ops.continue_operations().await.expect("the store answers") });
    if plan.driven {
        sim.spawn(owner, driver.drive(stop_driving.clone()));
    }
    Daemon { app, sweeps, stop_driving, routes: OnceCell::new() }
}

/// Creates identity, mirror and sentinel at the first start; finds them at later ones.
fn create_identity(sim: &Sim, reader: &Store, world: &Arc<World>, mirror: &Mirror, instance: InstanceId) {
    if now_or_panic(reader.registry()).unwrap().is_some() {
        return;
    }
    let registry = Registry { instance, generation: 0, recovering_since: None, engine_accepted_at: None };
    now_or_panic(reader.found_registry(registry)).unwrap();
    let record =
        MirrorRecord { instance, generation: 0, engine_accepted: true, device: 0, inode: 0, born: None };
    mirror.write(&record).unwrap();
    let spawner = sim.spawner(Owner::Engine);
    let fake = FakeEngine::connect(Arc::clone(world), Arc::new(AtOnce), sim.clock(), spawner);
    now_or_panic(trusted::accept(&fake, instance)).unwrap();
    now_or_panic(reader.accept_engine(sim.now(), "fake".into())).unwrap();
}

/// The pass with this name.
pub(crate) fn pass_named(name: &str) -> Arc<dyn Pass> {
    ostler::sweep::all().into_iter().find(|pass| pass.name() == name).expect("there is such a pass")
}

/// A request for a container workspace of the plain runtime below a parent.
pub(crate) fn request_below(parent: WorkspaceId, name: &str, image: &str) -> CreateRequest {
    let mut made = request(name, image);
    made.spec.parent = Some(parent);
    made
}

/// A request for a container workspace of the plain runtime.
pub(crate) fn request(name: &str, image: &str) -> CreateRequest {
    CreateRequest {
        name: name.parse().expect("a valid name"),
        external: false,
        delivery: Delivery::Push,
        spec: WorkspaceSpec { image: image.to_owned(), ..WorkspaceSpec::default() },
    }
}

/// Parses the token from the bytes of a file or of a process.
pub(crate) fn token_of(bytes: Option<&[u8]>) -> Option<Token> {
    Token::parse(std::str::from_utf8(bytes?).ok()?)
}

/// A healthy heartbeat.
pub(crate) fn healthy() -> Heartbeat {
    Heartbeat { uptime_seconds: 60, ..Heartbeat::default() }
}

/// The outcome of a command as text, for the recorded history.
pub(crate) fn outcome_text<T: std::fmt::Debug>(answer: &OpResult<T>) -> String {
    match answer {
        Ok(done) => format!("{done:?}"),
        Err(error) => format!("refused: {error}"),
    }
}

/// Adds a running container with its volumes. Such a container belongs to another installation, or its row was lost.
fn add_foreign_container(world: &World, instance: InstanceId, id: WorkspaceId, name: &str) {
    let labelled = serde_json::json!({
        "name": "found", "runtime": PLAIN, "tier": 2, "image": IMAGE,
    });
    let labels = BTreeMap::from([
        (LABEL_INSTANCE.to_owned(), instance.to_string()),
        (LABEL_WORKSPACE.to_owned(), id.to_string()),
        (LABEL_SPEC.to_owned(), labelled.to_string()),
    ]);
    let volumes = [(VolumeKind::Config, "/configs"), (VolumeKind::Work, "/workspace")];
    let mounts = volumes.map(|(kind, target)| Mount {
        source: MountSource::Volume(volume_name(id, kind)),
        target: target.to_owned(),
        read_only: false,
    });
    let spec = ContainerSpec {
        name: name.to_owned(),
        image: IMAGE.to_owned(),
        command: Vec::new(),
        labels: labels.clone(),
        env: Environment::default(),
        user: User::default(),
        mounts: mounts.to_vec(),
        publish: None,
        network: "elsewhere".to_owned(),
        aliases: Vec::new(),
        hostname: String::new(),
        limits: Tier::default().limits(),
        read_only_root: false,
        privileged: false,
        stop_grace: Duration::from_secs(10),
        log_bytes: 10 << 20,
    };
    let mut state = world.state();
    for (kind, _) in volumes {
        let mut volume = FakeVolume { labels: labels.clone(), ..FakeVolume::default() };
        if kind == VolumeKind::Config {
            volume.files.insert(".auth_token".into(), token_of_found(id).into_bytes());
        }
        state.volumes.insert(volume_name(id, kind), volume);
    }
    // The id cannot collide with those of the fake engine, which are small numbers.
    let key = ContainerId::try_from(format!("{:064x}", id.0.as_u128())).unwrap();
    let container = FakeContainer {
        name: name.to_owned(),
        spec,
        state: ContainerState::Running,
        exit_code: None,
        started_at: None,
        held_token: Some(token_of_found(id).into_bytes()),
        starts: 1,
        started_after: 0,
    };
    state.containers.insert(key, container);
}

/// A token text unique to the id.
fn token_of_found(id: WorkspaceId) -> String {
    format!("{:032x}AAAAAAAAAAA", id.0.as_u128())
}

/// Adds containers that the daemon must not touch: one of another installation, and a user's copy of one of ours.
fn add_foreign(world: &World) {
    let neighbours = WorkspaceId(Uuid::from_u128(0x7000_0000_0000_4000_8000_0000_0000_0001));
    add_foreign_container(world, NEIGHBOUR, neighbours, &container_name(neighbours, 1));
    let copied = WorkspaceId(Uuid::from_u128(0x7000_0000_0000_4000_8000_0000_0000_0002));
    add_foreign_container(world, INSTANCE, copied, "debugging-copy");
    // The copy mounts volumes with other names. Volumes with our names and labels would count as unknown objects.
    let mut state = world.state();
    for kind in VolumeKind::ALL {
        state.volumes.remove(&volume_name(copied, kind));
    }
}
