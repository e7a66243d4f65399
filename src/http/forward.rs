//! The proxy's transport: sends one message to an agent and streams its response.
//!
//! A connection to an agent has no task of its own. The future that waits for the response drives it, first here and
//! then as the response body. This saves two task switches per message. It also makes cancellation simple: when the
//! caller disconnects, the future is dropped, and with it the connection to the agent. Connections to containers are
//! kept for the next message, for less time than servers keep idle connections open.
//!
//! A message is delivered at most once. [`ForwardError::is_unsent`] reports whether an error occurred before the first
//! byte of the message was written; the caller of [`Forwarder::forward`] may send such a message again. After the first
//! byte it is unknown what the agent has done with the message, so it is never sent a second time.
//!
//! A port that Podman forwards in user space (rootless) accepts connections whether or not the agent listens, and
//! closes them when it cannot reach the agent. For such ports [`Forwarder::prove`] requests the agent's card first. The
//! agent listens if it responds, or at least keeps the connection open.

mod headers;
mod message;
mod pool;
mod stream;

use std::{
    fmt,
    future::poll_fn,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, Request, Response, StatusCode, Version},
};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{io::DuplexStream, net::TcpStream, sync::OnceCell};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use super::outbound::Checked;
use crate::{
    domain::{time::Awake, token::Proof},
    runtime::clock::{SharedClock, within},
};

use headers::{card_request, clean_answer, passes_back, to_agent, wanted_limit};
use pool::{Failed, Plain, Pool, Upstream};
use stream::{Streamed, Watch};

pub(crate) use message::{call_id, complete_message};

/// Time limit for connecting, TLS handshake included.
const CONNECTING: Duration = Duration::from_secs(10);

/// Time limit of a request that only checks whether the agent listens.
const PROVING: Duration = Duration::from_secs(1);

/// Most bytes read ahead of a response. Also the limit of the response head.
const BUFFER: usize = 64 * 1024;

/// An agent: its address, and the proofs by which it can verify that a request comes from ostler.
///
/// Both belong to the same workspace, so that a proof is never sent to another workspace.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Where to connect.
    pub(crate) location: Location,
    /// One proof for each token that the agent may have.
    pub(crate) proofs: Vec<Proof>,
}

/// Address of an agent.
#[derive(Clone, Debug)]
pub(crate) enum Location {
    /// A container's port on this machine.
    Local(SocketAddr),
    /// An external agent: the url with the address that passed the check.
    Checked(Checked),
}

/// A message to forward.
#[derive(Clone, Debug)]
pub(crate) struct ForwardRequest {
    /// Sent unchanged.
    pub(crate) body: Bytes,
    /// The caller's request headers; only a few of them are forwarded.
    pub(crate) headers: HeaderMap,
    /// Id of the sending workspace, or `admin`.
    pub(crate) caller: String,
}

/// Returns the time of the target's last sign of life outside this response, such as a heartbeat.
pub(crate) type Alive = Arc<dyn Fn() -> Option<Awake> + Send + Sync>;

/// Limits of a response.
#[derive(Clone)]
pub(crate) struct ForwardLimits {
    /// From sending the message to the last byte of the response. The caller may ask for less.
    pub(crate) total: Duration,
    /// Time without a byte of the response and without another sign of life.
    pub(crate) idle: Duration,
    /// Most bytes of the response body.
    pub(crate) response: u64,
    /// The other signs of life, for `idle`.
    pub(crate) alive: Alive,
}

impl ForwardLimits {
    /// The limits of the wire protocol: 30 minutes in total, 5 minutes without a sign of life, 64 MiB.
    pub(crate) fn new(alive: Alive) -> Self {
        Self {
            total: Duration::from_mins(30),
            idle: Duration::from_mins(5),
            response: 64 * 1024 * 1024,
            alive,
        }
    }
}

/// Why forwarding failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ForwardError {
    /// The agent does not listen: the connection was refused, or closed before a byte of the message was written.
    Refused,
    /// The connection failed for another reason. Nothing of the message was written.
    NotConnected(String),
    /// No attempt can succeed: for example, an untrusted certificate, or a url that cannot be written as a request.
    Unusable(String),
    /// The message was written at least in part, and the connection ended without a response.
    Broken(String),
    /// The response has a status that must not be forwarded.
    Odd(StatusCode),
    /// The announced response body is larger than the limit.
    TooLarge,
    /// No response within a time limit.
    TimedOut(Overdue),
}

