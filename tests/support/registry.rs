//! A complete daemon in the test process, without Podman: the real store in a file, the real server on a socket, the
//! real sweeps, and the fake engine for containers.
//!
//! The directory and the engine's state outlive the daemon, as in production: [`Registry::restart`] starts another
//! daemon on them.

#![allow(clippy::disallowed_methods, reason = "a real server takes real time, and its tasks are tokio's")]

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ostler::{
    app::{App, Backends, Parts, Sides, Surroundings},
    doctor::{BuiltIn, Network},
    domain::{
        address::Allow,
        budget::RestartBudget,
        ids::WorkspaceId,
        runtime::{AGENT, PLAIN, Runtime},
        time::{Awake, Timestamp},
        token::Token,
        workspace::Workspace,
    },
    engine::Engine,
    http::{
        Dial,
        server::{self, serve_agents},
    },
    ops::{Access, Limits, Ops, Settings},
    registry::identity,
    runtime::{
        clock::{Boxed, Clock, SharedClock, SystemClock},
        entropy::SystemEntropy,
        epoch::Listening,
        tasks::{AtOnce, SharedSpawn, TokioTasks},
    },
    store::{FILE_NAME, Mirror, Store},
    sweep::{self, DriverHandle, Mode, Run},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    fake_engine::{FakeEngine, World},
    ports::{Ports, REGISTRIES},
    wire::{Answer, Ask},
};

/// Image of every container here.
pub(crate) const IMAGE: &str = "agent:1";
/// Limit for every wait; generous, because the machine may be busy with other work.
const PATIENCE: Duration = Duration::from_secs(30);
const CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// Number of host ports for containers, unless a test needs more.
const PORTS: u16 = 12;

/// Options of a test's registry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) access: Access,
    pub(crate) restart: RestartBudget,
    /// Speed of its clock, as a multiple of real time.
    pub(crate) speed: u32,
    /// Number of host ports for its containers.
    pub(crate) ports: u16,
}

impl Default for Options {
    /// Allows external agents on this machine, because tests run their external agents here.
    fn default() -> Self {
        let external = Allow { private: false, loopback: true };
        let access = Access { root_siblings: true, wakes_per_hour: 12, external };
        Self { access, restart: RestartBudget::default(), speed: 1, ports: PORTS }
    }
}

/// The system's clock, accelerated, so that minutes pass within seconds.
struct FastClock {
    clock: SystemClock,
    began: Timestamp,
    speed: u32,
}

impl FastClock {
    fn start(speed: u32) -> Self {
        let clock = SystemClock::start();
        Self { began: clock.now(), clock, speed }
    }
}

impl Clock for FastClock {
    fn now(&self) -> Timestamp {
        self.began + self.clock.now().since(self.began) * self.speed
    }

    fn awake(&self) -> Awake {
        Awake(self.clock.awake().0 * u64::from(self.speed))
    }

    fn sleep(&self, duration: Duration) -> Boxed<()> {
        self.clock.sleep(duration / self.speed)
    }

    fn allowed_lateness(&self) -> Duration {
        self.clock.allowed_lateness() * self.speed
    }
}

