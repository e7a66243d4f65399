//! Shared by the server benchmarks: contestants in separate processes, resource usage of a process, and a load
//! generator.
//!
//! A contestant is one of the compared servers. It is this same binary, started again with the name of the server as an
//! argument. It is a separate process, so `/proc` shows its processor time, writes and memory alone.

#![allow(dead_code, reason = "each benchmark uses a part")]

pub(crate) mod app;
#[path = "../../tests/support/fake_engine/mod.rs"]
#[allow(unused_imports, reason = "shared with the tests, which use the rest")]
pub(crate) mod fake_engine;
pub(crate) mod load;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use axum::{Json, Router, body::Bytes, routing::post, serve::ListenerExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};

/// The argument that makes this binary a contestant.
const CONTESTANT: &str = "--contestant";

/// A server in a separate process, which ends when this is dropped.
pub(crate) struct Contestant {
    process: std::process::Child,
    pub(crate) address: SocketAddr,
}

impl Contestant {
    /// Runs this binary again as `name`; returns once it serves.
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([CONTESTANT, name])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().parse().unwrap_or_else(|_| panic!("{name} does not serve: {line:?}"));
        Self { process, address }
    }

    pub(crate) fn used(&self) -> Used {
        Used::of(self.process.id())
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Contestant {
    fn drop(&mut self) {
        // The process ends when its standard input does.
        drop(self.process.stdin.take());
        let _ended = self.process.wait();
    }
}

/// Name and arguments of this process, if it is a contestant.
pub(crate) fn contestant() -> Option<(String, Vec<String>)> {
    let mut arguments = std::env::args().skip_while(|argument| argument != CONTESTANT).skip(1);
    arguments.next().map(|name| (name, arguments.collect()))
}

/// Prints the address for the parent process, and ends this process when the parent process ends.
pub(crate) fn serving_at(address: SocketAddr) {
    println!("{address}");
    std::io::stdout().flush().unwrap();
    std::thread::spawn(|| {
        let _parent_ended = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}

/// A directory on the disk that holds the build; one in memory would favour contestants that write.
pub(crate) fn directory() -> tempfile::TempDir {
    let target = std::env::current_exe().unwrap();
    tempfile::tempdir_in(target.parent().unwrap()).unwrap()
}

/// Resources that a process has used since its start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) processor: Duration,
    /// Bytes that it caused to be written to a disk.
    pub(crate) written: u64,
    /// Voluntary context switches of its threads.
    pub(crate) waits: u64,
}

impl Used {
    pub(crate) fn of(process: u32) -> Self {
        let directory = PathBuf::from(format!("/proc/{process}"));
        let mut used = Self::default();
        for thread in fs::read_dir(directory.join("task")).unwrap() {
            let thread = thread.unwrap().path();
            let times = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
            used.processor += Duration::from_nanos(
                times.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0),
            );
            used.waits += field(&thread.join("status"), "voluntary_ctxt_switches:");
        }
        used.written = field(&directory.join("io"), "write_bytes:");
        used
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            processor: self.processor.saturating_sub(before.processor),
            written: self.written - before.written,
            waits: self.waits.saturating_sub(before.waits),
        }
    }
}

/// A number from a file under `/proc` with lines of names and numbers.
pub(crate) fn field(path: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Busy time of all processors together.
pub(crate) fn busy() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let ticks: Vec<u64> =
        text.lines().next().unwrap().split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
    // user nice system idle iowait irq softirq steal
    Duration::from_millis(10 * (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6] + ticks[7]))
}

/// Number of transactions that a database has committed since its shared memory was created: the change counter in the
/// write-ahead log's index. Each costs one fsync of the log.
pub(crate) fn commits(database: &Path) -> u32 {
    let index = fs::read(database.with_extension("db-shm")).unwrap();
    u32::from_ne_bytes(index[8..12].try_into().unwrap())
}

/// A heartbeat as the bare route parses it: all fields that ostler reads, unused.
#[derive(Deserialize)]
#[allow(dead_code, reason = "the fields are only parsed")]
struct BareHeartbeat {
    workspace_id: String,
    error_rate: f64,
    sample_error: String,
    active_tasks: f64,
    uptime_seconds: f64,
    current_task: String,
    monthly_spend: f64,
    runtime_state: String,
    runtime_metadata: Box<RawValue>,
}

#[derive(Deserialize)]
struct Message {
    id: Box<RawValue>,
    params: Params,
}

#[derive(Deserialize)]
struct Params {
    message: Parts,
}

#[derive(Serialize, Deserialize)]
struct Parts {
    parts: Box<RawValue>,
}

#[derive(Serialize)]
struct Answer {
    jsonrpc: &'static str,
    id: Box<RawValue>,
    result: Parts,
}

/// Serves the baseline: axum without any logic. `/` is an agent that echoes its message.
pub(crate) fn serve_bare() {
    let heartbeat = post(|Json(_heartbeat): Json<BareHeartbeat>| async {
        ([(axum::http::header::CONTENT_TYPE, "application/json")], r#"{"status":"ok"}"#)
    });
    let agent = post(|Json(message): Json<Message>| async {
        Json(Answer { jsonrpc: "2.0", id: message.id, result: message.params.message })
    });
    serve(Router::new().route("/registry/heartbeat", heartbeat).route("/", agent));
}

/// Serves a minimal proxy: it reads a whole message, forwards it over a pooled connection, and returns the answer.
pub(crate) fn serve_bare_proxy(agent: SocketAddr) {
    type Sender = SendRequest<Full<Bytes>>;
    let pool: Arc<Mutex<Vec<Sender>>> = Arc::default();
    let pass_on = post(move |body: Bytes| {
        let pool = Arc::clone(&pool);
        async move {
            let kept = pool.lock().unwrap().pop();
            let mut sender = if let Some(sender) = kept {
                sender
            } else {
                let stream = TcpStream::connect(agent).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (sender, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                sender
            };
            sender.ready().await.unwrap();
            let request = Request::post("/")
                .header("host", "agent")
                .header("content-type", "application/json")
                .body(Full::new(body))
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            pool.lock().unwrap().push(sender);
            ([(axum::http::header::CONTENT_TYPE, "application/json")], body)
        }
    });
    serve(Router::new().route("/workspaces/{id}/a2a", pass_on));
}

fn serve(router: Router) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        serving_at(listener.local_addr().unwrap());
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        axum::serve(listener, router).await.unwrap();
    });
}

/// Median, lowest and highest value.
pub(crate) fn spread(values: impl IntoIterator<Item = f64>) -> (f64, f64, f64) {
    let mut sorted: Vec<_> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1])
}

pub(crate) fn verdict(what: &str, reached: bool) {
    println!("goal: {what}: {}", if reached { "reached" } else { "MISSED" });
}
