//! Hostile requests: malformed ones, valid ones with mutated structure, every route with every kind of token (foreign,
//! revoked, none).
//!
//! Each request depends only on a seed and its number. The expected outcome is computed here, independently of the
//! server, from caller and target; every request that may not succeed has to be refused.

use std::{fmt, net::SocketAddr};

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::time::{Duration, Instant};

use super::{
    Notes,
    answer::{Answer, Line, Read, escaped},
    loopback,
    served::{Caller, Served},
};
use crate::support::rng::Rng;

/// Limit for an answer. Requests that may be held ask for a shorter time.
const LIMIT: Duration = Duration::from_secs(30);
/// Maximum number of requests on one connection.
const PER_LINE: u64 = 50;

/// Minimum number of requests for each seed, however long they take.
const AT_LEAST: u64 = 1000;

/// The server and the workspaces that requests are about.
#[derive(Clone)]
pub(super) struct Target {
    address: SocketAddr,
    admin: String,
    agents: Vec<Caller>,
    noisy: Vec<Caller>,
    stale: Vec<Caller>,
}

impl Target {
    pub(super) fn of(served: &Served) -> Self {
        let Served { address, admin, agents, noisy, stale, .. } = served;
        let (admin, agents) = (admin.clone(), agents.clone());
        Self { address: *address, admin, agents, noisy: noisy.clone(), stale: stale.clone() }
    }
}

/// The kind of token that a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Credential {
    Missing,
    Garbled,
    /// A revoked token, or the token of a removed workspace.
    Stale,
    Workspace,
    Admin,
}

struct Request {
    kind: &'static str,
    bytes: Vec<u8>,
    head: bool,
    /// Whether it is well-formed HTTP. Then exactly one answer is due, and `may_succeed` is known.
    whole: bool,
    may_succeed: bool,
}

