//! Assembles and runs the daemon: opens the store, builds all parts, starts the tasks, notifies systemd, and at
//! shutdown lets operations in progress finish.
//!
//! The only module that uses every layer. A start that fails before the sweeps begin has changed no workspace. The
//! start succeeds even without an engine: the daemon logs a warning, waits for the engine, and changes nothing until
//! the engine answers.

mod gates;
mod packets;
mod reload;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, oneshot},
};
use tokio_util::sync::CancellationToken;

use self::{gates::Gates, packets::Packets, reload::Running};
use crate::{
    api,
    config::{Config, Overrides},
    doctor::{self, Doctor, DoctorParts, Network, Reach},
    domain::{address::Allow, ids::InstanceId},
    engine::{
        Engine,
        bounded::{Bounded, Deadlines},
        podman::{
            Podman,
            socket::{SocketAddress, SocketError, find},
        },
    },
    http::{
        Api, ApiParts, Dial, Vitals, is_own_address, run_view,
        server::{self as listen, serve_agents, serve_local},
    },
    ops::{Access, HostAddresses, Limits, Ops, Parts, Settings},
    registry::identity::{self, IdentityError, Lock},
    runtime::{
        clock::{Boxed, Clock, SharedClock, SystemClock, within},
        entropy::SystemEntropy,
        epoch::Listening,
        tasks::{SharedSpawn, TokioTasks},
        wake::Wake,
    },
    store::{Mirror, Registry, Store},
    sweep::{
        self, Driver, DriverHandle, Mode, Requirement, Snapshot, Sweeper, SweeperParts, Watch, watch_engine,
    },
};

/// Time limit of each step of the shutdown: ending one listener, finishing the operations in progress, closing the
/// store. The next start of the daemon completes operations that did not finish in time.
const DRAIN: Duration = Duration::from_secs(10);

/// How long the daemon's start waits for the engine before the start continues without one.
const FIRST_ACCEPT: Duration = Duration::from_secs(3);

/// Retry interval for an engine that has not been accepted yet.
const ACCEPT_EVERY: Duration = Duration::from_secs(5);

/// Number of open files that the daemon should be allowed: enough for all connections of two listening addresses, and
/// for forwarded and pooled connections.
const DESCRIPTORS: u64 = 10_240;

/// The parts of the daemon: everything that is built from a configuration.
struct App {
    store: Store,
    engine: Arc<dyn Engine>,
    clock: SharedClock,
    spawn: TokioTasks,
    ops: Ops,
    sweeper: Arc<Sweeper>,
    registry: Registry,
    mirror: Arc<Mirror>,
    listening: Listening,
}

/// Runs the daemon until a signal ends it. A reload reads the configuration with the same `overrides` (flags and
/// environment).
///
/// # Errors
/// If the daemon cannot start or cannot serve its socket. If the start failed before the socket was bound, no workspace
/// was changed. The socket is bound last, after the sweeps have begun, so they may have changed workspaces if only this
/// step failed.
pub async fn serve(config: Config, overrides: Overrides) -> anyhow::Result<()> {
    raise_descriptors();
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot install a signal handler")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot install a signal handler")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot install a signal handler")?;
    let signalled = stop.clone();
    let (reload, terminal) = (Arc::new(Notify::new()), Terminal::at_start());
    let serving = serve_until(config, overrides, Arc::clone(&reload), stop);
    tokio::pin!(serving);
    loop {
        tokio::select! {
            biased;
            done = &mut serving => return done,
            _ = terminate.recv() => signalled.cancel(),
            _ = interrupt.recv() => signalled.cancel(),
            _ = hangup.recv() => if terminal.was_closed() { signalled.cancel() } else { reload.notify_one() },
        }
    }
}

/// Whether the daemon was started from a terminal.
///
/// When a terminal is closed, the kernel sends SIGHUP to the processes that were started from it. This SIGHUP ends the
/// daemon, as it ends other programs by default. Any other SIGHUP requests a reload.
struct Terminal(bool);

impl Terminal {
    fn at_start() -> Self {
        Self(Self::is_there())
    }

    fn is_there() -> bool {
        io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
    }

    fn was_closed(&self) -> bool {
        self.0 && !Self::is_there()
    }
}

