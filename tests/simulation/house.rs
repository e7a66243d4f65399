//! A whole installation on the machine of `executor.rs`: disk, engine, and the daemon between them.
//!
//! The disk, the mirror and the engine's world outlive the daemon, as they do in reality; [`House::crash`]
//! takes the daemon alone, and [`House::start_daemon`] does what its next start would do.

use std::{
    cell::{OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet},
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
    clock::{Boxed, SharedClock},
    doctor::{BuiltIn, Doctor, DoctorParts, Network},
    domain::{
        address::Allow,
        beat::Beat,
        budget::RestartBudget,
        ids::{ContainerId, InstanceId, TokenId, WorkspaceId},
        naming::{LABEL_INSTANCE, LABEL_SPEC, LABEL_WORKSPACE, VolumeKind, container_name, volume_name},
        observed::ContainerState,
        ports::PortRange,
        runtime::{AGENT, PLAIN, Runtime, Tier, User},
        spec::Spec,
        status::Status,
        time::Timestamp,
        token::Token,
        workspace::{Habits, Workspace},
    },
    engine::{
        ContainerSpec, Engine, Environment, Mount, MountSource,
        bounded::{Bounded, Deadlines},
        fake::{FakeContainer, FakeEngine, FakeVolume, World},
        trusted,
    },
    http::{Api, ApiParts, Dial, PipeTo, router},
    identity,
    listening::Listening,
    ops::{Access, CreateRequest, Limits, OpResult, Ops, Parts, Settings},
    store::{Bearer, Disk, Heard, Holder, Mirror, MirrorRecord, Registry, Scope, Store, TokenIssue},
    sweep::{Driver, DriverHandle, Look, Mode, Pass, Run, Sweeper, SweeperParts, Watch, watch_engine},
    tasks::AtOnce,
    wake::Wake,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use uuid::Uuid;

use super::executor::{Owner, Place, Sim, TaskOrder};

/// The image everything here runs.
pub(crate) const IMAGE: &str = "agent:1";
/// The token of the person at every installation.
const ADMIN: &str = "YW4gYWRtaW4gdG9rZW4sIG9mIDMyIGJ5dGVzIGluIGE";
/// An image that a pull can fetch.
pub(crate) const REMOTE_IMAGE: &str = "registry.example/agent:2";

pub(crate) const INSTANCE: InstanceId =
    InstanceId(Uuid::from_u128(0x0a57_1e70_0000_4000_8000_0000_0000_0001));
/// The installation next door, and one whose daemon nobody sees.
const NEXT_DOOR: InstanceId = InstanceId(Uuid::from_u128(0x0a57_1e70_0000_4000_8000_0000_0000_0003));
const NEIGHBOUR: InstanceId = InstanceId(Uuid::from_u128(0x0a57_1e70_0000_4000_8000_0000_0000_0002));

/// Who asks: so that a test can tell an order's effects from a sweep's.
pub(crate) const OPS: u8 = 0;
/// See [`OPS`].
pub(crate) const SWEEPS: u8 = 1;
/// See [`OPS`].
pub(crate) const AGENTS: u8 = 2;

/// How long events are kept.
pub(crate) const EVENT_RETENTION: Duration = Duration::from_hours(30 * 24);

/// An answer: its status, and its body where that is JSON.
pub(crate) type AskFuture = Boxed<(u16, Value)>;

/// One life of the daemon.
pub(crate) struct Daemon {
    pub(crate) ops: Ops,
    pub(crate) sweeper: Arc<Sweeper>,
    /// Where what agents say is written down.
    pub(crate) hearing: Store,
    listening: Listening,
    /// Its clock.
    clock: SharedClock,
    /// Asks the driver, which may not be driving.
    sweeps: DriverHandle,
    stop_driving: CancellationToken,
    /// Every route, without a connection before it; made when something is first asked.
    routes: OnceCell<Router>,
}

impl Daemon {
    /// How many things the daemon remembers of workspaces beside the store.
    pub(crate) fn remembered(&self) -> usize {
        self.ops.remembered()
    }

    /// What the driver runs right now.
    pub(crate) fn running_passes(&self) -> Vec<&'static str> {
        let statuses = self.sweeps.statuses();
        statuses.into_iter().filter(|status| status.running).map(|status| status.name).collect()
    }
}

