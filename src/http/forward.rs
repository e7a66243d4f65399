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

mod headers;
mod message;
mod pool;
mod stream;

use std::{fmt, future::poll_fn, io, net::SocketAddr, pin::pin, sync::Arc, task::Poll, time::Duration};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, Response, StatusCode},
};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{io::DuplexStream, net::TcpStream, sync::OnceCell};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use super::outbound::Checked;
use crate::{
    clock::{SharedClock, within},
    domain::time::Awake,
};

use headers::{clean_answer, to_agent, wanted_limit};
use pool::{Failed, Plain, Pool, Upstream};
use stream::{Streamed, Watch};

pub(crate) use message::complete_message;

/// How long connecting may take, TLS included.
const CONNECTING: Duration = Duration::from_secs(10);

/// The most bytes read ahead of one answer. It bounds the answer's head, too.
const BUFFER: usize = 64 * 1024;

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
        let pool = Arc::new(Pool::new(Arc::clone(&clock)));
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

#[cfg(test)]
mod tests;
