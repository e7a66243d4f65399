//! Lives of an installation, each a seed: people's orders, agents' words and messages, sweeps, crashes, an engine and a
//! disk that fail in every way they can, hands at the engine and at the clock, in any order at all.
//!
//! Each step draws its choices from the seed and its own number. So a life may be played with some of its steps left
//! out, and the others stay what they were: that is how a life that breaks a promise is made short ([`Life::shorten`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ostler::{
    domain::{
        beat::WEDGED,
        ids::WorkspaceId,
        naming::{LABEL_WORKSPACE, VolumeKind, volume_name},
        runtime::AGENT,
        status::{Failure, Status},
        token::Token,
        workspace::Workspace,
    },
    engine::fake::{EventFault, FakeContainer, Fault, World},
    http::PipeTo,
    store::Bearer,
    sweep::{Mode, Run, Sight, Verdict},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{
    executor::{Owner, Place, Seen, Sim, TaskOrder},
    faults::{self, Temper},
    house::{
        AGENTS, House, IMAGE, OPS, REMOTE_IMAGE, SWEEPS, at_once, furnished_world, pass_named, request,
        token_of, well,
    },
    invariants::{Broken, Coverage, Rule, Witness},
    people::{HURRIED, WORDS, Word, Words},
};

/// Steps of a life.
pub(crate) const STEPS: usize = 200;

/// Streams of random numbers; each step has one of its own.
const TEMPER: u64 = 3;
const FIRST_STEP: u64 = 1000;

const ABOUT_AGENTS: [&str; 5] =
    ["check_heartbeats", "time_out_provisioning", "hibernate_idle", "flag_wedged", "restart_due"];

/// How many more listings have to be whole after one that was not: a grace is at least two listings long, and an engine
/// that shows less than there is again and again is not one that anybody could be protected from.
const WHOLE_LISTINGS: usize = 40;

/// What happened, shared with the tasks that make it happen.
#[derive(Default)]
struct Book {
    history: Vec<String>,
    words: Words,
    /// How often each thing was done to it.
    done: BTreeMap<&'static str, u64>,
    running_passes: Vec<&'static str>,
    looks: usize,
    /// Tokens that were once seen: of agents that ran, and of external ones.
    tokens: Vec<Token>,
    /// Tokens that a person made, and to whose workspace they belong.
    persons: Vec<(WorkspaceId, Token)>,
    /// What broke in a task.
    broken: Option<Broken>,
    /// Messages that were sent, by the word that names them: from whom, to whom.
    sent: BTreeMap<String, (Option<WorkspaceId>, WorkspaceId)>,
    /// Whom a person wanted to have in the place of lost work.
    new_volumes: BTreeSet<WorkspaceId>,
    /// Of whom a person said that what is in the trash may go for good, and by which look that had been answered.
    may_go: BTreeMap<WorkspaceId, Vec<Option<usize>>>,
    /// What was told of a status, and since when it was asked.
    told: Vec<(WorkspaceId, String, usize)>,
    arrived: u64,
    runs_that_took: usize,
    words_heard: usize,
    whole_listings: usize,
}

type Shared = Arc<Mutex<Book>>;

fn open(book: &Shared) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    fn note(&mut self, what: impl Into<String>) {
        self.history.push(what.into());
    }

    /// A person says that what is in the trash of this may go for good; answers which such word it is.
    fn let_go(&mut self, id: WorkspaceId) -> usize {
        let said = self.may_go.entry(id).or_default();
        said.push(None);
        said.len() - 1
    }

    /// That was answered: an undelete that comes later takes it back.
    fn has_gone(&mut self, id: WorkspaceId, which: usize) {
        let end = self.looks + 1;
        if let Some(said) = self.may_go.entry(id).or_default().get_mut(which) {
            *said = Some(end);
        }
    }

    fn broke(&mut self, how: Broken) {
        self.broken.get_or_insert(how);
    }
}

/// What somebody does at the engine who is not ostler.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hand {
    Kill,
    Remove,
    Start,
    WipeConfig,
    WipeConfigDirectory,
    TakeWork,
}

impl Hand {
    const ALL: [Self; 6] =
        [Self::Kill, Self::Remove, Self::Start, Self::WipeConfig, Self::WipeConfigDirectory, Self::TakeWork];
}

struct Story {
    house: House,
    neighbour: Option<House>,
    witness: Witness,
    book: Shared,
    temper: Temper,
    named: u64,
}

