//! One shape for every error: a status and `{"error": "…"}`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{api::ErrorBody, engine::EngineError, ops::OpError, store::StoreError, sweep::SweepError};

/// An error on its way out.
#[derive(Debug)]
pub(super) struct HttpError {
    status: StatusCode,
    message: String,
}

/// What handlers answer.
pub(super) type HttpResult<T> = Result<T, HttpError>;

impl HttpError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// The same, where what was not found is a parent: then the request makes no sense as it stands.
    pub(super) fn about_parent(self) -> Self {
        if self.status == StatusCode::NOT_FOUND {
            Self::invalid(format!("the parent is not there: {}", self.message))
        } else {
            self
        }
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody { error: self.message })).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

impl From<OpError> for HttpError {
    fn from(error: OpError) -> Self {
        let status = match &error {
            OpError::NotFound(_) => StatusCode::NOT_FOUND,
            OpError::Invalid(_) => StatusCode::BAD_REQUEST,
            OpError::Conflict(_) | OpError::NameTaken(_) => StatusCode::CONFLICT,
            // The request was fine; what it depends on (image, port, volume) is not.
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
            SweepError::Untrusted(why) => OpError::from(why).into(),
        }
    }
}
