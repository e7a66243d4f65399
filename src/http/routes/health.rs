//! Whether anybody is there, and whether they do their work.

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};

use super::super::{
    Api, auth,
    error::{HttpError, HttpResult},
};
use crate::{
    api::{Health, Ready},
    doctor::registry_mark,
};

/// Version and process id are for admins: on TCP anybody may ask.
pub(in super::super) async fn show(State(api): State<Api>, request: Request) -> Json<Health> {
    let admin = auth::is_admin(&api, request.headers(), request.extensions());
    Json(Health {
        status: "ok".into(),
        registry: registry_mark(api.0.ops.settings().instance),
        version: admin.then(|| env!("CARGO_PKG_VERSION").into()),
        pid: admin.then(std::process::id),
    })
}

/// A pass that has not begun for three of its periods is one that nobody drives any more.
const PERIODS_LATE: u32 = 3;

pub(in super::super) async fn ready(State(api): State<Api>) -> HttpResult<Json<Ready>> {
    let now = api.0.clock.awake();
    let late: Vec<_> = api
        .0
        .sweeps
        .statuses()
        .into_iter()
        .filter(|pass| !pass.running && now.since(pass.begun_at) > pass.period * PERIODS_LATE)
        .map(|pass| pass.name)
        .collect();
    if late.is_empty() {
        return Ok(Json(Ready { status: "ready".into() }));
    }
    let message = format!("not done for three periods: {}", late.join(", "));
    Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, message))
}