impl Story {
    fn new(seed: u64, book: Shared) -> Self {
        let sim = Sim::new(seed, TaskOrder::Seeded);
        sim.reseed(seed, TEMPER);
        let temper = sim.choose(Temper::of);
        let world = furnished_world();
        let pipe_to = agents(sim.clone(), &world, &book);
        let house = House::with_agents(sim.clone(), Arc::clone(&world), temper.driven, pipe_to);
        let neighbour = temper.neighbour.then(|| {
            let neighbour = house.neighbour();
            let made = request("next-door", IMAGE);
            neighbour.calmly(|ops| async move { ops.create(made).await }).expect("it is created");
            neighbour
        });
        // Before anything goes wrong, so that what is next door is there when the watch begins.
        if neighbour.is_some() {
            sim.pass(Duration::from_secs(5));
        }
        let faulty = temper.faults;
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
                book.note(format!("wrong: {name} ({} {})", call.method, short(&call.object)));
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
        house.watch();
        let mut witness = Witness::of(&house);
        witness.late_starts = faulty > 0;
        witness.is_told = true;
        witness.listening_since = sim.clock().awake();
        Self { house, neighbour, witness, book, temper, named: 0 }
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

    fn live(&mut self, seed: u64, steps: &[u64]) -> Result<(), Broken> {
        for step in steps {
            self.house.sim.reseed(seed, FIRST_STEP + step);
            self.house.sim.run_ready();
            let lulls = if self.temper.deaths > 0 { 40 } else { 10 };
            if self.house.sim.choose(|rng| rng.permille(lulls)) {
                self.lull()?;
            }
            self.step();
            self.check()?;
        }
        self.house.sim.reseed(seed, FIRST_STEP - 1);
        self.calm_down()?;
        self.witness.at_rest(&self.house)?;
        self.the_last_word_counts()
    }

    fn check(&mut self) -> Result<(), Broken> {
        self.witness.check(&self.house)?;
        let left = std::mem::take(&mut self.witness.left_rest);
        let mut book = open(&self.book);
        book.looks = self.witness.looks;
        if let Some(broken) = book.broken.take() {
            return Err(broken);
        }
        for (id, since) in left {
            // What is resumed takes along what was paused with it.
            let mut line = line_above(&self.house, id);
            line.push(id);
            self.witness.coverage.count(Rule::RestIsKept, 1);
            if !book.words.roused(&line, since) {
                let name = self.house.row(id).name;
                return Err(Rule::RestIsKept.broken(format!("{name} left its rest, and no person said so")));
            }
        }
        for (id, status, since) in std::mem::take(&mut book.told) {
            self.witness.coverage.count(Rule::AnswersAreTrue, 1);
            if !self.witness.was(id, &status, since) {
                let how = format!("{id} was said to be {status}, and was not since look {since}");
                return Err(Rule::AnswersAreTrue.broken(how));
            }
        }
        self.witness.new_volumes.clone_from(&book.new_volumes);
        self.witness.may_go.clone_from(&book.may_go);
        let runs = std::mem::take(&mut book.runs_that_took);
        self.witness.coverage.count(Rule::RunsAreBounded, runs);
        let heard = std::mem::take(&mut book.words_heard);
        self.witness.coverage.count(Rule::TokensSpeakTrue, heard);
        if !self.witness.across_jump.is_empty() {
            let running = running(&self.house, &book);
            self.witness.across_jump.retain(|pass| running.contains(pass));
        }
        for (id, token) in &book.persons {
            self.witness.coverage.count(Rule::PersonsTokensStay, 1);
            let holder = self.house.eye.bearer(&token.digest(), self.house.sim.now());
            let removed = self.witness.is_removed(*id);
            if !removed && !matches!(holder, Some(Bearer::Workspace(holder)) if holder.workspace == *id) {
                let how =
                    format!("a person made a token of {id}, nobody revoked it, and it is no longer valid");
                return Err(Rule::PersonsTokensStay.broken(how));
            }
        }
        Ok(())
    }

    /// What is under way comes to its end, nobody says anything for a while, and the passes about agents look. Where
    /// containers die, one may do so again and again.
    fn lull(&mut self) -> Result<(), Broken> {
        let deadly = self.temper.deaths > 0;
        let times = if deadly && self.house.sim.choose(|rng| rng.permille(300)) { 7 } else { 1 };
        for _ in 0..times {
            self.until_nothing_is_due()?;
            if deadly {
                self.lay_hands_on(Some(Hand::Kill));
                self.until_nothing_is_due()?;
            }
            let waits = if deadly { &[1, 1, 2, 2] } else { &[1, 2, 4, 14] };
            let minutes = self.house.sim.choose(|rng| rng.pick(waits));
            self.note(format!("{minutes} minutes pass in a lull"));
            self.house.sim.pass(Duration::from_mins(minutes));
            self.check()?;
            if self.house.sim.choose(|rng| rng.permille(300)) {
                self.approve_what_is_held();
            }
            if self.house.sim.choose(|rng| rng.permille(300)) {
                self.race()?;
            }
            if !self.temper.driven {
                // About agents only, or about everything, twice: many graces are two looks long.
                let all = self.house.sim.choose(|rng| rng.permille(150));
                for pass in if all { all_passes() } else { ABOUT_AGENTS.to_vec() } {
                    self.begin_pass(pass);
                }
            }
        }
        Ok(())
    }

    fn until_nothing_is_due(&mut self) -> Result<(), Broken> {
        // A driver is always due again.
        let most = if self.temper.driven { 150 } else { 2000 };
        for _ in 0..most {
            self.house.sim.run_ready();
            if let Some(next) = self.house.sim.held().first().copied() {
                self.take(next);
                self.check()?;
            } else if !self.house.sim.fire_next_timer() {
                break;
            }
        }
        Ok(())
    }

    fn take(&self, next: Seen) {
        self.note(format!("{} of {}", next.label, side(next)));
        self.house.sim.take(next.id);
    }

    /// One thing happens.
    fn step(&mut self) {
        let held = self.house.sim.held();
        let Temper { crashes, deaths, full_disks, detours, .. } = self.temper;
        let (crash, death, disk, detour) = self.house.sim.choose(|rng| {
            (rng.permille(crashes), rng.permille(deaths), rng.permille(full_disks), rng.permille(detours))
        });
        if crash {
            return self.crash();
        }
        if death {
            return self.lay_hands_on(Some(Hand::Kill));
        }
        if disk {
            return self.fill_or_free_the_disk();
        }
        if detour {
            return self.lead_elsewhere_or_back();
        }
        match self.house.sim.choose(|rng| rng.below(100)) {
            0..64 if held.is_empty() => self.wait(&held),
            0..64 => {
                let next = self.next_of(&held);
                self.take(next);
            }
            64..72 if !self.temper.mute => self.speak(),
            64..74 => self.send_a_message(),
            74..81 => self.wait(&held),
            81..88 => self.order(),
            88..91 => self.create(),
            91..92 => self.ask_or_change(),
            92..97 if self.temper.driven => self.wait(&held),
            92..97 => self.sweep(),
            97..99 => self.lay_hands_on(None),
            _ if self.house.sim.choose(|rng| rng.permille(300)) => self.jump(),
            _ if self.house.sim.choose(|rng| rng.permille(300)) => {
                // Now and then a crowd of them: more than the breaker lets pass.
                let many = self.house.sim.choose(|rng| rng.pick(&[1, 1, 1, 7]));
                for _ in 0..many {
                    let id = self.house.furnish_unknown();
                    self.count("something unknown turned up");
                    self.note(format!("something unknown, {id}, turns up"));
                }
            }
            _ => self.wait(&held),
        }
    }

    /// One of the effects that are held: of the slow side, now and then only.
    fn next_of(&self, held: &[Seen]) -> Seen {
        let slow = self.temper.slow_side.filter(|_| self.house.sim.choose(|rng| rng.permille(900)));
        let quick: Vec<_> = held.iter().filter(|held| Some(held.side) != slow).copied().collect();
        self.house.sim.choose(|rng| rng.pick(if quick.is_empty() { held } else { &quick }))
    }

    /// Time passes, unless the store owes an answer: it gives those within an instant.
    fn wait(&self, held: &[Seen]) {
        if held.iter().any(|held| held.place == Place::Store) {
            return;
        }
        if let Some(wait) = self.house.sim.next_timer() {
            self.note(format!("{} ms pass", wait.as_millis()));
            self.house.sim.fire_next_timer();
        } else {
            let minutes = self.house.sim.choose(|rng| rng.pick(&[1, 1, 1, 2, 4, 14]));
            self.note(format!("{minutes} minutes pass"));
            self.house.sim.idle(Duration::from_mins(minutes));
        }
    }

    fn any_workspace(&self) -> Option<WorkspaceId> {
        self.any_workspace_that(|_| true)
    }

    fn any_workspace_that(&self, is_meant: impl Fn(&Workspace) -> bool) -> Option<WorkspaceId> {
        let meant: Vec<_> = self.house.rows().into_iter().filter(|row| is_meant(row)).collect();
        (!meant.is_empty()).then(|| self.house.sim.choose(|rng| rng.pick(&meant)).id)
    }

    /// Somebody asks over the routes; what came of it is judged when it is there.
    fn ask(
        &self,
        what: String,
        (method, path, body): (&str, String, Option<Value>),
        token: Option<&str>,
        judge: impl FnOnce(&mut Book, u16, &Value) + Send + 'static,
    ) {
        let asking = match token {
            None => self.house.as_person(method, &path, body),
            Some(token) => self.house.ask(method, &path, token, body),
        };
        let shared = Arc::clone(&self.book);
        let mut book = self.book();
        book.count("requests over the routes");
        book.note(what.clone());
        self.house.sim.spawn(Owner::Daemon, async move {
            let (status, answer) = asking.await;
            let mut book = open(&shared);
            let text = answer.to_string();
            book.note(format!("{what}: {status} {}", text.chars().take(150).collect::<String>()));
            let said_why = answer["error"].is_string()
                || answer["status"] == "confirmation_required"
                || answer["deleted"] == true;
            if status >= 400 && !said_why {
                book.broke(
                    Rule::AnswersAreTrue
                        .broken(format!("{what} was refused without a word: {status} {answer}")),
                );
            }
            judge(&mut book, status, &answer);
        });
    }

    fn create(&mut self) {
        if self.house.rows().len() >= self.temper.workspaces {
            return;
        }
        self.named += 1;
        let name = format!("w{}", self.named);
        let parent = self.any_workspace();
        let body = self.house.sim.choose(|rng| {
            let image = match rng.below(100) {
                0..10 => REMOTE_IMAGE,
                10..15 => "no-such-image",
                _ => IMAGE,
            };
            let parent = parent.filter(|_| rng.permille(500));
            let mut body = json!({ "name": name });
            if let Some(parent) = parent {
                body["parent_id"] = json!(parent);
            }
            if rng.permille(150) {
                body["external"] = json!(true);
                return body;
            }
            body["image"] = json!(image);
            if rng.permille(600) {
                body["runtime"] = json!(AGENT);
            }
            if rng.permille(400) {
                body["hibernation_idle_minutes"] = json!(10);
            }
            body["restart_when_wedged"] = json!(rng.permille(500));
            body
        });
        self.ask(
            format!("create {body}"),
            ("POST", "/workspaces".into(), Some(body)),
            None,
            |book, _, answer| {
                let token = answer["connection"]["auth_token"].as_str().and_then(Token::parse);
                let id = answer["id"].as_str().and_then(|id| id.parse().ok());
                if let (Some(id), Some(token)) = (id, token) {
                    book.tokens.push(token.clone());
                    book.persons.push((id, token));
                }
            },
        );
    }

    fn order(&mut self) {
        let Some(id) = self.any_workspace() else { return };
        // Now and then somebody is in a hurry, and says the next thing before the last was answered.
        if self.house.sim.choose(|rng| rng.permille(60)) {
            for word in self.house.sim.choose(|rng| rng.pick(HURRIED)) {
                self.say(id, *word);
            }
            return;
        }
        let word = self.house.sim.choose(|rng| rng.pick(&WORDS));
        self.say(id, word);
    }

    /// One of the races that are feared most, brought about on purpose: chance alone rarely gets there.
    fn race(&mut self) -> Result<(), Broken> {
        match self.house.sim.choose(|rng| rng.below(3)) {
            0 if !self.temper.driven => self.sweep_tokens_while_it_starts(),
            1 if self.temper.detours > 0 => self.lead_elsewhere_while_it_is_deleted(),
            _ => self.start_by_hand_what_is_being_started(),
        }
    }

    /// A container has been gone for longer than the grace, in two listings, and its workspace is started anew while
    /// the sweep of tokens is somewhere between its look and its last statement.
    fn sweep_tokens_while_it_starts(&mut self) -> Result<(), Broken> {
        let has_container = |row: &Workspace| self.house.container(row.id).is_some();
        let Some(id) = self.any_workspace_that(has_container) else { return Ok(()) };
        self.house.remove_container(id);
        self.count("its container is removed by hand");
        self.note("a container is removed by hand, and long gone when its workspace is started anew");
        for _ in 0..2 {
            self.begin_pass("settle");
            self.until_nothing_is_due()?;
            self.house.sim.pass(Duration::from_mins(6));
            self.check()?;
        }
        self.begin_pass("revoke_stale_tokens");
        let far = self.house.sim.choose(|rng| rng.below(8));
        self.go_on_for(far, |seen| seen.side == SWEEPS)?;
        self.say(id, Word::Restart);
        for _ in 0..2 {
            self.go_on_for(100, |seen| seen.side != SWEEPS)?;
            if self.house.sim.next_timer().is_some_and(|next| next <= Duration::from_secs(2)) {
                self.house.sim.fire_next_timer();
            }
        }
        Ok(())
    }

    /// What is purged is deleted in steps, and between two of them the socket leads to another engine, where nobody has
    /// ever heard of it.
    fn lead_elsewhere_while_it_is_deleted(&mut self) -> Result<(), Broken> {
        let Some(id) = self.any_workspace() else { return Ok(()) };
        if self.house.world.is_elsewhere() {
            return Ok(());
        }
        self.say(id, Word::Purge);
        let far = self.house.sim.choose(|rng| rng.below(25));
        self.go_on_for(far, |seen| seen.side != SWEEPS)?;
        self.lead_elsewhere_or_back();
        let far = self.house.sim.choose(|rng| rng.below(15));
        self.go_on_for(far, |seen| seen.side != SWEEPS)?;
        self.lead_elsewhere_or_back();
        self.check()
    }

    /// A person runs `podman start` on what ostler is just about to start.
    fn start_by_hand_what_is_being_started(&mut self) -> Result<(), Broken> {
        let has_container = |row: &Workspace| self.house.container(row.id).is_some();
        let Some(id) = self.any_workspace_that(has_container) else { return Ok(()) };
        self.say(id, Word::Restart);
        let far = self.house.sim.choose(|rng| rng.below(16));
        self.go_on_for(far, |seen| seen.side != SWEEPS)?;
        self.lay_a_hand_on(id, Hand::Start);
        self.check()
    }

    /// Takes up to so many of the effects that are meant, and looks at everything after each.
    fn go_on_for(&mut self, most: usize, meant: impl Fn(&Seen) -> bool) -> Result<(), Broken> {
        for _ in 0..most {
            self.house.sim.run_ready();
            let held = self.house.sim.held();
            let Some(next) = held.iter().find(|seen| meant(seen)).copied() else { break };
            self.take(next);
            self.check()?;
        }
        Ok(())
    }

    fn say(&mut self, id: WorkspaceId, word: Word) {
        let looks = self.witness.looks;
        let number = self.book().words.begin(id, word, looks);
        self.count("orders of people");
        if word == Word::StartWithNewVolume {
            self.book().new_volumes.insert(id);
        }
        let gone = (word == Word::Purge).then(|| self.book().let_go(id));
        let what = format!("order {number}, {word:?} {}", self.house.row(id).name);
        self.ask(what, word.request(id), None, move |book, status, answer| {
            let granted = Word::is_granted_by(status, answer);
            let looks = book.looks;
            let said = book.words.answer(id, number, granted, looks);
            if let Some(which) = gone {
                book.has_gone(id, which);
            }
            if let (Some(status), Some(said)) = (answer["status"].as_str(), said)
                && status != "confirmation_required"
                && granted
            {
                book.told.push((id, status.to_owned(), said.begun));
            }
        });
    }

    /// A person looks, or changes what is no status.
    fn ask_or_change(&mut self) {
        let Some(id) = self.any_workspace() else { return };
        let trash = at_once(self.house.eye.trash()).expect("the store answers");
        let name = self.house.row(id).name;
        let (what, looks) = (self.house.sim.choose(|rng| rng.below(8)), self.witness.looks);
        let path = |more: &str| format!("/workspaces/{id}{more}");
        let nothing = |_: &mut Book, _: u16, _: &Value| {};
        match what {
            0 => {
                let told = move |book: &mut Book, status: u16, answer: &Value| {
                    if let (200, Some(status)) = (status, answer["status"].as_str()) {
                        book.told.push((id, status.to_owned(), looks));
                    }
                };
                self.ask(format!("what is {name}"), ("GET", path("?removed=true"), None), None, told);
            }
            1 => {
                let issued = move |book: &mut Book, _: u16, answer: &Value| {
                    if let Some(token) = answer["auth_token"].as_str().and_then(Token::parse) {
                        book.tokens.push(token.clone());
                        book.persons.push((id, token));
                    }
                };
                self.ask(
                    format!("a token of {name}"),
                    ("POST", path("/tokens"), Some(json!({}))),
                    None,
                    issued,
                );
            }
            2 => {
                let body = json!({ "hibernation_idle_minutes": 10, "role": "digger" });
                self.ask(format!("change {name}"), ("PATCH", path(""), Some(body)), None, nothing);
            }
            3 => {
                let body = json!({ "image": IMAGE, "tier": 3 });
                self.ask(
                    format!("change what {name} is made of"),
                    ("PATCH", path(""), Some(body)),
                    None,
                    nothing,
                );
            }
            4 => self.ask("list".into(), ("GET", "/workspaces".into(), None), None, nothing),
            5 if !trash.is_empty() => {
                let entry = self.house.sim.choose(|rng| rng.pick(&trash));
                let (of, entry) = (entry.workspace, entry.id);
                let number = self.book().words.begin(of, Word::Undelete, looks);
                let to = format!("/trash/{entry}/restore");
                self.ask(
                    format!("restore entry {entry}"),
                    ("POST", to, None),
                    None,
                    move |book, status, answer| {
                        let granted = status < 300 && answer["done"] == true;
                        let looks = book.looks;
                        book.words.answer(of, number, granted, looks);
                    },
                );
            }
            6 if !trash.is_empty() => {
                let entry = self.house.sim.choose(|rng| rng.pick(&trash));
                let of = entry.workspace;
                let which = self.book().let_go(of);
                let gone = move |book: &mut Book, _: u16, _: &Value| book.has_gone(of, which);
                let body = json!({ "entries": [entry.id] });
                let to = "/trash/empty".to_owned();
                self.ask(format!("empty entry {}", entry.id), ("POST", to, Some(body)), None, gone);
            }
            7 => self.approve_what_is_held(),
            _ => self.ask("the trash".into(), ("GET", "/trash".into(), None), None, nothing),
        }
    }

    /// A person approves one of the plans that wait for that.
    fn approve_what_is_held(&mut self) {
        let held = |pass| at_once(self.house.eye.held_plan(pass)).expect("the store answers");
        let held: Vec<_> = all_passes().into_iter().filter_map(|pass| Some((pass, held(pass)?.id))).collect();
        if held.is_empty() {
            return;
        }
        // From here on the breaker's limit is the person's.
        self.witness.approving = true;
        let (pass, plan) = self.house.sim.choose(|rng| rng.pick(&held));
        let request = ("POST", format!("/sweeps/{pass}/approve"), Some(json!({ "plan_id": plan })));
        self.ask(format!("approve what {pass} holds"), request, None, |_, _, _| {});
    }

    /// The token of a process that runs, or one that somebody once held.
    fn some_token(&self) -> Option<Token> {
        let (runs, old) = self.house.sim.choose(|rng| (rng.permille(850), rng.next()));
        let running = self.any_workspace().filter(|_| runs).and_then(|id| self.house.container(id));
        let running = running.filter(|container| container.state.may_run());
        let mut book = self.book();
        match running.and_then(|container| token_of(container.held_token.as_deref())) {
            Some(token) => {
                if !book.tokens.iter().any(|known| known.digest() == token.digest()) {
                    book.tokens.push(token.clone());
                }
                Some(token)
            }
            None if book.tokens.is_empty() => None,
            None => {
                let index = usize::try_from(old % book.tokens.len() as u64).expect("it is below a length");
                Some(book.tokens[index].clone())
            }
        }
    }

    /// An agent says something: with the token it holds, or one that somebody once held.
    fn speak(&mut self) {
        let Some(token) = self.some_token() else { return };
        let holder = match self.house.eye.bearer(&token.digest(), self.house.sim.now()) {
            Some(Bearer::Workspace(holder)) => Some(holder.workspace),
            _ => None,
        };
        // Who holds a token that is none any more goes on speaking.
        let Some(id) = holder.or_else(|| self.any_workspace()) else { return };
        let (says, path, body) = self.house.sim.choose(|rng| {
            let well = json!({ "uptime_seconds": 60 });
            let (says, more) = rng.pick(&[
                ("is well", well.clone()),
                ("is well", well.clone()),
                ("is well", well.clone()),
                ("works", json!({ "active_tasks": 1, "current_task": "digging" })),
                ("works and is well", json!({ "active_tasks": 2, "uptime_seconds": 60 })),
                ("fails", json!({ "error_rate": 1.0, "sample_error": "no", "uptime_seconds": 60 })),
                ("is wedged", json!({ "runtime_state": WEDGED, "active_tasks": 1, "uptime_seconds": 60 })),
                ("registers", Value::Null),
                ("looks for its peers", json!("peers")),
                ("looks whether it is wanted", json!("state")),
                ("wants to sleep", json!("hibernate")),
            ]);
            match &more {
                Value::Null => (
                    says,
                    "/registry/register".to_owned(),
                    Some(json!({ "id": id, "url": "", "agent_card": {} })),
                ),
                Value::String(what) if what == "peers" => (says, format!("/registry/{id}/peers"), None),
                Value::String(what) => (says, format!("/workspaces/{id}/{what}"), None),
                Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    let mut beat = more;
                    beat["workspace_id"] = json!(id);
                    (says, "/registry/heartbeat".to_owned(), Some(beat))
                }
            }
        });
        let method = if body.is_some() || path.ends_with("hibernate") { "POST" } else { "GET" };
        let looks = self.witness.looks;
        let what = format!("{} says that it {says}", self.house.row(id).name);
        self.count("words of agents");
        let beats = body.is_some();
        let (eye, clock, digest) = (self.house.eye.clone(), self.house.sim.clock(), token.digest());
        let judge = move |book: &mut Book, status: u16, answer: &Value| {
            // Whatever was written down for it was written a moment ago, and nothing was since.
            let bearer = eye.bearer(&digest, clock.now());
            let speaks = matches!(bearer, Some(Bearer::Workspace(holder)) if holder.workspace == id);
            if beats && status == 200 {
                book.words_heard += 1;
                if !speaks {
                    let how = format!("{id} was heard by a token that is none: {answer}");
                    book.broke(Rule::TokensSpeakTrue.broken(how));
                }
            }
            if let (200, Some(status), Some(_)) = (status, answer["status"].as_str(), answer.get("paused")) {
                book.told.push((id, status.to_owned(), looks));
            }
        };
        self.ask(what, (method, path, body), Some(token.expose()), judge);
    }

