//! Creates workspaces.

use axum::{Json, extract::State, http::StatusCode};

use super::{
    answer::engine_info,
    directory::closed_directory,
    fields::{check_role, drop_none, resolve_parent},
};
use crate::{
    api::{
        spec::CreateWorkspace,
        workspace::{Connection, CreatedWorkspace},
    },
    domain::{
        naming::{InvalidName, WorkspaceName},
        spec::WorkspaceSpec,
        status::Status,
        workspace::Delivery,
    },
    http::{
        Api,
        error::{HttpError, HttpResult},
        routes::LenientBody,
        spec,
    },
    ops::{CreateRequest, Created},
};

const NEVER_IDLE: &str = "the workspace is not hibernated automatically: ostler cannot detect connections to its port. \
                          Run ostler on the same host as Podman's service, in the same process and network namespaces";

pub(in crate::http) async fn create(
    State(api): State<Api>,
    LenientBody { body, ignored }: LenientBody<CreateWorkspace>,
) -> HttpResult<(StatusCode, Json<CreatedWorkspace>)> {
    let name = body.name.clone();
    let request = validated(&api, body).await?;
    let mut notes = Vec::new();
    if request.spec.hibernation_idle_minutes.is_some() && !api.0.ops.can_see_connections().await {
        notes.push(NEVER_IDLE.to_owned());
    }
    notes.extend(notes_for(&api, &request).await);
    let ops = api.0.ops.clone();
    let Created { id, token, waits, operation } =
        api.detached(async move { ops.create(request).await }).await?;
    notes.extend(waits.map(|why| {
        format!("the workspace is started when Podman answers. Podman does not answer now ({why})")
    }));
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
        operation_id: operation.map(|operation| operation.0),
        connection,
        notes,
        ignored,
    };
    Ok((StatusCode::CREATED, Json(created)))
}

async fn validated(api: &Api, mut body: CreateWorkspace) -> HttpResult<CreateRequest> {
    let name: WorkspaceName =
        body.name.parse().map_err(|error: InvalidName| HttpError::invalid(error.to_string()))?;
    check_role(body.role.as_deref())?;
    let has_directory = body.workspace_dir.as_ref().is_some_and(|directory| !directory.is_empty());
    drop_none(&mut body.workspace_access, has_directory);
    resolve_parent(api, &mut body.parent_id, HttpError::about_parent).await?;
    let mut spec = spec::of_create(&mut body)?.applied_to(&WorkspaceSpec::default());
    let external = body.external || spec.runtime == "external";
    if !external && spec.url.is_some() {
        return Err(HttpError::invalid(
            "only an external workspace has a url: add --external or leave it out",
        ));
    }
    let delivery = match body.delivery_mode.as_deref() {
        None | Some("") => Delivery::Push,
        Some(word) => Delivery::parse(word)
            .ok_or_else(|| HttpError::invalid("delivery_mode must be 'push' or 'poll'"))?,
    };
    if delivery == Delivery::Poll && !external {
        return Err(HttpError::invalid(
            "only an external workspace can poll; ostler sends messages to a container's agent directly",
        ));
    }
    // The url of an agent that polls is never called.
    spec.url = spec.url.filter(|_| delivery == Delivery::Push);
    if let Some(url) = &spec.url {
        api.check_url(url).await?;
    }
    Ok(CreateRequest { name, external, delivery, spec })
}

/// Notes on the parts of a create request that do not work as requested on this host.
async fn notes_for(api: &Api, request: &CreateRequest) -> Vec<String> {
    if request.external {
        return Vec::new();
    }
    let Some(info) = engine_info(api).await else { return Vec::new() };
    let runtime = request.runtime();
    let shared = request.spec.workspace_dir.as_deref().zip(Some(request.spec.workspace_access));
    info.limits_note().into_iter().chain(closed_directory(api, &info, runtime, shared)).collect()
}
