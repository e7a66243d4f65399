//! Follows one message to the end of its response.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::header::CONTENT_TYPE,
    response::Response,
};
use hyper::body::{Frame, SizeHint};

use super::rows::{Kept, Row, cut, method_of};
use crate::{
    domain::{
        ids::WorkspaceId,
        time::{Awake, Timestamp},
    },
    http::{error::HttpError, state::Api},
};

/// Most bytes of a row's failure reason.
const REASON_MAX: usize = 1024;

/// A message being delivered. Its row is written when this is dropped, whatever the result.
pub(in crate::http) struct Exchange {
    api: Api,
    began: Awake,
    row: Option<Row>,
}

impl Exchange {
    /// Begins the row of a message that is about to be held or sent.
    pub(in crate::http) fn begin(
        api: &Api,
        from: Option<WorkspaceId>,
        to: WorkspaceId,
        message: &Bytes,
    ) -> Self {
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
    pub(in crate::http) fn failed(mut self, error: &HttpError) {
        if let Some(row) = &mut self.row {
            row.status = error.status().as_u16();
            row.failed = Some(cut(error.message().to_owned(), REASON_MAX));
        }
    }

    /// Follows the response to its end: only a complete response is recorded as success.
    pub(in crate::http) fn follow(mut self, answer: Response) -> Response {
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
