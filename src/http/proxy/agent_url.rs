//! Checks the urls of external agents, to which ostler connects over the network.
//!
//! A url is untrusted text, and the addresses of a host name may change at any time. So a name is resolved once, all
//! its addresses are checked, and ostler connects to the address that was checked. Only `check` can create a
//! [`Checked`], which contains this address. If a later lookup returned another address, it would have no effect.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use axum::http::Uri;

use super::resolver::Resolve;
use crate::{
    domain::{
        address::{Allow, Refusal, refused},
        duration::words,
    },
    runtime::clock::{Clock, within},
};

/// Longest accepted url, in bytes.
const LONGEST: usize = 2048;

/// Time limit for resolving a name. The system resolver's own timeout can be minutes.
const RESOLVING: Duration = Duration::from_secs(5);

/// A url that passed the check, with the address that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    address: SocketAddr,
    url: Url,
}

impl Checked {
    /// The only address to connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The url as it was given.
    pub(crate) fn uri(&self) -> &Uri {
        &self.url.uri
    }

    /// The host's name or address, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.url.host
    }

    /// Whether the scheme is https.
    pub(crate) fn tls(&self) -> bool {
        self.url.tls
    }
}

/// Why a url is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum UrlError {
    /// The text is not a valid url of an agent. Contains the reason.
    Malformed(&'static str),
    /// The url's host has no address, or could not be resolved.
    Unresolved {
        /// The name.
        host: String,
        /// The resolver's error.
        why: String,
    },
    /// ostler must not connect to one of the host's addresses.
    Refused {
        /// The name, or the address as it was written.
        host: String,
        /// The refused address.
        address: SocketAddr,
        /// The rule that refuses it.
        refusal: Refusal,
    },
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "the url is invalid: {why}"),
            Self::Unresolved { host, why } => write!(f, "the url's host `{host}` cannot be resolved: {why}"),
            Self::Refused { host, address, refusal } => {
                write!(
                    f,
                    "the url's host `{host}` resolves to {}, which is not allowed: {refusal}",
                    address.ip()
                )
            }
        }
    }
}

impl std::error::Error for UrlError {}

/// Checks a url's text and all current addresses of its host.
///
/// # Errors
/// See [`UrlError`]. A url is refused if any of its addresses is refused. Otherwise the url's owner could find out by
/// trial to which of several addresses ostler connects.
pub(crate) async fn check(
    url: &str,
    allow: Allow,
    resolver: &dyn Resolve,
    clock: &dyn Clock,
) -> Result<Checked, UrlError> {
    let url = Url::parse(url)?;
    let addresses = match url.host.parse() {
        Ok(ip) => vec![SocketAddr::new(ip, url.port)],
        Err(_) => resolved(&url, resolver, clock).await?,
    };
    let around = resolver.surroundings();
    for address in &addresses {
        if let Some(refusal) = refused(address.ip(), allow, &around) {
            return Err(UrlError::Refused { host: url.host, address: *address, refusal });
        }
    }
    match addresses.first() {
        // The resolver sorts addresses by preference, so the first one is used.
        Some(&address) => Ok(Checked { address, url }),
        None => Err(UrlError::Unresolved { host: url.host, why: "no addresses found".into() }),
    }
}

async fn resolved(url: &Url, resolver: &dyn Resolve, clock: &dyn Clock) -> Result<Vec<SocketAddr>, UrlError> {
    let unresolved = |why: String| UrlError::Unresolved { host: url.host.clone(), why };
    match within(clock, RESOLVING, resolver.resolve(url.host.clone(), url.port)).await {
        Some(Ok(addresses)) => Ok(addresses),
        Some(Err(error)) => Err(unresolved(error.to_string())),
        None => Err(unresolved(format!("no answer within {}", words(RESOLVING)))),
    }
}

/// A parsed url whose host was not resolved yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    uri: Uri,
    host: String,
    port: u16,
    tls: bool,
}

