//! Changes the settings of workspaces.

use axum::{Json, extract::State};

use super::{
    answer::{engine_info, removed_error},
    directory::closed_directory,
    fields::{check_role, drop_none, resolve_parent},
};
use crate::{
    api::{spec::PatchWorkspace, workspace::Patched},
    domain::{
        naming::WorkspaceName,
        spec::Effect,
        status::Status,
        workspace::{Kind, Workspace},
    },
    http::{
        Api,
        auth::Principal,
        error::{HttpError, HttpResult},
        routes::{LenientBody, Path},
        spec,
    },
    store::{Scope, WorkspacePatch},
};

/// Changes the fields that are given. A workspace may change its own name and role; an admin may change all fields.
pub(in crate::http) async fn update(
    State(api): State<Api>,
    principal: Principal,
    Path(reference): Path<String>,
    LenientBody { body, ignored }: LenientBody<PatchWorkspace>,
) -> HttpResult<Json<Patched>> {
    let row = api.addressed(principal, &reference, Scope::Live).await?;
    principal.require_workspace(row.id)?;
    if row.status == Status::Removed {
        return Err(removed_error(&row));
    }
    let own =
        PatchWorkspace { name: body.name.clone(), role: body.role.clone(), ..PatchWorkspace::default() };
    if !principal.is_admin() && body != own {
        return Err(HttpError::forbidden("only an admin may change more than name and role"));
    }
    if !principal.is_admin() {
        api.0.buckets.changes.check(row.id).map_err(HttpError::too_many)?;
    }
    let patch = patch(&api, &row, body).await?;
    let notes = notes_for_change(&api, &row, &patch).await;
    let (ops, id) = (api.0.ops.clone(), row.id);
    let effect = api.detached(async move { ops.update(id, patch).await }).await?;
    Ok(Json(Patched {
        status: "updated".into(),
        needs_restart: effect >= Effect::NextRestart,
        needs_recreate: effect == Effect::Recreate,
        notes,
        ignored,
    }))
}

async fn patch(api: &Api, row: &Workspace, mut body: PatchWorkspace) -> HttpResult<WorkspacePatch> {
    check_role(body.role.as_deref())?;
    let name = body.name.take().map(|name| name.parse::<WorkspaceName>()).transpose();
    let name = name.map_err(|error| HttpError::invalid(error.to_string()))?;
    resolve_parent(api, &mut body.parent_id, HttpError::unprocessable_parent).await?;
    if body.url.is_some() && row.kind == Kind::Container {
        return Err(HttpError::invalid("only an external workspace has a url"));
    }
    let given = body.workspace_dir.as_ref().filter(|directory| !directory.is_empty());
    let has_directory = given.or(row.spec.workspace_dir.as_ref()).is_some();
    drop_none(&mut body.workspace_access, has_directory);
    let spec = spec::of_patch(body)?;
    if let Some(url) = spec.url.as_deref().filter(|url| !url.is_empty()) {
        api.check_url(url).await?;
    }
    Ok(WorkspacePatch { name, spec })
}

/// Notes on the parts of a change that do not work as requested, or whose effect may be unexpected.
async fn notes_for_change(api: &Api, row: &Workspace, patch: &WorkspacePatch) -> Vec<String> {
    let spec = &patch.spec;
    let mut notes = Vec::new();
    let absent = |key: &&String| !row.spec.env.contains_key(*key);
    let removed = spec.env.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key);
    for key in removed.filter(absent) {
        notes.push(format!("the workspace's environment had no variable {key}"));
    }
    if spec.config.is_some() {
        notes.push(
            "the workspace's next start overwrites the configuration file, including changes made in the container"
                .into(),
        );
    }
    let shared = (spec.workspace_dir.is_some() || spec.workspace_access.is_some())
        .then(|| spec.workspace_dir.as_deref().or(row.spec.workspace_dir.as_deref()))
        .flatten();
    if let Some(shared) = shared
        && let Some(info) = engine_info(api).await
    {
        let access = spec.workspace_access.unwrap_or(row.spec.workspace_access);
        let runtime = spec.runtime.as_deref().unwrap_or(&row.spec.runtime);
        notes.extend(closed_directory(api, &info, runtime, Some((shared, access))));
    }
    notes
}
