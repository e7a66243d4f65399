//! Creates workspaces.

use axum::{Json, extract::State, http::StatusCode};

use super::{access, bounded_role, directory::closed_directory, engine_info};
use crate::{
    api::workspace::{Connection, CreateWorkspace, CreatedWorkspace},
    domain::{
        naming::WorkspaceName,
        runtime::{PLAIN, Tier},
        spec::Spec,
        status::Status,
        workspace::{Delivery, Policy},
    },
    http::{
        Api,
        error::{HttpError, HttpResult},
        routes::LenientBody,
    },
    ops::{CreateRequest, Created},
    store::Scope,
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
    if request.policy.hibernation_idle_minutes.is_some() && !api.0.ops.can_see_connections().await {
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
        hibernation_idle_minutes,
        max_concurrent_tasks,
        restart_when_wedged,
        delivery_mode,
    } = body;
    // Existing clients send an empty string for a field that is not set.
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (role, runtime, image) = (given(role), given(runtime), given(image));
    let (parent_id, url, workspace_dir) = (given(parent_id), given(url), given(workspace_dir));
    let name: WorkspaceName = name
        .parse()
        .map_err(|error: crate::domain::naming::InvalidName| HttpError::invalid(error.to_string()))?;
    let role = bounded_role(role)?;
    let tier = tier.map_or(Ok(Tier::default()), Tier::try_from);
    let tier = tier.map_err(|error| HttpError::invalid(error.to_string()))?;
    let workspace_access = access(workspace_access.as_deref(), workspace_dir.is_some())?.unwrap_or_default();
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
    let delivery = match delivery_mode.as_deref() {
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
    let url = url.filter(|_| delivery == Delivery::Push);
    if let Some(url) = &url {
        api.check_url(url).await?;
    }
    let policy = Policy {
        hibernation_idle_minutes: hibernation_idle_minutes.filter(|minutes| *minutes > 0),
        max_concurrent_tasks: max_concurrent_tasks.filter(|tasks| *tasks > 0),
        restart_when_wedged,
        delivery,
    };
    let spec =
        Spec { image: image.unwrap_or_default(), command, env, workspace_dir, workspace_access, config };
    Ok(CreateRequest { name, role, runtime, tier, parent, external, url, policy, spec })
}

/// Notes on the parts of a create request that do not work as requested on this host.
async fn notes_for(api: &Api, request: &CreateRequest) -> Vec<String> {
    if request.external {
        return Vec::new();
    }
    let Some(info) = engine_info(api).await else { return Vec::new() };
    let runtime = request.runtime.as_deref().unwrap_or(PLAIN);
    let shared = request.spec.workspace_dir.as_deref().zip(Some(request.spec.workspace_access));
    info.limits_note().into_iter().chain(closed_directory(api, &info, runtime, shared)).collect()
}
