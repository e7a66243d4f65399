//! Notices of an agent to its user (wire protocol, §13).

use axum::{
    Json,
    extract::{Request, State},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    super::{
        Api,
        auth::Own,
        body::read_body,
        error::{HttpError, HttpResult},
        journal::cut,
    },
    AGENT_BODY_LIMIT,
};
use crate::{
    domain::{
        activity::{NOTIFY, RECEIVED},
        ids::ActivityId,
    },
    store::{NewActivity, Summary},
};

/// The largest request with a notice, in bytes.
const NOTICE_MAX_BYTES: usize = 64 << 10;
/// The most attachments of a notice.
const ATTACHMENTS_MAX: usize = 32;

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Notice {
    message: Option<String>,
    attachments: Vec<Attachment>,
}

#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(default)]
struct Attachment {
    uri: String,
    name: String,
    #[serde(rename = "mimeType", skip_serializing_if = "Option::is_none")]
    mime_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

/// Stores a notice as an activity row and emits an event with it.
pub(in super::super) async fn notify(
    State(api): State<Api>,
    own: Own,
    request: Request,
) -> HttpResult<Json<Value>> {
    if !own.by_admin {
        api.0.buckets.reports.check(own.id).map_err(HttpError::too_many)?;
    }
    let bytes = read_body(request.into_body(), NOTICE_MAX_BYTES, AGENT_BODY_LIMIT, &*api.0.clock).await?;
    let notice: Notice =
        serde_json::from_slice(&bytes).map_err(|_| HttpError::invalid("invalid request body"))?;
    let message = notice.message.filter(|message| !message.is_empty());
    let message = message.ok_or_else(|| HttpError::invalid("message is required"))?;
    let nameless = |attachment: &Attachment| attachment.uri.is_empty() || attachment.name.is_empty();
    if let Some(index) = notice.attachments.iter().position(nameless) {
        return Err(HttpError::invalid(format!("attachment[{index}]: uri and name are required")));
    }
    if notice.attachments.len() > ATTACHMENTS_MAX {
        return Err(HttpError::invalid(format!(
            "a notice must not have more than {ATTACHMENTS_MAX} attachments"
        )));
    }
    let mut response = json!({ "result": message });
    let mut answer = json!({ "message": message, "workspace_id": own.id });
    if !notice.attachments.is_empty() {
        let parts: Vec<_> =
            notice.attachments.iter().map(|file| json!({ "kind": "file", "file": file })).collect();
        response["parts"] = json!(parts);
        answer["attachments"] = json!(notice.attachments);
    }
    let row = NewActivity {
        id: ActivityId(api.0.entropy.uuid()),
        workspace: own.id,
        activity_type: RECEIVED,
        source: None,
        target: None,
        method: Some(NOTIFY.into()),
        summary: Summary::Text(Some(format!("Agent message: {}", cut(message, 200)))),
        status: "ok".into(),
        error_detail: None,
        duration_ms: None,
        request_body: None,
        response_body: Some(response.to_string()),
        at: api.0.clock.now(),
    };
    if api.0.store.note_notice(row, answer).await? {
        Ok(Json(json!({ "status": "sent" })))
    } else {
        Err(HttpError::not_found("workspace not found"))
    }
}
