//! The address of another workspace.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};

use crate::{
    api::peer::Discovered,
    domain::{
        ids::WorkspaceId,
        status::Status,
        workspace::{Delivery, Kind},
    },
    http::{
        Api,
        auth::{self, PathId, Principal},
        error::{HttpError, HttpResult},
    },
};

pub(in crate::http) async fn discover(
    State(api): State<Api>,
    principal: Principal,
    headers: HeaderMap,
    target: Result<PathId, HttpError>,
) -> HttpResult<Json<Discovered>> {
    let caller = auth::caller(&headers)?;
    principal.require_workspace(caller)?;
    let PathId(id) = target?;
    let found = api.0.store.workspace(id).await?.filter(|row| row.status != Status::Removed);
    let row = found.ok_or_else(|| HttpError::not_found("workspace not found"))?;
    if !api.0.store.may_communicate(caller, id, api.access().root_siblings) {
        return Err(HttpError::forbidden("not authorized to discover this workspace"));
    }
    let polls = row.delivery == Delivery::Poll;
    let reachable = match row.status {
        Status::Online
        | Status::Degraded
        | Status::Provisioning
        | Status::Offline
        | Status::Hibernating
        | Status::Hibernated => row.kind == Kind::Container || row.spec.url.is_some() || polls,
        Status::AwaitingAgent => polls,
        Status::Failed(_) | Status::Paused | Status::Removed => false,
    };
    if !reachable {
        return Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "workspace not available")
            .with("status", row.status.as_str()));
    }
    let url = proxy_url(&auth::platform_url(&api, &headers), id);
    Ok(Json(Discovered { id: id.to_string(), url, name: row.name.to_string() }))
}

/// The URL at which one workspace reaches another: ostler's proxy, never the agent itself.
pub(in crate::http) fn proxy_url(platform_url: &str, id: WorkspaceId) -> String {
    format!("{platform_url}/workspaces/{id}/a2a")
}
