//! An agent's own state and activity log (wire protocol, §5).

use std::time::Duration;

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use uuid::Uuid;

use super::super::{
    Api,
    auth::{self, Own, OwnSocket, PathId, Presented, Principal, presented},
    body::read_body,
    error::{HttpError, HttpResult},
};
use super::Query;
use crate::{
    api::{
        activity::{ActivityData, ActivityView},
        workspace::{GoneView, StateView},
    },
    domain::{
        activity::{self, ActivityQuery, NOTIFY, RECEIVED, Sender, TYPES},
        ids::{ActivityId, WorkspaceId},
        lenient,
        status::Status,
        time::Timestamp,
    },
    store::{Activity, ActivityPage, NewActivity, Summary, TokenSubject},
};

/// The largest activity report, in bytes.
const ACTIVITY_MAX_BYTES: usize = 16 << 10;
/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// Returns the status of a workspace. External agents poll it every 30 s to learn whether they were paused or removed.
pub(in super::super) async fn state(
    State(api): State<Api>,
    PathId(id): PathId,
    request: Request,
) -> HttpResult<Response> {
    let own_socket = request.extensions().get::<OwnSocket>().is_some();
    match presented(request.headers(), own_socket) {
        Presented::OwnSocket => {}
        Presented::Nothing => return Err(auth::missing()),
        Presented::Token(token) => match auth::token_subject(&api, token, request.extensions()) {
            Some(TokenSubject::Admin) => {}
            Some(TokenSubject::Workspace(token_owner)) => {
                api.0.buckets.requests.check(token_owner.workspace).map_err(HttpError::too_many)?;
                Principal::Workspace(token_owner).require_workspace(id)?;
            }
            // A request with a token of the removed workspace gets the response that the workspace is gone.
            None if api.0.ops.removed_token_owner(token).await? == Some(id) => {}
            None => return Err(auth::invalid()),
        },
    }
    let row = api.0.store.workspace(id).await?.filter(|row| row.status != Status::Removed);
    let Some(row) = row else {
        let gone = GoneView { workspace_id: id.to_string(), deleted: true };
        return Ok((StatusCode::NOT_FOUND, Json(gone)).into_response());
    };
    let state = StateView {
        workspace_id: id.to_string(),
        status: row.status.as_str().into(),
        paused: row.status == Status::Paused,
        deleted: false,
    };
    Ok(Json(state).into_response())
}

/// An activity report of an agent. Keys that are not in the protocol are ignored.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Report {
    activity_type: String,
    source_id: Option<String>,
    target_id: Option<String>,
    method: Option<String>,
    summary: Option<String>,
    status: Option<String>,
    error_detail: Option<String>,
    duration_ms: Option<i64>,
    request_body: Option<Box<RawValue>>,
    response_body: Option<Box<RawValue>>,
    metadata: Option<Box<RawValue>>,
}

pub(in super::super) async fn log_activity(
    State(api): State<Api>,
    own: Own,
    request: Request,
) -> HttpResult<Json<Value>> {
    if !own.by_admin {
        api.0.buckets.reports.check(own.id).map_err(HttpError::too_many)?;
    }
    let bytes = read_body(request.into_body(), ACTIVITY_MAX_BYTES, BODY_LIMIT, &*api.0.clock).await?;
    let report: Report = serde_json::from_str(&lenient::repaired(&bytes))
        .map_err(|_| HttpError::invalid("invalid request body"))?;
    let row = report.into_row(&api, own.id)?;
    api.0.store.log_activity(vec![row]).await?;
    Ok(Json(json!({ "status": "logged" })))
}

impl Report {
    fn into_row(self, api: &Api, of: WorkspaceId) -> HttpResult<NewActivity> {
        let Some(activity_type) = TYPES.into_iter().find(|known| *known == self.activity_type) else {
            let known = TYPES.join(", ");
            return Err(HttpError::invalid(format!("invalid activity_type, must be one of: {known}")));
        };
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(source) = given(self.source_id)
            && source.parse() != Ok(of)
        {
            return Err(HttpError::forbidden("source_id must match authenticated workspace"));
        }
        let json = |body: Option<Box<RawValue>>| body.map(|body| body.get().to_owned());
        Ok(NewActivity {
            id: ActivityId(api.0.entropy.uuid()),
            workspace: of,
            activity_type,
            source: Some(of),
            target: given(self.target_id),
            method: given(self.method),
            summary: Summary::Text(given(self.summary)),
            status: given(self.status).unwrap_or_else(|| "ok".into()),
            error_detail: given(self.error_detail),
            duration_ms: self.duration_ms,
            request_body: json(self.request_body.or(self.metadata)),
            response_body: json(self.response_body),
            at: api.0.clock.now(),
        })
    }
}

/// The query of [`activity()`]. Each value is the text that was sent, so that each invalid one gets its own error.
#[derive(Deserialize)]
pub(in super::super) struct Filters {
    #[serde(rename = "type")]
    activity_type: Option<String>,
    source: Option<String>,
    limit: Option<String>,
    peer_id: Option<String>,
    since_secs: Option<String>,
    before_ts: Option<String>,
    since_id: Option<String>,
}

/// The greatest age of rows that `since_secs` can select.
const SINCE_MAX: Duration = Duration::from_hours(30 * 24);

const UNKNOWN_CURSOR: &str = "since_id cursor not found: retry without it";