/// Routes for agents, with placeholders `ID` and `WORD`.
const FOR_AGENTS: [(&str, &str); 27] = [
    ("POST", "/registry/heartbeat"),
    ("POST", "/registry/register"),
    ("POST", "/registry/update-card"),
    ("POST", "/registry/check-access"),
    ("GET", "/registry/discover/ID"),
    ("GET", "/registry/ID/peers?q=WORD"),
    ("GET", "/workspaces/ID"),
    ("PATCH", "/workspaces/ID"),
    ("POST", "/workspaces/ID/a2a"),
    ("POST", "/workspaces/ID/activity"),
    ("GET", "/workspaces/ID/activity"),
    ("POST", "/workspaces/ID/activity/ack"),
    ("POST", "/workspaces/ID/delegate"),
    ("GET", "/workspaces/ID/delegations"),
    ("POST", "/workspaces/ID/delegations/record"),
    ("POST", "/workspaces/ID/delegations/WORD/update"),
    ("POST", "/workspaces/ID/notify"),
    ("GET", "/workspaces/ID/memories?q=WORD"),
    ("POST", "/workspaces/ID/memories"),
    ("DELETE", "/workspaces/ID/memories/WORD"),
    ("DELETE", "/workspaces/ID/v2/memories/WORD"),
    ("POST", "/workspaces/ID/hibernate?force=WORD"),
    ("POST", "/workspaces/ID/restart?wait=false"),
    ("GET", "/workspaces/ID/state"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("POST", "/registry/heartbeat"),
];
const FOR_ADMINS: [(&str, &str); 24] = [
    ("GET", "/workspaces?removed=WORD"),
    ("POST", "/workspaces"),
    ("DELETE", "/workspaces/ID?confirm=WORD"),
    ("POST", "/workspaces/ID/start?wait=WORD"),
    ("POST", "/workspaces/ID/stop?wait=WORD"),
    ("POST", "/workspaces/ID/wake?wait=WORD"),
    ("POST", "/workspaces/ID/recreate?wait=WORD"),
    // `WORD` is never the id of a removed workspace. An admin's undelete would make its stale token valid again.
    ("POST", "/workspaces/WORD/undelete?wait=WORD"),
    ("POST", "/workspaces/ID/exec"),
    ("GET", "/workspaces/ID/tokens"),
    ("POST", "/workspaces/ID/tokens"),
    ("DELETE", "/workspaces/ID/tokens/WORD"),
    ("POST", "/admin/tokens"),
    ("DELETE", "/admin/tokens/WORD"),
    ("POST", "/exec/WORD/resize"),
    ("POST", "/trash/WORD/restore"),
    ("GET", "/sweeps/WORD"),
    ("POST", "/sweeps/WORD/approve"),
    ("GET", "/events?limit=WORD"),
    ("GET", "/events/ID?limit=WORD"),
    ("GET", "/trash"),
    // From here on, routes that noise does not use with the admin token.
    ("POST", "/adopt"),
    ("GET", "/events/stream"),
    ("GET", "/workspaces/ID/logs"),
];
/// Number of these routes that are used with the admin token. The others would change state that the campaign depends
/// on, or have endless answers.
const USED_AS_ADMIN: usize = 21;

/// Paths that do not exist.
const NOWHERE: [&str; 6] = [
    "/WORD",
    "/nowhere/ID",
    "/registry/WORD",
    "/workspaces/ID/nothing",
    "/workspaces/ID/tokens/WORD/more",
    "/registry/ID/peers/WORD",
];
/// Routes of similar platforms that ostler does not implement.
const ELSEWHERE: [&str; 4] =
    ["/approvals/pending", "/canvas/ID", "/workspaces/ID/secrets", "/workspaces/ID/files/WORD"];
const TO_ELSEWHERE: &str = "requests to routes that ostler does not implement";

const TEXTS: [&str; 22] = [
    "true",
    "false",
    "%00",
    "..",
    "%2e%2e%2f",
    "-1",
    "0",
    "99999999999999999999",
    "",
    "%F0%9F",
    "%ff%fe",
    "a&b=c",
    "null",
    "settle",
    "%25",
    "%",
    "%zz",
    "a%2fb",
    "noisy-0",
    "NaN",
    "[]",
    "%E2%80%AE",
];

const VALUES: [&str; 36] = [
    "null",
    "true",
    "-1",
    "0",
    "1",
    "1e308",
    "1e999",
    "-1e999",
    "0.5",
    "1e-400",
    "18446744073709551616",
    "-0",
    "00",
    "0x10",
    "NaN",
    "Infinity",
    "\"\"",
    "\"x\"",
    "[]",
    "{}",
    "[[[]]]",
    "[1,\"a\",null]",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"\\uD83D\\uDE00\"",
    "\"\u{202e}\u{feff}\u{0301}\"",
    "\"\\x\"",
    "\"open",
    "{\"a\":{\"a\":{}}}",
    "{\"capabilities\":{\"status_mgmt\":true}}",
    "{\"capabilities\":[]}",
    "{\"idle_timeout_seconds\":1e30}",
    "\"http://169.254.169.254/latest\"",
    "\"http://[::1]:1/\"",
    "\"file:///etc/passwd\"",
];

/// A body as pairs of key and JSON value text.
fn fields(path: &str, id: &str, rng: &mut Rng) -> Vec<(String, String)> {
    let quoted = |text: &str| format!("\"{text}\"");
    let fields: Vec<(&str, String)> = if path.starts_with("/registry/heartbeat") {
        let mut fields = vec![
            ("workspace_id", quoted(id)),
            ("error_rate", "0.25".into()),
            ("sample_error", "\"none\"".into()),
            ("active_tasks", "1".into()),
            ("uptime_seconds", "60".into()),
            ("current_task", "\"noise\"".into()),
            ("monthly_spend", "12".into()),
            ("runtime_state", "\"\"".into()),
        ];
        if rng.one_in(3) {
            fields.push(("runtime_metadata", "{\"capabilities\":{\"status_mgmt\":true}}".into()));
        }
        fields
    } else if path.starts_with("/registry/register") {
        vec![("id", quoted(id)), ("url", "\"\"".into()), ("agent_card", "{\"name\":\"card\"}".into())]
    } else if path.starts_with("/registry/update-card") {
        vec![("workspace_id", quoted(id)), ("agent_card", "{\"name\":\"card\"}".into())]
    } else if path.starts_with("/registry/check-access") {
        vec![("caller_id", quoted(id)), ("target_id", quoted(id))]
    } else if path.ends_with("/a2a") {
        vec![
            ("method", "\"message/send\"".into()),
            ("params", "{\"message\":{\"parts\":[{\"text\":\"hi\"}]}}".into()),
        ]
    } else if path.ends_with("/delegate") {
        vec![("target_id", quoted(id)), ("task", "\"noise\"".into()), ("idempotency_key", "\"k\"".into())]
    } else if path.ends_with("/record") {
        vec![("target_id", quoted(id)), ("delegation_id", quoted(id)), ("task", "\"noise\"".into())]
    } else if path.ends_with("/update") {
        vec![("status", "\"completed\"".into()), ("response_preview", "\"noise\"".into())]
    } else if path.ends_with("/notify") {
        vec![("message", "\"noise\"".into()), ("attachments", "[]".into())]
    } else if path.ends_with("/memories") {
        vec![("content", "\"noise\"".into()), ("scope", "\"LOCAL\"".into())]
    } else if path.ends_with("/ack") {
        vec![("acked_seq", "0".into())]
    } else if path.contains("/tokens") {
        vec![("name", "\"noise\"".into()), ("expires_in_seconds", "60".into())]
    } else if path == "/workspaces" {
        vec![("name", format!("\"made-{}\"", rng.below(40))), ("external", "true".into())]
    } else if path.starts_with("/workspaces/") {
        vec![("role", "\"noise\"".into())]
    } else {
        Vec::new()
    };
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// All keys of all bodies; any of them may be put into any body.
const KEYS: [&str; 24] = [
    "workspace_id",
    "id",
    "url",
    "agent_card",
    "error_rate",
    "active_tasks",
    "runtime_metadata",
    "caller_id",
    "target_id",
    "method",
    "params",
    "jsonrpc",
    "name",
    "role",
    "tier",
    "parent_id",
    "image",
    "env",
    "config",
    "hibernation_idle_minutes",
    "expires_in_seconds",
    "command",
    "__proto__",
    "",
];

/// A body with mutated structure, then mutated bytes.
fn body(path: &str, id: &str, other: &str, rng: &mut Rng) -> Vec<u8> {
    let mut fields = fields(path, id, rng);
    for _ in 0..rng.below(4) {
        match rng.below(7) {
            0 if !fields.is_empty() => {
                let at = rng.below(fields.len());
                rng.pick(&VALUES).clone_into(&mut fields[at].1);
            }
            1 if !fields.is_empty() => drop(fields.remove(rng.below(fields.len()))),
            2 if !fields.is_empty() => {
                // A duplicate key: with the same value, another workspace's id, or any value.
                let (key, same) = fields[rng.below(fields.len())].clone();
                let second = match rng.below(3) {
                    0 => same,
                    1 => format!("\"{other}\""),
                    _ => rng.pick(&VALUES).to_owned(),
                };
                fields.insert(rng.below(fields.len() + 1), (key, second));
            }
            3 => fields.push((rng.pick(&KEYS).to_owned(), rng.pick(&VALUES).to_owned())),
            4 => fields.push((rng.pick(&KEYS).to_owned(), format!("\"{other}\""))),
            5 => {
                let (open, close) = if rng.one_in(2) { ("[", "]") } else { ("{\"a\":", "}") };
                let deep = [10, 127, 129, 4000][rng.below(4)];
                let nested = open.repeat(deep) + "1" + &close.repeat(if rng.one_in(4) { 0 } else { deep });
                fields.push((rng.pick(&KEYS).to_owned(), nested));
            }
            _ => {
                let long = [100, 2049, 70_000][rng.below(3)];
                let filling = rng.pick(&["x", "\u{1F600}", "\\u0000", " "]);
                fields.push((
                    rng.pick(&KEYS).to_owned(),
                    format!("\"{}\"", filling.repeat(long / filling.len())),
                ));
            }
        }
    }
    let inner: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
    let mut body = format!("{{{}}}", inner.join(",")).into_bytes();
    if rng.one_in(4) {
        match rng.below(8) {
            0 => body.truncate(rng.below(body.len())),
            1 => body.insert(0, 0xff),
            2 => drop(body.splice(0..0, *b"\xef\xbb\xbf")),
            3 => body.extend(b"{}"),
            4 => body = format!("[{}]", String::from_utf8_lossy(&body)).into_bytes(),
            5 => {
                let long = rng.below(300);
                body = rng.bytes(long);
            }
            6 => body.clear(),
            _ => {
                for _ in 0..=rng.below(4) {
                    let at = rng.below(body.len());
                    body[at] = rng.byte();
                }
            }
        }
    }
    body
}

/// The id under this key, if the body is an object. Everything else is skipped as the server skips it: at any depth
/// and size, without a check that its bytes are UTF-8.
///
/// `Err` if the body is not JSON.
fn names(body: &[u8], key: &str) -> Result<Option<String>, serde_json::Error> {
    struct Of<'a>(&'a str);

    impl<'de> Visitor<'de> for Of<'_> {
        type Value = Option<String>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
            let mut named = None;
            while let Some(field) = fields.next_key::<String>()? {
                if field == self.0 {
                    let value = fields.next_value::<&RawValue>()?;
                    named = serde_json::from_str(value.get()).ok();
                } else {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
            Ok(named)
        }
    }

    let mut body = serde_json::Deserializer::from_slice(body);
    let named = body.deserialize_map(Of(key))?;
    body.end()?;
    Ok(named)
}

/// Number of bytes that the server reads of an agent's report. It ignores the rest of a longer body.
const REPORT_READ: usize = 64 << 10;

/// Whether that id is the caller's; ids are compared without regard to case.
fn is_caller(id: Option<&str>, caller: &str) -> bool {
    id.is_some_and(|id| id.eq_ignore_ascii_case(caller))
}

/// Whether the server may accept a heartbeat or registration as the caller's own. This is so if it names the caller's
/// id, even if it is not valid JSON. It is also so if it is too long and the part that is read names no id: then the
/// token determines the workspace.
fn reports_of(caller: &str, body: &[u8], key: &str) -> bool {
    let read = String::from_utf8_lossy(&body[..body.len().min(REPORT_READ)]);
    let is_unnamed = body.len() > REPORT_READ && !read.contains(&format!("\"{key}\""));
    is_unnamed
        || match names(body, key) {
            Ok(named) => is_caller(named.as_deref(), caller),
            Err(_flawed) => {
                let before = format!("\"{key}\":\"");
                let ids = read.match_indices(&before).map(|(at, _)| &read[at + before.len()..]);
                let mut ids = ids.filter_map(|from| from.split_once('"'));
                ids.any(|(id, _)| is_caller(Some(id), caller))
            }
        }
}

/// Whether a request may succeed, according to the protocol (§3 to §6).
fn may_succeed(
    method: &str,
    path: &str,
    credential: Credential,
    caller: &str,
    named: &str,
    claims: Option<&str>,
    body: &[u8],
) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    if matches!(path, "/health" | "/ready") {
        return true;
    }
    let own = is_caller(Some(named), caller);
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    match credential {
        Credential::Missing | Credential::Garbled | Credential::Stale => false,
        // An admin is not an agent.
        Credential::Admin => !matches!(parts[..], ["registry", "heartbeat" | "register" | "update-card"]),
        Credential::Workspace => match (method, &parts[..]) {
            ("POST", ["registry", "heartbeat" | "update-card"]) => reports_of(caller, body, "workspace_id"),
            ("POST", ["registry", "register"]) => reports_of(caller, body, "id"),
            ("POST", ["registry", "check-access"]) => {
                names(body, "caller_id").is_ok_and(|named| is_caller(named.as_deref(), caller))
            }
            ("GET" | "HEAD", ["registry", "discover", _]) => claims == Some(caller),
            ("GET" | "HEAD", ["registry", _, "peers"]) => own,
            ("GET" | "HEAD", ["workspaces", _]) => true,
            ("PATCH", ["workspaces", _]) => own,
            ("POST", ["workspaces", _, "a2a"]) => claims.is_none_or(|claims| claims == caller),
            (
                "POST",
                ["workspaces", _, "activity" | "delegate" | "hibernate" | "memories" | "notify" | "restart"],
            ) => own,
            ("POST", ["workspaces", _, "activity", "ack"] | ["workspaces", _, "delegations", "record"]) => {
                own
            }
            ("POST", ["workspaces", _, "delegations", _, "update"]) => own,
            ("DELETE", ["workspaces", _, "memories", _] | ["workspaces", _, "v2", "memories", _]) => own,
            ("GET" | "HEAD", ["workspaces", _, "activity" | "delegations" | "memories" | "state"]) => own,
            _ => false,
        },
    }
}

