//! Tests of the transport against hand-written agents, which can send invalid HTTP.

use axum::http::{HeaderName, HeaderValue};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{headers::TIMEOUT, message::NotJson, pool::KEPT_FOR, *};
use crate::{
    domain::{
        address::Allow,
        token::{TOKEN_BYTES, Token},
    },
    http::{
        outbound::{check, tests::Answers},
        testing::ManualClock,
    },
    runtime::clock::Clock as _,
};

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// An agent whose responses are written by the test, so that they can be invalid.
struct Agent(TcpListener);

/// A connection to the agent.
struct Caller(TcpStream);

impl Agent {
    async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    fn target(&self) -> Target {
        Target { location: Location::Local(self.address()), proofs: vec![proof()] }
    }

    async fn accepts(&self) -> Caller {
        Caller(self.0.accept().await.unwrap().0)
    }
}

impl Caller {
    /// Reads one request, head and body.
    async fn reads(&mut self) -> String {
        let mut received = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&received).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() == length.map_or(0, |length| length.parse().unwrap()) {
                    return text;
                }
            }
            assert!(self.0.read_buf(&mut received).await.unwrap() > 0, "the request ended early: {text}");
        }
    }

    async fn sends(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Waits until the other side has closed the connection.
    async fn waits_for_close(mut self) {
        let mut rest = Vec::new();
        let _reset_is_an_end_too = self.0.read_to_end(&mut rest).await;
    }
}

/// The proof that the agents of these tests receive.
fn proof() -> Proof {
    Token::from_random([7; TOKEN_BYTES]).digest().proof()
}

fn message() -> ForwardRequest {
    ForwardRequest { body: "{}".into(), headers: HeaderMap::new(), caller: "caller-id".into() }
}

fn limits() -> ForwardLimits {
    ForwardLimits::new(Arc::new(|| None))
}