/// Whose installation a house is.
#[derive(Clone, Copy)]
struct Whose {
    instance: InstanceId,
    owner: Owner,
}

const OURS: Whose = Whose { instance: INSTANCE, owner: Owner::Daemon };
const NEIGHBOURS: Whose = Whose { instance: NEXT_DOOR, owner: Owner::Neighbour };

/// The installation.
pub(crate) struct House {
    pub(crate) sim: Sim,
    pub(crate) world: Arc<World>,
    pub(crate) daemon: Daemon,
    /// Sees what is committed, at once and without a step.
    pub(crate) eye: Store,
    pub(crate) disk: Disk,
    mirror: Arc<Mirror>,
    plan: Plan,
}

/// What every daemon of a house is like.
#[derive(Clone)]
struct Plan {
    whose: Whose,
    /// Changes its sweeper: for checks of the checks.
    change_sweeper: fn(Sweeper) -> Sweeper,
    /// Whether the driver runs the passes when they are due; otherwise a test does.
    driven: bool,
    /// Who answers at an agent's address.
    pipe_to: PipeTo,
}

impl Plan {
    fn of(whose: Whose) -> Self {
        let nobody: PipeTo = Arc::new(|_| Err(std::io::ErrorKind::ConnectionRefused.into()));
        Self { whose, change_sweeper: |sweeper| sweeper, driven: false, pipe_to: nobody }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.sim.end();
        // One that panicked in the middle of a transaction is not worth having.
        if !std::thread::panicking() {
            USED.with_borrow_mut(|used| used.push(self.disk.clone()));
        }
    }
}

/// The answer of something that does not wait.
pub(crate) fn at_once<T>(work: impl Future<Output = T>) -> T {
    work.now_or_never().expect("nothing in here waits")
}

thread_local! {
    static BLANK: Disk = Disk::in_memory().expect("a database in memory opens");
    static USED: RefCell<Vec<Disk>> = const { RefCell::new(Vec::new()) };
}