/// A request to a route, with a body where it may have one.
fn to_a_route(rng: &mut Rng, target: &Target) -> Request {
    let caller = rng.pick(&target.noisy);
    let among = if rng.one_in(3) { &target.noisy } else { &target.agents };
    let victim = rng.pick(among).id;
    let credential = match rng.below(16) {
        0 => Credential::Missing,
        1 => Credential::Garbled,
        2 => Credential::Stale,
        3 | 4 => Credential::Admin,
        _ => Credential::Workspace,
    };
    let agents_route = !rng.one_in(3);
    let (mut method, template) = match (agents_route, credential) {
        (true, _) => FOR_AGENTS[rng.below(FOR_AGENTS.len())],
        (false, Credential::Admin) => FOR_ADMINS[rng.below(USED_AS_ADMIN)],
        (false, _) => FOR_ADMINS[rng.below(FOR_ADMINS.len())],
    };
    let stale = rng.pick(&target.stale);
    let named = match rng.below(8) {
        0 => rng.pick(&TEXTS).to_owned(),
        1 => caller.id.to_uppercase(),
        2 => stale.id.clone(),
        // With the admin token such a request would be allowed and would change a watched agent, so it is not sent.
        3..=5 if credential != Credential::Admin => victim.clone(),
        _ => caller.id.clone(),
    };
    let path = template.replace("ID", &named).replace("WORD", rng.pick(&TEXTS));
    if rng.one_in(12) && credential != Credential::Admin {
        method = rng.pick(&[
            "GET",
            "POST",
            "PUT",
            "DELETE",
            "PATCH",
            "HEAD",
            "OPTIONS",
            "TRACE",
            "BREW",
            "CONNECTED",
        ]);
    }
    let mut lines = vec![format!("{method} {path} HTTP/1.1"), "Host: noise".to_owned()];
    let token = match credential {
        Credential::Missing => None,
        Credential::Garbled => Some(match rng.below(6) {
            0 => "Bearer".to_owned(),
            1 => format!("Bearer{}", caller.token),
            2 => format!("Bearer {0} {0}", caller.token),
            3 => format!("Bearer {}", &caller.token[1..]),
            4 => format!("Bearer {}\u{e4}", caller.token),
            _ => format!("Basic {}", caller.token),
        }),
        Credential::Stale => Some(format!("Bearer {}", stale.token)),
        // The scheme in any case, followed by one or more spaces (RFC 9110, 11.1 and 11.4).
        Credential::Workspace => {
            let scheme = rng.pick(&["Bearer ", "Bearer ", "Bearer ", "bearer ", "BEARER  "]);
            Some(format!("{scheme}{}", caller.token))
        }
        Credential::Admin => Some(format!("Bearer {}", target.admin)),
    };
    lines.extend(token.map(|token| format!("Authorization: {token}")));
    let claims = match rng.below(4) {
        0 => Some(caller.id.clone()),
        1 => Some(victim.clone()),
        _ => None,
    };
    lines.extend(claims.iter().map(|claims| format!("X-Workspace-ID: {claims}")));
    // Keeps waiting requests short.
    lines.push("X-Timeout: 1".into());
    let body_id = if rng.one_in(4) { &victim } else { &caller.id };
    let bare = template.split('?').next().unwrap_or_default();
    let body = if method == "GET" { Vec::new() } else { body(bare, body_id, &victim, rng) };
    let may_succeed = may_succeed(method, &path, credential, &caller.id, &named, claims.as_deref(), &body);
    if !body.is_empty() || method != "GET" {
        lines.push(format!("Content-Length: {}", body.len()));
    }
    let mut bytes = (lines.join("\r\n") + "\r\n\r\n").into_bytes();
    bytes.extend(body);
    let kind = match (credential, agents_route) {
        (Credential::Workspace, true) => "requests to agents' routes, mutated",
        (Credential::Workspace, false) => "requests of workspaces to admins' routes",
        (Credential::Admin, _) => "requests of an admin, mutated",
        (Credential::Missing | Credential::Garbled | Credential::Stale, _) => {
            "requests with no token, a malformed or a stale one"
        }
    };
    Request { kind, bytes, head: method == "HEAD", whole: true, may_succeed }
}

