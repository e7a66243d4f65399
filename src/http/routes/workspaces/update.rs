//! Changes the settings of workspaces.

use axum::{Json, extract::State};

use super::{access, bounded_role, directory::closed_directory, engine_info, removed_error};
use crate::{
    api::workspace::{PatchWorkspace, Patched},
    domain::{
        naming::WorkspaceName,
        runtime::Tier,
        spec::SpecPatch,
        status::Status,
        workspace::{Kind, Policy, Workspace},
    },
    http::{
        Api,
        auth::Principal,
        error::{HttpError, HttpResult},
        routes::{LenientBody, Path},
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
    let needs = api.detached(async move { ops.update(id, patch).await }).await?;
    Ok(Json(Patched {
        status: "updated".into(),
        needs_restart: needs.restart,
        needs_recreate: needs.recreate,
        notes,
        ignored,
    }))
}

async fn patch(api: &Api, row: &Workspace, body: PatchWorkspace) -> HttpResult<WorkspacePatch> {
    let PatchWorkspace {
        name,
        role,
        tier,
        parent_id,
        runtime,
        image,
        command,
        env,
        workspace_dir,
        workspace_access,
        config,
        url,
        hibernation_idle_minutes,
        max_concurrent_tasks,
        restart_when_wedged,
    } = body;
    let invalid = |error: &dyn std::fmt::Display| HttpError::invalid(error.to_string());
    let role = bounded_role(role)?;
    let name = name.map(|name| name.parse::<WorkspaceName>()).transpose().map_err(|error| invalid(&error))?;
    let tier = tier.map(Tier::try_from).transpose().map_err(|error| invalid(&error))?;
    let parent = match parent_id.as_deref() {
        None => None,
        Some("") => Some(None),
        Some(parent) => {
            let parent = api.resolve(parent, Scope::Live).await.map_err(HttpError::unprocessable_parent)?;
            Some(Some(parent.id))
        }
    };
    if url.is_some() && row.kind == Kind::Container {
        return Err(HttpError::invalid("only an external workspace has a url"));
    }
    if let Some(url) = url.as_deref().filter(|url| !url.is_empty()) {
        api.check_url(url).await?;
    }
    let policy = Policy {
        hibernation_idle_minutes: hibernation_idle_minutes
            .map_or(row.policy.hibernation_idle_minutes, |minutes| {
                Some(minutes).filter(|minutes| *minutes > 0)
            }),
        max_concurrent_tasks: max_concurrent_tasks
            .map_or(row.policy.max_concurrent_tasks, |tasks| Some(tasks).filter(|tasks| *tasks > 0)),
        restart_when_wedged: restart_when_wedged.unwrap_or(row.policy.restart_when_wedged),
        delivery: row.policy.delivery,
    };
    let given = workspace_dir.as_ref().filter(|directory| !directory.is_empty());
    let has_directory = given.or(row.spec.workspace_dir.as_ref()).is_some();
    let workspace_access = access(workspace_access.as_deref(), has_directory)?;
    let spec = SpecPatch { image, command, env, workspace_dir, workspace_access, config };
    Ok(WorkspacePatch { name, role, tier, parent, runtime, spec, url, policy: Some(policy) })
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
        let runtime = patch.runtime.as_deref().unwrap_or(&row.runtime);
        notes.extend(closed_directory(api, &info, runtime, Some((shared, access))));
    }
    notes
}
