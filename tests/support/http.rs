//! A minimal HTTP client for tests: one request per connection, no chunked encoding.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::Value;

/// Limit for an answer. Messages to agents are held for a minute.
const PATIENCE: Duration = Duration::from_mins(3);

pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// The bearer token.
    pub(crate) token: Option<&'a str>,
    /// The caller's workspace id, as claimed.
    pub(crate) caller: Option<&'a str>,
    /// `null` means no body.
    pub(crate) body: Value,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// The body, as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Asserts the status and returns the answer.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

impl Request<'_> {
    /// Sends the request over a unix socket.
    #[track_caller]
    pub(crate) fn over_socket(&self, socket: &Path) -> Answer {
        let stream = UnixStream::connect(socket).expect("the daemon listens on its socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit is set");
        self.over(stream)
    }

    /// Sends the request to a loopback port.
    #[track_caller]
    pub(crate) fn over_tcp(&self, port: u16) -> Answer {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the daemon listens for agents");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit is set");
        self.over(stream)
    }

    /// Like `over_tcp`, as a client that stops waiting after `patience` and may try again. `None` without an answer.
    #[allow(dead_code, reason = "only campaigns have such clients")]
    pub(crate) fn try_over_tcp(&self, port: u16, patience: Duration) -> Option<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(patience)).ok()?;
        stream.write_all(self.text().as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    /// Sends the request over a unix socket; returns the lines of the body as they arrive.
    #[track_caller]
    pub(crate) fn lines_over_socket(&self, socket: &Path) -> impl Iterator<Item = String> + use<> {
        let mut stream = UnixStream::connect(socket).expect("the daemon listens on its socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit is set");
        stream.write_all(self.text().as_bytes()).expect("the request is sent");
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let head: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        assert!(head.first().is_some_and(|line| line.contains(" 200 ")), "{head:?}");
        lines
    }

    #[track_caller]
    fn over(&self, mut stream: impl Read + Write) -> Answer {
        stream.write_all(self.text().as_bytes()).expect("the request is sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the answer is read to its end");
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").expect("the answer has a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Answer { status: status.expect("the answer has a status"), body: body.to_owned() }
    }

    fn text(&self) -> String {
        // With HTTP/1.0, answers are not chunked and end with the connection.
        let mut request = format!("{} {} HTTP/1.0\r\nHost: localhost\r\n", self.method, self.path);
        if let Some(token) = self.token {
            request.push_str("Authorization: Bearer ");
            request.push_str(token);
            request.push_str("\r\n");
        }
        if let Some(caller) = self.caller {
            request.push_str("X-Workspace-ID: ");
            request.push_str(caller);
            request.push_str("\r\n");
        }
        let body = if self.body.is_null() { String::new() } else { self.body.to_string() };
        request + &format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }
}
