//! A fake daemon with canned answers, and the real binary run against it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed setup fails the test")]

use std::{
    collections::{HashMap, VecDeque},
    io::Write as _,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header::UPGRADE},
    response::{IntoResponse as _, Response},
};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
    task::JoinSet,
};

/// The fake daemon; ends when dropped.
pub(crate) struct FakeDaemon {
    home: TempDir,
    canned: Arc<Canned>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

#[derive(Default)]
struct Canned {
    answers: Mutex<HashMap<String, VecDeque<Answer>>>,
    requests: Mutex<Vec<String>>,
    /// Output of an upgraded connection, sent once its input has ended.
    exec: Mutex<Vec<u8>>,
    exec_input: Mutex<Vec<u8>>,
}

#[derive(Clone)]
struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

/// Result of running the binary.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    command: String,
}

impl Ran {
    /// The whole exchange as one text, for a snapshot.
    pub(crate) fn transcript(&self) -> String {
        let Self { code, stdout, stderr, command } = self;
        let mut text = format!("$ {command}\n{stdout}");
        if !stderr.is_empty() {
            text = format!("{text}--- standard error\n{stderr}");
        }
        format!("{text}--- exit {code}\n")
    }
}

impl FakeDaemon {
    pub(crate) fn start() -> Self {
        let home = home();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let canned = Arc::<Canned>::default();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&canned));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener =
            runtime.block_on(async { UnixListener::bind(home.path().join("ostler.sock")) }).unwrap();
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = axum::serve(listener, router) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { home, canned, _stop: stop }
    }

    /// Sets the answer to `METHOD /path?query`. Several answers to one request are used in turn; the last is repeated.
    pub(crate) fn answers(&self, request: &str, status: u16, body: &(impl Serialize + ?Sized)) -> &Self {
        self.answers_bytes(request, status, &serde_json::to_vec(body).unwrap())
    }

    pub(crate) fn answers_bytes(&self, request: &str, status: u16, body: &[u8]) -> &Self {
        let answer = Answer { status: StatusCode::from_u16(status).unwrap(), body: body.to_vec() };
        self.canned.answers.lock().unwrap().entry(request.to_owned()).or_default().push_back(answer);
        self
    }

    /// Sets the output of an executed command, sent when its input has ended.
    pub(crate) fn executes(&self, stream: &[u8]) -> &Self {
        *self.canned.exec.lock().unwrap() = stream.to_vec();
        self
    }

    /// Input that an executed command received.
    pub(crate) fn exec_input(&self) -> String {
        String::from_utf8(self.canned.exec_input.lock().unwrap().clone()).unwrap()
    }

    /// Every request so far, as `METHOD /path?query body`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.canned.requests.lock().unwrap().clone()
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        run_in(&self.home, args, &[], "")
    }

    pub(crate) fn run_with_input(&self, args: &[&str], input: &str) -> Ran {
        run_in(&self.home, args, &[], input)
    }

    /// The binary with its environment, for tests that handle its pipes themselves.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        command(&self.home, args, &[])
    }
}

/// Creates an empty directory, to be used as home directory and data directory.
pub(crate) fn home() -> TempDir {
    tempfile::Builder::new().prefix("ostler-cli-").tempdir().unwrap()
}

/// Runs the binary with `home` as the data directory and as `HOME`. The environment of this process is not inherited.
pub(crate) fn run_in(home: &TempDir, args: &[&str], env: &[(&str, &str)], input: &str) -> Ran {
    let mut child = command(home, args, env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing may have exited already.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let under = home.path().to_str().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(under, "[HOME]");
    Ran {
        code: output.status.code().expect("the binary exits without a signal"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
        command: format!("ostler {}", args.join(" ")).replace(under, "[HOME]"),
    }
}

fn command(home: &TempDir, args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
    command
        .args(args)
        .env_clear()
        .env("HOME", home.path())
        .env("TZ", "UTC")
        .env("OSTLER_DATA_DIR", home.path())
        .envs(env.iter().copied());
    command
}

async fn answer(State(canned): State<Arc<Canned>>, request: Request) -> Response {
    let method_and_uri = format!("{} {}", request.method(), request.uri());
    if request.headers().contains_key(UPGRADE) {
        canned.requests.lock().unwrap().push(method_and_uri);
        return upgrade(canned, request);
    }
    let last_event = request
        .headers()
        .get("last-event-id")
        .map(|id| format!(" [Last-Event-ID: {}]", id.to_str().unwrap()));
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let recorded = format!("{method_and_uri} {body}{}", last_event.unwrap_or_default());
    canned.requests.lock().unwrap().push(recorded.trim_end().to_owned());
    let mut answers = canned.answers.lock().unwrap();
    let Some(queue) = answers.get_mut(&method_and_uri) else {
        let payload = format!("{{\"error\": \"the test set no answer to {method_and_uri}\"}}");
        return (StatusCode::NOT_IMPLEMENTED, payload).into_response();
    };
    let Answer { status, body } =
        if queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() }.unwrap();
    (status, body).into_response()
}

/// Reads the command's input to its end (on a terminal, to an `exit`), then writes the canned output.
fn upgrade(canned: Arc<Canned>, mut request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let tty = query.contains("tty=true");
    // Without input, the client keeps its side open.
    let has_input = tty || !query.contains("stays=true");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut stream = TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap());
        let mut input = Vec::new();
        while has_input
            && !(tty && input.ends_with(b"exit\r"))
            && stream.read_buf(&mut input).await.unwrap() > 0
        {}
        *canned.exec_input.lock().unwrap() = input;
        let output = canned.exec.lock().unwrap().clone();
        stream.write_all(&output).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    tasks.detach_all();
    let answer = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header(UPGRADE, "tcp");
    answer.body(Body::empty()).unwrap()
}

/// One frame of a command's output: 1 is standard output, 2 standard error.
pub(crate) fn frame(stream: u8, text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&[stream, 0, 0, 0], length.as_slice(), text.as_bytes()].concat()
}