    /// Somebody sends a message, with a word in it by which it is known where it arrives.
    fn send_a_message(&mut self) {
        let Some(to) = self.any_workspace() else { return };
        let by_person = self.house.sim.choose(|rng| rng.permille(400));
        let token = if by_person { None } else { self.some_token() };
        let from =
            token.as_ref().and_then(|token| self.house.eye.bearer(&token.digest(), self.house.sim.now()));
        let from = match from {
            Some(Bearer::Workspace(holder)) => Some(holder.workspace),
            _ => None,
        };
        if token.is_some() && from.is_none() {
            return;
        }
        let word = format!("message-{}-", self.book().sent.len());
        self.book().sent.insert(word.clone(), (from, to));
        self.count("messages");
        let body = json!({ "method": "message/send", "params": { "message": { "text": word } } });
        let what = format!("{word} to {}", self.house.row(to).name);
        let path = format!("/workspaces/{to}/a2a");
        let which = self.book().words.send(to);
        let judge = move |book: &mut Book, _: u16, _: &Value| book.words.answer_message(to, which);
        self.ask(what, ("POST", path, Some(body)), token.as_ref().map(Token::expose), judge);
    }

    /// A pass begins, unless it runs already: that is the driver's promise.
    fn sweep(&mut self) {
        let passes = all_passes();
        let restarts = self.temper.deaths > 0 && self.house.sim.choose(|rng| rng.permille(400));
        let next_door = self.neighbour.is_some() && self.house.sim.choose(|rng| rng.permille(250));
        let pass = if restarts { "restart_due" } else { self.house.sim.choose(|rng| rng.pick(&passes)) };
        // Where a container is gone the race of its tokens' sweep is on.
        let gone = self
            .house
            .rows()
            .into_iter()
            .any(|row| row.container.is_some() && self.house.container(row.id).is_none());
        let pass =
            if gone && self.house.sim.choose(|rng| rng.permille(300)) { "revoke_stale_tokens" } else { pass };
        if next_door { self.begin_pass_next_door(pass) } else { self.begin_pass(pass) }
    }

