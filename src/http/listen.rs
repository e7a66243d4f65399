//! Serves a router on TCP, where untrusted peers can connect.
//!
//! axum's own accept loop has no limits. That is sufficient for a socket that only the owner can open. On TCP, a peer
//! could hold connections without end, or send a header at one byte an hour. This loop counts connections, limits
//! request heads, and closes a connection on which no request begins for `ConnectionLimits::idle`. A request costs two
//! counter updates, one clock reading and one lock of its own connection.
//!
//! When the table is full, an existing connection is evicted so that the new one can be accepted: first connections
//! that have shown no valid token, then those of the owner with the most connections. Once a connection has carried a
//! valid token, it is counted under the workspace, not under the address: with rootless Podman all containers share one
//! address, and one agent must not use up the connections of the others.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    future::Future,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::ConnectInfo,
    http::{Request, Response, Version, header},
    response::IntoResponse as _,
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

use super::{
    admission::Refusal,
    error::HttpError,
    rest_of_body::{Discards, RestOfBody},
};
use crate::{
    domain::{ids::WorkspaceId, time::Awake},
    runtime::{
        clock::{Clock, SharedClock, within},
        tasks::SharedSpawn,
    },
};

/// Largest request head, in bytes. Far more than tokens and ids need.
const HEAD: usize = 16 * 1024;

/// Buffer size of one connection in each direction, in bytes.
///
/// Larger than `HEAD`, because a body arrives in pieces of up to this size.
const BUFFER: usize = 64 * 1024;

/// Length of the kernel's queue of connections that are not accepted yet.
const BACKLOG: u32 = 1024;

/// TCP keep-alive: after a minute without traffic, four probes, 15 s apart, detect a peer that vanished.
///
/// Data that stays unacknowledged for `UNACKNOWLEDGED_MS` (two minutes, `TCP_USER_TIMEOUT`) also ends the connection,
/// so that a client that stops reading cannot hold its response for ever.
const PROBE_AFTER: Duration = Duration::from_mins(1);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;
const UNACKNOWLEDGED_MS: u32 = 120_000;

/// First and longest pause after an accept error that would occur again on an immediate retry. The pause doubles after
/// each such error.
const REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Most evicted connections that may still be closing.
///
/// Beyond this, new connections wait in the kernel. So even a flood of new connections is accepted no faster than
/// evicted connections close.
const EVICTING_MAX: usize = 64;

/// Shortest interval between two log messages about evicted or refused connections.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// Limits on connections and on their durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Most connections in total.
    pub in_all: usize,
    /// Most connections of one address without a valid token. For IPv6 this applies to a /64 network, because one host
    /// can use all its addresses.
    pub per_address: usize,
    /// Most connections of one workspace, identified by its token. Higher than the limit on its requests in flight.
    pub per_workspace: usize,
    /// Longest time without a request: until the first head is complete, and from the end of a response until the next
    /// head is complete. Agents send a heartbeat every 30 s on one connection, so this limit must be far above 30 s.
    pub idle: Duration,
    /// Time for requests in flight to finish after the stop signal.
    pub drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            in_all: 4096,
            per_address: 512,
            per_workspace: 64,
            idle: Duration::from_secs(75),
            drain: Duration::from_secs(5),
        }
    }
}

impl ConnectionLimits {
    fn of(&self, owner: Owner) -> usize {
        match owner {
            Owner::Workspace(_) => self.per_workspace,
            Owner::Address(_) | Owner::Admin => self.per_address,
        }
    }
}

/// Listens on `address`.
///
/// With `freebind` the address need not exist on an interface yet: the gateway of a bridge, for example, appears when
/// Podman starts its first container.
///
/// # Errors
/// When the address is in use, or does not belong to this machine and `freebind` is not set.
pub fn bind(address: SocketAddr, freebind: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // After a restart, old connections stay in TIME_WAIT for a minute and would block the bind.
    socket.set_reuseaddr(true)?;
    if freebind {
        match address {
            SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
            SocketAddr::V6(_) => sockopt::set_ipv6_freebind(&socket, true)?,
        }
    }
    // Linux copies these options to every accepted connection, which saves setting them on each.
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(&socket, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(&socket, PROBES)?;
    sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED_MS)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `router` until `stop`.
///
/// After `stop`, connections without a request are closed, and requests in flight may finish within
/// `ConnectionLimits::drain`. Handlers get the peer as `ConnectInfo<SocketAddr>`.
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

/// Like `serve`, but closes connections from other machines before anything is read.
///
/// With rootless Podman, containers reach ostler at this host's own address, which other machines can reach too.
/// Podman's user-space network (slirp4netns, pasta) connects from a process on this host. For a connection to one of
/// the host's own addresses, the kernel uses that same address as the source. The kernel drops packets from outside
/// that carry one of the host's addresses as source, so the source cannot be forged.
pub async fn serve_this_host(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    clock: SharedClock,
    spawn: SharedSpawn,
    stop: CancellationToken,
) {
    let is_own = super::outbound::is_own_address;
    let local = ThisHost { listener, is_own, clock: Arc::clone(&clock), refusals: Mutex::default() };
    serve_from(local, router, limits, clock, spawn, stop).await;
}

/// A source of connections. Tests replace it by a source that fails.
trait Accept: Send {
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        Self::accept(self)
    }
}

