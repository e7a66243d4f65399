//! The daemon's configuration: how it differs from the file, and the reload.

use axum::{Json, extract::State};

use super::super::{
    Api,
    error::{HttpError, HttpResult},
};
use crate::api::configuration::{Reloaded, RunningConfig};

pub(in super::super) async fn show(State(api): State<Api>) -> HttpResult<Json<RunningConfig>> {
    Ok(Json(api.0.doctor.configuration().running()))
}

pub(in super::super) async fn reload(State(api): State<Api>) -> HttpResult<Json<Reloaded>> {
    let reloaded = api.0.doctor.configuration().reload();
    Ok(Json(reloaded.map_err(|why| HttpError::invalid(format!("configuration not reloaded: {why}")))?))
}
