//! Whether anybody is there.

use axum::Json;

use crate::api::Health;

pub(in super::super) async fn show() -> Json<Health> {
    Json(Health { status: "ok".into(), version: env!("CARGO_PKG_VERSION").into(), pid: std::process::id() })
}