impl ForwardError {
    /// Whether no byte of the message was written and another attempt may succeed.
    pub(crate) fn is_unsent(&self) -> bool {
        matches!(self, Self::Refused | Self::NotConnected(_))
    }
}

impl fmt::Display for ForwardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::NotConnected(why) => write!(f, "connection failed: {why}"),
            Self::Unusable(why) => f.write_str(why),
            Self::Broken(why) => {
                write!(f, "it closed the connection without a response after the message was sent: {why}")
            }
            Self::Odd(status) => write!(
                f,
                "it responded with HTTP status {}; only 200 to 299 and 400 to 599 are forwarded",
                status.as_u16()
            ),
            Self::TooLarge => f.write_str("its response is larger than 64 MiB"),
            Self::TimedOut(overdue) => overdue.fmt(f),
        }
    }
}

impl std::error::Error for ForwardError {}

/// The time limit that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// The limit of the whole response, `ForwardLimits::total`.
    Whole,
    /// The limit without a sign of life, `ForwardLimits::idle`.
    Silent,
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "the agent's response was not complete in time",
            Self::Silent => "the agent sent neither data nor a heartbeat within the idle limit",
        })
    }
}

/// How connections to agents are opened.
#[derive(Clone)]
pub enum Dial {
    /// Over TCP.
    Tcp,
    /// Through an in-process pipe, for the simulator, whose simulated agent answers at the other end.
    Pipe(PipeTo),
}

