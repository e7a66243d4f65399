//! What agents say of themselves, and whom they find (wire protocol, §4).
//!
//! A runtime never looks at the answer to its beat. The answers are for everybody else: a store that cannot write is
//! told as 503, and never turned into a refusal or a change of status.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use super::{
    super::{
        Api,
        auth::{self, OwnSocket, PathId, Presented, Principal, presented},
        error::{HttpError, HttpResult},
        listen::read_body,
    },
    Query,
};
use crate::{
    api::{AccessAnswer, Discovered, PeerView},
    domain::{
        beat::{Beat, Metadata, SPEND_MAX_CENTS, TEXT_MAX_BYTES, cut},
        ids::WorkspaceId,
        status::Status,
        workspace::Kind,
    },
    store::{Bearer, Described, Heard, Holder, Registration, StoreError, manages_status},
};

/// The largest body of a beat: its texts are cut at 2 KiB, its metadata is small.
const BEAT_MAX_BYTES: usize = 64 << 10;
/// The largest body that carries a card.
const CARD_MAX_BYTES: usize = 64 << 10;
/// How long a body may take to arrive: as long as a runtime waits for the answer.
const BODY_LIMIT: Duration = Duration::from_secs(10);

fn body_is_invalid() -> HttpError {
    HttpError::invalid("invalid request body")
}

/// What an agent told, and whose token it came with, if anybody's.
struct Told<T> {
    holder: Option<Holder>,
    presented: String,
    body: T,
}

/// Whose token a request presents, if anybody's, and the token. An admin is no agent: it has no beat.
fn speaker<'a>(api: &Api, parts: &'a Parts) -> HttpResult<(Option<Holder>, &'a str)> {
    let own_socket = parts.extensions.get::<OwnSocket>().is_some();
    let Presented::Token(token) = presented(&parts.headers, own_socket) else { return Err(auth::missing()) };
    match auth::bearer(api, token, &parts.extensions) {
        Some(Bearer::Workspace(holder)) => Ok((Some(holder), token)),
        Some(Bearer::Admin) => Err(auth::invalid()),
        None => Ok((None, token)),
    }
}

/// Reads who speaks and what it says. A token that speaks for nobody is refused later: it may be one of a workspace
/// that was removed, and that is said once the body has named it.
async fn told<T: DeserializeOwned>(api: &Api, request: Request, most: usize) -> HttpResult<Told<T>> {
    let (parts, body) = request.into_parts();
    let (holder, token) = speaker(api, &parts)?;
    let bytes = read_body(body, most, BODY_LIMIT, &*api.0.clock).await?;
    match serde_json::from_slice(&bytes) {
        Ok(body) => Ok(Told { holder, presented: token.to_owned(), body }),
        Err(_) if holder.is_some() => Err(body_is_invalid()),
        Err(_) => Err(auth::invalid()),
    }
}

impl<T> Told<T> {
    /// The token's holder, if it speaks for this workspace.
    async fn speaks_for(&self, api: &Api, id: &str) -> HttpResult<Holder> {
        let id = WorkspaceId::from_client(id).ok();
        match self.holder {
            Some(holder) if Some(holder.workspace) == id => Ok(holder),
            Some(_) => Err(auth::invalid()),
            None => {
                let removed = api.0.ops.removed_holder(&self.presented).await?;
                Err(if removed.is_some() && removed == id { HttpError::gone() } else { auth::invalid() })
            }
        }
    }
}

fn answered(heard: Heard) -> HttpResult<()> {
    match heard {
        Heard::Noted => Ok(()),
        Heard::Unauthorized => Err(auth::invalid()),
        Heard::Gone => Err(HttpError::gone()),
    }
}

/// Nobody is to be blamed for a silence that began while what they said could not be written down.
fn deaf(api: &Api) -> impl FnOnce(StoreError) -> HttpError + '_ {
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

/// A heartbeat as it is sent. Unknown fields are ignored; what is absent or null is nothing.
#[derive(Deserialize)]
struct BeatBody<'a> {
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

/// A whole number from 0 up to `most`; fractions are cut off.
#[expect(clippy::cast_possible_truncation, reason = "clamped to what an i64 holds exactly")]
fn whole(number: f64, most: i64) -> i64 {
    #[expect(clippy::cast_precision_loss, reason = "the limits are far below 2^53")]
    let most = most as f64;
    number.clamp(0.0, most) as i64
}

/// The longest uptime that is believed, in seconds: a century.
const UPTIME_MAX: i64 = 100 * 366 * 86_400;

impl BeatBody<'_> {
    fn clamped(self) -> Option<Beat> {
        let metadata = match self.runtime_metadata {
            Some(raw) if raw.get().starts_with('{') => {
                Some(Metadata { json: raw.get().to_owned(), manages_status: manages_status(raw.get()) })
            }
            Some(raw) if raw.get() == "null" => None,
            Some(_) => return None,
            None => None,
        };
        Some(Beat {
            error_rate: self.error_rate.clamp(0.0, 1.0),
            sample_error: cut(self.sample_error, TEXT_MAX_BYTES),
            active_tasks: u32::try_from(whole(self.active_tasks, i64::from(u32::MAX))).unwrap_or(u32::MAX),
            uptime_seconds: whole(self.uptime_seconds, UPTIME_MAX),
            current_task: cut(self.current_task, TEXT_MAX_BYTES),
            monthly_spend_cents: whole(self.monthly_spend, SPEND_MAX_CENTS),
            runtime_state: cut(self.runtime_state, 64),
            metadata,
        })
    }
}