/// Accepts connections from this host only.
struct ThisHost<A> {
    listener: A,
    is_own: fn(IpAddr) -> bool,
    clock: SharedClock,
    refusals: Mutex<Refusals>,
}

impl<A: Accept + Sync> Accept for ThisHost<A> {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let (stream, peer) = self.listener.accept().await?;
            let source = peer.ip();
            // A local process may bind another of this host's addresses as its source. The second check allows this; it
            // reads the kernel's tables.
            if stream.local_addr().is_ok_and(|local| local.ip() == source) || (self.is_own)(source) {
                return Ok((stream, peer));
            }
            drop(stream);
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(refused) = refusals.count(&*self.clock) {
                tracing::warn!(
                    peer = %source, refused,
                    "connections from other machines closed: this address serves only workspaces on this host; set \
                     `network.listen` to serve other machines"
                );
            }
        }
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
    // hyper's limit of 100 headers stays in force: hyper keeps that many on the stack. hyper's own time limit for a
    // head is disabled: it would arm a timer for each request, whereas `Activity` needs one for each connection.
    http.max_header_size(HEAD).max_buf_size(BUFFER).header_read_timeout(None);
    let slots = Slots::new(limits);
    // The router's state is bound here once, because a router whose state is bound does less work per request.
    let router: Router = router.with_state(());
    let discards = Discards::new();
    let open = TaskTracker::new();
    let mut rest = REST;
    let mut refusals = Refusals::default();
    loop {
        let next = async {
            slots.settled().await;
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
                let activity = Arc::new(Activity::new(Arc::clone(&clock), counted_as(peer.ip())));
                let (slot, evicted) = Slots::take(&slots, &activity);
                if evicted && let Some(evicted) = refusals.count(&*clock) {
                    let peer = peer.ip();
                    tracing::warn!(
                        %peer, evicted,
                        "too many connections; evicting those without a token first, then those of the workspace \
                         with the most connections"
                    );
                }
                let connection = Connection {
                    activity,
                    slots: Arc::clone(&slots),
                    http: http.clone(),
                    router: router.clone(),
                    discards: discards.clone(),
                    limits,
                    clock: Arc::clone(&clock),
                    // Each connection gets its own child token, because a check for cancellation locks the token.
                    stop: stop.child_token(),
                };
                let work = async move {
                    connection.run(stream, peer).await;
                    drop(slot);
                };
                spawn.spawn(Box::pin(open.track_future(work)));
            }
            Err(error) if was_about_one_connection(&error) => {}
            Err(error) => {
                // For example, no file descriptors are free. An immediate retry would then fail again.
                tracing::warn!(%error, "cannot accept connections; retrying in {} ms", rest.as_millis());
                stop.run_until_cancelled(clock.sleep(rest)).await;
                rest = (rest * 2).min(LONGEST_REST);
            }
        }
    }
    // The listener is closed before the requests are drained: a new connection would wait for a response that never
    // comes.
    drop(listener);
    open.close();
    open.wait().await;
}

/// Whether an accept error only means that the peer closed its connection before it was accepted.
fn was_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Number of evictions or refusals since the last log message.
#[derive(Default)]
struct Refusals {
    untold: u64,
    logged_at: Option<Awake>,
}

impl Refusals {
    /// Counts one eviction or refusal. Returns the number since the last log message if a new one is due.
    fn count(&mut self, clock: &dyn Clock) -> Option<u64> {
        self.untold += 1;
        let now = clock.awake();
        self.logged_at.is_none_or(|last| now.since(last) >= LOG_EVERY).then(|| {
            let untold = self.untold;
            *self = Self { untold: 0, logged_at: Some(now) };
            untold
        })
    }
}

/// The owner under which a connection is counted.
///
/// An address does not identify a workspace: with rootless Podman, all containers of a machine share one address. A
/// connection is counted under its peer's address only until it has carried a valid token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// No valid token so far.
    Address(IpAddr),
    /// The workspace whose token was verified last.
    Workspace(WorkspaceId),
    /// An admin token was verified last.
    Admin,
}

/// The table of open connections.
struct Slots {
    limits: ConnectionLimits,
    taken: Mutex<Taken>,
    /// Notified when an evicted connection has closed.
    eviction_done: Notify,
}

#[derive(Default)]
struct Taken {
    in_all: usize,
    /// Connections that were evicted and are still closing; no longer part of `in_all`.
    evicting: usize,
    /// Connections of each owner, in the order in which they were added.
    by_owner: HashMap<Owner, Vec<Arc<Activity>>>,
}

/// The slot of one connection; freed on drop.
struct Slot {
    slots: Arc<Slots>,
    activity: Arc<Activity>,
}

impl Slots {
    fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default(), eviction_done: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot for a new connection, which is never refused: when the table is full, another connection is
    /// evicted. Also returns whether a connection was evicted.
    fn take(slots: &Arc<Self>, activity: &Arc<Activity>) -> (Slot, bool) {
        let owner = activity.owner();
        let mut taken = slots.lock();
        let of_owner = taken.by_owner.get(&owner).map_or(0, Vec::len);
        let evicted = if of_owner >= slots.limits.of(owner) {
            taken.evict(owner, activity)
        } else if taken.in_all >= slots.limits.in_all {
            taken.largest().is_some_and(|owner| taken.evict(owner, activity))
        } else {
            false
        };
        taken.in_all += 1;
        taken.by_owner.entry(owner).or_default().push(Arc::clone(activity));
        (Slot { slots: Arc::clone(slots), activity: Arc::clone(activity) }, evicted)
    }

