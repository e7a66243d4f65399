//! Every route there is.

use axum::{
    Router,
    http::StatusCode,
    routing::{delete, get, post},
};

use super::{
    Api,
    error::HttpError,
    routes::{adopt, doctor, events, exec, health, logs, sweeps, tokens, trash, workspaces},
};

pub(super) fn router(api: Api) -> Router {
    Router::new()
        .route("/health", get(health::show))
        .route("/workspaces", get(workspaces::list).post(workspaces::create))
        .route("/workspaces/{reference}", get(workspaces::show).delete(workspaces::remove))
        .route("/workspaces/{reference}/start", post(workspaces::start))
        .route("/workspaces/{reference}/stop", post(workspaces::stop))
        .route("/workspaces/{reference}/restart", post(workspaces::restart))
        .route("/workspaces/{reference}/recreate", post(workspaces::recreate))
        .route("/workspaces/{reference}/undelete", post(workspaces::undelete))
        .route("/workspaces/{reference}/logs", get(logs::stream))
        .route("/workspaces/{reference}/exec", post(exec::create))
        .route("/workspaces/{reference}/tokens", get(tokens::list).post(tokens::issue))
        .route("/workspaces/{reference}/tokens/{token}", delete(tokens::revoke))
        .route("/exec/{id}", get(exec::show))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/trash", get(trash::list))
        .route("/trash/empty", post(trash::empty))
        .route("/trash/{entry}/restore", post(trash::restore))
        .route("/adopt", post(adopt::adopt))
        .route("/sweeps", get(sweeps::list))
        .route("/sweeps/run", post(sweeps::run))
        .route("/sweeps/{pass}", get(sweeps::show))
        .route("/sweeps/{pass}/approve", post(sweeps::approve))
        .route("/events", get(events::list))
        .route("/events/stream", get(events::stream))
        .route("/events/{reference}", get(events::list_of))
        .route("/doctor", get(doctor::show))
        .route("/doctor/accept-engine", post(doctor::accept_engine))
        .fallback(|| async { HttpError::not_found("there is no such route") })
        .method_not_allowed_fallback(|| async {
            HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "this route does not know that method")
        })
        .with_state(api)
}