/// Raises the soft limit of open files towards the hard limit, to at most `DESCRIPTORS`.
///
/// The default soft limit is 1024. Unauthenticated connections would exhaust it long before they reach the daemon's own
/// limit of connections. The daemon could then neither accept connections from agents nor connect to the engine.
fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if current.is_some_and(|current| current < wanted) {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
        if let Err(error) = raised {
            tracing::warn!(%error, "could not raise the limit of open files; many connections may exhaust it");
        }
    }
    if wanted < DESCRIPTORS {
        tracing::warn!(
            limit = wanted,
            "low hard limit of open files, many connections may exhaust it: raise it to {DESCRIPTORS} \
             (`LimitNOFILE` in a systemd unit, `--ulimit nofile` for a container)"
        );
    }
}

/// Serves until `stop` is cancelled. Each notification of `reload` reloads the configuration.
///
/// # Errors
/// See [`serve`].
async fn serve_until(
    config: Config,
    overrides: Overrides,
    reload: Arc<Notify>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let _directory = Lock::data_directory(&config.data_dir)?;
    let store = Store::open(&config.data_dir)?;
    let clock: SharedClock = Arc::new(SystemClock::start());
    let mirror = Arc::new(Mirror::Directory(config.data_dir.clone()));
    let registry = identity::establish(&store, &mirror, &config.data_dir, &*clock, &SystemEntropy).await?;
    let _instance = Lock::instance(&config.runtime_dir, registry.instance)?;
    let (wake, calls) = Wake::new();
    let app = build(&config, store, mirror, registry, clock, wake)?;
    // The engine is accepted before the sweeps begin: on a first start, they would otherwise log a warning.
    let accepted = within(&*app.clock, FIRST_ACCEPT, app.ops.accept_first_engine()).await;
    if let Some(Err(error)) = &accepted {
        tracing::warn!(%error, "engine not accepted yet; nothing is changed until it is");
    }
    let (driver, sweeps) = Driver::new(
        Arc::clone(&app.sweeper),
        sweep::all_with_interval(config.sweep.check_interval),
        Arc::clone(&app.clock),
        Arc::new(app.spawn.clone()),
        calls,
    );
    let packets = Arc::new(Packets::new(app.registry.instance));
    let running = Running::new(config.clone(), overrides, app.ops.clone(), app.registry.instance);
    let running = Arc::new(running);
    let api = api_of(&app, &config, sweeps.clone(), &packets, &running);
    let agent_listeners =
        AgentListeners { api: api.clone(), config: &config, app: &app, stop: &stop, packets };
    // Bound before the sweeps begin: a daemon that agents cannot reach must not act on workspaces.
    let serving = agent_listeners.open_known()?;
    let (opened, open) = oneshot::channel();
    let background = [
        tokio_task(keep_accepting(app.ops.clone(), Arc::clone(&app.clock), sweeps.clone()), &stop),
        tokio_task(driver.drive(stop.clone()), &stop),
        tokio_task(ping_watchdog(Arc::clone(&app.clock), app.store.clone(), sweeps.clone()), &stop),
        tokio_task(watch_engine(watch_of(&app, sweeps.clone())), &stop),
        tokio_task(agent_listeners.serve_workspace_addresses(opened), &stop),
        tokio_task(api.clone().carry_out_delegations(), &stop),
        tokio_task(running.reload_when(reload), &stop),
    ];
    // Agents connect as soon as the daemon is ready, so the addresses for workspaces are bound before that. If the
    // engine was not accepted, they are bound later.
    if matches!(accepted, Some(Ok(_))) {
        let _opens_later = within(&*app.clock, FIRST_ACCEPT, open).await;
    }
    let socket = config.socket();
    tracing::info!(
        socket = %socket.display(), instance = %app.registry.instance, data_dir = %config.data_dir.display(),
        "daemon started"
    );
    let served = serve_local(&socket, api, stop.clone(), notify_ready);
    let ended = end_with(served, &stop, &*app.clock).await;
    stop.cancel();
    for task in background {
        task.abort();
    }
    for listener in serving {
        // A listener ends when its in-flight requests have ended.
        let _ended = within(&*app.clock, DRAIN, listener).await;
    }
    if within(&*app.clock, DRAIN, app.spawn.drain()).await.is_none() {
        tracing::warn!(
            "some operations did not finish before the shutdown limit; the next start completes them"
        );
    }
    // The store is closed last. The database is then a single file, and a copy of that file is complete.
    if within(&*app.clock, DRAIN, app.store.close()).await.is_none() {
        tracing::warn!("database not closed before the shutdown limit; its write-ahead log (-wal) remains");
    }
    ended.with_context(|| format!("cannot serve on the socket {}", socket.display()))
}

