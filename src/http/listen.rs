//! Serving a router on TCP, where strangers can reach it.
//!
//! axum's own loop has no limits, which is right on a socket that only the owner can open and wrong
//! here: a peer could hold connections without end, or send a header a byte an hour. So this one counts
//! connections, bounds heads, and cuts a connection on which no request begins for a while. On the way
//! of a request it adds two counters and a look at the clock, and no lock: what is counted under one is
//! connections.
//!
//! Where all places are taken, a newcomer is not turned away: somebody gives way to it. First goes who
//! has shown no valid token, then who only holds a connection for later; never a request in flight of
//! somebody known. Otherwise a few hundred connections that want nothing would keep every agent out
//! that makes a new one for each beat.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    future::Future,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::ConnectInfo,
    http::{Request, Response},
    routing::future::RouteFuture,
};
use http_body_util::BodyExt as _;
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::Service,
};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service as _;

use crate::{
    clock::{Clock, SharedClock, within},
    domain::time::Awake,
    tasks::SharedSpawn,
};

/// The most bytes of a request's head. Tokens and ids fit many times over.
const HEAD: usize = 16 * 1024;

/// The most bytes that are read ahead or held back for one connection, in each direction. More than a
/// head, because the pieces of a body are as large as this.
const BUFFER: usize = 64 * 1024;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;

/// A peer that is gone without a word is found by keep-alive probes: after a minute of silence, four of
/// them, 15 s apart. What was sent and not taken in for two minutes ends the connection too, so that a
/// reader that stopped reading cannot hold its answer for ever.
const PROBE_AFTER: Duration = Duration::from_mins(1);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;
const UNTAKEN_MS: u32 = 120_000;

/// How long accepting rests after an error that another try would meet again, and how long at most.
const REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Connections that were told to give way and may not have ended yet, at most: beyond that newcomers wait
/// in the kernel, so that no flood is faster than its own end.
const GIVING_WAY: usize = 64;

/// How often it is told in the log that there are too many connections.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// What connections may take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections of everybody.
    pub in_all: usize,
    /// Connections of one address; of one /64 where it is IPv6, because a host has all of it.
    pub per_peer: usize,
    /// How long a connection may be without a request: until the first head is complete, and from the
    /// end of an answer until the next head is complete. Agents beat every 30 s on one connection, so
    /// this has to be well above that.
    pub idle: Duration,
    /// How long what is in flight may take once the server is told to stop.
    pub drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { in_all: 4096, per_peer: 512, idle: Duration::from_secs(75), drain: Duration::from_secs(5) }
    }
}

/// Listens on `address`; with `freebind` also where no interface has it yet, such as the gateway of a
/// bridge that Podman makes with its first container.
///
/// # Errors
/// When the address is taken, or is none of this machine's and `freebind` is not given.
pub fn bind(address: SocketAddr, freebind: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // After a restart the old connections' last packets still hold the address for a minute.
    socket.set_reuseaddr(true)?;
    if freebind {
        match address {
            SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
            SocketAddr::V6(_) => sockopt::set_ipv6_freebind(&socket, true)?,
        }
    }
    // Linux gives these to every accepted connection, which saves setting them on each.
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(&socket, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(&socket, PROBES)?;
    sockopt::set_tcp_user_timeout(&socket, UNTAKEN_MS)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `router` until `stop`; then ends connections without a request, and lets those with one
/// finish it for as long as the limits say. Handlers find the peer as `ConnectInfo<SocketAddr>`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    clock: SharedClock,
    spawn: SharedSpawn,
    stop: CancellationToken,
) {
    serve_from(listener, router, limits, clock, spawn, stop).await;
}

/// Where connections come from; tests have one that fails.
trait Accept: Send {
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        Self::accept(self)
    }
}