impl Filters {
    fn into_query(self, now: Timestamp) -> HttpResult<ActivityQuery> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let sender = match given(self.source).as_deref() {
            None => None,
            Some("canvas") => Some(Sender::User),
            Some("agent") => Some(Sender::Agent),
            Some(_) => return Err(HttpError::invalid("source must be 'canvas' or 'agent'")),
        };
        let peer = given(self.peer_id).map(|peer| Uuid::try_parse(&peer)).transpose();
        let peer = peer.map_err(|_| HttpError::invalid("peer_id must be a UUID"))?;
        let since = match given(self.since_secs) {
            None => None,
            Some(text) => {
                let seconds = text.parse::<u64>().ok().filter(|seconds| *seconds > 0);
                let invalid = || HttpError::invalid("since_secs must be a positive integer");
                Some(now - Duration::from_secs(seconds.ok_or_else(invalid)?).min(SINCE_MAX))
            }
        };
        let before = match given(self.before_ts) {
            None => None,
            Some(text) => {
                let invalid = || HttpError::invalid("before_ts must be an RFC 3339 time");
                Some(Timestamp::parse(&text).ok_or_else(invalid)?)
            }
        };
        let gone = || HttpError::new(StatusCode::GONE, UNKNOWN_CURSOR);
        let after = given(self.since_id).map(|text| text.parse()).transpose().map_err(|_| gone())?;
        Ok(ActivityQuery {
            activity_type: given(self.activity_type),
            sender,
            peer: peer.map(|peer| peer.hyphenated().to_string()),
            since,
            before,
            after,
            limit: activity::limit(self.limit.as_deref()),
            is_poll: false,
        })
    }
}

pub(in super::super) async fn activity(
    State(api): State<Api>,
    own: Own,
    Query(filters): Query<Filters>,
) -> HttpResult<Json<Vec<ActivityView>>> {
    // A list that an admin requests is not a poll: it does not move the agent's read position.
    let query = ActivityQuery { is_poll: !own.by_admin, ..filters.into_query(api.0.clock.now())? };
    let _permit = api.list_permit().await;
    api.write_gathered().await;
    let page = api.0.store.activity(own.id, query.clone()).await?;
    // The cursor is the id of a row that the agent has received. So all rows up to that row have arrived, and no longer
    // count as waiting.
    if query.is_poll
        && query.after.is_some()
        && let Some(up_to) = api.0.store.waiting_up_to(own.id, query.clone()).await?
    {
        api.0.store.note_polled(own.id, up_to, query).await?;
    }
    match page {
        ActivityPage::Rows(rows) => Ok(Json(rows.into_iter().map(|row| row_view(row, own.id)).collect())),
        ActivityPage::UnknownCursor => Err(HttpError::new(StatusCode::GONE, UNKNOWN_CURSOR)),
    }
}

fn row_view(row: Activity, of: WorkspaceId) -> ActivityView {
    let raw = |text: Option<String>| text.and_then(|text| RawValue::from_string(text).ok());
    let data = message_data(&row, of);
    ActivityView {
        id: row.id.to_string(),
        workspace_id: of.to_string(),
        activity_type: row.activity_type.into(),
        source_id: row.source,
        target_id: row.target,
        method: row.method,
        summary: row.summary,
        request_body: raw(row.request_body),
        response_body: raw(row.response_body),
        duration_ms: row.duration_ms,
        status: row.status,
        error_detail: row.error_detail,
        created_at: row.at.to_string(),
        seq: row.sequence,
        data,
    }
}

/// Extracts sender and text of a message that the proxy stored; clients of existing SDKs read nothing else.
///
/// `None` for rows that the agent reported itself and for its own notices: an SDK client would reply to them, and to
/// its own replies, for ever.
fn message_data(row: &Activity, of: WorkspaceId) -> Option<ActivityData> {
    #[derive(Deserialize)]
    struct Envelope {
        params: Params,
    }
    #[derive(Deserialize)]
    struct Params {
        message: Message,
    }
    #[derive(Deserialize)]
    struct Message {
        parts: Vec<Value>,
    }
    let by_itself = row.source.as_ref().is_some_and(|source| *source == of.to_string());
    if by_itself || row.activity_type != RECEIVED || row.method.as_deref() == Some(NOTIFY) {
        return None;
    }
    let envelope: Envelope = serde_json::from_str(row.request_body.as_deref()?).ok()?;
    let texts = envelope.params.message.parts.iter().filter_map(|part| part["text"].as_str());
    let source = if row.source.is_some() { "peer_agent" } else { "canvas_user" };
    Some(ActivityData { source: source.into(), text: texts.collect::<Vec<_>>().join("\n") })
}

/// Body of an acknowledgement: the sequence number up to which an agent that polls has read.
#[derive(Deserialize)]
pub(in super::super) struct Ack {
    acked_seq: i64,
}

pub(in super::super) async fn acknowledge(
    State(api): State<Api>,
    own: Own,
    request: Request,
) -> HttpResult<Json<Value>> {
    let bytes = read_body(request.into_body(), ACTIVITY_MAX_BYTES, BODY_LIMIT, &*api.0.clock).await?;
    let Ack { acked_seq } =
        serde_json::from_slice(&bytes).map_err(|_| HttpError::invalid("invalid request body"))?;
    api.0.store.note_polled(own.id, acked_seq, ActivityQuery::default()).await?;
    Ok(Json(json!({ "status": "acked", "acked_seq": acked_seq })))
}
