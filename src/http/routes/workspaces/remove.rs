//! Removes workspaces.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    api::workspace::{Child, RemoveOutcome},
    http::{
        Api,
        error::HttpResult,
        routes::{Path, Query},
    },
    ops::Removal,
    store::Scope,
};

#[derive(Deserialize)]
pub(in crate::http) struct RemoveQuery {
    #[serde(default)]
    confirm: bool,
    #[serde(default)]
    purge: bool,
}

pub(in crate::http) async fn remove(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> HttpResult<Response> {
    let row = api.resolve(&reference, Scope::Live).await?;
    let (ops, id) = (api.0.ops.clone(), row.id);
    let removal = api.detached(async move { ops.remove(id, query.confirm, query.purge).await }).await?;
    Ok(match removal {
        Removal::Removed { cascaded, purged, waits, operation } => Json(RemoveOutcome {
            detail: waits.map(|why| format!("its container and volumes are not in the trash yet: {why}")),
            operation_id: operation.map(|operation| operation.0),
            status: "removed".into(),
            cascade_deleted: cascaded,
            purged: purged.as_ref().map(Result::is_ok),
            purge_error: purged.and_then(Result::err).map(|error| error.to_string()),
            children: Vec::new(),
            children_count: 0,
        })
        .into_response(),
        Removal::HasChildren(children) => {
            let children: Vec<_> = children
                .into_iter()
                .map(|(id, name)| Child { id: id.to_string(), name: name.to_string() })
                .collect();
            // The protocol requires exactly these keys (§5). Nothing was removed, so there is no count of removals.
            let outcome = json!({
                "status": "confirmation_required",
                "children_count": children.len(),
                "children": children,
            });
            (StatusCode::CONFLICT, Json(outcome)).into_response()
        }
    })
}