/// A request to a path that does not exist. It must not succeed, with any token.
fn nowhere(rng: &mut Rng, target: &Target) -> Request {
    let caller = rng.pick(&target.noisy);
    let (kind, template) = if rng.one_in(4) {
        (TO_ELSEWHERE, rng.pick(&ELSEWHERE))
    } else {
        ("requests to paths that do not exist", rng.pick(&NOWHERE))
    };
    let path =
        template.replace("ID", &caller.id).replace("WORD", rng.pick(&["x", "%00", "-1", "a%2fb", "noisy-0"]));
    let method = rng.pick(&["GET", "POST", "DELETE", "PATCH"]);
    let token = if rng.one_in(4) { target.admin.clone() } else { caller.token };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: noise\r\nAuthorization: Bearer {token}\r\n");
    let bytes = format!("{head}Content-Length: 2\r\n\r\n{{}}").into_bytes();
    Request { kind, bytes, head: false, whole: true, may_succeed: false }
}

/// Bytes that are not a request, or are several requests, or a request that never ends.
fn malformed(rng: &mut Rng, target: &Target) -> Request {
    let (caller, victim) = (rng.pick(&target.noisy), rng.pick(&target.agents));
    let auth = format!("Authorization: Bearer {}\r\n", caller.token);
    let head = format!("POST /registry/heartbeat HTTP/1.1\r\nHost: noise\r\n{auth}");
    let heartbeat = format!("{{\"workspace_id\":\"{}\"}}", caller.id);
    // A request that is hidden in another one (request smuggling). Only an admin may send it, and its effect would be
    // noticed.
    let inner = format!("DELETE /workspaces/{} HTTP/1.1\r\nHost: x\r\n\r\n", victim.id);
    let length = heartbeat.len();
    let bytes: Vec<u8> = match rng.below(26) {
        0 => format!("{head}Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}").into(),
        1 => format!("{head}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{length:x}\r\n{heartbeat}\r\n0\r\n\r\n{inner}").into(),
        2 => format!("{head}Content-Length: 1\r\nContent-Length: {length}\r\n\r\n{heartbeat}{inner}").into(),
        3 => format!("{head}Transfer-Encoding: xchunked\r\n\r\n{length:x}\r\n{heartbeat}\r\n0\r\n\r\n{inner}").into(),
        4 => format!("{head}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}").into(),
        5 => format!("{head}Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n{inner}").into(),
        6 => format!("{head}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}").into(),
        7 => format!("{head}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{inner}").into(),
        8 => format!("{head}Content-Length: {}\r\n\r\n{heartbeat}", rng.pick(&["-1", "+5", "0x10", "1 1", "", "1e3", "99999999999999999999999", "18446744073709551615", "9223372036854775807"])).into(),
        9 => format!("{head}Transfer-Encoding: chunked\r\n\r\n{}\r\n{heartbeat}\r\n0\r\n\r\n", rng.pick(&["-1", "zz", "ffffffffffffffff", "fffffffffffffffff", "0x10", " 10", "10;ext=\"", "1\n"])).into(),
        10 => {
            let tail = "x".repeat([10, 20_000, 200_000][rng.below(3)]);
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{length:x};{tail}\r\n{heartbeat}\r\n0\r\n\r\n").into()
        }
        11 => format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\n{}", "Trailer: x\r\n".repeat([1, 200, 5000][rng.below(3)])).into(),
        12 => format!("{head}X: {}\r\n\r\n", "y".repeat([8000, 17_000, 64 << 10, 300 << 10][rng.below(4)])).into(),
        13 => format!("{head}{}\r\n", "X-Many: y\r\n".repeat([90, 150, 3000][rng.below(3)])).into(),
        14 => format!("GET /{} HTTP/1.1\r\nHost: noise\r\n{auth}\r\n", "x".repeat([9000, 70_000][rng.below(2)])).into(),
        15 => [head.as_bytes(), b"X: a\0b\r\n\r\n"].concat(),
        16 => format!("{head}Host: other\r\nContent-Length: {length}\r\n\r\n{heartbeat}").into(),
        17 => format!("{head}{auth}Content-Length: {length}\r\n\r\n{heartbeat}").into(),
        18 => format!("{head} folded: yes\r\nContent-Length: {length}\r\n\r\n{heartbeat}").into(),
        19 => format!("{}Content-Length: {length}\n\n{heartbeat}", head.replace("\r\n", "\n")).into(),
        20 => format!("{head}Expect: {}\r\nContent-Length: {length}\r\n\r\n{heartbeat}", rng.pick(&["100-continue", "200-ok", ""])).into(),
        21 => format!("GET /health HTTP/{}\r\nHost: noise\r\n\r\n", rng.pick(&["1.0", "0.9", "2.0", "1.2", "11", "x", "1.1 "])).into(),
        22 => rng.pick::<&[u8]>(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 13, 10, 13, 10], b"\r\n\r\n\r\n", b"GET\r\n\r\n", b"\0\0\0\0\r\n\r\n"]).to_vec(),
        23 => format!("{head}Connection: Upgrade\r\nUpgrade: {}\r\nContent-Length: {length}\r\n\r\n{heartbeat}", rng.pick(&["h2c", "websocket", "tcp"])).into(),
        24 => {
            // Several requests in one write, the last one truncated.
            let one = format!("{head}Content-Length: {length}\r\n\r\n{heartbeat}");
            let all = one.repeat(1 + rng.below(8));
            let end = all.len() - rng.below(one.len());
            all.as_bytes()[..end].to_vec()
        }
        _ => {
            let long = rng.below(2000);
            rng.bytes(long)
        },
    };
    Request { kind: "malformed HTTP", bytes, head: false, whole: false, may_succeed: true }
}

