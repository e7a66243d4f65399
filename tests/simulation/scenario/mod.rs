//! Random scenarios, each from a seed: operator commands, agents' requests and messages, sweeps, crashes, an engine
//! and a disk with all kinds of faults, manual changes at the engine and the clock, in any order.
//!
//! The choices of a step depend only on the seed and the step's number. So a scenario can be run without some of its
//! steps while the others stay the same. [`ScenarioRun::shorten`] uses this to reduce a scenario that violates an
//! invariant.

mod behind_ports;
mod book;
mod bounds;
mod manual_actions;
mod orders;
mod races;
mod rest;
pub(crate) mod scenario_run;

use std::{
    collections::BTreeSet,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use ostler::{
    domain::{ids::WorkspaceId, status::Status, time::Awake, workspace::Workspace},
    store::TokenSubject,
    sweep::{Mode, Requirement, Run, Verdict},
};

use super::{
    executor::{EffectState, Owner, Seen, Sim, TaskOrder},
    faults::{self, Parameters},
    installation::{AGENTS, IMAGE, Installation, OPS, pass_named, prepared_world, request},
    invariants::{Broken, PurgeOrder, Rule, Witness},
};
use crate::support::fake_engine::{EventFault, Fault};
use behind_ports::agents;
use book::{Book, Shared, open};
use manual_actions::ManualAction;

/// Steps of a scenario.
pub(crate) const STEPS: usize = 200;

/// Longest allowed delay of a restart after its due time.
const RESTART_TOLERANCE: Duration = Duration::from_millis(250);

/// Number of the random stream that selects the scenario's parameters.
const PARAMETERS: u64 = 3;
/// Step `n` uses the random stream `FIRST_STEP + n`; the checks after the last step use `FIRST_STEP - 1`.
const FIRST_STEP: u64 = 1000;

const ABOUT_AGENTS: [&str; 5] =
    ["check_heartbeats", "time_out_provisioning", "hibernate_idle", "flag_wedged", "restart_due"];

/// Minimum number of complete listings between two incomplete ones. Grace periods last at least two listings; they
/// cannot protect against an engine that returns incomplete listings repeatedly.
const WHOLE_LISTINGS: usize = 40;

struct Scenario {
    site: Installation,
    neighbour: Option<Installation>,
    witness: Witness,
    book: Shared,
    parameters: Parameters,
    workspaces_named: u64,
    /// Clock jumps since the daemon last read the clock.
    unread: Option<UnreadJumps>,
}

/// Jumps that the daemon has not observed yet. If they cancel out before it reads the clock, they have no effect.
struct UnreadJumps {
    readings: u64,
    minutes: i64,
    /// The daemon's `listening_since` before the first of these jumps.
    listening_since: Awake,
}

impl Scenario {
    fn new(seed: u64, book: Shared) -> Self {
        let sim = Sim::new(seed, TaskOrder::Seeded);
        sim.reseed(seed, PARAMETERS);
        let parameters = sim.choose(Parameters::of);
        let world = prepared_world();
        let pipe_to = agents(sim.clone(), &world, &book);
        let site = Installation::with_agents(sim.clone(), Arc::clone(&world), parameters.driven, pipe_to);
        let neighbour = parameters.neighbour.then(|| {
            let neighbour = site.neighbour();
            let made = request("neighbour", IMAGE);
            neighbour.calmly(|ops| async move { ops.create(made).await }).expect("it is created");
            neighbour
        });
        // The neighbour starts before any fault, so that its containers exist when the witness begins.
        if neighbour.is_some() {
            sim.pass(Duration::from_secs(5));
        }
        let faulty = parameters.faults;
        let (choices, noted) = (sim.clone(), Arc::clone(&book));
        world.inject(move |call| {
            let mut book = open(&noted);
            let listing = call.method.starts_with("list_");
            book.whole_listings += usize::from(listing);
            let fault = choices.choose(|rng| {
                if listing && faulty > 0 && book.whole_listings > WHOLE_LISTINGS && rng.permille(100) {
                    return Fault::Partial(rng.below(2));
                }
                if rng.permille(faulty) { faults::of_call(rng, call) } else { Fault::None }
            });
            if let Fault::Partial(_) = fault {
                book.whole_listings = 0;
            }
            if let Some(name) = faults::name_of(&fault) {
                book.count(name);
                book.note(format!("fault: {name} ({} {})", call.method, short(&call.object)));
            }
            fault
        });
        let (choices, noted) = (sim.clone(), Arc::clone(&book));
        world.inject_into_events(move |_| {
            let fault = choices.choose(|rng| {
                if rng.permille(faulty * 2) { faults::of_event(rng) } else { EventFault::None }
            });
            if let Some(name) = faults::name_of_event(fault) {
                open(&noted).count(name);
            }
            fault
        });
        site.watch();
        let mut witness = Witness::of(&site);
        witness.late_starts = faulty > 0;
        witness.is_informed = true;
        witness.listening_since = sim.clock().awake();
        Self { site, neighbour, witness, book, parameters, workspaces_named: 0, unread: None }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        open(&self.book)
    }

    fn note(&self, what: impl Into<String>) {
        self.book().note(what);
    }

    fn count(&self, what: &'static str) {
        self.book().count(what);
    }

    fn run(&mut self, seed: u64, steps: &[u64]) -> Result<(), Broken> {
        for step in steps {
            self.site.sim.reseed(seed, FIRST_STEP + step);
            self.site.sim.run_ready();
            let quiet_permille = if self.parameters.deaths > 0 { 40 } else { 10 };
            if self.site.sim.choose(|rng| rng.permille(quiet_permille)) {
                self.quiet_period()?;
            }
            self.step();
            self.check()?;
        }
        self.site.sim.reseed(seed, FIRST_STEP - 1);
        self.stop_faults()?;
        self.witness.at_rest(&self.site)?;
        self.last_command_wins()?;
        self.growth_is_bounded()
    }

    fn check(&mut self) -> Result<(), Broken> {
        self.witness.check(&self.site)?;
        let left = std::mem::take(&mut self.witness.left_rest);
        let mut book = open(&self.book);
        book.checks = self.witness.checks;
        if let Some(broken) = book.broken.take() {
            return Err(broken);
        }
        for (id, since) in left {
            // A resume also resumes what was paused together with the workspace.
            let mut line = line_above(&self.site, id);
            line.push(id);
            self.witness.coverage.count(Rule::RestIsKept, 1);
            if !book.command_history.rest_was_ended(&line, since)
                && !self.witness.start_was_open(&line, since)
            {
                let name = self.site.row(id).name;
                return Err(Rule::RestIsKept
                    .broken(format!("{name} left its resting status without an operator command")));
            }
        }
        for (id, status, since) in std::mem::take(&mut book.reported_statuses) {
            self.witness.coverage.count(Rule::AnswersAreTrue, 1);
            if !self.witness.was(id, &status, since) {
                let how =
                    format!("{id} was reported {status}, but has not had that status since check {since}");
                return Err(Rule::AnswersAreTrue.broken(how));
            }
        }
        self.witness.new_volumes.clone_from(&book.new_volumes);
        let checks = book.checks;
        let is_open = |order: &&mut PurgeOrder| order.answered.is_none_or(|end| end >= checks);
        book.purge_orders.iter_mut().filter(is_open).for_each(|order| order.note_tree(self.witness.rows()));
        self.witness.purge_orders.clone_from(&book.purge_orders);
        let runs = std::mem::take(&mut book.destructive_runs);
        self.witness.coverage.count(Rule::RunsAreBounded, runs);
        let accepted = std::mem::take(&mut book.reports_accepted);
        self.witness.coverage.count(Rule::ReportsNeedAValidToken, accepted);
        if !self.witness.across_jump.is_empty() {
            let running = running(&self.site, &book);
            self.witness.across_jump.retain(|pass| running.contains(pass));
        }
        for (id, token) in &book.operator_tokens {
            self.witness.coverage.count(Rule::OperatorTokensStay, 1);
            let token_owner = self.site.reader.token_subject(&token.digest(), self.site.sim.now());
            let removed = self.witness.is_removed(*id);
            if !removed
                && !matches!(token_owner, Some(TokenSubject::Workspace(token_owner)) if token_owner.workspace == *id)
            {
                let how = format!(
                    "a token that an operator issued for {id} is no longer valid, and was not revoked"
                );
                return Err(Rule::OperatorTokensStay.broken(how));
            }
        }
        Ok(())
    }

    /// A while in which operations in progress end, no requests arrive, and the passes about agents run. In scenarios
    /// in which containers exit, one of them may exit repeatedly.
    fn quiet_period(&mut self) -> Result<(), Broken> {
        let deadly = self.parameters.deaths > 0;
        let times = if deadly && self.site.sim.choose(|rng| rng.permille(300)) { 7 } else { 1 };
        for _ in 0..times {
            self.until_nothing_is_due()?;
            if deadly {
                self.act_manually(Some(ManualAction::Kill));
                self.until_nothing_is_due()?;
            }
            let waits = if deadly { &[1, 1, 2, 2] } else { &[1, 2, 4, 14] };
            let minutes = self.site.sim.choose(|rng| rng.pick(waits));
            self.note(format!("{minutes} minutes pass in a quiet period"));
            let mut left = Duration::from_mins(minutes);
            // A daemon with a driver is checked often, because after a minute it has already corrected every delay.
            let slice = if self.parameters.driven { Duration::from_secs(7) } else { left };
            while !left.is_zero() {
                let time = slice.min(left);
                left -= time;
                self.site.sim.pass(time);
                self.check()?;
                self.restarts_are_on_time()?;
            }
            if self.site.sim.choose(|rng| rng.permille(300)) {
                self.approve_what_is_held();
            }
            if self.site.sim.choose(|rng| rng.permille(300)) {
                self.race()?;
            }
            if !self.parameters.driven {
                // Runs the passes about agents, or sometimes all passes, because many graces need two snapshots.
                let all = self.site.sim.choose(|rng| rng.permille(150));
                for pass in if all { all_passes() } else { ABOUT_AGENTS.to_vec() } {
                    self.begin_pass(pass);
                }
            }
        }
        Ok(())
    }

    /// Promise 4: a container that exited is restarted when its restart is due, not up to one period later. Only runs
    /// with a driver are checked, because only a driver can be late. Runs with full disks are not checked, because due
    /// restarts cannot be recorded on a full disk.
    fn restarts_are_on_time(&mut self) -> Result<(), Broken> {
        if !self.parameters.driven || self.parameters.full_disks > 0 {
            return Ok(());
        }
        let (now, busy) = (self.site.sim.now(), self.site.daemon.app.ops.busy());
        let waits = |id: &WorkspaceId| {
            busy.contains(id) || line_above(&self.site, *id).iter().any(|above| busy.contains(above))
        };
        for row in self.site.rows().into_iter().filter(|row| row.status == Status::Offline) {
            let Some(due) = row.restart_due_at.filter(|_| !waits(&row.id)) else { continue };
            self.witness.coverage.count(Rule::RestartsAreOnTime, 1);
            if now > due + RESTART_TOLERANCE {
                let how = format!("{} was due for a restart at {due}, and is offline at {now}", row.name);
                return Err(Rule::RestartsAreOnTime.broken(how));
            }
        }
        Ok(())
    }

    fn until_nothing_is_due(&mut self) -> Result<(), Broken> {
        // With a driver there is always another timer, so the loop would not end by itself.
        let most = if self.parameters.driven { 150 } else { 2000 };
        for _ in 0..most {
            self.site.sim.run_ready();
            if let Some(next) = self.site.sim.held().first().copied() {
                self.take(next);
                self.check()?;
            } else if !self.site.sim.fire_next_timer() {
                break;
            }
        }
        Ok(())
    }

    fn take(&self, next: Seen) {
        self.note(format!("{} of {}", next.label, side(next)));
        self.site.sim.take(next.id);
    }

    /// Takes one random step.
    fn step(&mut self) {
        let held = self.site.sim.held();
        let Parameters { crashes, deaths, full_disks, detours, .. } = self.parameters;
        let (crash, death, disk, detour) = self.site.sim.choose(|rng| {
            (rng.permille(crashes), rng.permille(deaths), rng.permille(full_disks), rng.permille(detours))
        });
        if crash {
            return self.crash();
        }
        if death {
            return self.act_manually(Some(ManualAction::Kill));
        }
        if disk {
            return self.fill_or_free_the_disk();
        }
        if detour {
            return self.lead_elsewhere_or_back();
        }
        match self.site.sim.choose(|rng| rng.below(100)) {
            0..64 if held.is_empty() => self.wait(&held),
            0..64 => {
                let next = self.next_of(&held);
                self.take(next);
            }
            64..72 if !self.parameters.silent_agents => self.send_report(),
            64..74 => self.send_a_message(),
            74..81 => self.wait(&held),
            81..88 => self.order(),
            88..91 => self.create(),
            91..92 => self.ask_or_change(),
            92..97 if self.parameters.driven => self.wait(&held),
            92..97 => self.sweep(),
            97..99 => self.act_manually(None),
            _ if self.site.sim.choose(|rng| rng.permille(300)) => {
                match self.site.sim.choose(|rng| rng.below(4)) {
                    0 => self.freeze(),
                    1 => self.reboot(),
                    _ => self.jump(),
                }
            }
            _ if self.site.sim.choose(|rng| rng.permille(300)) => {
                // Sometimes adds several at once, more than the breaker's limit.
                let many = self.site.sim.choose(|rng| rng.pick(&[1, 1, 1, 7]));
                for _ in 0..many {
                    let id = self.site.add_unknown();
                    self.count("an unknown container was added");
                    self.note(format!("an unknown container of {id} is added"));
                }
            }
            _ => self.wait(&held),
        }
    }

    /// Chooses one of the held effects, but only rarely one of the slow side.
    fn next_of(&self, held: &[Seen]) -> Seen {
        let slow = self.parameters.slow_side.filter(|_| self.site.sim.choose(|rng| rng.permille(900)));
        let quick: Vec<_> = held.iter().filter(|held| Some(held.side) != slow).copied().collect();
        self.site.sim.choose(|rng| rng.pick(if quick.is_empty() { held } else { &quick }))
    }

    /// Advances time, unless a store effect is held: the store answers within an instant.
    fn wait(&self, held: &[Seen]) {
        if held.iter().any(|held| held.state == EffectState::Store) {
            return;
        }
        if let Some(wait) = self.site.sim.next_timer() {
            self.note(format!("{} ms pass", wait.as_millis()));
            self.site.sim.fire_next_timer();
        } else {
            let minutes = self.site.sim.choose(|rng| rng.pick(&[1, 1, 1, 2, 4, 14]));
            self.note(format!("{minutes} minutes pass"));
            self.site.sim.idle(Duration::from_mins(minutes));
        }
    }

    fn any_workspace(&self) -> Option<WorkspaceId> {
        self.any_workspace_that(|_| true)
    }

    fn any_workspace_that(&self, is_meant: impl Fn(&Workspace) -> bool) -> Option<WorkspaceId> {
        let candidates: Vec<_> = self.site.rows().into_iter().filter(|row| is_meant(row)).collect();
        (!candidates.is_empty()).then(|| self.site.sim.choose(|rng| rng.pick(&candidates)).id)
    }

    /// Begins a pass, unless it is running already; the driver guarantees the same.
    fn sweep(&mut self) {
        let passes = all_passes();
        let restarts = self.parameters.deaths > 0 && self.site.sim.choose(|rng| rng.permille(400));
        let of_second = self.neighbour.is_some() && self.site.sim.choose(|rng| rng.permille(250));
        let pass = if restarts { "restart_due" } else { self.site.sim.choose(|rng| rng.pick(&passes)) };
        // If a container is gone, sometimes runs the token sweep, to race it against a start.
        let gone = self
            .site
            .rows()
            .into_iter()
            .any(|row| row.container.is_some() && self.site.container(row.id).is_none());
        let pass =
            if gone && self.site.sim.choose(|rng| rng.permille(300)) { "revoke_stale_tokens" } else { pass };
        if of_second { self.begin_pass_of_second(pass) } else { self.begin_pass(pass) }
    }

    fn begin_pass_of_second(&self, pass: &'static str) {
        let Some(neighbour) = &self.neighbour else { return };
        self.note(format!("in the second installation, {pass} begins"));
        let sweeper = Arc::clone(&neighbour.daemon.app.sweeper);
        self.site.sim.spawn(Owner::Neighbour, async move {
            if let Ok(snapshot) = sweeper.snapshot().await {
                sweeper.run(&*pass_named(pass), &snapshot, Mode::Apply).await;
            }
        });
    }

    fn begin_pass(&mut self, pass: &'static str) {
        if self.book().running_passes.contains(&pass) {
            return;
        }
        let mut book = self.book();
        book.running_passes.push(pass);
        book.count("passes");
        book.note(format!("{pass} begins"));
        let (sweeper, shared) = (Arc::clone(&self.site.daemon.app.sweeper), Arc::clone(&self.book));
        self.site.sim.spawn(Owner::Daemon, async move {
            let snapshot = match pass_named(pass).requires() {
                Requirement::Engine => sweeper.snapshot().await,
                Requirement::Store => Ok(sweeper.clock_snapshot()),
            };
            let mut run = None;
            let outcome = match snapshot {
                Ok(snapshot) => {
                    let done = sweeper.run(&*pass_named(pass), &snapshot, Mode::Apply).await;
                    let actions =
                        done.actions.iter().map(|done| (done.planned.action.describe(), &done.verdict));
                    let outcome = format!("{}: {:?}", done.outcome.as_str(), actions.collect::<Vec<_>>());
                    run = Some(done);
                    outcome
                }
                Err(untrusted) => untrusted.to_string(),
            };
            let mut book = open(&shared);
            book.running_passes.retain(|running| *running != pass);
            book.note(format!("{pass} ended: {outcome}"));
            let took = run.as_ref().map_or(0, destructive_actions);
            book.destructive_runs += usize::from(took > 0);
            if took > 5 {
                book.broke(
                    Rule::RunsAreBounded.broken(format!("{pass} took {took} destructive actions in one run")),
                );
            }
        });
    }
}

/// The names of all passes, in their order.
fn all_passes() -> Vec<&'static str> {
    ostler::sweep::all().iter().map(|pass| pass.name()).collect()
}