fn forwarder() -> (Arc<ManualClock>, Forwarder) {
    let clock = Arc::new(ManualClock::default());
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
async fn caller_credentials_are_stripped_before_forwarding() {
    let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
    let mut request = message();
    for (name, value) in [
        ("authorization", "Bearer secret-token"),
        ("proxy-authorization", "Basic secret"),
        ("cookie", "session=secret"),
        ("x-api-key", "secret"),
        ("x-ostler-proof", "forged"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("host", "ostler.example.com"),
        ("transfer-encoding", "chunked"),
        ("content-length", "999"),
        ("upgrade", "websocket"),
        ("expect", "100-continue"),
        ("x-workspace-id", "another-workspace"),
        ("connection", "a2a-private, keep-alive"),
        ("a2a-private", "secret"),
        ("content-type", "application/json; charset=utf-8"),
        ("accept", "text/event-stream"),
        ("last-event-id", "7"),
        ("traceparent", "00-1-2-00"),
        ("a2a-version", "1.0"),
        ("x-a2a-extensions", "https://example.com/ext"),
        ("x-timeout", "60"),
    ] {
        request.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    request.body = "{\"a\":1}".into();
    let (target, limits) = (agent.target(), limits());
    let (answer, received) = tokio::join!(forwarder.forward(&target, &request, &limits), async {
        let mut caller = agent.accepts().await;
        let received = caller.reads().await;
        caller.sends(HELLO).await;
        received
    });
    assert_eq!(whole(answer.unwrap()).await.unwrap(), "hello");
    let (request, body) = received.split_once("\r\n\r\n").unwrap();
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
            "x-a2a-extensions: https://example.com/ext",
            &format!("x-ostler-proof: {}", proof().expose()),
            "x-timeout: 60",
            "x-workspace-id: caller-id",
        ]
    );
    assert_eq!(body, "{\"a\":1}");
}

#[tokio::test]
async fn response_headers_not_allowed_for_agents_are_stripped() {
    let message = message();
    let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
    let (target, limits) = (agent.target(), limits());
    let (answer, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
        let mut caller = agent.accepts().await;
        caller.reads().await;
        caller
            .sends(
                "HTTP/1.1 418 I'm a teapot\r\ncontent-type: text/plain\r\nx-own: dropped\r\n\
             x-a2a-extensions: kept\r\na2a-version: 1.0\r\nlocation: /workspaces/x/stop\r\nrefresh: 0\r\n\
             www-authenticate: Basic\r\nserver: x\r\nlink: </x>\r\n\
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
    assert_eq!(names, ["a2a-version", "content-length", "content-type", "x-a2a-extensions"]);
    assert_eq!(whole(answer).await.unwrap(), "hello");
}

#[tokio::test]
async fn redirects_and_invalid_statuses_are_not_forwarded() {
    let message = message();
    let (agent, other, (_, forwarder)) = (Agent::new().await, Agent::new().await, forwarder());
    let (target, limits) = (agent.target(), limits());
    for status in [101, 199, 300, 302, 304, 307, 308, 399, 600, 999] {
        let (answer, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            let location = format!("http://{}/", other.address());
            caller
                .sends(&format!("HTTP/1.1 {status} x\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"))
                .await;
        });
        match answer {
            Err(error @ ForwardError::Odd(_)) => {
                assert!(error.to_string().contains(&status.to_string()), "{status}: {error}");
            }
            // An interim response, after which the connection ends.
            Err(ForwardError::Broken(_)) => assert_eq!(status, 199),
            other => panic!("{status}: {other:?}"),
        }
    }
    let asked = poll_fn(|cx| Poll::Ready(other.0.poll_accept(cx).is_ready())).await;
    assert!(!asked, "the redirect was followed");
}

#[tokio::test]
async fn http_1_0_response_is_forwarded_as_http_1_1() {
    let message = message();
    let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
    let (target, limits) = (agent.target(), limits());
    let (answer, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
        let mut caller = agent.accepts().await;
        caller.reads().await;
        caller.sends("HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nhello").await;
    });
    let answer = answer.unwrap();
    assert_eq!(answer.version(), Version::HTTP_11, "in HTTP/1.0 a truncated response looks complete");
    assert_eq!(whole(answer).await.unwrap(), "hello");
}

#[tokio::test]
async fn message_is_unsent_only_if_no_byte_was_written() {
    let message = message();
    let (_, forwarder) = forwarder();
    let limits = limits();
    let gone = Agent::new().await;
    let target = gone.target();
    drop(gone);
    let error = forwarder.forward(&target, &message, &limits).await.unwrap_err();
    assert!(error == ForwardError::Refused && error.is_unsent(), "{error}");

    let agent = Agent::new().await;
    let target = agent.target();
    let (answer, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
        let mut caller = agent.accepts().await;
        caller.reads().await;
    });
    let error = answer.unwrap_err();
    assert!(!error.is_unsent(), "the agent has read the message, so it must not be sent again: {error}");
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

#[tokio::test]
async fn listener_probe_fails_if_port_closes_without_a_response() {
    let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
    let (target, limits) = (agent.target(), limits());
    let (proven, ()) = tokio::join!(forwarder.prove(&target, &limits), async {
        drop(agent.accepts().await);
    });
    assert_eq!(proven, Err(ForwardError::Refused));
    for answer in [HELLO, "HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 302 x\r\n\r\n"] {
        let (proven, received) = tokio::join!(forwarder.prove(&target, &limits), async {
            let mut caller = agent.accepts().await;
            let received = caller.reads().await;
            caller.sends(answer).await;
            received
        });
        assert_eq!(proven, Ok(()), "{answer}");
        assert!(received.starts_with("GET /.well-known/agent.json HTTP/1.1\r\n"), "{received}");
        assert!(received.contains(&format!("x-ostler-proof: {}\r\n", proof().expose())), "{received}");
    }
}

#[tokio::test]
async fn sse_events_are_forwarded_without_buffering() {
    let message = message();
    let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
    let (target, limits) = (agent.target(), limits());
    let (answer, mut caller) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
        let mut caller = agent.accepts().await;
        caller.reads().await;
        caller
            .sends("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        caller
    });
    let mut body = answer.unwrap().into_body();
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        // Each event is read before the next is written: nothing is buffered.
        caller.sends(&format!("{:x}\r\n{event}\r\n", event.len())).await;
        assert_eq!(next(&mut body).await.unwrap().unwrap(), event);
    }
    caller.sends("0\r\n\r\n").await;
    assert!(next(&mut body).await.is_none());
}

