//! Adoption: adds unknown containers and volumes to the registry.

use axum::{Json, extract::State};

use super::{
    super::{
        Api,
        error::{HttpError, HttpResult},
    },
    Body,
};
use crate::{
    api::adoption::{Adopt, AdoptItem, AdoptOutcome},
    domain::{
        ids::InstanceId,
        spec::{LabelledSpec, NOT_IN_LABELS},
    },
    ops::{AdoptRequest, Applied},
    registry::identity,
};

type Unknown = (AdoptRequest, Option<LabelledSpec>);

pub(in super::super) async fn adopt(
    State(api): State<Api>,
    Body(body): Body<Adopt>,
) -> HttpResult<Json<AdoptOutcome>> {
    if let Some(instance) = &body.instance {
        return become_instance(&api, instance).await;
    }
    let unknown = api.0.ops.unknown().await?;
    let meant = meant(&body, unknown)?;
    let mut items = Vec::new();
    for (request, spec) in meant {
        items.push(if body.dry_run {
            planned(&request, spec.as_ref())
        } else {
            adopt_one(&api, request, spec).await
        });
    }
    if !body.dry_run {
        let (ops, all) = (api.0.ops.clone(), body.all);
        api.detached(async move { ops.end_recovery_if_settled(all).await }).await?;
    }
    let recovering =
        api.0.store.registry().await?.is_some_and(|registry| registry.recovering_since.is_some());
    Ok(Json(AdoptOutcome { items, recovering }))
}

fn meant(body: &Adopt, unknown: Vec<Unknown>) -> HttpResult<Vec<Unknown>> {
    if body.all || (body.which.is_empty() && body.dry_run) {
        return Ok(unknown);
    }
    if body.which.is_empty() {
        return Err(HttpError::invalid(
            "name the workspaces to adopt (names or ids), or pass --all. List them with `ostler adopt --dry-run`",
        ));
    }
    let names = |reference: &str, (request, spec): &Unknown| {
        spec.as_ref().is_some_and(|spec| spec.name.as_str() == reference)
            || request.known.as_ref().is_some_and(|known| known.name.as_str() == reference)
            || (reference.len() >= 4 && request.workspace.to_string().starts_with(reference))
    };
    for reference in &body.which {
        match unknown.iter().filter(|item| names(reference, item)).count() {
            0 => {
                return Err(HttpError::not_found(format!(
                    "nothing to adopt matches `{reference}`. List the candidates with `ostler adopt --dry-run`"
                )));
            }
            1 => {}
            _ => {
                return Err(HttpError::conflict(format!(
                    "`{reference}` is ambiguous: use the workspace's id"
                )));
            }
        }
    }
    Ok(unknown.into_iter().filter(|item| body.which.iter().any(|reference| names(reference, item))).collect())
}

async fn adopt_one(api: &Api, request: AdoptRequest, spec: Option<LabelledSpec>) -> AdoptItem {
    let (ops, order) = (api.0.ops.clone(), request.clone());
    let (adopted, detail) = match api.detached(async move { ops.adopt(order).await }).await {
        Ok(Applied::Done(detail)) => (true, detail),
        Ok(Applied::Raced(why) | Applied::Accepted(why)) => (false, why),
        Err(error) => (false, error.to_string()),
    };
    AdoptItem { adopted, detail, ..planned(&request, spec.as_ref()) }
}

fn planned(request: &AdoptRequest, spec: Option<&LabelledSpec>) -> AdoptItem {
    let name = request.known.as_ref().map(|known| known.name.to_string());
    AdoptItem {
        workspace_id: request.workspace.to_string(),
        name: name
            .or_else(|| spec.map(|spec| spec.name.to_string()))
            .unwrap_or_else(|| request.workspace.to_string()),
        container_id: request.contents.container.as_ref().map(|container| container.id.to_string()),
        volumes: request.contents.volumes.clone(),
        adopted: spec.is_some() || request.known.is_some(),
        detail: match (&request.known, &request.contents.container, spec) {
            (Some(known), _, _) => known.difference.describe().into(),
            (None, None, _) => {
                "only volumes remain: there is no container to rebuild the workspace from".into()
            }
            (None, Some(_), None) => "the labels of the container contain no readable specification".into(),
            (None, Some(_), Some(_)) => format!("can be adopted; {NOT_IN_LABELS}"),
        },
    }
}

async fn become_instance(api: &Api, instance: &str) -> HttpResult<Json<AdoptOutcome>> {
    let id = InstanceId::from_client(instance).map_err(|error| HttpError::invalid(error.to_string()))?;
    let parts = &api.0;
    let became =
        identity::become_instance(&parts.store, &parts.mirror, &parts.runtime_dir, id, &*parts.clock).await;
    match became {
        Ok(true) => Ok(Json(AdoptOutcome {
            items: vec![AdoptItem {
                workspace_id: String::new(),
                name: instance.to_owned(),
                container_id: None,
                volumes: Vec::new(),
                adopted: true,
                detail:
                    "this registry takes over the instance's identity at the next start of the daemon. Restart the \
                     daemon, then run `ostler adopt --dry-run`"
                        .into(),
            }],
            recovering: true,
        })),
        Ok(false) => Err(HttpError::conflict(
            "this registry is not empty: only an empty one can take over an instance's identity. Start a \
             daemon with another --data-dir",
        )),
        Err(error) => Err(HttpError::conflict(error.to_string())),
    }
}
