//! What must hold: after every step, whatever went wrong ([`Witness::check`]), and once everything that
//! goes wrong has stopped ([`at_rest`]). Each function names the promise it guards.

mod rest;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ostler::{
    domain::{
        breaker,
        event::Event,
        ids::{ContainerId, WorkspaceId},
        naming::{LABEL_INSTANCE, LABEL_WORKSPACE, VolumeKind, volume_name},
        observed::ContainerState,
        status::{Cause, Failure, MOVES, Status},
        time::Awake,
        token::Token,
        trash::{TrashEntry, TrashState},
        workspace::{Kind, Workspace},
    },
    engine::fake::{Call, FakeContainer, State},
    store::Bearer,
};

use super::house::{House, at_once};

pub(crate) use rest::at_rest;
pub(crate) use rules::{Broken, Coverage, Rule};

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
    /// Workspaces whose work volume a test took away.
    pub(crate) robbed: BTreeSet<WorkspaceId>,
    /// Whether a person approves what the breaker holds: then it limits nothing.
    pub(crate) approving: bool,
    /// Workspaces whose containers a person has started by hand.
    pub(crate) hands: BTreeSet<WorkspaceId>,
    /// Whether calls may arrive late: then anything may be started at any time.
    pub(crate) late_starts: bool,
    /// Since when ostler has listened without a break, in awake time: a start, or a jump of the clock.
    pub(crate) listening_since: Awake,
    /// Who was up when the host started again, and has not been restarted since.
    pub(crate) rebooted: BTreeSet<WorkspaceId>,
    /// Whether it is told what people say and when ostler listens, as a story does.
    pub(crate) is_told: bool,
    /// Passes that had begun before the clock last jumped: what they decided was decided before.
    pub(crate) across_jump: BTreeSet<&'static str>,
    /// What a person said may go for good.
    pub(crate) may_go: Vec<MayGo>,
    /// Whose removal was last seen to be for good, and at which look.
    purged: BTreeMap<WorkspaceId, usize>,
    /// Whom a person allowed an empty work volume in the place of one that is gone.
    pub(crate) new_volumes: BTreeSet<WorkspaceId>,
    /// Whom a person has put to rest, or the budget has parked, and when, by the count of looks.
    resting: BTreeMap<WorkspaceId, usize>,
    /// Who has left that rest and was not removed, since this was last asked for, and since when it rested: a person
    /// has to have said so.
    pub(crate) left_rest: Vec<(WorkspaceId, usize)>,
    /// What everybody was, and from which look on.
    pub(crate) been: BTreeMap<WorkspaceId, Vec<(usize, Status)>>,
    /// What anybody ever was.
    pub(crate) reached: BTreeSet<Status>,
    /// How often everything was looked at.
    pub(crate) looks: usize,
    /// How often each rule had something to be held against.
    pub(crate) coverage: Coverage,
    /// How far disk and engine had changed at the last look, and what the tables said then.
    seen: Option<(u64, u64)>,
    rows: Vec<Workspace>,
    trash: Vec<TrashEntry>,
    /// The trash before the last change.
    known_trash: Vec<TrashEntry>,
    /// Workspaces whose work volume may have been made while the socket led elsewhere.
    pub(crate) elsewhere: BTreeSet<WorkspaceId>,
}

/// A person said that what is in the trash may go for good.
#[derive(Clone)]
pub(crate) struct MayGo {
    /// The workspace that was named, where it was said of what is below it too.
    pub(crate) tree: Option<WorkspaceId>,
    /// Of whom it was said: all that were in the tree until that was answered, wherever they are now.
    pub(crate) whom: BTreeSet<WorkspaceId>,
    /// By which look it had been answered.
    pub(crate) answered: Option<usize>,
}

