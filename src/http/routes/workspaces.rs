//! Workspaces: shown, made, moved, removed.

use std::future::Future;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    super::{
        Api,
        error::{HttpError, HttpResult},
        view,
    },
    Body, Query,
};
use crate::{
    api::{
        self, Child, Connection, CreateWorkspace, CreatedWorkspace, OrderOutcome, RemoveOutcome,
        WorkspaceView,
    },
    domain::{
        ids::WorkspaceId,
        naming::WorkspaceName,
        runtime::Tier,
        spec::{Access, Spec},
        status::Status,
        workspace::Workspace,
    },
    ops::{Applied, CreateRequest, Created, OpError, Ops, Removal},
    store::Scope,
};

#[derive(Deserialize)]
pub(in super::super) struct ListQuery {
    #[serde(default)]
    removed: bool,
}

pub(in super::super) async fn list(
    State(api): State<Api>,
    Query(query): Query<ListQuery>,
) -> HttpResult<Json<Vec<WorkspaceView>>> {
    let scope = if query.removed { Scope::Removed } else { Scope::Live };
    let rows = api.0.store.workspaces(scope).await?;
    Ok(Json(rows.iter().map(|row| view::workspace(row, &api.0.ops)).collect()))
}

pub(in super::super) async fn show(
    State(api): State<Api>,
    Path(reference): Path<String>,
) -> HttpResult<Json<WorkspaceView>> {
    let row = api.resolve(&reference, Scope::Any).await?;
    Ok(Json(view::workspace(&row, &api.0.ops)))
}

pub(in super::super) async fn create(
    State(api): State<Api>,
    Body(body): Body<CreateWorkspace>,
) -> HttpResult<(StatusCode, Json<CreatedWorkspace>)> {
    let name = body.name.clone();
    let request = validated(&api, body).await?;
    let ops = api.0.ops.clone();
    let Created { id, token } = api.detached(async move { ops.create(request).await }).await?;
    let status = api.0.store.workspace(id).await?.map_or(Status::Removed, |row| row.status);
    let connection = token.map(|token| {
        let platform_url = api.0.ops.settings().platform_url();
        Connection {
            workspace_id: id.to_string(),
            auth_token: token.expose().to_owned(),
            registry_endpoint: format!("{platform_url}/registry/register"),
            heartbeat_endpoint: format!("{platform_url}/registry/heartbeat"),
            platform_url,
        }
    });
    let created = CreatedWorkspace {
        id: id.to_string(),
        name,
        status: status.as_str().into(),
        external: connection.is_some(),
        connection,
    };
    Ok((StatusCode::CREATED, Json(created)))
}

async fn validated(api: &Api, body: CreateWorkspace) -> HttpResult<CreateRequest> {
    let CreateWorkspace {
        name,
        role,
        runtime,
        image,
        command,
        tier,
        parent_id,
        external,
        url,
        workspace_dir,
        workspace_access,
        env,
        config,
    } = body;
    let name: WorkspaceName = name
        .parse()
        .map_err(|error: crate::domain::naming::InvalidName| HttpError::invalid(error.to_string()))?;
    let tier = tier.map_or(Ok(Tier::default()), Tier::try_from);
    let tier = tier.map_err(|error| HttpError::invalid(error.to_string()))?;
    let workspace_access = match workspace_access.as_deref() {
        None | Some("read_write") => Access::ReadWrite,
        Some("read_only") => Access::ReadOnly,
        Some(other) => {
            return Err(HttpError::invalid(format!(
                "workspace_access `{other}` is not known: choose read_only or read_write"
            )));
        }
    };
    let parent = match parent_id {
        None => None,
        Some(reference) => {
            Some(api.resolve(&reference, Scope::Live).await.map_err(HttpError::about_parent)?.id)
        }
    };
    let external = external || runtime.as_deref() == Some("external");
    if !external && url.is_some() {
        return Err(HttpError::invalid(
            "only an external workspace has a url: add --external or leave it out",
        ));
    }
    let spec =
        Spec { image: image.unwrap_or_default(), command, env, workspace_dir, workspace_access, config };
    Ok(CreateRequest { name, role, runtime, tier, parent, external, url, spec })
}

