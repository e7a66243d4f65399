//! HTTP client for the daemon's socket.
//!
//! Requests have no deadline, because an operation may take as long as an image takes to pull. A daemon that exited is
//! detected by its closed socket. A frozen daemon is detected by a second connection, on which it does not answer
//! `/health`.

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Bytes,
    header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, UPGRADE},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{
    api::error::ErrorBody,
    unix_http::{self, Body, Connection},
};

use super::failure::{Exit, Failure};

/// How long to wait for a response before probing whether the daemon is alive.
const ASK_AFTER: Duration = Duration::from_secs(5);
/// Time limit of that probe: longer than a daemon on a busy machine needs for the simplest response.
const SILENT_AFTER: Duration = Duration::from_secs(15);

/// Passed as the body of a request that has none.
pub(super) const NOTHING: Option<&()> = None;

/// Sends requests to the daemon.
pub(super) struct Client {
    socket: PathBuf,
}

/// A complete response, with any status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// A response whose body is read as it arrives.
pub(super) struct Stream {
    body: Body,
}

impl Stream {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.context("the daemon's response was cut off")?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// The response to a message: its head, and the body as it arrives.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Body,
}

impl Reply {
    /// The next bytes; `None` at the end. An error means that the response was cut off.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Reads the whole body as a response of the daemon itself, not of an agent.
    pub(super) async fn read<T: DeserializeOwned>(mut self) -> Result<T, Failure> {
        let mut body = Vec::new();
        while let Ok(Some(data)) = self.next().await {
            body.extend_from_slice(&data);
        }
        Answer { status: self.status, body: body.into() }.read()
    }
}

