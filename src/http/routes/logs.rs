//! A container's output, in the same frames that exec uses.

use axum::{
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use serde::Deserialize;

use super::{
    super::{
        Api,
        error::{HttpError, HttpResult},
    },
    Path, Query,
};
use crate::{
    domain::workspace::Kind,
    engine::{LogChunk, LogRequest},
    store::Scope,
};

#[derive(Deserialize)]
pub(in super::super) struct LogsQuery {
    tail: Option<u32>,
    #[serde(default)]
    follow: bool,
}

pub(in super::super) async fn stream(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<LogsQuery>,
) -> HttpResult<Response> {
    let row = api.resolve(&reference, Scope::Any).await?;
    if row.kind == Kind::External {
        return Err(HttpError::conflict(row.runs_elsewhere("and ostler has no log of it")));
    }
    let container = row.container.ok_or_else(|| {
        HttpError::conflict(format!("workspace `{}` has no container yet, so there is no log", row.name))
    })?;
    let request = LogRequest { tail: query.tail, follow: query.follow, max_bytes: None };
    let chunks = api.0.engine.logs(&container, request).await?;
    Ok(Body::from_stream(chunks.map(|chunk| chunk.map(|chunk| framed(&chunk)))).into_response())
}

/// Frames a chunk: an 8-byte header (stream 1 or 2, three zero bytes, big-endian length), then the bytes.
fn framed(chunk: &LogChunk) -> Bytes {
    let length = u32::try_from(chunk.bytes.len()).unwrap_or(u32::MAX);
    let mut frame = vec![if chunk.stderr { 2 } else { 1 }, 0, 0, 0];
    frame.extend(length.to_be_bytes());
    frame.extend(&chunk.bytes);
    frame.into()
}
