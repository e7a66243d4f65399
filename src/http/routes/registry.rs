//! Registration, heartbeats and discovery of agents (wire protocol, §4).
//!
//! A runtime ignores the response to its heartbeat; the responses are for other clients. If the store cannot write, the
//! response is 503. This failure never leads to a 4xx response or to a change of the workspace's status.

use std::time::Duration;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, value::RawValue};

use super::{
    super::{
        Api,
        auth::{self, OwnSocket, PathId, Presented, Principal, presented},
        error::{HttpError, HttpResult},
        listen::{read_body, read_start},
        outbound::UrlError,
    },
    Query,
};
use crate::{
    api::peer::{AccessAnswer, Discovered, PeerView},
    domain::{
        bounds::{
            CARD_MAX_BYTES, METADATA_MAX_BYTES, REPORT_DISCARDED_MAX_BYTES, REPORT_MAX_BYTES,
            STATE_MAX_BYTES, TEXT_MAX_BYTES, URL_MAX_BYTES,
        },
        heartbeat::{Field, Fields, Heartbeat, Metadata, SPEND_MAX_CENTS, cut},
        ids::WorkspaceId,
        lenient,
        status::Status,
        workspace::{Delivery, Kind},
    },
    store::{Described, Registration, ReportResult, StoreError, TokenOwner, TokenSubject, manages_status},
};

/// The most bytes of cards in one list of peers.
const PEERS_MAX_BYTES: usize = 1 << 20;
/// How long a body may take to arrive: as long as a runtime waits for the response.
const BODY_LIMIT: Duration = Duration::from_secs(10);

fn body_is_invalid() -> HttpError {
    HttpError::invalid("invalid request body")
}

/// A report of an agent, with the owner of the token that it presented, if the token is valid.
struct AgentReport {
    token_owner: Option<TokenOwner>,
    presented: String,
    /// The first [`REPORT_MAX_BYTES`] of the body.
    body: Bytes,
    /// Whether the body was longer.
    cut: bool,
    /// The route's name, for the event about refused requests.
    request: &'static str,
}

/// Returns the token of a request and its owner. The owner is `None` if the token is not valid.
///
/// # Errors
/// 401 if there is no token, or if the caller is an admin: an admin is not an agent and sends no heartbeats.
fn report_owner<'a>(api: &Api, parts: &'a Parts) -> HttpResult<(Option<TokenOwner>, &'a str)> {
    let own_socket = parts.extensions.get::<OwnSocket>().is_some();
    let Presented::Token(token) = presented(&parts.headers, own_socket) else { return Err(auth::missing()) };
    match auth::token_subject(api, token, &parts.extensions) {
        Some(TokenSubject::Workspace(token_owner)) => Ok((Some(token_owner), token)),
        Some(TokenSubject::Admin) => Err(auth::invalid()),
        None => Ok((None, token)),
    }
}

/// Reads the token and the body of a report. An invalid token is refused later, in `AgentReport::verified_owner`: it
/// may belong to a removed workspace, which is reported as 410 once the body has named that workspace.
async fn report(api: &Api, request: Request, route: &'static str) -> HttpResult<AgentReport> {
    let (parts, body) = request.into_parts();
    let (token_owner, token) = report_owner(api, &parts)?;
    let clock = &*api.0.clock;
    let (body, cut) =
        read_start(body, REPORT_MAX_BYTES, REPORT_DISCARDED_MAX_BYTES, BODY_LIMIT, clock).await?;
    Ok(AgentReport { token_owner, presented: token.to_owned(), body, cut, request: route })
}

impl AgentReport {
    /// Returns the error for an unusable body. Without a valid token, it is the error for an invalid token and does not
    /// mention the body.
    fn refused(&self, api: &Api) -> HttpError {
        match self.token_owner {
            Some(token_owner) => {
                api.note_refused(token_owner.workspace, self.request, "invalid request body");
                body_is_invalid()
            }
            None => auth::invalid(),
        }
    }

