//! A proxy in front of the real Podman that injects faults.
//!
//! It expects one request per connection, as podman-api and ostler's raw client send them. The head of the request
//! decides the fault. Everything after it is copied in both directions, so uploads, streams and upgraded connections
//! pass unread. It uses threads instead of tasks: the proxy keeps working when the runtime under test is stopped,
//! blocked or killed.

use std::{
    collections::HashMap,
    fmt, fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ostler::engine::podman::Podman;

use super::podman::{engine_at, socket_path};

const WAIT_LIMIT: Duration = Duration::from_mins(1);
const HEAD_MAX_BYTES: usize = 64 << 10;

/// What the proxy does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Forwards it.
    Pass,
    /// Answers with this status and message; does not forward it.
    Status(u16, String),
    /// Answers with success and this body; does not forward it.
    #[allow(dead_code, reason = "only campaigns fake an image registry")]
    Answer(String),
    /// Neither forwards nor answers it; keeps the connection open until the client disconnects.
    Hang,
    /// Closes the connection; does not forward it.
    DropBefore,
    /// Forwards it, so that it takes effect, then closes the connection without an answer.
    DropAfter,
    /// Forwards it, so that it takes effect; holds the answer until the gate is opened.
    DelayAnswer(Gate),
    /// Closes the connection and stops listening until [`EngineProxy::listen`].
    Refuse,
}

/// Holds answers of the engine until [`Gate::open`] is called.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    open: bool,
    arrived: usize,
}

impl Gate {
    /// Forwards all held answers, and from now on every later one at once.
    pub(crate) fn open(&self) {
        lock(&self.0.0).open = true;
        self.0.1.notify_all();
    }

    /// Waits until the gate holds an answer of the engine.
    pub(crate) async fn arrival(&self) {
        let gate = self.clone();
        let waiting = tokio::task::spawn_blocking(move || {
            let (state, changed) = &*gate.0;
            let waited = changed.wait_timeout_while(lock(state), WAIT_LIMIT, |state| state.arrived == 0);
            waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
        });
        assert!(!waiting.await.expect("the wait does not panic"), "no answer arrived at the gate");
    }

    fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut held = lock(state);
        held.arrived += 1;
        changed.notify_all();
        drop(changed.wait_while(held, |state| !state.open));
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

/// A request as the proxy received it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The HTTP method.
    pub(crate) method: String,
    /// The path without its version prefix: `/libpod/containers/json`.
    pub(crate) path: String,
    /// The query after the `?`, still percent-encoded.
    pub(crate) query: String,
    /// For a request that changes the engine, the number of such requests before it.
    pub(crate) change: Option<usize>,
}

impl Request {
    fn parse(head: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(head.split(|byte| *byte == b'\r').next()?).ok()?;
        let (method, rest) = line.split_once(' ')?;
        let (path, query) = rest.split(' ').next().map(|t| t.split_once('?').unwrap_or((t, "")))?;
        let bare = path.strip_prefix("/v").and_then(|rest| rest.find('/').map(|slash| &rest[slash..]));
        let [method, path, query] = [method, bare.unwrap_or(path), query].map(str::to_owned);
        Some(Self { method, path, query, change: None })
    }

    /// Whether it changes the engine.
    pub(crate) fn changes(&self) -> bool {
        self.change.is_some()
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        if self.query.is_empty() { Ok(()) } else { write!(f, "?{}", self.query) }
    }
}

/// When an observer is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The request has arrived and has not been forwarded yet.
    Arrived,
    /// The engine has answered; the client has not received the answer yet.
    Answered,
}

type Matches = Arc<dyn Fn(&Request) -> bool + Send + Sync>;
type Observer = Arc<dyn Fn(&Request, Moment) + Send + Sync>;

/// Selects requests, and the fault that the proxy injects for them.
#[derive(Clone)]
pub(crate) struct Rule {
    matches: Matches,
    fault: Fault,
    skip: usize,
    times: usize,
}

impl Rule {
    /// Applies to requests for which `matches` holds.
    pub(crate) fn when(matches: impl Fn(&Request) -> bool + Send + Sync + 'static, fault: Fault) -> Self {
        Self { matches: Arc::new(matches), fault, skip: 0, times: usize::MAX }
    }

    /// Applies to requests with this method and with this text in their path.
    pub(crate) fn on(method: &'static str, path: &'static str, fault: Fault) -> Self {
        Self::when(move |request| request.method == method && request.path.contains(path), fault)
    }

    /// Skips the first `skip` matching requests.
    pub(crate) fn after(self, skip: usize) -> Self {
        Self { skip, ..self }
    }

    /// Applies to at most `times` requests.
    pub(crate) fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    fn applies(&mut self, request: &Request) -> bool {
        if !(self.matches)(request) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times.checked_sub(1).map(|left| self.times = left).is_some()
    }
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    observer: Option<Observer>,
    seen: Vec<Request>,
    changes: usize,
    acceptor: Option<Acceptor>,
    open: HashMap<u64, Connection>,
    opened: u64,
}

