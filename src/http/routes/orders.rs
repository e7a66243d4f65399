//! Starts, stops, pauses, resumes, restarts, recreates, hibernates, wakes and undeletes workspaces.

use std::future::Future;

use axum::{Json, extract::State};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{Body, Path, Query};
use crate::{
    api::order::{AffectedView, OrderOutcome, Start, Undelete},
    domain::{ids::WorkspaceId, naming::WorkspaceName, workspace::Workspace},
    http::{
        Api,
        auth::Principal,
        error::{HttpError, HttpResult},
    },
    ops::{Affected, Applied, OpError, Ops, Up},
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

/// Runs an operation on the workspace named by `reference` and returns its outcome. If `wait` is false, it only returns
/// that the operation was accepted.
async fn ordered<W>(
    api: &Api,
    (reference, scope): (&str, Scope),
    wait: bool,
    order: impl FnOnce(Ops, WorkspaceId) -> W,
) -> HttpResult<Json<OrderOutcome>>
where
    W: Future<Output = Result<Applied, OpError>> + Send + 'static,
{
    let id = api.resolve(reference, scope).await?.id;
    ordered_for(api, id, wait, order).await
}

async fn ordered_for<W>(
    api: &Api,
    id: WorkspaceId,
    wait: bool,
    order: impl FnOnce(Ops, WorkspaceId) -> W,
) -> HttpResult<Json<OrderOutcome>>
where
    W: Future<Output = Result<Applied, OpError>> + Send + 'static,
{
    let applied = if wait {
        Some(api.detached(order(api.0.ops.clone(), id)).await?)
    } else {
        queued(api, id, order).await?
    };
    let row = api.0.store.workspace(id).await?;
    let row = row.ok_or_else(|| HttpError::not_found("workspace not found"))?;
    Ok(Json(match applied {
        Some(Applied::Done(detail)) => outcome(&row, Some(detail)),
        Some(Applied::Raced(why)) => outcome(&row, Some(format!("nothing was done: {why}"))),
        // The operation is only queued: the row still describes the state before it.
        None => OrderOutcome { accepted: true, detail: None, ..outcome(&row, None) },
    }))
}

/// Starts an operation and waits only until it is queued, so that operations requested later run after it.
///
/// Returns `None` once the operation is queued. If the operation ended before that, returns its result.
async fn queued<W>(
    api: &Api,
    id: WorkspaceId,
    order: impl FnOnce(Ops, WorkspaceId) -> W,
) -> Result<Option<Applied>, OpError>
where
    W: Future<Output = Result<Applied, OpError>> + Send + 'static,
{
    let (queued_sender, queued) = oneshot::channel();
    let (answer, mut done) = oneshot::channel();
    let work = order(api.0.ops.reporting_queued(queued_sender), id);
    api.0.spawn.spawn(Box::pin(async move {
        if let Err(Err(error)) = answer.send(work.await) {
            tracing::warn!(workspace = %id, %error, "background operation failed");
        }
    }));
    tokio::select! {
        biased;
        done = &mut done => return done.unwrap_or(Err(OpError::Stopping)).map(Some),
        Ok(()) = queued => return Ok(None),
        else => {}
    }
    done.await.unwrap_or(Err(OpError::Stopping)).map(Some)
}

fn outcome(row: &Workspace, detail: Option<String>) -> OrderOutcome {
    OrderOutcome {
        id: row.id.to_string(),
        name: row.name.to_string(),
        status: row.status.as_str().into(),
        detail: detail.or_else(|| row.status_detail.clone()),
        along: Vec::new(),
        accepted: false,
    }
}

/// Runs an operation on a workspace and the workspaces below it, and returns the outcome of each.
async fn cascaded<W>(
    api: &Api,
    id: WorkspaceId,
    wait: bool,
    order: impl FnOnce(Ops, WorkspaceId) -> W,
) -> HttpResult<Json<OrderOutcome>>
where
    W: Future<Output = Result<Vec<Affected>, OpError>> + Send + 'static,
{
    if !wait {
        let own = |ops, id| {
            let work = order(ops, id);
            async move {
                let own = work.await?.into_iter().find(|affected| affected.id == id);
                own.map_or_else(|| Ok(Applied::Done(String::new())), |affected| affected.result)
            }
        };
        return ordered_for(api, id, false, own).await;
    }
    let work = order(api.0.ops.clone(), id);
    let affected = api.detached(work).await?;
    let mut own = None;
    let mut along = Vec::new();
    for Affected { id: of, result } in affected {
        let row = api.0.store.workspace(of).await?;
        let row = row.ok_or_else(|| HttpError::not_found("workspace not found"))?;
        let (detail, failed) = match result {
            Ok(Applied::Done(detail)) => (Some(detail), false),
            Ok(Applied::Raced(why)) => (Some(format!("nothing was done: {why}")), false),
            // A failure of the workspace itself fails the request; those of workspaces below it are listed.
            Err(error) if of == id => return Err(error.into()),
            Err(error) => (Some(error.to_string()), true),
        };
        if of == id {
            own = Some(outcome(&row, detail));
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

/// Handles both `/start` and `/resume`.
pub(in crate::http) async fn resume(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
    Body(body): Body<Start>,
) -> HttpResult<Json<OrderOutcome>> {
    let id = api.resolve(&reference, Scope::Live).await?.id;
    let order = |ops: Ops, id| ops.resume(id, body.new_volume);
    cascaded(&api, id, query.wait, order).await
}

/// Handles both `/stop` and `/pause`.
pub(in crate::http) async fn pause(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    let id = api.resolve(&reference, Scope::Live).await?.id;
    cascaded(&api, id, query.wait, |ops: Ops, id| async move { ops.pause(id).await }).await
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
    let order = |ops: Ops, id| async move { ops.hibernate(id, query.force).await };
    ordered_for(&api, row.id, query.wait, order).await
}

pub(in crate::http) async fn wake(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    let order = |ops: Ops, id| async move { ops.wake(id).await };
    ordered(&api, (&reference, Scope::Live), query.wait, order).await
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
    // If the settings have changed since the container was created, this route recreates the container to apply them.
    let how = if api.0.ops.drifted(&row) { Up::Recreate } else { Up::Restart };
    if principal.is_admin() {
        let order = |ops: Ops, id| ops.bring_up(id, how);
        return cascaded(&api, row.id, query.wait, order).await;
    }
    let order = |ops: Ops, id| async move { ops.restart_itself(id).await };
    ordered_for(&api, row.id, query.wait, order).await
}

pub(in crate::http) async fn recreate(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    let id = api.resolve(&reference, Scope::Live).await?.id;
    let order = |ops: Ops, id| ops.bring_up(id, Up::Recreate);
    cascaded(&api, id, query.wait, order).await
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
    cascaded(&api, id, query.wait, |ops: Ops, id| async move { ops.undelete(id, name, body.only).await })
        .await
}
