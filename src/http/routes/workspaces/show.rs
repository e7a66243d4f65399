//! Lists and shows workspaces.

use axum::{Json, extract::State, http::HeaderMap};
use serde::Deserialize;

use super::answer::{limits_note, removed_error};
use crate::{
    api::workspace::WorkspaceView,
    domain::{liveness::SILENT_AFTER, naming::AGENT_PORT, status::Status, workspace::Kind},
    http::{
        Api,
        auth::{Principal, platform_url},
        error::{HttpError, HttpResult},
        routes::{Path, Query, registry::proxy_url},
        spec, view,
    },
    store::Scope,
};

#[derive(Deserialize)]
pub(in crate::http) struct ListQuery {
    #[serde(default)]
    removed: bool,
}

pub(in crate::http) async fn list(
    State(api): State<Api>,
    Query(query): Query<ListQuery>,
) -> HttpResult<Json<Vec<WorkspaceView>>> {
    let scope = if query.removed { Scope::Removed } else { Scope::Live };
    let _permit = api.list_permit().await;
    let all = api.0.store.describe_all(scope).await?;
    Ok(Json(all.into_iter().map(|one| view::workspace(one, &api.0.ops)).collect()))
}

/// Shows a workspace. An admin and the workspace itself see all fields. Workspaces that may communicate with it do not
/// see its private fields.
pub(in crate::http) async fn show(
    State(api): State<Api>,
    principal: Principal,
    Path(reference): Path<String>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> HttpResult<Json<WorkspaceView>> {
    let row = api.addressed(principal, &reference, Scope::Any).await?;
    let of_itself = match principal {
        Principal::Admin => true,
        Principal::Workspace(token_owner) => token_owner.workspace == row.id,
    };
    if let Principal::Workspace(token_owner) = principal {
        let removed = row.status == Status::Removed;
        let may = || api.0.store.may_communicate(token_owner.workspace, row.id, api.access().root_siblings);
        if !removed && !of_itself && !may() {
            return Err(HttpError::forbidden("not authorized to see this workspace"));
        }
    }
    // An admin may request a removed workspace explicitly.
    let wanted = principal.is_admin() && query.removed;
    if row.status == Status::Removed && !wanted {
        return Err(removed_error(&row));
    }
    let described = api.0.store.describe(row.id).await?;
    let described = described.ok_or_else(|| HttpError::not_found("workspace not found"))?;
    let now = api.0.clock.now();
    let fresh_heartbeat = described.vitals.last_heartbeat_at.is_some_and(|at| now.since(at) < SILENT_AFTER);
    let mut view = view::workspace(described, &api.0.ops);
    if !of_itself {
        view.current_task = None;
        view.last_sample_error = None;
        // These fields would help another workspace to reach or attack this one without the proxy.
        view.image = None;
        view.container_id = None;
        view.host_port = None;
        view.status_detail = None;
    }
    if principal.is_admin()
        && fresh_heartbeat
        && api.ask_engine(api.0.ops.listens(&row)).await.flatten() == Some(false)
    {
        view.port_note = Some(format!(
            "the agent sends heartbeats, but no process in the container accepts connections on port {AGENT_PORT}: \
             messages to the agent fail"
        ));
    }
    if principal.is_admin() && row.kind == Kind::Container {
        view.limits_note = limits_note(&api).await;
        view.spec = spec::view(&row.spec);
        view.config_pending = row.config_pending;
    }
    if !principal.is_admin() {
        view.url = Some(proxy_url(&platform_url(&api, &headers), row.id));
    }
    Ok(Json(view))
}
