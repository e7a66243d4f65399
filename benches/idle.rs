//! Cost of an idle daemon, and time from its start to the first answer.
//!
//! It uses the real binary with an engine stub that only lists a hundred workspaces with running containers. The
//! passes have their real periods. A wake-up is a voluntary context switch of a thread.
//!
//! `cargo bench --bench idle` prints the figures; `-- --quick` measures for a shorter time.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints its results, and panics on unexpected ones"
)]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time, and kills its daemon")]

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use ostler::{
    domain::{
        naming::{LABEL_INSTANCE, LABEL_WORKSPACE, VolumeKind, container_name, volume_name},
        status::Cause,
        time::Timestamp,
    },
    store::{StatusChange, Store},
};
use serde_json::{Value, json};
use support::{
    Used,
    app::{INSTANCE, container, populate, workspace},
    directory, field, spread, verdict,
};

/// Workspaces of the idle daemon.
const WORKSPACES: usize = 100;
/// Workspaces of the daemon whose starts are measured.
const MANY: usize = 10_000;
/// Number of measured starts.
const STARTS: usize = 7;

/// The engine's listings, and the number of its requests.
struct Stub {
    containers: Value,
    volumes: Value,
    directory: String,
    requested: AtomicU64,
}

/// The part of Podman's API that an idle daemon uses.
async fn answer(State(stub): State<Arc<Stub>>, request: Request) -> Response {
    stub.requested.fetch_add(1, Ordering::Relaxed);
    let path = request.uri().path();
    let (_, what) = path.split_once("/libpod/").unwrap_or_default();
    match what {
        "_ping" => ([("Libpod-API-Version", "4.3.1")], "OK").into_response(),
        "info" => axum::Json(json!({ "host": { "security": { "rootless": false } } })).into_response(),
        "containers/json" => axum::Json(&stub.containers).into_response(),
        "volumes/json" => axum::Json(&stub.volumes).into_response(),
        "events" => Body::from_stream(stream::pending::<Result<String, std::io::Error>>()).into_response(),
        _ if what.starts_with("volumes/") => {
            let name = what.trim_start_matches("volumes/").trim_end_matches("/json");
            axum::Json(volume(name, None, &stub.directory)).into_response()
        }
        _ => (StatusCode::NOT_FOUND, axum::Json(json!({ "message": "no such thing", "response": 404 })))
            .into_response(),
    }
}

fn volume(name: &str, workspace: Option<usize>, directory: &str) -> Value {
    json!({
        "Name": name, "Driver": "local", "Mountpoint": directory, "Scope": "local", "Options": {},
        "Labels": labels(workspace), "CreatedAt": "2024-01-01T00:00:00Z",
    })
}

fn labels(of: Option<usize>) -> Value {
    let mut labels = json!({ LABEL_INSTANCE: INSTANCE.to_string() });
    if let Some(number) = of {
        labels[LABEL_WORKSPACE] = workspace(number).to_string().into();
    }
    labels
}

/// Serves the engine on a socket until the process ends.
fn serve_engine(socket: &Path, directory: &Path) -> Arc<Stub> {
    let mountpoint = directory.to_str().unwrap().to_owned();
    let containers: Vec<_> = (0..WORKSPACES)
        .map(|number| {
            json!({
                "Id": container(number).as_str(), "Names": [container_name(workspace(number), 1)],
                "Image": "registry.example.org/team/agent:1.2.3", "State": "running", "Labels": labels(Some(number)),
                "StartedAt": 1_700_000_000, "ExitCode": 0,
            })
        })
        .collect();
    let volumes: Vec<_> = (0..WORKSPACES)
        .map(|number| {
            let name = volume_name(workspace(number), VolumeKind::Config);
            volume(&name, Some(number), &mountpoint)
        })
        .collect();
    let stub = Arc::new(Stub {
        containers: containers.into(),
        volumes: volumes.into(),
        directory: mountpoint,
        requested: AtomicU64::new(0),
    });
    let (socket, served) = (socket.to_owned(), Arc::clone(&stub));
    thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let listener = tokio::net::UnixListener::bind(socket).unwrap();
            axum::serve(listener, Router::new().fallback(answer).with_state(served)).await.unwrap();
        });
    });
    stub
}

