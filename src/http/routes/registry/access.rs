//! Whether two workspaces may communicate.

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::body::{BODY_LIMIT, body_is_invalid};
use crate::{
    api::peer::AccessAnswer,
    domain::{bounds::REPORT_MAX_BYTES, ids::WorkspaceId},
    http::{Api, auth::Principal, body::read_body, error::HttpResult},
};

#[derive(Deserialize)]
struct AccessBody {
    caller_id: WorkspaceId,
    target_id: WorkspaceId,
}

pub(in crate::http) async fn check_access(
    State(api): State<Api>,
    principal: Principal,
    request: Request,
) -> HttpResult<Response> {
    let bytes = read_body(request.into_body(), REPORT_MAX_BYTES, BODY_LIMIT, &*api.0.clock).await?;
    let AccessBody { caller_id, target_id } =
        serde_json::from_slice(&bytes).map_err(|_| body_is_invalid())?;
    principal.require_workspace(caller_id)?;
    let allowed = api.0.store.may_communicate(caller_id, target_id, api.access().root_siblings);
    Ok(Json(AccessAnswer { allowed }).into_response())
}
