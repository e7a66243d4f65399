//! Registrations.

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    body::body_is_invalid,
    fields::{Unfit, named},
    report::{Named, answered, report, reset_liveness},
};
use crate::{
    domain::{
        bounds::{CARD_MAX_BYTES, URL_MAX_BYTES},
        heartbeat::{Field, Fields},
        lenient,
        workspace::{Delivery, Kind},
    },
    http::{
        Api,
        error::{HttpError, HttpResult},
        proxy::agent_url::UrlError,
    },
    store::{Registration, TokenOwner},
};

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

pub(in crate::http) async fn register(State(api): State<Api>, request: Request) -> HttpResult<Response> {
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