#[tokio::test]
async fn connection_is_reused_for_consecutive_messages() {
    let message = message();
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
            caller.sends(answer).await;
        }
        caller
    };
    let ask = async {
        for expected in ["hello", "hello", "", "", "hello"] {
            let answer = forwarder.forward(&target, &message, &limits).await.unwrap();
            assert_eq!(whole(answer).await.unwrap(), expected);
        }
    };
    let (_caller, ()) = tokio::join!(serve, ask);
}

#[tokio::test]
async fn connection_is_reused_if_body_end_is_not_polled() {
    let message = message();
    let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
    let (target, limits) = (agent.target(), limits());
    let serve = async {
        let mut caller = agent.accepts().await;
        for _ in 0..2 {
            caller.reads().await;
            caller.sends(HELLO).await;
        }
        caller
    };
    let ask = async {
        for _ in 0..2 {
            let mut body = forwarder.forward(&target, &message, &limits).await.unwrap().into_body();
            assert_eq!(next(&mut body).await.unwrap().unwrap(), "hello");
            assert!(body.is_end_stream());
        }
    };
    let (_caller, ()) = tokio::join!(serve, ask);
}

#[tokio::test]
async fn idle_connection_is_not_reused_if_closed_or_expired() {
    let message = message();
    let (agent, (clock, forwarder)) = (Agent::new().await, forwarder());
    let (target, limits) = (agent.target(), limits());
    for closes in [true, false] {
        let (answer, caller) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller.sends(HELLO).await;
            caller
        });
        assert_eq!(whole(answer.unwrap()).await.unwrap(), "hello");
        if closes {
            drop(caller);
            // The async runtime has to process the close first. Under load it does so continuously.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        } else {
            clock.advance(KEPT_FOR);
            let (_answer, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
                let mut fresh = agent.accepts().await;
                fresh.reads().await;
                fresh.sends(HELLO).await;
                caller.waits_for_close().await;
            });
        }
    }
}

#[tokio::test]
async fn message_that_may_have_been_read_is_not_resent() {
    let message = message();
    let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
    let (target, limits) = (agent.target(), limits());
    let serve = async {
        let mut caller = agent.accepts().await;
        caller.reads().await;
        caller.sends(HELLO).await;
        // The second request arrives on the kept connection and gets no response.
        caller.reads().await;
    };
    let ask = async {
        let first = forwarder.forward(&target, &message, &limits).await.unwrap();
        assert_eq!(whole(first).await.unwrap(), "hello");
        forwarder.forward(&target, &message, &limits).await.unwrap_err()
    };
    let ((), error) = tokio::join!(serve, ask);
    assert!(matches!(error, ForwardError::Broken(_)), "{error}");
    let again = poll_fn(|cx| Poll::Ready(agent.0.poll_accept(cx).is_ready())).await;
    assert!(!again, "the message was sent again on another connection");
}

#[tokio::test]
async fn agent_connection_is_closed_when_caller_disconnects() {
    let message = message();
    let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
    let (target, limits) = (agent.target(), limits());
    // Dropped before the response begins.
    let caller = {
        let mut asking = pin!(forwarder.forward(&target, &message, &limits));
        tokio::select! {
            answer = &mut asking => panic!("unexpected response: {answer:?}"),
            caller = async {
                let mut caller = agent.accepts().await;
                caller.reads().await;
                caller
            } => caller,
        }
    };
    caller.waits_for_close().await;
    // Dropped during the response.
    let (answer, caller) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
        let mut caller = agent.accepts().await;
        caller.reads().await;
        caller.sends("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfirst").await;
        caller
    });
    let mut body = answer.unwrap().into_body();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "first");
    drop(body);
    caller.waits_for_close().await;
}

