//! What must hold: after every step, whatever went wrong ([`Witness::check`]), and once everything that
//! goes wrong has stopped ([`at_rest`]). Each function names the promise it guards.

use std::collections::{BTreeMap, BTreeSet};

use ostler::{
    domain::{
        breaker,
        event::Event,
        ids::{ContainerId, WorkspaceId},
        naming::{LABEL_INSTANCE, LABEL_WORKSPACE},
        observed::ContainerState,
        status::{Cause, Failure, MOVES, Status},
        token::{Token, TokenKind},
        trash::{TrashEntry, TrashReason, TrashState},
        workspace::{Kind, Workspace},
    },
    engine::fake::{FakeContainer, State},
    store::Bearer,
};

use super::house::{House, at_once};

/// A broken promise, in words.
pub(crate) type Broken = String;

/// Watches a house from its first day.
#[derive(Default)]
pub(crate) struct Witness {
    last_event: i64,
    calls_seen: usize,
    /// By the events alone.
    told: BTreeMap<WorkspaceId, Status>,
    foreign: BTreeMap<ContainerId, (String, ContainerState, u32)>,
    /// Config volumes that a test emptied: their agents have no token file until they are started anew.
    pub(crate) wiped: BTreeSet<WorkspaceId>,
    /// Whether a person approves what the breaker holds: then it limits nothing.
    pub(crate) approving: bool,
    /// Workspaces whose containers a person has started by hand.
    pub(crate) hands: BTreeSet<WorkspaceId>,
    /// Whether calls may arrive late: then anything may be started at any time.
    pub(crate) late_starts: bool,
    /// Whom a person has put to rest, or the budget has parked, and when, by the count of looks.
    resting: BTreeMap<WorkspaceId, usize>,
    /// Who has left that rest and was not removed, since this was last asked for, and since when it rested: a person
    /// has to have said so.
    pub(crate) left_rest: Vec<(WorkspaceId, usize)>,
    /// How often everything was looked at.
    pub(crate) looks: usize,
}

impl Witness {
    /// Begins to watch.
    pub(crate) fn of(house: &House) -> Self {
        Self { foreign: foreign(house), ..Self::default() }
    }

    /// Everything that must hold after every step.
    pub(crate) fn check(&mut self, house: &House) -> Result<(), Broken> {
        self.looks += 1;
        self.foreign_containers_are_untouched(house)?;
        if !at_once(house.eye.memory_is_true()).expect("the store answers") {
            return Err("what is kept in memory is not what the tables say".into());
        }
        let events = at_once(house.eye.events_after(self.last_event, 10_000)).expect("the store answers");
        let rows = house.rows();
        self.every_change_is_told_and_legal(&events, &rows)?;
        self.who_is_asleep_does_not_run(house, &events, &rows)?;
        let trash = at_once(house.eye.trash()).expect("the store answers");
        self.no_volume_of_a_live_workspace_goes(house, &rows, &trash)?;
        for event in &events {
            no_holder_loses_its_token(house, &rows, event)?;
            if !self.approving {
                the_breaker_held(house, event)?;
            }
        }
        self.who_is_online_holds_a_live_token(house, &rows)?;
        if let Some(last) = events.last() {
            self.last_event = last.id;
        }
        Ok(())
    }

    /// Promise 3, what you see is what is: the history of events is the history of statuses, and every
    /// move is one of [`MOVES`]. Among them: nothing but an undelete brings a removed workspace back.
    fn every_change_is_told_and_legal(&mut self, events: &[Event], rows: &[Workspace]) -> Result<(), Broken> {
        for event in events {
            let (Some(id), Some(to)) = (event.workspace_id, status_told(event)) else { continue };
            if let Some(from) = self.told.insert(id, to) {
                let allowed = |(cause, target, sources): &(Cause, Status, &[Status])| {
                    *target == to && tells_of(event, *cause) && sources.contains(&from)
                };
                if !MOVES.iter().any(allowed) {
                    return Err(format!("{id} moved from {from} to {to}, which nothing allows: {event:?}"));
                }
                if let (true, Some(since)) = (rests(from), self.resting.remove(&id))
                    && to != Status::Removed
                    && to != Status::Paused
                {
                    self.left_rest.push((id, since));
                }
            }
            if rests(to) {
                self.resting.insert(id, self.looks);
            }
        }
        for row in rows {
            if self.told.get(&row.id) != Some(&row.status) {
                let told = self.told.get(&row.id);
                return Err(format!("{} is {}, and the events say {told:?}", row.name, row.status));
            }
        }
        Ok(())
    }

