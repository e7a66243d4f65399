//! Serves the requests of one connection.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::ConnectInfo,
    http::{Request, Response, Version, header},
    response::IntoResponse as _,
    routing::future::RouteFuture,
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::Service,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use super::{
    activity::{Activity, RequestGuard},
    limits::ConnectionLimits,
    slots::{Carrier, Slots},
};
use crate::{
    http::{
        error::HttpError,
        server::rest_of_body::{Discards, RestOfBody},
    },
    runtime::clock::{SharedClock, within},
};

/// One accepted connection with everything needed to serve it.
pub(super) struct Connection {
    pub(super) activity: Arc<Activity>,
    pub(super) slots: Arc<Slots>,
    pub(super) http: http1::Builder,
    pub(super) router: Router,
    pub(super) discards: Discards,
    pub(super) limits: ConnectionLimits,
    pub(super) clock: SharedClock,
    pub(super) stop: CancellationToken,
}

impl Connection {
    pub(super) async fn run(self, stream: TcpStream, peer: SocketAddr) {
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
