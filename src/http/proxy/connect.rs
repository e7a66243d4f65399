//! Opens connections to agents.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
    time::Duration,
};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use super::{
    error::{ForwardError, broken},
    target::{Location, Target},
    transport::Forwarder,
    upstream::{Plain, Upstream},
};
use crate::runtime::clock::within;

/// Time limit for connecting, TLS handshake included.
const CONNECTING: Duration = Duration::from_secs(10);

/// Most bytes read ahead of a response. Also the limit of the response head.
const BUFFER: usize = 64 * 1024;

impl Forwarder {
    pub(super) async fn connect(&self, target: &Target) -> Result<Upstream, ForwardError> {
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

#[cfg(test)]
mod tests {
    use crate::runtime::manual_clock::ManualClock;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::OnceCell,
    };

    use super::*;
    use crate::{
        domain::address::Allow,
        http::proxy::{
            agent_url::check,
            testing::{Agent, Answers, HELLO, forwarder, limits, message, proof, whole},
        },
    };

    /// Returns an https agent, and a forwarder that trusts the agent's certificate.
    async fn https(name: &str) -> (Agent, tokio_rustls::TlsAcceptor, Arc<ManualClock>, Forwarder) {
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
    async fn forwarder_dials_the_checked_address_without_resolving_again() {
        let message = message();
        let (agent, (clock, forwarder)) = (Agent::new().await, forwarder());
        let allow = Allow { private: false, loopback: true };
        let port = agent.address().port();
        let url = format!("http://agent.invalid:{port}/a2a/in?x=1");
        // The name resolves once. A second lookup would find no prepared answer and fail the test.
        let names = Answers::new(&[&[&format!("127.0.0.1:{port}")]]);
        let checked = check(&url, allow, &names, &*clock).await.unwrap();
        let target = Target { location: Location::Checked(checked), proofs: vec![proof()] };
        let limits = limits();
        for _ in 0..2 {
            let (answer, received) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
                let mut caller = agent.accepts().await;
                let received = caller.reads().await;
                caller.sends(HELLO).await;
                received
            });
            assert_eq!(whole(answer.unwrap()).await.unwrap(), "hello");
            assert!(received.starts_with("POST /a2a/in?x=1 HTTP/1.1\r\n"), "{received}");
            assert!(received.contains(&format!("host: agent.invalid:{port}\r\n")), "{received}");
        }
    }

    #[tokio::test]
    async fn https_agent_must_present_a_certificate_for_its_name() {
        let message = message();
        let (agent, acceptor, clock, forwarder) = https("agent.invalid").await;
        let (port, limits) = (agent.address().port(), limits());
        for (name, proves) in [("agent.invalid", true), ("other.invalid", false)] {
            let names = Answers::new(&[&[&format!("127.0.0.1:{port}")]]);
            let allow = Allow { private: false, loopback: true };
            let checked = check(&format!("https://{name}:{port}/"), allow, &names, &*clock).await.unwrap();
            let target = Target { location: Location::Checked(checked), proofs: vec![proof()] };
            let (answer, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
                let caller = agent.accepts().await;
                // The handshake also fails on this side when the client rejects the certificate.
                let Ok(mut secured) = acceptor.accept(caller.0).await else { return };
                let mut received = [0; 1024];
                if secured.read(&mut received).await.is_ok_and(|count| count > 0) {
                    secured.write_all(HELLO.as_bytes()).await.unwrap();
                }
            });
            match answer {
                Ok(answer) => {
                    assert!(proves, "the certificate was accepted for {name}");
                    assert_eq!(whole(answer).await.unwrap(), "hello");
                }
                Err(error) => assert!(!proves && error.to_string().contains(name), "{name}: {error}"),
            }
        }
    }

    #[tokio::test]
    async fn message_is_unsent_if_tls_handshake_is_closed() {
        let message = message();
        let (agent, _, clock, forwarder) = https("agent.invalid").await;
        let (port, limits) = (agent.address().port(), limits());
        let names = Answers::new(&[&[&format!("127.0.0.1:{port}")]]);
        let allow = Allow { private: false, loopback: true };
        let checked = check(&format!("https://agent.invalid:{port}/"), allow, &names, &*clock).await.unwrap();
        let target = Target { location: Location::Checked(checked), proofs: vec![proof()] };
        let (answer, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
            drop(agent.accepts().await);
        });
        assert_eq!(answer.unwrap_err(), ForwardError::Refused);
    }
}