#[tokio::test]
async fn response_with_excessive_content_length_is_refused() {
    let message = message();
    let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
    let (target, limits) = (agent.target(), limits());
    let (answer, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
        let mut caller = agent.accepts().await;
        caller.reads().await;
        caller.sends(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", (64 << 20) + 1)).await;
        caller.waits_for_close().await;
    });
    assert_eq!(answer.unwrap_err(), ForwardError::TooLarge);
}

#[tokio::test]
async fn chunked_response_over_the_limit_ends_with_an_error() {
    let message = message();
    let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
    let (target, limits) = (agent.target(), ForwardLimits { response: 10, ..limits() });
    for (answer, passes) in [("5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", true), ("b\r\nhello world\r\n", false)]
    {
        let (passed, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller.sends(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{answer}")).await;
        });
        assert_eq!(whole(passed.unwrap()).await.is_ok(), passes, "{answer}");
    }
}

#[tokio::test]
async fn truncated_response_ends_with_an_error() {
    let message = message();
    let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
    let (target, limits) = (agent.target(), limits());
    for begun in ["content-length: 10\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let (passed, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller.sends(&format!("HTTP/1.1 200 OK\r\n{begun}")).await;
        });
        assert!(whole(passed.unwrap()).await.is_err(), "{begun}");
    }
}

#[tokio::test]
async fn refused_connection_is_distinguished_from_missing_response() {
    let message = message();
    let (agent, (_, forwarder)) = (Agent::new().await, forwarder());
    let (target, limits) = (agent.target(), limits());
    for nonsense in ["", "SSH-2.0-OpenSSH\r\n\r\n"] {
        let (answer, ()) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
            let mut caller = agent.accepts().await;
            caller.reads().await;
            caller.sends(nonsense).await;
        });
        assert!(matches!(answer, Err(ForwardError::Broken(_))), "{nonsense:?}: {answer:?}");
    }
    drop(agent);
    assert_eq!(forwarder.forward(&target, &message, &limits).await.unwrap_err(), ForwardError::Refused);
}