/// A request to a route, with some bytes changed.
fn garbled(rng: &mut Rng, target: &Target) -> Request {
    let mut request = loop {
        let request = to_a_route(rng, target);
        // A changed byte could turn an admin's request into one that affects an agent.
        if request.kind != "requests of an admin, mutated" {
            break request;
        }
    };
    for _ in 0..=rng.below(3) {
        let at = rng.below(request.bytes.len());
        request.bytes[at] = rng.byte();
    }
    let head = request.bytes.starts_with(b"HEAD ");
    Request { kind: "requests with changed bytes", head, whole: false, may_succeed: true, ..request }
}

/// A body that is too large or never ends.
fn endless(rng: &mut Rng, target: &Target) -> Request {
    let caller = rng.pick(&target.noisy);
    let own = &caller.id;
    let (path, most) = [
        ("/registry/heartbeat".to_owned(), 64 << 10),
        ("/registry/register".to_owned(), 64 << 10),
        (format!("/workspaces/{own}/activity"), 16 << 10),
        (format!("/workspaces/{own}/a2a"), 10 << 20),
    ][rng.below(4)]
    .clone();
    let head = format!("POST {path} HTTP/1.1\r\nHost: noise\r\nAuthorization: Bearer {}\r\n", caller.token);
    let bytes = if most > 1 << 20 || rng.one_in(2) {
        // The header announces the size, so that the daemon refuses the request before the body is sent.
        format!("{head}Content-Length: {}\r\n\r\n", most + 1 + rng.below(1 << 40)).into_bytes()
    } else {
        let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(most / 0x4000 + 1)).into_bytes()
    };
    // The token determines the workspace of a truncated report.
    let may_succeed = path.starts_with("/registry/");
    Request { kind: "endless bodies", bytes, head: false, whole: true, may_succeed }
}

