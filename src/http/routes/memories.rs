//! Memories (wire protocol, §14).

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    super::{
        Api,
        auth::Own,
        body::read_body,
        error::{HttpError, HttpResult},
    },
    AGENT_BODY_LIMIT, Path, Query,
};
use crate::{
    domain::{
        ids::MemoryId,
        memory::{self, CONTENT_MAX, NAMESPACE_DEFAULT, NAMESPACE_MAX, Scope},
    },
    store::{Memory, MemoryQuery, Remembered},
};

/// The largest request, in bytes. JSON may encode one byte of the content as six bytes.
const BODY_MAX_BYTES: usize = 6 * CONTENT_MAX + 1024;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wanted {
    content: String,
    scope: String,
    namespace: Option<String>,
}

fn scope(word: &str) -> HttpResult<Scope> {
    Scope::parse(word).ok_or_else(|| HttpError::invalid("scope must be LOCAL, TEAM, or GLOBAL"))
}

pub(in super::super) async fn remember(
    State(api): State<Api>,
    own: Own,
    request: Request,
) -> HttpResult<(StatusCode, Json<Value>)> {
    if !own.by_admin {
        api.0.buckets.reports.check(own.id).map_err(HttpError::too_many)?;
    }
    let bytes = read_body(request.into_body(), BODY_MAX_BYTES, AGENT_BODY_LIMIT, &*api.0.clock).await?;
    let invalid = || HttpError::invalid("invalid request body");
    let wanted: Wanted = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
    if wanted.content.is_empty() {
        return Err(invalid());
    }
    let scope = scope(&wanted.scope)?;
    let namespace = wanted.namespace.filter(|namespace| !namespace.is_empty());
    let namespace = namespace.unwrap_or_else(|| NAMESPACE_DEFAULT.into());
    if namespace.chars().count() > NAMESPACE_MAX {
        return Err(HttpError::invalid("namespace must be <= 50 characters"));
    }
    if wanted.content.len() > CONTENT_MAX {
        return Err(HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, "a memory must not exceed 32 KiB"));
    }
    let id = MemoryId(api.0.entropy.uuid());
    let new = Memory {
        id,
        workspace: own.id,
        content: wanted.content,
        scope,
        namespace: namespace.clone(),
        created_at: api.0.clock.now(),
    };
    match api.0.store.remember(new).await? {
        Remembered::Stored => {
            let answer = json!({ "id": id, "scope": scope.as_str(), "namespace": namespace });
            Ok((StatusCode::CREATED, Json(answer)))
        }
        Remembered::Full => Err(HttpError::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "the workspace's memory is full: delete some entries",
        )),
        Remembered::NotRoot => Err(HttpError::forbidden("only root workspaces can write GLOBAL memories")),
        Remembered::Gone => Err(HttpError::gone()),
    }
}

/// The query of [`list`]; each value is the text that was sent.
#[derive(Deserialize)]
pub(in super::super) struct Filters {
    scope: Option<String>,
    q: Option<String>,
    namespace: Option<String>,
    limit: Option<String>,
}

pub(in super::super) async fn list(
    State(api): State<Api>,
    own: Own,
    Query(filters): Query<Filters>,
) -> HttpResult<Json<Vec<Value>>> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let scope = given(filters.scope).as_deref().map(scope).transpose()?;
    let query = MemoryQuery {
        scope,
        text: given(filters.q),
        namespace: given(filters.namespace),
        limit: memory::limit(filters.limit.as_deref()),
    };
    let found = api.0.store.memories(own.id, query).await?;
    Ok(Json(found.into_iter().map(|memory| view(memory, scope == Some(Scope::Global))).collect()))
}

fn view(memory: Memory, as_global: bool) -> Value {
    let Memory { id, workspace, content, scope, namespace, created_at } = memory;
    let content = if as_global {
        // The prefix informs a model that the content was written by another agent.
        format!("[MEMORY id={id} scope=GLOBAL from={workspace}]: {content}")
    } else {
        content
    };
    json!({
        "id": id, "workspace_id": workspace, "content": content, "scope": scope.as_str(), "namespace": namespace,
        "created_at": created_at.to_string(),
    })
}

pub(in super::super) async fn forget(
    State(api): State<Api>,
    own: Own,
    Path((_, id)): Path<(String, String)>,
) -> HttpResult<Json<Value>> {
    let missing = || HttpError::not_found("memory not found or not owned by this workspace");
    let id = Uuid::try_parse(&id).map(MemoryId).map_err(|_| missing())?;
    if api.0.store.forget_memory(own.id, id).await? {
        Ok(Json(json!({ "status": "deleted" })))
    } else {
        Err(missing())
    }
}
