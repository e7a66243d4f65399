//! Starts, stops, pauses, resumes, restarts, recreates, hibernates, wakes and undeletes workspaces.

use axum::{Json, extract::State};
use serde::Deserialize;

use super::{Body, Path, Query};
use crate::{
    api::order::{AffectedView, OrderOutcome, Start, Undelete},
    domain::{ids::WorkspaceId, naming::WorkspaceName, operation::Requester, workspace::Workspace},
    http::{
        Api,
        auth::Principal,
        error::{HttpError, HttpResult},
    },
    ops::{Affected, Applied, Request, Up},
    store::Scope,
};

#[derive(Deserialize)]
pub(in crate::http) struct WaitQuery {
    #[serde(default = "yes")]
    wait: bool,
}

fn yes() -> bool {
    true
}

/// Accepts an order and returns its outcome. If `wait` is false, it only returns that the order was accepted, and by
/// which operation it is carried out.
async fn ordered(
    api: &Api,
    id: WorkspaceId,
    wait: bool,
    request: Request,
    by: Requester,
) -> HttpResult<Json<OrderOutcome>> {
    let ops = api.0.ops.clone();
    let ticket = api.detached(async move { ops.operate(id, request, by).await }).await?;
    let operation_id = ticket.operation().map(|operation| operation.0);
    if !wait && operation_id.is_some() {
        let row = row(api, id).await?;
        // The container may not match the row yet.
        return Ok(Json(OrderOutcome { accepted: true, detail: None, operation_id, ..outcome(&row, None) }));
    }
    let mut own = None;
    let mut along = Vec::new();
    for Affected { id: of, result } in api.detached(ticket.ended()).await? {
        let row = row(api, of).await?;
        let accepted = matches!(result, Ok(Applied::Accepted(_)));
        let (detail, failed) = match result {
            Ok(Applied::Done(detail) | Applied::Accepted(detail)) => (Some(detail), false),
            Ok(Applied::Raced(why)) => (Some(format!("nothing was done: {why}")), false),
            // A failure of the workspace itself fails the request; those of workspaces below it are listed.
            Err(error) if of == id => return Err(error.into()),
            Err(error) => (Some(error.to_string()), true),
        };
        if of == id {
            own = Some(OrderOutcome { accepted, operation_id, ..outcome(&row, detail) });
            continue;
        }
        along.push(AffectedView {
            id: of.to_string(),
            name: row.name.to_string(),
            status: row.status.as_str().into(),
            detail: detail.or_else(|| row.status_detail.clone()),
            failed,
        });
    }
    let own = own.ok_or_else(|| HttpError::not_found("workspace not found"))?;
    Ok(Json(OrderOutcome { along, ..own }))
}

async fn row(api: &Api, id: WorkspaceId) -> HttpResult<Workspace> {
    api.0.store.workspace(id).await?.ok_or_else(|| HttpError::not_found("workspace not found"))
}

fn outcome(row: &Workspace, detail: Option<String>) -> OrderOutcome {
    OrderOutcome {
        id: row.id.to_string(),
        name: row.name.to_string(),
        status: row.status.as_str().into(),
        detail: detail.or_else(|| row.status_detail.clone()),
        along: Vec::new(),
        accepted: false,
        operation_id: None,
    }
}

/// Accepts an operator's order for the live workspace named by `reference`.
async fn by_operator(
    api: &Api,
    reference: &str,
    wait: bool,
    request: Request,
) -> HttpResult<Json<OrderOutcome>> {
    let id = api.resolve(reference, Scope::Live).await?.id;
    ordered(api, id, wait, request, Requester::Operator).await
}

/// Handles both `/start` and `/resume`.
pub(in crate::http) async fn resume(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
    Body(body): Body<Start>,
) -> HttpResult<Json<OrderOutcome>> {
    let request = Request::Up(Up::Start { new_volume: body.new_volume });
    by_operator(&api, &reference, query.wait, request).await
}

/// Handles both `/stop` and `/pause`.
pub(in crate::http) async fn pause(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    by_operator(&api, &reference, query.wait, Request::Stop).await
}

#[derive(Deserialize)]
pub(in crate::http) struct HibernateQuery {
    #[serde(default = "yes")]
    wait: bool,
    #[serde(default)]
    force: bool,
}

/// Hibernates a workspace, at the request of an admin or of the workspace itself.
pub(in crate::http) async fn hibernate(
    State(api): State<Api>,
    principal: Principal,
    Path(reference): Path<String>,
    Query(query): Query<HibernateQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    let row = api.addressed(principal, &reference, Scope::Live).await?;
    principal.require_workspace(row.id)?;
    if !principal.is_admin() {
        api.0.buckets.orders.check(row.id).map_err(HttpError::too_many)?;
    }
    let request = Request::Hibernate { force: query.force };
    ordered(&api, row.id, query.wait, request, principal.requester()).await
}

pub(in crate::http) async fn wake(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    by_operator(&api, &reference, query.wait, Request::Wake).await
}

/// Restarts a workspace, at the request of an admin or of the workspace itself.
pub(in crate::http) async fn restart(
    State(api): State<Api>,
    principal: Principal,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    let row = api.addressed(principal, &reference, Scope::Live).await?;
    principal.require_workspace(row.id)?;
    if !principal.is_admin() {
        api.0.buckets.orders.check(row.id).map_err(HttpError::too_many)?;
    }
    // If the settings have changed since the container was created, an admin's request recreates the container to apply
    // them.
    let recreates = principal.is_admin() && api.0.ops.drifted(&row);
    let how = if recreates { Up::Recreate } else { Up::Restart };
    ordered(&api, row.id, query.wait, Request::Up(how), principal.requester()).await
}

pub(in crate::http) async fn recreate(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    by_operator(&api, &reference, query.wait, Request::Up(Up::Recreate)).await
}

pub(in crate::http) async fn undelete(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
    Body(body): Body<Undelete>,
) -> HttpResult<Json<OrderOutcome>> {
    let name = body.name.map(|name| name.parse::<WorkspaceName>()).transpose();
    let name = name.map_err(|error| HttpError::invalid(error.to_string()))?;
    let id = api.resolve(&reference, Scope::Removed).await?.id;
    let request = Request::Undelete { name, only: body.only };
    ordered(&api, id, query.wait, request, Requester::Operator).await
}
