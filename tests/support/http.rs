//! Just enough of an HTTP client for tests: one request per connection, no chunks.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::Value;

/// How long an answer may take. Messages to agents are held for a minute.
const PATIENCE: Duration = Duration::from_mins(3);

/// What is asked.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// The bearer.
    pub(crate) token: Option<&'a str>,
    /// Whom it claims to come from.
    pub(crate) caller: Option<&'a str>,
    /// `null` is sent as no body.
    pub(crate) body: Value,
}

/// What was answered.
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

    /// The answer, where it is this one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

impl Request<'_> {
    /// Asks on a unix socket.
    #[track_caller]
    pub(crate) fn over_socket(&self, socket: &Path) -> Answer {
        let stream = UnixStream::connect(socket).expect("the daemon listens on its socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit is set");
        self.over(stream)
    }

    /// Asks on a port of loopback.
    #[track_caller]
    pub(crate) fn over_tcp(&self, port: u16) -> Answer {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the daemon listens for agents");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit is set");
        self.over(stream)
    }

    /// Asks on a port of loopback as a client does that gives up after so long and may ask again.
    #[allow(dead_code, reason = "only campaigns have such clients")]
    pub(crate) fn try_over_tcp(&self, port: u16, patience: Duration) -> Option<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(patience)).ok()?;
        stream.write_all(self.text().as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    /// Asks on a unix socket, and answers the lines of the body as they come.
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
        // HTTP/1.0, so that no answer comes in chunks and its end is the connection's.
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
