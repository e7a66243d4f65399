//! Stores messages to an agent that polls, and responds "queued" to their senders.

use axum::{
    Json,
    body::Bytes,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::undelivered::paused;
use crate::{
    domain::{
        activity::RECEIVED,
        ids::{ActivityId, WorkspaceId},
    },
    http::{
        Api,
        error::{HttpError, HttpResult},
        journal::method_of,
    },
    store::{NewActivity, Pause, Queued, Summary},
};

/// Largest message that is stored, in bytes.
const QUEUED_MAX_BYTES: usize = 1 << 20;
/// Delay after which the sender may retry if the mailbox is full, in seconds.
const TRY_AGAIN: u64 = 15;

/// Stores a message for an agent that polls. The sender gets "queued" only after the message was stored.
pub(super) async fn queue(
    api: &Api,
    from: Option<WorkspaceId>,
    to: WorkspaceId,
    body: &Bytes,
) -> HttpResult<Response> {
    if api.0.store.member(to).is_none() {
        return Err(HttpError::gone());
    }
    let starts = api.0.ops.accepted_starts();
    if api.0.store.pause(to, |id| starts.has(id)) == Pause::Lasts {
        return Err(paused());
    }
    if body.len() > QUEUED_MAX_BYTES {
        let why = "a message to a polling agent must not exceed 1 MiB";
        return Err(HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    let text = std::str::from_utf8(body).map_err(|_| HttpError::invalid("the message is not UTF-8"))?;
    let method = method_of(body);
    let row = NewActivity {
        id: ActivityId(api.0.entropy.uuid()),
        workspace: to,
        activity_type: RECEIVED,
        source: from,
        target: Some(to.to_string()),
        method: method.clone(),
        summary: Summary::Message { failed: None },
        status: "ok".into(),
        error_detail: None,
        duration_ms: Some(0),
        request_body: Some(text.to_owned()),
        response_body: None,
        at: api.0.clock.now(),
    };
    match api.0.store.queue_message(row).await? {
        Queued::Stored => {
            for id in from.into_iter().chain([to]) {
                api.0.ops.traffic().note(id);
            }
            let answer = json!({ "status": "queued", "delivery_mode": "poll", "method": method });
            Ok(Json(answer).into_response())
        }
        Queued::Full => {
            let why =
                "the mailbox is full: the workspace's agent has not polled it. Retry after the next poll";
            Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, why)
                .with("status", "mailbox_full")
                .retry_after(TRY_AGAIN))
        }
        Queued::Gone => Err(HttpError::gone()),
    }
}