#[derive(Deserialize)]
pub(in super::super) struct WaitQuery {
    #[serde(default = "yes")]
    wait: bool,
}

fn yes() -> bool {
    true
}

/// Gives an order and answers what came of it; at once, where nobody wants to wait.
async fn ordered<W>(
    api: &Api,
    (reference, scope): (&str, Scope),
    wait: bool,
    order: impl FnOnce(Ops, WorkspaceId) -> W,
) -> HttpResult<Json<OrderOutcome>>
where
    W: Future<Output = Result<Applied, OpError>> + Send + 'static,
{
    let id = api.resolve(reference, scope).await?.id;
    let work = order(api.0.ops.clone(), id);
    let detail = if wait {
        match api.detached(work).await? {
            Applied::Done(said) => Some(said),
            Applied::Raced(why) => Some(format!("nothing was done: {why}")),
        }
    } else {
        api.0.spawn.spawn(Box::pin(async move {
            if let Err(error) = work.await {
                tracing::warn!(workspace = %id, %error, "an order that nobody waited for failed");
            }
        }));
        None
    };
    let row = api.0.store.workspace(id).await?;
    let row = row.ok_or_else(|| HttpError::not_found("workspace not found"))?;
    Ok(Json(outcome(&row, detail)))
}

fn outcome(row: &Workspace, detail: Option<String>) -> OrderOutcome {
    OrderOutcome {
        id: row.id.to_string(),
        name: row.name.to_string(),
        status: row.status.as_str().into(),
        detail: detail.or_else(|| row.status_detail.clone()),
    }
}

pub(in super::super) async fn start(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
    Body(body): Body<api::Start>,
) -> HttpResult<Json<OrderOutcome>> {
    let order = |ops: Ops, id| async move { ops.start(id, body.new_volume).await };
    ordered(&api, (&reference, Scope::Live), query.wait, order).await
}

pub(in super::super) async fn stop(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    let order = |ops: Ops, id| async move { ops.stop(id).await };
    ordered(&api, (&reference, Scope::Live), query.wait, order).await
}

pub(in super::super) async fn restart(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    let order = |ops: Ops, id| async move { ops.restart(id).await };
    ordered(&api, (&reference, Scope::Live), query.wait, order).await
}

pub(in super::super) async fn recreate(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    let order = |ops: Ops, id| async move { ops.recreate(id).await };
    ordered(&api, (&reference, Scope::Live), query.wait, order).await
}

pub(in super::super) async fn undelete(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
    Body(body): Body<api::Undelete>,
) -> HttpResult<Json<OrderOutcome>> {
    let name = body.name.map(|name| name.parse::<WorkspaceName>()).transpose();
    let name = name.map_err(|error| HttpError::invalid(error.to_string()))?;
    let order = |ops: Ops, id| async move { ops.undelete(id, name).await };
    ordered(&api, (&reference, Scope::Removed), query.wait, order).await
}

#[derive(Deserialize)]
pub(in super::super) struct RemoveQuery {
    #[serde(default)]
    confirm: bool,
    #[serde(default)]
    purge: bool,
}

pub(in super::super) async fn remove(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> HttpResult<Response> {
    let row = api.resolve(&reference, Scope::Live).await?;
    let (ops, id) = (api.0.ops.clone(), row.id);
    let removal = api.detached(async move { ops.remove(id, query.confirm, query.purge).await }).await?;
    Ok(match removal {
        Removal::Removed { cascaded } => Json(RemoveOutcome {
            status: "removed".into(),
            cascade_deleted: cascaded,
            children: Vec::new(),
            children_count: 0,
        })
        .into_response(),
        Removal::HasChildren(children) => {
            let children: Vec<_> = children
                .into_iter()
                .map(|(id, name)| Child { id: id.to_string(), name: name.to_string() })
                .collect();
            let outcome = RemoveOutcome {
                status: "confirmation_required".into(),
                cascade_deleted: 0,
                children_count: children.len(),
                children,
            };
            (StatusCode::CONFLICT, Json(outcome)).into_response()
        }
    })
}
