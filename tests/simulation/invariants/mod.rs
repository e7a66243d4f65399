//! The invariants: those that hold after every step, whatever failed ([`Witness::check`]), and those that hold once all
//! faults have stopped ([`at_rest`]). The comment of each function names the promise of the design that it checks.

mod operations;
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
    store::TokenSubject,
};

use super::installation::{Installation, now_or_panic};
use crate::support::fake_engine::{Call, FakeContainer, State};

pub(crate) use rest::at_rest;
pub(crate) use rules::{Broken, Coverage, Rule};

/// Observes an installation from its first step.
#[derive(Default)]
pub(crate) struct Witness {
    last_event: i64,
    calls_seen: usize,
    /// Each workspace's status according to the events alone.
    event_status: BTreeMap<WorkspaceId, Status>,
    foreign: BTreeMap<ContainerId, (String, ContainerState, u32)>,
    /// Workspaces whose config volume a test emptied: their agents have no token file until they are restarted.
    pub(crate) wiped: BTreeSet<WorkspaceId>,
    /// Workspaces whose work volume a test deleted.
    pub(crate) lost_work: BTreeSet<WorkspaceId>,
    /// Whether every plan that the breaker holds is approved. The breaker then limits nothing.
    pub(crate) approving: bool,
    /// Workspaces whose containers a user started directly at the engine.
    pub(crate) started_by_hand: BTreeSet<WorkspaceId>,
    /// Whether engine calls may arrive late. Containers may then start at any time.
    pub(crate) late_starts: bool,
    /// Awake time since which ostler has received heartbeats without interruption. A start or a clock jump resets it.
    pub(crate) listening_since: Awake,
    /// Workspaces that were up when the host rebooted and have not been restarted since.
    pub(crate) rebooted: BTreeSet<WorkspaceId>,
    /// Whether the test reports to the witness every operator action and when ostler receives heartbeats, as a scenario
    /// does. If not, the rules that depend on this are not checked.
    pub(crate) is_informed: bool,
    /// Passes that were running at the last clock jump: their decisions date from before it.
    pub(crate) across_jump: BTreeSet<&'static str>,
    /// Purges that an operator ordered.
    pub(crate) purge_orders: Vec<PurgeOrder>,
    /// Workspaces with a purge order, and the number of the check at which the order was last seen.
    purged: BTreeMap<WorkspaceId, usize>,
    /// Workspaces for which an operator allowed an empty work volume in place of a lost one.
    pub(crate) new_volumes: BTreeSet<WorkspaceId>,
    /// Workspaces that are paused, parked or cannot be started, and the number of the check at which that status began.
    resting: BTreeMap<WorkspaceId, usize>,
    /// Workspaces that left such a status, other than by removal or pause, and the check at which the status had begun.
    /// An operator must have ordered this change. The caller empties the list.
    pub(crate) left_rest: Vec<(WorkspaceId, usize)>,
    /// Status history of every workspace: each status, with the number of the check at which it began.
    pub(crate) status_history: BTreeMap<WorkspaceId, Vec<(usize, Status)>>,
    /// Every status that any workspace ever had.
    pub(crate) reached: BTreeSet<Status>,
    /// Number of checks so far.
    pub(crate) checks: usize,
    /// How often each rule had a case to check.
    pub(crate) coverage: Coverage,
    /// Change counters of disk and engine at the last check. The fields below hold the tables as of that check.
    seen: Option<(u64, u64)>,
    rows: Vec<Workspace>,
    trash: Vec<TrashEntry>,
    /// The trash before the last change.
    known_trash: Vec<TrashEntry>,
    /// Workspaces with an open start of an operator, once for each.
    open_starts: Vec<WorkspaceId>,
    /// The number of the last check at which a workspace had an open start of an operator.
    starts_seen: BTreeMap<WorkspaceId, usize>,
    /// Workspaces whose work volume may have been created while the socket pointed to another engine.
    pub(crate) elsewhere: BTreeSet<WorkspaceId>,
}

/// An operator's order to delete contents of the trash permanently.
#[derive(Clone)]
pub(crate) struct PurgeOrder {
    /// Root of the tree, if the order is for a whole tree.
    pub(crate) tree: Option<WorkspaceId>,
    /// Workspaces concerned: all that were in the tree at any time before the answer, wherever they are now.
    pub(crate) targets: BTreeSet<WorkspaceId>,
    /// Number of the first check after the answer to the order.
    pub(crate) answered: Option<usize>,
}

