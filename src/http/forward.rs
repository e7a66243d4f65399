//! The proxy's transport: one message to an agent, and its answer as it comes.
//!
//! A connection to an agent is no task of its own: whoever waits for the answer drives it, first here
//! and then as the answer's body. That saves two hand-overs between tasks for each message, and makes
//! the rule about clients that hang up true by construction: what they drop is the connection itself.
//! Connections to containers are kept for the next message, for less time than servers keep them idle.
//!
//! A message is sent once. It is tried again on a second connection in one case only: the kept one
//! turned out to be closed and the message is still here, whole, no byte of it written. Once writing has
//! begun nobody can tell what the agent has done with it, and it is the caller's to decide.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header},
};
use http_body_util::Full;
use hyper::{
    body::{Frame, Incoming, SizeHint},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::{RawValue, to_raw_value};
use tokio::{io::DuplexStream, net::TcpStream, sync::OnceCell};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use super::outbound::Checked;
use crate::{
    clock::{Boxed, SharedClock, within},
    domain::time::Awake,
};

/// How long connecting may take, TLS included.
const CONNECTING: Duration = Duration::from_secs(10);

/// How long a connection is kept without a message. The servers that agents are built with close theirs
/// after five seconds; one that is about to be closed must not be used.
const KEPT_FOR: Duration = Duration::from_secs(4);

/// Connections kept for one target, and in all.
const KEPT_EACH: usize = 64;
const KEPT: usize = 512;

/// The most bytes read ahead of one answer. It bounds the answer's head, too.
const BUFFER: usize = 64 * 1024;

/// Who asks, told to the agent.
const CALLER: HeaderName = HeaderName::from_static("x-workspace-id");

/// Seconds that the caller wants to wait at most.
const TIMEOUT: HeaderName = HeaderName::from_static("x-timeout");

/// What passes from the caller to the agent. Nothing else does: no credentials of any kind, nothing
/// about the connection, nothing about the way it came.
fn passes_to_agent(name: &str) -> bool {
    matches!(
        name,
        "content-type"
            | "accept"
            | "accept-language"
            | "last-event-id"
            | "traceparent"
            | "tracestate"
            | "x-timeout"
    ) || name.starts_with("a2a-")
}

/// What belongs to one connection and not to the message.
fn is_of_the_connection(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What an agent may not say in ostler's name. Its answer leaves from the origin that also serves the
/// dashboard, so these would set cookies there, or rule over who may read it and how it is reached.
fn is_of_the_origin(name: &str) -> bool {
    matches!(
        name,
        "set-cookie" | "strict-transport-security" | "alt-svc" | "clear-site-data" | "service-worker-allowed"
    ) || name.starts_with("access-control-")
}

/// Where a message goes.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A container's port on this machine.
    Local(SocketAddr),
    /// An external agent, at the address that was judged.
    Checked(Checked),
}

/// A message.
#[derive(Debug)]
pub(crate) struct ForwardRequest {
    /// Its body.
    pub(crate) body: Bytes,
    /// The headers it came with; most stay behind.
    pub(crate) headers: HeaderMap,
    /// The workspace that sends it.
    pub(crate) caller: String,
}

/// When the target was last heard of otherwise, such as by a heartbeat.
pub(crate) type Alive = Arc<dyn Fn() -> Option<Awake> + Send + Sync>;

/// What an answer may take.
#[derive(Clone)]
pub(crate) struct ForwardLimits {
    /// From the message to the last byte of the answer; less where the caller asks for less.
    pub(crate) total: Duration,
    /// Without a byte of the answer and without a sign of life.
    pub(crate) idle: Duration,
    /// The most bytes of the answer's body.
    pub(crate) response: u64,
    /// The sign of life.
    pub(crate) alive: Alive,
}

impl ForwardLimits {
    /// The limits of the protocol: 30 minutes, 5 minutes of silence, 64 MiB.
    pub(crate) fn new(alive: Alive) -> Self {
        Self {
            total: Duration::from_mins(30),
            idle: Duration::from_mins(5),
            response: 64 * 1024 * 1024,
            alive,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ForwardError {
    /// Nobody listens there.
    Refused,
    /// It cannot be reached, or what it said is no answer.
    Unreachable(String),
    /// The answer announces more bytes than are passed on.
    TooLarge,
    /// There was none in time.
    TimedOut(Overdue),
}

impl fmt::Display for ForwardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("nobody listens at the agent's address"),
            Self::Unreachable(why) => write!(f, "the agent cannot be reached: {why}"),
            Self::TooLarge => f.write_str("the agent's answer is larger than what is passed on"),
            Self::TimedOut(overdue) => overdue.fmt(f),
        }
    }
}

impl std::error::Error for ForwardError {}

/// Which time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// The one for the whole answer.
    Whole,
    /// The one without a byte or a sign of life.
    Silent,
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "the agent's answer was not complete in time",
            Self::Silent => "the agent has been silent for too long, and sent no heartbeat either",
        })
    }
}

/// How agents are connected to.
#[derive(Clone)]
pub enum Dial {
    /// Over TCP.
    Tcp,
    /// Through a pipe in this process, for the simulator: whoever answers there is an agent of its own.
    Pipe(PipeTo),
}

/// Makes a pipe to whoever listens at an address.
pub type PipeTo = Arc<dyn Fn(SocketAddr) -> io::Result<DuplexStream> + Send + Sync>;

impl Dial {
    async fn connect(&self, address: SocketAddr) -> io::Result<Plain> {
        match self {
            Self::Tcp => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Either::Left(stream))
            }
            Self::Pipe(pipe_to) => pipe_to(address).map(Either::Right),
        }
    }
}

