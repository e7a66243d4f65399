//! Headers: what passes between a caller and an agent.

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header},
};
use http_body_util::Full;
use std::time::Duration;

use super::{ForwardError, ForwardRequest, Target};

/// Who asks, told to the agent.
const CALLER: HeaderName = HeaderName::from_static("x-workspace-id");

/// Seconds that the caller wants to wait at most.
pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("x-timeout");

/// What passes from the caller to the agent. Nothing else does: no credentials of any kind, nothing
/// about the connection, nothing about the way it came.
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
    ) || name.starts_with("a2a-")
}

/// What belongs to one connection and not to the message.
fn is_of_the_connection(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What an agent may not say in ostler's name. Its answer leaves from the origin that also serves the
/// dashboard, so these would set cookies there, or rule over who may read it and how it is reached.
fn is_of_the_origin(name: &str) -> bool {
    matches!(
        name,
        "set-cookie" | "strict-transport-security" | "alt-svc" | "clear-site-data" | "service-worker-allowed"
    ) || name.starts_with("access-control-")
}

/// The time that the caller wants to wait; nonsense counts as nothing said.
pub(super) fn wanted_limit(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(TIMEOUT)?.to_str().ok()?.trim().parse().ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

pub(super) fn to_agent(
    target: &Target,
    request: ForwardRequest,
) -> Result<Request<Full<Bytes>>, ForwardError> {
    let ForwardRequest { body, headers, caller } = request;
    let unsayable = |what: &str| ForwardError::Unreachable(format!("{what} cannot be said in a header"));
    let (host, uri) = match target {
        Target::Local(address) => (address.to_string(), Uri::from_static("/")),
        Target::Checked(checked) => {
            let path = checked.uri().path_and_query().map_or("/", |path| path.as_str());
            let uri = path.parse().map_err(|_| unsayable("the agent's url"))?;
            (checked.uri().authority().map(ToString::to_string).unwrap_or_default(), uri)
        }
    };
    let mut passed = HeaderMap::with_capacity(8);
    passed.insert(header::HOST, HeaderValue::try_from(host).map_err(|_| unsayable("the agent's host"))?);
    passed.insert(CALLER, HeaderValue::try_from(caller).map_err(|_| unsayable("the caller's id"))?);
    let named = named_by_connection(&headers);
    for (name, value) in &headers {
        if passes_to_agent(name.as_str()) && !named.contains(name) {
            passed.append(name, value.clone());
        }
    }
    passed.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    if matches!(target, Target::Checked(_)) {
        passed.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = passed;
    Ok(request)
}

pub(super) fn clean_answer(headers: &mut HeaderMap) {
    let mut stays = named_by_connection(headers);
    // Of two ways to say where a message ends the length is the one that does not count.
    if headers.contains_key(header::TRANSFER_ENCODING) {
        stays.push(header::CONTENT_LENGTH);
    }
    let of_others =
        |name: &&HeaderName| is_of_the_connection(name.as_str()) || is_of_the_origin(name.as_str());
    stays.extend(headers.keys().filter(of_others).cloned());
    for name in stays {
        headers.remove(name);
    }
}

/// The headers that `Connection` says are only for one connection.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}
