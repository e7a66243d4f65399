//! The message journal: one row of activity per message that reached the proxy, listed under its target.
//!
//! Rows are collected in memory and written together, so that a message never waits for the disk. Before activity is
//! read, the collected rows are written. A crash loses the latest rows, but no message. (Messages to an agent that
//! polls are not in this journal: each is stored before its sender gets a response.)

use std::{
    borrow::Cow,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::header::CONTENT_TYPE,
    response::Response,
};
use hyper::body::{Frame, SizeHint};
use serde::{Deserialize, de::IgnoredAny};

use super::{Api, error::HttpError};
use crate::{
    domain::{
        activity::{BODY_KEPT_BYTES, RECEIVED},
        ids::{ActivityId, WorkspaceId},
        time::{Awake, Timestamp},
    },
    store::{NewActivity, Summary},
};

/// How long rows are collected before they are written.
const GATHER: Duration = Duration::from_millis(250);

/// Most rows in memory. Beyond this, which happens only when the store cannot write, new rows are dropped.
const GATHERED_MAX: usize = 2048;

/// Most bytes of a row's method and of its failure reason.
const METHOD_MAX: usize = 128;
const REASON_MAX: usize = 1024;

/// Rows that were not written yet.
#[derive(Default)]
pub(super) struct Journal {
    gathered: Mutex<Gathered>,
    /// Held while rows are written, so that a reader waits for rows that another task is writing.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Gathered {
    rows: Vec<Row>,
    scheduled: bool,
    dropped: u64,
}

/// A row before its bodies are parsed.
struct Row {
    from: Option<WorkspaceId>,
    to: WorkspaceId,
    method: Option<String>,
    request: Kept,
    response: Kept,
    status: u16,
    failed: Option<String>,
    took: Duration,
    at: Timestamp,
}

/// The stored part of a body: the whole body if it has at most `BODY_KEPT_BYTES`, otherwise only its length.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    length: u64,
}

impl Kept {
    fn add(&mut self, data: &[u8]) {
        self.length += data.len() as u64;
        if self.length <= BODY_KEPT_BYTES as u64 {
            self.bytes.extend_from_slice(data);
        } else {
            self.bytes = Vec::new();
        }
    }

    /// The body if it is valid JSON, otherwise `None`. For a body that is too large: a JSON object with its length.
    fn json(self) -> Option<String> {
        if self.length > BODY_KEPT_BYTES as u64 {
            return Some(format!(r#"{{"truncated":true,"bytes":{}}}"#, self.length));
        }
        let text = String::from_utf8(self.bytes).ok()?;
        serde_json::from_str::<IgnoredAny>(&text).is_ok().then_some(text)
    }
}

/// The JSON-RPC method of a message, at most `METHOD_MAX` bytes of it.
pub(super) fn method_of(message: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Method<'a> {
        #[serde(borrow)]
        method: Option<Cow<'a, str>>,
    }
    let method = serde_json::from_slice::<Method<'_>>(message).ok()?.method?;
    Some(cut(method.into_owned(), METHOD_MAX))
}

/// Truncates a text to at most `most` bytes, at a character boundary.
pub(super) fn cut(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}

/// A message being delivered. Its row is written when this is dropped, whatever the result.
pub(super) struct Exchange {
    api: Api,
    began: Awake,
    row: Option<Row>,
}

impl Exchange {
    /// Begins the row of a message that is about to be held or sent.
    pub(super) fn begin(api: &Api, from: Option<WorkspaceId>, to: WorkspaceId, message: &Bytes) -> Self {
        let mut request = Kept::default();
        request.add(message);
        let row = Row {
            from,
            to,
            method: method_of(message),
            request,
            response: Kept::default(),
            status: 0,
            failed: Some("the caller disconnected before the response".into()),
            took: Duration::ZERO,
            at: Timestamp(0),
        };
        Self { api: api.clone(), began: api.0.clock.awake(), row: Some(row) }
    }

    /// Records that the message was not delivered, or got no response in time.
    pub(super) fn failed(mut self, error: &HttpError) {
        if let Some(row) = &mut self.row {
            row.status = error.status().as_u16();
            row.failed = Some(cut(error.message().to_owned(), REASON_MAX));
        }
    }