/// Awaits `served`, but for at most 1 s after `stop` is cancelled: a client that keeps a stream open must not block the
/// shutdown.
async fn end_with(
    served: impl Future<Output = std::io::Result<()>>,
    stop: &CancellationToken,
    clock: &dyn Clock,
) -> std::io::Result<()> {
    tokio::pin!(served);
    tokio::select! {
        biased;
        done = &mut served => done,
        () = stop.cancelled() => within(clock, Duration::from_secs(1), served).await.unwrap_or(Ok(())),
    }
}

#[expect(clippy::disallowed_methods, reason = "the daemon's own loops are aborted at shutdown, not drained")]
fn tokio_task(
    work: impl Future<Output = ()> + Send + 'static,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let stop = stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(work).await.unwrap_or_default() })
}

fn notify_ready() {
    // Fails if the daemon does not run under systemd, which is allowed.
    let _not_systemd = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// Notifies systemd's watchdog while store and sweep driver make progress; systemd restarts a daemon that is stuck.
async fn ping_watchdog(clock: SharedClock, store: Store, sweeps: DriverHandle) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    loop {
        match Vitals::take(&store, &sweeps, &*clock).await.stuck() {
            None => {
                let _not_systemd = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
            Some(why) => tracing::error!(%why, "watchdog not notified"),
        }
        clock.sleep(limit / 3).await;
    }
}

/// On a first start, accepts the engine once the engine answers, then runs all passes. Does nothing on later starts.
async fn keep_accepting(ops: Ops, clock: SharedClock, sweeps: DriverHandle) {
    loop {
        match ops.accept_first_engine().await {
            Ok(false) => return,
            Ok(true) => {
                drop(sweeps.run_now(Vec::new(), Mode::Apply).await);
                return;
            }
            Err(error) => tracing::warn!(%error, "engine not accepted yet; retrying"),
        }
        clock.sleep(ACCEPT_EVERY).await;
    }
}

fn watch_of(app: &App, sweeps: DriverHandle) -> Watch {
    Watch {
        store: app.store.clone(),
        engine: Arc::clone(&app.engine),
        ops: app.ops.clone(),
        sweeps,
        clock: Arc::clone(&app.clock),
        spawn: Arc::new(app.spawn.clone()),
        instance: app.registry.instance,
    }
}

/// The TCP listeners for agents.
struct AgentListeners<'a> {
    api: Api,
    config: &'a Config,
    app: &'a App,
    stop: &'a CancellationToken,
    packets: Arc<Packets>,
}

impl AgentListeners<'_> {
    /// Binds the addresses that are known without asking the engine: the configured ones, or loopback.
    ///
    /// # Errors
    /// If one of them cannot be bound.
    fn open_known(&self) -> anyhow::Result<Vec<Boxed<()>>> {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let configured = &self.config.network.listen;
        let addresses = if configured.is_empty() { &loopback[..] } else { configured };
        let mut serving = Vec::new();
        for address in addresses {
            let address = SocketAddr::new(*address, self.config.network.port);
            let listener = listen::bind(address, false).with_context(|| {
                format!(
                    "cannot listen on {address} for agents (if another program uses the port, set another port with \
                     `network.port`; set other addresses with `network.listen`)"
                )
            })?;
            tracing::info!(%address, "listening for agents");
            serving.push(self.serve(listener));
        }
        Ok(serving)
    }

    /// Serves `listener` in a task of its own. The returned future resolves when that task has ended.
    fn serve(&self, listener: tokio::net::TcpListener) -> Boxed<()> {
        let (ended, end) = tokio::sync::oneshot::channel();
        let spawn: SharedSpawn = Arc::new(self.app.spawn.clone());
        let work = serve_agents(
            listener,
            self.api.clone(),
            Arc::clone(&self.app.clock),
            Arc::clone(&spawn),
            self.stop.clone(),
        );
        spawn.spawn(Box::pin(async move {
            work.await;
            let _unawaited = ended.send(());
        }));
        Box::pin(async move { end.await.unwrap_or_default() })
    }

    /// Keeps listening on the addresses at which workspaces reach this host. With rootful Podman, these are the
    /// gateways of the workspaces' networks, including networks that are created later. With rootless Podman, it is an
    /// address of this host. `opened` is completed once the first addresses are bound.
    fn serve_workspace_addresses(
        &self,
        opened: oneshot::Sender<()>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let gates = Gates {
            ops: self.app.ops.clone(),
            api: self.api.clone(),
            clock: Arc::clone(&self.app.clock),
            spawn: Arc::new(self.app.spawn.clone()),
            port: self.config.network.port,
            stop: self.stop.clone(),
            listens: self.config.network.listen.is_empty(),
            // With `network.platform_url`, workspaces use that URL, so `network.listen` need not include the gateways.
            listen: match self.config.network.platform_url {
                None => self.config.network.listen.clone(),
                Some(_) => Vec::new(),
            },
            isolate: self.config.network.isolate,
            packets: Arc::clone(&self.packets),
            open: BTreeMap::new(),
            kept: None,
        };
        gates.keep_open(opened)
    }
}

