//! Commands inside a workspace's container: prepared, then joined by upgrading the connection.

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::copy_bidirectional;

use super::{
    super::{
        Api,
        error::{HttpError, HttpResult},
    },
    Body, Path, Query,
};
use crate::{
    api::{CreateExec, CreatedExec, ExecStatus, ResizeExec},
    engine::{ExecId, ExecRequest, Trouble},
    store::Scope,
};

pub(in super::super) async fn create(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Body(body): Body<CreateExec>,
) -> HttpResult<Json<CreatedExec>> {
    let row = api.resolve(&reference, Scope::Live).await?;
    api.0.ops.traffic().note(row.id);
    if body.command.is_empty() {
        return Err(HttpError::invalid("no command was given"));
    }
    let not_running = || {
        HttpError::conflict(format!(
            "workspace `{}` is {}: its container does not run. `ostler start {}` first",
            row.name, row.status, row.name
        ))
    };
    let container = row.container.as_ref().ok_or_else(not_running)?;
    let CreateExec { command, tty, stdin, env, user } = body;
    let request = ExecRequest { command, tty, stdin, env, user };
    match api.0.engine.create_exec(container, &request).await {
        Ok(exec) => Ok(Json(CreatedExec { id: exec.0 })),
        Err(error) if matches!(error.trouble, Trouble::Conflict | Trouble::Absent) => Err(not_running()),
        Err(error) => Err(error.into()),
    }
}

/// An exec's id as the engine gives it: nothing in it may change the request it is put into.
fn exec_id(id: String) -> HttpResult<ExecId> {
    let hex = !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
    if hex { Ok(ExecId(id)) } else { Err(HttpError::not_found("there is no such command")) }
}

#[derive(Deserialize)]
pub(in super::super) struct StartQuery {
    #[serde(default)]
    tty: bool,
}

pub(in super::super) async fn start(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<StartQuery>,
    mut request: Request,
) -> HttpResult<Response> {
    let exec = exec_id(id)?;
    let upgrade = hyper::upgrade::on(&mut request);
    let mut inside = api.0.engine.start_exec(&exec, query.tty).await?;
    api.0.spawn.spawn(Box::pin(async move {
        match upgrade.await {
            Ok(outside) => {
                // Either side going away ends the command's connection; its exit code is asked for apart.
                let _ended = copy_bidirectional(&mut TokioIo::new(outside), &mut inside).await;
            }
            Err(error) => {
                tracing::debug!(%error, "a client asked for a command's stream and did not take it");
            }
        }
    }));
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    Ok(response)
}

pub(in super::super) async fn resize(
    State(api): State<Api>,
    Path(id): Path<String>,
    Body(size): Body<ResizeExec>,
) -> HttpResult<StatusCode> {
    api.0.engine.resize_exec(&exec_id(id)?, size.columns, size.rows).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in super::super) async fn show(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> HttpResult<Json<ExecStatus>> {
    let exit_code = api.0.engine.exec_exit_code(&exec_id(id)?).await?;
    Ok(Json(ExecStatus { exit_code }))
}
