//! Headers: what passes between a caller and an agent.

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header},
};
use http_body_util::Full;
use std::time::Duration;

use super::{ForwardError, ForwardRequest, Place, Target};

/// Who asks, told to the agent.
const CALLER: HeaderName = HeaderName::from_static("x-workspace-id");

/// Shows the agent that ostler sends the request, see [`crate::domain::token::Proof`]. A caller's own does not pass.
const PROOF: HeaderName = HeaderName::from_static("x-ostler-proof");

/// Seconds that the caller wants to wait at most.
pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("x-timeout");

/// Whether a request header passes from the caller to the agent. Nothing else does: no credentials of any kind,
/// nothing about the connection, nothing about the way it came.
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
            // The name of A2A 0.3; from 1.0 on it is `A2A-Extensions`.
            | "x-a2a-extensions"
    ) || name.starts_with("a2a-")
}

/// Whether a response header passes from the agent to the caller. Nothing else does. The answer leaves from ostler's
/// own origin, so other headers could redirect the caller and its token (`Location`, `Refresh`), ask for credentials,
/// set cookies, or change who may read the origin.
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

/// Whether an answer of this status passes. A redirect would make an HTTP client repeat the request elsewhere with
/// its token; a status outside the registered classes has no meaning to act on.
pub(super) fn passes_back(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=299 | 400..=599)
}

/// The time that the caller wants to wait; nonsense counts as nothing said.
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
    passed.insert(CALLER, HeaderValue::try_from(caller).map_err(|_| unsayable("the caller's id"))?);
    let named = named_by_connection(headers);
    for (name, value) in headers {
        if passes_to_agent(name.as_str()) && !named.contains(name) {
            passed.append(name, value.clone());
        }
    }
    passed.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    Ok(request)
}

/// A request for the agent's card (wire protocol, §1): every agent answers it somehow, and it changes nothing.
pub(super) fn card_request(target: &Target) -> Result<Request<Full<Bytes>>, ForwardError> {
    let mut request = request_to(target, Method::GET, Bytes::new())?;
    *request.uri_mut() = Uri::from_static("/.well-known/agent.json");
    Ok(request)
}

/// Every request to an agent is made here, so that each carries the proof.
fn request_to(target: &Target, method: Method, body: Bytes) -> Result<Request<Full<Bytes>>, ForwardError> {
    let (host, uri) = match &target.place {
        Place::Local(address) => (address.to_string(), Uri::from_static("/")),
        Place::Checked(checked) => {
            let path = checked.uri().path_and_query().map_or("/", |path| path.as_str());
            let uri = path.parse().map_err(|_| unsayable("the agent's url"))?;
            (checked.uri().authority().map(ToString::to_string).unwrap_or_default(), uri)
        }
    };
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::try_from(host).map_err(|_| unsayable("the agent's host"))?);
    if matches!(target.place, Place::Checked(_)) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    for proof in &target.proofs {
        let mut value = HeaderValue::try_from(proof.expose()).map_err(|_| unsayable("the proof"))?;
        value.set_sensitive(true);
        headers.append(PROOF, value);
    }
    Ok(request)
}

fn unsayable(what: &str) -> ForwardError {
    ForwardError::Unusable(format!("{what} cannot be written in a header"))
}

/// Removes every response header that does not pass.
pub(super) fn clean_answer(headers: &mut HeaderMap) {
    let named = named_by_connection(headers);
    // Of two ways to say where a message ends the length is the one that does not count.
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

/// The headers that `Connection` says are only for one connection.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}
