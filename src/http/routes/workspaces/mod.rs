//! Lists, shows, creates, changes and removes workspaces.

mod create;
mod directory;
mod remove;
mod show;
mod update;

use crate::{
    domain::{bounds::ROLE_MAX_BYTES, workspace::Workspace},
    engine::EngineInfo,
    http::{
        Api,
        error::{HttpError, HttpResult},
    },
    store::Scope,
};
pub(in crate::http) use create::create;
pub(in crate::http) use remove::remove;
pub(in crate::http) use show::{list, show};
pub(in crate::http) use update::update;

/// Describes the resource limits that the engine cannot enforce. `None` if it can enforce all of them, or does not
/// answer at once.
async fn limits_note(api: &Api) -> Option<String> {
    engine_info(api).await?.limits_note()
}

async fn engine_info(api: &Api) -> Option<EngineInfo> {
    api.ask_engine(api.0.engine.describe()).await?.ok()
}

fn removed_error(row: &Workspace) -> HttpError {
    let removed_at = row.removed_at.map(|at| at.to_string());
    HttpError::gone().with("id", row.id.to_string()).with("removed_at", removed_at)
}

/// Drops `none` as the access to a host directory: existing clients send it for a workspace without one.
fn drop_none(access: &mut Option<String>, has_directory: bool) {
    if access.as_deref() == Some("none") && !has_directory {
        *access = None;
    }
}

/// Replaces the reference to a parent by the parent's id.
async fn resolve_parent(
    api: &Api,
    parent: &mut Option<String>,
    refused: fn(HttpError) -> HttpError,
) -> HttpResult<()> {
    if let Some(parent) = parent.as_mut().filter(|parent| !parent.is_empty()) {
        *parent = api.resolve(parent, Scope::Live).await.map_err(refused)?.id.to_string();
    }
    Ok(())
}

/// Limits the length of a role, which is shown to operators and sent to every peer.
fn check_role(role: Option<&str>) -> HttpResult<()> {
    match role {
        Some(text) if text.len() > ROLE_MAX_BYTES => Err(HttpError::invalid(format!(
            "the role has {} bytes: at most {ROLE_MAX_BYTES} are allowed",
            text.len()
        ))),
        Some(_) | None => Ok(()),
    }
}
