//! Parts of the answers about workspaces.

use crate::{
    domain::workspace::Workspace,
    engine::EngineInfo,
    http::{error::HttpError, state::Api},
};

/// Describes the resource limits that the engine cannot enforce. `None` if it can enforce all of them, or does not
/// answer at once.
pub(super) async fn limits_note(api: &Api) -> Option<String> {
    engine_info(api).await?.limits_note()
}

pub(super) async fn engine_info(api: &Api) -> Option<EngineInfo> {
    api.ask_engine(api.0.engine.describe()).await?.ok()
}

pub(super) fn removed_error(row: &Workspace) -> HttpError {
    let removed_at = row.removed_at.map(|at| at.to_string());
    HttpError::gone().with("id", row.id.to_string()).with("removed_at", removed_at)
}