/// Creates a registry of `count` online workspaces.
fn registry(data: &Path, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let now = Timestamp(i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap());
        let store = Store::open(data).unwrap();
        populate(&store, count, None, now).await;
        for number in 0..count.min(WORKSPACES) {
            let change = StatusChange {
                workspace: workspace(number),
                cause: Cause::ContainerReady,
                incarnation: None,
                detail: None,
                payload: json!({}),
                at: now,
            };
            assert!(store.change_status(change).await.unwrap());
        }
    });
}

/// A running daemon, killed when dropped.
struct Daemon {
    process: Child,
    address: SocketAddr,
}

impl Daemon {
    fn start(home: &Path, data: &Path, engine: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = home.join("config.toml");
        fs::write(&config, format!("[network]\nlisten = [\"127.0.0.1\"]\nport = {}\n", free.port())).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OSTLER_")) {
            command.env_remove(name);
        }
        let log = fs::File::create(home.join("serve.log")).unwrap();
        let process = command
            .arg("serve")
            .env("OSTLER_DATA_DIR", data)
            .env("OSTLER_RUNTIME_DIR", home.join("run"))
            .env("OSTLER_CONFIG", config)
            .env("OSTLER_ENGINE_SOCKET", format!("unix://{}", engine.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, address: free }
    }

    /// Waits for the first answer.
    fn answers(&mut self, home: &Path) {
        loop {
            if let Ok(mut stream) = TcpStream::connect(self.address) {
                stream
                    .write_all(b"GET /health HTTP/1.1\r\nHost: ostler\r\nConnection: close\r\n\r\n")
                    .unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                return;
            }
            let log = || fs::read_to_string(home.join("serve.log")).unwrap();
            assert!(self.process.try_wait().unwrap().is_none(), "ostler ended: {}", log());
            thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
fn idle(home: &Path, listen: Duration) {
    let (data, socket) = (home.join("idle"), home.join("engine.sock"));
    registry(&data, WORKSPACES);
    let engine = serve_engine(&socket, home);
    let mut daemon = Daemon::start(home, &data, &socket);
    daemon.answers(home);
    // The measurement begins after the work of the start and the first run of every pass.
    thread::sleep(Duration::from_secs(5));
    let of = daemon.process.id();
    let (before, requested) = (Used::of(of), engine.requested.load(Ordering::Relaxed));
    thread::sleep(listen);
    let (used, requested) =
        (Used::of(of).since(before), engine.requested.load(Ordering::Relaxed) - requested);
    let pss = field(Path::new(&format!("/proc/{of}/smaps_rollup")), "Pss:") as f64 / 1024.0;
    let wakes = used.waits as f64 / listen.as_secs_f64();
    println!("| {WORKSPACES} workspaces, idle for {} s | |", listen.as_secs());
    println!("|---|---|");
    println!("| memory (PSS) | {pss:.1} MiB |");
    println!("| wake-ups | {wakes:.2} a second |");
    println!("| processor | {:.3} % of one |", used.processor.as_secs_f64() / listen.as_secs_f64() * 100.0);
    println!("| requests to the engine | {requested} |");
    println!("| written | {} bytes |\n", used.written);
    let log = fs::read_to_string(home.join("serve.log")).unwrap();
    for line in log.lines().filter(|line| line.contains("WARN") || line.contains("\"WARN\"")) {
        println!("ostler warned: {line}");
    }
    verdict(&format!("under 20 MiB: {pss:.1}"), pss < 20.0);
    verdict(&format!("under 2 wake-ups a second: {wakes:.2}"), wakes < 2.0);
}

fn start(home: &Path) {
    let data = home.join("many");
    registry(&data, MANY);
    let mut took = Vec::new();
    for _ in 0..STARTS {
        let begun = Instant::now();
        // No engine listens there: only the start is measured, which does not depend on the engine.
        let mut daemon = Daemon::start(home, &data, &home.join("absent.sock"));
        daemon.answers(home);
        took.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    let (middle, low, high) = spread(took);
    println!("\n{MANY} workspaces: {middle:.0} ms from the start to the first answer ({low:.0}..{high:.0}).");
    verdict(&format!("under 50 ms: {middle:.0}"), middle < 50.0);
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let directory = directory();
    idle(directory.path(), Duration::from_secs(if quick { 35 } else { 120 }));
    start(directory.path());
    let size = fs::metadata(env!("CARGO_BIN_EXE_ostler")).unwrap().len() as f64 / 1e6;
    println!();
    verdict(&format!("the binary has under 15 MB: {size:.1}"), size < 15.0);
}