/// Returns the limit that ended the wait for a response that never comes, and the duration of the wait in seconds of
/// the test clock.
async fn exceeded_limit(
    request: ForwardRequest,
    limits: ForwardLimits,
    clock: Arc<ManualClock>,
) -> (Overdue, u64) {
    let agent = Agent::new().await;
    let forwarder = Forwarder::new(clock.clone(), Dial::Tcp);
    let (began, target) = (clock.awake(), agent.target());
    let serve = async {
        let mut caller = agent.accepts().await;
        caller.reads().await;
        std::future::pending::<()>().await;
    };
    let mut asking = pin!(forwarder.forward(&target, &request, &limits));
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
async fn request_times_out_after_five_minutes_of_silence() {
    let clock = Arc::new(ManualClock::default());
    assert_eq!(exceeded_limit(message(), limits(), clock).await, (Overdue::Silent, 300));
}

#[tokio::test]
async fn agent_activity_extends_request_timeout_up_to_30_minutes() {
    let clock = Arc::new(ManualClock::default());
    let beating = clock.clone();
    let limits = ForwardLimits::new(Arc::new(move || Some(beating.awake())));
    assert_eq!(exceeded_limit(message(), limits, clock).await, (Overdue::Whole, 1800));
}

#[tokio::test]
async fn caller_may_shorten_but_not_extend_the_timeout() {
    for (wanted, overdue) in [
        ("60", (Overdue::Whole, 60)),
        ("999999999", (Overdue::Silent, 300)),
        ("0", (Overdue::Silent, 300)),
        ("-5", (Overdue::Silent, 300)),
        ("soon", (Overdue::Silent, 300)),
    ] {
        let mut request = message();
        request.headers.insert(TIMEOUT, HeaderValue::from_static(wanted));
        let clock = Arc::new(ManualClock::default());
        assert_eq!(exceeded_limit(request, limits(), clock).await, overdue, "{wanted}");
    }
}

#[tokio::test]
async fn response_that_stalls_ends_with_an_error() {
    let message = message();
    let (agent, (clock, forwarder)) = (Agent::new().await, forwarder());
    let (target, limits) = (agent.target(), limits());
    let (answer, mut caller) = tokio::join!(forwarder.forward(&target, &message, &limits), async {
        let mut caller = agent.accepts().await;
        caller.reads().await;
        caller.sends("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n").await;
        caller
    });
    let mut body = answer.unwrap().into_body();
    for _ in 0..4 {
        // Every byte restarts the idle limit.
        clock.advance(Duration::from_secs(299));
        caller.sends("x").await;
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "x");
    }
    let (end, ()) = tokio::join!(next(&mut body), async {
        for _ in 0..300 {
            tokio::task::yield_now().await;
            clock.advance(Duration::from_secs(1));
        }
    });
    assert!(end.unwrap().is_err());
    caller.waits_for_close().await;
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

fn completed(text: &str) -> Result<serde_json::Value, NotJson> {
    let mut count = 0;
    let bytes = complete_message(&Bytes::copy_from_slice(text.as_bytes()), || {
        count += 1;
        format!("fresh-{count}")
    })?;
    Ok(serde_json::from_slice(&bytes).unwrap())
}

#[test]
fn complete_message_keeps_its_bytes_unchanged() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"message/send","params":{"message":{"messageId":"m"}}}"#,
        r#" { "jsonrpc" : "2.0", "id":"x", "params":{"message":{"messageId":"m","n":1e999}},"x":1.0 } "#,
        r#"{"jsonrpc":"2.0","id":0,"method":"tasks/get","params":{"id":"t"}}"#,
        r#"{"jsonrpc":"2.0","id":0,"method":"x","params":[1,2]}"#,
        r#"{"jsonrpc":"2.0","id":0,"method":"x","params":{"message":"text"}}"#,
        r#"{"jsonrpc":"2.0","id":0,"method":"x"}"#,
    ] {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let same = complete_message(&bytes, || panic!("no id is missing in {text}")).unwrap();
        assert_eq!(same.as_ptr(), bytes.as_ptr(), "{text} was copied");
        assert_eq!(same, bytes);
    }
}

#[test]
fn missing_message_fields_are_added_and_others_kept() {
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
    // A number that fits into no machine type keeps its original text.
    let large = Bytes::from_static(br#"{"id":1,"n":123456789012345678901234567890.10}"#);
    let large = complete_message(&large, || "m".into()).unwrap();
    assert_eq!(large, r#"{"id":1,"jsonrpc":"2.0","n":123456789012345678901234567890.10}"#);
}

#[test]
fn invalid_message_is_refused() {
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
        assert!(completed(text).is_err(), "{text:?} was accepted");
    }
    assert!(
        complete_message(&Bytes::from_static(b"{\"a\":\"\xff\"}"), String::new).is_err(),
        "invalid UTF-8 was accepted"
    );
}

#[test]
fn deeply_nested_message_does_not_overflow_the_stack() {
    for nested in ["{\"a\":", "["] {
        let (open, close) = (nested.repeat(500_000), if nested == "[" { "]" } else { "}" }.repeat(500_000));
        let text = format!("{{\"params\":{{\"message\":{{\"x\":{open}1{close}}}}}}}");
        let whole = complete_message(&text.into(), || "m".into());
        assert!(whole.is_ok_and(|whole| whole.ends_with(b"}")));
    }
}
