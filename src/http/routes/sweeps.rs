//! Lists and runs sweep passes, and approves held plans.

use axum::{Json, extract::State};

use super::{
    super::{
        Api,
        error::{HttpError, HttpResult},
        view,
    },
    Body, Path,
};
use crate::{
    api::sweep::{ApprovePlan, HeldPlan, PassRun, PassView, RunSweeps},
    store::Approval,
    sweep::{Mode, PassStatus},
};

pub(in super::super) async fn list(State(api): State<Api>) -> HttpResult<Json<Vec<PassView>>> {
    let mut views = Vec::new();
    for status in api.0.sweeps.statuses() {
        let held = api.0.store.held_plan(status.name).await?;
        views.push(view::pass(&status, held.as_ref()));
    }
    Ok(Json(views))
}

pub(in super::super) async fn show(
    State(api): State<Api>,
    Path(pass): Path<String>,
) -> HttpResult<Json<PassView>> {
    let status = which(&api, &pass)?;
    let held = api.0.store.held_plan(status.name).await?;
    Ok(Json(view::pass(&status, held.as_ref())))
}

pub(in super::super) async fn run(
    State(api): State<Api>,
    Body(body): Body<RunSweeps>,
) -> HttpResult<Json<Vec<PassRun>>> {
    let named = body.passes.iter().map(|pass| which(&api, pass).map(|status| status.name));
    let passes = named.collect::<Result<Vec<_>, _>>()?;
    let mode = if body.dry_run { Mode::DryRun } else { Mode::Apply };
    Ok(Json(api.0.sweeps.run_now(passes, mode).await.iter().map(view::run).collect()))
}

pub(in super::super) async fn approve(
    State(api): State<Api>,
    Path(pass): Path<String>,
    Body(body): Body<ApprovePlan>,
) -> HttpResult<Json<HeldPlan>> {
    let status = which(&api, &pass)?;
    let nothing = || HttpError::not_found(format!("`{pass}` has no held plan to approve"));
    let held = api.0.store.held_plan(status.name).await?.ok_or_else(nothing)?;
    let meant =
        body.plan_id.len() >= 4 && held.id.to_string().starts_with(&body.plan_id.to_ascii_lowercase());
    if !meant {
        return Err(HttpError::conflict(format!(
            "the current held plan of `{pass}` is {}, not `{}`. Review it with `ostler sweep show {pass}`",
            held.id, body.plan_id
        )));
    }
    match api.0.store.approve_plan(pass.clone(), held.id, api.0.clock.now()).await? {
        Approval::Approved(row) => {
            let (sweeps, name) = (api.0.sweeps.clone(), status.name);
            // Runs the pass now, so that the approved plan does not wait for the next period.
            api.0.spawn.spawn(Box::pin(async move { drop(sweeps.run_now(vec![name], Mode::Apply).await) }));
            Ok(Json(view::held(&row)))
        }
        Approval::Superseded(id) => Err(HttpError::conflict(format!(
            "the held plan of `{pass}` was replaced by plan {id}. Review it with `ostler sweep show {pass}`"
        ))),
        Approval::NothingHeld => Err(nothing()),
    }
}

fn which(api: &Api, name: &str) -> HttpResult<PassStatus> {
    let statuses = api.0.sweeps.statuses();
    let known: Vec<_> = statuses.iter().map(|status| status.name).collect();
    statuses.iter().find(|status| status.name == name).cloned().ok_or_else(|| {
        HttpError::not_found(format!("unknown pass `{name}`; the passes are {}", known.join(", ")))
    })
}