impl MayGo {
    /// Takes in who is in the tree now: the word may be carried out on them.
    pub(crate) fn note_tree(&mut self, rows: &[Workspace]) {
        let Some(root) = self.tree else { return };
        let above = |row: &Workspace| rows.iter().find(|above| Some(above.id) == row.parent);
        let is_in = |row: &&Workspace| {
            std::iter::successors(Some(*row), |row| above(row)).take(32).any(|row| row.id == root)
        };
        self.whom.extend(rows.iter().filter(is_in).map(|row| row.id));
    }
}

impl Witness {
    /// Begins to watch.
    pub(crate) fn of(house: &House) -> Self {
        Self { foreign: foreign(house), ..Self::default() }
    }

    /// Everything that must hold after every step. Where neither disk nor engine has changed since, it still does.
    pub(crate) fn check(&mut self, house: &House) -> Result<(), Broken> {
        self.looks += 1;
        let now = (house.disk.changes(), house.world.state().changes);
        let (disk, engine) = self.seen.map_or((true, true), |seen| (seen.0 != now.0, seen.1 != now.1));
        self.seen = Some(now);
        if engine {
            self.coverage.count(Rule::ForeignIsUntouched, self.foreign.len());
            self.foreign_containers_are_untouched(house)?;
        }
        if disk {
            self.the_tables_agree(house)?;
        }
        if disk || engine {
            let (rows, trash) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.trash));
            let held = self
                .no_volume_of_a_live_workspace_goes(house, &rows, &trash)
                .and_then(|()| self.who_is_online_holds_a_live_token(house, &rows));
            (self.rows, self.trash) = (rows, trash);
            held?;
        }
        Ok(())
    }

    /// Whether a workspace is removed, or was never there, by the last look.
    pub(crate) fn is_removed(&self, id: WorkspaceId) -> bool {
        self.told.get(&id).is_none_or(|status| *status == Status::Removed)
    }

    /// What must be so once nothing goes wrong any more, counted.
    pub(crate) fn at_rest(&mut self, house: &House) -> Result<(), Broken> {
        self.coverage.count(Rule::ItHeals, self.rows.len());
        self.coverage.count(Rule::TrashIsWhole, self.trash.len());
        rest::at_rest_but(house, &self.robbed)
    }

    /// What follows from the tables alone, after a change of them.
    fn the_tables_agree(&mut self, house: &House) -> Result<(), Broken> {
        self.coverage.count(Rule::MemoryIsTrue, 1);
        if !at_once(house.eye.memory_is_true()).expect("the store answers") {
            return Err(Rule::MemoryIsTrue.broken("what is kept in memory is not what the tables say"));
        }
        let events = at_once(house.eye.events_after(self.last_event, 10_000)).expect("the store answers");
        let before = std::mem::replace(&mut self.rows, house.rows());
        self.one_holder(house, &before)?;
        self.known_trash = std::mem::take(&mut self.trash);
        self.trash = at_once(house.eye.trash()).expect("the store answers");
        if self.is_told && self.rows.iter().any(|row| row.status == Status::Removed) {
            let purges = at_once(house.eye.purges_ordered()).expect("the store answers");
            self.purged.extend(purges.iter().map(|row| (row.id, self.looks)));
        }
        if events.is_empty() {
            return Ok(());
        }
        self.sequence_is_whole(&events)?;
        let rows = std::mem::take(&mut self.rows);
        let held = self.the_events_agree(house, &events, &rows);
        self.rows = rows;
        held
    }

    fn the_events_agree(
        &mut self,
        house: &House,
        events: &[Event],
        rows: &[Workspace],
    ) -> Result<(), Broken> {
        self.every_change_is_told_and_legal(events, rows)?;
        self.trees_come_back(rows)?;
        self.who_is_asleep_does_not_run(house, events, rows)?;
        for event in events {
            self.deaths_are_real(house, rows, event)?;
            self.deleted_is_gone(house, event)?;
            self.no_holder_loses_its_token(house, rows, event)?;
            self.nobody_is_blamed(house, event)?;
            self.reboots_are_free(event)?;
            if !self.approving {
                self.the_breaker_held(house, event)?;
            }
        }
        self.one_live_token(house, events, rows)
    }

    fn sequence_is_whole(&mut self, events: &[Event]) -> Result<(), Broken> {
        for event in events {
            self.coverage.count(Rule::SequenceIsWhole, 1);
            // The first look finds what the blank disk holds.
            if self.last_event > 0 && event.id != self.last_event + 1 {
                let (last, next) = (self.last_event, event.id);
                return Err(Rule::SequenceIsWhole.broken(format!("after event {last} comes {next}")));
            }
            self.last_event = event.id;
        }
        Ok(())
    }

    /// Promise 3, what you see is what is: the history of events is the history of statuses, and every
    /// move is one of [`MOVES`]. Among them: nothing but an undelete brings a removed workspace back.
    fn every_change_is_told_and_legal(&mut self, events: &[Event], rows: &[Workspace]) -> Result<(), Broken> {
        for event in events {
            let (Some(id), Some(to)) = (event.workspace_id, status_told(event)) else { continue };
            self.reached.insert(to);
            self.been.entry(id).or_default().push((self.looks, to));
            if let Some(from) = self.told.insert(id, to) {
                self.coverage.count(Rule::ChangesAreLegal, 1);
                let allowed = |(cause, target, sources): &(Cause, Status, &[Status])| {
                    *target == to && tells_of(event, *cause) && sources.contains(&from)
                };
                if !MOVES.iter().any(allowed) {
                    let how = format!("{id} moved from {from} to {to}, which nothing allows: {event:?}");
                    return Err(Rule::ChangesAreLegal.broken(how));
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
            self.coverage.count(Rule::ChangesAreTold, 1);
            if self.told.get(&row.id) != Some(&row.status) {
                let told = self.told.get(&row.id);
                let how = format!("{} is {}, and the events say {told:?}", row.name, row.status);
                return Err(Rule::ChangesAreTold.broken(how));
            }
        }
        Ok(())
    }

    /// Promise 1: what `rm --cascade` took along is not left to the trash's retention while its owner believes it back.
    fn trees_come_back(&mut self, rows: &[Workspace]) -> Result<(), Broken> {
        for row in rows {
            let Some(with) = row.removed_with else { continue };
            self.coverage.count(Rule::TreesComeBack, 1);
            if row.status != Status::Removed {
                let how = format!("{} is {} and says with whom it was removed", row.name, row.status);
                return Err(Rule::TreesComeBack.broken(how));
            }
            if let Some(back) = rows.iter().find(|other| other.id == with && other.status != Status::Removed)
            {
                let how = format!(
                    "{} was removed along with {}, which is back: {}",
                    row.name, back.name, back.status
                );
                return Err(Rule::TreesComeBack.broken(how));
            }
        }
        Ok(())
    }

    /// Whether a workspace had that status at some moment from that look on.
    pub(crate) fn was(&self, id: WorkspaceId, status: &str, since: usize) -> bool {
        let been = self.been.get(&id).map_or(&[][..], Vec::as_slice);
        let before = been.iter().rev().find(|(look, _)| *look < since);
        let from_then = been.iter().filter(|(look, _)| *look >= since);
        before.into_iter().chain(from_then).any(|(_, was)| was.as_str() == status)
    }

    /// Promise 3: when it is said that a workspace sleeps, none of its containers runs.
    fn who_is_asleep_does_not_run(
        &mut self,
        house: &House,
        events: &[Event],
        rows: &[Workspace],
    ) -> Result<(), Broken> {
        for event in events.iter().filter(|event| event.event_type == "WORKSPACE_HIBERNATED") {
            let row = rows.iter().find(|row| Some(row.id) == event.workspace_id);
            let Some(row) = row.filter(|row| !self.late_starts && !self.hands.contains(&row.id)) else {
                continue;
            };
            self.coverage.count(Rule::SleepersDoNotRun, 1);
            let state = house.world.state();
            if containers_of(&state, row.id).iter().any(|(_, container)| container.state.may_run()) {
                let how = format!("{} is said to sleep, and a container of it runs", row.name);
                return Err(Rule::SleepersDoNotRun.broken(how));
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
        let rule = Rule::LiveVolumesStay;
        let live = |name: &str| {
            rows.iter().find(|row| row.status != Status::Removed && name.contains(&row.id.to_string()))
        };
        let state = house.world.state();
        for call in &state.log[self.calls_seen..] {
            if call.method != "delete_volume" {
                continue;
            }
            if let Some(row) = live(&call.object) {
                let how = format!("{} of {} ({}) was deleted", call.object, row.name, row.status);
                return Err(rule.broken(how));
            }
            self.coverage.count(Rule::DeletionIsOrdered, 1);
            let of = rows.iter().find(|row| call.object.contains(&row.id.to_string()));
            if let Some(row) = of.filter(|row| self.is_told && !self.may_go(row.id) && !self.approving) {
                let how = format!("{} of {} was deleted, and nobody said so", call.object, row.name);
                return Err(Rule::DeletionIsOrdered.broken(how));
            }
        }
        self.calls_seen = state.log.len();
        for entry in trash.iter().filter(|entry| entry.state != TrashState::Restoring) {
            if let Some((volume, row)) =
                entry.things.volumes.iter().find_map(|name| live(name).map(|row| (name, row)))
            {
                let (state, status) = (entry.state.as_str(), row.status);
                return Err(
                    rule.broken(format!("{volume} of {} ({status}) is {state} in the trash", row.name))
                );
            }
        }
        let working = |row: &&Workspace| row.status != Status::Removed && row.has_work_volume;
        for row in rows.iter().filter(working) {
            self.coverage.count(rule, 1);
            let work = volume_name(row.id, VolumeKind::Work);
            if !state.volumes.contains_key(&work) && self.was_here(row.id) {
                return Err(rule.broken(format!("the work volume of {} ({}) is gone", row.name, row.status)));
            }
            if self.robbed.contains(&row.id) {
                self.coverage.count(Rule::LossIsNotHidden, 1);
                let is_there = state.volumes.contains_key(&work);
                if is_there && !self.new_volumes.contains(&row.id) {
                    return Err(
                        Rule::LossIsNotHidden.broken(format!("{work} was made anew for {}", row.name))
                    );
                }
                if is_there {
                    self.robbed.remove(&row.id);
                }
            }
        }
        Ok(())
    }

    /// Whether a person said of a workspace, or of one that was above it then, that it may go for good, and it was not
    /// undeleted after that had been answered, or carried out.
    fn may_go(&self, id: WorkspaceId) -> bool {
        let been = self.been.get(&id).map_or(&[][..], Vec::as_slice);
        let back = |pair: &&[(usize, Status)]| pair[0].1 == Status::Removed && pair[1].1 != Status::Removed;
        let undeleted = been.windows(2).filter(back).map(|pair| pair[1].0).max();
        let purged = self.purged.get(&id).copied();
        let holds = |said: &MayGo| {
            // What has not been answered may have been carried out before or after an undelete: the row tells.
            let until = said.answered.or(purged.filter(|_| said.tree.is_some()));
            until.is_none_or(|until| undeleted.is_none_or(|undeleted| undeleted <= until))
        };
        self.may_go.iter().any(|said| said.whom.contains(&id) && holds(said))
    }

    /// The rows as they were at the last look.
    pub(crate) fn rows(&self) -> &[Workspace] {
        &self.rows
    }

    /// Whether a work volume was made in this engine and not taken away by a hand. One that was made while the socket
    /// led elsewhere is there.
    fn was_here(&self, id: WorkspaceId) -> bool {
        !self.robbed.contains(&id) && !self.elsewhere.contains(&id)
    }

    /// Lessons: neighbours' containers were reaped. What is not ours stays as it was found.
    fn foreign_containers_are_untouched(&self, house: &House) -> Result<(), Broken> {
        let now = foreign(house);
        if now == self.foreign {
            Ok(())
        } else {
            let before = &self.foreign;
            Err(Rule::ForeignIsUntouched.broken(format!("they were {before:?} and are {now:?}")))
        }
    }

    /// Promise 2, from the holder's side: while a row says online, the process in its container holds a
    /// token that is valid for it.
    fn who_is_online_holds_a_live_token(&mut self, house: &House, rows: &[Workspace]) -> Result<(), Broken> {
        let rule = Rule::OnlineHoldsToken;
        for row in rows.iter().filter(|row| row.status == Status::Online) {
            let Some(container) = running_container_of_row(house, row) else { continue };
            if self.wiped.contains(&row.id) {
                continue;
            }
            self.coverage.count(rule, 1);
            if !is_live(house, row, container.held_token.as_deref()) {
                return Err(rule.broken(format!(
                    "{} is online in incarnation {}, and its process holds no live token: {}",
                    row.name,
                    row.incarnation,
                    describe_token(container.held_token.as_deref())
                )));
            }
        }
        Ok(())
    }

    /// Promise 2, no holder of a live container loses its token to a sweep: what a sweep revokes is not the
    /// token of the incarnation whose container is there.
    fn no_holder_loses_its_token(
        &mut self,
        house: &House,
        rows: &[Workspace],
        event: &Event,
    ) -> Result<(), Broken> {
        if event.event_type != "TOKENS_REVOKED" {
            return Ok(());
        }
        let rule = Rule::HoldersKeepTokens;
        self.coverage.count(rule, 1);
        let row = rows.iter().find(|row| Some(row.id) == event.workspace_id);
        let row = row.ok_or_else(|| rule.broken("tokens of nobody were revoked"))?;
        if row.kind == Kind::External {
            return Err(rule.broken(format!("{} is external, and its tokens were revoked", row.name)));
        }
        let current = event.payload["incarnations"].as_array().into_iter().flatten();
        let current =
            current.filter_map(serde_json::Value::as_u64).any(|n| n == u64::from(row.incarnation.0));
        let state = house.world.state();
        if current && row.container.as_ref().is_some_and(|id| state.containers.contains_key(id)) {
            return Err(rule.broken(format!(
                "the token of {}, incarnation {}, was revoked while its container is there",
                row.name, row.incarnation
            )));
        }
        Ok(())
    }

    /// Lessons: healthy containers were restarted because an engine's error was read as "not running".
    fn deaths_are_real(&mut self, house: &House, rows: &[Workspace], event: &Event) -> Result<(), Broken> {
        if event.event_type != "WORKSPACE_OFFLINE" {
            return Ok(());
        }
        let row = rows.iter().find(|row| Some(row.id) == event.workspace_id);
        let Some(row) = row.filter(|row| row.status == Status::Offline) else { return Ok(()) };
        self.coverage.count(Rule::DeathsAreReal, 1);
        let state = house.world.state();
        let Some((id, container)) = row.container.as_ref().and_then(|id| state.containers.get_key_value(id))
        else {
            return Ok(());
        };
        if container.state.may_run() && was_seen(&state, id, container) {
            let how = format!("{} is called offline, and its container runs: {}", row.name, event.payload);
            return Err(Rule::DeathsAreReal.broken(how));
        }
        Ok(())
    }

    fn deleted_is_gone(&mut self, house: &House, event: &Event) -> Result<(), Broken> {
        if event.event_type != "TRASH_DELETED" || event.payload["phase"] != "deleted" {
            return Ok(());
        }
        let entry = self.known_trash.iter().find(|entry| event.payload["trash_id"] == entry.id.to_string());
        let Some(entry) = entry else { return Ok(()) };
        self.coverage.count(Rule::DeletedIsGone, 1);
        let state = house.world.state();
        let container = entry.things.container.iter().filter(|lies| state.containers.contains_key(&lies.id));
        let volumes = entry.things.volumes.iter().filter(|name| state.volumes.contains_key(*name));
        let left: Vec<_> = container.map(|lies| lies.name.clone()).chain(volumes.cloned()).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(Rule::DeletedIsGone
            .broken(format!("entry {} was deleted for good, and {left:?} are there", entry.id)))
    }

    /// The moment in which a start issues its token is the one in which nobody may hold another: two would work on one
    /// volume. A hand at the engine, or a call that arrives late, may start anything at any time.
    fn one_holder(&mut self, house: &House, before: &[Workspace]) -> Result<(), Broken> {
        let began = |row: &&Workspace| {
            let known = before.iter().find(|known| known.id == row.id);
            row.status == Status::Provisioning
                && known.is_some_and(|known| known.incarnation != row.incarnation)
        };
        let state = house.world.state();
        for row in self.rows.iter().filter(began) {
            if self.late_starts || self.hands.contains(&row.id) || self.elsewhere.contains(&row.id) {
                continue;
            }
            self.coverage.count(Rule::OneHolder, 1);
            // What began to run since everything was last looked at may have begun after it; and a start that was given
            // up on may be carried out after the process was seen stopped.
            let runs_on = |id: &ContainerId, container: &FakeContainer| {
                container.state.may_run()
                    && container.started_after <= self.calls_seen
                    && was_seen(&state, id, container)
            };
            let of_row = containers_of(&state, row.id);
            if let Some((id, _)) = of_row.iter().find(|(id, container)| runs_on(id, container)) {
                let how = format!(
                    "incarnation {} of {} was given its token while {id} of an older one runs",
                    row.incarnation, row.name
                );
                return Err(Rule::OneHolder.broken(how));
            }
        }
        Ok(())
    }

    /// The start's transaction issues one and revokes the others; and what persons made is theirs to end.
    fn one_live_token(&mut self, house: &House, events: &[Event], rows: &[Workspace]) -> Result<(), Broken> {
        for row in rows.iter().filter(|row| events.iter().any(|event| event.workspace_id == Some(row.id))) {
            rest::at_most_one_live_token(house, row)?;
            self.coverage.count(Rule::OneLiveToken, 1);
        }
        Ok(())
    }

    /// Promise 4, it stops and asks when healing would hit too much at once: within an hour, sweeps hit no
    /// more workspaces than the breaker's limit, what a person approved aside.
    fn the_breaker_held(&mut self, house: &House, event: &Event) -> Result<(), Broken> {
        // What a person ordered is looked at by nobody, and neither is what a row forbids: under a clock that was set back,
        // more may have been hit within the hour before it than any sweep would have.
        let told = &event.payload;
        let is_counted = match event.event_type.as_str() {
            "TOKENS_REVOKED" | "WORKSPACE_RESTARTED_SILENT" => true,
            "CONTAINER_REAPED" => told["reason"] == "unknown" || told["reason"] == "stray",
            "TRASH_DELETED" => {
                told["phase"] == "claimed for deletion" && !self.was_ordered(&told["trash_id"])
            }
            _ => false,
        };
        if !is_counted {
            return Ok(());
        }
        self.coverage.count(Rule::BreakerHolds, 1);
        let hour_ago = event.created_at - Duration::from_hours(1);
        let hit = at_once(house.eye.swept_since(hour_ago)).expect("the store answers").len();
        // Rows not removed plus unknown ones, from above: every workspace anybody ever heard of.
        let mut known: BTreeSet<_> = house.rows().into_iter().map(|row| row.id.to_string()).collect();
        known.extend(
            house
                .world
                .state()
                .containers
                .values()
                .filter_map(|c| c.spec.labels.get(LABEL_WORKSPACE).cloned()),
        );
        let limit = breaker::limit(known.len());
        if hit > limit {
            let known = known.len();
            let how = format!("{hit} workspaces were hit within an hour, the limit is {limit} of {known}");
            return Err(Rule::BreakerHolds.broken(how));
        }
        Ok(())
    }

    /// Whether a person put into the trash what lies under that id.
    fn was_ordered(&self, entry: &serde_json::Value) -> bool {
        self.known_trash
            .iter()
            .any(|known| *entry == known.id.to_string() && known.reason.ordered_by_person())
    }

    /// Design, §5: what ended with the host is no failure.
    fn reboots_are_free(&mut self, event: &Event) -> Result<(), Broken> {
        let Some(id) = event.workspace_id.filter(|_| status_told(event).is_some()) else { return Ok(()) };
        // Whatever else happens to it first (a start by hand or by order) ends what the reboot has to do with it.
        if !self.rebooted.remove(&id) || event.event_type != "WORKSPACE_OFFLINE" || self.late_starts {
            return Ok(());
        }
        self.coverage.count(Rule::RebootsAreFree, 1);
        if event.payload["while_daemon_down"] != true {
            let how = format!("{id} ended with the host, and was charged for it: {}", event.payload);
            return Err(Rule::RebootsAreFree.broken(how));
        }
        Ok(())
    }

    /// Promise 4, and the design's word on time: silence, slowness and idleness are charged for no more time than
    /// ostler has listened without a break.
    fn nobody_is_blamed(&mut self, house: &House, event: &Event) -> Result<(), Broken> {
        let told = &event.payload;
        let (least, by) = match event.event_type.as_str() {
            "WORKSPACE_DEGRADED" | "WORKSPACE_AWAITING_AGENT" if told["reason"] == "silent" => {
                (SILENT_AFTER, "check_heartbeats")
            }
            "WORKSPACE_PROVISION_FAILED" if told["source"] != "start" => {
                (PROVISIONING_LIMIT, "time_out_provisioning")
            }
            "WORKSPACE_HIBERNATING" if told["ordered"] == false => (LEAST_IDLE, "hibernate_idle"),
            "CONTAINER_REAPED" if told["reason"] == "unknown" => (UNKNOWN_GRACE, "reap_unknown"),
            "TOKENS_REVOKED" => (ABSENCE_GRACE, "revoke_stale_tokens"),
            _ => return Ok(()),
        };
        if !self.is_told || self.across_jump.contains(by) {
            return Ok(());
        }
        self.coverage.count(Rule::NobodyIsBlamed, 1);
        let listened = house.sim.clock().awake().since(self.listening_since);
        if listened < least {
            let how = format!("{} after {listened:?} of listening: {told}", event.event_type);
            return Err(Rule::NobodyIsBlamed.broken(how));
        }
        Ok(())
    }
}

/// Whether a container was inspected since its process began, by somebody who was answered, or never was.
fn was_seen(state: &State, id: &ContainerId, container: &FakeContainer) -> bool {
    let looks = |(at, call): &(usize, &Call)| {
        call.method == "inspect_container" && call.object == id.as_str() && !state.unheard.contains(at)
    };
    let last = state.log.iter().enumerate().rev().find(looks);
    last.is_none_or(|(looked, _)| looked >= container.started_after)
}

/// The windows of the design, once more: of the agents here, and of the shortest idle time anybody is given.
const SILENT_AFTER: Duration = Duration::from_mins(3);
const PROVISIONING_LIMIT: Duration = Duration::from_mins(12);
const LEAST_IDLE: Duration = Duration::from_mins(10);
const UNKNOWN_GRACE: Duration = Duration::from_mins(10);
const ABSENCE_GRACE: Duration = Duration::from_mins(5);

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
    let instance = house.instance().to_string();
    let foreign = state.containers.iter().filter(|(_, container)| {
        !container.name.starts_with("ostler-") || container.spec.labels.get(LABEL_INSTANCE) != Some(&instance)
    });
    foreign.map(|(id, c)| (id.clone(), (c.name.clone(), c.state, c.starts))).collect()
}
