//! A connection, and strict parsing of responses according to the standard.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use rustix::net::sockopt;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

/// Largest response that is read, in bytes. Every expected response is much smaller.
const LARGEST: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// Result of reading one response from a connection.
#[derive(Debug)]
pub(super) enum Read {
    Answer(Answer),
    /// The connection ended between two responses.
    End,
    /// Invalid or incomplete response.
    Nonsense(String),
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }

    pub(super) fn check_heartbeat(&self) -> Result<(), String> {
        if self.status == 200 && self.body == br#"{"status":"ok"}"# { Ok(()) } else { Err(self.shortly()) }
    }

    pub(super) fn shortly(&self) -> String {
        format!("{} {}", self.status, escaped(&self.body))
    }

    /// The defect of an error response, if any: its body has to report the error. Only a response to bytes that are not
    /// a complete request may have no body; it ends the connection.
    pub(super) fn wrong(&self) -> Option<&'static str> {
        if self.status < 400 {
            return None;
        }
        if self.body.is_empty() {
            let no_request = matches!(self.status, 400 | 431) && self.closes();
            return (!no_request).then_some("an error response without a body");
        }
        let Ok(Value::Object(body)) = serde_json::from_slice(&self.body) else {
            return Some("an error response without a JSON object as its body");
        };
        // Wire protocol, §5: two error responses have a format of their own.
        let of_its_own = (self.status == 404 && body.get("deleted") == Some(&Value::Bool(true)))
            || (self.status == 409 && body.contains_key("children_count"));
        if of_its_own || body.get("error").is_some_and(Value::is_string) {
            None
        } else {
            Some("an error response without a string `error`")
        }
    }
}

/// Bytes in escaped form, shortened.
pub(super) fn escaped(bytes: &[u8]) -> String {
    const MOST: usize = 700;
    let text = bytes.iter().take(MOST).flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from);
    let more = if bytes.len() > MOST { format!("… ({} bytes)", bytes.len()) } else { String::new() };
    text.collect::<String>() + &more
}

/// A client connection.
pub(super) struct Line {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Line {
    /// Connects from a loopback address.
    pub(super) async fn open(from: Ipv4Addr, to: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        // Closing frees the port at once. This is needed because there are more connections than ports.
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        Ok(Self { stream, read: Vec::new() })
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Closes the sending side.
    pub(super) async fn finish(&mut self) {
        let _closed = self.stream.shutdown().await;
    }

    /// Waits until the peer has closed; returns what it sent until then.
    pub(super) async fn ended(&mut self) -> Vec<u8> {
        while matches!(self.more().await, Ok(true)) {}
        std::mem::take(&mut self.read)
    }

    async fn more(&mut self) -> io::Result<bool> {
        if self.read.len() > LARGEST {
            return Err(io::Error::other("the response is too large"));
        }
        Ok(self.stream.read_buf(&mut self.read).await? > 0)
    }

    /// The next response; a response to `HEAD` has no body, whatever it announces.
    pub(super) async fn answer(&mut self, to_head: bool) -> Read {
        let end = loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                break end;
            }
            match self.more().await {
                Ok(true) => {}
                // A reset counts as an end: there may have been unread data.
                Ok(false) | Err(_) if self.read.is_empty() => return Read::End,
                Ok(false) | Err(_) => return Read::Nonsense(escaped(&self.read)),
            }
        };
        let head: Vec<u8> = self.read.drain(..end + 4).collect();
        let Some((status, headers)) = parsed(&head[..end]) else { return Read::Nonsense(escaped(&head)) };
        let mut answer = Answer { status, headers, body: Vec::new() };
        if to_head || matches!(status, 100..=199 | 204 | 304) {
            return Read::Answer(answer);
        }
        let length = answer.header("content-length").map(str::parse::<usize>);
        let body = match (length, answer.header("transfer-encoding")) {
            (Some(Ok(length)), None) => self.take(length).await,
            (None, Some("chunked")) => self.chunks().await,
            (None, None) | (Some(_), _) | (None, Some(_)) => None,
        };
        match body {
            Some(body) => {
                answer.body = body;
                Read::Answer(answer)
            }
            None => Read::Nonsense(format!("{} with an incomplete or invalid body", escaped(&head))),
        }
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.read.len() < length {
            self.more().await.ok().filter(|more| *more)?;
        }
        Some(self.read.drain(..length).collect())
    }

    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = find(&self.read, b"\r\n") {
                    break end;
                }
                self.more().await.ok().filter(|more| *more)?;
            };
            let line = self.take(end + 2).await?;
            let length = usize::from_str_radix(std::str::from_utf8(&line[..end]).ok()?, 16).ok()?;
            body.extend(self.take(length).await?);
            if self.take(2).await? != b"\r\n" {
                return None;
            }
            if length == 0 {
                return Some(body);
            }
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Status and headers, if all of them conform to the standard.
fn parsed(head: &[u8]) -> Option<(u16, Vec<(String, String)>)> {
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?;
    let status = status.strip_prefix("HTTP/1.1 ").or_else(|| status.strip_prefix("HTTP/1.0 "))?;
    let (status, _reason) = status.split_at_checked(3)?;
    let token = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let legal = token(name) && !value.bytes().any(|byte| byte < b' ' && byte != b'\t');
        legal.then(|| (name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers: Option<Vec<_>> = lines.map(header).collect();
    Some((status.parse().ok().filter(|status| (100..600).contains(status))?, headers?))
}
