//! The request handlers, one file for each kind of resource.

pub(super) mod adopt;
pub(super) mod agents;
pub(super) mod configuration;
pub(super) mod delegations;
pub(super) mod doctor;
pub(super) mod elsewhere;
pub(super) mod events;
pub(super) mod exec;
pub(super) mod health;
mod keys;
pub(super) mod logs;
pub(super) mod memories;
pub(super) mod notify;
pub(super) mod operations;
pub(super) mod orders;
pub(super) mod registry;
pub(super) mod sweeps;
pub(super) mod tokens;
pub(super) mod trash;
pub(super) mod workspaces;

use std::{borrow::Cow, time::Duration};

use axum::{
    extract::{
        FromRequest, FromRequestParts, Request, rejection::JsonRejection, rejection::PathRejection,
        rejection::QueryRejection,
    },
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::{
    Api,
    auth::{self, OwnSocket},
    body::read_body,
    error::HttpError,
};
use crate::domain::lenient;

/// Extracts a JSON body; errors have the format of `HttpError`. An empty body counts as `{}`.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = HttpError;

    async fn from_request(request: Request, state: &Api) -> Result<Self, HttpError> {
        let (parts, body) = request.into_parts();
        let by_admin = auth::is_admin(state, &parts.headers, &parts.extensions);
        let most = if by_admin { BODY_MAX_BYTES } else { AGENTS_BODY_MAX_BYTES };
        let bytes = read_body(body, most, BODY_LIMIT, &*state.0.clock).await?;
        let bytes = if bytes.is_empty() { "{}".into() } else { bytes };
        // Invalid UTF-8 and unpaired surrogates are replaced: agents send them, and their requests must not be refused
        // for this.
        let bytes = match lenient::repaired(&bytes) {
            Cow::Borrowed(text) => bytes.slice_ref(text.as_bytes()),
            Cow::Owned(text) => text.into(),
        };
        let mut request = Request::from_parts(parts, axum::body::Body::from(bytes));
        request
            .headers_mut()
            .insert("content-type", axum::http::HeaderValue::from_static("application/json"));
        match axum::Json::<T>::from_request(request, state).await {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(rejection) => {
                Err(HttpError::invalid(format!("invalid request body: {}", rejection_text(&rejection))))
            }
        }
    }
}

/// How long the body of an agent's request may take to arrive.
pub(super) const AGENT_BODY_LIMIT: Duration = Duration::from_secs(10);

/// Extracts a JSON body; unknown keys are left out and listed in `ignored`.
///
/// Existing clients send keys that only other servers know, and their requests must work. A key that looks like a
/// misspelt known one is refused. On the local socket every unknown key is refused, because ostler's own command line
/// sends none.
pub(super) struct LenientBody<T> {
    pub(super) body: T,
    pub(super) ignored: Vec<String>,
}

impl<T: DeserializeOwned> FromRequest<Api> for LenientBody<T> {
    type Rejection = HttpError;

    async fn from_request(request: Request, state: &Api) -> Result<Self, HttpError> {
        if request.extensions().get::<OwnSocket>().is_some() {
            let Body(body) = Body::from_request(request, state).await?;
            return Ok(Self { body, ignored: Vec::new() });
        }
        let Body(mut object) =
            Body::<serde_json::Map<String, serde_json::Value>>::from_request(request, state).await?;
        let known = keys::of::<T>();
        let mut ignored = Vec::new();
        for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
            if let Some(nearest) = keys::misspelt(key, known) {
                return Err(HttpError::invalid(format!(
                    "invalid request body: unknown key `{key}`, did you mean `{nearest}`?"
                )));
            }
            ignored.push(key.clone());
        }
        object.retain(|key, _| known.contains(&key.as_str()));
        let body = serde_json::from_value(serde_json::Value::Object(object));
        let body = body.map_err(|error| HttpError::invalid(format!("invalid request body: {error}")))?;
        Ok(Self { body, ignored })
    }
}

/// The largest body of an admin's request, in bytes.
const BODY_MAX_BYTES: usize = 4 << 20;
/// The largest body, in bytes, of a request by which a workspace changes itself.
const AGENTS_BODY_MAX_BYTES: usize = 16 << 10;
/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(30);

fn rejection_text(rejection: &JsonRejection) -> String {
    let text = rejection.body_text();
    text.rsplit_once("target type: ").map_or(text.clone(), |(_, what)| what.to_owned())
}

/// Extracts query parameters; errors have the format of `HttpError`.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        axum::extract::Query::<T>::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|rejection: QueryRejection| HttpError::invalid(rejection.body_text()))
    }
}

/// Extracts path parameters; errors have the format of `HttpError`.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        axum::extract::Path::<T>::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|rejection: PathRejection| HttpError::invalid(rejection.body_text()))
    }
}