async fn serve_from(
    listener: impl Accept,
    router: Router,
    limits: ConnectionLimits,
    clock: SharedClock,
    spawn: SharedSpawn,
    stop: CancellationToken,
) {
    let mut http = http1::Builder::new();
    // The count of headers stays at hyper's 100, which it holds on the stack. Its own limit of time for
    // a head would arm a timer for every request; `Pulse` does with one for each connection.
    http.max_header_size(HEAD).max_buf_size(BUFFER).header_read_timeout(None);
    let places = Arc::new(Places { limits, taken: Mutex::default(), gave_way: Notify::new() });
    // Built once: a router without missing state answers with less work for each request.
    let router: Router = router.with_state(());
    let open = TaskTracker::new();
    let mut rest = REST;
    let mut refusals = Refusals::default();
    loop {
        let next = async {
            places.settled().await;
            listener.accept().await
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                rest = REST;
                let pulse = Arc::new(Pulse::new(Arc::clone(&clock)));
                let (place, room) = Places::take(&places, peer.ip(), &pulse);
                if room != Room::Free {
                    refusals.count(peer.ip(), &*clock);
                }
                let Some(place) = place else {
                    drop(stream);
                    continue;
                };
                let connection = Connection {
                    pulse,
                    http: http.clone(),
                    router: router.clone(),
                    limits,
                    clock: Arc::clone(&clock),
                    // One of its own, because asking whether it was cancelled takes its lock.
                    stop: stop.child_token(),
                };
                let work = async move {
                    connection.run(stream, peer).await;
                    drop(place);
                };
                spawn.spawn(Box::pin(open.track_future(work)));
            }
            Err(error) if was_about_one_connection(&error) => {}
            Err(error) => {
                // Such as no more descriptors: the next try would fail at once too, and the next.
                tracing::warn!(%error, "connections cannot be accepted; trying again in {} ms", rest.as_millis());
                stop.run_until_cancelled(clock.sleep(rest)).await;
                rest = (rest * 2).min(LONGEST_REST);
            }
        }
    }
    // Nobody is let in to wait for an answer that will not come.
    drop(listener);
    open.close();
    open.wait().await;
}

/// Whether an error of accepting says only that the peer went away before it was served.
fn was_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Connections that were one too many since the log last told of them.
#[derive(Default)]
struct Refusals {
    untold: u64,
    told_at: Option<Awake>,
}

impl Refusals {
    fn count(&mut self, peer: IpAddr, clock: &dyn Clock) {
        self.untold += 1;
        let now = clock.awake();
        if self.told_at.is_none_or(|told| now.since(told) >= TELL_EVERY) {
            tracing::warn!(
                %peer, too_many = self.untold,
                "there are too many connections: those that have shown no token are closed first"
            );
            *self = Self { untold: 0, told_at: Some(now) };
        }
    }
}

/// Who is connected.
struct Places {
    limits: ConnectionLimits,
    taken: Mutex<Taken>,
    /// Told when one that was to give way has ended.
    gave_way: Notify,
}

#[derive(Default)]
struct Taken {
    in_all: usize,
    /// Told to give way, and not ended yet.
    giving_way: usize,
    by_peer: HashMap<IpAddr, Vec<Arc<Pulse>>>,
}

/// One connection's place, free again when this is dropped.
struct Place {
    places: Arc<Places>,
    peer: IpAddr,
    pulse: Arc<Pulse>,
}

/// Whether there was room for a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Free,
    /// Somebody gave way.
    Made,
    /// Everybody there is known and at work.
    None,
}

impl Places {
    fn take(places: &Arc<Self>, peer: IpAddr, pulse: &Arc<Pulse>) -> (Option<Place>, Room) {
        let peer = counted_as(peer);
        let mut taken = places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = taken.by_peer.get(&peer).map_or(0, Vec::len);
        let room = if mine >= places.limits.per_peer {
            taken.make_room(Some(peer))
        } else if taken.in_all >= places.limits.in_all {
            taken.make_room(None)
        } else {
            Room::Free
        };
        if room == Room::None {
            return (None, room);
        }
        taken.in_all += 1;
        taken.by_peer.entry(peer).or_default().push(Arc::clone(pulse));
        (Some(Place { places: Arc::clone(places), peer, pulse: Arc::clone(pulse) }), room)
    }
}

