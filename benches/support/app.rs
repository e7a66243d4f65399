//! ostler with the same components as in the daemon, but with a fake engine that contains nothing.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use ostler::{
    app::{App, Backends, Parts, Sides, Surroundings},
    doctor::{BuiltIn, Network},
    domain::{
        address::Allow,
        budget::RestartBudget,
        ids::{ContainerId, InstanceId, TokenId, WorkspaceId},
        ports::PortRange,
        runtime::{PLAIN, Runtime},
        spec::WorkspaceSpec,
        status::Cause,
        time::Timestamp,
        token::Token,
        workspace::{Delivery, Kind},
    },
    engine::Engine,
    http::{
        Api, Dial,
        server::{self, serve_agents},
    },
    ops::{Access, Limits, Settings},
    runtime::{
        clock::{SharedClock, SystemClock},
        entropy::SystemEntropy,
        tasks::{AtOnce, TokioTasks},
    },
    store::{BeginStart, Mirror, NewWorkspace, Registry, Store, TokenIssue},
    sweep,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    fake_engine::{FakeEngine, World},
    serving_at,
};

pub(crate) const INSTANCE: InstanceId = InstanceId(Uuid::from_u128(1));

/// Workspace id for a number. Real ids are random, so these are not consecutive.
pub(crate) fn workspace(number: usize) -> WorkspaceId {
    let mixed = u128::from((number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)) << 64 | number as u128;
    WorkspaceId(Uuid::from_u128(mixed))
}

/// Token of workspace `number`.
pub(crate) fn token(number: usize) -> Token {
    let mut bytes = [7; 32];
    bytes[..16].copy_from_slice(workspace(number).0.as_bytes());
    Token::from_random(bytes)
}

/// Container id of workspace `number`.
pub(crate) fn container(number: usize) -> ContainerId {
    format!("{:064x}", number as u128 | 1 << 100).try_into().unwrap()
}

/// Creates `count` container workspaces, each with the token of its first start. The first one publishes a port.
pub(crate) async fn populate(store: &Store, count: usize, first_publishes: Option<u16>, at: Timestamp) {
    let registry =
        Registry { instance: INSTANCE, generation: 0, recovering_since: None, engine_accepted_at: Some(at) };
    store.found_registry(registry).await.unwrap();
    let numbers: Vec<_> = (0..count).collect();
    for some in numbers.chunks(1024) {
        join_all(some.iter().map(|number| one(store, *number, at))).await;
    }
    if let Some(port) = first_publishes {
        let ports = PortRange { first: port, last: port };
        store.allot(workspace(0), ports, Vec::new()).await.unwrap().unwrap();
    }
}

async fn one(store: &Store, number: usize, at: Timestamp) {
    let new = NewWorkspace {
        id: workspace(number),
        name: format!("agent-{number}").parse().unwrap(),
        kind: Kind::Container,
        delivery: Delivery::Push,
        spec: WorkspaceSpec {
            runtime: PLAIN.into(),
            image: "registry.example.org/team/agent:1.2.3".into(),
            ..WorkspaceSpec::default()
        },
        token: None,
    };
    store.create_workspace(new, at).await.unwrap();
    let token = token(number);
    let issue = TokenIssue {
        id: TokenId(Uuid::from_u128(workspace(number).0.as_u128() ^ 1 << 127)),
        digest: token.digest(),
        prefix: token.prefix(),
    };
    let begin = BeginStart {
        workspace: workspace(number),
        cause: Cause::Restart,
        container: container(number),
        spec_hash: "0123456789abcdef".into(),
        token: issue,
        decided_on: None,
        operation: None,
        replaces: None,
        degraded: None,
        at,
    };
    store.begin_start(begin).await.unwrap().unwrap();
}

/// Creates everything that the routes need. No pass runs; `benches/sweep.rs` measures the cost of the passes.
fn api(directory: &Path, store: Store, clock: &SharedClock, spawn: &TokioTasks) -> Api {
    let engine: Arc<dyn Engine> = Arc::new(FakeEngine::connect(
        Arc::new(World::default()),
        Arc::new(AtOnce),
        Arc::clone(clock),
        Arc::new(spawn.clone()),
    ));
    let mirror = Arc::new(Mirror::Directory(directory.to_owned()));
    let runtimes = BTreeMap::from([(PLAIN.to_owned(), Runtime::plain())]);
    let (app, calls) = App::new(Parts {
        sides: Sides::shared(Backends { store, engine }),
        clock: Arc::clone(clock),
        entropy: Arc::new(SystemEntropy),
        spawn: Arc::new(spawn.clone()),
        mirror,
        settings: Settings {
            instance: INSTANCE,
            runtimes,
            ports: PortRange::default(),
            platform_port: 7700,
            platform_url: None,
            isolate: false,
            log_bytes: 10 << 20,
            trash_retention: Duration::from_hours(14 * 24),
            restart: RestartBudget::default(),
            limits: Limits {
                absence_grace: Duration::from_mins(5),
                unknown_grace: Duration::from_mins(5),
                removed_retention: Duration::from_hours(24),
                event_retention: Duration::from_hours(24),
            },
            access: Access { root_siblings: true, wakes_per_hour: 12, external: Allow::default() },
            concurrent_starts: 2,
        },
    });
    let (_driver, sweeps) = app.driver(sweep::all(), calls);
    let surroundings = Surroundings {
        data_dir: directory.to_owned(),
        runtime_dir: directory.to_owned(),
        network: Network::default(),
        configuration: Arc::new(BuiltIn),
        dial: Dial::Tcp,
    };
    app.api(sweeps, surroundings)
}

/// Creates and serves a registry of `count` workspaces; the first one's agent is at `agent`.
pub(crate) fn serve(directory: &Path, count: usize, agent: SocketAddr) {
    // The same runtime as in `main.rs`.
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let clock: SharedClock = Arc::new(SystemClock::start());
        let store = Store::open(directory).unwrap();
        let begun = Instant::now();
        populate(&store, count, Some(agent.port()), clock.now()).await;
        eprintln!("{count} workspaces were created in {:.1} s", begun.elapsed().as_secs_f64());
        let spawn = TokioTasks::default();
        let api = api(directory, store, &clock, &spawn);
        let listener = server::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        serving_at(listener.local_addr().unwrap());
        serve_agents(listener, api, clock, Arc::new(spawn), CancellationToken::new()).await;
    });
}