    fn begin_pass_next_door(&self, pass: &'static str) {
        let Some(neighbour) = &self.neighbour else { return };
        self.note(format!("next door, {pass} begins"));
        let sweeper = Arc::clone(&neighbour.daemon.sweeper);
        self.house.sim.spawn(Owner::Neighbour, async move {
            if let Ok(look) = sweeper.look().await {
                sweeper.run(&*pass_named(pass), &look, Mode::Apply).await;
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
        let (sweeper, shared) = (Arc::clone(&self.house.daemon.sweeper), Arc::clone(&self.book));
        self.house.sim.spawn(Owner::Daemon, async move {
            let look = match pass_named(pass).sight() {
                Sight::Engine => sweeper.look().await,
                Sight::Store => Ok(sweeper.glance()),
            };
            let mut run = None;
            let said = match look {
                Ok(look) => {
                    let done = sweeper.run(&*pass_named(pass), &look, Mode::Apply).await;
                    let actions =
                        done.actions.iter().map(|done| (done.planned.action.describe(), &done.verdict));
                    let said = format!("{}: {:?}", done.outcome.as_str(), actions.collect::<Vec<_>>());
                    run = Some(done);
                    said
                }
                Err(untrusted) => untrusted.to_string(),
            };
            let mut book = open(&shared);
            book.running_passes.retain(|running| *running != pass);
            book.note(format!("{pass} ended {said}"));
            let took = run.as_ref().map_or(0, taken_by);
            book.runs_that_took += usize::from(took > 0);
            if took > 5 {
                book.broke(Rule::RunsAreBounded.broken(format!("{pass} took {took} things away in one run")));
            }
        });
    }

    /// Somebody is at the engine who is not ostler.
    fn lay_hands_on(&mut self, how: Option<Hand>) {
        let Some(id) = self.any_workspace() else { return };
        let starting = self.house.status(id) == Status::Provisioning;
        let hand = self
            .house
            .sim
            .choose(|rng| if starting && rng.permille(400) { Hand::Start } else { rng.pick(&Hand::ALL) });
        self.lay_a_hand_on(id, how.unwrap_or(hand));
    }

    fn lay_a_hand_on(&mut self, id: WorkspaceId, hand: Hand) {
        let row = self.house.row(id);
        let Some(container) = row.container else { return };
        let mut state = self.house.world.state();
        let what = match hand {
            Hand::Kill => {
                if state.containers.get(&container).is_none_or(|container| !container.state.may_run()) {
                    return;
                }
                state.kill(&container, 137);
                "its container is killed"
            }
            Hand::Remove => {
                state.remove(&container);
                "its container is removed by hand"
            }
            Hand::Start => {
                let stands = |container: &FakeContainer| !container.state.may_run();
                if !state.containers.get(&container).is_some_and(stands) {
                    return;
                }
                state.run(&container);
                self.witness.hands.insert(id);
                "its container is started by hand"
            }
            Hand::WipeConfig | Hand::WipeConfigDirectory => {
                let name = volume_name(id, VolumeKind::Config);
                let Some(volume) = state.volumes.get_mut(&name) else { return };
                volume.files.clear();
                volume.directory_missing = hand == Hand::WipeConfigDirectory;
                state.changes += 1;
                self.witness.wiped.insert(id);
                "its config volume is wiped"
            }
            Hand::TakeWork
                if self.temper.robbers && row.has_work_volume && !self.book().new_volumes.contains(&id) =>
            {
                state.volumes.remove(&volume_name(id, VolumeKind::Work));
                state.changes += 1;
                self.witness.robbed.insert(id);
                "its work volume is taken away by hand"
            }
            Hand::TakeWork => return,
        };
        drop(state);
        self.count(what);
        self.note(format!("{}: {what}", row.name));
    }

    fn fill_or_free_the_disk(&mut self) {
        let pages = self.house.sim.choose(|rng| rng.below(5));
        if pages == 4 {
            self.house.disk.free();
            self.note("there is room on the disk");
        } else {
            self.house.disk.fill(u32::try_from(pages).expect("it is small"));
            self.count("the disk was full");
            self.note(format!("the disk is full but for {pages} pages"));
        }
    }

    fn lead_elsewhere_or_back(&mut self) {
        if self.house.world.is_elsewhere() {
            self.lead_back();
        } else {
            self.house.world.lead_elsewhere();
            self.count("the socket led to another engine");
            self.note("the socket leads to another engine");
            let provisioning = self.house.rows().into_iter().map(|row| row.id);
            self.witness.elsewhere.extend(provisioning);
        }
    }

    /// What was asked elsewhere is answered there first: a socket that leads away and back within one look shows a
    /// sentinel before and after, and nobody could tell.
    fn lead_back(&mut self) {
        for _ in 0..2000 {
            self.house.sim.run_ready();
            let Some(next) = self.house.sim.held().first().copied() else { break };
            self.take(next);
        }
        self.house.world.lead_here();
        self.note("the socket leads to our engine again");
    }

    fn crash(&mut self) {
        // In the middle of what was woken: some of it has run, some has not.
        let (some, arriving) = self.house.sim.choose(|rng| (rng.below(4), rng.below(1001)));
        for _ in 0..some {
            self.house.sim.run_one();
        }
        self.count("crashes");
        self.note("the daemon is killed and starts again");
        let sim = self.house.sim.clone();
        let mut fates = sim.choose(|rng| rng.clone());
        self.house.crash(|_| fates.permille(arriving));
        self.house.watch();
        self.witness.listening_since = self.house.sim.clock().awake();
        self.witness.across_jump.clear();
        let mut book = open(&self.book);
        book.running_passes.clear();
        let looks = book.looks;
        book.words.interrupt(looks);
        for said in book.may_go.values_mut().flatten() {
            said.get_or_insert(looks + 1);
        }
    }

    fn jump(&mut self) {
        let minutes = self.house.sim.choose(|rng| rng.below(240));
        let minutes = i64::try_from(minutes).expect("it is small") - 60;
        self.count("jumps of the wall clock");
        self.note(format!("the wall clock jumps by {minutes} minutes"));
        self.house.sim.jump(minutes * 60_000);
        if minutes != 0 {
            self.witness.listening_since = self.house.sim.clock().awake();
            self.witness.across_jump.extend(running(&self.house, &open(&self.book)));
        }
    }

    /// Faults stop, what is under way comes to its end, the sweeps go on until they have nothing to do.
    fn calm_down(&mut self) -> Result<(), Broken> {
        self.note("everything is well again");
        if self.house.world.is_elsewhere() {
            self.lead_back();
            self.check()?;
        }
        self.house.world.heal();
        self.house.disk.free();
        for _ in 0..if self.temper.driven { 300 } else { 100_000 } {
            self.house.sim.run_ready();
            let held = self.house.sim.held();
            if !held.is_empty() {
                let next = self.next_of(&held);
                self.take(next);
            } else if !self.house.sim.fire_next_timer() {
                break;
            }
            self.check()?;
        }
        self.witness.approving = true;
        self.everybody_is_well();
        if self.temper.driven {
            // From here on it is the seed that sweeps, as in every other life: what the driver has to show is over.
            self.house.put_driver_to_rest();
        }
        self.come_to_rest()?;
        // Who lost its work volume as well cannot be started.
        let (lost, wiped): (BTreeSet<_>, BTreeSet<_>) =
            self.witness.wiped.iter().partition(|id| self.witness.robbed.contains(id));
        self.witness.wiped = lost;
        for id in wiped {
            // An agent that lost its token file gets it back when it is started the next time; one that lost it before
            // it was read was never heard.
            let late = Status::Failed(Failure::ProvisionTimeout);
            if [Status::Online, Status::Degraded, late].contains(&self.house.status(id)) {
                self.say(id, Word::Restart);
                self.house.sim.quiesce();
            }
        }
        let last = self.come_to_rest()?;
        self.note(format!("at rest after {} passes had nothing to do", last.len()));
        self.check()
    }

    fn come_to_rest(&self) -> Result<Vec<Run>, Broken> {
        self.house.try_to_converge().map_err(|left| Rule::ItHeals.broken(left))
    }

    /// Whoever can still be heard has nothing left to do.
    fn everybody_is_well(&self) {
        for token in &self.book().tokens {
            if let Some(Bearer::Workspace(holder)) =
                self.house.eye.bearer(&token.digest(), self.house.sim.now())
            {
                at_once(self.house.eye.note_beat(holder, well(), self.house.sim.now()))
                    .expect("the store answers");
            }
        }
    }

    /// Promise 3: who was told "stopped" or "removed", and said nothing since, finds it so.
    fn the_last_word_counts(&mut self) -> Result<(), Broken> {
        let book = open(&self.book);
        let ids: Vec<_> = book.words.said.keys().copied().collect();
        for id in ids {
            let above = line_above(&self.house, id);
            let Some(last) = book.words.last_granted(id, &above) else { continue };
            self.witness.coverage.count(Rule::LastWordCounts, 1);
            let row = self.house.row(id);
            // Work that was lost forbids what was ordered before.
            let is_robbed =
                self.witness.robbed.contains(&id) && row.status == Status::Failed(Failure::StartError);
            if !last.is_kept_by(row.status) && !is_robbed {
                let (number, word) = (last.number, last.word);
                let how =
                    format!("order {number} ({word:?} {}) was granted, and it is {}", row.name, row.status);
                return Err(Rule::LastWordCounts.broken(how));
            }
        }
        self.witness
            .coverage
            .count(Rule::MessagesArrive, usize::try_from(book.arrived).unwrap_or(usize::MAX));
        Ok(())
    }
}

/// The names of all passes, in their order.
fn all_passes() -> Vec<&'static str> {
    ostler::sweep::all().iter().map(|pass| pass.name()).collect()
}

/// The passes that run right now, whoever began them.
fn running(house: &House, book: &Book) -> BTreeSet<&'static str> {
    let driven = house.daemon.running_passes();
    driven.into_iter().chain(book.running_passes.iter().copied()).collect()
}

/// Everybody above a workspace.
fn line_above(house: &House, id: WorkspaceId) -> Vec<WorkspaceId> {
    let rows = house.rows();
    let parent = |id| rows.iter().find(|row| row.id == id).and_then(|row| row.parent);
    std::iter::successors(parent(id), |above| parent(*above)).take(32).collect()
}

/// How many things a run took away, or tried to: at most five (design, §6).
fn taken_by(run: &Run) -> usize {
    let applied = run.actions.iter().filter(|one| {
        one.planned.action.is_destructive() && !matches!(one.verdict, Verdict::Planned | Verdict::Held)
    });
    applied.count()
}

/// What runs behind the ports of the world: answers, hangs up, or says nothing for ever.
fn agents(sim: Sim, world: &Arc<World>, book: &Shared) -> PipeTo {
    let (world, book) = (Arc::downgrade(world), Arc::clone(book));
    Arc::new(move |address| {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let world = world.upgrade().ok_or_else(refused)?;
        let state = world.state();
        let listens = |container: &&FakeContainer| {
            container.state.may_run()
                && container.spec.publish.is_some_and(|(_, port)| port == address.port())
        };
        let container = state.containers.values().find(listens).ok_or_else(refused)?;
        let own = container.spec.labels.get(LABEL_WORKSPACE).cloned().unwrap_or_default();
        drop(state);
        let (here, there) = tokio::io::duplex(16 * 1024);
        let mood = sim.choose(|rng| rng.below(10));
        sim.spawn(Owner::Engine, answer(there, own, Arc::clone(&book), mood));
        Ok(here)
    })
}

async fn answer(mut wire: DuplexStream, own: String, book: Shared, mood: usize) {
    let mut heard = Vec::new();
    let mut piece = [0; 2048];
    // The body of these messages ends with two braces more than anything in the head.
    while !heard.ends_with(b"}}}") && !heard.ends_with(b"}") {
        match wire.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(read) => heard.extend_from_slice(&piece[..read]),
        }
    }
    let text = String::from_utf8_lossy(&heard).into_owned();
    {
        let mut book = open(&book);
        book.arrived += 1;
        let meant = book
            .sent
            .iter()
            .find(|(word, _)| text.contains(*word))
            .map(|(word, route)| (word.clone(), *route));
        match meant {
            Some((word, (_, to))) if to.to_string() != own => {
                book.broke(
                    Rule::MessagesArrive.broken(format!("{word} was sent to {to} and arrived at {own}")),
                );
            }
            Some((word, _)) => book.note(format!("{word} arrived at {own}")),
            None => book.broke(Rule::MessagesArrive.broken("a message arrived that nobody sent")),
        }
    }
    match mood {
        0 => {}
        1 => std::future::pending().await,
        _ => {
            let body = r#"{"result":{"parts":[{"text":"heard"}]}}"#;
            let preface = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            // Whoever asked may have gone.
            let _gone = wire.write_all(format!("{preface}{body}").as_bytes()).await;
        }
    }
}