/// Sends messages to agents.
pub(crate) struct Forwarder {
    clock: SharedClock,
    dial: Dial,
    pool: Arc<Pool>,
    tls: OnceCell<TlsConnector>,
}

impl Forwarder {
    pub(crate) fn new(clock: SharedClock, dial: Dial) -> Self {
        let pool = Arc::new(Pool { clock: Arc::clone(&clock), kept: Mutex::default() });
        Self { clock, dial, pool, tls: OnceCell::new() }
    }

    /// Sends a message and gives the head of its answer, whatever its status: a redirect is an answer
    /// like another. The body comes as the agent writes it. It ends with an error, which breaks the
    /// connection of whoever reads it, where it is cut: a part must not look like the whole.
    ///
    /// Dropping this future or the body ends the connection to the agent.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub(crate) async fn forward(
        &self,
        target: &Target,
        request: ForwardRequest,
        limits: &ForwardLimits,
    ) -> Result<Response<Body>, ForwardError> {
        let mut watch = Watch::begin(Arc::clone(&self.clock), limits, wanted_limit(&request.headers));
        let mut asking = pin!(self.ask(target, request));
        let (response, upstream) = poll_fn(|cx| {
            if let Poll::Ready(answer) = asking.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            watch.poll(cx).map(|overdue| Err(ForwardError::TimedOut(overdue)))
        })
        .await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(ForwardError::Unreachable("it wants to speak something other than HTTP".into()));
        }
        let (mut head, incoming) = response.into_parts();
        if incoming.size_hint().lower() > limits.response {
            return Err(ForwardError::TooLarge);
        }
        clean_answer(&mut head.headers);
        watch.heard();
        let kept_at = match target {
            Target::Local(address) => Some((Arc::clone(&self.pool), *address)),
            Target::Checked(_) => None,
        };
        let mut body = Streamed { incoming, upstream: Some(upstream), kept_at, watch, left: limits.response };
        if body.incoming.is_end_stream() {
            // Nobody polls the body of an empty answer.
            poll_fn(|cx| {
                body.finish(cx);
                Poll::Ready(())
            })
            .await;
        }
        Ok(Response::from_parts(head, Body::new(body)))
    }

    async fn ask(
        &self,
        target: &Target,
        request: ForwardRequest,
    ) -> Result<(Response<Incoming>, Upstream), ForwardError> {
        let mut request = to_agent(target, request)?;
        if let Target::Local(address) = target
            && let Some(kept) = poll_fn(|cx| Poll::Ready(self.pool.take(*address, cx))).await
        {
            match kept.send(request).await {
                Ok(answer) => return Ok(answer),
                Err(Failed { unsent: Some(unsent), .. }) => request = unsent,
                Err(failed) => return Err(failed.into()),
            }
        }
        Ok(self.connect(target).await?.send(request).await?)
    }

    async fn connect(&self, target: &Target) -> Result<Upstream, ForwardError> {
        let connecting = async {
            let address = match target {
                Target::Local(address) => *address,
                Target::Checked(checked) => checked.address(),
            };
            let stream = self.dial.connect(address).await.map_err(not_connected)?;
            let stream = match target {
                Target::Checked(checked) if checked.tls() => {
                    Either::Right(Box::new(self.secured(stream, checked.host()).await?))
                }
                Target::Checked(_) | Target::Local(_) => Either::Left(stream),
            };
            let mut http = http1::Builder::new();
            http.max_buf_size(BUFFER);
            let (sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(broken)?;
            Ok(Upstream { sender, connection: Some(connection) })
        };
        let late = || format!("no connection within {} s", CONNECTING.as_secs());
        within(&*self.clock, CONNECTING, connecting)
            .await
            .unwrap_or_else(|| Err(ForwardError::Unreachable(late())))
    }

    async fn secured(&self, stream: Plain, host: &str) -> Result<TlsStream<Plain>, ForwardError> {
        let unreachable = |why: String| ForwardError::Unreachable(why);
        let name = ServerName::try_from(host.trim_end_matches('.').to_owned())
            .map_err(|_| unreachable(format!("no certificate can be for `{host}`")))?;
        // Read when the first https agent is called: most installations have none.
        let connector = self.tls.get_or_try_init(system_roots).await.map_err(unreachable)?;
        connector
            .connect(name, stream)
            .await
            .map_err(|error| unreachable(format!("it did not prove to be `{host}`: {error}")))
    }
}

/// The certificates that this machine trusts.
async fn system_roots() -> Result<TlsConnector, String> {
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs);
    let found = found.await.map_err(|error| format!("this machine's certificates: {error}"))?;
    let mut roots = RootCertStore::empty();
    // One that cannot be read vouches for nobody; the others still do.
    let (usable, _unusable) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err("this machine has no root certificates to judge it by (package ca-certificates)".into());
    }
    connector(roots).map_err(|error| error.to_string())
}