fn build(
    config: &Config,
    store: Store,
    mirror: Arc<Mirror>,
    registry: Registry,
    clock: SharedClock,
    wake: Wake,
) -> anyhow::Result<App> {
    let (listening, clock) = Listening::begin(clock);
    let engine = engine_of(config, &clock)?;
    let spawn = TokioTasks::default();
    let ops = Ops::new(Parts {
        store: store.clone(),
        engine: Arc::clone(&engine),
        clock: Arc::clone(&clock),
        entropy: Arc::new(SystemEntropy),
        spawn: Arc::new(spawn.clone()),
        mirror: Arc::clone(&mirror),
        settings: settings_of(config, registry.instance),
        wake,
    });
    let sweeper = Arc::new(Sweeper::new(SweeperParts {
        store: store.clone(),
        engine: Arc::clone(&engine),
        ops: ops.clone(),
        clock: Arc::clone(&clock),
        entropy: Arc::new(SystemEntropy),
        instance: registry.instance,
        listening: listening.clone(),
    }));
    Ok(App { store, engine, clock, spawn, ops, sweeper, registry, mirror, listening })
}

fn settings_of(config: &Config, instance: InstanceId) -> Settings {
    Settings {
        instance,
        runtimes: config.runtimes.clone(),
        ports: config.ports,
        platform_port: config.network.port,
        platform_url: config.network.platform_url.clone(),
        isolate: config.network.isolate,
        log_bytes: config.engine.log_size,
        trash_retention: config.sweep.trash_retention,
        restart: config.restart,
        limits: Limits {
            absence_grace: config.sweep.absence_grace,
            unknown_grace: config.sweep.unknown_grace,
            removed_retention: config.sweep.trash_retention,
            event_retention: config.sweep.event_retention,
        },
        access: Access {
            root_siblings: config.access.root_siblings,
            wakes_per_hour: config.access.wakes_per_hour,
            external: Allow {
                private: config.external.allow_private,
                loopback: config.external.allow_loopback,
            },
        },
        concurrent_starts: config.engine.concurrent_starts(),
    }
}

fn api_of(
    app: &App,
    config: &Config,
    sweeps: DriverHandle,
    packets: &Arc<Packets>,
    running: &Arc<Running>,
) -> Api {
    let doctor = Doctor::new(DoctorParts {
        store: app.store.clone(),
        engine: Arc::clone(&app.engine),
        clock: Arc::clone(&app.clock),
        instance: app.registry.instance,
        data_dir: config.data_dir.clone(),
        network: network_of(app, config, Arc::clone(packets)),
        configuration: Arc::<Running>::clone(running),
    });
    Api::new(ApiParts {
        store: app.store.clone(),
        engine: Arc::clone(&app.engine),
        ops: app.ops.clone(),
        sweeps,
        doctor,
        clock: Arc::clone(&app.clock),
        spawn: Arc::new(app.spawn.clone()),
        mirror: Arc::clone(&app.mirror),
        runtime_dir: config.runtime_dir.clone(),
        entropy: Arc::new(SystemEntropy),
        listening: app.listening.clone(),
        dial: Dial::Tcp,
    })
}

