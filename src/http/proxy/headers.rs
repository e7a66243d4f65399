//! Which headers are forwarded between a caller and an agent.

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header},
};
use http_body_util::Full;
use std::time::Duration;

use super::{
    error::ForwardError,
    request::ForwardRequest,
    target::{Location, Target},
};

/// Names the workspace that sent the message.
const CALLER: HeaderName = HeaderName::from_static("x-workspace-id");

/// Proves to the agent that ostler sent the request, see [`crate::domain::token::Proof`]. A caller's header of this
/// name is not forwarded.
const PROOF: HeaderName = HeaderName::from_static("x-ostler-proof");

/// The longest time that the caller wants to wait, in seconds.
pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("x-timeout");

/// Whether a request header is forwarded to the agent.
///
/// All other headers are dropped: credentials of any kind, headers about the connection, and headers that other proxies
/// have added.
fn passes_to_agent(name: &str) -> bool {
    matches!(
        name,
        "content-type"
            | "accept"
            | "accept-language"
            | "last-event-id"
            | "traceparent"
            | "tracestate"
            | "x-timeout"
            // The header of A2A 0.3; since 1.0 it is `A2A-Extensions`.
            | "x-a2a-extensions"
    ) || name.starts_with("a2a-")
}

/// Whether a response header is forwarded to the caller.
///
/// All other headers are dropped. The caller receives the response from ostler's own origin, so other headers could
/// redirect the caller and its token (`Location`, `Refresh`), ask for credentials, set cookies, or change which origins
/// may read the response.
fn passes_to_caller(name: &str) -> bool {
    matches!(
        name,
        "content-type"
            | "content-length"
            | "content-encoding"
            | "content-language"
            | "cache-control"
            | "retry-after"
            | "traceparent"
            | "tracestate"
            | "x-a2a-extensions"
    ) || name.starts_with("a2a-")
}

/// Whether a response with this status is forwarded.
///
/// A redirect would make an HTTP client repeat the request elsewhere with its token. A status outside the registered
/// classes has no defined meaning.
pub(super) fn passes_back(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=299 | 400..=599)
}

/// The caller's time limit; `None` if the header is missing, zero or not a number.
pub(super) fn wanted_limit(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(TIMEOUT)?.to_str().ok()?.trim().parse().ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

pub(super) fn to_agent(
    target: &Target,
    message: &ForwardRequest,
) -> Result<Request<Full<Bytes>>, ForwardError> {
    let ForwardRequest { body, headers, caller } = message;
    let mut request = request_to(target, Method::POST, body.clone())?;
    let passed = request.headers_mut();
    passed.insert(CALLER, HeaderValue::try_from(caller).map_err(|_| unencodable("the caller's id"))?);
    let named = named_by_connection(headers);
    for (name, value) in headers {
        if passes_to_agent(name.as_str()) && !named.contains(name) {
            passed.append(name, value.clone());
        }
    }
    passed.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    Ok(request)
}

/// A request for the agent's card (wire protocol, §1). Every agent sends some response to it, and it has no side
/// effects.
pub(super) fn card_request(target: &Target) -> Result<Request<Full<Bytes>>, ForwardError> {
    let mut request = request_to(target, Method::GET, Bytes::new())?;
    *request.uri_mut() = Uri::from_static("/.well-known/agent.json");
    Ok(request)
}

/// Builds every request to an agent, so that each one carries the proof.
fn request_to(target: &Target, method: Method, body: Bytes) -> Result<Request<Full<Bytes>>, ForwardError> {
    let (host, uri) = match &target.location {
        Location::Local(address) => (address.to_string(), Uri::from_static("/")),
        Location::Checked(checked) => {
            let path = checked.uri().path_and_query().map_or("/", |path| path.as_str());
            let uri = path.parse().map_err(|_| unencodable("the agent's url"))?;
            (checked.uri().authority().map(ToString::to_string).unwrap_or_default(), uri)
        }
    };
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::try_from(host).map_err(|_| unencodable("the agent's host"))?);
    if matches!(target.location, Location::Checked(_)) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    for proof in &target.proofs {
        let mut value = HeaderValue::try_from(proof.expose()).map_err(|_| unencodable("the proof"))?;
        value.set_sensitive(true);
        headers.append(PROOF, value);
    }
    Ok(request)
}

fn unencodable(what: &str) -> ForwardError {
    ForwardError::Unusable(format!("{what} cannot be encoded in a request header"))
}

/// Removes the response headers that are not forwarded.
pub(super) fn clean_answer(headers: &mut HeaderMap) {
    let named = named_by_connection(headers);
    // If `Transfer-Encoding` is present, it determines the end of the message and `Content-Length` is ignored, so the
    // latter is not forwarded.
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let stays = |name: &&HeaderName| {
        !passes_to_caller(name.as_str())
            || named.contains(name)
            || (chunked && **name == header::CONTENT_LENGTH)
    };
    let removed: Vec<_> = headers.keys().filter(stays).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
}

/// The headers that `Connection` lists as valid for one connection only.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use super::*;
    use crate::http::proxy::testing::{Agent, HELLO, forwarder, limits, message, proof, whole};

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
                    .sends(&format!(
                        "HTTP/1.1 {status} x\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
                    ))
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
}