/// The request with this number of this seed.
fn request(seed: u64, number: u64, target: &Target) -> Request {
    let mut rng = Rng::new(seed, number);
    match rng.below(20) {
        0..=3 => malformed(&mut rng, target),
        4..=5 => garbled(&mut rng, target),
        6 => endless(&mut rng, target),
        7..=8 => nowhere(&mut rng, target),
        _ => to_a_route(&mut rng, target),
    }
}

/// Counter name for answers of a status.
pub(super) fn answered(status: u16) -> String {
    format!("answers of {status}")
}

/// Sends requests until `until`, and at least [`AT_LEAST`] of them.
pub(super) async fn make(seed: u64, target: Target, notes: Notes, until: Instant) {
    let (mut number, mut line) = (0, None);
    // A busy machine makes fewer requests in that time, and still has to cover all kinds.
    while Instant::now() < until || number < AT_LEAST {
        let request = request(seed, number, &target);
        notes.count(request.kind);
        let from = loopback(3, usize::try_from((seed * 40 + number / PER_LINE) % 200).expect("below 200"));
        let found = tokio::time::timeout(LIMIT, one(&request, &mut line, from, &target, &notes)).await;
        let wrong = match found {
            Ok(Ok(())) => None,
            Ok(Err(wrong)) => Some(wrong),
            Err(_late) => Some(format!("neither an answer nor the end of the connection within {LIMIT:?}")),
        };
        if let Some(wrong) = wrong {
            line = None;
            notes.broke(format!("seed {seed}, request {number}: {wrong}, to {}", escaped(&request.bytes)));
        }
        number += 1;
        if number % PER_LINE == 0 {
            line = None;
        }
    }
}

