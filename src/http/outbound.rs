//! Urls that lead out of this machine: those of external agents.
//!
//! A url is text that somebody else wrote, and a name in it is an address that somebody else may change
//! at any time. So a name is resolved once, every address it has is judged, and what comes out is the
//! address itself: [`Checked`] can be made in no other way, and the connection goes to what is in it.
//! A name that answers differently a moment later, or to a second question, changes nothing.

use std::{
    fmt, io,
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use axum::http::Uri;

use crate::{
    clock::{Boxed, Clock, within},
    domain::address::{Allow, Refusal, refused},
};

/// The longest url.
const LONGEST: usize = 2048;

/// How long a name may take to resolve. A resolver that does not answer has its own ideas, of minutes.
const RESOLVING: Duration = Duration::from_secs(5);

/// Finds the addresses of names.
pub(crate) trait Resolve: Send + Sync {
    /// Every address of `host`, with `port`.
    fn resolve(&self, host: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>>;
}

/// The operating system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect()) })
    }
}

/// A url that may be called, with the address that was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    address: SocketAddr,
    url: Url,
}

impl Checked {
    /// Where to connect: never anywhere else.
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

    /// Whether it is https.
    pub(crate) fn tls(&self) -> bool {
        self.url.tls
    }
}

/// Why a url is not called.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum UrlError {
    /// It is not the url of an agent.
    Malformed(&'static str),
    /// Its name has no address, or the resolver did not say.
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver said.
        why: String,
    },
    /// One of its addresses must not be connected to.
    Refused {
        /// The name, or the address as it was written.
        host: String,
        /// The address.
        address: SocketAddr,
        /// What is wrong with it.
        refusal: Refusal,
    },
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "the url is not usable: {why}"),
            Self::Unresolved { host, why } => write!(f, "the url's host `{host}` has no address: {why}"),
            Self::Refused { host, address, refusal } => {
                write!(f, "the url's host `{host}` leads to {}, which is refused: {refusal}", address.ip())
            }
        }
    }
}

impl std::error::Error for UrlError {}

/// Judges a url by its text and by every address its host has now.
///
/// # Errors
/// See [`UrlError`]. One refused address refuses the url: which of several would be connected to is
/// nothing that its owner should be able to try out.
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
    for address in &addresses {
        if let Some(refusal) = refused(address.ip(), allow) {
            return Err(UrlError::Refused { host: url.host, address: *address, refusal });
        }
    }
    match addresses.first() {
        // The first is what the resolver holds to be the best of them.
        Some(&address) => Ok(Checked { address, url }),
        None => Err(UrlError::Unresolved { host: url.host, why: "the resolver knows none".into() }),
    }
}

async fn resolved(url: &Url, resolver: &dyn Resolve, clock: &dyn Clock) -> Result<Vec<SocketAddr>, UrlError> {
    let unresolved = |why: String| UrlError::Unresolved { host: url.host.clone(), why };
    match within(clock, RESOLVING, resolver.resolve(url.host.clone(), url.port)).await {
        Some(Ok(addresses)) => Ok(addresses),
        Some(Err(error)) => Err(unresolved(error.to_string())),
        None => Err(unresolved(format!("no answer within {} s", RESOLVING.as_secs()))),
    }
}