fn network_of(app: &App, config: &Config, packets: Arc<Packets>) -> Network {
    let ops = app.ops.clone();
    let bound = ops.clone();
    Network {
        listen: config.network.listen.clone(),
        port: config.network.port,
        advertised_url: ops.settings().advertised_url(),
        is_url_configured: config.network.platform_url.is_some(),
        isolate: config.network.isolate,
        packets: Arc::new(move || packets.state()),
        since: app.clock.now(),
        bound: Arc::new(move || {
            let ops = bound.clone();
            Box::pin(async move { ops.bound_addresses().await })
        }),
        reach: Arc::new(move || {
            let ops = ops.clone();
            Box::pin(async move {
                let HostAddresses { addresses, reachable_from_lan, rootless, given_addresses, .. } =
                    ops.host_addresses().await.map_err(|error| error.to_string())?;
                let outdated = given_addresses.into_iter().filter(|(_, address)| !is_own_address(*address));
                Ok(Reach {
                    addresses,
                    reachable_from_lan,
                    rootless,
                    outdated: outdated.map(|(workspace, _)| workspace).collect(),
                })
            })
        }),
    }
}

/// Connects to the engine, with deadlines on every call.
///
/// If no socket of an engine exists yet, uses the default path: the daemon starts anyway, and works once the engine
/// listens there.
///
/// # Errors
/// If the configured address cannot be used.
fn engine_of(config: &Config, clock: &SharedClock) -> anyhow::Result<Arc<dyn Engine>> {
    let environment = |name: &str| std::env::var(name).ok();
    let uid = rustix::process::geteuid().as_raw();
    let address = match find(config.engine.socket.as_deref(), environment, uid) {
        Ok(address) => address,
        Err(error @ SocketError::NotFound { .. }) => {
            tracing::warn!(%error, "engine socket not found; the default path is used");
            let SocketError::NotFound { wanted, .. } = &error else { return Err(error.into()) };
            SocketAddress::parse(&format!("unix://{}", wanted.display()), "the default path")?
        }
        Err(error) => return Err(error.into()),
    };
    let deadlines = Deadlines {
        read: config.engine.read_deadline,
        change: config.engine.change_deadline,
        pull: config.engine.pull_deadline,
    };
    Ok(Arc::new(Bounded::new(Arc::new(Podman::connect(&address)), Arc::clone(clock), deadlines)))
}

/// Plans passes without a daemon and applies nothing. Items whose grace period has to pass first are shown as being
/// watched, because only a running daemon observes that time.
///
/// # Errors
/// If there is no database, a name in `passes` is unknown, or the engine gives no usable snapshot.
pub async fn dry_run(config: Config, passes: Vec<String>) -> anyhow::Result<Vec<api::sweep::PassRun>> {
    let store = Store::open_read_only(&config.data_dir)?;
    let registry =
        store.registry().await?.context("the database has no instance id yet: run `ostler serve` once")?;
    let clock: SharedClock = Arc::new(SystemClock::start());
    let mirror = Arc::new(Mirror::Directory(config.data_dir.clone()));
    let app = build(&config, store, mirror, registry, clock, Wake::disconnected())?;
    let all = sweep::all();
    let known: Vec<_> = all.iter().map(|pass| pass.name()).collect();
    if let Some(wrong) = passes.iter().find(|name| !known.contains(&name.as_str())) {
        anyhow::bail!("unknown pass `{wrong}`; the passes are {}", known.join(", "));
    }
    let snapshot: Snapshot = app.sweeper.snapshot().await?;
    let clock_snapshot = app.sweeper.clock_snapshot();
    let mut runs = Vec::new();
    for pass in all.iter().filter(|pass| passes.is_empty() || passes.iter().any(|name| name == pass.name())) {
        let snapshot = match pass.requires() {
            Requirement::Engine => &snapshot,
            Requirement::Store => &clock_snapshot,
        };
        runs.push(run_view(&app.sweeper.run(&**pass, snapshot, Mode::DryRun).await));
    }
    Ok(runs)
}

/// Advice for a database that cannot be read, if the error itself gives none.
const RESTORE: &str = "if the error above gives no advice: move ostler.db-wal and ostler.db-shm away, then restore \
                       a backup of ostler.db";

