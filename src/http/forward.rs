//! The proxy's transport: one message to an agent, and its answer as it comes.
//!
//! A connection to an agent is no task of its own: whoever waits for the answer drives it, first here
//! and then as the answer's body. That saves two hand-overs between tasks for each message, and makes
//! the rule about clients that hang up true by construction: what they drop is the connection itself.
//! Connections to containers are kept for the next message, for less time than servers keep them idle.
//!
//! A message is delivered at most once. [`ForwardError::is_unsent`] says whether an error came before its first
//! byte was written: such a message may be sent again, by the caller of [`Forwarder::forward`]. After the first
//! byte nothing can tell what the agent has done with it, so it is never sent a second time.
//!
//! A port that Podman forwards in user space (rootless) accepts connections whether or not the agent listens, and
//! closes them when it cannot reach the agent. There [`Forwarder::prove`] asks for the agent's card first: only an
//! answer shows that a message will have a reader.

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
    clock::{SharedClock, within},
    domain::{time::Awake, token::Proof},
};

use headers::{card_request, clean_answer, passes_back, to_agent, wanted_limit};
use pool::{Failed, Plain, Pool, Upstream};
use stream::{Streamed, Watch};

pub(crate) use message::{call_id, complete_message};

/// How long connecting may take, TLS included.
const CONNECTING: Duration = Duration::from_secs(10);

/// How long an agent may take to answer when it is asked only whether it listens.
const PROVING: Duration = Duration::from_secs(1);

/// The most bytes read ahead of one answer. It bounds the answer's head, too.
const BUFFER: usize = 64 * 1024;

/// An agent: where it is reached, and what proves to it that a request comes from ostler. Both belong to one
/// workspace, so that no other one is ever sent its proof.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Where.
    pub(crate) place: Place,
    /// One for each token that the agent may hold.
    pub(crate) proofs: Vec<Proof>,
}

/// Where an agent is reached.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A container's port on this machine.
    Local(SocketAddr),
    /// An external agent, at the address that was judged.
    Checked(Checked),
}

/// A message.
#[derive(Clone, Debug)]
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
    /// The agent does not listen: the connection was refused, or closed before a byte of the message was written.
    Refused,
    /// There is no connection for another reason. Nothing of the message was written.
    NotConnected(String),
    /// There can be no connection: a certificate that is not accepted, a url that cannot be written as a request.
    Unusable(String),
    /// The message was written, at least in part, and the connection ended without an answer.
    Broken(String),
    /// The answer is not one that may be passed on.
    Odd(StatusCode),
    /// The answer announces more bytes than are passed on.
    TooLarge,
    /// There was none in time.
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
            Self::Refused => f.write_str("it refuses connections"),
            Self::NotConnected(why) => write!(f, "it cannot be connected to: {why}"),
            Self::Unusable(why) => f.write_str(why),
            Self::Broken(why) => {
                write!(f, "it ended the connection without an answer, after the message was sent: {why}")
            }
            Self::Odd(status) => write!(
                f,
                "it answered with HTTP status {}; only 200 to 299 and 400 to 599 are passed on",
                status.as_u16()
            ),
            Self::TooLarge => f.write_str("its answer is larger than 64 MiB"),
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
        let pool = Arc::new(Pool::new(Arc::clone(&clock)));
        Self { clock, dial, pool, tls: OnceCell::new() }
    }

    /// Sends a message and returns the head of its answer. The body streams as the agent writes it. It ends with an
    /// error, which breaks the connection to the caller, where the answer is cut: a part must not look like the whole.
    ///
    /// Dropping this future or the body ends the connection to the agent.
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

    /// Asks a container's agent for its card, to learn whether it listens behind a port that is forwarded in user
    /// space. Any answer, and silence for [`PROVING`], counts as listening.
    ///
    /// # Errors
    /// [`ForwardError::Refused`] where the connection is refused, or closed without an answer.
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
        // The agent's version stays with its connection: an answer of HTTP/1.0 without a length ends where the
        // connection closes, and a cut one would look whole. In HTTP/1.1 it is chunked, and a cut is visible.
        head.version = Version::HTTP_11;
        watch.heard();
        let kept_at = match &target.place {
            Place::Local(address) => Some((Arc::clone(&self.pool), *address)),
            Place::Checked(_) => None,
        };
        let mut body = Streamed::new(incoming, upstream, kept_at, watch, limits.response);
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
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Upstream), ForwardError> {
        if let Place::Local(address) = &target.place
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
            let address = match &target.place {
                Place::Local(address) => *address,
                Place::Checked(checked) => checked.address(),
            };
            let stream = self.dial.connect(address).await.map_err(not_connected)?;
            let stream = match &target.place {
                Place::Checked(checked) if checked.tls() => {
                    Either::Right(Box::new(self.secured(stream, checked.host()).await?))
                }
                Place::Checked(_) | Place::Local(_) => Either::Left(stream),
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
            .map_err(|_| unusable(format!("no certificate can be for `{host}`")))?;
        // Read when the first https agent is called: most installations have none.
        let connector = self.tls.get_or_try_init(system_roots).await.map_err(unusable)?;
        connector.connect(name, stream).await.map_err(|error| {
            if is_closed(error.kind()) {
                // Before the handshake was complete: the message is still here.
                ForwardError::Refused
            } else {
                unusable(format!("it did not prove to be `{host}`: {error}"))
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
    if error.kind() == ErrorKind::ConnectionRefused {
        ForwardError::Refused
    } else {
        ForwardError::NotConnected(error.to_string())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn broken(error: hyper::Error) -> ForwardError {
    use std::error::Error as _;
    // hyper says what it was doing; what went wrong is behind it.
    ForwardError::Broken(match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}

#[cfg(test)]
mod tests;
