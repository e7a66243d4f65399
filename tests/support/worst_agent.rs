//! One hostile agent against the real daemon, while other agents send heartbeats.
//!
//! All of them use one source address, as containers do under rootless Podman. Without an engine every workspace is
//! external. With an engine, the hostile agent also logs an endless line, and the test reads that log.

#![allow(clippy::disallowed_methods, reason = "real processes and sockets take real time")]

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

use super::{
    http::{Answer, Request},
    podman::{self, Cleanup, ServiceProcess},
    wire::{Ask, Wire},
};

/// Limit for every wait; generous, because the machine may be busy with other work.
const PATIENCE: Duration = Duration::from_mins(2);
/// Size of the largest message, in bytes.
const LARGEST: usize = 10 << 20;

/// The amount of each kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Number of agents that send heartbeats and must not be affected.
    pub(crate) others: usize,
    /// Their heartbeat interval.
    pub(crate) every: Duration,
    /// Number of small messages in flight to an agent that never answers.
    pub(crate) in_flight: usize,
    /// Number of messages of the largest size in flight to the same agent.
    pub(crate) large: usize,
    /// Number of peer lists that are requested and not read.
    pub(crate) unread: usize,
    /// Number of writes of each kind.
    pub(crate) writes: usize,
    /// Number of tasks delegated to an agent whose answers are long and never end.
    pub(crate) delegations: usize,
    /// Number of messages to an agent that answers each with a redirect to an admin command.
    pub(crate) redirects: usize,
    /// Duration of all attacks together.
    pub(crate) lasts: Duration,
    /// Time limit for releasing the memory that the attacks used.
    pub(crate) settles: Duration,
}

/// Measured results.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Number of heartbeats of the other agents that were answered with 200.
    pub(crate) heartbeats: u64,
    /// Error text of each heartbeat of the other agents that was not answered with 200.
    pub(crate) missed: Vec<String>,
    /// Longest time to answer a heartbeat.
    pub(crate) slowest: Duration,
    /// Number of answers to the hostile agent, by attack and HTTP status; status 0 for a connection that ended without
    /// an answer.
    pub(crate) answers: std::collections::BTreeMap<String, u64>,
    /// Memory before, peak memory during each attack, and memory afterwards.
    pub(crate) memory: Vec<(String, Memory)>,
    /// Growth of the database's files, in bytes.
    pub(crate) grown: u64,
    /// Violations: a redirect that took effect, a log that could not be read, an engine that stays busy.
    pub(crate) wrong: Vec<String>,
    /// How often the tail of the endless line was read.
    pub(crate) tails: u64,
    /// Time from the last attack until the engine's service was idle.
    pub(crate) engine_idle_after: Duration,
}

impl Figures {
    /// The memory at the end.
    pub(crate) fn after(&self) -> Memory {
        self.memory.last().map(|(_, memory)| *memory).unwrap_or_default()
    }

    fn count(&mut self, what: &str, status: u16) {
        *self.answers.entry(format!("{what}: {status}")).or_default() += 1;
    }
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Resident memory, including the pages of the program file.
    pub(crate) resident_kib: u64,
    /// Resident memory that no file backs.
    pub(crate) anonymous_kib: u64,
}

/// A daemon, with an engine or without one.
pub(crate) struct Daemon {
    directory: TempDir,
    process: Child,
    address: SocketAddr,
    /// The socket of its engine, if it has one, and the cleanup of the objects that it created in that engine.
    engine: Option<(PathBuf, Cleanup)>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}

/// A workspace and its token.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    id: String,
    token: String,
}

impl Daemon {
    pub(crate) fn start(program: &str) -> Self {
        Self::start_on(program, None)
    }

