//! What must hold once all faults have stopped.

use std::collections::BTreeSet;

use ostler::domain::{
    ids::WorkspaceId,
    status::{Failure, Status},
    token::TokenKind,
    trash::{TrashEntry, TrashReason, TrashState},
    workspace::{Kind, Workspace},
};

use super::{
    super::installation::{Installation, now_or_panic},
    Broken, Rule, containers_of, describe_token, is_live,
};
use crate::support::fake_engine::{FakeContainer, State};

/// Checks what must hold once all faults have stopped and the sweeps have nothing left to do.
pub(crate) fn at_rest(site: &Installation) -> Result<(), Broken> {
    at_rest_but(site, &BTreeSet::new())
}

/// Like `at_rest`, but accepts that a workspace whose work volume is lost is not restarted.
pub(super) fn at_rest_but(site: &Installation, lost_work: &BTreeSet<WorkspaceId>) -> Result<(), Broken> {
    let trash = now_or_panic(site.reader.trash()).expect("the store answers");
    if let Some(entry) = trash.iter().find(|entry| entry.state != TrashState::Kept) {
        let (name, state) = (&entry.workspace_name, entry.state.as_str());
        return Err(Rule::ItHeals.broken(format!("a trash entry of {name} stays {state}")));
    }
    let state = site.world.state();
    for row in site.rows() {
        at_most_one_live_token(site, &row)?;
        if !(lost_work.contains(&row.id)
            && (row.status == Status::Online || cannot_recover(site, &state, &row)))
        {
            running_containers_match_the_row(site, &state, &row)?;
        }
        every_container_is_the_rows_or_in_the_trash(&state, &row, &trash)?;
        if row.status == Status::Removed {
            objects_of_a_removed_row_are_in_the_trash(&state, &row, &trash)?;
        }
    }
    Ok(())
}

/// Promises 2 and 4, after all faults have stopped. A workspace that should run has exactly one running container, and
/// the process, the token file and the store agree on its token. Any other workspace has no running container.
fn running_containers_match_the_row(
    site: &Installation,
    state: &State,
    row: &Workspace,
) -> Result<(), Broken> {
    let running: Vec<_> =
        containers_of(state, row.id).into_iter().filter(|(_, container)| container.state.may_run()).collect();
    let detail = row.status_detail.as_deref().unwrap_or_default();
    let what = format!("{} is {} ({detail}) with {} running containers", row.name, row.status, running.len());
    let what = Rule::ItHeals.broken(what);
    match row.status {
        // The simulation does not model where an external agent runs.
        Status::Online | Status::Degraded | Status::AwaitingAgent if row.kind == Kind::External => Ok(()),
        Status::Online => {
            let [(id, container)] = running.as_slice() else { return Err(what) };
            if row.container.as_ref() != Some(*id) {
                return Err(format!("{what}, and none of them is the one that the row names"));
            }
            let file = state.token_file(container);
            if file != container.held_token || !is_live(site, row, file.as_deref()) {
                return Err(format!(
                    "{what}: its file holds {}, its process {}, and the live token is a different one",
                    describe_token(file.as_deref()),
                    describe_token(container.held_token.as_deref())
                ));
            }
            Ok(())
        }
        // A late first heartbeat brings a start that timed out online; by now every running agent has sent one.
        Status::Hibernated
        | Status::Paused
        | Status::Removed
        | Status::Failed(Failure::StartError | Failure::Parked | Failure::ProvisionTimeout) => {
            if running.is_empty() { Ok(()) } else { Err(what) }
        }
        Status::Provisioning
        | Status::Degraded
        | Status::Offline
        | Status::Hibernating
        | Status::AwaitingAgent => Err(format!("{what}: a transient status at rest")),
    }
}

/// Whether its token was wiped and its container started by hand. Then no valid heartbeat can arrive, so the status may
/// stay as it is.
fn cannot_recover(site: &Installation, state: &State, row: &Workspace) -> bool {
    let holds_live_token = |container: &FakeContainer| is_live(site, row, container.held_token.as_deref());
    row.status == Status::Failed(Failure::ProvisionTimeout)
        && containers_of(state, row.id).iter().all(|(_, container)| !holds_live_token(container))
}

/// Every container of a workspace is the one that its row names, or is in the trash.
fn every_container_is_the_rows_or_in_the_trash(
    state: &State,
    row: &Workspace,
    trash: &[TrashEntry],
) -> Result<(), Broken> {
    for (id, container) in containers_of(state, row.id) {
        let is_rows = row.status != Status::Removed && row.container.as_ref() == Some(id);
        let in_trash =
            trash.iter().any(|entry| entry.contents.container.as_ref().is_some_and(|c| c.id == *id));
        if is_rows == in_trash {
            let where_ = if is_rows {
                "named by the row and in the trash"
            } else {
                "neither named by the row nor in the trash"
            };
            let how = format!("container {} of {} ({}) is {where_}", container.name, row.name, row.status);
            return Err(Rule::ItHeals.broken(how));
        }
    }
    Ok(())
}

/// Promise 1: what a removed workspace owned can be restored.
fn objects_of_a_removed_row_are_in_the_trash(
    state: &State,
    row: &Workspace,
    trash: &[TrashEntry],
) -> Result<(), Broken> {
    let kept: BTreeSet<_> = trash
        .iter()
        .filter(|entry| entry.workspace == row.id && entry.reason == TrashReason::Removed)
        .flat_map(|entry| entry.contents.volumes.iter())
        .collect();
    let loose = state.volumes.keys().find(|name| name.contains(&row.id.to_string()) && !kept.contains(name));
    match loose {
        Some(volume) => {
            let how = format!("{} is removed, and its volume {volume} is not in the trash", row.name);
            Err(Rule::TrashIsWhole.broken(how))
        }
        None => Ok(()),
    }
}

/// At most one live instance token, and only that of the row's current incarnation.
pub(super) fn at_most_one_live_token(site: &Installation, row: &Workspace) -> Result<(), Broken> {
    let live = now_or_panic(site.reader.live_tokens(row.id, site.sim.now())).expect("the store answers");
    let live: Vec<_> = live.iter().filter(|token| token.kind == TokenKind::Instance).collect();
    if live.len() > 1 || live.iter().any(|token| token.incarnation != Some(row.incarnation)) {
        let of: Vec<_> = live.iter().map(|token| token.incarnation).collect();
        let how = format!("{} is in incarnation {} and has live tokens of {of:?}", row.name, row.incarnation);
        return Err(Rule::OneLiveToken.broken(how));
    }
    Ok(())
}