    /// Returns the owner of the token if it is the workspace that the body names.
    ///
    /// # Errors
    /// 410 if the token belonged to that workspace and the workspace was removed, otherwise 401.
    async fn verified_owner(&self, api: &Api, named: &Named) -> HttpResult<TokenOwner> {
        let id = match named {
            Named::InBody(id) => WorkspaceId::from_client(id).ok(),
            Named::ByToken => self.token_owner.map(|token_owner| token_owner.workspace),
        };
        match self.token_owner {
            Some(token_owner) if Some(token_owner.workspace) == id => Ok(token_owner),
            Some(token_owner) => {
                api.note_refused(token_owner.workspace, self.request, "the body names another workspace");
                Err(auth::invalid())
            }
            None => {
                let Some(dead) = api.0.ops.invalid_token(&self.presented).await? else {
                    return Err(auth::invalid());
                };
                if !dead.removed {
                    api.note_refused(dead.workspace, self.request, "the token was revoked or has expired");
                    return Err(auth::invalid());
                }
                Err(if id == Some(dead.workspace) { HttpError::gone() } else { auth::invalid() })
            }
        }
    }
}

fn answered(result: ReportResult) -> HttpResult<()> {
    match result {
        ReportResult::Noted => Ok(()),
        ReportResult::Unauthorized => Err(auth::invalid()),
        ReportResult::Gone => Err(HttpError::gone()),
    }
}

/// Returns a function that converts the error of a failed write. The function also resets the liveness windows, because
/// a heartbeat that could not be stored must not count as missed.
fn reset_liveness(api: &Api) -> impl FnOnce(StoreError) -> HttpError + '_ {
    |error| {
        api.0.listening.interrupted(api.0.clock.awake());
        error.into()
    }
}

fn json(text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The body of a heartbeat. Unknown fields are ignored; an absent or null field has its default value.
#[derive(Deserialize)]
struct HeartbeatBody<'a> {
    workspace_id: String,
    #[serde(default, deserialize_with = "number")]
    error_rate: f64,
    #[serde(default, deserialize_with = "text")]
    sample_error: String,
    #[serde(default, deserialize_with = "number")]
    active_tasks: f64,
    #[serde(default, deserialize_with = "number")]
    uptime_seconds: f64,
    #[serde(default, deserialize_with = "text")]
    current_task: String,
    #[serde(default, deserialize_with = "number")]
    monthly_spend: f64,
    #[serde(default, deserialize_with = "text")]
    runtime_state: String,
    #[serde(default, borrow)]
    runtime_metadata: Option<&'a RawValue>,
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Option::<f64>::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Clamps `number` to 0..=`most` and truncates it.
#[expect(clippy::cast_possible_truncation, reason = "clamped to the exact range of an i64")]
fn whole(number: f64, most: i64) -> i64 {
    #[expect(clippy::cast_precision_loss, reason = "the limits are far below 2^53")]
    let most = most as f64;
    number.clamp(0.0, most) as i64
}

/// The longest uptime that is stored, in seconds: a century.
const UPTIME_MAX: i64 = 100 * 366 * 86_400;

impl HeartbeatBody<'_> {
    /// Returns the workspace id and the heartbeat with all values limited. `None` if the metadata cannot be used.
    fn clamped(self) -> Option<(String, Heartbeat)> {
        let metadata = match self.runtime_metadata {
            Some(raw) if raw.get().starts_with('{') && raw.get().len() <= METADATA_MAX_BYTES => {
                Some(metadata_of(raw.get())?)
            }
            Some(raw) if raw.get() == "null" => None,
            Some(_) => return None,
            None => None,
        };
        let heartbeat = Heartbeat {
            error_rate: self.error_rate,
            sample_error: self.sample_error,
            active_tasks: tasks(self.active_tasks),
            uptime_seconds: whole(self.uptime_seconds, UPTIME_MAX),
            current_task: self.current_task,
            monthly_spend_cents: whole(self.monthly_spend, SPEND_MAX_CENTS),
            runtime_state: self.runtime_state,
            metadata,
            unknown: Fields::default(),
            refused: Fields::default(),
        };
        Some((self.workspace_id, bounded(heartbeat)))
    }
}

fn tasks(number: f64) -> u32 {
    u32::try_from(whole(number, i64::from(u32::MAX))).unwrap_or(u32::MAX)
}

fn metadata_of(json: &str) -> Option<Metadata> {
    Some(Metadata { json: json.to_owned(), manages_status: manages_status(json)? })
}

fn bounded(heartbeat: Heartbeat) -> Heartbeat {
    Heartbeat {
        error_rate: heartbeat.error_rate.clamp(0.0, 1.0),
        sample_error: cut(heartbeat.sample_error, TEXT_MAX_BYTES),
        current_task: cut(heartbeat.current_task, TEXT_MAX_BYTES),
        runtime_state: cut(heartbeat.runtime_state, STATE_MAX_BYTES),
        ..heartbeat
    }
}