    /// Starts a daemon on the engine with this socket; `None` for no engine.
    pub(crate) fn start_on(program: &str, engine: Option<PathBuf>) -> Self {
        let directory = tempfile::Builder::new().prefix("ostler-load-").tempdir().expect("a temp directory");
        let under = |name: &str| directory.path().join(name);
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("its address");
        drop(free);
        let config = format!(
            "[network]\nlisten = [\"127.0.0.1\"]\nport = {}\n[external]\nallow_loopback = true\n",
            address.port()
        );
        fs::write(under("config.toml"), config).expect("the config is written");
        let log = fs::File::create(under("serve.log")).expect("a log");
        let socket = engine.clone().unwrap_or_else(|| under("absent.sock"));
        let process = Command::new(program)
            .arg("serve")
            .env("OSTLER_DATA_DIR", under("data"))
            .env("OSTLER_RUNTIME_DIR", under("run"))
            .env("OSTLER_CONFIG", under("config.toml"))
            .env("OSTLER_ENGINE_SOCKET", format!("unix://{}", socket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        let mut daemon = Self { directory, process, address, engine: None };
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(daemon.socket()).is_err() {
            assert!(begun.elapsed() < PATIENCE, "the daemon does not serve:\n{}", daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(socket) = engine {
            let mirror =
                fs::read(daemon.directory.path().join("data/instance.json")).expect("the mirror file exists");
            let mirror: Value = serde_json::from_slice(&mirror).expect("the mirror is JSON");
            let instance = mirror["instance"].as_str().expect("the mirror has the instance id");
            let made = Cleanup::of_label(format!("ostler.instance={instance}"));
            daemon.engine = Some((socket, made.and_name(format!("ostler-{instance}"))));
        }
        daemon
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("serve.log")).unwrap_or_default()
    }

    /// Its address for agents.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The admin's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("data/ostler.sock")
    }

    fn create(&self, name: &str, url: Option<&str>) -> Caller {
        let body = json!({ "name": name, "runtime": "external", "url": url });
        let request = Request { method: "POST", path: "/workspaces", token: None, caller: None, body };
        let created = request.over_socket(&self.socket()).expect(201).json();
        let id = created["id"].as_str().expect("an id").to_owned();
        let issue = format!("/workspaces/{id}/tokens");
        let request = Request { method: "POST", path: &issue, token: None, caller: None, body: json!({}) };
        let issued = request.over_socket(&self.socket()).expect(201).json();
        Caller { id, token: issued["auth_token"].as_str().expect("a token").to_owned() }
    }

    fn status(&self, id: &str) -> Value {
        self.get(&format!("/workspaces/{id}")).json()["status"].clone()
    }

    fn get(&self, path: &str) -> Answer {
        let request = Request { method: "GET", path, token: None, caller: None, body: Value::Null };
        request.over_socket(&self.socket()).expect(200)
    }

    /// Creates a container that writes 60 MB without a line feed, and reads its log's tail for `lasts`. `why` and the
    /// log snippet of an exit read it as well. Returns how often it was read.
    fn read_endless_line(&self, lasts: Duration) -> Result<u64, String> {
        let script = "head -c 60000000 /dev/zero | tr '\\0' x; exec sleep 3600";
        let name = format!("writer-{}", self.database_bytes());
        let body = json!({ "name": name, "image": podman::image(), "command": ["sh", "-c", script] });
        let create = Request { method: "POST", path: "/workspaces", token: None, caller: None, body };
        let id = create.over_socket(&self.socket()).expect(201).json()["id"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let (begun, mut read) = (Instant::now(), 0);
        while begun.elapsed() < lasts || read == 0 {
            if begun.elapsed() > PATIENCE {
                return Err(format!("the log of {id} ({}) cannot be read", self.status(&id)));
            }
            let path = format!("/workspaces/{id}/logs?tail=5");
            let logs = Request { method: "GET", path: &path, token: None, caller: None, body: Value::Null };
            let answer = logs.over_socket(&self.socket());
            if answer.status == 200 && answer.body.len() > 1000 {
                read += 1;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(read)
    }

    fn memory(&self) -> Memory {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
        };
        Memory { resident_kib: of("VmRSS:"), anonymous_kib: of("RssAnon:") }
    }

    fn database_bytes(&self) -> u64 {
        let files = fs::read_dir(self.directory.path().join("data")).expect("the data directory exists");
        let sizes = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len()));
        sizes.sum()
    }
}

/// Runs the attacks, each alone and then all together.
pub(crate) async fn play(daemon: Arc<Daemon>, scale: Scale) -> Figures {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", silent.local_addr().expect("its address"));
    let (worst, target) = (daemon.create("worst", None), daemon.create("target", Some(&url)));
    let victim = daemon.create("victim", None);
    let (redirector, redirecting) = redirect_to(&daemon, &victim).await;
    let (streamer, streaming) = answer_endlessly(&daemon).await;
    let delegator = daemon.create("delegator", None);
    let others: Vec<_> =
        (0..scale.others).map(|number| daemon.create(&format!("other-{number}"), None)).collect();
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            held.push(stream);
        }
    });
    let figures = Arc::new(Mutex::new(Figures::default()));
    for other in &others {
        // The card has the maximum size, so that the peer list is as large as possible.
        let card = json!({ "id": other.id, "url": "", "agent_card": { "name": "x".repeat(60 << 10) } });
        let answer = Ask::post("/registry/register").token(&other.token).json(card).to(daemon.address).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let senders = send_heartbeats(&daemon, &others, scale.every, &figures, &stop);
    let before = daemon.database_bytes();
    figures.lock().unwrap().memory.push(("before".into(), daemon.memory()));
    let attack = Attack {
        daemon: Arc::clone(&daemon),
        worst,
        target,
        redirector,
        streamer,
        delegator,
        figures: Arc::clone(&figures),
        scale,
    };
    let each = [
        "messages in flight",
        "large messages",
        "unread lists",
        "writes",
        "delegations",
        "redirects",
        "endless log line",
    ];
    for what in each.into_iter().chain(["all together"]) {
        let peak = watch(&daemon, attack.run(what)).await;
        figures.lock().unwrap().memory.push((format!("at most: {what}"), peak));
    }
    let begun = Instant::now();
    if let Some((socket, _)) = &daemon.engine {
        match ServiceProcess::of(socket).is_idle_within(PATIENCE).await {
            Ok(after) => figures.lock().unwrap().engine_idle_after = after,
            Err(why) => figures.lock().unwrap().wrong.push(why),
        }
    }
    // Memory has to be released in time, except that of delegated tasks whose answers have not ended.
    let most = figures.lock().unwrap().memory[0].1.anonymous_kib + (4 << 10);
    while daemon.memory().anonymous_kib > most && begun.elapsed() < scale.settles {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    figures.lock().unwrap().memory.push(("afterwards".into(), daemon.memory()));
    figures.lock().unwrap().grown = daemon.database_bytes().saturating_sub(before);
    stop.store(true, Ordering::Release);
    for heartbeats in senders.join_all().await {
        figures.lock().unwrap().heartbeats += heartbeats;
    }
    held.abort();
    redirecting.abort();
    streaming.abort();
    if daemon.status(&victim.id) == "paused" {
        figures.lock().unwrap().wrong.push("a redirect was followed: its victim is paused".into());
    }
    for other in &others {
        let status = daemon.status(&other.id);
        if status != "online" {
            figures.lock().unwrap().missed.push(format!("{} is {status}", other.id));
        }
    }
    let mut figures = figures.lock().unwrap();
    std::mem::take(&mut *figures)
}

/// An agent that answers every message with a redirect to a command that only an admin may give.
async fn redirect_to(daemon: &Daemon, victim: &Caller) -> (Caller, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("its address"));
    let order = format!("http://{}/workspaces/{}/stop", daemon.address, victim.id);
    let answers = tokio::spawn(async move {
        let answer = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: {order}\r\nRefresh: 0;url={order}\r\n\
             Connection: close\r\nContent-Length: 0\r\n\r\n"
        );
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut read = vec![0; 64 << 10];
                let _request = stream.read(&mut read).await;
                let _closed = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (daemon.create("redirector", Some(&url)), answers)
}

/// An agent that answers every message with a text of several MiB that never ends.
async fn answer_endlessly(daemon: &Daemon) -> (Caller, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("its address"));
    let answers = tokio::spawn(async move {
        let mut streaming = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            streaming.spawn(async move {
                let mut read = vec![0; 128 << 10];
                let _request = stream.read(&mut read).await;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 60000000\r\n\r\n\
                            {\"result\":{\"parts\":[{\"text\":\"";
                let _begun = stream.write_all(head.as_bytes()).await;
                let _written = stream.write_all(&vec![b'x'; 5 << 20]).await;
                std::future::pending::<()>().await;
            });
        }
    });
    (daemon.create("streamer", Some(&url)), answers)
}