impl Url {
    fn parse(text: &str) -> Result<Self, UrlError> {
        let malformed = |why| Err(UrlError::Malformed(why));
        if text.len() > LONGEST {
            return malformed("it is longer than 2048 characters");
        }
        // `Uri` would silently drop the fragment.
        if text.contains('#') {
            return malformed("it has a fragment (`#…`)");
        }
        let Ok(uri) = text.parse::<Uri>() else { return malformed("it cannot be parsed") };
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return malformed("its scheme is neither http nor https"),
            None => return malformed("it must begin with http:// or https://"),
        };
        let Some(authority) = uri.authority() else { return malformed("it has no host") };
        if authority.as_str().contains('@') {
            return malformed("it must not contain a user name or password");
        }
        let host = authority.host();
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let known = if let Some(literal) = literal {
            literal.parse::<Ipv6Addr>().is_ok()
        } else {
            // `%` is not allowed, because it is not defined how a resolver would decode it.
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            !host.is_empty() && host.bytes().all(plain)
        };
        if !known {
            return malformed("its host is neither a host name nor an IP address");
        }
        let host = literal.unwrap_or(host).to_owned();
        // `Uri::port` is not used, because it treats a port that is too large as missing.
        let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
            "" if tls => 443,
            "" => 80,
            port => match port.strip_prefix(':').filter(|port| !port.starts_with('+')).map(str::parse) {
                Some(Ok(port)) if port > 0 => port,
                _ => return malformed("its port is not a number from 1 to 65535"),
            },
        };
        Ok(Self { uri, host, port, tls })
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;
    use crate::{
        domain::address::Surroundings,
        http::proxy::testing::Answers,
        runtime::{clock::Boxed, manual_clock::ManualClock},
    };

    const BOTH: Allow = Allow { private: true, loopback: true };

    struct Silent;

    impl Resolve for Silent {
        fn resolve(&self, _host: String, _port: u16) -> Boxed<io::Result<Vec<SocketAddr>>> {
            Box::pin(std::future::pending())
        }

        fn surroundings(&self) -> Surroundings {
            Surroundings::default()
        }
    }

    async fn judge(url: &str, allow: Allow, answers: &[&[&str]]) -> Result<Checked, UrlError> {
        check(url, allow, &Answers::new(answers), &ManualClock::default()).await
    }

    #[test]
    fn agent_url_must_be_plain_http_or_https_with_a_host() {
        for (text, host, port, tls) in [
            ("http://agent.example.com", "agent.example.com", 80, false),
            ("https://agent.example.com/a2a?x=1", "agent.example.com", 443, true),
            ("http://agent_1:8000/", "agent_1", 8000, false),
            ("HTTP://AGENT/", "AGENT", 80, false),
            ("http://[2606:4700::1]:8080/x", "2606:4700::1", 8080, false),
            ("https://1.1.1.1", "1.1.1.1", 443, true),
        ] {
            let url = Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((url.host.as_str(), url.port, url.tls), (host, port, tls), "{text}");
        }
        let long = format!("http://agent/{}", "a".repeat(LONGEST));
        for text in [
            "",
            "agent",
            "/a2a",
            "agent:8000",
            "//agent/a2a",
            "ftp://agent/",
            "file:///etc/passwd",
            "unix:///run/podman.sock",
            "http://",
            "http:///a2a",
            "http://:80/",
            "http://agent:/",
            "http://agent:0/",
            "http://agent:99999/",
            "http://agent:8o/",
            "http://agent:+80/",
            "http://agent:-80/",
            "http://me@agent/",
            "http://me:secret@agent/",
            "http://@agent/",
            "http://good.example.com@169.254.169.254/",
            "http://agent/#fragment",
            "http://agent#@other/",
            "http://agent\\@other/",
            "http://a%67ent/",
            "http://agent /",
            "http://agent/\r\nhost: other",
            "http://[::1/",
            "http://[fe80::1%25eth0]/",
            "http://[v1.x]/",
            &long,
        ] {
            assert!(Url::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[tokio::test]
    async fn ip_address_in_agent_url_is_checked_without_resolving() {
        for text in ["http://169.254.169.254/latest", "http://[::ffff:169.254.169.254]/", "http://0.0.0.0:1/"]
        {
            assert!(matches!(judge(text, BOTH, &[]).await, Err(UrlError::Refused { .. })), "{text}");
        }
        assert!(matches!(
            judge("http://127.0.0.1:1/", Allow::default(), &[]).await,
            Err(UrlError::Refused { refusal: Refusal::Loopback, .. })
        ));
        let checked = judge("http://127.0.0.1:1/", BOTH, &[]).await.unwrap();
        assert_eq!(checked.address(), "127.0.0.1:1".parse().unwrap());
    }

    #[tokio::test]
    async fn host_name_is_resolved_once_to_the_dialled_address() {
        let checked =
            judge("https://agent.example.com/x", Allow::default(), &[&["1.1.1.1:443"]]).await.unwrap();
        assert_eq!(checked.address(), "1.1.1.1:443".parse().unwrap());
        assert_eq!((checked.host(), checked.tls()), ("agent.example.com", true));
    }

    #[tokio::test]
    async fn host_name_is_refused_if_any_of_its_addresses_is_refused() {
        for answer in [
            &["10.0.0.1:80"][..],
            &["1.1.1.1:80", "169.254.169.254:80"],
            &["169.254.169.254:80", "1.1.1.1:80"],
            &["1.1.1.1:80", "[::1]:80"],
            &["[64:ff9b::a9fe:a9fe]:80"],
        ] {
            let judged = judge("http://agent.example.com/", Allow::default(), &[answer]).await;
            assert!(matches!(judged, Err(UrlError::Refused { .. })), "{answer:?}: {judged:?}");
        }
        // ostler parses this host as a name, but a resolver may parse it as an address. So it is resolved, and the
        // result is checked.
        let judged = judge("http://2852039166/", BOTH, &[&["169.254.169.254:80"]]).await;
        assert!(matches!(judged, Err(UrlError::Refused { .. })), "{judged:?}");
    }

    #[tokio::test]
    async fn error_contains_the_host_name_that_cannot_be_resolved() {
        let judged = judge("http://agent.example.com/", BOTH, &[&[]]).await.unwrap_err();
        assert!(judged.to_string().contains("agent.example.com"), "{judged}");
    }

    #[tokio::test]
    async fn host_name_resolution_times_out() {
        let clock = Arc::new(ManualClock::default());
        let (judged, ()) = tokio::join!(check("http://agent/", BOTH, &Silent, &*clock), async {
            clock.until_asked(1).await;
            clock.advance(RESOLVING);
        });
        assert!(matches!(judged, Err(UrlError::Unresolved { .. })), "{judged:?}");
    }

    #[tokio::test]
    async fn public_address_of_this_machine_is_refused_as_ip_and_by_name() {
        for (url, answers) in [("http://8.8.4.7/", &[][..]), ("http://agent/", &[&["8.8.4.7:80"][..]])] {
            let judged = judge(url, Allow::default(), answers).await;
            let is_refused = matches!(judged, Err(UrlError::Refused { refusal: Refusal::Loopback, .. }));
            assert!(is_refused, "{url}: {judged:?}");
        }
    }
}