/// What a url says, before anybody was asked about it.
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
        // The parser below would leave it out without a word.
        if text.contains('#') {
            return malformed("it has a fragment (`#…`)");
        }
        let Ok(uri) = text.parse::<Uri>() else { return malformed("it is no url") };
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return malformed("it is neither http nor https"),
            None => return malformed("it has to begin with http:// or https://"),
        };
        let Some(authority) = uri.authority() else { return malformed("it has no host") };
        if authority.as_str().contains('@') {
            return malformed("it holds a user name; an agent is not called with somebody's credentials");
        }
        let host = authority.host();
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let known = if let Some(literal) = literal {
            literal.parse::<Ipv6Addr>().is_ok()
        } else {
            // No `%`: what a resolver would make of it is its own affair.
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            !host.is_empty() && host.bytes().all(plain)
        };
        if !known {
            return malformed("its host is neither a name nor an address");
        }
        let host = literal.unwrap_or(host).to_owned();
        // Not the parser's idea of a port, which takes one that is too large for none.
        let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
            "" if tls => 443,
            "" => 80,
            port => match port.strip_prefix(':').filter(|port| !port.starts_with('+')).map(str::parse) {
                Some(Ok(port)) if port > 0 => port,
                _ => return malformed("its port is no number from 1 to 65535"),
            },
        };
        Ok(Self { uri, host, port, tls })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        collections::VecDeque,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::http::testing::HandClock;

    const BOTH: Allow = Allow { private: true, loopback: true };

    /// Answers each question with the next of its answers; a question too many fails the test.
    pub(in crate::http) struct Answers(Mutex<VecDeque<io::Result<Vec<SocketAddr>>>>);

    impl Answers {
        pub(in crate::http) fn new(answers: &[&[&str]]) -> Self {
            let parse = |answer: &&[&str]| Ok(answer.iter().map(|text| text.parse().unwrap()).collect());
            Self(Mutex::new(answers.iter().map(parse).collect()))
        }
    }

    impl Resolve for Answers {
        fn resolve(&self, host: String, _port: u16) -> Boxed<io::Result<Vec<SocketAddr>>> {
            let answer = self.0.lock().unwrap().pop_front();
            let answer = answer.unwrap_or_else(|| panic!("`{host}` was resolved once more than it may be"));
            Box::pin(async { answer })
        }
    }

    struct Silent;

    impl Resolve for Silent {
        fn resolve(&self, _host: String, _port: u16) -> Boxed<io::Result<Vec<SocketAddr>>> {
            Box::pin(std::future::pending())
        }
    }

    async fn judge(url: &str, allow: Allow, answers: &[&[&str]]) -> Result<Checked, UrlError> {
        check(url, allow, &Answers::new(answers), &HandClock::default()).await
    }

    #[test]
    fn only_plain_urls_of_a_web_host_are_urls_of_an_agent() {
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
            assert!(Url::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[tokio::test]
    async fn an_address_is_judged_as_it_is_written() {
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
    async fn a_name_is_resolved_once_and_its_address_is_what_is_dialled() {
        let checked =
            judge("https://agent.example.com/x", Allow::default(), &[&["1.1.1.1:443"]]).await.unwrap();
        assert_eq!(checked.address(), "1.1.1.1:443".parse().unwrap());
        assert_eq!((checked.host(), checked.tls()), ("agent.example.com", true));
    }

    #[tokio::test]
    async fn one_refused_address_of_a_name_refuses_it() {
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
        // Written so that only a resolver takes it for an address: it is asked, and its answer judged.
        let judged = judge("http://2852039166/", BOTH, &[&["169.254.169.254:80"]]).await;
        assert!(matches!(judged, Err(UrlError::Refused { .. })), "{judged:?}");
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_told_with_its_reason() {
        let judged = judge("http://agent.example.com/", BOTH, &[&[]]).await.unwrap_err();
        assert!(judged.to_string().contains("agent.example.com"), "{judged}");
    }

    #[tokio::test]
    async fn a_resolver_that_does_not_answer_is_not_waited_for_without_end() {
        let clock = Arc::new(HandClock::default());
        let (judged, ()) = tokio::join!(check("http://agent/", BOTH, &Silent, &*clock), async {
            clock.until_asked(1).await;
            clock.advance(RESOLVING);
        });
        assert!(matches!(judged, Err(UrlError::Unresolved { .. })), "{judged:?}");
    }

    #[tokio::test]
    async fn the_systems_resolver_knows_this_machine() {
        let addresses = SystemResolver.resolve("localhost".into(), 7).await.unwrap();
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 7));
    }
}
