//! Checks and resolves the fields of a request that creates or changes a workspace.

use crate::{
    domain::bounds::ROLE_MAX_BYTES,
    http::{
        error::{HttpError, HttpResult},
        state::Api,
    },
    store::Scope,
};

/// Drops `none` as the access to a host directory: existing clients send it for a workspace without one.
pub(super) fn drop_none(access: &mut Option<String>, has_directory: bool) {
    if access.as_deref() == Some("none") && !has_directory {
        *access = None;
    }
}

/// Replaces the reference to a parent by the parent's id.
pub(super) async fn resolve_parent(
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
pub(super) fn check_role(role: Option<&str>) -> HttpResult<()> {
    match role {
        Some(text) if text.len() > ROLE_MAX_BYTES => Err(HttpError::invalid(format!(
            "the role has {} bytes: at most {ROLE_MAX_BYTES} are allowed",
            text.len()
        ))),
        Some(_) | None => Ok(()),
    }
}
