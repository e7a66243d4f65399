//! HTTP over a socket. Requests may be raw bytes; answers are read completely.
//!
//! Tests need their own client, because HTTP libraries refuse to send the malformed requests of an attacker.

use std::{collections::VecDeque, fmt, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Limit for an answer; generous, because the machine may be busy with other work.
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, self.text())
    }
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(of, _)| of.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    /// Asserts exactly this status and this body.
    #[track_caller]
    pub(crate) fn is(&self, status: u16, body: &str) {
        assert_eq!((self.status, self.text().as_str()), (status, body), "{self:?}");
    }

    /// Asserts this status, and a body with only this error text.
    #[track_caller]
    pub(crate) fn refuses(&self, status: u16, error: &str) {
        self.is(status, &serde_json::json!({ "error": error }).to_string());
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
    }

    /// Asserts this status, and an error that contains this text.
    #[track_caller]
    pub(crate) fn refuses_with(&self, status: u16, part: &str) {
        let error = self.json()["error"].to_string();
        assert!(self.status == status && error.contains(part), "not {status} with {part:?}: {self:?}");
    }

    /// Asserts this status, and an object with exactly these keys; returns it.
    #[track_caller]
    pub(crate) fn has(&self, status: u16, keys: &[&str]) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let value = self.json();
        assert_eq!(keys_of(&value), sorted(keys), "{self:?}");
        value
    }

    /// Asserts status 200; returns the JSON body.
    #[track_caller]
    pub(crate) fn well(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }
}

/// The keys of an object, sorted.
#[track_caller]
pub(crate) fn keys_of(value: &Value) -> Vec<String> {
    let mut keys: Vec<_> = value.as_object().expect("an object").keys().cloned().collect();
    keys.sort();
    keys
}

fn sorted(keys: &[&str]) -> Vec<String> {
    let mut keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    keys.sort();
    keys
}

/// A request to write.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Ask {
    pub(crate) fn new(method: &str, path: impl Into<String>) -> Self {
        Self { method: method.into(), path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new("GET", path)
    }

    pub(crate) fn post(path: impl Into<String>) -> Self {
        Self::new("POST", path)
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds `Authorization: Bearer …`.
    pub(crate) fn token(self, token: &str) -> Self {
        self.header("Authorization", format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    #[allow(clippy::needless_pass_by_value, reason = "so that a test can write the value in its place")]
    pub(crate) fn json(self, body: Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let Self { method, path, headers, body } = self;
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: ostler.test\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        if !body.is_empty() || method != "GET" {
            bytes.extend(format!("Content-Length: {}\r\n", body.len()).into_bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(body);
        bytes
    }

    /// Sends it on a new connection.
    pub(crate) async fn to(self, address: SocketAddr) -> Answer {
        let mut wire = Wire::open(address).await;
        wire.write(&self.bytes()).await;
        wire.answer().await
    }
}

/// A client connection.
pub(crate) struct Wire {
    stream: TcpStream,
    read: VecDeque<u8>,
}

impl Wire {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the daemon listens");
        Self { stream, read: VecDeque::new() }
    }

    /// `None` if the connection is refused.
    pub(crate) async fn try_open(address: SocketAddr) -> Option<Self> {
        Some(Self { stream: TcpStream::connect(address).await.ok()?, read: VecDeque::new() })
    }

    /// Writes these bytes. Ignores an error: if the peer has closed the connection, a later read shows it.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let _closed = self.stream.write_all(bytes).await;
    }

    /// Writes like a client that reads only after it has sent everything; panics if the peer closes before that.
    #[track_caller]
    pub(crate) fn write_whole(&mut self, bytes: &[u8]) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        async move {
            let written = self.stream.write_all(bytes).await;
            written.unwrap_or_else(|error| {
                panic!("the connection broke while a request was sent ({at}): {error}")
            });
        }
    }

    /// Closes the sending side.
    pub(crate) async fn finish(&mut self) {
        let _closed = self.stream.shutdown().await;
    }

    /// The next complete answer.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> impl Future<Output = Answer> + '_ {
        let at = std::panic::Location::caller();
        async move {
            self.try_answer().await.unwrap_or_else(|| panic!("the connection ended without an answer ({at})"))
        }
    }

    /// The next complete answer; `None` if the connection ends before.
    pub(crate) async fn try_answer(&mut self) -> Option<Answer> {
        let (status, headers) = self.head().await?;
        let mut answer = Answer { status, headers, body: Vec::new() };
        if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().await? {
                answer.body.extend(chunk);
            }
        } else {
            let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap_or(0));
            answer.body = self.take(length).await?;
        }
        Some(answer)
    }

    /// Status and headers of the next answer.
    pub(crate) async fn head(&mut self) -> Option<(u16, Vec<(String, String)>)> {
        let status = self.line().await?;
        let status = status.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(':') else { return Some((status, headers)) };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The next chunk of a chunked body: the inner `None` is its end, the outer one a broken connection.
    #[allow(clippy::option_option, reason = "the end of the body and a broken connection differ")]
    pub(crate) async fn chunk(&mut self) -> Option<Option<Vec<u8>>> {
        let length = usize::from_str_radix(self.line().await?.trim(), 16).ok()?;
        let chunk = self.take(length).await?;
        self.line().await?;
        Some((length > 0).then_some(chunk))
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.more().await?;
        }
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.read.len() < length {
            self.more().await?;
        }
        Some(self.read.drain(..length).collect())
    }

    async fn more(&mut self) -> Option<()> {
        let mut buffer = Vec::with_capacity(16 * 1024);
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut buffer)).await;
        read.expect("the daemon answers within the time limit").ok().filter(|read| *read > 0)?;
        self.read.extend(buffer);
        Some(())
    }
}