/// Parses a malformed heartbeat leniently: returns the workspace that it names, and the fields that can be used. `None`
/// if the complete body names no workspace. If the body was cut off before the workspace's id, the result is
/// [`Named::ByToken`].
///
/// Any heartbeat proves that the agent is alive, even if its fields are invalid. Runtimes truncate texts in the middle
/// of an emoji, send the result of a division by zero, and ignore the response. An unusable field leaves its stored
/// value unchanged.
fn lenient_heartbeat(body: &[u8], cut: bool) -> Option<(Named, Heartbeat)> {
    const NAMES: [&str; 9] = [
        "workspace_id",
        "error_rate",
        "sample_error",
        "active_tasks",
        "uptime_seconds",
        "current_task",
        "monthly_spend",
        "runtime_state",
        "runtime_metadata",
    ];
    let text = lenient::repaired(body);
    let fields = lenient::fields(&text, &NAMES).or_else(|| cut.then(lenient::Fields::default))?;
    let id = named(&fields, "workspace_id", cut)?;
    let mut unfit = Unfit { fields: &fields, unknown: Fields::default(), refused: Fields::default() };
    let heartbeat = Heartbeat {
        error_rate: unfit.number(Field::ErrorRate),
        sample_error: unfit.text(Field::SampleError),
        active_tasks: tasks(unfit.number(Field::ActiveTasks)),
        uptime_seconds: whole(unfit.number(Field::UptimeSeconds), UPTIME_MAX),
        current_task: unfit.text(Field::CurrentTask),
        monthly_spend_cents: whole(unfit.number(Field::MonthlySpend), SPEND_MAX_CENTS),
        runtime_state: unfit.text(Field::RuntimeState),
        metadata: unfit
            .object(Field::RuntimeMetadata, METADATA_MAX_BYTES)
            .and_then(|json| metadata_of(&json.to_string())),
        unknown: Fields::default(),
        refused: Fields::default(),
    };
    let mut refused = unfit.refused;
    if !fields.whole {
        refused.insert(Field::Body);
    }
    Some((id, bounded(Heartbeat { unknown: unfit.unknown, refused, ..heartbeat })))
}

/// How a report names its workspace.
enum Named {
    /// By this id in the body.
    InBody(String),
    /// By its token alone: the body was cut off before the workspace's id.
    ByToken,
}

/// Returns how a body names its workspace. `None` if the id is not a string, or is missing although the body was not
/// cut off.
fn named(fields: &lenient::Fields, name: &str, cut: bool) -> Option<Named> {
    match fields.get(name) {
        lenient::Field::Value(Value::String(id)) => Some(Named::InBody(id)),
        lenient::Field::Absent if cut && !fields.whole => Some(Named::ByToken),
        lenient::Field::Value(_) | lenient::Field::Absent | lenient::Field::Unreadable => None,
    }
}

/// Reads fields, and records those whose value is unknown (`unknown`) and those that cannot be used (`refused`).
struct Unfit<'a> {
    fields: &'a lenient::Fields,
    unknown: Fields,
    refused: Fields,
}

impl Unfit<'_> {
    fn get<T>(&mut self, field: Field, usable: impl FnOnce(Value) -> Option<T>) -> Option<T> {
        let value = match self.fields.get(field.as_str()) {
            lenient::Field::Value(value) => usable(value),
            // The body was cut off or broken, so the field may have been in the lost part.
            lenient::Field::Absent if !self.fields.whole => {
                self.unknown.insert(field);
                return None;
            }
            lenient::Field::Absent => return None,
            lenient::Field::Unreadable => None,
        };
        if value.is_none() {
            self.unknown.insert(field);
            self.refused.insert(field);
        }
        value
    }

    /// Reads a number, or a string that contains one.
    fn number(&mut self, field: Field) -> f64 {
        let number = self.get(field, |value| match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        });
        number.unwrap_or_default()
    }

    fn text(&mut self, field: Field) -> String {
        self.get(field, |value| if let Value::String(text) = value { Some(text) } else { None })
            .unwrap_or_default()
    }

    fn object(&mut self, field: Field, most: usize) -> Option<Value> {
        self.get(field, |value| {
            Some(value).filter(|value| value.is_object() && value.to_string().len() <= most)
        })
    }
}

