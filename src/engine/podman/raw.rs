//! Plain HTTP over Podman's socket, for what podman-api sends wrongly or does not send.
//!
//! One connection per request, as podman-api does it: there is no pool whose stale connection could
//! fail a request that was never sent. A connection is driven by the call or the stream that uses it and
//! by no task, so dropping that closes it. There are no time limits here; the caller's deadline drops the call.

use std::{
    error::Error as StdError,
    fmt::Write as _,
    future::Future,
    path::{Path, PathBuf},
    pin::pin,
};

use futures_util::{FutureExt, Stream, stream};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderValue},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::net::UnixStream;

use super::errors::{Failure, chain};

/// The version every path begins with. Podman 5 answers it in the shapes of 4, which podman-api reads.
const PREFIX: &str = "/v4.3.1";

/// The longest JSON answer that is read, in bytes. Looking at one container takes a few kB.
const ANSWER_MAX_BYTES: usize = 8 << 20;

/// What Podman says when it refuses.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    cause: String,
    message: String,
}

impl Refusal {
    /// Message and cause in the order podman-api gives them.
    pub(super) fn words(self) -> String {
        let Self { cause, message } = self;
        if message.contains(&cause) { message } else { format!("{message}: {cause}") }
    }
}

/// Sends requests to one socket.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    socket: PathBuf,
}

impl Raw {
    /// Speaks to this socket. Does nothing yet.
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks, and reads the JSON answer. `target` is path and query, already [`escape`]d.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<T, Failure> {
        let answer = self.send(method, target, body, ANSWER_MAX_BYTES).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| Failure::Unusable(format!("not as expected: {error}")))
    }

    /// Asks, and reads an answer of at most `limit` bytes.
    pub(super) async fn send(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
        limit: usize,
    ) -> Result<Bytes, Failure> {
        let request = request(method, target, body)?;
        let (mut sender, connection) = self.connect().await?;
        driven(connection, async {
            let response = sender.send_request(request).await.map_err(|e| no_answer(&e))?;
            read(accepted(response).await?.into_body(), limit).await
        })
        .await
    }

    /// Asks, and hands the answer's body out as it comes. Returns when the answer's head is there; nothing
    /// comes after an error.
    pub(super) async fn stream(
        &self,
        target: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, Failure>> + Send + use<>, Failure> {
        let request = request(Method::GET, target, None)?;
        let (mut sender, connection) = self.connect().await?;
        // Fused, since it may end while what it has brought is still being read.
        let mut connection = Box::pin(connection.fuse());
        let response = driven(&mut connection, async {
            accepted(sender.send_request(request).await.map_err(|e| no_answer(&e))?).await
        })
        .await?;
        Ok(stream::unfold(Some((connection, response.into_body())), |open| async {
            let (mut connection, mut body) = open?;
            loop {
                match driven(&mut connection, body.frame()).await? {
                    // What is no data is a trailer, in which nothing is said.
                    Ok(frame) => {
                        if let Ok(piece) = frame.into_data() {
                            return Some((Ok(piece), Some((connection, body))));
                        }
                    }
                    Err(error) => return Some((Err(no_answer(&error)), None)),
                }
            }
        }))
    }

    /// Asks for the connection itself, as a stream of bytes both ways.
    pub(super) async fn upgrade(&self, target: &str, body: &Value) -> Result<TokioIo<Upgraded>, Failure> {
        let mut request = request(Method::POST, target, Some(body))?;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        let (mut sender, connection) = self.connect().await?;
        driven(connection.with_upgrades(), async {
            let response = accepted(sender.send_request(request).await.map_err(|e| no_answer(&e))?).await?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err(Failure::Unusable(format!("answered {} instead of a stream", response.status())));
            }
            hyper::upgrade::on(response).await.map(TokioIo::new).map_err(|e| no_answer(&e))
        })
        .await
    }

    async fn connect(&self) -> Result<(SendRequest<Full<Bytes>>, Connection), Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| no_answer(&e))?;
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| no_answer(&e))
    }
}

type Connection = http1::Connection<TokioIo<UnixStream>, Full<Bytes>>;

/// Runs an exchange while driving the connection it needs. A connection that ends first leaves the
/// exchange to find out what that means.
async fn driven<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let mut exchange = pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        _ = connection => exchange.await,
    }
}

fn request(method: Method, target: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, Failure> {
    let content = body.map(Value::to_string).unwrap_or_default();
    Request::builder()
        .method(method)
        .uri(format!("{PREFIX}{target}"))
        // Podman wants the header, and a unix socket has no name to put there.
        .header(header::HOST, "d")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(content))
        .map_err(|error| Failure::Unusable(format!("the request cannot be put: {error}")))
}

/// The response, if its status is a success.
async fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
    let status = response.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let body = read(response.into_body(), ANSWER_MAX_BYTES).await?;
    Err(Failure::Answered { status: status.as_u16(), message: words(&body) })
}

/// A refusal's words, or the plain text of what is no JSON.
fn words(body: &[u8]) -> String {
    let refusal = serde_json::from_slice::<Refusal>(body).map(Refusal::words);
    refusal.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned())
}

async fn read(body: Incoming, limit: usize) -> Result<Bytes, Failure> {
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::TooLong(limit)),
        Err(error) => Err(no_answer(&*error)),
    }
}

fn no_answer(error: &(dyn StdError + 'static)) -> Failure {
    Failure::NoAnswer(chain(error))
}

/// Percent-encodes everything but letters, digits and `-_.~`, for a path segment or a query value.
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
    fn nothing_that_is_escaped_can_change_the_request() {
        assert_eq!(escape("/vol/a b?x=1&y#é"), "%2Fvol%2Fa%20b%3Fx%3D1%26y%23%C3%A9");
        assert_eq!(escape("plain-1_2.3~"), "plain-1_2.3~");
    }

    #[test]
    fn a_refusal_says_its_cause_once() {
        assert_eq!(words(br#"{"cause":"b","message":"a: b","response":500}"#), "a: b");
        assert_eq!(words(br#"{"cause":"b","message":"a","response":500}"#), "a: b");
        assert_eq!(words(b"plain words\n"), "plain words\n");
    }
}