    /// Moves a connection to another owner. If that owner is at its limit, one of its own connections is evicted, so
    /// that other owners are not affected.
    fn belongs_to(&self, activity: &Arc<Activity>, owner: Owner) {
        let before = activity.owner();
        if before == owner {
            return;
        }
        let mut taken = self.lock();
        if !taken.remove(activity) {
            // Evicted in the meantime.
            return;
        }
        *activity.owner.lock().unwrap_or_else(PoisonError::into_inner) = owner;
        if taken.by_owner.get(&owner).map_or(0, Vec::len) >= self.limits.of(owner) {
            taken.evict(owner, activity);
        }
        taken.in_all += 1;
        taken.by_owner.entry(owner).or_default().push(Arc::clone(activity));
    }

    /// Waits while `EVICTING_MAX` or more evicted connections are still closing.
    async fn settled(&self) {
        while self.lock().evicting >= EVICTING_MAX {
            self.eviction_done.notified().await;
        }
    }
}

impl Taken {
    /// The owner that loses a connection when the table is full: the address with the most connections without a token,
    /// or, if there is none, the owner with the most connections.
    fn largest(&self) -> Option<Owner> {
        let unknown = |owner: &Owner| matches!(owner, Owner::Address(_));
        let most = self.by_owner.iter().max_by_key(|(owner, activities)| (unknown(owner), activities.len()));
        most.map(|(owner, _)| *owner)
    }

    /// Evicts one of an owner's connections: cancels its `eviction` token and removes it from the count. Returns
    /// `false` if the owner has none.
    fn evict(&mut self, owner: Owner, new_activity: &Arc<Activity>) -> bool {
        let Some(activities) = self.by_owner.get_mut(&owner) else { return false };
        let Some(at) = eviction_index(owner, activities) else { return false };
        debug_assert!(!Arc::ptr_eq(&activities[at], new_activity), "the new connection is not counted yet");
        activities.remove(at).eviction.cancel();
        if activities.is_empty() {
            self.by_owner.remove(&owner);
        }
        self.in_all -= 1;
        self.evicting += 1;
        true
    }

    /// Removes a connection from the table. Returns `false` if the connection was evicted before and is no longer in
    /// the table.
    fn remove(&mut self, activity: &Arc<Activity>) -> bool {
        let owner = activity.owner();
        let Some(activities) = self.by_owner.get_mut(&owner) else { return false };
        let Some(at) = activities.iter().position(|other| Arc::ptr_eq(other, activity)) else { return false };
        activities.remove(at);
        if activities.is_empty() {
            self.by_owner.remove(&owner);
        }
        self.in_all -= 1;
        true
    }
}

/// Index of the owner's connection that is evicted first.
///
/// Among connections without a token, this is the oldest, which had the most time to send a token. Among others, it is
/// the connection that has been idle longest. If all of those have a request in flight, it is the one whose last
/// completed request is oldest.
fn eviction_index(owner: Owner, activities: &[Arc<Activity>]) -> Option<usize> {
    if matches!(owner, Owner::Address(_)) {
        return (!activities.is_empty()).then_some(0);
    }
    let order = |(at, activity): (usize, &Arc<Activity>)| {
        let busy = activity.busy.load(Ordering::Acquire) > 0;
        (busy, activity.quiet_since.load(Ordering::Acquire), at)
    };
    activities.iter().enumerate().map(order).min().map(|(_, _, at)| at)
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        if !taken.remove(&self.activity) {
            // This connection was evicted: its slot already belongs to another connection.
            taken.evicting -= 1;
            self.slots.eviction_done.notify_one();
        }
    }
}

/// The key under which a peer's connections are counted: its IPv4 address, or the /64 of its IPv6 address.
fn counted_as(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(peer) => {
            let [a, b, c, d, ..] = peer.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        peer @ IpAddr::V4(_) => peer,
    }
}

/// One accepted connection with everything needed to serve it.
struct Connection {
    activity: Arc<Activity>,
    slots: Arc<Slots>,
    http: http1::Builder,
    router: Router,
    discards: Discards,
    limits: ConnectionLimits,
    clock: SharedClock,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream, peer: SocketAddr) {
        let Self { activity, slots, http, router, discards, limits, clock, stop } = self;
        let service = ConnectionService {
            router,
            peer,
            activity: Arc::clone(&activity),
            slots,
            discards,
            clock: Arc::clone(&clock),
        };
        let mut served = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
        tokio::select! {
            biased;
            // A connection error is not logged: it means that the peer closed the connection. Handlers log their own
            // errors.
            _ended = served.as_mut() => return,
            () = activity.stopped_for(limits.idle) => return,
            () = activity.eviction.cancelled() => return,
            () = stop.cancelled() => served.as_mut().graceful_shutdown(),
        }
        let _cut = within(&*clock, limits.drain, served).await;
    }
}

/// Activity of one connection: its owner, its requests in flight, and the time at which the last request ended.
struct Activity {
    clock: SharedClock,
    /// The owner under which the connection is counted. Changed only while the table is locked.
    owner: Mutex<Owner>,
    /// Cancelled when the slot of this connection is needed for another one. The connection is then closed.
    eviction: CancellationToken,
    /// Requests in flight: from a complete head to the end of the response body.
    busy: AtomicUsize,
    /// Time at which the last request ended, or the connection began, in milliseconds of awake time.
    quiet_since: AtomicU64,
}