/// Sends the heartbeats of the others, each on a new connection, as many clients do.
fn send_heartbeats(
    daemon: &Arc<Daemon>,
    others: &[Caller],
    every: Duration,
    figures: &Arc<Mutex<Figures>>,
    stop: &Arc<AtomicBool>,
) -> JoinSet<u64> {
    let mut senders = JoinSet::new();
    for other in others {
        let (address, other) = (daemon.address, other.clone());
        let (figures, stop) = (Arc::clone(figures), Arc::clone(stop));
        senders.spawn(async move {
            let mut answered = 0;
            let mut turn = tokio::time::interval(every);
            while !stop.load(Ordering::Acquire) {
                turn.tick().await;
                let begun = Instant::now();
                let body = json!({ "workspace_id": other.id, "uptime_seconds": 60 });
                let ask = Ask::post("/registry/heartbeat").token(&other.token).json(body);
                let status = status_of(address, &ask.bytes()).await;
                let mut figures = figures.lock().unwrap();
                figures.slowest = figures.slowest.max(begun.elapsed());
                if status == 200 {
                    answered += 1;
                } else {
                    figures.missed.push(format!("a heartbeat of {} was answered with {status}", other.id));
                }
            }
            answered
        });
    }
    senders
}

/// The status of the answer; 0 if the connection fails or ends without one.
async fn status_of(address: SocketAddr, bytes: &[u8]) -> u16 {
    let Some(mut wire) = Wire::try_open(address).await else { return 0 };
    wire.write(bytes).await;
    wire.try_answer().await.map_or(0, |answer| answer.status)
}