pub(in super::super) async fn heartbeat(State(api): State<Api>, request: Request) -> HttpResult<Response> {
    let report = report(&api, request, "heartbeat").await?;
    // Strict parsing is tried first, because it is faster and succeeds for nearly every heartbeat.
    let strict =
        || serde_json::from_slice::<HeartbeatBody<'_>>(&report.body).ok().and_then(HeartbeatBody::clamped);
    let strict = if report.cut { None } else { strict() };
    let read = match strict {
        Some((id, heartbeat)) => Some((Named::InBody(id), heartbeat)),
        None => lenient_heartbeat(&report.body, report.cut),
    };
    let (id, heartbeat) = read.ok_or_else(|| report.refused(&api))?;
    let token_owner = report.verified_owner(&api, &id).await?;
    api.pace(token_owner.workspace).await;
    let writing = api.0.listening.writing(&api.0.clock);
    let result = api.0.store.record_heartbeat(token_owner, heartbeat, api.0.clock.now()).await;
    drop(writing);
    answered(result.map_err(reset_liveness(&api))?)?;
    api.0.refusals.forget(token_owner.workspace);
    Ok(json(r#"{"status":"ok"}"#))
}

/// The body of a registration, with the fields that cannot be used.
struct Registering {
    id: Named,
    url: Option<String>,
    /// Whether there is no `url` field, which is valid only for an agent that polls.
    without_url: bool,
    delivery_mode: Option<String>,
    card: Option<Value>,
    refused: Fields,
}

/// Parses a registration leniently. An unusable card does not fail the registration, because a runtime registers only
/// once. A missing card field makes the body invalid (wire protocol, §4). The result is then `None`.
fn registering(body: &[u8], cut: bool) -> Option<Registering> {
    let text = lenient::repaired(body);
    let names = ["id", Field::Url.as_str(), Field::AgentCard.as_str(), "delivery_mode"];
    let fields = lenient::fields(&text, &names);
    let fields = fields.or_else(|| cut.then(lenient::Fields::default))?;
    let id = named(&fields, "id", cut)?;
    let is_missing = |field: Field| fields.whole && fields.get(field.as_str()) == lenient::Field::Absent;
    if is_missing(Field::AgentCard) {
        return None;
    }
    let without_url = is_missing(Field::Url);
    let delivery_mode = match fields.get("delivery_mode") {
        lenient::Field::Value(Value::String(word)) => Some(word),
        lenient::Field::Value(other) => Some(other.to_string()),
        lenient::Field::Absent | lenient::Field::Unreadable => None,
    };
    let mut unfit = Unfit { fields: &fields, unknown: Fields::default(), refused: Fields::default() };
    let url = unfit.get(Field::Url, |value| match value {
        Value::String(url) => Some(url).filter(|url| url.len() <= URL_MAX_BYTES),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    });
    let card = unfit.object(Field::AgentCard, CARD_MAX_BYTES);
    // A field in the lost part of the body counts as sent and refused.
    let mut refused = unfit.refused;
    for field in [Field::Url, Field::AgentCard] {
        if unfit.unknown.contains(field) {
            refused.insert(field);
        }
    }
    Some(Registering { id, url, without_url, delivery_mode, card, refused })
}

pub(in super::super) async fn register(State(api): State<Api>, request: Request) -> HttpResult<Response> {
    let report = report(&api, request, "register").await?;
    let read = registering(&report.body, report.cut).ok_or_else(|| report.refused(&api))?;
    let token_owner = report.verified_owner(&api, &read.id).await?;
    api.pace(token_owner.workspace).await;
    let Registering { url, without_url, delivery_mode, card, mut refused, .. } = read;
    let Reached { url, delivery, answered_delivery, url_refused } =
        reached(&api, token_owner, url, without_url, delivery_mode).await?;
    if url_refused.is_some() {
        refused.insert(Field::Url);
    }
    let registration = Registration { url, delivery, card, refused };
    let writing = api.0.listening.writing(&api.0.clock);
    let result = api.0.store.record_registration(token_owner, registration, api.0.clock.now()).await;
    drop(writing);
    answered(result.map_err(reset_liveness(&api))?)?;
    api.0.refusals.forget(token_owner.workspace);
    let delivery_mode = answered_delivery.map(Delivery::as_str);
    Ok(Json(Registered { status: "registered", delivery_mode, url_refused }).into_response())
}

/// The response to a registration.
#[derive(Serialize)]
struct Registered {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url_refused: Option<String>,
}

/// URL and delivery mode of an agent after its registration.
struct Reached {
    /// The URL to store; `None` keeps the stored one.
    url: Option<String>,
    /// The delivery mode to store; `None` keeps the stored one.
    delivery: Option<Delivery>,
    /// The delivery mode in the response. Present only if the agent named one, or if ostler will not send messages to
    /// the agent.
    answered_delivery: Option<Delivery>,
    /// Why the URL in the request is not used, although the registration succeeds.
    url_refused: Option<String>,
}

/// Determines URL and delivery mode from a registration.
///
/// Messages are always pushed to a container, at the port that ostler published. The `remote://` URLs of existing SDKs
/// mean that the agent does not listen: it polls, even if it names no delivery mode.
async fn reached(
    api: &Api,
    token_owner: TokenOwner,
    url: Option<String>,
    without_url: bool,
    delivery_mode: Option<String>,
) -> HttpResult<Reached> {
    let asked = match delivery_mode.as_deref() {
        None | Some("") => None,
        Some(word) => Some(
            Delivery::parse(word)
                .ok_or_else(|| HttpError::invalid("delivery_mode must be 'push' or 'poll'"))?,
        ),
    };
    let member = api.0.store.member(token_owner.workspace);
    let Some(member) = member.filter(|member| member.kind == Kind::External) else {
        if without_url {
            return Err(body_is_invalid());
        }
        let answered_delivery = asked.map(|_| Delivery::Push);
        return Ok(Reached { url: None, delivery: None, answered_delivery, url_refused: None });
    };
    let remote = url.as_deref().is_some_and(|url| url.starts_with("remote://"));
    let delivery = asked.or_else(|| remote.then_some(Delivery::Poll));
    let now = delivery.unwrap_or(member.delivery);
    let answered_delivery = (asked.is_some() || now == Delivery::Poll).then_some(now);
    let (url, url_refused) = match (now, url) {
        // The URL of an agent that polls is never called, so it is neither checked nor stored.
        (Delivery::Poll, _) => (Some(String::new()), None),
        (Delivery::Push, None) if without_url => return Err(body_is_invalid()),
        (Delivery::Push, Some(url)) if !url.is_empty() => match api.check_url(&url).await {
            Ok(_) => (Some(url), None),
            // A runtime registers only once, and a DNS failure at that moment must not exclude the agent: the
            // registration succeeds, and the stored URL is kept.
            Err(error @ UrlError::Unresolved { .. }) => {
                tracing::warn!(workspace = %token_owner.workspace, %error, "registered without a url");
                (None, Some(error.to_string()))
            }
            Err(error) => return Err(error.into()),
        },
        (Delivery::Push, empty_or_unusable) => (empty_or_unusable, None),
    };
    Ok(Reached { url, delivery, answered_delivery, url_refused })
}

pub(in super::super) async fn update_card(State(api): State<Api>, request: Request) -> HttpResult<Response> {
    let report = report(&api, request, "update-card").await?;
    let text = lenient::repaired(&report.body);
    let fields = lenient::fields(&text, &["workspace_id", Field::AgentCard.as_str()]);
    let read = fields.and_then(|fields| Some((named(&fields, "workspace_id", report.cut)?, fields)));
    let (id, fields) = read.ok_or_else(|| report.refused(&api))?;
    let token_owner = report.verified_owner(&api, &id).await?;
    api.0.buckets.cards.check(token_owner.workspace).map_err(HttpError::too_many)?;
    let mut unfit = Unfit { fields: &fields, unknown: Fields::default(), refused: Fields::default() };
    // The request carries only the card and does not count as a heartbeat. So it is refused if the card is not usable.
    let card = unfit.object(Field::AgentCard, CARD_MAX_BYTES).ok_or_else(|| report.refused(&api))?;
    answered(api.0.store.note_card(token_owner, card, api.0.clock.now()).await?)?;
    Ok(json(r#"{"status":"updated"}"#))
}

pub(in super::super) async fn discover(
    State(api): State<Api>,
    principal: Principal,
    headers: HeaderMap,
    target: Result<PathId, HttpError>,
) -> HttpResult<Json<Discovered>> {
    let caller = auth::caller(&headers)?;
    principal.require_workspace(caller)?;
    let PathId(id) = target?;
    let found = api.0.store.workspace(id).await?.filter(|row| row.status != Status::Removed);
    let row = found.ok_or_else(|| HttpError::not_found("workspace not found"))?;
    if !api.0.store.may_communicate(caller, id, api.access().root_siblings) {
        return Err(HttpError::forbidden("not authorized to discover this workspace"));
    }
    let polls = row.policy.delivery == Delivery::Poll;
    let reachable = match row.status {
        Status::Online
        | Status::Degraded
        | Status::Provisioning
        | Status::Offline
        | Status::Hibernating
        | Status::Hibernated => row.kind == Kind::Container || row.url.is_some() || polls,
        Status::AwaitingAgent => polls,
        Status::Failed(_) | Status::Paused | Status::Removed => false,
    };
    if !reachable {
        return Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "workspace not available")
            .with("status", row.status.as_str()));
    }
    let url = proxy_url(&auth::platform_url(&api, &headers), id);
    Ok(Json(Discovered { id: id.to_string(), url, name: row.name.to_string() }))
}

/// The URL at which one workspace reaches another: ostler's proxy, never the agent itself.
pub(in super::super) fn proxy_url(platform_url: &str, id: WorkspaceId) -> String {
    format!("{platform_url}/workspaces/{id}/a2a")
}

#[derive(Deserialize)]
pub(in super::super) struct PeersQuery {
    q: Option<String>,
}

pub(in super::super) async fn peers(
    State(api): State<Api>,
    principal: Principal,
    PathId(id): PathId,
    headers: HeaderMap,
    Query(query): Query<PeersQuery>,
) -> HttpResult<Json<Vec<PeerView>>> {
    principal.require_workspace(id)?;
    if api.0.store.member(id).is_none() {
        return Err(HttpError::not_found("workspace not found"));
    }
    let wanted = query.q.unwrap_or_default().to_lowercase();
    let matches = |text: &str| text.to_lowercase().contains(&wanted);
    let platform_url = auth::platform_url(&api, &headers);
    // The permit is held until the rows have been converted into the response.
    let _permit = api.list_permit().await;
    let peers = api.0.store.peers(id, api.access().root_siblings).await?;
    let peers = peers.into_iter().filter(|peer| {
        wanted.is_empty() || matches(peer.row.name.as_str()) || peer.row.role.as_deref().is_some_and(matches)
    });
    Ok(Json(within_bytes(peers.map(|peer| peer_view(peer, &platform_url)).collect())))
}

/// Limits the cards in a list of peers to [`PEERS_MAX_BYTES`] in total. If they exceed it, cards larger than an equal
/// share are left out, so a large card never displaces a small one. Every peer stays in the list.
fn within_bytes(mut peers: Vec<PeerView>) -> Vec<PeerView> {
    let size = |peer: &PeerView| {
        peer.agent_card.as_ref().and_then(|card| serde_json::to_vec(card).ok()).map_or(0, |card| card.len())
    };
    let sizes: Vec<_> = peers.iter().map(size).collect();
    if sizes.iter().sum::<usize>() > PEERS_MAX_BYTES {
        let share = PEERS_MAX_BYTES / peers.len().max(1);
        for (peer, size) in peers.iter_mut().zip(sizes) {
            if size > share {
                peer.agent_card = None;
            }
        }
    }
    peers
}

fn peer_view(peer: Described, platform_url: &str) -> PeerView {
    let Described { row, vitals } = peer;
    PeerView {
        id: row.id.to_string(),
        name: row.name.to_string(),
        role: row.role,
        tier: row.tier.number(),
        status: row.status.as_str().into(),
        url: proxy_url(platform_url, row.id),
        parent_id: row.parent.map(|parent| parent.to_string()),
        active_tasks: vitals.active_tasks,
        agent_card: vitals.agent_card,
    }
}

#[derive(Deserialize)]
struct AccessBody {
    caller_id: WorkspaceId,
    target_id: WorkspaceId,
}

pub(in super::super) async fn check_access(
    State(api): State<Api>,
    principal: Principal,
    request: Request,
) -> HttpResult<Response> {
    let bytes = read_body(request.into_body(), REPORT_MAX_BYTES, BODY_LIMIT, &*api.0.clock).await?;
    let AccessBody { caller_id, target_id } =
        serde_json::from_slice(&bytes).map_err(|_| body_is_invalid())?;
    principal.require_workspace(caller_id)?;
    let allowed = api.0.store.may_communicate(caller_id, target_id, api.access().root_siblings);
    Ok(Json(AccessAnswer { allowed }).into_response())
}
