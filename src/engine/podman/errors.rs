//! Classification of Podman's failures.
//!
//! Podman reports missing objects, objects in use and its internal failures with overlapping status codes, and with
//! different messages in each version. Two clients report them in different types. Both types are converted to a
//! [`Failure`], and one table maps that to an [`ErrorKind`]. Anything that is not in the table is [`ErrorKind::Other`],
//! on which no caller bases a decision.

use std::error::Error as StdError;

use podman_api::conn::Error as ConnError;

use super::super::{EngineError, ErrorKind};

/// Maximum length of an engine message. Podman answers a broken archive with a message of many kB.
const MESSAGE_MAX_CHARS: usize = 500;

/// A request that did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Podman answered with a status other than success.
    Answered {
        /// The HTTP status.
        status: u16,
        /// Podman's message.
        message: String,
    },
    /// Podman did not answer, or the response was interrupted.
    NoAnswer(String),
    /// The response cannot be parsed, or the request could not be built.
    Unusable(String),
    /// The response is longer than this many bytes, and was not read to its end.
    TooLong(usize),
}

impl Failure {
    /// Kind of the failure.
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Answered { status, message } => answered(*status, message),
            Self::NoAnswer(_) => ErrorKind::Unreachable,
            Self::Unusable(_) | Self::TooLong(_) => ErrorKind::Other,
        }
    }

    /// The HTTP status, if there was a response.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Answered { status, .. } => Some(*status),
            Self::NoAnswer(_) | Self::Unusable(_) | Self::TooLong(_) => None,
        }
    }

    /// Whether Podman answered that something does not exist.
    pub(super) fn is_not_found(&self) -> bool {
        match self {
            Self::Answered { status, message } => {
                *status == 404 || ["no such volume", "no such container"].iter().any(|w| message.contains(w))
            }
            Self::NoAnswer(_) | Self::Unusable(_) | Self::TooLong(_) => false,
        }
    }

    /// Whether Podman refused because of the container's state.
    pub(super) fn is_wrong_state(&self) -> bool {
        match self {
            Self::Answered { message, .. } => message.contains("container state improper"),
            Self::NoAnswer(_) | Self::Unusable(_) | Self::TooLong(_) => false,
        }
    }

    /// Whether the runtime refused a signal because there is no process.
    pub(super) fn is_already_stopped(&self) -> bool {
        match self {
            Self::Answered { message, .. } => message.contains("container state improper: stopped"),
            Self::NoAnswer(_) | Self::Unusable(_) | Self::TooLong(_) => false,
        }
    }

    /// Whether a stop was carried out, but no process was left to report the exit code.
    pub(super) fn is_exit_code_lost(&self) -> bool {
        let words = ["timed out waiting for file", "conmon exited prematurely"];
        match self {
            Self::Answered { message, .. } => words.iter().any(|words| message.contains(words)),
            Self::NoAnswer(_) | Self::Unusable(_) | Self::TooLong(_) => false,
        }
    }

    /// Keeps the message, but turns an answer into a failure of kind [`ErrorKind::Other`]. Used for requests that do
    /// not concern a single object, where "not found" does not show which object is missing.
    pub(super) fn undecided(self) -> Self {
        if matches!(self, Self::Answered { .. }) { Self::Unusable(self.message()) } else { self }
    }

    /// The message, shortened and in one line.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Answered { status: 304, .. } => "already in this state".to_owned(),
            Self::Answered { message, .. } | Self::NoAnswer(message) | Self::Unusable(message) => {
                one_line(message)
            }
            Self::TooLong(limit) => format!("the response is longer than {limit} bytes"),
        }
    }

    /// Converts the failure into the error of this call.
    pub(super) fn of(&self, call: impl Into<String>) -> EngineError {
        EngineError::new(self.kind(), call, self.message())
    }
}

/// Texts that determine the kind of an answer, whatever its status. The first match counts. Matching is case-sensitive:
/// netavark's "Address already in use" concerns the DNS server's port, not the container's.
const WORDS: [(&str, ErrorKind); 11] = [
    // The service was killed while it mounted the container's file system. Its storage considers the container mounted
    // from then on, and reports "no such file" for the mount's directory. That message does not concern a file in the
    // container.
    ("mounting storage for container", ErrorKind::HalfStarted),
    ("address already in use", ErrorKind::PortInUse),
    ("image not known", ErrorKind::ImageMissing),
    ("no such image", ErrorKind::ImageMissing),
    ("is already in use", ErrorKind::Conflict),
    ("already exists", ErrorKind::Conflict),
    ("is being used", ErrorKind::Conflict),
    ("container state improper", ErrorKind::Conflict),
    ("must be in Created or Stopped state", ErrorKind::Conflict),
    ("can only create exec sessions on running containers", ErrorKind::Conflict),
    ("network not found", ErrorKind::Absent),
];

fn answered(status: u16, message: &str) -> ErrorKind {
    if let Some((_, kind)) = WORDS.iter().find(|(words, _)| message.contains(words)) {
        return *kind;
    }
    match status {
        304 | 409 => ErrorKind::Conflict,
        404 => ErrorKind::Absent,
        _ => ErrorKind::Other,
    }
}

/// The text in one line of at most [`MESSAGE_MAX_CHARS`] characters.
pub(super) fn one_line(text: &str) -> String {
    let line = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty());
    let line = line.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MESSAGE_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The message of an error and of its causes, without repetitions.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !message.contains(&words) {
            message = format!("{message}: {words}");
        }
        next = cause.source();
    }
    message
}

/// Treats these HTTP statuses ("already so", "not found") as success.
pub(super) fn tolerate(result: Result<(), Failure>, statuses: &[u16]) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.status().is_some_and(|status| statuses.contains(&status)) => Ok(()),
        other => other,
    }
}

