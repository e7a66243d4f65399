//! The doctor's report, and the acceptance of a changed engine.

use axum::{Json, extract::State};

use super::super::{Api, error::HttpResult};
use crate::api::doctor::DoctorReport;

pub(in super::super) async fn show(State(api): State<Api>) -> HttpResult<Json<DoctorReport>> {
    Ok(Json(api.0.doctor.examine().await))
}

pub(in super::super) async fn accept_engine(State(api): State<Api>) -> HttpResult<Json<DoctorReport>> {
    let ops = api.0.ops.clone();
    api.detached(async move { ops.accept_engine().await }).await?;
    Ok(Json(api.0.doctor.examine().await))
}