impl Activity {
    fn new(clock: SharedClock, peer: IpAddr) -> Self {
        let quiet_since = AtomicU64::new(clock.awake().0);
        let (owner, eviction) = (Mutex::new(Owner::Address(peer)), CancellationToken::new());
        Self { clock, owner, eviction, busy: AtomicUsize::new(0), quiet_since }
    }

    fn owner(&self) -> Owner {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when there has been no request for `limit`.
    ///
    /// The timer is armed once per `limit`, not for every request: when it fires, the remaining time is computed from
    /// `quiet_since`.
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

/// Request extension for token verification: the connection on which the request arrived.
#[derive(Clone)]
pub(super) struct Carrier {
    activity: Arc<Activity>,
    slots: Arc<Slots>,
}

impl Carrier {
    /// Records that a valid token arrived on the connection, which is counted under that token's owner from now on.
    pub(super) fn belongs_to(&self, owner: Owner) {
        self.slots.belongs_to(&self.activity, owner);
    }
}

/// Guard of a request in flight; ends the request on drop.
struct RequestGuard(Arc<Activity>);

impl RequestGuard {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.busy.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(activity))
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        // The time is stored first: a reader that sees no request in flight must also see the time at which the last
        // one ended.
        self.0.quiet_since.store(self.0.clock.awake().0, Ordering::Release);
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The router as a hyper service, for one connection.
struct ConnectionService {
    router: Router,
    peer: SocketAddr,
    activity: Arc<Activity>,
    slots: Arc<Slots>,
    discards: Discards,
    clock: SharedClock,
}

/// Whether the request has a valid number of `Host` headers (RFC 9112, section 3.2): exactly one, or, before HTTP/1.1,
/// at most one. With another number, two parsers may interpret the request differently.
fn names_its_host(request: &Request<Incoming>) -> bool {
    match request.headers().get_all(header::HOST).iter().count() {
        0 => request.version() < Version::HTTP_11,
        count => count == 1,
    }
}

impl Service<Request<Incoming>> for ConnectionService {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, mut request: Request<Incoming>) -> Answering {
        let at_work = RequestGuard::begin(&self.activity);
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let carrier = Carrier { activity: Arc::clone(&self.activity), slots: Arc::clone(&self.slots) };
        request.extensions_mut().insert(carrier);
        // `poll_ready` of a `Router` always returns ready, so it is not called.
        let mut router = self.router.clone();
        let names_its_host = names_its_host(&request);
        let route = if RestOfBody::is_large(&request) {
            let (request, rest) = RestOfBody::keep(request);
            let (discards, clock) = (self.discards.clone(), Arc::clone(&self.clock));
            Route::Large(Box::pin(async move {
                let answer =
                    if names_its_host { router.call(request).await? } else { no_host().into_response() };
                Ok(discards.before(answer, rest, &*clock).await)
            }))
        } else if names_its_host {
            Route::Usual(router.call(request))
        } else {
            Route::NoHost
        };
        Answering { route, at_work: Some(at_work) }
    }
}

fn no_host() -> HttpError {
    HttpError::invalid("a request needs exactly one Host header")
}

#[allow(clippy::large_enum_variant, reason = "boxing the future would cost each heartbeat an allocation")]
enum Route {
    Usual(RouteFuture<Infallible>),
    /// The body is larger than 64 KiB, or of unknown length: the rest of the body is discarded before the response.
    Large(Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>),
    /// The `Host` header is missing or repeated.
    NoHost,
}

/// Future of a handler's response.
struct Answering {
    route: Route,
    at_work: Option<RequestGuard>,
}

impl Future for Answering {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match &mut self.route {
            Route::Usual(route) => ready!(Pin::new(route).poll(cx))?,
            Route::Large(route) => ready!(route.as_mut().poll(cx))?,
            Route::NoHost => no_host().into_response(),
        };
        let at_work = self.at_work.take();
        Poll::Ready(Ok(response.map(|body| Answer { body, _at_work: at_work })))
    }
}

/// A response body. The request counts as in flight until the body is dropped.
struct Answer {
    body: Body,
    _at_work: Option<RequestGuard>,
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

/// Why a request body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// Larger than the limit.
    TooLarge,
    /// Not complete within the time limit.
    TooSlow,
    /// The connection broke, or the body was not valid HTTP.
    Broken,
    /// Refused by admission control, because the body would exceed a limit on bytes in memory.
    NoRoom(Refusal),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the request's body is too large",
            Self::TooSlow => "the request's body did not arrive in time",
            Self::Broken => "the request's body is incomplete or malformed",
            Self::NoRoom(refusal) => return refusal.fmt(f),
        })
    }
}

impl std::error::Error for BodyError {}

/// Reads a request body of at most `most` bytes within `limit` in total.
///
/// # Errors
/// See [`BodyError`]. A body whose announced length is too large is refused before any of it is read.
pub(crate) async fn read_body(
    body: Body,
    most: usize,
    limit: Duration,
    clock: &dyn Clock,
) -> Result<Bytes, BodyError> {
    read_body_within(body, most, limit, clock, &mut |_| Ok(())).await
}

