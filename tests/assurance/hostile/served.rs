//! The attacked process: this same binary, started again.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use ostler::domain::runtime::AGENT;
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::{
    registry::{AgentClient, Options, Registry},
    wire::{Answer, Ask},
};

/// The argument that makes this binary the attacked process.
const SERVE: &str = "serve-the-hostile";
/// Number of agents in containers, and of external ones.
const CONTAINERS: usize = 100;
const EXTERNAL: usize = 900;
/// Number of each kind that stop sending heartbeats.
const SILENT: usize = 10;
/// Number of workspaces with tokens that the attackers have.
const NOISY: usize = 24;
/// Descriptors that each side needs for its connections.
const DESCRIPTORS: u64 = 16_384;

/// A workspace and its token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Caller {
    pub(super) id: String,
    pub(super) token: String,
}

impl Caller {
    /// The body of a heartbeat. It is always the same, so that the workspace's row does not change.
    pub(super) fn heartbeat_body(&self) -> Value {
        json!({ "workspace_id": self.id, "error_rate": 0.0, "active_tasks": 0, "uptime_seconds": 60 })
    }
}

impl From<AgentClient<'_>> for Caller {
    fn from(client: AgentClient<'_>) -> Self {
        Self { id: client.id, token: client.token }
    }
}

/// The first message of the process: its address and its workspaces.
#[derive(Serialize, Deserialize)]
struct Startup {
    address: SocketAddr,
    database: PathBuf,
    admin: String,
    agents: Vec<Caller>,
    silent: Vec<Caller>,
    noisy: Vec<Caller>,
    stale: Vec<Caller>,
}

/// Resource usage of the process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    pub(super) memory_kib: u64,
    pub(super) descriptors: usize,
}

/// The attacked process, which ends when this is dropped.
pub(super) struct Served {
    process: Child,
    output: Mutex<BufReader<std::process::ChildStdout>>,
    log: TempDir,
    database: PathBuf,
    pub(super) address: SocketAddr,
    pub(super) admin: String,
    /// Agents that send heartbeats and must not be affected.
    pub(super) agents: Vec<Caller>,
    /// Agents that send one heartbeat and no more.
    pub(super) silent: Vec<Caller>,
    /// Workspaces of the tokens that the attackers use.
    pub(super) noisy: Vec<Caller>,
    /// Revoked tokens, and tokens of removed workspaces.
    pub(super) stale: Vec<Caller>,
}

impl Drop for Served {
    fn drop(&mut self) {
        // The process ends when its standard input does.
        drop(self.process.stdin.take());
        let _ended = self.process.wait();
    }
}

/// Raises the limit of descriptors to `DESCRIPTORS`, if allowed: both sides of each connection are on this machine.
pub(super) fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).expect("below the maximum");
    }
}

impl Served {
    pub(super) fn start(speed: u32) -> Self {
        let log = tempfile::tempdir().expect("a temp directory");
        let file = File::create(log.path().join("log")).expect("a log");
        let mut process = Command::new(std::env::current_exe().expect("this binary"))
            .args([SERVE, &speed.to_string()])
            // The campaign looks for lines of the level ERROR, which colours would surround with escape sequences.
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .expect("this binary starts");
        let mut output = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the first message can be read");
        let startup: Startup = serde_json::from_str(&line).unwrap_or_else(|error| {
            let log = fs::read_to_string(log.path().join("log")).unwrap_or_default();
            panic!("the attacked process does not serve ({error}): {line}\n{log}")
        });
        let Startup { address, database, admin, agents, silent, noisy, stale } = startup;
        Self {
            process,
            output: Mutex::new(output),
            log,
            database,
            address,
            admin,
            agents,
            silent,
            noisy,
            stale,
        }
    }

