//! Creates, lists and updates delegations (wire protocol, §12).

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    super::{
        Api,
        auth::Own,
        body::read_body,
        error::{HttpError, HttpResult},
        journal::cut,
    },
    AGENT_BODY_LIMIT, Path,
};
use crate::{
    domain::{
        delegation::{DelegationStatus, PREVIEW_BYTES},
        ids::{DelegationId, WorkspaceId},
        time::Timestamp,
    },
    store::{Delegated, Delegation, NewDelegation, Waiting},
};

/// The largest request, in bytes. It includes the task.
const TASK_MAX_BYTES: usize = 64 << 10;
/// The longest idempotency key, in bytes.
const KEY_MAX: usize = 256;
/// The longest summary of a task, in bytes. The store returns at most this many characters of the task.
const SUMMARY_MAX: usize = 200;
/// The most rows in one response.
const ROWS_MAX: usize = 50;

#[derive(Deserialize)]
struct Wanted {
    target_id: String,
    task: String,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    delegation_id: Option<String>,
}

async fn read<T: DeserializeOwned>(api: &Api, own: &Own, request: Request, error: &str) -> HttpResult<T> {
    if !own.by_admin {
        api.0.buckets.reports.check(own.id).map_err(HttpError::too_many)?;
    }
    let bytes = read_body(request.into_body(), TASK_MAX_BYTES, AGENT_BODY_LIMIT, &*api.0.clock).await?;
    serde_json::from_slice(&bytes).map_err(|_| HttpError::invalid(error))
}

fn target(text: &str) -> HttpResult<WorkspaceId> {
    let id = Uuid::try_parse(text.trim());
    id.map(WorkspaceId).map_err(|_| HttpError::invalid("target_id must be a valid UUID"))
}

fn too_many() -> HttpError {
    HttpError::new(StatusCode::TOO_MANY_REQUESTS, "too many open delegations: wait until some have ended")
        .with("retry_after", 60)
        .retry_after(60)
}

/// The error for an id that is in use. It does not reveal which workspace uses it.
fn taken() -> HttpError {
    HttpError::conflict("delegation_id is in use: record the delegation under another id")
}

/// Delegates a task. Whether the caller may send messages to the target is checked only when the task is sent. If it
/// may not, the delegation fails with this reason.
pub(in super::super) async fn delegate(
    State(api): State<Api>,
    own: Own,
    request: Request,
) -> HttpResult<(StatusCode, Json<Value>)> {
    const INVALID: &str = "invalid delegation request";
    let wanted: Wanted = read(&api, &own, request, INVALID).await?;
    let target = target(&wanted.target_id)?;
    if target == own.id {
        return Err(HttpError::invalid("self-delegation not permitted"));
    }
    let key = wanted.idempotency_key.filter(|key| !key.is_empty());
    if wanted.task.is_empty() || key.as_ref().is_some_and(|key| key.len() > KEY_MAX) {
        return Err(HttpError::invalid(INVALID));
    }
    let waiting = Waiting { id: DelegationId(api.0.entropy.uuid()), workspace: own.id };
    let new = NewDelegation {
        id: waiting.id,
        workspace: waiting.workspace,
        target,
        key,
        task: wanted.task,
        sent_by_ostler: true,
        at: api.0.clock.now(),
    };
    match api.0.store.begin_delegation(new).await? {
        Delegated::New => {
            api.carry_out(waiting);
            let answer = json!({ "delegation_id": waiting.id, "status": "delegated", "target_id": target });
            Ok((StatusCode::ACCEPTED, Json(answer)))
        }
        Delegated::Same(same) => {
            let answer = json!({
                "delegation_id": same.id, "status": same.status.as_str(), "target_id": same.target,
                "idempotent_hit": true,
            });
            Ok((StatusCode::OK, Json(answer)))
        }
        Delegated::Taken => Err(taken()),
        Delegated::TooMany => Err(too_many()),
        Delegated::Gone => Err(HttpError::gone()),
    }
}