/// Reads the first `keep` bytes of a body, and reports whether there is more.
///
/// The rest is received and discarded, up to `most` bytes in all, so that an ordinary client has finished sending
/// before it gets the response.
///
/// # Errors
/// When the start does not arrive within `limit`, or the connection breaks before it is complete.
pub(crate) async fn read_start(
    mut body: Body,
    keep: usize,
    most: usize,
    limit: Duration,
    clock: &dyn Clock,
) -> Result<(Bytes, bool), BodyError> {
    let start =
        within(clock, limit, gather_start(&mut body, keep)).await.unwrap_or(Err(BodyError::TooSlow))?;
    if start.len() <= keep {
        return Ok((start, false));
    }
    let mut discarded = start.len();
    let discard = async {
        while let Ok(Some(data)) = next_data(&mut body, usize::MAX).await {
            discarded += data.len();
            if discarded > most {
                break;
            }
        }
    };
    // A timeout here is ignored: the rest is not needed.
    let _in_time = within(clock, limit, discard).await;
    Ok((start.slice(..keep), true))
}

/// Reads until the body ends or more than `keep` bytes are there.
async fn gather_start(body: &mut Body, keep: usize) -> Result<Bytes, BodyError> {
    let Some(first) = next_data(body, usize::MAX).await? else { return Ok(Bytes::new()) };
    if first.len() > keep {
        return Ok(first);
    }
    let Some(second) = next_data(body, usize::MAX).await? else { return Ok(first) };
    let mut start = Vec::with_capacity((first.len() + second.len()) * 2);
    start.extend_from_slice(&first);
    start.extend_from_slice(&second);
    while start.len() <= keep {
        let Some(data) = next_data(body, usize::MAX).await? else { break };
        start.extend_from_slice(&data);
    }
    Ok(start.into())
}

/// Like `read_body`, but calls `room` before it uses memory, with the number of bytes that the body will then occupy.
/// If the length is announced, one call covers the whole body.
///
/// # Errors
/// See [`BodyError`].
pub(super) async fn read_body_within(
    body: Body,
    most: usize,
    limit: Duration,
    clock: &dyn Clock,
    room: &mut (dyn FnMut(usize) -> Result<(), BodyError> + Send),
) -> Result<Bytes, BodyError> {
    let announced = body.size_hint().lower();
    if announced > most as u64 {
        return Err(BodyError::TooLarge);
    }
    let announced = usize::try_from(announced).unwrap_or(most);
    room(announced)?;
    within(clock, limit, gather(body, most, announced, room)).await.unwrap_or(Err(BodyError::TooSlow))
}