/// A connection that was upgraded to a command's stream.
pub(super) type Pipe = TokioIo<Upgraded>;

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, NOTHING).await?.read()
    }

    pub(super) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.ask(Method::PATCH, path, Some(body)).await?.read()
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.ask(Method::POST, path, Some(body)).await?.read()
    }

    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::DELETE, path, NOTHING).await?.read()
    }

    /// Sends a request and returns the response, whatever its status.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Answer, Failure> {
        let body = body.map(serde_json::to_vec).transpose().context("the request cannot be encoded")?;
        let mut request = request(method, path, body.unwrap_or_default())?;
        request
            .headers_mut()
            .insert(CONTENT_TYPE, "application/json".parse().context("invalid request header")?);
        collect(self.send(request).await?).await
    }

    /// Opens a streaming response, with an optional additional request header.
    pub(super) async fn stream(
        &self,
        path: &str,
        header: Option<(HeaderName, String)>,
    ) -> Result<Stream, Failure> {
        let mut request = request(Method::GET, path, Vec::new())?;
        if let Some((name, value)) = header {
            request.headers_mut().insert(name, value.parse().context("invalid request header")?);
        }
        let response = self.send(request).await?;
        if response.status().is_success() {
            return Ok(Stream { body: response.into_body() });
        }
        Err(collect(response).await?.refusal())
    }

    /// Sends JSON with additional headers, and returns the response as it arrives, whatever its status.
    pub(super) async fn exchange(
        &self,
        path: &str,
        body: &impl Serialize,
        headers: &[(&'static str, &str)],
    ) -> Result<Reply, Failure> {
        let body = serde_json::to_vec(body).context("the request cannot be encoded")?;
        let mut request = request(Method::POST, path, body)?;
        for (name, value) in [(CONTENT_TYPE.as_str(), "application/json")].iter().chain(headers) {
            let name = HeaderName::from_static(name);
            request.headers_mut().insert(name, value.parse().context("invalid request header")?);
        }
        let (head, body) = self.send(request).await?.into_parts();
        Ok(Reply { status: head.status, headers: head.headers, body })
    }

    /// Upgrades a connection to a command's stream.
    pub(super) async fn upgrade(&self, path: &str) -> Result<Pipe, Failure> {
        let mut request = request(Method::POST, path, Vec::new())?;
        request.headers_mut().insert(CONNECTION, "upgrade".parse().context("invalid request header")?);
        request.headers_mut().insert(UPGRADE, "tcp".parse().context("invalid request header")?);
        let response = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(collect(response).await?.refusal());
        }
        Ok(unix_http::upgraded(response).await.context("the daemon did not open the stream")?)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Body>, Failure> {
        let connection = Connection::open(&self.socket).await.map_err(|error| self.unreachable(error))?;
        let mut response = pin!(connection.send(request));
        loop {
            match timeout(ASK_AFTER, &mut response).await {
                Ok(response) => return response.map_err(|error| self.lost(error)),
                Err(_) if self.is_silent().await => return Err(self.frozen()),
                Err(_) => {}
            }
        }
    }

    /// Whether a daemon accepts connections but does not answer `/health` in time.
    async fn is_silent(&self) -> bool {
        let response = async {
            let connection = Connection::open(&self.socket).await?;
            let request =
                request(Method::GET, "/health", Vec::new()).map_err(|_| io::ErrorKind::InvalidInput)?;
            connection.send(request).await.map(drop).map_err(io::Error::other)
        };
        // An error is not silence: the daemon reacted, for example by shutting down. The connection of the original
        // request reports the cause.
        timeout(SILENT_AFTER, response).await.is_err()
    }

    fn frozen(&self) -> Failure {
        let what = format!("the daemon at {} does not respond", self.socket.display());
        Failure::new(Exit::Unreachable, what).next(
            "check whether its process is stopped (`kill -CONT PID` resumes it) or the machine is overloaded; a request \
             that it has received may still be carried out",
        )
    }

    fn unreachable(&self, error: io::Error) -> Failure {
        let next = advice(error.kind(), &self.socket);
        let what = format!("the daemon does not answer at {}", self.socket.display());
        Failure::from_error(Exit::Unreachable, anyhow::Error::new(error).context(what)).next(next)
    }

    fn lost(&self, error: hyper::Error) -> Failure {
        let what =
            format!("the daemon at {} closed the connection before it responded", self.socket.display());
        Failure::from_error(Exit::Unreachable, anyhow::Error::new(error).context(what)).next(
            "see its log for the reason, restart it with `ostler serve`, and check with `ostler ls` \
             what was carried out",
        )
    }
}

fn advice(kind: io::ErrorKind, socket: &Path) -> String {
    if kind == io::ErrorKind::PermissionDenied {
        return format!(
            "run this command as the owner of {}; only that user may use the socket",
            socket.display()
        );
    }
    "start it with `ostler serve`; if it runs with another data directory, pass that with `--data-dir` or \
     OSTLER_DATA_DIR"
        .to_owned()
}

fn request(method: Method, path: &str, body: Vec<u8>) -> Result<Request<Full<Bytes>>, Failure> {
    let request = Request::builder().method(method).uri(path).header(HOST, "ostler");
    Ok(request.body(Full::new(body.into())).context("the request cannot be encoded")?)
}

async fn collect(response: Response<Body>) -> Result<Answer, Failure> {
    let status = response.status();
    let body = response.into_body().collect().await.context("the daemon's response was cut off")?.to_bytes();
    Ok(Answer { status, body })
}

impl Answer {
    /// Parses the body. If the status is an error, returns the failure that corresponds to it.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        if !self.status.is_success() {
            return Err(self.refusal());
        }
        let value = serde_json::from_slice(&self.body).context("the daemon's response cannot be parsed");
        value.map_err(|error| {
            Failure::from(error)
                .next("restart the daemon after an update: its version may differ from `ostler --version`")
        })
    }

    /// Converts an error response into a failure with the daemon's message, which says why and what to do next.
    pub(super) fn refusal(&self) -> Failure {
        let exit = match self.status {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Exit::Usage,
            StatusCode::NOT_FOUND | StatusCode::GONE => Exit::NotFound,
            StatusCode::CONFLICT => Exit::Conflict,
            _ => Exit::Failed,
        };
        let error_text = match serde_json::from_slice::<ErrorBody>(&self.body) {
            Ok(body) => body.error,
            Err(_) => {
                format!(
                    "the daemon responded with {}: {}",
                    self.status,
                    String::from_utf8_lossy(&self.body).trim()
                )
            }
        };
        Failure::new(exit, super::text::printable(&error_text))
    }
}

/// Percent-encodes a text as one segment of a path or one value of a query.
pub(super) fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The path of a workspace by name, id or id prefix.
pub(super) fn workspace(reference: &str) -> String {
    format!("/workspaces/{}", segment(reference))
}

/// Like [`workspace`], but a path that also finds removed workspaces.
pub(super) fn workspace_even_removed(reference: &str) -> String {
    format!("{}?removed=true", workspace(reference))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspace_name_is_percent_encoded_in_request_path() {
        assert_eq!(workspace("night shift/../x?y#ä"), "/workspaces/night%20shift%2F..%2Fx%3Fy%23%C3%A4");
    }
}