/// A running daemon.
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    pub(crate) world: Arc<World>,
    pub(crate) store: Store,
    pub(crate) ops: Ops,
    pub(crate) listening: Listening,
    pub(crate) clock: SharedClock,
    /// An admin token.
    pub(crate) admin: String,
    directory: TempDir,
    ports: Arc<Ports>,
    options: Options,
    sweeps: DriverHandle,
    spawn: TokioTasks,
    stop: CancellationToken,
    serving: Vec<JoinHandle<()>>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Registry {
    pub(crate) async fn start() -> Self {
        Self::wanting(Options::default()).await
    }

    pub(crate) async fn wanting(options: Options) -> Self {
        let directory =
            tempfile::Builder::new().prefix("ostler-registry-").tempdir().expect("a temp directory");
        let world = Arc::new(World::default());
        world.state().images.insert(IMAGE.to_owned());
        let ports = Arc::new(Ports::take(&REGISTRIES, options.ports));
        Self::serve(directory, world, ports, options).await
    }

    /// Stops this daemon as a signal does, and starts another on the same state.
    pub(crate) async fn restart(mut self) -> Self {
        self.stop.cancel();
        for serving in std::mem::take(&mut self.serving) {
            serving.await.expect("the server stops");
        }
        self.spawn.drain().await;
        let directory =
            std::mem::replace(&mut self.directory, tempfile::tempdir().expect("a temp directory"));
        let (world, ports, options) = (Arc::clone(&self.world), Arc::clone(&self.ports), self.options);
        drop(self);
        Self::serve(directory, world, ports, options).await
    }

    async fn serve(directory: TempDir, world: Arc<World>, ports: Arc<Ports>, options: Options) -> Self {
        let data_dir = directory.path().join("data");
        let store = Store::open(&data_dir).expect("the store opens");
        let clock: SharedClock = Arc::new(FastClock::start(options.speed));
        let spawn = TokioTasks::default();
        let tasks: SharedSpawn = Arc::new(spawn.clone());
        let mirror = Arc::new(Mirror::Directory(data_dir.clone()));
        let identity = identity::establish(&store, &mirror, &data_dir, &*clock, &SystemEntropy).await;
        let instance = identity.expect("the identity is established").instance;
        let fake =
            FakeEngine::connect(Arc::clone(&world), Arc::new(AtOnce), Arc::clone(&clock), Arc::clone(&tasks));
        let engine: Arc<dyn Engine> = Arc::new(fake);
        let listener = server::bind((Ipv4Addr::LOCALHOST, 0).into(), false).expect("a port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let runtimes = BTreeMap::from([
            (PLAIN.to_owned(), Runtime::plain()),
            (AGENT.to_owned(), Runtime { image: Some(IMAGE.to_owned()), ..Runtime::agent() }),
        ]);
        let (app, calls) = App::new(Parts {
            sides: Sides::shared(Backends { store, engine }),
            clock,
            entropy: Arc::new(SystemEntropy),
            spawn: Arc::clone(&tasks),
            mirror,
            settings: Settings {
                instance,
                runtimes,
                ports: ports.range(),
                platform_port: address.port(),
                platform_url: None,
                isolate: false,
                log_bytes: 10 << 20,
                trash_retention: Duration::from_hours(14 * 24),
                restart: options.restart,
                limits: Limits {
                    absence_grace: Duration::from_mins(5),
                    unknown_grace: Duration::from_mins(10),
                    removed_retention: Duration::from_hours(30 * 24),
                    event_retention: Duration::from_hours(30 * 24),
                },
                access: options.access,
                concurrent_starts: 2,
            },
        });
        app.ops.accept_first_engine().await.expect("the fake engine is accepted");
        app.ops.continue_operations().await.expect("the open operations are read");
        let (driver, sweeps) = app.driver(sweep::all(), calls);
        let network = Network {
            listen: vec![address.ip()],
            port: address.port(),
            advertised_url: app.ops.settings().advertised_url(),
            ..Network::default()
        };
        let surroundings = Surroundings {
            data_dir,
            runtime_dir: directory.path().join("run"),
            network,
            configuration: Arc::new(BuiltIn),
            dial: Dial::Tcp,
        };
        let api = app.api(sweeps.clone(), surroundings);
        let App { store, ops, listening, clock, .. } = app;
        let stop = CancellationToken::new();
        let serving = vec![
            tokio::spawn({
                let (api, stop) = (api.clone(), stop.clone());
                async move { stop.run_until_cancelled(api.carry_out_delegations()).await.unwrap_or_default() }
            }),
            tokio::spawn(serve_agents(listener, api, Arc::clone(&clock), tasks, stop.clone())),
            tokio::spawn(driver.drive(stop.clone())),
        ];
        let admin = ops.issue_admin_token("tests".into(), None).await.expect("a token is issued");
        let admin = admin.expose().to_owned();
        Self {
            address,
            world,
            store,
            ops,
            listening,
            clock,
            admin,
            directory,
            ports,
            options,
            sweeps,
            spawn,
            stop,
            serving,
        }
    }

    /// The database file, for a second connection in addition to the daemon's own.
    pub(crate) fn database(&self) -> PathBuf {
        self.directory.path().join("data").join(FILE_NAME)
    }

    pub(crate) async fn ask(&self, ask: Ask) -> Answer {
        ask.to(self.address).await
    }

    /// Sends a request with the admin token.
    pub(crate) async fn order(&self, ask: Ask) -> Answer {
        ask.token(&self.admin).to(self.address).await
    }

    /// Runs these passes now.
    pub(crate) async fn sweep(&self, passes: &[&'static str]) -> Vec<Run> {
        self.sweeps.run_now(passes.to_vec(), Mode::Apply).await
    }

    pub(crate) async fn row(&self, id: &str) -> Workspace {
        let id: WorkspaceId = id.parse().expect("an id");
        self.store.workspace(id).await.expect("the store answers").expect("the row exists")
    }

    pub(crate) async fn status(&self, id: &str) -> String {
        self.row(id).await.status.to_string()
    }

    /// The admin's view of a workspace.
    pub(crate) async fn show(&self, id: &str) -> Value {
        self.order(Ask::get(format!("/workspaces/{id}"))).await.well()
    }

    pub(crate) async fn until_status(&self, id: &str, status: &str) {
        until(&format!("{id} is {status}"), async || (self.status(id).await == status).then_some(())).await;
    }

    /// Creates a workspace with this name and the fields of `more`; returns the response body.
    pub(crate) async fn create(&self, name: &str, more: Value) -> Value {
        let mut body = json!({ "name": name });
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let made = self.order(Ask::post("/workspaces").json(body)).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.json()
    }

    /// A container workspace whose container runs; no heartbeat has been received yet.
    pub(crate) async fn begun(&self, name: &str, more: Value) -> AgentClient<'_> {
        let mut options = json!({ "runtime": AGENT });
        options.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let id = self.create(name, options).await["id"].as_str().unwrap().to_owned();
        let token = self.token_in_volume(&id).await;
        AgentClient { registry: self, id, token }
    }

    /// An online container workspace.
    pub(crate) async fn online(&self, name: &str) -> AgentClient<'_> {
        self.online_with(name, json!({})).await
    }

    pub(crate) async fn online_below(&self, name: &str, parent: &AgentClient<'_>) -> AgentClient<'_> {
        self.online_with(name, json!({ "parent_id": parent.id })).await
    }

    pub(crate) async fn online_with(&self, name: &str, more: Value) -> AgentClient<'_> {
        let client = self.begun(name, more).await;
        client.heartbeat(json!({})).await.is(200, r#"{"status":"ok"}"#);
        assert_eq!(client.status().await, "online", "its heartbeat did not bring it online");
        client
    }

    /// An external workspace without a heartbeat yet, with its token.
    pub(crate) async fn external(&self, name: &str, more: Value) -> AgentClient<'_> {
        let mut options = json!({ "external": true });
        options.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let made = self.create(name, options).await;
        let id = made["id"].as_str().unwrap().to_owned();
        let token = made["connection"]["auth_token"].as_str().unwrap().to_owned();
        AgentClient { registry: self, id, token }
    }

    /// An online external workspace whose agent has this URL.
    pub(crate) async fn external_at(&self, name: &str, url: &str) -> AgentClient<'_> {
        let client = self.external(name, json!({})).await;
        client.register(json!({ "url": url })).await.is(200, r#"{"status":"registered"}"#);
        client
    }

    /// The token in the volume of the running container.
    pub(crate) async fn token_in_volume(&self, id: &str) -> String {
        let token = until(&format!("{id} runs"), async || {
            let row = self.row(id).await;
            let id = row.container?;
            let state = self.world.state();
            let container = state.containers.get(&id).filter(|container| container.state.may_run())?;
            state.token_file(container)
        })
        .await;
        String::from_utf8(token).expect("a token is text")
    }

    /// The newest events of a workspace, newest first.
    pub(crate) async fn events_of(&self, id: &str) -> Vec<Value> {
        let events = self.order(Ask::get(format!("/events/{id}"))).await.well();
        events.as_array().unwrap().clone()
    }

    /// The newest event of that type of a workspace.
    pub(crate) async fn event(&self, id: &str, event_type: &str) -> Value {
        let events = self.events_of(id).await;
        let found = events.iter().find(|event| event["event_type"] == event_type);
        found.unwrap_or_else(|| panic!("no {event_type} among {events:#?}")).clone()
    }
}