impl Places {
    /// Waits while too many have been told to give way and are still there.
    async fn settled(&self) {
        while self.taken.lock().unwrap_or_else(PoisonError::into_inner).giving_way >= GIVING_WAY {
            self.gave_way.notified().await;
        }
    }
}

impl Taken {
    /// Tells somebody to give way: one of that peer's, or, where none is named, one of the peer that has most. Of a
    /// peer's that is the oldest that nobody knows, or else the one at rest for longest.
    fn make_room(&mut self, of: Option<IpAddr>) -> Room {
        let most = || self.by_peer.iter().max_by_key(|(_, pulses)| pulses.len()).map(|(peer, _)| *peer);
        let found =
            of.or_else(most).and_then(|peer| Some((peer, gives_way_first(self.by_peer.get(&peer)?)?)));
        // Where that peer has none that could, another may: looked for only then, because it is a look at all.
        let others = || {
            let all = self.by_peer.iter().filter(|_| of.is_none());
            all.filter_map(|(peer, pulses)| Some((*peer, gives_way_first(pulses)?)))
                .min_by_key(|(_, way)| *way)
        };
        let Some((peer, way)) = found.or_else(others) else { return Room::None };
        let Some(pulses) = self.by_peer.get_mut(&peer) else { return Room::None };
        // In the order in which they came: the oldest is found at once.
        pulses.remove(way.at).gives_way.cancel();
        if pulses.is_empty() {
            self.by_peer.remove(&peer);
        }
        self.in_all -= 1;
        self.giving_way += 1;
        Room::Made
    }
}

/// Who gives way, in the order in which they do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    known: bool,
    since: u64,
    at: usize,
}

/// Which of a peer's connections gives way first, if any can. They are in the order in which they came.
fn gives_way_first(pulses: &[Arc<Pulse>]) -> Option<Way> {
    let is_known = |pulse: &Pulse| pulse.known.load(Ordering::Acquire);
    if let Some(at) = pulses.iter().position(|pulse| !is_known(pulse)) {
        return Some(Way { known: false, since: pulses[at].began, at });
    }
    let at_rest = pulses.iter().enumerate().filter(|(_, pulse)| pulse.busy.load(Ordering::Acquire) == 0);
    let way = |(at, pulse): (usize, &Arc<Pulse>)| Way {
        known: true,
        since: pulse.quiet_since.load(Ordering::Acquire),
        at,
    };
    at_rest.map(way).min()
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = &mut *taken;
        let own = |pulse: &Arc<Pulse>| Arc::ptr_eq(pulse, &self.pulse);
        let pulses = taken.by_peer.get_mut(&self.peer);
        let Some((pulses, at)) = pulses.and_then(|all| all.iter().position(own).map(|at| (all, at))) else {
            // Its place is somebody else's already.
            taken.giving_way -= 1;
            self.places.gave_way.notify_one();
            return;
        };
        pulses.remove(at);
        if pulses.is_empty() {
            taken.by_peer.remove(&self.peer);
        }
        taken.in_all -= 1;
    }
}

/// The address under which a peer is counted.
fn counted_as(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(peer) => {
            let [a, b, c, d, ..] = peer.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        peer @ IpAddr::V4(_) => peer,
    }
}

/// What a connection is served with.
struct Connection {
    pulse: Arc<Pulse>,
    http: http1::Builder,
    router: Router,
    limits: ConnectionLimits,
    clock: SharedClock,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream, peer: SocketAddr) {
        let Self { pulse, http, router, limits, clock, stop } = self;
        let service = Conversation { router, peer, pulse: Arc::clone(&pulse) };
        let mut served = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
        tokio::select! {
            biased;
            // How a connection ends is its peer's affair: what mattered was said by the handlers.
            _ended = served.as_mut() => return,
            () = pulse.stopped_for(limits.idle) => return,
            () = pulse.gives_way.cancelled() => return,
            () = stop.cancelled() => served.as_mut().graceful_shutdown(),
        }
        let _cut = within(&*clock, limits.drain, served).await;
    }
}