/// Peak memory until `until` is done.
async fn watch(daemon: &Daemon, until: impl Future<Output = ()>) -> Memory {
    let mut peak = Memory::default();
    let mut until = std::pin::pin!(until);
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            () = &mut until => return peak,
            _ = ticks.tick() => {
                let now = daemon.memory();
                if now.anonymous_kib > peak.anonymous_kib {
                    peak = now;
                }
            }
        }
    }
}

struct Attack {
    daemon: Arc<Daemon>,
    worst: Caller,
    target: Caller,
    redirector: Caller,
    streamer: Caller,
    delegator: Caller,
    figures: Arc<Mutex<Figures>>,
    scale: Scale,
}

impl Attack {
    async fn run(&self, what: &str) {
        let scale = self.scale;
        let lasts = scale.lasts / 5;
        match what {
            "messages in flight" => self.hold(what, scale.in_flight, 10, lasts).await,
            "large messages" => self.hold(what, scale.large, LARGEST - 1000, lasts).await,
            "unread lists" => self.leave_unread(lasts).await,
            "writes" => self.write().await,
            "delegations" => self.delegate(lasts).await,
            "redirects" => self.be_redirected().await,
            "endless log line" => self.write_endless_line(lasts).await,
            _ => {
                tokio::join!(
                    self.hold("messages in flight", scale.in_flight, 10, lasts),
                    self.hold("large messages", scale.large, LARGEST - 1000, lasts),
                    self.leave_unread(lasts),
                    self.write(),
                    self.delegate(lasts),
                    self.be_redirected(),
                    self.write_endless_line(lasts)
                );
            }
        }
    }

    /// Delegates tasks of one workspace to the agent whose answers never end, for `lasts`.
    async fn delegate(&self, lasts: Duration) {
        let path = format!("/workspaces/{}/delegate", self.delegator.id);
        for number in 0..self.scale.delegations {
            let text = format!("{number} {}", "x".repeat(30 << 10));
            let task = json!({ "target_id": self.streamer.id, "task": text });
            let bytes = Ask::post(&path).token(&self.delegator.token).json(task).bytes();
            let status = status_of(self.daemon.address, &bytes).await;
            self.figures.lock().unwrap().count("delegations", status);
        }
        tokio::time::sleep(lasts).await;
    }

    /// Sends messages to an agent that answers with redirects. The daemon must neither follow them nor pass them on.
    async fn be_redirected(&self) {
        let message = json!({ "jsonrpc": "2.0", "id": "1", "method": "message/send", "params": {} });
        let path = format!("/workspaces/{}/a2a", self.redirector.id);
        let bytes = Ask::post(path).token(&self.worst.token).json(message).bytes();
        for _ in 0..self.scale.redirects {
            let answer = match Wire::try_open(self.daemon.address).await {
                Some(mut wire) => {
                    wire.write(&bytes).await;
                    wire.try_answer().await
                }
                None => None,
            };
            let mut figures = self.figures.lock().unwrap();
            figures.count("redirects", answer.as_ref().map_or(0, |answer| answer.status));
            if let Some(answer) = answer
                && (matches!(answer.status, 200..=399)
                    || ["location", "refresh"].iter().any(|name| answer.header(name).is_some()))
            {
                figures.wrong.push(format!("a redirect was passed on: {answer:?}"));
            }
        }
    }