    /// Promise 3: when it is said that a workspace sleeps, none of its containers runs.
    fn who_is_asleep_does_not_run(
        &self,
        house: &House,
        events: &[Event],
        rows: &[Workspace],
    ) -> Result<(), Broken> {
        for event in events.iter().filter(|event| event.event_type == "WORKSPACE_HIBERNATED") {
            let row = rows.iter().find(|row| Some(row.id) == event.workspace_id);
            let Some(row) = row.filter(|row| !self.late_starts && !self.hands.contains(&row.id)) else {
                continue;
            };
            let state = house.world.state();
            if containers_of(&state, row.id).iter().any(|(_, container)| container.state.may_run()) {
                return Err(format!("{} is said to sleep, and a container of it runs", row.name));
            }
        }
        Ok(())
    }

    /// Promise 1, nothing is lost: nothing of a live workspace is deleted, and none of its volumes lies
    /// in the trash, other than on its way back.
    fn no_volume_of_a_live_workspace_goes(
        &mut self,
        house: &House,
        rows: &[Workspace],
        trash: &[TrashEntry],
    ) -> Result<(), Broken> {
        let live = |name: &str| {
            rows.iter().find(|row| row.status != Status::Removed && name.contains(&row.id.to_string()))
        };
        let state = house.world.state();
        for call in &state.log[self.calls_seen..] {
            if call.method == "delete_volume"
                && let Some(row) = live(&call.object)
            {
                return Err(format!("volume {} of {} ({}) was deleted", call.object, row.name, row.status));
            }
        }
        self.calls_seen = state.log.len();
        for entry in trash.iter().filter(|entry| entry.state != TrashState::Restoring) {
            if let Some((volume, row)) =
                entry.things.volumes.iter().find_map(|name| live(name).map(|row| (name, row)))
            {
                let (state, status) = (entry.state.as_str(), row.status);
                return Err(format!("volume {volume} of {} ({status}) is {state} in the trash", row.name));
            }
        }
        for row in rows.iter().filter(|row| row.status != Status::Removed && row.has_work_volume) {
            if !state.volumes.keys().any(|name| name.contains(&row.id.to_string()) && name.ends_with("-work"))
            {
                return Err(format!("the work volume of {} ({}) is gone", row.name, row.status));
            }
        }
        Ok(())
    }

    /// Lessons: neighbours' containers were reaped. What is not ours stays as it was found.
    fn foreign_containers_are_untouched(&self, house: &House) -> Result<(), Broken> {
        let now = foreign(house);
        if now == self.foreign { Ok(()) } else { Err(format!("foreign containers were touched: {now:?}")) }
    }

    /// Promise 2, from the holder's side: while a row says online, the process in its container holds a
    /// token that is valid for it.
    fn who_is_online_holds_a_live_token(&self, house: &House, rows: &[Workspace]) -> Result<(), Broken> {
        for row in rows.iter().filter(|row| row.status == Status::Online) {
            let Some(container) = running_container_of_row(house, row) else { continue };
            if container.held_token.is_none() && self.wiped.contains(&row.id) {
                continue;
            }
            if !is_live(house, row, container.held_token.as_deref()) {
                return Err(format!(
                    "{} is online in incarnation {}, and its process holds no live token: {}",
                    row.name,
                    row.incarnation,
                    describe_token(container.held_token.as_deref())
                ));
            }
        }
        Ok(())
    }
}

/// Whether only a person's word ends it.
fn rests(status: Status) -> bool {
    matches!(status, Status::Paused | Status::Failed(Failure::Parked | Failure::StartError))
}

/// Whether an event may tell of a move by that cause, besides where it leads.
fn tells_of(event: &Event, cause: Cause) -> bool {
    match event.event_type.as_str() {
        "WORKSPACE_UNDELETED" => cause == Cause::Undelete,
        "WORKSPACE_PAUSED" => cause == Cause::Pause,
        _ => true,
    }
}

/// Promise 2, no holder of a live container loses its token to a sweep: what a sweep revokes is not the
/// token of the incarnation whose container runs.
fn no_holder_loses_its_token(house: &House, rows: &[Workspace], event: &Event) -> Result<(), Broken> {
    if event.event_type != "TOKENS_REVOKED" {
        return Ok(());
    }
    let row = rows.iter().find(|row| Some(row.id) == event.workspace_id).ok_or("revoked of nobody")?;
    let current = event.payload["incarnations"].as_array().into_iter().flatten();
    let current = current.filter_map(serde_json::Value::as_u64).any(|n| n == u64::from(row.incarnation.0));
    if current && running_container_of_row(house, row).is_some() {
        return Err(format!(
            "the token of {}, incarnation {}, was revoked while it runs",
            row.name, row.incarnation
        ));
    }
    Ok(())
}