pub(in super::super) async fn heartbeat(State(api): State<Api>, request: Request) -> HttpResult<Response> {
    let (parts, body) = request.into_parts();
    let (holder, token) = speaker(&api, &parts)?;
    let bytes = read_body(body, BEAT_MAX_BYTES, BODY_LIMIT, &*api.0.clock).await?;
    // What is wrong with the body is said to nobody but a holder of a token.
    let refused = || if holder.is_some() { body_is_invalid() } else { auth::invalid() };
    let beat: BeatBody<'_> = serde_json::from_slice(&bytes).map_err(|_| refused())?;
    let told = Told { holder, presented: token.to_owned(), body: () };
    let holder = told.speaks_for(&api, &beat.workspace_id).await?;
    api.0.beats.check(holder.workspace).map_err(HttpError::too_many)?;
    let beat = beat.clamped().ok_or_else(body_is_invalid)?;
    let writing = api.0.listening.writing(&api.0.clock);
    let heard = api.0.store.note_beat(holder, beat, api.0.clock.now()).await;
    drop(writing);
    answered(heard.map_err(deaf(&api))?)?;
    Ok(json(r#"{"status":"ok"}"#))
}

#[derive(Deserialize)]
struct RegisterBody {
    id: String,
    url: String,
    agent_card: Value,
}

pub(in super::super) async fn register(State(api): State<Api>, request: Request) -> HttpResult<Response> {
    let told: Told<RegisterBody> = told(&api, request, CARD_MAX_BYTES).await?;
    let holder = told.speaks_for(&api, &told.body.id).await?;
    api.0.reports.check(holder.workspace).map_err(HttpError::too_many)?;
    let RegisterBody { url, agent_card: card, .. } = told.body;
    if !card.is_object() {
        return Err(body_is_invalid());
    }
    let external = api.0.store.member(holder.workspace).is_some_and(|member| member.kind == Kind::External);
    let url = match external {
        // What a container says of itself is its address inside; where it is reached is known better here.
        false => None,
        true if url.is_empty() => Some(url),
        true => {
            api.check_url(&url).await?;
            Some(url)
        }
    };
    let registration = Registration { url, card };
    let writing = api.0.listening.writing(&api.0.clock);
    let heard = api.0.store.note_registration(holder, registration, api.0.clock.now()).await;
    drop(writing);
    answered(heard.map_err(deaf(&api))?)?;
    Ok(json(r#"{"status":"registered"}"#))
}

#[derive(Deserialize)]
struct CardBody {
    workspace_id: String,
    agent_card: Value,
}

pub(in super::super) async fn update_card(State(api): State<Api>, request: Request) -> HttpResult<Response> {
    let told: Told<CardBody> = told(&api, request, CARD_MAX_BYTES).await?;
    let holder = told.speaks_for(&api, &told.body.workspace_id).await?;
    api.0.reports.check(holder.workspace).map_err(HttpError::too_many)?;
    if !told.body.agent_card.is_object() {
        return Err(body_is_invalid());
    }
    answered(api.0.store.note_card(holder, told.body.agent_card, api.0.clock.now()).await?)?;
    Ok(json(r#"{"status":"updated"}"#))
}

pub(in super::super) async fn discover(
    State(api): State<Api>,
    principal: Principal,
    headers: HeaderMap,
    target: Result<PathId, HttpError>,
) -> HttpResult<Json<Discovered>> {
    let caller = auth::caller(&headers)?;
    principal.speak_for(caller)?;
    let PathId(id) = target?;
    let found = api.0.store.workspace(id).await?.filter(|row| row.status != Status::Removed);
    let row = found.ok_or_else(|| HttpError::not_found("workspace not found"))?;
    if !api.0.store.may_communicate(caller, id, api.0.access.root_siblings) {
        return Err(HttpError::forbidden("not authorized to discover this workspace"));
    }
    let reachable = match row.status {
        Status::Online
        | Status::Degraded
        | Status::Provisioning
        | Status::Offline
        | Status::Hibernating
        | Status::Hibernated => row.kind == Kind::Container || row.url.is_some(),
        Status::Failed(_) | Status::Paused | Status::AwaitingAgent | Status::Removed => false,
    };
    if !reachable {
        return Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "workspace not available")
            .with("status", row.status.as_str()));
    }
    let url = proxy_url(&auth::platform_url(&api, &headers), id);
    Ok(Json(Discovered { id: id.to_string(), url, name: row.name.to_string() }))
}

/// Where one workspace reaches another: through ostler, never directly.
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
    principal.speak_for(id)?;
    if api.0.store.member(id).is_none() {
        return Err(HttpError::not_found("workspace not found"));
    }
    let wanted = query.q.unwrap_or_default().to_lowercase();
    let matches = |text: &str| text.to_lowercase().contains(&wanted);
    let platform_url = auth::platform_url(&api, &headers);
    let peers = api.0.store.peers(id, api.0.access.root_siblings).await?;
    let peers = peers.into_iter().filter(|peer| {
        wanted.is_empty() || matches(peer.row.name.as_str()) || peer.row.role.as_deref().is_some_and(matches)
    });
    Ok(Json(peers.map(|peer| peer_view(peer, &platform_url)).collect()))
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
    let bytes = read_body(request.into_body(), BEAT_MAX_BYTES, BODY_LIMIT, &*api.0.clock).await?;
    let AccessBody { caller_id, target_id } =
        serde_json::from_slice(&bytes).map_err(|_| body_is_invalid())?;
    principal.speak_for(caller_id)?;
    let allowed = api.0.store.may_communicate(caller_id, target_id, api.0.access.root_siblings);
    Ok(Json(AccessAnswer { allowed }).into_response())
}