    /// With an engine: a workspace whose container writes an endless line.
    async fn write_endless_line(&self, lasts: Duration) {
        if self.daemon.engine.is_none() {
            return;
        }
        let daemon = Arc::clone(&self.daemon);
        let read = tokio::task::spawn_blocking(move || daemon.read_endless_line(lasts)).await;
        let mut figures = self.figures.lock().unwrap();
        match read.expect("the task does not panic") {
            Ok(read) => figures.tails += read,
            Err(why) => figures.wrong.push(why),
        }
    }

    /// Sends messages of the given size to an agent that never answers, all at once, for `lasts`.
    async fn hold(&self, what: &str, count: usize, size: usize, lasts: Duration) {
        let text = "x".repeat(size);
        let message = json!({
            "jsonrpc": "2.0", "id": "1", "method": "message/send",
            "params": { "message": { "messageId": "m", "role": "user", "parts": [{ "kind": "text", "text": text }] } },
        });
        let ask =
            Ask::post(format!("/workspaces/{}/a2a", self.target.id)).token(&self.worst.token).json(message);
        let bytes: Arc<[u8]> = ask.bytes().into();
        let mut all = JoinSet::new();
        for _ in 0..count {
            let (address, bytes) = (self.daemon.address, Arc::clone(&bytes));
            all.spawn(async move { tokio::time::timeout(lasts, status_of(address, &bytes)).await.ok() });
        }
        while let Some(status) = all.join_next().await {
            match status.expect("the task does not panic") {
                Some(status) => self.figures.lock().unwrap().count(what, status),
                None => {
                    *self.figures.lock().unwrap().answers.entry(format!("{what}: held")).or_default() += 1;
                }
            }
        }
    }

    /// Requests peer lists on many connections, and reads no answer.
    async fn leave_unread(&self, lasts: Duration) {
        let ask = Ask::get(format!("/registry/{}/peers", self.worst.id)).token(&self.worst.token);
        let mut open = Vec::new();
        for _ in 0..self.scale.unread {
            if let Some(mut wire) = Wire::try_open(self.daemon.address).await {
                wire.write(&ask.bytes()).await;
                open.push(wire);
            }
        }
        tokio::time::sleep(lasts).await;
        for wire in &mut open {
            let status = wire.head().await.map_or(0, |(status, _)| status);
            self.figures.lock().unwrap().count("unread lists", status);
        }
    }

    /// Sends every kind of request with which an agent writes, with new content each time, as fast as answers arrive.
    async fn write(&self) {
        let id = &self.worst.id;
        let number = AtomicU64::new(0);
        let next = || number.fetch_add(1, Ordering::Relaxed);
        let recorded = AtomicU64::new(0);
        let delegation = |number: u64| uuid::Uuid::from_u128(number.into());
        let kinds: [(&str, &(dyn Fn() -> Ask + Sync)); 10] = [
            ("role", &|| {
                let role = format!("{}{}", next(), "x".repeat(1000));
                Ask::new("PATCH", format!("/workspaces/{id}")).json(json!({ "role": role }))
            }),
            ("card", &|| {
                let card = json!({ "name": format!("{}{}", next(), "x".repeat(60 << 10)) });
                Ask::post("/registry/update-card").json(json!({ "workspace_id": id, "agent_card": card }))
            }),
            ("register", &|| {
                let card = json!({ "name": format!("{}{}", next(), "x".repeat(60 << 10)) });
                Ask::post("/registry/register").json(json!({ "id": id, "url": "", "agent_card": card }))
            }),
            ("activity", &|| {
                let report = json!({ "activity_type": "task_update", "summary": format!("{}{}", next(), "x".repeat(15 << 10)) });
                Ask::post(format!("/workspaces/{id}/activity")).json(report)
            }),
            ("notice", &|| {
                let notice = json!({ "message": format!("{}{}", next(), "x".repeat(15 << 10)) });
                Ask::post(format!("/workspaces/{id}/notify")).json(notice)
            }),
            ("memory", &|| {
                let memory =
                    json!({ "content": format!("{}{}", next(), "x".repeat(15 << 10)), "scope": "LOCAL" });
                Ask::post(format!("/workspaces/{id}/memories")).json(memory)
            }),
            ("acknowledgement", &|| {
                Ask::post(format!("/workspaces/{id}/activity/ack")).json(json!({ "acked_seq": next() }))
            }),
            ("record", &|| {
                let (delegation, task) =
                    (delegation(recorded.fetch_add(1, Ordering::Relaxed)), "x".repeat(30 << 10));
                let record =
                    json!({ "target_id": self.target.id, "task": task, "delegation_id": delegation });
                Ask::post(format!("/workspaces/{id}/delegations/record")).json(record)
            }),
            ("update", &|| {
                let update = json!({ "status": "completed", "response_preview": "x".repeat(15 << 10) });
                let delegation = delegation(recorded.load(Ordering::Relaxed).saturating_sub(1));
                Ask::post(format!("/workspaces/{id}/delegations/{delegation}/update")).json(update)
            }),
            ("flips", &|| {
                let rate = if next().is_multiple_of(2) { 0.0 } else { 1.0 };
                let heartbeat = json!({ "workspace_id": id, "error_rate": rate, "uptime_seconds": 1, "sample_error": "x".repeat(2000) });
                Ask::post("/registry/heartbeat").json(heartbeat)
            }),
        ];
        let all = kinds.map(|(what, ask)| async move {
            for _ in 0..self.scale.writes {
                let status = status_of(self.daemon.address, &ask().token(&self.worst.token).bytes()).await;
                self.figures.lock().unwrap().count(what, status);
            }
        });
        futures_util::future::join_all(all).await;
    }
}