/// Promise 4, it stops and asks when healing would hit too much at once: within an hour, sweeps hit no
/// more workspaces than the breaker's limit, what a person approved aside.
fn the_breaker_held(house: &House, event: &Event) -> Result<(), Broken> {
    let counted = ["TOKENS_REVOKED", "CONTAINER_STOPPED", "CONTAINER_REAPED", "TRASH_DELETED"];
    if !counted.contains(&event.event_type.as_str()) {
        return Ok(());
    }
    let hour_ago = event.created_at - std::time::Duration::from_hours(1);
    let hit = at_once(house.eye.swept_since(hour_ago)).expect("the store answers").len();
    // Rows not removed plus unknown ones, from above: every workspace anybody ever heard of.
    let mut known: BTreeSet<_> = house.rows().into_iter().map(|row| row.id.to_string()).collect();
    known.extend(
        house.world.state().containers.values().filter_map(|c| c.spec.labels.get(LABEL_WORKSPACE).cloned()),
    );
    let limit = breaker::limit(known.len());
    if hit > limit {
        return Err(format!(
            "{hit} workspaces were hit within an hour, the limit is {limit} of {}",
            known.len()
        ));
    }
    Ok(())
}

/// What must be so once nothing goes wrong any more and the sweeps have nothing left to do.
pub(crate) fn at_rest(house: &House) -> Result<(), Broken> {
    let trash = at_once(house.eye.trash()).expect("the store answers");
    if let Some(entry) = trash.iter().find(|entry| entry.state != TrashState::Kept) {
        return Err(format!(
            "a trash entry of {} is {} for ever",
            entry.workspace_name,
            entry.state.as_str()
        ));
    }
    let state = house.world.state();
    for row in house.rows() {
        at_most_one_live_token(house, &row)?;
        what_runs_is_what_the_row_says(house, &state, &row)?;
        every_container_is_the_rows_or_in_the_trash(&state, &row, &trash)?;
        if row.status == Status::Removed {
            what_a_removed_row_owned_lies_in_the_trash(&state, &row, &trash)?;
        }
    }
    Ok(())
}

/// Promise 4, it heals by itself, and promise 2 at rest: one running container for what should run, and
/// process, file and store agree on its token; none for what should not.
fn what_runs_is_what_the_row_says(house: &House, state: &State, row: &Workspace) -> Result<(), Broken> {
    let running: Vec<_> =
        containers_of(state, row.id).into_iter().filter(|(_, container)| container.state.may_run()).collect();
    let what = format!("{} is {} with {} running containers", row.name, row.status, running.len());
    match row.status {
        // Where its agent runs nobody here knows.
        Status::Online | Status::Degraded | Status::AwaitingAgent if row.kind == Kind::External => Ok(()),
        Status::Online => {
            let [(id, container)] = running.as_slice() else { return Err(what) };
            if row.container.as_ref() != Some(*id) {
                return Err(format!("{what}, which is not the row's"));
            }
            let file = state.token_file(container);
            let shown = |token: Option<&[u8]>| describe_token(token);
            if file != container.held_token || !is_live(house, row, file.as_deref()) {
                return Err(format!(
                    "{what}: its file holds {}, its process {}, and the live token is another",
                    shown(file.as_deref()),
                    shown(container.held_token.as_deref())
                ));
            }
            Ok(())
        }
        // One that was not heard in time is rescued by the first beat: what still runs was heard by now.
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
        | Status::AwaitingAgent => Err(format!("{what}: nothing here stays so")),
    }
}

/// No strays: a container of a workspace is the one its row names, or lies in the trash.
fn every_container_is_the_rows_or_in_the_trash(
    state: &State,
    row: &Workspace,
    trash: &[TrashEntry],
) -> Result<(), Broken> {
    for (id, container) in containers_of(state, row.id) {
        let is_rows = row.status != Status::Removed && row.container.as_ref() == Some(id);
        let in_trash = trash.iter().any(|entry| entry.things.container.as_ref().is_some_and(|c| c.id == *id));
        if is_rows == in_trash {
            let where_ = if is_rows { "the row's and in the trash" } else { "nobody's" };
            return Err(format!("container {} of {} ({}) is {where_}", container.name, row.name, row.status));
        }
    }
    Ok(())
}

