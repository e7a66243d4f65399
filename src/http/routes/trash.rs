//! Lists the trash, restores its entries, and deletes them permanently.

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
    api::trash::{EmptyTrash, TrashOutcome, TrashView},
    domain::{
        operation::{OperationId, Requester},
        trash::TrashEntry,
    },
    ops::{Applied, OpError, own},
};

pub(in super::super) async fn list(State(api): State<Api>) -> HttpResult<Json<Vec<TrashView>>> {
    let entries = api.0.store.trash().await?;
    // If the engine does not answer, the list is shown without sizes.
    let usage = if entries.is_empty() { None } else { api.0.engine.disk_usage().await.ok() };
    Ok(Json(entries.iter().map(|entry| view::trash(entry, usage.as_ref())).collect()))
}

pub(in super::super) async fn restore(
    State(api): State<Api>,
    Path(reference): Path<String>,
) -> HttpResult<Json<TrashOutcome>> {
    let entries = api.0.store.trash().await?;
    let entry = which(&reference, &entries)?.clone();
    let (workspace, ticket) = api.0.ops.restore_for(entry.id, Requester::Operator).await?;
    let operation = ticket.operation();
    let applied = api.0.ops.restored(workspace, ticket).await?;
    Ok(Json(outcome(&entry, operation, Ok(applied))))
}

pub(in super::super) async fn empty(
    State(api): State<Api>,
    Body(body): Body<EmptyTrash>,
) -> HttpResult<Json<Vec<TrashOutcome>>> {
    let entries = api.0.store.trash().await?;
    let mut meant: Vec<TrashEntry> = if body.entries.is_empty() {
        entries
    } else {
        let named = body.entries.iter().map(|reference| which(reference, &entries).cloned());
        named.collect::<Result<_, _>>()?
    };
    // Entries with a container are deleted first: Podman does not delete a volume that a container mounts, and that
    // container may be in another entry.
    meant.sort_by_key(|entry| entry.contents.container.is_none());
    let mut outcomes = Vec::new();
    for entry in meant {
        let outcome = match api.0.ops.delete_for(entry.id, Requester::Operator).await {
            Ok((workspace, ticket)) => {
                let operation = ticket.operation();
                let done = ticket.ended().await.and_then(|affected| own(affected, workspace));
                outcome(&entry, operation, done)
            }
            Err(refused) => outcome(&entry, None, Err(refused)),
        };
        outcomes.push(outcome);
    }
    Ok(Json(outcomes))
}

fn outcome(
    entry: &TrashEntry,
    operation: Option<OperationId>,
    done: Result<Applied, OpError>,
) -> TrashOutcome {
    let accepted = matches!(done, Ok(Applied::Accepted(_)));
    let (done, detail) = match done {
        Ok(Applied::Done(detail)) => (true, detail),
        Ok(Applied::Raced(why) | Applied::Accepted(why)) => (false, why),
        Err(error) => (false, error.to_string()),
    };
    TrashOutcome {
        id: entry.id.to_string(),
        workspace_name: entry.workspace_name.clone(),
        done,
        detail,
        accepted,
        operation_id: operation.map(|operation| operation.0),
    }
}

/// Finds an entry by its id, a unique id prefix of at least 4 characters, or the name of its workspace.
fn which<'a>(reference: &str, entries: &'a [TrashEntry]) -> HttpResult<&'a TrashEntry> {
    let meant = |entry: &&TrashEntry| {
        entry.workspace_name == reference
            || (reference.len() >= 4 && entry.id.to_string().starts_with(&reference.to_ascii_lowercase()))
    };
    let mut found = entries.iter().filter(meant);
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry),
        (Some(_), Some(_)) => Err(HttpError::conflict(format!(
            "`{reference}` matches several trash entries: use an id from `ostler trash ls`"
        ))),
        (None, _) => Err(HttpError::not_found(format!(
            "no trash entry matches `{reference}`. List the entries with `ostler trash ls`"
        ))),
    }
}