fn short(object: &str) -> &str {
    let end = object.trim_start_matches('0');
    if end.is_empty() { object } else { end }
}

fn side(seen: Seen) -> &'static str {
    match (seen.place, seen.side) {
        (Place::Store, OPS) => "an order, in the store",
        (Place::Store, AGENTS) => "a request, in the store",
        (Place::Store, _) => "a sweep, in the store",
        (Place::Engine, OPS) => "an order, in the engine",
        (Place::Engine, _) => "a sweep, in the engine",
    }
}

/// A life to be lived.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) seed: u64,
    /// The numbers of the steps that it has.
    pub(crate) steps: Vec<u64>,
}

/// A life that was lived.
pub(crate) struct Lived {
    pub(crate) broken: Option<Broken>,
    pub(crate) history: Vec<String>,
    pub(crate) done: BTreeMap<&'static str, u64>,
    pub(crate) coverage: Coverage,
    pub(crate) reached: BTreeSet<Status>,
    /// How often everything was looked at.
    pub(crate) looks: usize,
}

impl Life {
    /// The whole life of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        Self { seed, steps: (0..STEPS as u64).collect() }
    }

    /// Lives it.
    pub(crate) fn live(&self) -> Lived {
        let book = Shared::default();
        let told = Arc::clone(&book);
        let (seed, steps) = (self.seed, self.steps.clone());
        let ended = catch_unwind(AssertUnwindSafe(move || {
            let mut story = Story::new(seed, told);
            let ended = story.live(seed, &steps);
            let Witness { coverage, reached, looks, .. } = std::mem::take(&mut story.witness);
            (ended, coverage, reached, looks)
        }));
        let (broken, coverage, reached, looks) = match ended {
            Ok((ended, coverage, reached, looks)) => (ended.err(), coverage, reached, looks),
            // The panic's own words have been printed where it happened.
            Err(_) => (Some("[panic] it panicked".to_owned()), Coverage::default(), BTreeSet::new(), 0),
        };
        let mut book = open(&book);
        Lived {
            broken,
            history: std::mem::take(&mut book.history),
            done: std::mem::take(&mut book.done),
            coverage,
            reached,
            looks,
        }
    }

    /// The same breach in fewer steps: parts are left out, smaller and smaller ones, for as long as the same rule breaks.
    pub(crate) fn shorten(&self, rule: &str, most: usize) -> Self {
        let breaks = |steps: &[u64]| {
            let life = Self { seed: self.seed, steps: steps.to_vec() };
            life.live().broken.is_some_and(|broken| rule_of(&broken) == rule)
        };
        let mut steps = self.steps.clone();
        let (mut part, mut tries) = (steps.len().div_ceil(2), 0);
        while part > 0 && tries < most {
            let mut at = 0;
            let before = steps.len();
            while at < steps.len() && tries < most {
                let mut fewer = steps.clone();
                fewer.drain(at..(at + part).min(steps.len()));
                tries += 1;
                if breaks(&fewer) { steps = fewer } else { at += part }
            }
            if part == 1 && steps.len() == before {
                break;
            }
            part = if part == 1 { 1 } else { part.div_ceil(2) };
        }
        Self { seed: self.seed, steps }
    }

    /// How it is said which steps there are: `3,7-9`.
    pub(crate) fn spelled(&self) -> String {
        let mut text = String::new();
        let mut steps = self.steps.iter().copied().peekable();
        while let Some(first) = steps.next() {
            let mut last = first;
            while steps.next_if(|next| *next == last + 1).is_some() {
                last += 1;
            }
            let comma = if text.is_empty() { "" } else { "," };
            let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
            write!(text, "{comma}{range}").expect("a string takes everything");
        }
        text
    }

    /// Reads what [`Life::spelled`] says.
    pub(crate) fn spelled_out(seed: u64, text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        for range in text.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            steps.extend(first.parse::<u64>().ok()?..=last.parse::<u64>().ok()?);
        }
        Some(Self { seed, steps })
    }
}