/// Promise 1: what a removed workspace owned can be brought back.
fn what_a_removed_row_owned_lies_in_the_trash(
    state: &State,
    row: &Workspace,
    trash: &[TrashEntry],
) -> Result<(), Broken> {
    let kept: BTreeSet<_> = trash
        .iter()
        .filter(|entry| entry.workspace == row.id && entry.reason == TrashReason::Removed)
        .flat_map(|entry| entry.things.volumes.iter())
        .collect();
    let loose = state.volumes.keys().find(|name| name.contains(&row.id.to_string()) && !kept.contains(name));
    match loose {
        Some(volume) => Err(format!("{} is removed, and its volume {volume} is not in the trash", row.name)),
        None => Ok(()),
    }
}

/// The start's transaction issues one and revokes the others.
fn at_most_one_live_token(house: &House, row: &Workspace) -> Result<(), Broken> {
    let live = at_once(house.eye.live_tokens(row.id, house.sim.now())).expect("the store answers");
    let live = live.iter().filter(|token| token.kind == TokenKind::Instance).count();
    if live > 1 { Err(format!("{} has {live} live instance tokens", row.name)) } else { Ok(()) }
}

/// The status an event tells of.
fn status_told(event: &Event) -> Option<Status> {
    let failed =
        if event.payload["source"] == "start" { Failure::StartError } else { Failure::ProvisionTimeout };
    Some(match event.event_type.as_str() {
        "WORKSPACE_PROVISIONING" => Status::Provisioning,
        "WORKSPACE_ONLINE" => Status::Online,
        "WORKSPACE_AWAITING_AGENT" => Status::AwaitingAgent,
        "WORKSPACE_OFFLINE" => Status::Offline,
        "WORKSPACE_DEGRADED" => Status::Degraded,
        "WORKSPACE_PROVISION_FAILED" => Status::Failed(failed),
        "WORKSPACE_PARKED" => Status::Failed(Failure::Parked),
        "WORKSPACE_PAUSED" | "WORKSPACE_UNDELETED" => Status::Paused,
        "WORKSPACE_HIBERNATING" => Status::Hibernating,
        "WORKSPACE_HIBERNATED" => Status::Hibernated,
        "WORKSPACE_REMOVED" => Status::Removed,
        "WORKSPACE_ADOPTED" => Status::parse(event.payload["status"].as_str()?, None)?,
        _ => return None,
    })
}

/// A workspace's containers, whatever they are called, other than a person's copy.
fn containers_of(state: &State, id: WorkspaceId) -> Vec<(&ContainerId, &FakeContainer)> {
    let of = |container: &FakeContainer| container.spec.labels.get(LABEL_WORKSPACE) == Some(&id.to_string());
    state.containers.iter().filter(|(_, container)| of(container)).collect()
}

fn running_container_of_row(house: &House, row: &Workspace) -> Option<FakeContainer> {
    let id = row.container.as_ref()?;
    house.world.state().containers.get(id).filter(|container| container.state.may_run()).cloned()
}

fn parse(token: Option<&[u8]>) -> Option<Token> {
    Token::parse(std::str::from_utf8(token?).ok()?)
}

/// Whether a token is valid and speaks for this workspace, compared by digest as everywhere.
pub(crate) fn is_live(house: &House, row: &Workspace, token: Option<&[u8]>) -> bool {
    let Some(token) = parse(token) else { return false };
    let Some(Bearer::Workspace(holder)) = house.eye.bearer(&token.digest(), house.sim.now()) else {
        return false;
    };
    let live = at_once(house.eye.live_tokens(row.id, house.sim.now())).expect("the store answers");
    holder.workspace == row.id
        && live.iter().any(|token| token.id == holder.token && token.incarnation == Some(row.incarnation))
}

fn describe_token(token: Option<&[u8]>) -> String {
    match (token, parse(token)) {
        (None, _) => "no token".into(),
        (Some(_), None) => "something that is no token".into(),
        (Some(_), Some(token)) => format!("token {}…", token.prefix()),
    }
}

/// The containers that are not ours by label, or not by name.
fn foreign(house: &House) -> BTreeMap<ContainerId, (String, ContainerState, u32)> {
    let state = house.world.state();
    let foreign = state.containers.iter().filter(|(_, container)| {
        !container.name.starts_with("ostler-")
            || container.spec.labels.get(LABEL_INSTANCE) != Some(&super::house::INSTANCE.to_string())
    });
    foreign.map(|(id, c)| (id.clone(), (c.name.clone(), c.state, c.starts))).collect()
}