/// Runs the checks that need no running daemon.
///
/// # Errors
/// Never: a check that cannot be completed is reported as a failed check.
pub async fn doctor_offline(config: Config) -> anyhow::Result<api::doctor::DoctorReport> {
    // The registry is checked first. If `ostler serve` would refuse this data directory, `daemon_offline` must not
    // advise to start the daemon.
    let registry = registry_offline(&config.data_dir).await;
    let mut checks = vec![daemon_offline(&config, registry.verdict == "fail")];
    let clock: SharedClock = Arc::new(SystemClock::start());
    match engine_of(&config, &clock) {
        Ok(engine) => checks.push(doctor::engine(&*engine).await),
        Err(error) => checks.push(doctor::fail("engine", format!("{error:#}"), "see `ostler config show`")),
    }
    checks.push(doctor::disk(existing_part(&config.data_dir)));
    checks.push(registry);
    Ok(api::doctor::DoctorReport { checks })
}

/// Reports why no daemon answered, and whether to start one.
fn daemon_offline(config: &Config, is_refused: bool) -> api::doctor::Check {
    let socket = config.socket();
    let socket_path = socket.display();
    match std::os::unix::net::UnixStream::connect(&socket) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return doctor::fail(
                "daemon",
                format!("cannot check whether a daemon serves {socket_path}: {error}"),
                "run this as the owner of the data directory, or choose another directory with --data-dir",
            );
        }
        Ok(_) => {
            return doctor::fail(
                "daemon",
                format!("the daemon at {socket_path} does not respond"),
                "check whether its process is stopped (`kill -CONT PID` resumes it) or the machine is overloaded",
            );
        }
        Err(_) => {}
    }
    let advice = if is_refused {
        "fix the `registry` check below first: until then `ostler serve` refuses to start"
    } else if rustix::process::getuid().is_root() {
        "start it: `ostler serve`, or `systemctl start ostler`"
    } else {
        "start it: `ostler serve`, or `systemctl --user start ostler`"
    };
    doctor::fail("daemon", format!("no daemon serves {socket_path}"), advice)
}

/// Checks the registry's files as a start of the daemon would.
async fn registry_offline(data_dir: &Path) -> api::doctor::Check {
    let fail =
        |error: &dyn std::fmt::Display, advice: &str| doctor::fail("registry", error.to_string(), advice);
    let record = match identity::refuse_copy(data_dir) {
        Ok(record) => record,
        Err(error) => return fail(&error, "nothing was changed; follow the advice in the error"),
    };
    match data_dir.join(crate::store::FILE_NAME).try_exists() {
        Ok(true) => {}
        Err(error) => {
            return fail(
                &format!("{}: {error}", data_dir.display()),
                "run this as the owner of the data directory, or choose another directory with --data-dir",
            );
        }
        Ok(false) => {
            return match record {
                None => doctor::ok("registry", "none yet; the first `ostler serve` creates it"),
                Some(record) => doctor::warn(
                    "registry",
                    format!("the database is missing; its mirror file records instance {}", record.instance),
                    "restore ostler.db from a backup if you have one. Otherwise `ostler serve` creates a new \
                     registry and changes nothing automatically; `ostler adopt --dry-run` lists the workspaces that \
                     can be adopted",
                ),
            };
        }
    }
    let store = match Store::open_read_only(data_dir) {
        Ok(store) => store,
        Err(error) => return fail(&error, RESTORE),
    };
    match identity::refuse_mixed(&store, record.as_ref(), data_dir).await {
        Ok(Some(registry)) => doctor::ok("registry", format!("instance {}", registry.instance)),
        Ok(None) => doctor::ok("registry", "new, no instance id yet"),
        Err(IdentityError::Store(error)) => fail(&error, RESTORE),
        Err(error) => fail(&error, "nothing was changed; follow the advice in the error"),
    }
}

/// `path`, or its nearest ancestor that exists: before the first start, the data directory does not exist.
fn existing_part(path: &Path) -> &Path {
    path.ancestors().find(|part| part.exists()).unwrap_or(path)
}

/// Accepts this data directory although it is a copy, so that the daemon can be started with it.
///
/// # Errors
/// If the directory is in use or cannot be written.
pub async fn accept_copy(config: Config) -> anyhow::Result<()> {
    Ok(identity::accept_copy(&config.data_dir).await?)
}