/// The passes that are running now, begun by the driver or by the test.
fn running(site: &Installation, book: &Book) -> BTreeSet<&'static str> {
    let driven = site.daemon.running_passes();
    driven.into_iter().chain(book.running_passes.iter().copied()).collect()
}

/// The ancestors of a workspace.
fn line_above(site: &Installation, id: WorkspaceId) -> Vec<WorkspaceId> {
    let rows = site.rows();
    let parent = |id| rows.iter().find(|row| row.id == id).and_then(|row| row.spec.parent);
    std::iter::successors(parent(id), |above| parent(*above)).take(32).collect()
}

/// Number of destructive actions that a run took or tried: at most five (design, §6).
fn destructive_actions(run: &Run) -> usize {
    let applied = run.actions.iter().filter(|one| {
        one.planned.action.is_destructive() && !matches!(one.verdict, Verdict::Planned | Verdict::Held)
    });
    applied.count()
}

/// An object's name without leading zeros.
fn short(object: &str) -> &str {
    let end = object.trim_start_matches('0');
    if end.is_empty() { object } else { end }
}

fn side(seen: Seen) -> &'static str {
    match (seen.state, seen.side) {
        (EffectState::Store, OPS) => "a command, in the store",
        (EffectState::Store, AGENTS) => "a request, in the store",
        (EffectState::Store, _) => "a sweep, in the store",
        (EffectState::Engine, OPS) => "a command, in the engine",
        (EffectState::Engine, _) => "a sweep, in the engine",
    }
}