fn connector(roots: RootCertStore) -> Result<TlsConnector, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn not_connected(error: io::Error) -> ForwardError {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        ForwardError::Refused
    } else {
        ForwardError::Unreachable(error.to_string())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn broken(error: hyper::Error) -> ForwardError {
    use std::error::Error as _;
    // hyper says what it was doing; what went wrong is behind it.
    ForwardError::Unreachable(match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}

/// The time that the caller wants to wait; nonsense counts as nothing said.
fn wanted_limit(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(TIMEOUT)?.to_str().ok()?.trim().parse().ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

fn to_agent(target: &Target, request: ForwardRequest) -> Result<Request<Full<Bytes>>, ForwardError> {
    let ForwardRequest { body, headers, caller } = request;
    let unsayable = |what: &str| ForwardError::Unreachable(format!("{what} cannot be said in a header"));
    let (host, uri) = match target {
        Target::Local(address) => (address.to_string(), Uri::from_static("/")),
        Target::Checked(checked) => {
            let path = checked.uri().path_and_query().map_or("/", |path| path.as_str());
            let uri = path.parse().map_err(|_| unsayable("the agent's url"))?;
            (checked.uri().authority().map(ToString::to_string).unwrap_or_default(), uri)
        }
    };
    let mut passed = HeaderMap::with_capacity(8);
    passed.insert(header::HOST, HeaderValue::try_from(host).map_err(|_| unsayable("the agent's host"))?);
    passed.insert(CALLER, HeaderValue::try_from(caller).map_err(|_| unsayable("the caller's id"))?);
    let named = named_by_connection(&headers);
    for (name, value) in &headers {
        if passes_to_agent(name.as_str()) && !named.contains(name) {
            passed.append(name, value.clone());
        }
    }
    passed.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    if matches!(target, Target::Checked(_)) {
        passed.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = passed;
    Ok(request)
}

fn clean_answer(headers: &mut HeaderMap) {
    let mut stays = named_by_connection(headers);
    // Of two ways to say where a message ends the length is the one that does not count.
    if headers.contains_key(header::TRANSFER_ENCODING) {
        stays.push(header::CONTENT_LENGTH);
    }
    let of_others =
        |name: &&HeaderName| is_of_the_connection(name.as_str()) || is_of_the_origin(name.as_str());
    stays.extend(headers.keys().filter(of_others).cloned());
    for name in stays {
        headers.remove(name);
    }
}

/// The headers that `Connection` says are only for one connection.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

type Plain = Either<TcpStream, DuplexStream>;
type Stream = Either<Plain, Box<TlsStream<Plain>>>;
type Message = Full<Bytes>;

/// A connection to an agent.
struct Upstream {
    sender: http1::SendRequest<Message>,
    /// None once it has ended.
    connection: Option<http1::Connection<TokioIo<Stream>, Message>>,
}

/// A message without an answer.
struct Failed {
    why: hyper::Error,
    /// The message, when no byte of it was written.
    unsent: Option<Request<Message>>,
}

impl From<Failed> for ForwardError {
    fn from(failed: Failed) -> Self {
        broken(failed.why)
    }
}

impl Upstream {
    /// Lets the connection read and write. One that has ended is let go of, so that whoever waits for
    /// something of it hears that.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(cx).is_ready()
        {
            self.connection = None;
        }
    }

    /// Whether another message can be sent on it.
    fn is_free(&self) -> bool {
        self.connection.is_some() && self.sender.is_ready()
    }

    async fn send(mut self, message: Request<Message>) -> Result<(Response<Incoming>, Self), Failed> {
        let mut answer = pin!(self.sender.try_send_request(message));
        let answer = poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(cx)
        })
        .await;
        match answer {
            Ok(response) => Ok((response, self)),
            Err(mut error) => {
                let unsent = error.take_message();
                Err(Failed { why: error.into_error(), unsent })
            }
        }
    }
}

/// Connections without a message, kept for the next one.
struct Pool {
    clock: SharedClock,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// The longest kept first.
    by_target: HashMap<SocketAddr, Vec<(Upstream, Awake)>>,
    count: usize,
    cleared_at: Awake,
}

impl Pool {
    /// A connection to `address` that is open as far as can be told.
    fn take(&self, address: SocketAddr, cx: &mut Context<'_>) -> Option<Upstream> {
        loop {
            let (mut upstream, since) = {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                let taken = kept.by_target.get_mut(&address)?.pop()?;
                kept.count -= 1;
                taken
            };
            // Nobody drove it meanwhile: this is when it hears that it was closed.
            upstream.drive(cx);
            if upstream.is_free() && self.clock.awake().since(since) < KEPT_FOR {
                return Some(upstream);
            }
        }
    }

    fn keep(&self, address: SocketAddr, upstream: Upstream) {
        let now = self.clock.awake();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(kept.cleared_at) >= KEPT_FOR {
            kept.clear_old(now);
        }
        if kept.count >= KEPT {
            return;
        }
        let same = kept.by_target.entry(address).or_default();
        if same.len() < KEPT_EACH {
            same.push((upstream, now));
            kept.count += 1;
        }
    }
}

impl Kept {
    fn clear_old(&mut self, now: Awake) {
        self.by_target.retain(|_, same| {
            same.retain(|(_, since)| now.since(*since) < KEPT_FOR);
            !same.is_empty()
        });
        self.count = self.by_target.values().map(Vec::len).sum();
        self.cleared_at = now;
    }
}

/// The times of one answer.
///
/// One timer serves both: what it finds when it fires says how much longer there is. Bytes only note
/// when they came.
struct Watch {
    clock: SharedClock,
    end: Awake,
    idle: Duration,
    last: Awake,
    alive: Alive,
    timer: Option<Boxed<()>>,
}

impl Watch {
    fn begin(clock: SharedClock, limits: &ForwardLimits, wanted: Option<Duration>) -> Self {
        let now = clock.awake();
        let total = wanted.map_or(limits.total, |wanted| wanted.min(limits.total));
        let alive = Arc::clone(&limits.alive);
        Self { clock, end: now + total, idle: limits.idle, last: now, alive, timer: None }
    }

    /// A byte came. Whether it came in time for the whole is the answer.
    fn heard(&mut self) -> bool {
        self.last = self.clock.awake();
        self.last < self.end
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Overdue> {
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
            }
            let now = self.clock.awake();
            let left = self.end.since(now);
            if left.is_zero() {
                return Poll::Ready(Overdue::Whole);
            }
            let last = self.last.max((self.alive)().unwrap_or_default());
            let silence_left = self.idle.saturating_sub(now.since(last));
            if silence_left.is_zero() {
                return Poll::Ready(Overdue::Silent);
            }
            self.timer = Some(self.clock.sleep(left.min(silence_left)));
        }
    }
}