async fn one(
    request: &Request,
    kept: &mut Option<Line>,
    from: std::net::Ipv4Addr,
    target: &Target,
    notes: &Notes,
) -> Result<(), String> {
    let reused = kept.is_some() && request.whole;
    let mut line = match kept.take().filter(|_| request.whole) {
        Some(line) => line,
        None => match Line::open(from, target.address).await {
            Ok(line) => line,
            // The flood holds all connection slots; the flood's own check reports that.
            Err(_full) => return Ok(notes.count("hostile requests without a connection")),
        },
    };
    let written = line.write(&request.bytes).await;
    if !request.whole {
        line.finish().await;
        // Everything that the server parses as a request is answered; then the connection ends.
        loop {
            match line.answer(request.head).await {
                Read::Answer(answer) => check(&answer, request, notes)?,
                Read::End => return Ok(notes.count("connections that ended after malformed HTTP")),
                Read::Nonsense(what) => return Err(format!("not a valid response: {what}")),
            }
        }
    }
    match line.answer(request.head).await {
        Read::Answer(answer) => {
            check(&answer, request, notes)?;
            if !answer.closes() && written.is_ok() && request.kind != "endless bodies" {
                *kept = Some(line);
            }
            Ok(())
        }
        // The connection was closed between two requests, or refused because no slot was free, or the refusal was lost
        // in a reset because the rest of the request was still being sent.
        Read::End if reused || written.is_err() || request.kind == "endless bodies" => {
            Ok(notes.count("connections that ended before an answer"))
        }
        Read::End => Ok(notes.count("connections that were refused")),
        Read::Nonsense(what) => Err(format!("not a valid response: {what}")),
    }
}

fn check(answer: &Answer, request: &Request, notes: &Notes) -> Result<(), String> {
    notes.count(answered(answer.status));
    let summary = || answer.shortly();
    if let Some(wrong) = answer.wrong().filter(|_| !request.head) {
        return Err(format!("{wrong}: {}", summary()));
    }
    match answer.status {
        100 => Ok(()),
        200..=299 if request.may_succeed => Ok(()),
        200..=299 => Err(format!("a success that this caller may not have: {}", summary())),
        400..=499 => Ok(()),
        // Agents that are not reachable (§6), and results that depend on the engine.
        502 | 503 => Ok(()),
        501 if request.kind == TO_ELSEWHERE || !request.whole => Ok(()),
        _ => Err(format!("an undocumented status: {}", summary())),
    }
}