pub(super) fn file_error(call: impl Into<String>) -> impl FnOnce(std::io::Error) -> EngineError {
    |error| EngineError::new(ErrorKind::Other, call, one_line(&error.to_string()))
}

/// If a streaming call fails, podman-api returns its own error as the content of an IO error. `source()` skips that
/// content; `get_ref()` returns it.
/// podman-api's `Error` must never be cloned: its `clone` recurses endlessly.
impl From<podman_api::Error> for Failure {
    fn from(error: podman_api::Error) -> Self {
        crate_failure(&error).unwrap_or_else(|| Self::Unusable(error.to_string()))
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "other errors do not come from Podman")]
fn crate_failure(error: &podman_api::Error) -> Option<Failure> {
    match error {
        podman_api::Error::Fault { code, message } => {
            Some(Failure::Answered { status: code.as_u16(), message: message.clone() })
        }
        podman_api::Error::IO(error) => Some(io_failure(error)),
        podman_api::Error::Error(error) => Some(connection_failure(error)),
        _ => None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "other errors do not come from Podman")]
fn connection_failure(error: &ConnError) -> Failure {
    match error {
        ConnError::IO(error) => io_failure(error),
        ConnError::Hyper(error) => Failure::NoAnswer(chain(error)),
        ConnError::Any(inner) => inner
            .downcast_ref::<podman_api::Error>()
            .and_then(crate_failure)
            .unwrap_or_else(|| Failure::Unusable(inner.to_string())),
        ConnError::Fault { code, message } => {
            Failure::Answered { status: code.as_u16(), message: message.clone() }
        }
        other => Failure::Unusable(other.to_string()),
    }
}

fn io_failure(error: &std::io::Error) -> Failure {
    let inner = error.get_ref();
    let nested = inner.and_then(|inner| inner.downcast_ref::<podman_api::Error>()).and_then(crate_failure);
    let nested = nested.or_else(|| inner?.downcast_ref::<ConnError>().map(connection_failure));
    nested.unwrap_or_else(|| Failure::NoAnswer(chain(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn kind(status: u16, message: &str) -> ErrorKind {
        Failure::Answered { status, message: message.to_owned() }.kind()
    }

    /// The messages of Podman 4.3.1, 5.4.2 and 5.8.6.
    #[test]
    fn podman_error_responses_map_to_error_kinds() {
        for (status, message, expected) in [
            (404, "no container with name or ID \"x\" found: no such container", ErrorKind::Absent),
            (404, "no volume with name \"v\" found: no such volume", ErrorKind::Absent),
            (500, "failed to find image x: x: image not known", ErrorKind::ImageMissing),
            (404, "no such image: x: image not known", ErrorKind::ImageMissing),
            (
                404,
                "mounting storage for container f4: lstat /var/lib/containers/storage/overlay/5/merged: no such file \
                 or directory: no such file or directory",
                ErrorKind::HalfStarted,
            ),
            (404, "no such image", ErrorKind::ImageMissing),
            (
                500,
                "creating container storage: the container name \"a\" is already in use by 12",
                ErrorKind::Conflict,
            ),
            (500, "volume with name v already exists: volume already exists", ErrorKind::Conflict),
            (409, "volume v is being used by the following container(s): 12", ErrorKind::Conflict),
            (500, "\"n\" has associated containers with it: network is being used", ErrorKind::Conflict),
            (
                500,
                "cannot remove container 12 as it is running: container state improper",
                ErrorKind::Conflict,
            ),
            (304, "", ErrorKind::Conflict),
            (
                500,
                "cannot listen on the TCP port: listen tcp4 127.0.0.1:80: bind: address already in use",
                ErrorKind::PortInUse,
            ),
            (500, "netavark: IO error: Address already in use (os error 98)", ErrorKind::Other),
            (500, "OCI runtime attempted to invoke a command that was not found", ErrorKind::Other),
            (500, "no such container", ErrorKind::Other),
            (400, "bad parameter", ErrorKind::Other),
            (503, "", ErrorKind::Other),
        ] {
            assert_eq!(kind(status, message), expected, "{status} {message}");
        }
    }

    #[test]
    fn failure_without_usable_response_is_never_of_kind_absent() {
        assert_eq!(Failure::NoAnswer("connection refused".into()).kind(), ErrorKind::Unreachable);
        assert_eq!(Failure::Unusable("not JSON".into()).kind(), ErrorKind::Other);
    }

    #[test]
    fn engine_error_message_is_one_short_line() {
        let failure = Failure::Unusable(format!("a\n\tb\u{0} {}", "x".repeat(9000)));
        let message = failure.of("try").message;
        assert!(
            message.starts_with("a b x") && message.chars().count() == MESSAGE_MAX_CHARS + 1,
            "{message}"
        );
    }

    /// podman-api nests faults inside streams in other errors.
    #[test]
    fn nested_podman_error_is_found_at_any_depth() {
        let fault = || podman_api::Error::Fault {
            code: 404.try_into().unwrap(),
            message: "no such container".to_owned(),
        };
        let any = || ConnError::Any(Box::new(fault()));
        for wrapped in [
            fault(),
            podman_api::Error::IO(io::Error::other(fault())),
            podman_api::Error::IO(io::Error::other(any())),
            podman_api::Error::Error(any()),
            podman_api::Error::Error(ConnError::IO(io::Error::other(any()))),
        ] {
            let debug_text = format!("{wrapped:?}");
            assert_eq!(Failure::from(wrapped).kind(), ErrorKind::Absent, "{debug_text}");
        }
        let broken = podman_api::Error::Error(ConnError::IO(io::ErrorKind::UnexpectedEof.into()));
        assert_eq!(Failure::from(broken).kind(), ErrorKind::Unreachable);
    }
}
