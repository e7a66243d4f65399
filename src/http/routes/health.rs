//! `/health` reports that the daemon answers. `/ready` reports whether it can do its work.

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};

use super::super::{
    Api, auth,
    error::{HttpError, HttpResult},
    vitals::Vitals,
};
use crate::{
    api::health::{Health, Ready},
    doctor::registry_mark,
};

/// Answers `/health`. Only admins get version and process id, because the route needs no token.
pub(in super::super) async fn show(State(api): State<Api>, request: Request) -> Json<Health> {
    let admin = auth::is_admin(&api, request.headers(), request.extensions());
    Json(Health {
        status: "ok".into(),
        registry: registry_mark(api.0.ops.settings().instance),
        version: admin.then(|| env!("CARGO_PKG_VERSION").into()),
        pid: admin.then(std::process::id),
    })
}

pub(in super::super) async fn ready(State(api): State<Api>) -> HttpResult<Json<Ready>> {
    let vitals = Vitals::take(&api.0.store, &api.0.sweeps, &*api.0.clock).await;
    if let Some(why) = vitals.not_ready() {
        return Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, why));
    }
    let registry = api.0.store.registry().await?;
    let recovering = registry.is_some_and(|registry| registry.recovering_since.is_some());
    Ok(Json(Ready { status: "ready".into(), recovering }))
}