/// The figures, one a line.
pub(crate) fn lines(figures: &Figures) -> Vec<(String, u64)> {
    let mut lines = vec![
        ("heartbeats of the others, answered with 200".to_owned(), figures.heartbeats),
        ("heartbeats of the others that failed".into(), figures.missed.len() as u64),
        (
            "ms for the slowest heartbeat".into(),
            u64::try_from(figures.slowest.as_millis()).unwrap_or(u64::MAX),
        ),
        ("KiB of database growth".into(), figures.grown >> 10),
        ("reads of the tail of an endless log line".into(), figures.tails),
        ("s until the engine's service was idle".into(), figures.engine_idle_after.as_secs()),
    ];
    for (when, memory) in &figures.memory {
        lines.push((format!("KiB resident {when}"), memory.resident_kib));
        lines.push((format!("KiB anonymous {when}"), memory.anonymous_kib));
    }
    let answers = figures.answers.iter();
    lines.extend(answers.map(|(what, count)| (format!("answers to the hostile agent: {what}"), *count)));
    lines
}

/// Returns a text for each violated requirement. The requirements are the same at any scale.
pub(crate) fn broken(figures: &Figures, memory: impl Fn(Memory) -> u64) -> Vec<String> {
    let mut broken: Vec<_> =
        figures.missed.iter().take(5).chain(figures.wrong.iter().take(5)).cloned().collect();
    let (peak, after) = (
        figures.memory.iter().map(|(_, now)| memory(*now)).max().unwrap_or_default(),
        memory(figures.after()),
    );
    if peak >= 150 << 10 {
        broken.push(format!("the daemon used {} MiB at its peak, limit 150", peak >> 10));
    }
    if after >= 40 << 10 {
        broken.push(format!("the daemon uses {} MiB afterwards, limit 40", after >> 10));
    }
    if figures.grown >= 20 << 20 {
        broken.push(format!("the database grew by {} MiB, limit 20", figures.grown >> 20));
    }
    if figures.answers.get("redirects: 502").is_none_or(|count| *count == 0) {
        broken.push("no redirect was refused with 502: the redirecting agent was not reached".into());
    }
    let refused = figures.answers.iter().filter(|(what, _)| what.ends_with(" 429") || what.ends_with(" 503"));
    if refused.count() == 0 {
        broken.push("no request was refused: the attack has no effect".into());
    }
    for never in ["register", "flips"] {
        let refused =
            figures.answers.iter().filter(|(what, _)| what.starts_with(never) && !what.ends_with(" 200"));
        broken.extend(
            refused.map(|(what, count)| {
                format!("a heartbeat or registration was refused: {what} ({count} times)")
            }),
        );
    }
    broken
}