async fn gather(
    mut body: Body,
    most: usize,
    announced: usize,
    room: &mut (dyn FnMut(usize) -> Result<(), BodyError> + Send),
) -> Result<Bytes, BodyError> {
    let Some(first) = next_data(&mut body, most).await? else { return Ok(Bytes::new()) };
    // Nearly every body arrives in one piece, which then needs no copy.
    let Some(second) = next_data(&mut body, most - first.len()).await? else { return Ok(first) };
    let mut whole = Vec::new();
    // Allocated pages use no memory until they are written, so a large announced length costs nothing before the bytes
    // arrive.
    grow(&mut whole, announced.max((first.len() + second.len()) * 2).min(most), room)?;
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&second);
    drop((first, second));
    while let Some(data) = next_data(&mut body, most - whole.len()).await? {
        if whole.len() + data.len() > whole.capacity() {
            let doubled = (whole.capacity() * 2).clamp(whole.len() + data.len(), most);
            grow(&mut whole, doubled, room)?;
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}

fn grow(
    whole: &mut Vec<u8>,
    capacity: usize,
    room: &mut (dyn FnMut(usize) -> Result<(), BodyError> + Send),
) -> Result<(), BodyError> {
    room(capacity)?;
    whole.reserve_exact(capacity.saturating_sub(whole.len()));
    Ok(())
}

async fn next_data(body: &mut Body, most: usize) -> Result<Option<Bytes>, BodyError> {
    while let Some(frame) = body.frame().await {
        // Trailers are ignored: no handler reads them.
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
    use crate::{http::testing::ManualClock, runtime::tasks::TokioTasks};

    const LIMITS: ConnectionLimits = ConnectionLimits {
        in_all: 100,
        per_address: 100,
        per_workspace: 100,
        idle: Duration::from_secs(75),
        drain: Duration::from_secs(5),
    };

    struct Server {
        address: SocketAddr,
        clock: Arc<ManualClock>,
        stop: CancellationToken,
        served: JoinHandle<()>,
        /// Notified by a test to let `/slow` respond.
        go: Arc<Notify>,
        /// Notified when `/slow` was requested.
        asked: Arc<Notify>,
    }

    #[expect(clippy::disallowed_methods, reason = "task of a test")]
    fn start(limits: ConnectionLimits) -> Server {
        let (go, asked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let router = Router::new()
            .route(
                "/known",
                get(|Extension(carrier): Extension<Carrier>| async move {
                    carrier.belongs_to(Owner::Workspace(workspace(1)));
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
        let (clock, stop) = (Arc::new(ManualClock::default()), CancellationToken::new());
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

        /// Reads until the response contains the text.
        async fn receives(&mut self, text: &str) -> String {
            let mut received = Vec::with_capacity(64 * 1024);
            loop {
                let before = String::from_utf8_lossy(&received).into_owned();
                if before.contains(text) {
                    return before;
                }
                let count = self.0.read_buf(&mut received).await.unwrap();
                assert!(count > 0, "the connection ended before {text:?} was received; received: {before}");
            }
        }

        /// Reads until the server has closed the connection.
        async fn ends(&mut self) -> String {
            let mut received = Vec::new();
            // A reset also ends the connection: the server may have left data unread.
            let _end = self.0.read_to_end(&mut received).await;
            String::from_utf8_lossy(&received).into_owned()
        }
    }

    #[tokio::test]
    async fn connection_with_slow_request_head_is_closed_after_75_seconds() {
        let server = start(LIMITS);
        let mut peer = Peer::new(&server).await;
        peer.send("GET /peer HTTP/1.1\r\n").await;
        server.clock.until_asked(1).await;
        for _ in 0..5 {
            server.clock.advance(Duration::from_secs(14));
            peer.send("x-drip: 1\r\n").await;
        }
        server.clock.advance(Duration::from_secs(5));
        assert_eq!(peer.ends().await, "", "closed after 75 s without a response");
    }

    #[tokio::test]
    async fn connection_with_requests_every_30_seconds_stays_open() {
        let server = start(LIMITS);
        let mut peer = Peer::new(&server).await;
        for _ in 0..20 {
            peer.ask("/peer").await;
            peer.receives("127.0.0.1").await;
            server.clock.advance(Duration::from_secs(30));
            tokio::task::yield_now().await;
        }
        for _ in 0..3 {
            server.clock.advance(Duration::from_secs(30));
            tokio::task::yield_now().await;
        }
        assert_eq!(peer.ends().await, "", "closed after a longer silence");
    }

    #[tokio::test]
    async fn connection_with_in_flight_request_is_not_idle() {
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
        peer.receives("done").await;
    }

    #[tokio::test]
    async fn oversized_request_head_is_refused() {
        let server = start(LIMITS);
        let mut peer = Peer::new(&server).await;
        peer.send("GET /peer HTTP/1.1\r\nhost: x\r\nx-large: ").await;
        // The server may refuse the request and close the connection while the header is still being sent.
        let _reset = peer.0.write_all(&vec![b'a'; 200 * 1024]).await;
        let answer = peer.ends().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");

        let mut peer = Peer::new(&server).await;
        peer.send(&format!("GET /peer HTTP/1.1\r\nhost: x\r\nx-large: {}", "a".repeat(HEAD))).await;
        assert!(
            peer.ends().await.starts_with("HTTP/1.1 431"),
            "a head slightly over the limit gets a response"
        );

        let mut peer = Peer::new(&server).await;
        peer.send(&format!("GET /peer HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-many: 1\r\n".repeat(150))).await;
        assert!(peer.ends().await.starts_with("HTTP/1.1 431"), "too many headers get 431 too");
    }

    #[tokio::test]
    async fn connection_without_a_token_is_evicted_for_a_new_one() {
        let server = start(ConnectionLimits { per_address: 2, ..LIMITS });
        let (mut first, mut second) = (Peer::new(&server).await, Peer::new(&server).await);
        for peer in [&mut first, &mut second] {
            peer.ask("/peer").await;
            peer.receives("127.0.0.1").await;
        }
        second.ask("/known").await;
        second.receives("known").await;
        let (mut third, mut fourth) = (Peer::new(&server).await, Peer::new(&server).await);
        assert_eq!(
            first.ends().await,
            "",
            "the oldest connection without a token is evicted, although it got a response before"
        );
        for peer in [&mut second, &mut third, &mut fourth] {
            peer.ask("/peer").await;
            peer.receives("127.0.0.1").await;
        }
    }

    #[tokio::test]
    async fn workspace_over_its_limit_evicts_its_own_oldest_connection() {
        let server = start(ConnectionLimits { per_address: 2, per_workspace: 2, ..LIMITS });
        let mut busy = Vec::new();
        for _ in 0..2 {
            let mut peer = Peer::new(&server).await;
            peer.ask("/known").await;
            peer.receives("known").await;
            peer.ask("/slow").await;
            server.asked.notified().await;
            server.clock.advance(Duration::from_secs(1));
            busy.push(peer);
        }
        // All connections come from one address and have a request in flight: a new connection is served nevertheless.
        let mut next = Peer::new(&server).await;
        next.ask("/peer").await;
        next.receives("127.0.0.1").await;
        next.ask("/known").await;
        next.receives("known").await;
        assert_eq!(busy.remove(0).ends().await, "", "the workspace's own oldest connection is evicted");
        server.go.notify_one();
        busy.remove(0).receives("done").await;
    }

    #[tokio::test]
    async fn http_1_1_request_needs_exactly_one_host_header() {
        let server = start(LIMITS);
        for (head, status) in [
            ("GET /peer HTTP/1.1\r\n\r\n", 400),
            ("GET /peer HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
            ("GET /peer HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400),
            ("GET /peer HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n", 400),
            ("GET /peer HTTP/1.0\r\n\r\n", 200),
            ("GET /peer HTTP/1.1\r\nhost: a\r\n\r\n", 200),
        ] {
            let mut peer = Peer::new(&server).await;
            peer.send(head).await;
            let answer = peer.receives("\r\n\r\n").await;
            assert!(answer.split(' ').nth(1) == Some(&status.to_string()), "{head:?}: {answer}");
        }
    }

    fn workspace(number: u128) -> WorkspaceId {
        WorkspaceId(uuid::Uuid::from_u128(number))
    }

    /// Returns a table of slots and a function that takes a slot: from an address, and with the token of a workspace,
    /// if one is given.
    #[expect(clippy::type_complexity, reason = "the type of a closure cannot be named shorter")]
    fn slots(limits: ConnectionLimits) -> (Arc<Slots>, impl Fn(&str, Option<u128>) -> (Slot, bool)) {
        let slots = Slots::new(limits);
        let (clock, table) = (Arc::new(ManualClock::default()), Arc::clone(&slots));
        let take = move |ip: &str, of: Option<u128>| {
            clock.advance(Duration::from_secs(1));
            let activity = Arc::new(Activity::new(clock.clone(), counted_as(ip.parse().unwrap())));
            let taken = Slots::take(&table, &activity);
            if let Some(of) = of {
                activity.busy.store(1, Ordering::Release);
                table.belongs_to(&activity, Owner::Workspace(workspace(of)));
            }
            taken
        };
        (slots, take)
    }

    fn is_evicted(slot: &Slot) -> bool {
        slot.activity.eviction.is_cancelled()
    }

    #[test]
    fn connections_without_a_token_are_counted_by_address() {
        let (table, take) = slots(ConnectionLimits { per_address: 2, ..LIMITS });
        let held = ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1"].map(|ip| take(ip, None).0);
        assert_eq!(held.each_ref().map(is_evicted), [true, false, false], "both notations are one address");
        let held6 =
            ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::3"].map(|ip| take(ip, None).0);
        assert_eq!(held6.each_ref().map(is_evicted), [true, false, false, false], "a /64 counts as one host");
        drop((held, held6));
        let taken = table.lock();
        assert_eq!((taken.in_all, taken.evicting, taken.by_owner.len()), (0, 0, 0));
    }

    #[test]
    fn full_table_evicts_connections_without_a_token_first() {
        let (table, take) = slots(ConnectionLimits { in_all: 5, ..LIMITS });
        let few = take("10.0.0.1", None).0;
        let many: Vec<_> = (0..2).map(|_| take("10.0.0.2", None).0).collect();
        let agent: Vec<_> = (0..2).map(|_| take("10.0.0.3", Some(1)).0).collect();
        let (next, evicted) = take("10.0.0.4", None);
        assert!(
            evicted && is_evicted(&many[0]),
            "the oldest connection of the address with the most is evicted"
        );
        let others = [&few, &many[1], &agent[0], &agent[1], &next];
        assert!(others.iter().all(|slot| !is_evicted(slot)), "no other connection is evicted");
        drop((few, many, agent, next));
        let taken = table.lock();
        assert_eq!((taken.in_all, taken.evicting, taken.by_owner.len()), (0, 0, 0));
    }

    #[test]
    fn full_table_evicts_from_workspace_with_most_connections() {
        let (_table, take) = slots(ConnectionLimits { in_all: 4, ..LIMITS });
        let greedy: Vec<_> = (0..3).map(|_| take("10.0.0.1", Some(1)).0).collect();
        let modest = take("10.0.0.1", Some(2)).0;
        let (third, evicted) = take("10.0.0.1", None);
        assert!(evicted && is_evicted(&greedy[0]), "the oldest connection of that workspace is evicted");
        assert!(![&greedy[1], &greedy[2], &modest, &third].iter().any(|slot| is_evicted(slot)));
    }

    #[test]
    fn workspace_over_limit_evicts_idle_connection_before_busy_one() {
        let (table, take) = slots(ConnectionLimits { per_workspace: 2, ..LIMITS });
        let busy = take("10.0.0.1", Some(1)).0;
        let at_rest = take("10.0.0.1", Some(1)).0;
        at_rest.activity.busy.store(0, Ordering::Release);
        let next = take("10.0.0.2", Some(1)).0;
        assert_eq!([&busy, &at_rest, &next].map(is_evicted), [false, true, false]);
        // A connection may carry another workspace's token later.
        table.belongs_to(&busy.activity, Owner::Workspace(workspace(2)));
        let after = take("10.0.0.2", Some(1)).0;
        assert_eq!([&busy, &next, &after].map(is_evicted), [false, false, false]);
        // An evicted connection is not counted again.
        table.belongs_to(&at_rest.activity, Owner::Workspace(workspace(2)));
        assert_eq!(table.lock().in_all, 3);
    }

    #[test]
    fn accepting_waits_while_too_many_evictions_are_pending() {
        let (table, take) = slots(ConnectionLimits { in_all: 1, per_address: 1, ..LIMITS });
        let mut held: Vec<_> = (0..EVICTING_MAX).map(|_| take("10.0.0.1", None).0).collect();
        assert!(table.settled().now_or_never().is_some());
        held.push(take("10.0.0.1", None).0);
        assert_eq!(held.len(), 1 + EVICTING_MAX);
        assert!(
            table.settled().now_or_never().is_none(),
            "the next connection waits in the kernel's backlog"
        );
        held.remove(0);
        assert!(table.settled().now_or_never().is_some());
        drop(held);
        let taken = table.lock();
        assert_eq!((taken.in_all, taken.evicting), (0, 0));
    }

    #[tokio::test]
    async fn shutdown_closes_idle_connections_and_finishes_requests() {
        let server = start(LIMITS);
        let (mut idle, mut busy) = (Peer::new(&server).await, Peer::new(&server).await);
        idle.ask("/peer").await;
        idle.receives("127.0.0.1").await;
        busy.ask("/slow").await;
        server.asked.notified().await;
        server.stop.cancel();
        assert_eq!(idle.ends().await, "");
        server.go.notify_one();
        assert!(busy.ends().await.ends_with("done"));
        server.served.await.unwrap();
        assert!(TcpStream::connect(server.address).await.is_err(), "the address is no longer bound");
    }

    #[tokio::test]
    async fn shutdown_aborts_requests_that_exceed_the_drain_time() {
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
    fn listener_binds_an_address_that_is_not_assigned_yet() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _context = runtime.enter();
        for address in ["192.0.2.77:0", "[2001:db8::77]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            match bind(address, true) {
                Ok(listener) => assert_eq!(listener.local_addr().unwrap().ip(), address.ip()),
                // On a machine without IPv6, an IPv6 address cannot be bound.
                Err(error) => assert!(address.is_ipv6(), "{address}: {error}"),
            }
            assert!(bind(address, false).is_err(), "{address} is not an address of this host");
        }
    }

    #[tokio::test]
    async fn accepted_connection_inherits_socket_options() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(accepted.nodelay().unwrap());
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), UNACKNOWLEDGED_MS);
    }

    /// Returns its errors one by one, then never resolves.
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
    #[expect(clippy::disallowed_methods, reason = "task of a test")]
    async fn accept_pauses_if_descriptors_run_out_but_not_if_peer_aborts() {
        let no_descriptors = || io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let mut errors: VecDeque<_> = (0..7).map(|_| no_descriptors()).collect();
        errors.push_front(io::ErrorKind::ConnectionAborted.into());
        let (clock, stop) = (Arc::new(ManualClock::default()), CancellationToken::new());
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

    /// Reports these addresses as the sources of accepted connections, in order.
    struct From(TcpListener, Mutex<VecDeque<IpAddr>>);

    impl Accept for From {
        async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
            let (stream, peer) = self.0.accept().await?;
            let source =
                self.1.lock().unwrap().pop_front().expect("a source address is left for each connection");
            Ok((stream, SocketAddr::new(source, peer.port())))
        }
    }

    #[tokio::test]
    async fn connection_from_another_machine_is_closed_on_host_address() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = listener.local_addr().unwrap();
        let sources = ["192.0.2.9", "172.17.0.2", "127.0.0.1", "192.0.2.7"];
        let sources = sources.map(|source| source.parse().unwrap());
        let local = ThisHost {
            listener: From(listener, Mutex::new(sources.into())),
            // A process of this host may connect from another of the host's addresses.
            is_own: |source| source.to_string() == "192.0.2.7",
            clock: Arc::new(ManualClock::default()),
            refusals: Mutex::default(),
        };
        let mut peers = Vec::new();
        for _ in sources {
            peers.push(TcpStream::connect(address).await.unwrap());
        }
        let mut served = Vec::new();
        for _ in 0..2 {
            served.push(local.accept().await.unwrap());
        }
        let by: Vec<_> = served.iter().map(|(_, peer)| peer.ip()).collect();
        assert_eq!(by, sources[2..], "only connections from this host are served");
        for peer in &mut peers[..2] {
            let mut read = Vec::new();
            let _reset_is_an_end_too = peer.read_to_end(&mut read).await;
            assert!(read.is_empty(), "another machine got a response");
        }
        assert!(super::super::outbound::is_own_address("127.0.0.1".parse().unwrap()));
        assert!(!super::super::outbound::is_own_address("198.51.100.9".parse().unwrap()));
    }

    fn pieces(pieces: &[&'static str]) -> Body {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, io::Error>(Bytes::from(*piece))).collect();
        Body::from_stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn request_body_is_read_up_to_its_limit() {
        let clock = ManualClock::default();
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
    async fn request_body_start_is_kept_and_the_rest_discarded() {
        let clock = ManualClock::default();
        let read = |body, keep| read_start(body, keep, 8, Duration::from_secs(10), &clock);
        assert_eq!(read(Body::from("abc"), 3).await, Ok(("abc".into(), false)));
        assert_eq!(read(Body::from("abcd"), 3).await, Ok(("abc".into(), true)));
        assert_eq!(read(pieces(&["a", "", "bc", "de"]), 4).await, Ok(("abcd".into(), true)));
        assert_eq!(read(pieces(&["a", "bc"]), 3).await, Ok(("abc".into(), false)));
        let endless = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from("abc")));
        assert_eq!(read(Body::from_stream(endless), 4).await, Ok(("abca".into(), true)));
        let broken = stream::iter([Ok(Bytes::from("a")), Err(io::Error::other("gone"))]);
        assert_eq!(read(Body::from_stream(broken), 4).await, Err(BodyError::Broken));
    }

    #[tokio::test]
    async fn slow_request_body_is_refused_by_a_total_time_limit() {
        let clock = Arc::new(ManualClock::default());
        let ticking = Arc::clone(&clock);
        // Each piece arrives soon after the previous one, so a time limit for each piece would never be exceeded.
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