    /// Follows the response to its end: only a complete response is recorded as success.
    pub(super) fn follow(mut self, answer: Response) -> Response {
        let status = answer.status();
        let is_refusal = status.as_u16() >= 400;
        let is_stream = answer.headers().get(CONTENT_TYPE).is_some_and(|kind| {
            kind.as_bytes().trim_ascii_start().to_ascii_lowercase().starts_with(b"text/event-stream")
        });
        if let Some(row) = &mut self.row {
            row.status = status.as_u16();
            row.failed = if is_refusal {
                Some(format!("the agent responded with {status}"))
            } else {
                // An event stream may be endless, so it is no failure if the caller closes it.
                (!is_stream).then(|| "the caller disconnected before the end of the response".into())
            };
        }
        answer.map(|body| {
            let mut followed = Followed { body, exchange: self, is_refusal };
            if followed.body.is_end_stream() {
                followed.note(None);
            }
            Body::new(followed)
        })
    }
}

/// A response body that is being sent to the caller.
struct Followed {
    body: Body,
    exchange: Exchange,
    is_refusal: bool,
}

impl Followed {
    /// Records that the response has ended: with an error, or complete (`None`). If the agent responded with an error
    /// status, that status remains the recorded reason.
    fn note(&mut self, failed: Option<String>) {
        if let Some(row) = &mut self.exchange.row
            && !self.is_refusal
        {
            row.failed = failed;
        }
    }
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.note(None),
            Some(Err(error)) => self.note(Some(cut(format!("response interrupted: {error}"), REASON_MAX))),
            Some(Ok(frame)) => {
                if let (Some(data), Some(row)) = (frame.data_ref(), &mut self.exchange.row) {
                    row.response.add(data);
                }
                // The HTTP server knows the length and does not poll for the end after the last frame.
                if self.body.is_end_stream() {
                    self.note(None);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(mut row) = self.row.take() {
            row.took = self.api.0.clock.awake().since(self.began);
            row.at = self.api.0.clock.now();
            self.api.gather(row);
        }
    }
}

impl Row {
    fn complete(self, id: ActivityId) -> NewActivity {
        NewActivity {
            id,
            workspace: self.to,
            activity_type: RECEIVED,
            source: self.from,
            target: Some(self.to.to_string()),
            method: self.method,
            status: if self.failed.is_some() { "error" } else { "ok" }.into(),
            error_detail: self.failed.clone(),
            summary: Summary::Message { failed: self.failed },
            duration_ms: Some(i64::try_from(self.took.as_millis()).unwrap_or(i64::MAX)),
            request_body: self.request.json(),
            response_body: self.response.json(),
            at: self.at,
        }
    }
}

impl Api {
    fn gather(&self, row: Row) {
        let schedule = {
            let mut gathered = self.0.journal.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            if gathered.rows.len() >= GATHERED_MAX {
                gathered.dropped += 1;
                return;
            }
            gathered.rows.push(row);
            !std::mem::replace(&mut gathered.scheduled, true)
        };
        if schedule {
            let api = self.clone();
            self.0.spawn.spawn(Box::pin(async move {
                api.0.clock.sleep(GATHER).await;
                api.write_gathered().await;
            }));
        }
    }

    /// Writes the collected rows.
    pub(super) async fn write_gathered(&self) {
        let _writing = self.0.journal.writing.lock().await;
        let Gathered { rows, dropped, .. } = {
            let mut gathered = self.0.journal.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *gathered)
        };
        if dropped > 0 {
            tracing::warn!(rows = dropped, "activity rows dropped: the store is too slow");
        }
        if rows.is_empty() {
            return;
        }
        let count = rows.len();
        let fresh = || ActivityId(self.0.entropy.uuid());
        let rows = rows.into_iter().map(|row| row.complete(fresh())).collect();
        if let Err(error) = self.0.store.log_activity(rows).await {
            tracing::warn!(%error, rows = count, "could not write activity rows");
        }
    }
}