/// The name of the rule that a breach names.
pub(crate) fn rule_of(broken: &str) -> &str {
    broken.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or("other", |(rule, _)| rule)
}

impl Lived {
    /// What happened, a line each.
    pub(crate) fn told(&self) -> String {
        self.history.iter().enumerate().fold(String::new(), |mut text, (step, what)| {
            writeln!(text, "{step:5}  {what}").expect("a string takes everything");
            text
        })
    }
}

/// Lives that once broke a promise, and what was wrong then: see the tests of what they found.
const KEPT: &[(u64, &str)] = &[];

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// As many as a debug build lives in a few seconds; `tests/assurance` lives the rest.
const SEEDS: u64 = 60;

#[test]
fn no_life_of_an_installation_breaks_a_promise() {
    let seeds: Vec<u64> = match number("OSTLER_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("OSTLER_SIM_SEEDS").unwrap_or(SEEDS))
            .chain(KEPT.iter().map(|(seed, _)| *seed))
            .collect(),
    };
    let mut reached = BTreeSet::new();
    for seed in &seeds {
        let lived = Life::of(*seed).live();
        reached.extend(lived.reached.iter().copied());
        if let Some(broken) = &lived.broken {
            panic!(
                "{}seed {seed}: {broken}\nAgain: OSTLER_SIM_SEED={seed} cargo test --test main simulation::story",
                lived.told()
            );
        }
    }
    let missed: Vec<_> = Status::ALL.into_iter().filter(|status| !reached.contains(status)).collect();
    assert!(
        seeds.len() < 60 || missed.is_empty(),
        "{} lives in which nobody ever was {missed:?}",
        seeds.len()
    );
}

#[test]
fn the_same_seed_lives_the_same_life_to_the_letter() {
    for seed in 0..6 {
        let (once, again) = (Life::of(seed).live(), Life::of(seed).live());
        assert_eq!(once.history, again.history, "seed {seed}");
    }
}
