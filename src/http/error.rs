//! The format of all error responses: a status and `{"error": "…"}`, with further fields that the protocol requires.
//!
//! If a JSON-RPC request is refused, the response has the same content in a JSON-RPC error object.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json, value::RawValue};

use super::{body::BodyError, proxy::agent_url::UrlError};
use crate::{engine::EngineError, ops::OpError, store::StoreError, sweep::SweepError};

/// An error response.
#[derive(Debug)]
pub(super) struct HttpError {
    status: StatusCode,
    message: String,
    /// Further fields of the body, in the order in which they are serialized.
    more: Vec<(&'static str, Value)>,
    retry_after_seconds: Option<u64>,
}

/// Result of a handler.
pub(super) type HttpResult<T> = Result<T, HttpError>;

/// `Retry-After` of responses with status 503, in seconds.
const RETRY_AFTER: u64 = 5;

impl HttpError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let retry_after_seconds = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER);
        Self { status, message: message.into(), more: Vec::new(), retry_after_seconds }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Whether the body has this further field.
    pub(super) fn has_field(&self, key: &str) -> bool {
        self.more.iter().any(|(name, _)| *name == key)
    }

    /// Adds a field to the body.
    pub(super) fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.more.push((key, value.into()));
        self
    }

    /// Sets the `Retry-After` header. The body's `retry_after` field, where the protocol has one, is added separately.
    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// The token is missing or not valid (wire protocol, §4).
    pub(super) fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub(super) fn forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// The workspace was removed; the caller need not try again (wire protocol, §4).
    pub(super) fn gone() -> Self {
        Self::new(StatusCode::GONE, "workspace removed")
    }

    /// The caller exceeded its rate limit (wire protocol, §2).
    pub(super) fn too_many(retry_after_seconds: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate limit exceeded")
            .with("retry_after", retry_after_seconds)
            .retry_after(retry_after_seconds)
    }

    /// Returns the error. If its status is 404, the message is replaced: it states that the parent was not found.
    pub(super) fn about_parent(self) -> Self {
        if self.status == StatusCode::NOT_FOUND {
            let message = format!("invalid parent: {}", self.message);
            Self::new(StatusCode::NOT_FOUND, message)
        } else {
            self
        }
    }

    /// Returns the error. If its status is 404, it becomes 422, and the message states that the new parent was not
    /// found.
    pub(super) fn unprocessable_parent(self) -> Self {
        if self.status == StatusCode::NOT_FOUND {
            let message = format!("invalid new parent: {}", self.message);
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
        } else {
            self
        }
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// Converts the error into the response to a JSON-RPC 2.0 request: the same status and message in an error object
    /// with the request's id. Further fields are in `data`.
    pub(super) fn into_rpc(self, id: &RawValue) -> Response {
        let code = match self.status {
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => RPC_INVALID_REQUEST,
            _ => RPC_SERVER_ERROR,
        };
        let mut data = json!({ "http_status": self.status.as_u16() });
        for (key, value) in self.more {
            data[key] = value;
        }
        let error = json!({ "code": code, "message": self.message, "data": data });
        let body = RpcError { jsonrpc: "2.0", id, error };
        with_retry_after((self.status, Json(body)).into_response(), self.retry_after_seconds)
    }
}

/// Error codes that JSON-RPC defines. A2A's own codes, from -32001 on, are not used: none of their meanings applies to
/// ostler's errors.
const RPC_INVALID_REQUEST: i32 = -32600;
const RPC_SERVER_ERROR: i32 = -32000;

#[derive(Serialize)]
struct RpcError<'a> {
    jsonrpc: &'static str,
    id: &'a RawValue,
    error: Value,
}

fn with_retry_after(mut response: Response, seconds: Option<u64>) -> Response {
    if let Some(seconds) = seconds {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Serializes an error as a JSON object with its fields in the order in which they were added.
struct ErrorObject<'a>(&'a HttpError);

impl Serialize for ErrorObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(1 + self.0.more.len()))?;
        object.serialize_entry("error", &self.0.message)?;
        for (key, value) in &self.0.more {
            object.serialize_entry(key, value)?;
        }
        object.end()
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        with_retry_after((self.status, Json(ErrorObject(&self))).into_response(), self.retry_after_seconds)
    }
}

impl From<BodyError> for HttpError {
    fn from(error: BodyError) -> Self {
        let status = match error {
            BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
            BodyError::Broken => StatusCode::BAD_REQUEST,
            BodyError::NoRoom(refusal) => return refusal.into(),
        };
        Self::new(status, error.to_string())
    }
}

impl From<UrlError> for HttpError {
    fn from(error: UrlError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<OpError> for HttpError {
    fn from(error: OpError) -> Self {
        if let OpError::Busy { active_tasks } = error {
            return Self::conflict(error.to_string()).with("active_tasks", active_tasks);
        }
        if let OpError::InUse { open_requests, .. } = error {
            return Self::conflict(error.to_string()).with("open_requests", open_requests);
        }
        let status = match &error {
            OpError::NotFound(_) => StatusCode::NOT_FOUND,
            OpError::Invalid(_) | OpError::NoRuntime { .. } => StatusCode::BAD_REQUEST,
            OpError::Conflict(_) | OpError::NameTaken(_) | OpError::Busy { .. } | OpError::InUse { .. } => {
                StatusCode::CONFLICT
            }
            OpError::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            OpError::TooManyTokens(_) => StatusCode::TOO_MANY_REQUESTS,
            // The request is valid, but a dependency (image, port, volume) fails.
            OpError::Impossible(_) => StatusCode::FAILED_DEPENDENCY,
            OpError::Engine(_)
            | OpError::Untrusted(_)
            | OpError::Store(_)
            | OpError::Mirror(_)
            | OpError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<StoreError> for HttpError {
    fn from(error: StoreError) -> Self {
        OpError::from(error).into()
    }
}

impl From<EngineError> for HttpError {
    fn from(error: EngineError) -> Self {
        OpError::from(error).into()
    }
}

impl From<SweepError> for HttpError {
    fn from(error: SweepError) -> Self {
        match error {
            SweepError::Op(error) => error.into(),
            SweepError::Store(error) => error.into(),
            SweepError::NoListing => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            SweepError::Untrusted(why) => OpError::from(why).into(),
        }
    }
}
