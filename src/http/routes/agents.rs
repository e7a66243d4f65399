//! What an agent asks about itself and writes down (wire protocol, §5).

use std::time::Duration;

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::super::{
    Api,
    auth::{self, OwnSocket, PathId, Presented, Principal, presented},
    error::{HttpError, HttpResult},
    listen::read_body,
};
use crate::{
    api::{ActivityView, GoneView, StateView},
    domain::{lenient, status::Status},
    store::Bearer,
};

/// The largest report.
const ACTIVITY_MAX_BYTES: usize = 16 << 10;
/// How long it may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// Where an external agent learns, every half minute, whether it is still wanted.
pub(in super::super) async fn state(
    State(api): State<Api>,
    PathId(id): PathId,
    request: Request,
) -> HttpResult<Response> {
    let own_socket = request.extensions().get::<OwnSocket>().is_some();
    match presented(request.headers(), own_socket) {
        Presented::OwnSocket => {}
        Presented::Nothing => return Err(auth::missing()),
        Presented::Token(token) => match auth::bearer(&api, token, request.extensions()) {
            Some(Bearer::Admin) => {}
            Some(Bearer::Workspace(holder)) => {
                api.0.buckets.requests.check(holder.workspace).map_err(HttpError::too_many)?;
                Principal::Workspace(holder).speak_for(id)?;
            }
            // The holder of a removed workspace's token is told that it is gone.
            None if api.0.ops.removed_holder(token).await? == Some(id) => {}
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

/// There are none: messages go through the proxy. Runtimes ask all the same, and want an array.
pub(in super::super) async fn delegations(
    State(api): State<Api>,
    principal: Principal,
    PathId(id): PathId,
) -> HttpResult<Json<Vec<Value>>> {
    principal.speak_for(id)?;
    exists(&api, id)?;
    Ok(Json(Vec::new()))
}

fn exists(api: &Api, id: crate::domain::ids::WorkspaceId) -> HttpResult<()> {
    api.0.store.member(id).map(drop).ok_or_else(|| HttpError::not_found("workspace not found"))
}

pub(in super::super) async fn log_activity(
    State(api): State<Api>,
    principal: Principal,
    PathId(id): PathId,
    request: Request,
) -> HttpResult<Json<Value>> {
    principal.speak_for(id)?;
    if !principal.is_admin() {
        api.0.buckets.reports.check(id).map_err(HttpError::too_many)?;
    }
    let bytes = read_body(request.into_body(), ACTIVITY_MAX_BYTES, BODY_LIMIT, &*api.0.clock).await?;
    let report = lenient::value(&bytes).ok_or_else(|| HttpError::invalid("invalid request body"))?;
    if api.0.store.log_activity(id, report, api.0.clock.now()).await? {
        Ok(Json(json!({ "status": "logged" })))
    } else {
        Err(HttpError::not_found("workspace not found"))
    }
}

pub(in super::super) async fn activity(
    State(api): State<Api>,
    principal: Principal,
    PathId(id): PathId,
) -> HttpResult<Json<Vec<ActivityView>>> {
    principal.speak_for(id)?;
    exists(&api, id)?;
    let _permit = api.list_permit().await;
    let reports = api.0.store.activity(id).await?;
    let view = |report: crate::store::Activity| ActivityView {
        id: report.id,
        payload: report.payload,
        created_at: report.created_at.to_string(),
    };
    Ok(Json(reports.into_iter().map(view).collect()))
}
