//! Why forwarding failed.

use std::fmt;

use axum::http::StatusCode;

use super::limits::Overdue;

/// Why forwarding failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ForwardError {
    /// The agent does not listen: the connection was refused, or closed before a byte of the message was written.
    Refused,
    /// The connection failed for another reason. Nothing of the message was written.
    NotConnected(String),
    /// No attempt can succeed: for example, an untrusted certificate, or a url that cannot be written as a request.
    Unusable(String),
    /// The message was written at least in part, and the connection ended without a response.
    Broken(String),
    /// The response has a status that must not be forwarded.
    Odd(StatusCode),
    /// The announced response body is larger than the limit.
    TooLarge,
    /// No response within a time limit.
    TimedOut(Overdue),
}

impl ForwardError {
    /// Whether no byte of the message was written and another attempt may succeed.
    pub(crate) fn is_unsent(&self) -> bool {
        matches!(self, Self::Refused | Self::NotConnected(_))
    }
}

impl fmt::Display for ForwardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::NotConnected(why) => write!(f, "connection failed: {why}"),
            Self::Unusable(why) => f.write_str(why),
            Self::Broken(why) => {
                write!(f, "it closed the connection without a response after the message was sent: {why}")
            }
            Self::Odd(status) => write!(
                f,
                "it responded with HTTP status {}; only 200 to 299 and 400 to 599 are forwarded",
                status.as_u16()
            ),
            Self::TooLarge => f.write_str("its response is larger than 64 MiB"),
            Self::TimedOut(overdue) => overdue.fmt(f),
        }
    }
}

impl std::error::Error for ForwardError {}

#[expect(clippy::needless_pass_by_value, reason = "signature required by map_err")]
pub(super) fn broken(error: hyper::Error) -> ForwardError {
    use std::error::Error as _;
    // hyper's error names the operation that failed. The source of that error contains the cause.
    ForwardError::Broken(match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}
