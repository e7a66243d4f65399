//! Lists, shows, creates, changes and removes workspaces.

mod create;
mod directory;
mod remove;
mod show;
mod update;

use crate::{
    domain::{bounds::ROLE_MAX_BYTES, spec::Access, workspace::Workspace},
    engine::EngineInfo,
    http::{
        Api,
        error::{HttpError, HttpResult},
    },
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

/// Parses the access mode that a request names for a host directory.
fn access(named: Option<&str>, has_directory: bool) -> HttpResult<Option<Access>> {
    match named {
        None | Some("") => Ok(None),
        Some("read_write") => Ok(Some(Access::ReadWrite)),
        // Existing clients send this for a workspace without a host directory.
        Some("none") if !has_directory => Ok(None),
        Some("read_only") => Ok(Some(Access::ReadOnly)),
        Some(other) => Err(HttpError::invalid(format!(
            "unknown workspace_access `{other}`: use read_only or read_write"
        ))),
    }
}

/// Limits the length of a role, which is shown to operators and sent to every peer.
fn bounded_role(role: Option<String>) -> HttpResult<Option<String>> {
    match &role {
        Some(text) if text.len() > ROLE_MAX_BYTES => Err(HttpError::invalid(format!(
            "the role has {} bytes: at most {ROLE_MAX_BYTES} are allowed",
            text.len()
        ))),
        Some(_) | None => Ok(role),
    }
}
