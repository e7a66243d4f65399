//! Commands in a workspace's container: created first, then started on an upgraded connection.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy, sink, split};

use super::{
    super::{
        Api,
        error::{HttpError, HttpResult},
    },
    Body, Path, Query,
};
use crate::{
    api::exec::{CreateExec, CreatedExec, ExecStatus, ResizeExec},
    domain::{
        status::Status,
        workspace::{Kind, Workspace},
    },
    engine::{Engine, ErrorKind, ExecId, ExecRequest},
    runtime::clock::within,
    store::{Pause, Scope},
};

/// Longest time that a command waits for an accepted start. The limit for messages is the same.
const START_LIMIT: Duration = Duration::from_mins(1);

pub(in super::super) async fn create(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Body(body): Body<CreateExec>,
) -> HttpResult<Json<CreatedExec>> {
    let row = api.resolve(&reference, Scope::Live).await?;
    if row.kind == Kind::External {
        return Err(HttpError::conflict(row.runs_elsewhere("and ostler cannot run commands there")));
    }
    api.0.ops.traffic().note(row.id);
    if body.command.is_empty() {
        return Err(HttpError::invalid("no command given"));
    }
    let row = row_after_start(&api, row).await?;
    let not_running = || {
        HttpError::conflict(format!(
            "workspace `{}` is {}: its container is not running. Start it with `ostler start {}`",
            row.name, row.status, row.name
        ))
    };
    let container = row.container.as_ref().ok_or_else(not_running)?;
    let CreateExec { command, tty, stdin, env, user } = body;
    let request = ExecRequest { command, tty, stdin, env, user };
    match api.0.engine.create_exec(container, &request).await {
        Ok(exec) => {
            api.0.ops.traffic().prepare(&exec, row.id);
            Ok(Json(CreatedExec { id: exec.0 }))
        }
        Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::Absent) => Err(not_running()),
        Err(error) => Err(error.into()),
    }
}

/// Returns the row after an accepted start of the workspace has been carried out, so that a command works directly
/// after `start --no-wait`. Waits at most `START_LIMIT`.
async fn row_after_start(api: &Api, row: Workspace) -> HttpResult<Workspace> {
    let starts = api.0.ops.accepted_starts();
    let mut ends = starts.ends();
    let is_up = |row: &Workspace| matches!(row.status, Status::Online | Status::Degraded);
    let is_starting = || starts.has(row.id) || api.0.store.pause(row.id, |id| starts.has(id)) == Pause::Ends;
    if is_up(&row) || !is_starting() {
        return Ok(row);
    }
    let carried_out = async {
        while is_starting() {
            ends.next().await;
        }
    };
    // If the start takes longer, the caller reports that the container does not run.
    let _in_time = within(&*api.0.clock, START_LIMIT, carried_out).await;
    api.0.store.workspace(row.id).await?.ok_or_else(HttpError::gone)
}

/// Validates an exec id. It becomes part of the path of a request to the engine, so only hex digits are allowed.
fn exec_id(id: String) -> HttpResult<ExecId> {
    let hex = !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
    if hex { Ok(ExecId(id)) } else { Err(HttpError::not_found("no such exec id")) }
}

#[derive(Deserialize)]
pub(in super::super) struct StartQuery {
    #[serde(default)]
    tty: bool,
    /// Whether the client keeps its side of the stream open until it disconnects. Otherwise the client closes its side
    /// when its input ends, and ostler detects a disconnect only when it writes output.
    #[serde(default)]
    stays: bool,
}

/// How a command's stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamEnd {
    /// The engine closed it.
    Command,
    /// The client disconnected.
    Client,
}

pub(in super::super) async fn start(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<StartQuery>,
    mut request: Request,
) -> HttpResult<Response> {
    let exec = exec_id(id)?;
    let open = api.0.ops.traffic().run(&exec).map_err(|refused| HttpError::conflict(refused.to_string()))?;
    let upgrade = hyper::upgrade::on(&mut request);
    let inside = api.0.engine.start_exec(&exec, query.tty).await?;
    let engine = Arc::clone(&api.0.engine);
    api.0.spawn.spawn(Box::pin(async move {
        // Prevents hibernation of the workspace while the command runs.
        let _open = open;
        let end = match upgrade.await {
            Ok(outside) => pass_on(TokioIo::new(outside), inside, query.stays).await,
            Err(error) => {
                tracing::debug!(%error, "client did not complete the upgrade to a command's stream");
                StreamEnd::Client
            }
        };
        if end == StreamEnd::Client {
            kill_abandoned(&*engine, &exec).await;
        }
    }));
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    Ok(response)
}

/// Copies in both directions until the engine closes the command's stream or the client disconnects.
async fn pass_on(
    outside: impl AsyncRead + AsyncWrite,
    inside: impl AsyncRead + AsyncWrite,
    stays: bool,
) -> StreamEnd {
    let (mut from_client, mut to_client) = split(outside);
    let (mut from_command, mut to_command) = split(inside);
    let output = async {
        let mut buffer = vec![0; 32 << 10];
        loop {
            match from_command.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    if to_client.write_all(&buffer[..length]).await.is_err() {
                        return StreamEnd::Client;
                    }
                }
            }
        }
        // A failure of this call has no effect: the client gets the command's result from the exit code.
        let _gone = to_client.shutdown().await;
        StreamEnd::Command
    };
    let input = async {
        // A command may close its standard input and continue to run, so a failed copy does not end the session.
        let _broken = copy(&mut from_client, &mut to_command).await;
        let _closed = to_command.shutdown().await;
        if stays {
            // The rest of the input is discarded. The end of the input means that the client has disconnected.
            let _left = copy(&mut from_client, &mut sink()).await;
            return StreamEnd::Client;
        }
        std::future::pending().await
    };
    tokio::select! {
        biased;
        end = output => end,
        end = input => end,
    }
}

/// Ends a command whose client has disconnected. No client reads its output any more, and Podman uses memory for its
/// stream as long as the command runs.
async fn kill_abandoned(engine: &dyn Engine, exec: &ExecId) {
    match engine.end_exec(exec).await {
        Ok(true) => tracing::info!(exec = %exec.0, "command ended: its client disconnected"),
        Ok(false) => {
            tracing::warn!(
                exec = %exec.0,
                "client of a command disconnected; the command's process is not visible to ostler and keeps running"
            );
        }
        Err(error) => {
            tracing::warn!(
                exec = %exec.0, %error,
                "client of a command disconnected; the command may still be running"
            );
        }
    }
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