/// An answer's body, which drives the connection that it comes on.
struct Streamed {
    incoming: Incoming,
    /// None once the answer is over.
    upstream: Option<Upstream>,
    /// Where the connection may be kept.
    kept_at: Option<(Arc<Pool>, SocketAddr)>,
    watch: Watch,
    /// Bytes that may still come.
    left: u64,
}

impl Streamed {
    /// The answer is complete: the connection is free for the next message, or closed.
    fn finish(&mut self, cx: &mut Context<'_>) {
        let Some(mut upstream) = self.upstream.take() else { return };
        // It has yet to notice that it is done.
        upstream.drive(cx);
        if let Some((pool, address)) = self.kept_at.take()
            && upstream.is_free()
        {
            pool.keep(address, upstream);
        }
    }

    /// The answer is cut: the agent's connection ends now, the caller's when it hears of the error.
    fn cut(&mut self, error: io::Error) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.upstream = None;
        Poll::Ready(Some(Err(error)))
    }
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        let Some(upstream) = &mut this.upstream else { return Poll::Ready(None) };
        let mut polled = Pin::new(&mut this.incoming).poll_frame(cx);
        if polled.is_pending() {
            upstream.drive(cx);
            polled = Pin::new(&mut this.incoming).poll_frame(cx);
        }
        match polled {
            Poll::Pending => {
                let overdue = ready!(this.watch.poll(cx));
                this.cut(io::Error::new(io::ErrorKind::TimedOut, overdue.to_string()))
            }
            Poll::Ready(None) => {
                this.finish(cx);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => this.cut(io::Error::other(error)),
            Poll::Ready(Some(Ok(frame))) => {
                if !this.watch.heard() {
                    return this.cut(io::Error::new(io::ErrorKind::TimedOut, Overdue::Whole.to_string()));
                }
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(left) = this.left.checked_sub(length) else {
                    return this.cut(io::Error::other(ForwardError::TooLarge));
                };
                this.left = left;
                if this.incoming.is_end_stream() {
                    // Whoever writes it to a caller knows its length, and will not ask for its end.
                    this.finish(cx);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.upstream.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// A message that is not one.
#[derive(Debug)]
pub(crate) struct NotJson(String);

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the message is no JSON-RPC request: {}", self.0)
    }
}

impl std::error::Error for NotJson {}

impl From<serde_json::Error> for NotJson {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

/// What a message needs at its top. One that is there twice is refused, because two readers could take
/// it for two different messages.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(rename = "method")]
    _method: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Inner<'a> {
    #[serde(borrow, rename = "messageId")]
    message_id: Option<&'a RawValue>,
}

/// An object's members, their values as they were written.
type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// Makes a message whole: what it lacks of `jsonrpc`, `id` and `params.message.messageId` is filled in
/// (`null` counts as lacking). A message that lacks nothing is given back as the same bytes; of another,
/// the values that are not touched are copied as they were written.
///
/// Nothing here goes deeper than those three levels: what lies below is skipped, not built, and skipping
/// takes no stack.
///
/// # Errors
/// When it is no JSON object.
pub(crate) fn complete_message(
    bytes: &Bytes,
    mut fresh_id: impl FnMut() -> String,
) -> Result<Bytes, NotJson> {
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(NotJson("it is no object".into()));
    }
    let Envelope { jsonrpc, id, params, _method } = serde_json::from_slice(bytes)?;
    let params = params.filter(|params| is_object(params));
    let message = params.map(|params| serde_json::from_str::<Params<'_>>(params.get())).transpose()?;
    let message = message.and_then(|params| params.message).filter(|message| is_object(message));
    let inner = message.map(|message| serde_json::from_str::<Inner<'_>>(message.get())).transpose()?;
    let lacks_message_id = inner.is_some_and(|inner| inner.message_id.is_none());
    if jsonrpc.is_some() && id.is_some() && !lacks_message_id {
        return Ok(bytes.clone());
    }

    let version = to_raw_value("2.0")?;
    let request_id = id.is_none().then(|| to_raw_value(&fresh_id())).transpose()?;
    let mut filled = None;
    if let (true, Some(params), Some(message)) = (lacks_message_id, params, message) {
        let message_id = to_raw_value(&fresh_id())?;
        let message = with(message, "messageId", &message_id)?;
        filled = Some(with(params, "message", &message)?);
    }
    let mut whole: Members<'_> = serde_json::from_slice(bytes)?;
    if jsonrpc.is_none() {
        whole.insert("jsonrpc".into(), &version);
    }
    if let Some(request_id) = &request_id {
        whole.insert("id".into(), request_id);
    }
    if let Some(params) = &filled {
        whole.insert("params".into(), params);
    }
    Ok(serde_json::to_vec(&whole)?.into())
}

fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// An object with one member more, or another value of it.
fn with(object: &RawValue, name: &str, value: &RawValue) -> Result<Box<RawValue>, serde_json::Error> {
    let mut members: Members<'_> = serde_json::from_str(object.get())?;
    members.insert(name.into(), value);
    to_raw_value(&members)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        clock::Clock as _,
        domain::address::Allow,
        http::{
            outbound::{check, tests::Answers},
            testing::HandClock,
        },
    };

    const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

    /// An agent: what it says is written by hand, so that it can be wrong.
    struct Agent(TcpListener);

    /// A connection to it.
    struct Caller(TcpStream);

    impl Agent {
        async fn new() -> Self {
            Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
        }

        fn address(&self) -> SocketAddr {
            self.0.local_addr().unwrap()
        }

        fn target(&self) -> Target {
            Target::Local(self.address())
        }

        async fn accepts(&self) -> Caller {
            Caller(self.0.accept().await.unwrap().0)
        }
    }

    impl Caller {
        /// Reads one request, head and body.
        async fn reads(&mut self) -> String {
            let mut heard = Vec::new();
            loop {
                let text = String::from_utf8_lossy(&heard).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    if body.len() == length.map_or(0, |length| length.parse().unwrap()) {
                        return text;
                    }
                }
                assert!(self.0.read_buf(&mut heard).await.unwrap() > 0, "the request broke off: {text}");
            }
        }

        async fn says(&mut self, text: &str) {
            self.0.write_all(text.as_bytes()).await.unwrap();
        }

        /// Waits until the other side has closed the connection.
        async fn sees_the_end(mut self) {
            let mut rest = Vec::new();
            let _reset_is_an_end_too = self.0.read_to_end(&mut rest).await;
        }
    }

    fn message() -> ForwardRequest {
        ForwardRequest { body: "{}".into(), headers: HeaderMap::new(), caller: "caller-id".into() }
    }

    fn limits() -> ForwardLimits {
        ForwardLimits::new(Arc::new(|| None))
    }

    fn forwarder() -> (Arc<HandClock>, Forwarder) {
        let clock = Arc::new(HandClock::default());
        (clock.clone(), Forwarder::new(clock, Dial::Tcp))
    }

    async fn whole(response: Response<Body>) -> Result<String, axum::Error> {
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn next(body: &mut Body) -> Option<Result<String, axum::Error>> {
        let frame = body.frame().await?;
        Some(frame.map(|frame| String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()))
    }

    #[tokio::test]
    async fn what_proves_who_the_caller_is_never_reaches_the_agent() {
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let mut request = message();
        for (name, value) in [
            ("authorization", "Bearer secret-token"),
            ("proxy-authorization", "Basic secret"),
            ("cookie", "session=secret"),
            ("x-api-key", "secret"),
            ("x-forwarded-for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("host", "ostler.example.com"),
            ("transfer-encoding", "chunked"),
            ("content-length", "999"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("x-workspace-id", "somebody-else"),
            ("connection", "a2a-private, keep-alive"),
            ("a2a-private", "secret"),
            ("content-type", "application/json; charset=utf-8"),
            ("accept", "text/event-stream"),
            ("last-event-id", "7"),
            ("traceparent", "00-1-2-00"),
            ("a2a-version", "1.0"),
            ("x-timeout", "60"),
        ] {
            request.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        request.body = "{\"a\":1}".into();
        let (target, limits) = (agent.target(), limits());
        let (answer, heard) = tokio::join!(forwarder.forward(&target, request, &limits), async {
            let mut caller = agent.accepts().await;
            let heard = caller.reads().await;
            caller.says(HELLO).await;
            heard
        });
        assert_eq!(whole(answer.unwrap()).await.unwrap(), "hello");
        let (request, body) = heard.split_once("\r\n\r\n").unwrap();
        let mut lines: Vec<_> = request.lines().collect();
        assert_eq!(lines.remove(0), "POST / HTTP/1.1");
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "a2a-version: 1.0",
                "accept: text/event-stream",
                "content-length: 7",
                "content-type: application/json; charset=utf-8",
                &format!("host: {}", agent.address()),
                "last-event-id: 7",
                "traceparent: 00-1-2-00",
                "x-timeout: 60",
                "x-workspace-id: caller-id",
            ]
        );
        assert_eq!(body, "{\"a\":1}");
    }

    #[tokio::test]
    async fn an_answer_passes_without_what_is_not_the_agents_to_say() {
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let (answer, ()) = tokio::join!(forwarder.forward(&target, message(), &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller
                .says(
                    "HTTP/1.1 418 I'm a teapot\r\ncontent-type: text/plain\r\nx-own: kept\r\n\
                     set-cookie: session=stolen\r\naccess-control-allow-origin: *\r\nclear-site-data: \"*\"\r\n\
                     connection: x-hop, keep-alive\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n\
                     content-length: 5\r\n\r\nhello",
                )
                .await;
        });
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::IM_A_TEAPOT);
        let mut names: Vec<_> = answer.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "content-type", "x-own"]);
        assert_eq!(whole(answer).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_redirect_is_passed_back_and_not_followed() {
        let (agent, other, (_, forwarder)) = (Agent::new().await, Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let (answer, ()) = tokio::join!(forwarder.forward(&target, message(), &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            let location = format!("http://{}/", other.address());
            caller
                .says(&format!("HTTP/1.1 307 x\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"))
                .await;
        });
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
        assert!(answer.headers().contains_key(header::LOCATION));
        assert_eq!(whole(answer).await.unwrap(), "");
        let asked = poll_fn(|cx| Poll::Ready(other.0.poll_accept(cx).is_ready())).await;
        assert!(!asked, "the redirect was followed");
    }

    #[tokio::test]
    async fn server_sent_events_arrive_one_by_one() {
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let (answer, mut caller) = tokio::join!(forwarder.forward(&target, message(), &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller
                .says("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            caller
        });
        let mut body = answer.unwrap().into_body();
        for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
            // Each is read before the next is written: nothing waits for more.
            caller.says(&format!("{:x}\r\n{event}\r\n", event.len())).await;
            assert_eq!(next(&mut body).await.unwrap().unwrap(), event);
        }
        caller.says("0\r\n\r\n").await;
        assert!(next(&mut body).await.is_none());
    }

    #[tokio::test]
    async fn one_connection_serves_message_after_message() {
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let serve = async {
            let mut caller = agent.accepts().await;
            for answer in [
                HELLO,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                "HTTP/1.1 204 x\r\n\r\n",
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                HELLO,
            ] {
                caller.reads().await;
                caller.says(answer).await;
            }
            caller
        };
        let ask = async {
            for expected in ["hello", "hello", "", "", "hello"] {
                let answer = forwarder.forward(&target, message(), &limits).await.unwrap();
                assert_eq!(whole(answer).await.unwrap(), expected);
            }
        };
        let (_caller, ()) = tokio::join!(serve, ask);
    }

    #[tokio::test]
    async fn a_body_whose_end_nobody_asks_for_still_frees_its_connection() {
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let serve = async {
            let mut caller = agent.accepts().await;
            for _ in 0..2 {
                caller.reads().await;
                caller.says(HELLO).await;
            }
            caller
        };
        let ask = async {
            for _ in 0..2 {
                let mut body = forwarder.forward(&target, message(), &limits).await.unwrap().into_body();
                assert_eq!(next(&mut body).await.unwrap().unwrap(), "hello");
                assert!(body.is_end_stream());
            }
        };
        let (_caller, ()) = tokio::join!(serve, ask);
    }

    #[tokio::test]
    async fn a_kept_connection_that_was_closed_or_is_old_is_not_used() {
        let (agent, (clock, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        for closes in [true, false] {
            let (answer, caller) = tokio::join!(forwarder.forward(&target, message(), &limits), async {
                let mut caller = agent.accepts().await;
                caller.reads().await;
                caller.says(HELLO).await;
                caller
            });
            assert_eq!(whole(answer.unwrap()).await.unwrap(), "hello");
            if closes {
                drop(caller);
                // The runtime has to hear of it, as it does all the time where it has more to do.
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
            } else {
                clock.advance(KEPT_FOR);
                let (_answer, ()) = tokio::join!(forwarder.forward(&target, message(), &limits), async {
                    let mut fresh = agent.accepts().await;
                    fresh.reads().await;
                    fresh.says(HELLO).await;
                    caller.sees_the_end().await;
                });
            }
        }
    }

    #[tokio::test]
    async fn a_message_that_may_have_been_read_is_not_sent_again() {
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let serve = async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller.says(HELLO).await;
            // The second one is read on the kept connection, and gets no answer.
            caller.reads().await;
        };
        let ask = async {
            let first = forwarder.forward(&target, message(), &limits).await.unwrap();
            assert_eq!(whole(first).await.unwrap(), "hello");
            forwarder.forward(&target, message(), &limits).await.unwrap_err()
        };
        let ((), error) = tokio::join!(serve, ask);
        assert!(matches!(error, ForwardError::Unreachable(_)), "{error}");
        let again = poll_fn(|cx| Poll::Ready(agent.0.poll_accept(cx).is_ready())).await;
        assert!(!again, "it was tried on another connection");
    }

    #[tokio::test]
    async fn who_hangs_up_ends_the_connection_to_the_agent() {
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        // While the agent thinks.
        let caller = {
            let mut asking = pin!(forwarder.forward(&target, message(), &limits));
            tokio::select! {
                answer = &mut asking => panic!("nothing was answered: {answer:?}"),
                caller = async {
                    let mut caller = agent.accepts().await;
                    caller.reads().await;
                    caller
                } => caller,
            }
        };
        caller.sees_the_end().await;
        // While it answers.
        let (answer, caller) = tokio::join!(forwarder.forward(&target, message(), &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller.says("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfirst").await;
            caller
        });
        let mut body = answer.unwrap().into_body();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "first");
        drop(body);
        caller.sees_the_end().await;
    }

    #[tokio::test]
    async fn an_answer_that_announces_too_much_is_refused_before_anything_is_passed_on() {
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let (answer, ()) = tokio::join!(forwarder.forward(&target, message(), &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller.says(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", (64 << 20) + 1)).await;
            caller.sees_the_end().await;
        });
        assert_eq!(answer.unwrap_err(), ForwardError::TooLarge);
    }

    #[tokio::test]
    async fn an_answer_that_turns_out_too_large_ends_with_an_error() {
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), ForwardLimits { response: 10, ..limits() });
        for (answer, passes) in
            [("5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", true), ("b\r\nhello world\r\n", false)]
        {
            let (passed, ()) = tokio::join!(forwarder.forward(&target, message(), &limits), async {
                let mut caller = agent.accepts().await;
                caller.reads().await;
                caller.says(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{answer}")).await;
            });
            assert_eq!(whole(passed.unwrap()).await.is_ok(), passes, "{answer}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_ends_with_an_error() {
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        for begun in ["content-length: 10\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
            let (passed, ()) = tokio::join!(forwarder.forward(&target, message(), &limits), async {
                let mut caller = agent.accepts().await;
                caller.reads().await;
                caller.says(&format!("HTTP/1.1 200 OK\r\n{begun}")).await;
            });
            assert!(whole(passed.unwrap()).await.is_err(), "{begun}");
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_told_apart_from_no_answer() {
        let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        for nonsense in
            ["", "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 101 x\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"]
        {
            let (answer, ()) = tokio::join!(forwarder.forward(&target, message(), &limits), async {
                let mut caller = agent.accepts().await;
                caller.reads().await;
                caller.says(nonsense).await;
            });
            assert!(matches!(answer, Err(ForwardError::Unreachable(_))), "{nonsense:?}: {answer:?}");
        }
        drop(agent);
        assert_eq!(forwarder.forward(&target, message(), &limits).await.unwrap_err(), ForwardError::Refused);
    }

    /// How long until an answer that never comes is given up, told by the waits that were asked for.
    async fn given_up(
        request: ForwardRequest,
        limits: ForwardLimits,
        clock: Arc<HandClock>,
    ) -> (Overdue, u64) {
        let agent = Agent::new().await;
        let forwarder = Forwarder::new(clock.clone(), Dial::Tcp);
        let (began, target) = (clock.awake(), agent.target());
        let serve = async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            std::future::pending::<()>().await;
        };
        let mut asking = pin!(forwarder.forward(&target, request, &limits));
        let mut serve = pin!(serve);
        loop {
            tokio::select! {
                biased;
                answer = &mut asking => {
                    let Err(ForwardError::TimedOut(overdue)) = answer else { panic!("{answer:?}") };
                    return (overdue, clock.awake().since(began).as_secs());
                }
                () = &mut serve => {}
                () = tokio::task::yield_now() => clock.advance(Duration::from_secs(1)),
            }
        }
    }

    #[tokio::test]
    async fn a_silent_agent_is_given_up_after_five_minutes() {
        let clock = Arc::new(HandClock::default());
        assert_eq!(given_up(message(), limits(), clock).await, (Overdue::Silent, 300));
    }

    #[tokio::test]
    async fn a_sign_of_life_buys_time_up_to_the_whole() {
        let clock = Arc::new(HandClock::default());
        let beating = clock.clone();
        let limits = ForwardLimits::new(Arc::new(move || Some(beating.awake())));
        assert_eq!(given_up(message(), limits, clock).await, (Overdue::Whole, 1800));
    }

    #[tokio::test]
    async fn a_caller_may_ask_for_less_time_and_not_for_more() {
        for (wanted, overdue) in [
            ("60", (Overdue::Whole, 60)),
            ("999999999", (Overdue::Silent, 300)),
            ("0", (Overdue::Silent, 300)),
            ("-5", (Overdue::Silent, 300)),
            ("soon", (Overdue::Silent, 300)),
        ] {
            let mut request = message();
            request.headers.insert(TIMEOUT, HeaderValue::from_static(wanted));
            let clock = Arc::new(HandClock::default());
            assert_eq!(given_up(request, limits(), clock).await, overdue, "{wanted}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_falls_silent_ends_with_an_error() {
        let (agent, (clock, forwarder)) = (Agent::new().await, forwarder());
        let (target, limits) = (agent.target(), limits());
        let (answer, mut caller) = tokio::join!(forwarder.forward(&target, message(), &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller.says("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n").await;
            caller
        });
        let mut body = answer.unwrap().into_body();
        for _ in 0..4 {
            // Every byte begins the silence anew.
            clock.advance(Duration::from_secs(299));
            caller.says("x").await;
            assert_eq!(next(&mut body).await.unwrap().unwrap(), "x");
        }
        let (end, ()) = tokio::join!(next(&mut body), async {
            for _ in 0..300 {
                tokio::task::yield_now().await;
                clock.advance(Duration::from_secs(1));
            }
        });
        assert!(end.unwrap().is_err());
        caller.sees_the_end().await;
    }

    #[tokio::test]
    async fn a_name_is_dialled_at_the_address_that_was_judged_whatever_it_says_now() {
        let (agent, (clock, forwarder)) = (Agent::new().await, forwarder());
        let allow = Allow { private: false, loopback: true };
        let port = agent.address().port();
        let url = format!("http://agent.invalid:{port}/a2a/in?x=1");
        // It resolves once; asked again it would be an address that is refused, and the test would fail.
        let names = Answers::new(&[&[&format!("127.0.0.1:{port}")]]);
        let target = Target::Checked(check(&url, allow, &names, &*clock).await.unwrap());
        let limits = limits();
        for _ in 0..2 {
            let (answer, heard) = tokio::join!(forwarder.forward(&target, message(), &limits), async {
                let mut caller = agent.accepts().await;
                let heard = caller.reads().await;
                caller.says(HELLO).await;
                heard
            });
            assert_eq!(whole(answer.unwrap()).await.unwrap(), "hello");
            assert!(heard.starts_with("POST /a2a/in?x=1 HTTP/1.1\r\n"), "{heard}");
            assert!(heard.contains(&format!("host: agent.invalid:{port}\r\n")), "{heard}");
        }
    }

    /// An agent behind https, and a forwarder that trusts its certificate.
    async fn https(name: &str) -> (Agent, tokio_rustls::TlsAcceptor, Arc<HandClock>, Forwarder) {
        let issued = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(issued.cert.der().clone()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![issued.cert.der().clone()], key)
            .unwrap();
        let (clock, mut forwarder) = forwarder();
        forwarder.tls = OnceCell::new_with(Some(connector(roots).unwrap()));
        (Agent::new().await, Arc::new(config).into(), clock, forwarder)
    }

    #[tokio::test]
    async fn an_https_agent_has_to_prove_its_name() {
        let (agent, acceptor, clock, forwarder) = https("agent.invalid").await;
        let (port, limits) = (agent.address().port(), limits());
        for (name, proves) in [("agent.invalid", true), ("other.invalid", false)] {
            let names = Answers::new(&[&[&format!("127.0.0.1:{port}")]]);
            let allow = Allow { private: false, loopback: true };
            let checked = check(&format!("https://{name}:{port}/"), allow, &names, &*clock).await.unwrap();
            let target = Target::Checked(checked);
            let (answer, ()) = tokio::join!(forwarder.forward(&target, message(), &limits), async {
                let caller = agent.accepts().await;
                // It fails on this side as well where the other does not believe it.
                let Ok(mut secured) = acceptor.accept(caller.0).await else { return };
                let mut heard = [0; 1024];
                if secured.read(&mut heard).await.is_ok_and(|count| count > 0) {
                    secured.write_all(HELLO.as_bytes()).await.unwrap();
                }
            });
            match answer {
                Ok(answer) => {
                    assert!(proves, "{name} was believed");
                    assert_eq!(whole(answer).await.unwrap(), "hello");
                }
                Err(error) => assert!(!proves && error.to_string().contains(name), "{name}: {error}"),
            }
        }
    }

    fn completed(text: &str) -> Result<serde_json::Value, NotJson> {
        let mut count = 0;
        let bytes = complete_message(&Bytes::copy_from_slice(text.as_bytes()), || {
            count += 1;
            format!("fresh-{count}")
        })?;
        Ok(serde_json::from_slice(&bytes).unwrap())
    }

    #[test]
    fn a_whole_message_stays_the_same_bytes() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"method":"message/send","params":{"message":{"messageId":"m"}}}"#,
            r#" { "jsonrpc" : "2.0", "id":"x", "params":{"message":{"messageId":"m","n":1e999}},"x":1.0 } "#,
            r#"{"jsonrpc":"2.0","id":0,"method":"tasks/get","params":{"id":"t"}}"#,
            r#"{"jsonrpc":"2.0","id":0,"method":"x","params":[1,2]}"#,
            r#"{"jsonrpc":"2.0","id":0,"method":"x","params":{"message":"text"}}"#,
            r#"{"jsonrpc":"2.0","id":0,"method":"x"}"#,
        ] {
            let bytes = Bytes::copy_from_slice(text.as_bytes());
            let same = complete_message(&bytes, || panic!("{text} lacks nothing")).unwrap();
            assert_eq!(same.as_ptr(), bytes.as_ptr(), "{text} was copied");
            assert_eq!(same, bytes);
        }
    }

    #[test]
    fn what_a_message_lacks_is_filled_in_and_nothing_else_is_touched() {
        use serde_json::json;
        for (text, expected) in [
            (
                r#"{"method":"message/send","params":{"message":{"parts":[{"text":"hi"}]},"x":1}}"#,
                json!({"jsonrpc": "2.0", "id": "fresh-1", "method": "message/send", "params":
                    {"message": {"messageId": "fresh-2", "parts": [{"text": "hi"}]}, "x": 1}}),
            ),
            (r#"{"method":"x"}"#, json!({"jsonrpc": "2.0", "id": "fresh-1", "method": "x"})),
            (r#"{"method":"x","id":null}"#, json!({"jsonrpc": "2.0", "id": "fresh-1", "method": "x"})),
            (
                r#"{"jsonrpc":"2.0","id":7,"params":{"message":{}}}"#,
                json!({"jsonrpc": "2.0", "id": 7, "params": {"message": {"messageId": "fresh-1"}}}),
            ),
            (
                r#"{"id":7,"params":{"message":{"messageId":"m"}}}"#,
                json!({"jsonrpc": "2.0", "id": 7, "params": {"message": {"messageId": "m"}}}),
            ),
        ] {
            assert_eq!(completed(text).unwrap(), expected, "{text}");
        }
        // Numbers that no machine type holds stay what they were.
        let large = Bytes::from_static(br#"{"id":1,"n":123456789012345678901234567890.10}"#);
        let large = complete_message(&large, || "m".into()).unwrap();
        assert_eq!(large, r#"{"id":1,"jsonrpc":"2.0","n":123456789012345678901234567890.10}"#);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for text in [
            "",
            "null",
            "[]",
            "[{}]",
            "\"text\"",
            "{",
            "{}{}",
            "{\"id\":1,}",
            "{\"id\":1,\"id\":2}",
            "{\"method\":\"a\",\"method\":\"b\"}",
            "{\"params\":{\"message\":{}",
        ] {
            assert!(completed(text).is_err(), "{text:?} was taken");
        }
        assert!(
            complete_message(&Bytes::from_static(b"{\"a\":\"\xff\"}"), String::new).is_err(),
            "not UTF-8"
        );
    }

    #[test]
    fn a_message_of_any_depth_is_walked_without_depth() {
        for nested in ["{\"a\":", "["] {
            let (open, close) =
                (nested.repeat(500_000), if nested == "[" { "]" } else { "}" }.repeat(500_000));
            let text = format!("{{\"params\":{{\"message\":{{\"x\":{open}1{close}}}}}}}");
            let whole = complete_message(&text.into(), || "m".into());
            assert!(whole.is_ok_and(|whole| whole.ends_with(b"}")));
        }
    }
}