    /// Its log, including panics.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.log.path().join("log")).expect("the log can be read")
    }

    /// Sends a request as admin, on a new connection.
    pub(super) async fn order(&self, ask: Ask) -> Answer {
        ask.token(&self.admin).to(self.address).await
    }

    /// All events, oldest first, from the database itself: no route lists that many.
    pub(super) fn events(&self) -> Vec<Value> {
        let database = Connection::open_with_flags(&self.database, OpenFlags::SQLITE_OPEN_READ_ONLY);
        let database = database.expect("the database opens");
        let mut statement = database
            .prepare(
                "SELECT e.sequence, e.event_type, e.workspace, e.payload FROM events e ORDER BY e.sequence",
            )
            .expect("the statement is valid");
        let event = |row: &rusqlite::Row<'_>| {
            let id = |bytes: Vec<u8>| Uuid::from_slice(&bytes).expect("an id").to_string();
            Ok(json!({
                "id": row.get::<_, i64>(0)?, "event_type": row.get::<_, String>(1)?,
                "workspace_id": row.get::<_, Option<Vec<u8>>>(2)?.map(id), "payload": row.get::<_, String>(3)?,
            }))
        };
        let events = statement.query_map([], event).expect("events are read");
        events.collect::<Result<_, _>>().expect("events are read")
    }

    pub(super) fn used(&self) -> Used {
        let location = PathBuf::from(format!("/proc/{}", self.process.id()));
        let sizes = fs::read_to_string(location.join("smaps_rollup")).expect("a child's memory can be read");
        let pss = sizes.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a size");
        let memory_kib = pss.trim().trim_end_matches(" kB").parse().expect("a number");
        let descriptors =
            fs::read_dir(location.join("fd")).expect("a child's descriptors can be read").count();
        Used { memory_kib, descriptors }
    }

    /// Whether its state in memory equals that in its tables.
    pub(super) fn memory_is_true(&self) -> bool {
        let mut input = self.process.stdin.as_ref().expect("it is piped");
        writeln!(input, "memory").expect("the process reads its input");
        let mut line = String::new();
        self.output.lock().unwrap().read_line(&mut line).expect("the process answers");
        line.trim() == "true"
    }
}

/// Serves until standard input ends, if this process was started for that; returns whether it was.
pub(crate) fn serve_if_asked() -> bool {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(SERVE) {
        return false;
    }
    let speed = arguments.next().and_then(|speed| speed.parse().ok()).expect("a speed");
    ostler::telemetry::init("info", false).expect("a log");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(serve(speed));
    runtime.shutdown_background();
    true
}

async fn serve(speed: u32) {
    let ports = u16::try_from(CONTAINERS + SILENT).expect("a small number");
    let registry = Registry::wanting(Options { speed, ports, ..Options::default() }).await;
    let external = async |name: &str, count: usize| {
        let mut all = Vec::new();
        for number in 0..count {
            all.push(Caller::from(registry.external(&format!("{name}-{number}"), json!({})).await));
        }
        all
    };
    let contained = async |name: &str, count: usize| {
        let mut all = Vec::new();
        for number in 0..count {
            let options = json!({ "runtime": AGENT });
            all.push(Caller::from(registry.begun(&format!("{name}-{number}"), options).await));
        }
        all
    };
    let mut agents = contained("contained", CONTAINERS).await;
    agents.extend(external("agent", EXTERNAL).await);
    let mut silent = contained("silent-contained", SILENT).await;
    silent.extend(external("silent", SILENT).await);
    let noisy = external("noisy", NOISY).await;
    let stale = external("stale", 4).await;
    for (number, caller) in stale.iter().enumerate() {
        if number % 2 == 0 {
            let gone = registry.order(Ask::new("DELETE", format!("/workspaces/{}", caller.id))).await;
            assert_eq!(gone.status, 200, "{gone:?}");
        } else {
            let tokens = registry.order(Ask::get(format!("/workspaces/{}/tokens", caller.id))).await.well();
            let token = tokens["tokens"][0]["id"].as_str().expect("the workspace has a token");
            let path = format!("/workspaces/{}/tokens/{token}", caller.id);
            registry.order(Ask::new("DELETE", path)).await.well();
        }
    }
    let (address, admin) = (registry.address, registry.admin.clone());
    let startup = Startup { address, database: registry.database(), admin, agents, silent, noisy, stale };
    println!("{}", serde_json::to_string(&startup).expect("the message can be serialised"));
    let (sender, mut requests) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ended = sender.send(line);
        }
    });
    // There is only one kind of request; the end of the input ends the process.
    while let Some(_request) = requests.recv().await {
        println!("{}", registry.store.memory_is_true().await.expect("the store answers"));
    }
}