/// One side of a connection, and its request once the head was read.
struct Connection {
    stream: UnixStream,
    request: Option<Request>,
}

struct Acceptor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

struct Shared {
    upstream: PathBuf,
    socket: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

/// A proxy in front of this process's Podman service.
pub(crate) struct EngineProxy {
    shared: Arc<Shared>,
    _directory: tempfile::TempDir,
}

impl EngineProxy {
    /// Starts a proxy that forwards everything.
    pub(crate) fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("ostler-proxy-").tempdir().expect("a directory");
        let socket = directory.path().join("podman.sock");
        let shared = Shared {
            upstream: socket_path().to_owned(),
            socket,
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        let proxy = Self { shared: Arc::new(shared), _directory: directory };
        proxy.listen();
        proxy
    }

    pub(crate) fn socket_path(&self) -> &Path {
        &self.shared.socket
    }

    /// An engine client that connects through the proxy.
    pub(crate) fn engine(&self) -> Podman {
        engine_at(self.socket_path())
    }

    /// Replaces all rules. The first rule that applies decides; a request without one is forwarded.
    pub(crate) fn set_rules(&self, rules: impl IntoIterator<Item = Rule>) {
        lock(&self.shared.state).rules = rules.into_iter().collect();
    }

    /// Calls this observer for every request, in the thread of its connection, which waits until the observer returns.
    pub(crate) fn observe(&self, observer: impl Fn(&Request, Moment) + Send + Sync + 'static) {
        lock(&self.shared.state).observer = Some(Arc::new(observer));
    }

    /// Every request so far, in order of arrival.
    pub(crate) fn seen(&self) -> Vec<Request> {
        lock(&self.shared.state).seen.clone()
    }

    /// How many requests of this method had a path containing this text.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        self.seen().iter().filter(|request| request.method == method && request.path.contains(path)).count()
    }

    /// Waits until the requests so far satisfy the condition.
    pub(crate) async fn until(&self, condition: impl Fn(&[Request]) -> bool + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        let waiting = tokio::task::spawn_blocking(move || {
            let state = lock(&shared.state);
            let waited =
                shared.changed.wait_timeout_while(state, WAIT_LIMIT, |state| !condition(&state.seen));
            let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            waited.timed_out().then(|| state.seen.clone())
        });
        if let Some(seen) = waiting.await.expect("the condition does not panic") {
            panic!("the expected request did not arrive; received: {}", listing_of(&seen));
        }
    }

    /// Stops listening: new connections are refused, existing ones stay open.
    pub(crate) fn refuse(&self) {
        self.shared.refuse();
    }

    /// Listens again; no effect if it listens already.
    pub(crate) fn listen(&self) {
        let mut state = lock(&self.shared.state);
        if state.acceptor.is_some() {
            return;
        }
        let _ = fs::remove_file(&self.shared.socket);
        let listener = UnixListener::bind(&self.shared.socket).expect("the proxy's socket is bound");
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&self.shared), Arc::clone(&stop));
        let thread = thread::spawn(move || accept(&shared, &listener, &stopped));
        state.acceptor = Some(Acceptor { stop, thread });
    }

    /// Cuts every connection, like a service that is killed.
    pub(crate) fn cut(&self) {
        for connection in lock(&self.shared.state).open.values() {
            connection.cut();
        }
    }

    /// Cuts the connections of these requests at once, even in the middle of an answer.
    pub(crate) fn cut_those(&self, matches: impl Fn(&Request) -> bool) {
        let state = lock(&self.shared.state);
        for connection in state.open.values().filter(|open| open.request.as_ref().is_some_and(&matches)) {
            connection.cut();
        }
    }
}