/// A migrated disk with nothing on it but the token of the person: one that a house has left, wiped, or a copy of the
/// first. Migrating and preparing statements takes longer than anything else at the beginning of a house.
fn blank_disk() -> Disk {
    let used = USED.with_borrow_mut(Vec::pop);
    let disk = match used {
        Some(used) => {
            used.wipe().expect("a database in memory can be wiped");
            used
        }
        None => BLANK.with(|blank| blank.copy().expect("a database in memory can be copied")),
    };
    let token = Token::parse(ADMIN).expect("it is one");
    let issue =
        TokenIssue { id: TokenId(Uuid::from_u128(1)), digest: token.digest(), prefix: token.prefix() };
    let store = Store::staged(&disk, Arc::new(AtOnce));
    let issued = store.issue_admin_token(issue, "person".into(), None, Timestamp(0));
    at_once(issued).expect("the store answers");
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

impl House {
    /// A new installation whose daemon has just started for the first time.
    pub(crate) fn new(seed: u64, order: TaskOrder) -> Self {
        Self::planned(seed, order, Plan::of(OURS))
    }

    /// The same, with a sweeper that is changed at every start: for checks of the checks.
    pub(crate) fn with_sweeper(seed: u64, order: TaskOrder, change_sweeper: fn(Sweeper) -> Sweeper) -> Self {
        Self::planned(seed, order, Plan { change_sweeper, ..Plan::of(OURS) })
    }

    /// One whose passes the driver runs when they are due, or a test does, and whose agents can be reached.
    pub(crate) fn with_agents(sim: Sim, world: Arc<World>, driven: bool, pipe_to: PipeTo) -> Self {
        Self::on(sim, world, Plan { driven, pipe_to, ..Plan::of(OURS) })
    }

    /// A second installation on the same engine.
    pub(crate) fn neighbour(&self) -> Self {
        Self::on(self.sim.clone(), Arc::clone(&self.world), Plan::of(NEIGHBOURS))
    }

    fn planned(seed: u64, order: TaskOrder, plan: Plan) -> Self {
        Self::on(Sim::new(seed, order), furnished_world(), plan)
    }

    fn on(sim: Sim, world: Arc<World>, plan: Plan) -> Self {
        let disk = blank_disk();
        let eye = Store::staged(&disk, Arc::new(AtOnce));
        let mirror = Arc::new(Mirror::Memory(Mutex::default()));
        disk.mirror_to(Arc::clone(&mirror));
        let daemon = start(&sim, &disk, &eye, &world, &mirror, &plan);
        Self { sim, world, daemon, eye, disk, mirror, plan }
    }

    /// What the daemon does first: identity, mirror, sentinel, then everything in memory anew.
    pub(crate) fn start_daemon(&mut self) {
        self.daemon = start(&self.sim, &self.disk, &self.eye, &self.world, &self.mirror, &self.plan);
    }

    /// Whose containers are its own.
    pub(crate) fn instance(&self) -> InstanceId {
        self.plan.whose.instance
    }

    /// A request of the person, over the routes that everybody uses.
    pub(crate) fn as_person(&self, method: &str, path: &str, body: Option<Value>) -> AskFuture {
        self.ask(method, path, ADMIN, body)
    }

    /// A request with this token, over the routes that everybody uses.
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
        let Self { sim, daemon, plan, .. } = self;
        let store = Store::staged(&self.disk, sim.stage_of(plan.whose.owner, Place::Store, AGENTS));
        let engine = engine(sim, &self.world, plan.whose.owner, OPS);
        let doctor = Doctor::new(DoctorParts {
            store: store.clone(),
            engine: Arc::clone(&engine),
            clock: Arc::clone(&daemon.clock),
            instance: plan.whose.instance,
            data_dir: PathBuf::new(),
            network: Network {
                listen: Vec::new(),
                port: 7700,
                told_to_agents: String::new(),
                is_url_configured: false,
                isolate: false,
                packets: Arc::new(|| Ok(())),
                since: Timestamp(0),
                bound: Arc::new(|| Box::pin(async { BTreeSet::new() })),
                reach: Arc::new(|| Box::pin(async { Err("nobody listens here".to_owned()) })),
            },
            configuration: Arc::new(BuiltIn),
        });
        router(Api::new(ApiParts {
            store,
            engine,
            ops: daemon.ops.clone(),
            sweeps: daemon.sweeps.clone(),
            doctor,
            clock: Arc::clone(&daemon.clock),
            spawn: sim.spawner(plan.whose.owner),
            mirror: Arc::clone(&self.mirror),
            runtime_dir: PathBuf::new(),
            entropy: sim.entropy(),
            listening: daemon.listening.clone(),
            dial: Dial::Pipe(Arc::clone(&plan.pipe_to)),
        }))
    }

    /// The daemon listens to what the engine tells of containers. The look after each connection is left to the
    /// passes a test runs, where no driver does.
    pub(crate) fn watch(&self) {
        let Whose { instance, owner } = self.plan.whose;
        let watch = Watch {
            store: Store::staged(&self.disk, self.sim.stage_of(owner, Place::Store, SWEEPS)),
            engine: engine(&self.sim, &self.world, owner, SWEEPS),
            ops: self.daemon.ops.clone(),
            sweeps: self.daemon.sweeps.clone(),
            clock: Arc::clone(&self.daemon.clock),
            spawn: self.sim.spawner(owner),
            instance,
        };
        self.sim.spawn(owner, watch_engine(watch));
    }

    /// The daemon's process does not run for so long, and goes on then. Where a test runs the passes, a tick is taken
    /// to have been due when it began.
    pub(crate) fn freeze(&self, time: Duration) {
        if !self.plan.driven {
            self.daemon.listening.expect_tick(self.sim.clock().awake());
        }
        self.sim.freeze(time);
    }

    /// The host starts again: the daemon's process ends, and every container of its workspaces, and then the daemon
    /// starts. Answers whose containers ran.
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

    /// Kills the daemon and starts it again. `survives` says which engine calls in flight still arrive.
    pub(crate) fn crash(&mut self, survives: impl FnMut(super::executor::Seen) -> bool) {
        self.sim.crash(survives);
        self.start_daemon();
    }

    /// Finds out whose registry the disk holds, and whether it is older than its mirror, as a daemon does first.
    pub(crate) fn establish(&self) -> Registry {
        let (clock, entropy) = (self.sim.clock(), self.sim.entropy());
        let establish = identity::establish(&self.eye, &self.mirror, Path::new(""), &*clock, &*entropy);
        at_once(establish).expect("this registry may be served")
    }

    /// The daemon is killed, a copy is put in the place of its database, and it starts again.
    pub(crate) fn put_back(&mut self, copy: Disk) {
        self.sim.crash(|_| false);
        copy.mirror_to(Arc::clone(&self.mirror));
        self.eye = Store::staged(&copy, Arc::new(AtOnce));
        self.disk = copy;
        self.establish();
        self.start_daemon();
    }

    /// Every row, removed ones too.
    pub(crate) fn rows(&self) -> Vec<Workspace> {
        at_once(self.eye.workspaces(Scope::Any)).expect("the store answers")
    }

    pub(crate) fn row(&self, id: WorkspaceId) -> Workspace {
        at_once(self.eye.workspace(id)).expect("the store answers").expect("there is such a row")
    }

    pub(crate) fn status(&self, id: WorkspaceId) -> Status {
        self.row(id).status
    }

    /// An order, carried out to its answer without surprises.
    pub(crate) fn calmly<T, F>(&self, order: impl FnOnce(Ops) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.sim.calmly(order(self.daemon.ops.clone()))
    }

    /// A workspace that is up.
    pub(crate) fn online(&self, name: &str) -> WorkspaceId {
        let made = request(name, IMAGE);
        let id = self.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
        self.sim.quiesce();
        assert_eq!(self.status(id), Status::Online, "a plain workspace comes up by itself");
        id
    }

    /// A workspace whose agent speaks the protocol, started and not heard yet.
    pub(crate) fn unheard(&self, made: CreateRequest) -> WorkspaceId {
        let made = CreateRequest { runtime: Some(AGENT.to_owned()), ..made };
        let id = self.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
        self.sim.quiesce();
        assert_eq!(self.status(id), Status::Provisioning, "it waits for its agent");
        id
    }

    /// A workspace whose agent speaks the protocol, up and heard.
    pub(crate) fn heard(&self, made: CreateRequest) -> WorkspaceId {
        let id = self.unheard(made);
        assert_eq!(self.beat(id, well()), Some(Heard::Noted));
        assert_eq!(self.status(id), Status::Online, "it was heard");
        id
    }

    /// Whom the token speaks for that the process in a workspace's container holds, if one runs.
    pub(crate) fn holder(&self, id: WorkspaceId) -> Option<Holder> {
        let container = self.container(id).filter(|container| container.state.may_run())?;
        let token = token_of(container.held_token.as_deref())?;
        match self.eye.bearer(&token.digest(), self.sim.now())? {
            Bearer::Workspace(holder) => Some(holder),
            Bearer::Admin => None,
        }
    }

    /// The agent in a workspace's container says something, and is heard at once. `None` where none runs that could
    /// be heard.
    pub(crate) fn beat(&self, id: WorkspaceId, beat: Beat) -> Option<Heard> {
        let holder = self.holder(id)?;
        Some(at_once(self.eye.note_beat(holder, beat, self.daemon.clock.now())).expect("the store answers"))
    }

    /// Every agent that runs says that it is well, and so does whoever once said that it was not.
    pub(crate) fn all_beat(&self) {
        let speaks = |row: &Workspace| row.runtime == AGENT || row.status == Status::Degraded;
        for row in self.rows().into_iter().filter(speaks) {
            self.beat(row.id, well());
        }
    }

    /// The driver ends; what it has begun goes on. A test sweeps from now on.
    pub(crate) fn put_driver_to_rest(&self) {
        self.daemon.stop_driving.cancel();
        self.sim.run_ready();
    }

    /// A trusted look, without surprises.
    pub(crate) fn look(&self) -> Look {
        let sweeper = Arc::clone(&self.daemon.sweeper);
        self.sim.calmly(async move { sweeper.look().await }).expect("the listing is trusted")
    }

    /// One look and one run of every pass on it, without surprises.
    pub(crate) fn sweep(&self) -> Vec<Run> {
        let sweeper = Arc::clone(&self.daemon.sweeper);
        self.sim.calmly(async move {
            let Ok(look) = sweeper.look().await else { return Vec::new() };
            let mut runs = Vec::new();
            for pass in ostler::sweep::all() {
                runs.push(sweeper.run(&*pass, &look, Mode::Apply).await);
            }
            runs
        })
    }

    /// One look and one run of a pass, without surprises.
    pub(crate) fn run(&self, pass: &str) -> Run {
        let (sweeper, pass) = (Arc::clone(&self.daemon.sweeper), pass_named(pass));
        self.sim.calmly(async move {
            let look = sweeper.look().await.expect("the listing is trusted");
            sweeper.run(&*pass, &look, Mode::Apply).await
        })
    }

    /// Cycles of all passes, every agent beating and a person approving what is held, until there is nothing left to
    /// do, to watch or to wait for. The world has to be well.
    ///
    /// # Panics
    /// When that takes more than a fixed number of cycles: it does not converge.
    pub(crate) fn converge(&self) -> Vec<Run> {
        self.try_to_converge().unwrap_or_else(|left| panic!("{left}"))
    }

    /// The same; says what is left to do after a fixed number of cycles, if anything is.
    pub(crate) fn try_to_converge(&self) -> Result<Vec<Run>, String> {
        const CYCLES: usize = 60;
        let mut last = Vec::new();
        let mut quiet = 0;
        for _ in 0..CYCLES {
            self.sim.quiesce();
            self.all_beat();
            last = self.sweep();
            self.sim.quiesce();
            for run in &last {
                if let ostler::sweep::Outcome::Held { plan, .. } = run.outcome {
                    at_once(self.eye.approve_plan(run.pass.to_owned(), plan, self.sim.now())).unwrap();
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
        Err(format!("after {CYCLES} cycles there is still something to do or to watch: {left}"))
    }

    /// A workspace's container by its row, as the engine has it.
    pub(crate) fn container(&self, id: WorkspaceId) -> Option<FakeContainer> {
        let container = self.row(id).container?;
        self.world.state().containers.get(&container).cloned()
    }

    /// Its container goes away behind ostler's back.
    pub(crate) fn remove_container(&self, id: WorkspaceId) {
        let container = self.row(id).container.expect("it has one");
        self.world.state().remove(&container);
    }

    /// Things of ours that no row knows.
    pub(crate) fn furnish_unknown(&self) -> WorkspaceId {
        let id = WorkspaceId(self.sim.entropy().uuid());
        furnish(&self.world, INSTANCE, id, &container_name(id, 1));
        id
    }
}

/// An engine with nothing in it but what is not ours to touch.
pub(crate) fn furnished_world() -> Arc<World> {
    let world = Arc::new(World::default());
    world.state().images.insert(IMAGE.to_owned());
    world.state().pullable.insert(REMOTE_IMAGE.to_owned());
    furnish_foreign(&world);
    world
}

/// A connection to the engine, with its deadlines.
fn engine(sim: &Sim, world: &Arc<World>, owner: Owner, side: u8) -> Arc<dyn Engine> {
    let stage = sim.stage_of(owner, Place::Engine, side);
    let fake = FakeEngine::connect(Arc::clone(world), stage, sim.clock(), sim.spawner(Owner::Engine));
    Arc::new(Bounded::new(Arc::new(fake), sim.clock(), Deadlines::default()))
}

fn start(
    sim: &Sim,
    disk: &Disk,
    eye: &Store,
    world: &Arc<World>,
    mirror: &Arc<Mirror>,
    plan: &Plan,
) -> Daemon {
    let Whose { instance, owner } = plan.whose;
    introduce(sim, eye, world, mirror, instance);
    let (listening, clock) = Listening::begin(sim.clock_of(owner));
    let (wake, calls) = Wake::new();
    let ops = Ops::new(Parts {
        store: Store::staged(disk, sim.stage_of(owner, Place::Store, OPS)),
        engine: engine(sim, world, owner, OPS),
        clock: Arc::clone(&clock),
        entropy: sim.entropy(),
        spawn: sim.spawner(owner),
        mirror: Arc::clone(mirror),
        settings: Settings { instance, ..settings() },
        wake,
    });
    let sweeper = Sweeper::new(SweeperParts {
        store: Store::staged(disk, sim.stage_of(owner, Place::Store, SWEEPS)),
        engine: engine(sim, world, owner, SWEEPS),
        ops: ops.clone(),
        clock: Arc::clone(&clock),
        entropy: sim.entropy(),
        instance,
        listening: listening.clone(),
    });
    let sweeper = Arc::new((plan.change_sweeper)(sweeper));
    let (driver, sweeps) = Driver::new(
        Arc::clone(&sweeper),
        ostler::sweep::all(),
        Arc::clone(&clock),
        sim.spawner(owner),
        calls,
    );
    let stop_driving = CancellationToken::new();
    if plan.driven {
        sim.spawn(owner, driver.drive(stop_driving.clone()));
    }
    let hearing = Store::staged(disk, sim.stage_of(owner, Place::Store, AGENTS));
    Daemon { ops, sweeper, hearing, listening, clock, sweeps, stop_driving, routes: OnceCell::new() }
}

/// Identity, mirror and sentinel, made at the first start and found at the later ones.
fn introduce(sim: &Sim, eye: &Store, world: &Arc<World>, mirror: &Mirror, instance: InstanceId) {
    if at_once(eye.registry()).unwrap().is_some() {
        return;
    }
    let registry = Registry { instance, generation: 0, recovering_since: None, engine_accepted_at: None };
    at_once(eye.found_registry(registry)).unwrap();
    let record =
        MirrorRecord { instance, generation: 0, engine_accepted: true, device: 0, inode: 0, born: None };
    mirror.write(&record).unwrap();
    let spawner = sim.spawner(Owner::Engine);
    let fake = FakeEngine::connect(Arc::clone(world), Arc::new(AtOnce), sim.clock(), spawner);
    at_once(trusted::accept(&fake, instance)).unwrap();
    at_once(eye.accept_engine(sim.now(), "fake".into())).unwrap();
}

/// The pass of that name.
pub(crate) fn pass_named(name: &str) -> Arc<dyn Pass> {
    ostler::sweep::all().into_iter().find(|pass| pass.name() == name).expect("there is such a pass")
}

/// A container workspace of the plain runtime.
pub(crate) fn request(name: &str, image: &str) -> CreateRequest {
    CreateRequest {
        name: name.parse().expect("a good name"),
        role: None,
        runtime: None,
        tier: Tier::default(),
        parent: None,
        external: false,
        url: None,
        habits: Habits::default(),
        spec: Spec { image: image.to_owned(), ..Spec::default() },
    }
}

/// The token in a file, or in a process.
pub(crate) fn token_of(bytes: Option<&[u8]>) -> Option<Token> {
    Token::parse(std::str::from_utf8(bytes?).ok()?)
}

/// What an agent says that is well.
pub(crate) fn well() -> Beat {
    Beat { uptime_seconds: 60, ..Beat::default() }
}

/// Whether an order was carried out, for histories.
pub(crate) fn told<T: std::fmt::Debug>(answer: &OpResult<T>) -> String {
    match answer {
        Ok(done) => format!("{done:?}"),
        Err(error) => format!("refused: {error}"),
    }
}

/// A running container with its volumes, as somebody else's or a lost row's.
fn furnish(world: &World, instance: InstanceId, id: WorkspaceId, name: &str) {
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
    // The fake itself hands out small ones.
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

/// No two have the same.
fn token_of_found(id: WorkspaceId) -> String {
    format!("{:032x}AAAAAAAAAAA", id.0.as_u128())
}

/// What is not ours to touch: a neighbour installation's workspace, and a person's copy of one of ours.
fn furnish_foreign(world: &World) {
    let neighbours = WorkspaceId(Uuid::from_u128(0x7000_0000_0000_4000_8000_0000_0000_0001));
    furnish(world, NEIGHBOUR, neighbours, &container_name(neighbours, 1));
    let copied = WorkspaceId(Uuid::from_u128(0x7000_0000_0000_4000_8000_0000_0000_0002));
    furnish(world, INSTANCE, copied, "debugging-copy");
    // The copy mounts volumes of its own name; those of ours by name and label would be unknown things.
    let mut state = world.state();
    for kind in VolumeKind::ALL {
        state.volumes.remove(&volume_name(copied, kind));
    }
}
