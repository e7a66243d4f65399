//! The body of a report: its time limit, and the answer to an invalid one.

use std::time::Duration;

use crate::http::error::HttpError;

/// How long a body may take to arrive: as long as a runtime waits for the response.
pub(super) const BODY_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn body_is_invalid() -> HttpError {
    HttpError::invalid("invalid request body")
}