/// Whether a connection has a request in flight, and since when it has not; and whether anybody known is at its end.
struct Pulse {
    clock: SharedClock,
    /// When it was accepted, in awake milliseconds.
    began: u64,
    /// Whether a valid token came over it.
    known: AtomicBool,
    /// Tells it to end, because its place is needed.
    gives_way: CancellationToken,
    /// Requests in flight, from their complete head to the end of their answer's body.
    busy: AtomicUsize,
    /// When the last one ended, in awake milliseconds.
    quiet_since: AtomicU64,
}

impl Pulse {
    fn new(clock: SharedClock) -> Self {
        let began = clock.awake().0;
        let (known, gives_way) = (AtomicBool::new(false), CancellationToken::new());
        Self { clock, began, known, gives_way, busy: AtomicUsize::new(0), quiet_since: AtomicU64::new(began) }
    }

    /// Resolves when there was no request for `limit`. Its timer is armed once in that time, not for
    /// every request: what it finds when it fires says how much longer to wait.
    async fn stopped_for(&self, limit: Duration) {
        loop {
            let quiet = if self.busy.load(Ordering::Acquire) > 0 {
                Duration::ZERO
            } else {
                self.clock.awake().since(Awake(self.quiet_since.load(Ordering::Acquire)))
            };
            let Some(left) = limit.checked_sub(quiet).filter(|left| !left.is_zero()) else { return };
            self.clock.sleep(left).await;
        }
    }
}

/// The connection that a request came over, for whoever finds its token to be valid.
#[derive(Clone)]
pub(super) struct CameOver(Arc<Pulse>);

impl CameOver {
    /// Somebody known is at its end: it gives way after those where nobody is.
    pub(super) fn is_known(&self) {
        self.0.known.store(true, Ordering::Release);
    }
}

/// A request in flight.
struct AtWork(Arc<Pulse>);

impl AtWork {
    fn begin(pulse: &Arc<Pulse>) -> Self {
        pulse.busy.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(pulse))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        // The time first: whoever sees nothing in flight has to see since when.
        self.0.quiet_since.store(self.0.clock.awake().0, Ordering::Release);
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The router, as hyper asks it.
struct Conversation {
    router: Router,
    peer: SocketAddr,
    pulse: Arc<Pulse>,
}

impl Service<Request<Incoming>> for Conversation {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, mut request: Request<Incoming>) -> Answering {
        let at_work = AtWork::begin(&self.pulse);
        request.extensions_mut().insert(ConnectInfo(self.peer));
        request.extensions_mut().insert(CameOver(Arc::clone(&self.pulse)));
        // Named through the trait it is always ready, so nobody has to ask it first.
        Answering { route: self.router.clone().call(request), at_work: Some(at_work) }
    }
}

/// A handler at work.
struct Answering {
    route: RouteFuture<Infallible>,
    at_work: Option<AtWork>,
}

impl Future for Answering {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(Pin::new(&mut self.route).poll(cx))?;
        let at_work = self.at_work.take();
        Poll::Ready(Ok(response.map(|body| Answer { body, _at_work: at_work })))
    }
}

/// An answer's body, whose end is the end of the request.
struct Answer {
    body: Body,
    _at_work: Option<AtWork>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why a request's body could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It is larger than allowed.
    TooLarge,
    /// It did not arrive in time.
    TooSlow,
    /// The connection broke, or it was not HTTP any more.
    Broken,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the request's body is too large",
            Self::TooSlow => "the request's body did not arrive in time",
            Self::Broken => "the request's body broke off",
        })
    }
}

impl std::error::Error for BodyError {}

/// A request's whole body, of at most `most` bytes, within `limit` for all of it.
///
/// # Errors
/// See [`BodyError`]. What is too large by its own announcement is refused before any of it is read.
pub(crate) async fn read_body(
    body: Body,
    most: usize,
    limit: Duration,
    clock: &dyn Clock,
) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > most as u64 {
        return Err(BodyError::TooLarge);
    }
    within(clock, limit, gather(body, most)).await.unwrap_or(Err(BodyError::TooSlow))
}

