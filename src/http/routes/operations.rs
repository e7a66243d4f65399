//! Lists, shows and cancels operations, and waits for them.

use std::time::Duration;

use axum::{Json, extract::State};
use serde::Deserialize;

use super::{Path, Query};
use crate::{
    api::operation::OperationView,
    domain::{
        ids::WorkspaceId,
        operation::{Operation, OperationId, OperationState},
    },
    http::{
        Api,
        error::{HttpError, HttpResult},
    },
    runtime::clock::within,
    store::Scope,
};

/// Number of operations in a list, if the client names none.
const LISTED: u32 = 100;
/// Maximum number of operations in a list.
const LISTED_MAX: u32 = 1000;
/// Maximum time that a request waits for an operation. Clients repeat the request.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Maximum time that a request waits until a worker gives up a cancelled operation.
const CANCEL_MAX: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
pub(in crate::http) struct ListQuery {
    workspace: Option<String>,
    limit: Option<u32>,
    #[serde(default)]
    open: bool,
}

/// Lists operations, newest first. With `open=true`, only those that have not ended.
pub(in crate::http) async fn list(
    State(api): State<Api>,
    Query(query): Query<ListQuery>,
) -> HttpResult<Json<Vec<OperationView>>> {
    let workspace: Option<WorkspaceId> = match &query.workspace {
        Some(reference) => Some(api.resolve(reference, Scope::Any).await?.id),
        None => None,
    };
    let limit = query.limit.unwrap_or(LISTED).min(LISTED_MAX);
    let operations = if query.open {
        let mut open = api.0.store.open_operations().await?;
        open.retain(|operation| workspace.is_none_or(|id| operation.workspace == id));
        open.reverse();
        open.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        open
    } else {
        api.0.store.operations(workspace, limit).await?
    };
    Ok(Json(operations.into_iter().map(|operation| view(&api, operation)).collect()))
}

#[derive(Deserialize)]
pub(in crate::http) struct ShowQuery {
    #[serde(default)]
    wait: bool,
}

/// Shows an operation. With `wait=true`, waits at most 30 s until it has ended.
pub(in crate::http) async fn show(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<ShowQuery>,
) -> HttpResult<Json<OperationView>> {
    let id = number(&id)?;
    if query.wait
        && let Some(ended) = within(&*api.0.clock, WAIT_MAX, api.0.ops.await_operation(id)).await
    {
        return Ok(Json(view(&api, ended?)));
    }
    Ok(Json(view(&api, api.0.ops.operation(id).await?)))
}

/// Cancels an operation that has not done anything yet.
pub(in crate::http) async fn cancel(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> HttpResult<Json<OperationView>> {
    let (ops, id) = (api.0.ops.clone(), number(&id)?);
    let cancel = api.detached(async move { ops.cancel(id).await });
    let operation = match within(&*api.0.clock, CANCEL_MAX, cancel).await {
        Some(ended) => ended?,
        // Its worker gives it up as soon as the call in progress ends, such as a pull.
        None => api.0.ops.operation(id).await?,
    };
    if !operation.state.is_open() && operation.state != OperationState::Cancelled {
        let state = operation.state.as_str();
        return Err(HttpError::conflict(format!(
            "operation {id} could not be cancelled in time: it is {state}. `ostler operations show {id}` shows its result"
        )));
    }
    Ok(Json(view(&api, operation)))
}

fn number(text: &str) -> HttpResult<OperationId> {
    text.parse().map_err(|_| {
        HttpError::invalid(format!(
            "`{text}` is not the number of an operation: `ostler operations` lists them"
        ))
    })
}

fn view(api: &Api, operation: Operation) -> OperationView {
    let runs = operation.state == OperationState::Running;
    OperationView {
        id: operation.id.0,
        kind: operation.command.kind().to_owned(),
        workspace_id: operation.workspace.to_string(),
        workspace_name: operation.workspace_name.to_string(),
        requested_by: operation.requested_by.to_string(),
        state: operation.state.as_str().to_owned(),
        progress: if runs { api.0.ops.progress(operation.workspace) } else { None },
        // While it runs again, the reason why it waited is out of date.
        detail: operation.detail.filter(|_| !runs),
        cancel_requested: operation.cancel_requested,
        revision: operation.revision.0,
        created_at: operation.created_at.to_string(),
        started_at: operation.started_at.map(|at| at.to_string()),
        ended_at: operation.ended_at.map(|at| at.to_string()),
    }
}