/// Opens a pipe to the simulated listener at an address.
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
        let pool = Arc::new(Pool::new(Arc::clone(&clock)));
        Self { clock, dial, pool, tls: OnceCell::new() }
    }

    /// Sends a message and returns the head of the response. The body streams as the agent writes it.
    ///
    /// A body that is cut short ends with an error, which breaks the connection to the caller: a partial response must
    /// not look complete. Dropping this future or the body closes the connection to the agent.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub(crate) async fn forward(
        &self,
        target: &Target,
        request: &ForwardRequest,
        limits: &ForwardLimits,
    ) -> Result<Response<Body>, ForwardError> {
        self.exchange(target, to_agent(target, request)?, limits, wanted_limit(&request.headers)).await
    }

    /// Requests the card of a container's agent, to learn whether the agent listens behind a port that is forwarded in
    /// user space. The agent counts as listening if it sends any response, or if the connection stays open for
    /// [`PROVING`] without a response.
    ///
    /// # Errors
    /// [`ForwardError::Refused`] when the connection is refused, or closed without a response. Other errors that occur
    /// before the request is sent are returned unchanged.
    pub(crate) async fn prove(&self, target: &Target, limits: &ForwardLimits) -> Result<(), ForwardError> {
        let limits = ForwardLimits { total: PROVING, ..limits.clone() };
        match self.exchange(target, card_request(target)?, &limits, None).await {
            Err(ForwardError::Broken(_)) => Err(ForwardError::Refused),
            Err(error) if error.is_unsent() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn exchange(
        &self,
        target: &Target,
        request: Request<Full<Bytes>>,
        limits: &ForwardLimits,
        wanted: Option<Duration>,
    ) -> Result<Response<Body>, ForwardError> {
        let mut watch = Watch::begin(Arc::clone(&self.clock), limits, wanted);
        let mut asking = pin!(self.ask(target, request));
        let (response, upstream) = poll_fn(|cx| {
            if let Poll::Ready(answer) = asking.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            watch.poll(cx).map(|overdue| Err(ForwardError::TimedOut(overdue)))
        })
        .await?;
        let (mut head, incoming) = response.into_parts();
        if !passes_back(head.status) {
            return Err(ForwardError::Odd(head.status));
        }
        if incoming.size_hint().lower() > limits.response {
            return Err(ForwardError::TooLarge);
        }
        clean_answer(&mut head.headers);
        // The agent's HTTP version must not reach the caller. An HTTP/1.0 response without a length ends when the
        // connection closes, so a truncated one would look complete. As HTTP/1.1 the response is chunked, and the
        // caller detects a truncation.
        head.version = Version::HTTP_11;
        watch.note_activity();
        let kept_at = match &target.location {
            Location::Local(address) => Some((Arc::clone(&self.pool), *address)),
            Location::Checked(_) => None,
        };
        let mut body = Streamed::new(incoming, upstream, kept_at, watch, limits.response);
        if body.incoming.is_end_stream() {
            // The server does not poll the body of an empty response.
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
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Upstream), ForwardError> {
        if let Location::Local(address) = &target.location
            && let Some(kept) = poll_fn(|cx| Poll::Ready(self.pool.take(*address, cx))).await
        {
            match kept.send(request).await {
                Ok(answer) => return Ok(answer),
                Err(Failed { unsent: Some(unsent), .. }) => request = unsent,
                Err(failed) => return Err(failed.into()),
            }
        }
        match self.connect(target).await?.send(request).await {
            Ok(answer) => Ok(answer),
            Err(Failed { unsent: Some(_), .. }) => Err(ForwardError::Refused),
            Err(failed) => Err(failed.into()),
        }
    }

    async fn connect(&self, target: &Target) -> Result<Upstream, ForwardError> {
        let connecting = async {
            let address = match &target.location {
                Location::Local(address) => *address,
                Location::Checked(checked) => checked.address(),
            };
            let stream = self.dial.connect(address).await.map_err(not_connected)?;
            let stream = match &target.location {
                Location::Checked(checked) if checked.tls() => {
                    Either::Right(Box::new(self.secured(stream, checked.host()).await?))
                }
                Location::Checked(_) | Location::Local(_) => Either::Left(stream),
            };
            let mut http = http1::Builder::new();
            http.max_buf_size(BUFFER);
            let (sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(broken)?;
            Ok(Upstream { sender, connection: Some(connection) })
        };
        let late = || format!("no connection within {} s", CONNECTING.as_secs());
        within(&*self.clock, CONNECTING, connecting)
            .await
            .unwrap_or_else(|| Err(ForwardError::NotConnected(late())))
    }

    async fn secured(&self, stream: Plain, host: &str) -> Result<TlsStream<Plain>, ForwardError> {
        let unusable = |why: String| ForwardError::Unusable(why);
        let name = ServerName::try_from(host.trim_end_matches('.').to_owned())
            .map_err(|_| unusable(format!("`{host}` is not a valid TLS server name")))?;
        // The certificates are loaded when the first https agent is called, because most installations have no such
        // agent.
        let connector = self.tls.get_or_try_init(system_roots).await.map_err(unusable)?;
        connector.connect(name, stream).await.map_err(|error| {
            if is_closed(error.kind()) {
                // The agent closed the connection before the handshake was complete, so nothing of the message was
                // sent.
                ForwardError::Refused
            } else {
                unusable(format!("TLS handshake with `{host}` failed: {error}"))
            }
        })
    }
}

fn is_closed(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
    )
}

/// Builds a TLS connector from the root certificates that this machine trusts.
async fn system_roots() -> Result<TlsConnector, String> {
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs);
    let found =
        found.await.map_err(|error| format!("cannot load this machine's root certificates: {error}"))?;
    let mut roots = RootCertStore::empty();
    // An unreadable certificate is skipped; the others remain trusted.
    let (usable, _unusable) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err(
            "no usable root certificates on this machine: install the package `ca-certificates`".into()
        );
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

#[expect(clippy::needless_pass_by_value, reason = "signature required by map_err")]
fn not_connected(error: io::Error) -> ForwardError {
    if error.kind() == ErrorKind::ConnectionRefused {
        ForwardError::Refused
    } else {
        ForwardError::NotConnected(error.to_string())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "signature required by map_err")]
fn broken(error: hyper::Error) -> ForwardError {
    use std::error::Error as _;
    // hyper's error names the operation that failed. The source of that error contains the cause.
    ForwardError::Broken(match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}

#[cfg(test)]
mod tests;