impl Connection {
    fn cut(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Drop for EngineProxy {
    fn drop(&mut self) {
        self.refuse();
        self.cut();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listing_of(seen: &[Request]) -> String {
    seen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn accept(shared: &Arc<Shared>, listener: &UnixListener, stop: &AtomicBool) {
    while let Ok((client, _)) = listener.accept() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let id = shared.register(&client, None);
            // An error is ignored here, because the client or the engine notices its broken connection itself.
            let _ = shared.serve(client, id);
            lock(&shared.state).open.remove(&id);
        });
    }
}

impl Shared {
    fn refuse(&self) {
        let Some(Acceptor { stop, thread }) = lock(&self.state).acceptor.take() else { return };
        stop.store(true, Ordering::Release);
        // A connection wakes the thread from `accept`.
        drop(UnixStream::connect(&self.socket));
        let _ = thread.join();
    }

    /// Records the connection so that it can be cut.
    fn register(&self, stream: &UnixStream, request: Option<&Request>) -> u64 {
        let mut state = lock(&self.state);
        state.opened += 1;
        let id = state.opened;
        if let Ok(stream) = stream.try_clone() {
            state.open.insert(id, Connection { stream, request: request.cloned() });
        }
        id
    }

    fn serve(&self, mut client: UnixStream, id: u64) -> io::Result<()> {
        let Some((request, head)) = read_head(&mut client)? else { return Ok(()) };
        let Some(request) = Request::parse(&request).map(|request| self.number(request, id)) else {
            return Ok(());
        };
        // The fault is decided before the observer runs. An observer may kill the client, and the test may replace the
        // rules while the observer still runs. Under the new rules this request could be forwarded after a later
        // request has taken effect.
        let fault = self.decide(&request);
        self.notify(&request, Moment::Arrived);
        // Waiting tests are notified only now, so that the observer has returned when they continue.
        self.changed.notify_all();
        match fault {
            Fault::Pass => self.forward(&request, &head, client, || true),
            Fault::Status(status, message) => answer(client, status, &message),
            Fault::Answer(body) => answer_with(client, 200, &body),
            Fault::Hang => drain(client),
            Fault::DropBefore => Ok(()),
            Fault::DropAfter => self.forward(&request, &head, client, || false),
            Fault::DelayAnswer(gate) => self.forward(&request, &head, client, || {
                gate.pass();
                true
            }),
            Fault::Refuse => {
                self.refuse();
                Ok(())
            }
        }
    }

    fn number(&self, request: Request, id: u64) -> Request {
        let mut state = lock(&self.state);
        let change = (!matches!(request.method.as_str(), "GET" | "HEAD")).then_some(state.changes);
        state.changes += usize::from(change.is_some());
        let request = Request { change, ..request };
        state.seen.push(request.clone());
        if let Some(connection) = state.open.get_mut(&id) {
            connection.request = Some(request.clone());
        }
        request
    }

    /// The fault of the first rule that applies.
    fn decide(&self, request: &Request) -> Fault {
        let mut state = lock(&self.state);
        let decided =
            state.rules.iter_mut().find_map(|rule| rule.applies(request).then(|| rule.fault.clone()));
        decided.unwrap_or(Fault::Pass)
    }

    fn notify(&self, request: &Request, moment: Moment) {
        // The lock is released before the call, because an observer may call the proxy.
        let observer = lock(&self.state).observer.clone();
        if let Some(observer) = observer {
            observer(request, moment);
        }
    }

    /// Forwards the request. Once the engine has answered, `deliver` decides whether the client gets the answer.
    fn forward(
        &self,
        request: &Request,
        head: &[u8],
        client: UnixStream,
        deliver: impl FnOnce() -> bool,
    ) -> io::Result<()> {
        let mut engine = UnixStream::connect(&self.upstream)?;
        let id = self.register(&engine, Some(request));
        engine.write_all(head)?;
        let relayed = self.relay(request, client, engine, deliver);
        lock(&self.state).open.remove(&id);
        relayed
    }

    fn relay(
        &self,
        request: &Request,
        mut client: UnixStream,
        mut engine: UnixStream,
        deliver: impl FnOnce() -> bool,
    ) -> io::Result<()> {
        let (from, to) = (client.try_clone()?, engine.try_clone()?);
        let upload = thread::spawn(move || pump(from, to));
        let answered = read_head(&mut engine)?;
        self.notify(request, Moment::Answered);
        let Some((_, answer)) = answered.filter(|_| deliver()) else {
            client.shutdown(Shutdown::Both)?;
            return engine.shutdown(Shutdown::Both);
        };
        client.write_all(&answer)?;
        pump(engine, client);
        let _ = upload.join();
        Ok(())
    }
}

/// Reads to the end of the head. Returns the head and all bytes read.
fn read_head(stream: &mut UnixStream) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    while read.len() < HEAD_MAX_BYTES {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(Some((read[..end].to_vec(), read)));
        }
        match stream.read(&mut piece)? {
            0 => return Ok(None),
            length => read.extend_from_slice(&piece[..length]),
        }
    }
    Ok(None)
}

/// Copies until end of stream, and forwards the end.
fn pump(mut from: UnixStream, mut to: UnixStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

fn answer(client: UnixStream, status: u16, message: &str) -> io::Result<()> {
    let body = serde_json::json!({ "cause": message, "message": message, "response": status }).to_string();
    answer_with(client, status, &body)
}

fn answer_with(mut client: UnixStream, status: u16, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(
        client,
        "HTTP/1.1 {status} Fault\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )?;
    client.shutdown(Shutdown::Write)?;
    // If the rest of the upload were not read, closing would reset the connection and lose the answer.
    drain(client)
}

fn drain(mut client: UnixStream) -> io::Result<()> {
    io::copy(&mut client, &mut io::sink()).map(drop)
}
