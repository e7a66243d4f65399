//! The rows that were not written yet.

use std::{borrow::Cow, sync::Mutex, time::Duration};

use serde::{Deserialize, de::IgnoredAny};

use crate::{
    domain::{
        activity::{BODY_KEPT_BYTES, RECEIVED},
        ids::{ActivityId, WorkspaceId},
        time::Timestamp,
    },
    store::{NewActivity, Summary},
};

/// Most bytes of a row's method.
const METHOD_MAX: usize = 128;

/// Rows that were not written yet.
#[derive(Default)]
pub(in crate::http) struct Journal {
    pub(super) gathered: Mutex<Gathered>,
    /// Held while rows are written, so that a reader waits for rows that another task is writing.
    pub(super) writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
pub(super) struct Gathered {
    pub(super) rows: Vec<Row>,
    pub(super) scheduled: bool,
    pub(super) dropped: u64,
}

/// A row before its bodies are parsed.
pub(super) struct Row {
    pub(super) from: Option<WorkspaceId>,
    pub(super) to: WorkspaceId,
    pub(super) method: Option<String>,
    pub(super) request: Kept,
    pub(super) response: Kept,
    pub(super) status: u16,
    pub(super) failed: Option<String>,
    pub(super) took: Duration,
    pub(super) at: Timestamp,
}

/// The stored part of a body: the whole body if it has at most `BODY_KEPT_BYTES`, otherwise only its length.
#[derive(Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    length: u64,
}

impl Kept {
    pub(super) fn add(&mut self, data: &[u8]) {
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
pub(in crate::http) fn method_of(message: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Method<'a> {
        #[serde(borrow)]
        method: Option<Cow<'a, str>>,
    }
    let method = serde_json::from_slice::<Method<'_>>(message).ok()?.method?;
    Some(cut(method.into_owned(), METHOD_MAX))
}

/// Truncates a text to at most `most` bytes, at a character boundary.
pub(in crate::http) fn cut(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}

impl Row {
    pub(super) fn complete(self, id: ActivityId) -> NewActivity {
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
