//! A plain HTTP client for Podman's socket, for requests that podman-api sends incorrectly or not at all.
//!
//! Each request uses its own connection, as in podman-api; see `unix_http`. There are no timeouts here; the caller's
//! deadline drops the call.

use std::{
    error::Error as StdError,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use futures_util::{Stream, stream};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{self, HeaderValue},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::errors::{Failure, chain};
use crate::unix_http::{self, Body, Connection};

/// Version prefix of every path. For this prefix, Podman 5 uses the formats of version 4, which podman-api can parse.
const PREFIX: &str = "/v4.3.1";

/// Maximum size of a JSON response, in bytes. An inspection of one container has a few kB.
const ANSWER_MAX_BYTES: usize = 8 << 20;

/// The body of Podman's error response.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    cause: String,
    message: String,
}

impl Refusal {
    /// Message and cause, in podman-api's order.
    pub(super) fn words(self) -> String {
        let Self { cause, message } = self;
        if message.contains(&cause) { message } else { format!("{message}: {cause}") }
    }
}

/// HTTP client for one socket.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    socket: PathBuf,
}

impl Raw {
    /// Creates a client for this socket. Does no IO.
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Sends a request and parses the JSON response. `target` is the path and query, already [`escape`]d.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<T, Failure> {
        let answer = self.send(method, target, body, ANSWER_MAX_BYTES).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| Failure::Unusable(format!("unexpected response: {error}")))
    }

    /// Sends a request and reads a response of at most `limit` bytes.
    pub(super) async fn send(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
        limit: usize,
    ) -> Result<Bytes, Failure> {
        let response = self.exchange(request(method, target, body)?).await?;
        read(response.into_body(), limit).await
    }

    /// Sends a request and returns the response body as a stream, once the response head has arrived. Nothing follows
    /// an error.
    pub(super) async fn stream(
        &self,
        target: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, Failure>> + Send + use<>, Failure> {
        let response = self.exchange(request(Method::GET, target, None)?).await?;
        Ok(stream::unfold(Some(response.into_body()), |open| async {
            let mut body = open?;
            loop {
                match body.frame().await? {
                    // A frame without data is a trailer, and Podman sends nothing in trailers.
                    Ok(frame) => {
                        if let Ok(piece) = frame.into_data() {
                            return Some((Ok(piece), Some(body)));
                        }
                    }
                    Err(error) => return Some((Err(no_answer(&error)), None)),
                }
            }
        }))
    }

    /// Upgrades the connection to a bidirectional byte stream.
    pub(super) async fn upgrade(&self, target: &str, body: &Value) -> Result<TokioIo<Upgraded>, Failure> {
        let mut request = request(Method::POST, target, Some(body))?;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        let response = self.exchange(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::Unusable(format!("status {} instead of a stream", response.status())));
        }
        unix_http::upgraded(response).await.map_err(|e| no_answer(&e))
    }

    /// Sends a request and returns the response, if its status is a success, once its head has arrived.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Body>, Failure> {
        let connection = Connection::open(&self.socket).await.map_err(|e| no_answer(&e))?;
        accepted(connection.send(request).await.map_err(|e| no_answer(&e))?).await
    }
}

fn request(method: Method, target: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, Failure> {
    let content = body.map(Value::to_string).unwrap_or_default();
    Request::builder()
        .method(method)
        .uri(format!("{PREFIX}{target}"))
        // Podman requires the header, and a unix socket has no host name to send.
        .header(header::HOST, "d")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(content))
        .map_err(|error| Failure::Unusable(format!("the request cannot be built: {error}")))
}

/// The response if its status is a success; otherwise the error that it contains.
async fn accepted(response: Response<Body>) -> Result<Response<Body>, Failure> {
    let status = response.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let body = read(response.into_body(), ANSWER_MAX_BYTES).await?;
    Err(Failure::Answered { status: status.as_u16(), message: words(&body) })
}

/// The message of an error response, or its plain text if it is not JSON.
fn words(body: &[u8]) -> String {
    let refusal = serde_json::from_slice::<Refusal>(body).map(Refusal::words);
    refusal.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned())
}

async fn read(body: Body, limit: usize) -> Result<Bytes, Failure> {
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::TooLong(limit)),
        Err(error) => Err(no_answer(&*error)),
    }
}

fn no_answer(error: &(dyn StdError + 'static)) -> Failure {
    Failure::NoAnswer(chain(error))
}

/// Percent-encodes all bytes except letters, digits and `-_.~`, for a path segment or a query value.
pub(super) fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing into a string cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_escaping_encodes_reserved_characters() {
        assert_eq!(escape("/vol/a b?x=1&y#é"), "%2Fvol%2Fa%20b%3Fx%3D1%26y%23%C3%A9");
        assert_eq!(escape("plain-1_2.3~"), "plain-1_2.3~");
    }

    #[test]
    fn podman_error_message_contains_its_cause_once() {
        assert_eq!(words(br#"{"cause":"b","message":"a: b","response":500}"#), "a: b");
        assert_eq!(words(br#"{"cause":"b","message":"a","response":500}"#), "a: b");
        assert_eq!(words(b"plain words\n"), "plain words\n");
    }
}