/// The proof that the owner of this token expects from ostler.
pub(crate) fn proof_of(token: &str) -> String {
    Token::parse(token).expect("a token").digest().proof().expose().to_owned()
}

/// The id and token of a workspace, as its agent knows them.
#[derive(Clone)]
pub(crate) struct AgentClient<'r> {
    pub(crate) registry: &'r Registry,
    pub(crate) id: String,
    pub(crate) token: String,
}

impl AgentClient<'_> {
    /// Sends a request with the workspace's token.
    pub(crate) async fn ask(&self, ask: Ask) -> Answer {
        ask.token(&self.token).to(self.registry.address).await
    }

    /// Sends a heartbeat with these fields.
    pub(crate) async fn heartbeat(&self, more: Value) -> Answer {
        self.ask(self.heartbeat_request(more)).await
    }

    #[allow(clippy::needless_pass_by_value, reason = "so that a test can write the value in its place")]
    pub(crate) fn heartbeat_request(&self, more: Value) -> Ask {
        let mut body = json!({ "workspace_id": self.id });
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        Ask::post("/registry/heartbeat").json(body)
    }

    /// Registers with these fields, besides the id and a card.
    pub(crate) async fn register(&self, more: Value) -> Answer {
        let mut body = json!({ "id": self.id, "url": "http://ws:8000", "agent_card": { "name": "card" } });
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        self.ask(Ask::post("/registry/register").json(body)).await
    }

    pub(crate) async fn status(&self) -> String {
        self.registry.status(&self.id).await
    }

    pub(crate) async fn until_status(&self, status: &str) {
        self.registry.until_status(&self.id, status).await;
    }

    pub(crate) async fn show(&self) -> Value {
        self.registry.show(&self.id).await
    }

    /// Sends an admin command for this workspace, such as `pause`.
    pub(crate) async fn order(&self, verb: &str) -> Answer {
        self.registry.order(Ask::post(format!("/workspaces/{}/{verb}", self.id))).await
    }

    /// The proof that ostler's requests to its agent have to carry.
    pub(crate) fn proof(&self) -> String {
        proof_of(&self.token)
    }

    /// Sends a message from this workspace to another.
    pub(crate) async fn send_message(&self, to: &AgentClient<'_>, body: Value) -> Answer {
        self.ask(self.message(to).json(body)).await
    }

    pub(crate) fn message(&self, to: &AgentClient<'_>) -> Ask {
        Ask::post(format!("/workspaces/{}/a2a", to.id)).header("X-Workspace-ID", &self.id)
    }

    /// The host port of its container.
    pub(crate) async fn port(&self) -> u16 {
        self.registry.row(&self.id).await.host_port.expect("the workspace has a host port")
    }

    /// Makes its container exit unexpectedly, with code 1.
    pub(crate) async fn kill_container(&self) {
        let container = self.registry.row(&self.id).await.container.expect("the workspace has a container");
        self.registry.world.state().kill(&container, 1);
    }
}

/// Polls `check` until it returns a value.
pub(crate) async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = tokio::time::Instant::now();
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "timed out waiting until {what}");
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}
