//! Which headers are forwarded between a caller and an agent.

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header},
};
use http_body_util::Full;
use std::time::Duration;

use super::{ForwardError, ForwardRequest, Location, Target};

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