/// Records a task that the agent has sent to the target by itself.
pub(in super::super) async fn record(
    State(api): State<Api>,
    own: Own,
    request: Request,
) -> HttpResult<(StatusCode, Json<Value>)> {
    let wanted: Wanted = read(&api, &own, request, "invalid delegation request").await?;
    let target = target(&wanted.target_id)?;
    let id = wanted.delegation_id.as_deref().and_then(|id| Uuid::try_parse(id).ok()).map(DelegationId);
    let id = id.ok_or_else(|| HttpError::invalid("invalid delegation request"))?;
    let new = NewDelegation {
        id,
        workspace: own.id,
        target,
        // A second record of the same delegation is recognised by its id.
        key: None,
        task: wanted.task,
        sent_by_ostler: false,
        at: api.0.clock.now(),
    };
    match api.0.store.begin_delegation(new).await? {
        Delegated::New | Delegated::Same(_) => {
            Ok((StatusCode::ACCEPTED, Json(json!({ "delegation_id": id, "status": "recorded" }))))
        }
        Delegated::Taken => Err(taken()),
        Delegated::TooMany => Err(too_many()),
        Delegated::Gone => Err(HttpError::gone()),
    }
}

#[derive(Deserialize)]
struct Update {
    status: String,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    response_preview: Option<String>,
}

/// Stores the result of a task that the agent has sent by itself. A result that is already stored is not replaced.
pub(in super::super) async fn update(
    State(api): State<Api>,
    own: Own,
    Path((_, id)): Path<(String, String)>,
    request: Request,
) -> HttpResult<Json<Value>> {
    let update: Update = read(&api, &own, request, "invalid request body").await?;
    let status = DelegationStatus::parse(&update.status).filter(|status| status.is_end());
    let status = status.ok_or_else(|| HttpError::invalid("status must be 'completed' or 'failed'"))?;
    let missing = || HttpError::not_found("delegation not found");
    let id = Uuid::try_parse(&id).map(DelegationId).map_err(|_| missing())?;
    let given = |text: Option<String>, most| text.filter(|text| !text.is_empty()).map(|text| cut(text, most));
    let more = (given(update.error, 1024), given(update.response_preview, PREVIEW_BYTES));
    let now = api.0.store.move_delegation(own.id, id, status, more, api.0.clock.now()).await?;
    let now = now.ok_or_else(missing)?;
    Ok(Json(json!({ "status": now.as_str(), "delegation_id": id })))
}

/// Lists the rows that runtimes poll: one for each delegation, and one for its result once it exists.
///
/// The result comes first, because a runtime takes the first row of a delegation that has ended as its result.
pub(in super::super) async fn list(State(api): State<Api>, own: Own) -> HttpResult<Json<Vec<Value>>> {
    let all = api.0.store.delegations(own.id, api.0.clock.now()).await?;
    let mut rows: Vec<(Timestamp, Value)> = all.iter().flat_map(rows_of).collect();
    // Newest first. The sort is stable: at equal times a result stays before its delegation.
    rows.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    Ok(Json(rows.into_iter().take(ROWS_MAX).map(|(_, row)| row).collect()))
}

fn rows_of(one: &Delegation) -> Vec<(Timestamp, Value)> {
    let name = one.target_name.as_deref().unwrap_or("a removed workspace");
    let twice = if one.attempts > 1 { " (sent twice)" } else { "" };
    let task = cut(one.task.clone(), SUMMARY_MAX);
    let row = |id: Uuid, method: &str, summary: String, at: Timestamp| {
        let mut row = json!({
            "id": id, "type": "delegation", "method": method, "source_id": one.workspace, "target_id": one.target,
            "summary": summary, "status": one.status.as_str(), "created_at": at.to_string(),
            "delegation_id": one.id,
        });
        let texts = [("error", &one.error), ("response_preview", &one.response_preview)];
        for (key, text) in texts {
            if let Some(text) = text {
                row[key] = json!(text);
            }
        }
        (at, row)
    };
    let delegate = row(one.id.0, "delegate", format!("Delegated to {name}{twice}: {task}"), one.created_at);
    let Some(finished_at) = one.finished_at else { return vec![delegate] };
    let mut id = *one.id.0.as_bytes();
    // The result has an id of its own, which is the same at every poll.
    id[15] ^= 1;
    let summary = format!("Delegation to {name} {}{twice}", one.status.as_str());
    // The time of the result is never before that of its delegation, even if the clock was set back in between.
    let at = finished_at.max(one.created_at);
    vec![row(Uuid::from_bytes(id), "delegate_result", summary, at), delegate]
}