impl PurgeOrder {
    /// Adds all workspaces that are in the tree now to the targets, because the order may purge them.
    pub(crate) fn note_tree(&mut self, rows: &[Workspace]) {
        let Some(root) = self.tree else { return };
        let above = |row: &Workspace| rows.iter().find(|above| Some(above.id) == row.spec.parent);
        let is_in = |row: &&Workspace| {
            std::iter::successors(Some(*row), |row| above(row)).take(32).any(|row| row.id == root)
        };
        self.targets.extend(rows.iter().filter(is_in).map(|row| row.id));
    }
}

impl Witness {
    /// Starts observing an installation.
    pub(crate) fn of(site: &Installation) -> Self {
        Self { foreign: foreign(site), ..Self::default() }
    }

    /// Checks everything that must hold after every step. Rules whose inputs (disk, engine) did not change are
    /// skipped.
    pub(crate) fn check(&mut self, site: &Installation) -> Result<(), Broken> {
        self.checks += 1;
        let now = (site.disk.changes(), site.world.state().changes);
        let (disk, engine) = self.seen.map_or((true, true), |seen| (seen.0 != now.0, seen.1 != now.1));
        self.seen = Some(now);
        if engine {
            self.coverage.count(Rule::ForeignIsUntouched, self.foreign.len());
            self.foreign_containers_are_untouched(site)?;
        }
        if disk {
            self.the_tables_agree(site)?;
        }
        if disk || engine {
            let (rows, trash) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.trash));
            let held = self
                .no_volume_of_a_live_workspace_is_deleted(site, &rows, &trash)
                .and_then(|()| self.online_workspaces_hold_live_tokens(site, &rows));
            (self.rows, self.trash) = (rows, trash);
            held?;
        }
        Ok(())
    }

    /// Whether a workspace was removed, or did not exist, at the last check.
    pub(crate) fn is_removed(&self, id: WorkspaceId) -> bool {
        self.event_status.get(&id).is_none_or(|status| *status == Status::Removed)
    }

    /// Checks, and counts, what must hold once all faults have stopped.
    pub(crate) fn at_rest(&mut self, site: &Installation) -> Result<(), Broken> {
        self.coverage.count(Rule::ItHeals, self.rows.len());
        self.coverage.count(Rule::TrashIsWhole, self.trash.len());
        self.every_operation_has_ended(site)?;
        rest::at_rest_but(site, &self.lost_work)
    }

    /// Checks the rules that depend only on the tables. Called after a change of the tables.
    fn the_tables_agree(&mut self, site: &Installation) -> Result<(), Broken> {
        self.coverage.count(Rule::MemoryIsTrue, 1);
        if !now_or_panic(site.reader.memory_is_true()).expect("the store answers") {
            return Err(Rule::MemoryIsTrue.broken("the in-memory state differs from the tables"));
        }
        let events =
            now_or_panic(site.reader.events_after(self.last_event, 10_000)).expect("the store answers");
        let before = std::mem::replace(&mut self.rows, site.rows());
        self.one_token_owner(site, &before)?;
        self.known_trash = std::mem::take(&mut self.trash);
        self.trash = now_or_panic(site.reader.trash()).expect("the store answers");
        if self.is_informed && self.rows.iter().any(|row| row.status == Status::Removed) {
            let purges = now_or_panic(site.reader.purges_ordered()).expect("the store answers");
            self.purged.extend(purges.iter().map(|row| (row.id, self.checks)));
        }
        if events.is_empty() {
            return Ok(());
        }
        self.sequence_is_whole(&events)?;
        let rows = std::mem::take(&mut self.rows);
        let held = self.the_events_agree(site, &events, &rows);
        self.rows = rows;
        held
    }

    fn the_events_agree(
        &mut self,
        site: &Installation,
        events: &[Event],
        rows: &[Workspace],
    ) -> Result<(), Broken> {
        self.every_change_is_reported_and_legal(events, rows)?;
        self.trees_are_restored(rows)?;
        self.hibernated_workspaces_do_not_run(site, events, rows)?;
        self.operations_hold(site, events, rows)?;
        for event in events {
            self.deaths_are_real(site, rows, event)?;
            self.deleted_stays_deleted(site, event)?;
            self.no_owner_loses_its_token(site, rows, event)?;
            self.liveness_windows_hold(site, event)?;
            self.reboots_are_free(event)?;
            if !self.approving {
                self.the_breaker_held(site, event)?;
            }
        }
        self.one_live_token(site, events, rows)
    }

    fn sequence_is_whole(&mut self, events: &[Event]) -> Result<(), Broken> {
        for event in events {
            self.coverage.count(Rule::SequenceIsWhole, 1);
            // The first check is exempt: it finds the events of the blank disk.
            if self.last_event > 0 && event.id != self.last_event + 1 {
                let (last, next) = (self.last_event, event.id);
                return Err(Rule::SequenceIsWhole.broken(format!("event {last} is followed by {next}")));
            }
            self.last_event = event.id;
        }
        Ok(())
    }

    /// Promise 3, what you see is what is: the statuses in the tables are those of the events, and every transition is
    /// one of [`MOVES`]. Only an undelete ends `removed`.
    fn every_change_is_reported_and_legal(
        &mut self,
        events: &[Event],
        rows: &[Workspace],
    ) -> Result<(), Broken> {
        for event in events {
            let (Some(id), Some(to)) = (event.workspace_id, reported_status_of(event)) else { continue };
            self.reached.insert(to);
            self.status_history.entry(id).or_default().push((self.checks, to));
            if let Some(from) = self.event_status.insert(id, to) {
                self.coverage.count(Rule::ChangesAreLegal, 1);
                let allowed = |(cause, target, sources): &(Cause, Status, &[Status])| {
                    *target == to && reports(event, *cause) && sources.contains(&from)
                };
                if !MOVES.iter().any(allowed) {
                    let how = format!(
                        "{id} moved from {from} to {to}, which the transition table does not allow: {event:?}"
                    );
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
                self.resting.insert(id, self.checks);
            }
        }
        for row in rows {
            self.coverage.count(Rule::ChangesAreReported, 1);
            if self.event_status.get(&row.id) != Some(&row.status) {
                let event_status = self.event_status.get(&row.id);
                let how =
                    format!("{} is {}, and according to the events {event_status:?}", row.name, row.status);
                return Err(Rule::ChangesAreReported.broken(how));
            }
        }
        Ok(())
    }

    /// Promise 1: an undelete restores what `rm --cascade` removed together. No descendant stays removed, subject to
    /// the trash's retention, after its owner was undeleted.
    fn trees_are_restored(&mut self, rows: &[Workspace]) -> Result<(), Broken> {
        for row in rows {
            let Some(with) = row.removed_with else { continue };
            self.coverage.count(Rule::TreesAreRestored, 1);
            if row.status != Status::Removed {
                let how = format!(
                    "{} is {} and still names the workspace it was removed with",
                    row.name, row.status
                );
                return Err(Rule::TreesAreRestored.broken(how));
            }
            if let Some(back) = rows.iter().find(|other| other.id == with && other.status != Status::Removed)
            {
                let how = format!(
                    "{} was removed along with {}, which was undeleted and is {}",
                    row.name, back.name, back.status
                );
                return Err(Rule::TreesAreRestored.broken(how));
            }
        }
        Ok(())
    }

    /// Whether a workspace had that status at any time from that check on.
    pub(crate) fn was(&self, id: WorkspaceId, status: &str, since: usize) -> bool {
        let history = self.status_history.get(&id).map_or(&[][..], Vec::as_slice);
        let before = history.iter().rev().find(|(check, _)| *check < since);
        let from_then = history.iter().filter(|(check, _)| *check >= since);
        before.into_iter().chain(from_then).any(|(_, was)| was.as_str() == status)
    }

    /// Promise 3: when a workspace is reported hibernated, none of its containers runs.
    fn hibernated_workspaces_do_not_run(
        &mut self,
        site: &Installation,
        events: &[Event],
        rows: &[Workspace],
    ) -> Result<(), Broken> {
        for event in events.iter().filter(|event| event.event_type == "WORKSPACE_HIBERNATED") {
            let row = rows.iter().find(|row| Some(row.id) == event.workspace_id);
            let Some(row) = row.filter(|row| !self.late_starts && !self.started_by_hand.contains(&row.id))
            else {
                continue;
            };
            self.coverage.count(Rule::HibernatedDoesNotRun, 1);
            let state = site.world.state();
            if containers_of(&state, row.id).iter().any(|(_, container)| container.state.may_run()) {
                let how = format!("{} is reported hibernated, and a container of it runs", row.name);
                return Err(Rule::HibernatedDoesNotRun.broken(how));
            }
        }
        Ok(())
    }

    /// Promise 1, nothing is lost: nothing of a live workspace is deleted, and none of its volumes is in the trash,
    /// except while it is being restored.
    fn no_volume_of_a_live_workspace_is_deleted(
        &mut self,
        site: &Installation,
        rows: &[Workspace],
        trash: &[TrashEntry],
    ) -> Result<(), Broken> {
        let rule = Rule::LiveVolumesStay;
        let live = |name: &str| {
            rows.iter().find(|row| row.status != Status::Removed && name.contains(&row.id.to_string()))
        };
        let state = site.world.state();
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
            if let Some(row) =
                of.filter(|row| self.is_informed && !self.purge_orders(row.id) && !self.approving)
            {
                let how = format!("{} of {} was deleted without an order", call.object, row.name);
                return Err(Rule::DeletionIsOrdered.broken(how));
            }
        }
        self.calls_seen = state.log.len();
        for entry in trash.iter().filter(|entry| entry.state != TrashState::Restoring) {
            if let Some((volume, row)) =
                entry.contents.volumes.iter().find_map(|name| live(name).map(|row| (name, row)))
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
            if !state.volumes.contains_key(&work) && self.was_created_here(row.id) {
                return Err(rule.broken(format!("the work volume of {} ({}) is gone", row.name, row.status)));
            }
            if self.lost_work.contains(&row.id) {
                self.coverage.count(Rule::LossIsNotHidden, 1);
                let is_there = state.volumes.contains_key(&work);
                if is_there && !self.new_volumes.contains(&row.id) {
                    return Err(
                        Rule::LossIsNotHidden.broken(format!("{work} was created again for {}", row.name))
                    );
                }
                if is_there {
                    self.lost_work.remove(&row.id);
                }
            }
        }
        Ok(())
    }

    /// Whether a purge order of an operator applies to the workspace. An order targets one workspace, or every
    /// workspace that was in a tree before the order was answered. It no longer applies once the workspace is undeleted
    /// after the order was answered or carried out.
    fn purge_orders(&self, id: WorkspaceId) -> bool {
        let history = self.status_history.get(&id).map_or(&[][..], Vec::as_slice);
        let back = |pair: &&[(usize, Status)]| pair[0].1 == Status::Removed && pair[1].1 != Status::Removed;
        let undeleted = history.windows(2).filter(back).map(|pair| pair[1].0).max();
        let purged = self.purged.get(&id).copied();
        let holds = |order: &PurgeOrder| {
            // An unanswered order may have been carried out before or after an undelete; the row's purge order
            // decides.
            let until = order.answered.or(purged.filter(|_| order.tree.is_some()));
            until.is_none_or(|until| undeleted.is_none_or(|undeleted| undeleted <= until))
        };
        self.purge_orders.iter().any(|order| order.targets.contains(&id) && holds(order))
    }

    /// The rows at the last check.
    pub(crate) fn rows(&self) -> &[Workspace] {
        &self.rows
    }

    /// Whether the work volume was created in this engine and not deleted by a test. A volume created while the socket
    /// pointed to another engine is in that engine.
    fn was_created_here(&self, id: WorkspaceId) -> bool {
        !self.lost_work.contains(&id) && !self.elsewhere.contains(&id)
    }

    /// Lesson from the field: containers of other installations on the same engine were reaped. Foreign containers must
    /// stay as they were at the beginning.
    fn foreign_containers_are_untouched(&self, site: &Installation) -> Result<(), Broken> {
        let now = foreign(site);
        if now == self.foreign {
            Ok(())
        } else {
            let before = &self.foreign;
            Err(Rule::ForeignIsUntouched
                .broken(format!("foreign containers were {before:?} and are {now:?}")))
        }
    }

    /// Promise 2, from the token owner's side: while a row is online, the process in its container holds a token that
    /// is valid for it.
    fn online_workspaces_hold_live_tokens(
        &mut self,
        site: &Installation,
        rows: &[Workspace],
    ) -> Result<(), Broken> {
        let rule = Rule::OnlineHoldsToken;
        for row in rows.iter().filter(|row| row.status == Status::Online) {
            let Some(container) = running_container_of_row(site, row) else { continue };
            if self.wiped.contains(&row.id) {
                continue;
            }
            self.coverage.count(rule, 1);
            if !is_live(site, row, container.held_token.as_deref()) {
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

    /// Promise 2: a sweep never revokes the token of the current incarnation while its container exists.
    fn no_owner_loses_its_token(
        &mut self,
        site: &Installation,
        rows: &[Workspace],
        event: &Event,
    ) -> Result<(), Broken> {
        if event.event_type != "TOKENS_REVOKED" {
            return Ok(());
        }
        let rule = Rule::OwnersKeepTokens;
        self.coverage.count(rule, 1);
        let row = rows.iter().find(|row| Some(row.id) == event.workspace_id);
        let row = row.ok_or_else(|| rule.broken("tokens without a workspace were revoked"))?;
        if row.kind == Kind::External {
            return Err(rule.broken(format!("{} is external, and its tokens were revoked", row.name)));
        }
        let current = event.payload["incarnations"].as_array().into_iter().flatten();
        let current =
            current.filter_map(serde_json::Value::as_u64).any(|n| n == u64::from(row.incarnation.0));
        let state = site.world.state();
        if current && row.container.as_ref().is_some_and(|id| state.containers.contains_key(id)) {
            return Err(rule.broken(format!(
                "the token of {}, incarnation {}, was revoked while its container exists",
                row.name, row.incarnation
            )));
        }
        Ok(())
    }

    /// Lesson from the field: healthy containers were restarted because an engine error was read as "not running".
    fn deaths_are_real(
        &mut self,
        site: &Installation,
        rows: &[Workspace],
        event: &Event,
    ) -> Result<(), Broken> {
        if event.event_type != "WORKSPACE_OFFLINE" {
            return Ok(());
        }
        let row = rows.iter().find(|row| Some(row.id) == event.workspace_id);
        let Some(row) = row.filter(|row| row.status == Status::Offline) else { return Ok(()) };
        self.coverage.count(Rule::DeathsAreReal, 1);
        let state = site.world.state();
        let Some((id, container)) = row.container.as_ref().and_then(|id| state.containers.get_key_value(id))
        else {
            return Ok(());
        };
        if container.state.may_run() && was_seen(&state, id, container) {
            let how = format!("{} is reported offline, and its container runs: {}", row.name, event.payload);
            return Err(Rule::DeathsAreReal.broken(how));
        }
        Ok(())
    }

    fn deleted_stays_deleted(&mut self, site: &Installation, event: &Event) -> Result<(), Broken> {
        if event.event_type != "TRASH_DELETED" || event.payload["phase"] != "deleted" {
            return Ok(());
        }
        let entry = self.known_trash.iter().find(|entry| event.payload["trash_id"] == entry.id.to_string());
        let Some(entry) = entry else { return Ok(()) };
        self.coverage.count(Rule::DeletedStaysDeleted, 1);
        let state = site.world.state();
        let container =
            entry.contents.container.iter().filter(|trashed| state.containers.contains_key(&trashed.id));
        let volumes = entry.contents.volumes.iter().filter(|name| state.volumes.contains_key(*name));
        let left: Vec<_> = container.map(|trashed| trashed.name.clone()).chain(volumes.cloned()).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(Rule::DeletedStaysDeleted
            .broken(format!("entry {} was reported permanently deleted, and {left:?} still exist", entry.id)))
    }

    /// When a start issues its token, no process of an older incarnation may run: two would work on one volume.
    /// Containers that a user starts at the engine and calls that arrive late are exempt, because both may start a
    /// container at any time.
    fn one_token_owner(&mut self, site: &Installation, before: &[Workspace]) -> Result<(), Broken> {
        let began = |row: &&Workspace| {
            let known = before.iter().find(|known| known.id == row.id);
            row.status == Status::Provisioning
                && known.is_some_and(|known| known.incarnation != row.incarnation)
        };
        let state = site.world.state();
        for row in self.rows.iter().filter(began) {
            if self.late_starts || self.started_by_hand.contains(&row.id) || self.elsewhere.contains(&row.id)
            {
                continue;
            }
            self.coverage.count(Rule::OneTokenOwner, 1);
            // A container that began to run since the last check may have begun after the token was issued. An
            // abandoned start may be carried out after the process was seen stopped.
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
                return Err(Rule::OneTokenOwner.broken(how));
            }
        }
        Ok(())
    }

    /// The start's transaction issues one token and revokes the other instance tokens. It keeps tokens that operators
    /// issued.
    fn one_live_token(
        &mut self,
        site: &Installation,
        events: &[Event],
        rows: &[Workspace],
    ) -> Result<(), Broken> {
        for row in rows.iter().filter(|row| events.iter().any(|event| event.workspace_id == Some(row.id))) {
            rest::at_most_one_live_token(site, row)?;
            self.coverage.count(Rule::OneLiveToken, 1);
        }
        Ok(())
    }

    /// Promise 4: ostler stops and asks when healing would affect too much at once. Within an hour, sweeps affect no
    /// more workspaces than the breaker's limit, not counting approved plans.
    fn the_breaker_held(&mut self, site: &Installation, event: &Event) -> Result<(), Broken> {
        // The breaker limits neither operator commands nor stops of containers that must not run. After the clock was
        // set back, those may have affected more within the past hour than a sweep is allowed to.
        let payload = &event.payload;
        let is_counted = match event.event_type.as_str() {
            "TOKENS_REVOKED" | "WORKSPACE_RESTARTED_SILENT" => true,
            "CONTAINER_REAPED" => payload["reason"] == "unknown" || payload["reason"] == "stray",
            "TRASH_DELETED" => {
                payload["phase"] == "claimed for deletion" && !self.was_ordered(&payload["trash_id"])
            }
            _ => false,
        };
        if !is_counted {
            return Ok(());
        }
        self.coverage.count(Rule::BreakerHolds, 1);
        let hour_ago = event.created_at - Duration::from_hours(1);
        let affected = now_or_panic(site.reader.swept_since(hour_ago)).expect("the store answers").len();
        // The limit depends on the number of rows that are not removed plus unknown workspaces. Every workspace that
        // was ever known is an upper bound of that number.
        let mut known: BTreeSet<_> = site.rows().into_iter().map(|row| row.id.to_string()).collect();
        known.extend(
            site.world
                .state()
                .containers
                .values()
                .filter_map(|c| c.spec.labels.get(LABEL_WORKSPACE).cloned()),
        );
        let limit = breaker::limit(known.len());
        if affected > limit {
            let known = known.len();
            let how = format!(
                "sweeps affected {affected} workspaces within an hour; the limit is {limit} of {known}"
            );
            return Err(Rule::BreakerHolds.broken(how));
        }
        Ok(())
    }

    /// Whether an operator's action moved the trash entry with this id to the trash.
    fn was_ordered(&self, entry: &serde_json::Value) -> bool {
        self.known_trash
            .iter()
            .any(|known| *entry == known.id.to_string() && known.reason.ordered_by_operator())
    }

    /// Design, §5: an exit together with the host is not a failure.
    fn reboots_are_free(&mut self, event: &Event) -> Result<(), Broken> {
        let Some(id) = event.workspace_id.filter(|_| reported_status_of(event).is_some()) else {
            return Ok(());
        };
        // Any transition of the workspace ends its exemption, for example a start at the engine or by a command.
        if !self.rebooted.remove(&id) || event.event_type != "WORKSPACE_OFFLINE" || self.late_starts {
            return Ok(());
        }
        self.coverage.count(Rule::RebootsAreFree, 1);
        if event.payload["while_daemon_down"] != true {
            let how = format!("{id} exited with the host, and was charged for it: {}", event.payload);
            return Err(Rule::RebootsAreFree.broken(how));
        }
        Ok(())
    }

    /// Promise 4, and the design's rule on time: silence, slowness and idleness are measured only over time in which
    /// ostler received heartbeats without interruption.
    fn liveness_windows_hold(&mut self, site: &Installation, event: &Event) -> Result<(), Broken> {
        let payload = &event.payload;
        let (least, by) = match event.event_type.as_str() {
            "WORKSPACE_DEGRADED" | "WORKSPACE_AWAITING_AGENT" if payload["reason"] == "silent" => {
                (SILENT_AFTER, "check_heartbeats")
            }
            "WORKSPACE_PROVISION_FAILED" if payload["source"] != "start" => {
                (PROVISIONING_LIMIT, "time_out_provisioning")
            }
            "WORKSPACE_HIBERNATING" if payload["ordered"] == false => (LEAST_IDLE, "hibernate_idle"),
            "CONTAINER_REAPED" if payload["reason"] == "unknown" => (UNKNOWN_GRACE, "reap_unknown"),
            "TOKENS_REVOKED" => (ABSENCE_GRACE, "revoke_stale_tokens"),
            _ => return Ok(()),
        };
        if !self.is_informed || self.across_jump.contains(by) {
            return Ok(());
        }
        self.coverage.count(Rule::LivenessWindowsHold, 1);
        let listened = site.sim.clock().awake().since(self.listening_since);
        if listened < least {
            let how = format!("{} after {listened:?} of listening: {payload}", event.event_type);
            return Err(Rule::LivenessWindowsHold.broken(how));
        }
        Ok(())
    }
}

/// Whether ostler received the answer to an inspection of the container since its process began. Also true if the
/// container was never inspected.
fn was_seen(state: &State, id: &ContainerId, container: &FakeContainer) -> bool {
    let is_answered = |(at, call): &(usize, &Call)| {
        call.method == "inspect_container" && call.object == id.as_str() && !state.lost_exits.contains(at)
    };
    let last = state.log.iter().enumerate().rev().find(is_answered);
    last.is_none_or(|(inspected, _)| inspected >= container.started_after)
}

/// The design's limits, repeated here independently of the code: those of the `agent` runtime, and the shortest idle
/// time that any workspace is given.
const SILENT_AFTER: Duration = Duration::from_mins(3);
const PROVISIONING_LIMIT: Duration = Duration::from_mins(12);
const LEAST_IDLE: Duration = Duration::from_mins(10);
const UNKNOWN_GRACE: Duration = Duration::from_mins(10);
const ABSENCE_GRACE: Duration = Duration::from_mins(5);

/// Whether only an operator can end this status.
fn rests(status: Status) -> bool {
    matches!(status, Status::Paused | Status::Failed(Failure::Parked | Failure::StartError))
}

/// Whether an event can report a transition with that cause, apart from its target status.
fn reports(event: &Event, cause: Cause) -> bool {
    match event.event_type.as_str() {
        "WORKSPACE_UNDELETED" => cause == Cause::Undelete,
        "WORKSPACE_PAUSED" => cause == Cause::Pause,
        _ => true,
    }
}

/// The status that an event reports.
fn reported_status_of(event: &Event) -> Option<Status> {
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

/// All containers with a workspace's label, whatever their names.
fn containers_of(state: &State, id: WorkspaceId) -> Vec<(&ContainerId, &FakeContainer)> {
    let of = |container: &FakeContainer| container.spec.labels.get(LABEL_WORKSPACE) == Some(&id.to_string());
    state.containers.iter().filter(|(_, container)| of(container)).collect()
}

fn running_container_of_row(site: &Installation, row: &Workspace) -> Option<FakeContainer> {
    let id = row.container.as_ref()?;
    site.world.state().containers.get(id).filter(|container| container.state.may_run()).cloned()
}

fn parse(token: Option<&[u8]>) -> Option<Token> {
    Token::parse(std::str::from_utf8(token?).ok()?)
}

/// Whether a token is valid and belongs to this workspace's current incarnation. Compared by digest, as in the daemon.
pub(crate) fn is_live(site: &Installation, row: &Workspace, token: Option<&[u8]>) -> bool {
    let Some(token) = parse(token) else { return false };
    let Some(TokenSubject::Workspace(token_owner)) =
        site.reader.token_subject(&token.digest(), site.sim.now())
    else {
        return false;
    };
    let live = now_or_panic(site.reader.live_tokens(row.id, site.sim.now())).expect("the store answers");
    token_owner.workspace == row.id
        && live
            .iter()
            .any(|token| token.id == token_owner.token && token.incarnation == Some(row.incarnation))
}

fn describe_token(token: Option<&[u8]>) -> String {
    match (token, parse(token)) {
        (None, _) => "no token".into(),
        (Some(_), None) => "something that is not a token".into(),
        (Some(_), Some(token)) => format!("token {}…", token.prefix()),
    }
}

/// Containers without this instance's label or without a name of ours.
fn foreign(site: &Installation) -> BTreeMap<ContainerId, (String, ContainerState, u32)> {
    let state = site.world.state();
    let instance = site.instance().to_string();
    let foreign = state.containers.iter().filter(|(_, container)| {
        !container.name.starts_with("ostler-") || container.spec.labels.get(LABEL_INSTANCE) != Some(&instance)
    });
    foreign.map(|(id, c)| (id.clone(), (c.name.clone(), c.state, c.starts))).collect()
}