async fn gather(mut body: Body, most: usize) -> Result<Bytes, BodyError> {
    let Some(first) = next_data(&mut body, most).await? else { return Ok(Bytes::new()) };
    // Nearly every body comes in one piece, which then needs no copy.
    let Some(second) = next_data(&mut body, most - first.len()).await? else { return Ok(first) };
    let mut whole = Vec::with_capacity((first.len() + second.len()) * 2);
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&second);
    while let Some(data) = next_data(&mut body, most - whole.len()).await? {
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}

async fn next_data(body: &mut Body, most: usize) -> Result<Option<Bytes>, BodyError> {
    while let Some(frame) = body.frame().await {
        // Trailers say nothing that anybody here asks for.
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        return if data.len() > most { Err(BodyError::TooLarge) } else { Ok(Some(data)) };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use axum::{Extension, extract::State, routing::get};
    use futures_util::{FutureExt as _, stream};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        task::JoinHandle,
    };

    use super::*;
    use crate::{http::testing::HandClock, tasks::TokioTasks};

    const LIMITS: ConnectionLimits = ConnectionLimits {
        in_all: 100,
        per_peer: 100,
        idle: Duration::from_secs(75),
        drain: Duration::from_secs(5),
    };

    struct Server {
        address: SocketAddr,
        clock: Arc<HandClock>,
        stop: CancellationToken,
        served: JoinHandle<()>,
        /// Lets `/slow` answer.
        go: Arc<Notify>,
        /// `/slow` was asked.
        asked: Arc<Notify>,
    }

    #[expect(clippy::disallowed_methods, reason = "a test's own task")]
    fn start(limits: ConnectionLimits) -> Server {
        let (go, asked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let router = Router::new()
            .route(
                "/known",
                get(|Extension(came): Extension<CameOver>| async move {
                    came.is_known();
                    "known"
                }),
            )
            .route("/peer", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
            .route(
                "/slow",
                get(|State((go, asked)): State<(Arc<Notify>, Arc<Notify>)>| async move {
                    asked.notify_one();
                    go.notified().await;
                    "done"
                }),
            )
            .with_state((Arc::clone(&go), Arc::clone(&asked)));
        let listener = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = listener.local_addr().unwrap();
        let (clock, stop) = (Arc::new(HandClock::default()), CancellationToken::new());
        let tasks = Arc::new(TokioTasks::default());
        let served = tokio::spawn(serve(listener, router, limits, clock.clone(), tasks, stop.clone()));
        Server { address, clock, stop, served, go, asked }
    }

    struct Peer(TcpStream);

    impl Peer {
        async fn new(server: &Server) -> Self {
            Self(TcpStream::connect(server.address).await.unwrap())
        }

        async fn send(&mut self, text: &str) {
            self.0.write_all(text.as_bytes()).await.unwrap();
        }

        async fn ask(&mut self, path: &str) {
            self.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        }

        /// Reads until the answer contains the text.
        async fn hears(&mut self, text: &str) -> String {
            let mut heard = Vec::with_capacity(64 * 1024);
            loop {
                let before = String::from_utf8_lossy(&heard).into_owned();
                if before.contains(text) {
                    return before;
                }
                let count = self.0.read_buf(&mut heard).await.unwrap();
                assert!(count > 0, "the connection ended before {text:?} came; it said: {before}");
            }
        }

        /// Reads until the server has closed the connection.
        async fn ends(&mut self) -> String {
            let mut heard = Vec::new();
            // A reset is an end as well: the server may have left something unread.
            let _end = self.0.read_to_end(&mut heard).await;
            String::from_utf8_lossy(&heard).into_owned()
        }
    }

    #[tokio::test]
    async fn a_head_that_never_ends_is_cut_however_it_drips() {
        let server = start(LIMITS);
        let mut peer = Peer::new(&server).await;
        peer.send("GET /peer HTTP/1.1\r\n").await;
        server.clock.until_asked(1).await;
        for _ in 0..5 {
            server.clock.advance(Duration::from_secs(14));
            peer.send("x-drip: 1\r\n").await;
        }
        server.clock.advance(Duration::from_secs(5));
        assert_eq!(peer.ends().await, "", "cut after 75 s, without an answer");
    }

    #[tokio::test]
    async fn an_agent_that_beats_every_30_seconds_keeps_its_connection() {
        let server = start(LIMITS);
        let mut peer = Peer::new(&server).await;
        for _ in 0..20 {
            peer.ask("/peer").await;
            peer.hears("127.0.0.1").await;
            server.clock.advance(Duration::from_secs(30));
            tokio::task::yield_now().await;
        }
        for _ in 0..3 {
            server.clock.advance(Duration::from_secs(30));
            tokio::task::yield_now().await;
        }
        assert_eq!(peer.ends().await, "", "silent for longer, it is cut");
    }

    #[tokio::test]
    async fn a_request_in_flight_is_no_silence() {
        let server = start(LIMITS);
        let mut peer = Peer::new(&server).await;
        peer.ask("/slow").await;
        server.asked.notified().await;
        for count in 1..5 {
            server.clock.until_asked(count).await;
            server.clock.advance(Duration::from_secs(75));
        }
        server.clock.until_asked(5).await;
        server.go.notify_one();
        peer.hears("done").await;
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let server = start(LIMITS);
        let mut peer = Peer::new(&server).await;
        peer.send("GET /peer HTTP/1.1\r\nhost: x\r\nx-large: ").await;
        // The refusal may come, and with it the end, while this is still being sent.
        let _reset = peer.0.write_all(&vec![b'a'; 200 * 1024]).await;
        let answer = peer.ends().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");

        let mut peer = Peer::new(&server).await;
        peer.send(&format!("GET /peer HTTP/1.1\r\nhost: x\r\nx-large: {}", "a".repeat(HEAD))).await;
        assert!(peer.ends().await.starts_with("HTTP/1.1 431"), "one that is just too large gets the answer");

        let mut peer = Peer::new(&server).await;
        peer.send(&format!("GET /peer HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-many: 1\r\n".repeat(150))).await;
        assert!(peer.ends().await.starts_with("HTTP/1.1 431"), "too many headers are too large too");
    }

    #[tokio::test]
    async fn who_shows_no_token_gives_way_to_who_comes_and_never_one_that_is_known_and_at_work() {
        let server = start(ConnectionLimits { per_peer: 2, ..LIMITS });
        let (mut first, mut second) = (Peer::new(&server).await, Peer::new(&server).await);
        for peer in [&mut first, &mut second] {
            peer.ask("/peer").await;
            peer.hears("127.0.0.1").await;
        }
        second.ask("/known").await;
        second.hears("known").await;
        let mut third = Peer::new(&server).await;
        assert_eq!(first.ends().await, "", "it gives way, although it was answered before");
        third.ask("/known").await;
        third.hears("known").await;
        server.clock.advance(Duration::from_secs(1));
        third.ask("/peer").await;
        third.hears("127.0.0.1").await;
        let mut first = Peer::new(&server).await;
        assert_eq!(second.ends().await, "", "of those that are known, the one that was quiet for longer");
        for peer in [&mut first, &mut third] {
            peer.ask("/known").await;
            peer.hears("known").await;
            peer.ask("/slow").await;
            server.asked.notified().await;
        }
        assert_eq!(Peer::new(&server).await.ends().await, "", "the next is closed at once");
        drop(third);
        drop(first);
        loop {
            let mut next = Peer::new(&server).await;
            // It may be refused, and even reset, as long as the first one's end was not noticed.
            let _refused = next.0.write_all(b"GET /peer HTTP/1.1\r\nconnection: close\r\n\r\n").await;
            if next.ends().await.contains("200 OK") {
                break;
            }
        }
    }

    /// A table of places, and how to take one: known and at work, or not.
    #[expect(clippy::type_complexity, reason = "a closure's type has no shorter name")]
    fn places(limits: ConnectionLimits) -> (Arc<Places>, impl Fn(&str, bool) -> (Option<Place>, Room)) {
        let places = Arc::new(Places { limits, taken: Mutex::default(), gave_way: Notify::new() });
        let (clock, table) = (Arc::new(HandClock::default()), Arc::clone(&places));
        let take = move |ip: &str, busy: bool| {
            clock.advance(Duration::from_secs(1));
            let pulse = Arc::new(Pulse::new(clock.clone()));
            pulse.known.store(busy, Ordering::Release);
            pulse.busy.store(usize::from(busy), Ordering::Release);
            Places::take(&table, ip.parse().unwrap(), &pulse)
        };
        (places, take)
    }

    #[test]
    fn connections_are_counted_in_all_and_forgotten_when_they_end() {
        let (table, take) = places(ConnectionLimits { in_all: 3, per_peer: 2, ..LIMITS });
        let held = [take("10.0.0.1", true), take("::ffff:10.0.0.1", true), take("2001:db8::1", true)];
        assert!(held.iter().all(|(place, room)| place.is_some() && *room == Room::Free));
        assert_eq!(take("10.0.0.2", true).1, Room::None, "three in all");
        drop(held);
        assert!(table.taken.lock().unwrap().by_peer.is_empty());
        let _held = [take("2001:db8::1", true), take("2001:db8::2", true)];
        assert_eq!(take("2001:db8::3", true).1, Room::None, "a host has a whole /64");
        assert_eq!(take("2001:db8:0:1::3", true).1, Room::Free);
    }

    #[test]
    fn the_oldest_of_the_peer_that_has_most_gives_way() {
        let (table, take) = places(ConnectionLimits { in_all: 4, per_peer: 4, ..LIMITS });
        let few = take("10.0.0.1", false).0.unwrap();
        let many: Vec<_> = (0..2).map(|_| take("10.0.0.2", false).0.unwrap()).collect();
        let agent = take("10.0.0.3", true).0.unwrap();
        let (next, room) = take("10.0.0.4", false);
        assert_eq!(room, Room::Made);
        let gave_way = |place: &Place| place.pulse.gives_way.is_cancelled();
        assert_eq!([&few, &many[0], &many[1], &agent].map(gave_way), [false, true, false, false]);
        drop((few, many, agent, next));
        let taken = table.taken.lock().unwrap();
        assert_eq!((taken.in_all, taken.giving_way, taken.by_peer.len()), (0, 0, 0));
    }

    #[test]
    fn a_flood_is_no_faster_than_its_own_end() {
        let (table, take) = places(ConnectionLimits { in_all: 1, per_peer: 1, ..LIMITS });
        let mut held: Vec<_> = (0..GIVING_WAY).filter_map(|_| take("10.0.0.1", false).0).collect();
        assert!(table.settled().now_or_never().is_some());
        held.extend(take("10.0.0.1", false).0);
        assert_eq!(held.len(), 1 + GIVING_WAY);
        assert!(table.settled().now_or_never().is_none(), "the next one waits in the kernel");
        held.remove(0);
        assert!(table.settled().now_or_never().is_some());
        drop(held);
        let taken = table.taken.lock().unwrap();
        assert_eq!((taken.in_all, taken.giving_way), (0, 0));
    }

    #[tokio::test]
    async fn stopping_ends_what_is_idle_and_finishes_what_is_in_flight() {
        let server = start(LIMITS);
        let (mut idle, mut busy) = (Peer::new(&server).await, Peer::new(&server).await);
        idle.ask("/peer").await;
        idle.hears("127.0.0.1").await;
        busy.ask("/slow").await;
        server.asked.notified().await;
        server.stop.cancel();
        assert_eq!(idle.ends().await, "");
        server.go.notify_one();
        assert!(busy.ends().await.ends_with("done"));
        server.served.await.unwrap();
        assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn what_does_not_finish_in_time_is_cut_at_a_stop() {
        let server = start(LIMITS);
        let mut stuck = Peer::new(&server).await;
        stuck.ask("/slow").await;
        server.asked.notified().await;
        server.clock.until_asked(1).await;
        server.stop.cancel();
        server.clock.until_asked(2).await;
        server.clock.advance(LIMITS.drain);
        server.served.await.unwrap();
        assert_eq!(stuck.ends().await, "");
    }

    #[test]
    fn an_address_that_is_not_there_yet_can_be_bound() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _context = runtime.enter();
        for address in ["192.0.2.77:0", "[2001:db8::77]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            match bind(address, true) {
                Ok(listener) => assert_eq!(listener.local_addr().unwrap().ip(), address.ip()),
                // A machine without IPv6 has nothing to bind to.
                Err(error) => assert!(address.is_ipv6(), "{address}: {error}"),
            }
            assert!(bind(address, false).is_err(), "{address} belongs to nobody here");
        }
    }

    #[tokio::test]
    async fn what_is_set_on_the_listener_holds_for_its_connections() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(accepted.nodelay().unwrap());
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), UNTAKEN_MS);
    }

    /// Fails as often as it holds errors, then waits for ever.
    struct Failing(Mutex<VecDeque<io::Error>>);

    impl Accept for Failing {
        async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
            let error = self.0.lock().unwrap().pop_front();
            match error {
                Some(error) => Err(error),
                None => std::future::pending().await,
            }
        }
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test's own task")]
    async fn accepting_rests_when_there_are_no_descriptors_and_not_when_a_peer_gave_up() {
        let no_descriptors = || io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let mut errors: VecDeque<_> = (0..7).map(|_| no_descriptors()).collect();
        errors.push_front(io::ErrorKind::ConnectionAborted.into());
        let (clock, stop) = (Arc::new(HandClock::default()), CancellationToken::new());
        let tasks = Arc::new(TokioTasks::default());
        let failing = Failing(Mutex::new(errors));
        let served =
            tokio::spawn(serve_from(failing, Router::new(), LIMITS, clock.clone(), tasks, stop.clone()));
        for count in 1..=7 {
            clock.until_asked(count).await;
            clock.advance(LONGEST_REST);
        }
        let rests: Vec<_> = clock.asked().iter().map(Duration::as_millis).collect();
        assert_eq!(rests, [50, 100, 200, 400, 800, 1000, 1000]);
        stop.cancel();
        served.await.unwrap();
    }

    fn pieces(pieces: &[&'static str]) -> Body {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, io::Error>(Bytes::from(*piece))).collect();
        Body::from_stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn a_body_is_read_whole_up_to_its_limit() {
        let clock = HandClock::default();
        let limit = Duration::from_secs(10);
        let read = |body, most| read_body(body, most, limit, &clock);
        assert_eq!(read(Body::empty(), 0).await, Ok(Bytes::new()));
        assert_eq!(read(Body::from("abc"), 3).await, Ok("abc".into()));
        assert_eq!(read(Body::from("abcd"), 3).await, Err(BodyError::TooLarge));
        assert_eq!(read(pieces(&["a", "", "bc", "d"]), 4).await, Ok("abcd".into()));
        assert_eq!(read(pieces(&["a", "bc", "de"]), 4).await, Err(BodyError::TooLarge));
        let broken = stream::iter([Ok(Bytes::from("a")), Err(io::Error::other("gone"))]);
        assert_eq!(read(Body::from_stream(broken), 4).await, Err(BodyError::Broken));
    }

    #[tokio::test]
    async fn a_body_that_drips_is_too_slow_as_a_whole() {
        let clock = Arc::new(HandClock::default());
        let ticking = Arc::clone(&clock);
        // Each piece comes soon after the last, which a limit on pieces would never notice.
        let dripping = Body::from_stream(stream::unfold((), move |()| {
            ticking.advance(Duration::from_secs(1));
            async {
                tokio::task::yield_now().await;
                Some((Ok::<_, io::Error>(Bytes::from("a")), ()))
            }
        }));
        let read = read_body(dripping, usize::MAX, Duration::from_secs(10), &*clock).await;
        assert_eq!(read, Err(BodyError::TooSlow));
    }
}
