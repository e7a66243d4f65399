//! A hundred lives of an installation, each a seed: people's orders, sweeps, crashes, an engine that
//! fails in every way it can, hands at the engine and at the clock, in any order at all.
//!
//! `OSTLER_SIM_SEEDS=n` runs the first n seeds, `OSTLER_SIM_SEED=n` that one alone. A seed that breaks a
//! promise prints its history and how to run it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ostler::{
    domain::{
        beat::{Beat, WEDGED},
        ids::WorkspaceId,
        runtime::AGENT,
        status::{Failure, Status},
        token::Token,
        workspace::Habits,
    },
    engine::{
        Trouble,
        fake::{Call, EventFault, FakeContainer, Fault},
    },
    ops::{CreateRequest, Ops, Passage},
    store::{Bearer, Registration},
    sweep::{Mode, Sight},
};

use super::{
    executor::{Owner, Place, Rng, Seen, TaskOrder},
    house::{House, IMAGE, REMOTE_IMAGE, at_once, pass_named, request, token_of, told, well},
    invariants::{Broken, Witness, at_rest},
};

/// Choices per seed.
const STEPS: usize = 300;
const SEEDS: u64 = 100;

const PASSES: [&str; 10] = [
    "settle",
    "reap_removed",
    "reap_unknown",
    "revoke_stale_tokens",
    "check_containers",
    "check_heartbeats",
    "time_out_provisioning",
    "hibernate_idle",
    "flag_wedged",
    "restart_due",
];

const ABOUT_AGENTS: [&str; 5] =
    ["check_heartbeats", "time_out_provisioning", "hibernate_idle", "flag_wedged", "restart_due"];

/// What a person says to a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Start,
    Stop,
    Restart,
    Recreate,
    Remove,
    Undelete,
    Hibernate,
    Wake,
}

impl Word {
    /// Whether it may end what a person or the budget has put to rest.
    fn rouses(self) -> bool {
        match self {
            Self::Start | Self::Restart | Self::Recreate => true,
            Self::Stop | Self::Remove | Self::Undelete | Self::Hibernate | Self::Wake => false,
        }
    }
}

const WORDS: [Word; 12] = [
    Word::Start,
    Word::Start,
    Word::Stop,
    Word::Stop,
    Word::Restart,
    Word::Restart,
    Word::Recreate,
    Word::Remove,
    Word::Undelete,
    Word::Hibernate,
    Word::Hibernate,
    Word::Wake,
];

/// Something a person said to a workspace.
#[derive(Clone, Copy, Debug)]
struct Said {
    number: u64,
    word: Word,
    /// Once it was answered: whether it was granted, and which was the last order given by then.
    answer: Option<(bool, u64)>,
    /// And how often everything had been looked at by then.
    ended: Option<usize>,
}

impl Said {
    fn was_over_before(self, later: Self) -> bool {
        self.answer.is_some_and(|(_, last)| last < later.number)
    }
}

#[derive(Default)]
struct Book {
    history: Vec<String>,
    said: BTreeMap<WorkspaceId, Vec<Said>>,
    orders: u64,
    running_passes: Vec<&'static str>,
    looks: usize,
    reached: BTreeSet<Status>,
    /// Tokens that were once seen: of agents that ran, and of external ones.
    tokens: Vec<Token>,
    /// Messages on their way.
    passages: Vec<Passage>,
}

/// What a seed is like: seeds that do less of everything at once get deeper into the rest.
struct Temper {
    /// The most workspaces it makes.
    workspaces: usize,
    /// Engine calls that go wrong, in a thousand.
    faults: usize,
    /// Steps that are a crash, in a thousand.
    crashes: usize,
    /// Steps in which a container is killed, in a thousand, besides.
    deaths: usize,
    /// Whether no agent ever says anything.
    mute: bool,
}

/// What happened, shared with the tasks that make it happen.
type Shared = Arc<Mutex<Book>>;

struct Story {
    house: House,
    witness: Witness,
    book: Shared,
    temper: Temper,
    named: u64,
}

impl Story {
    fn new(seed: u64, book: Shared) -> Self {
        let house = House::new(seed, TaskOrder::Seeded);
        let mut rng = Rng::new(seed, 3);
        let temper = Temper {
            workspaces: rng.pick(&[1, 1, 2, 3, 6]),
            faults: rng.pick(&[0, 30, 100]),
            crashes: rng.pick(&[0, 5, 20]),
            deaths: rng.pick(&[0, 0, 60]),
            mute: rng.permille(200),
        };
        let faults = temper.faults;
        house
            .world
            .inject(move |call| if rng.permille(faults) { fault(&mut rng, call) } else { Fault::None });
        let mut rng = Rng::new(seed, 4);
        house.world.inject_into_events(move |_| {
            if rng.permille(faults * 2) { event_fault(&mut rng) } else { EventFault::None }
        });
        house.watch();
        let mut witness = Witness::of(&house);
        witness.late_starts = faults > 0;
        Self { house, witness, book, temper, named: 0 }
    }

    fn note(&self, what: impl Into<String>) {
        self.book.lock().unwrap().history.push(what.into());
    }

    fn tell(&mut self) -> Result<(), Broken> {
        for _ in 0..STEPS {
            self.house.sim.run_ready();
            let lulls = if self.temper.deaths > 0 { 50 } else { 12 };
            if self.house.sim.choose(|rng| rng.permille(lulls)) {
                self.lull()?;
            }
            self.step();
            self.check()?;
        }
        self.calm_down()?;
        at_rest(&self.house)?;
        self.the_last_word_counts()
    }

    fn check(&mut self) -> Result<(), Broken> {
        self.witness.check(&self.house)?;
        let left = std::mem::take(&mut self.witness.left_rest);
        let mut book = self.book.lock().unwrap();
        for (id, since) in left {
            // What is resumed takes along what was paused with it.
            let mut line = self.line_above(id);
            line.push(id);
            let said = line.iter().filter_map(|id| book.said.get(id)).flatten();
            let roused = said.filter(|said| said.word.rouses());
            if !roused.into_iter().any(|said| said.ended.is_none_or(|ended| ended >= since)) {
                return Err(format!("{} left its rest, and no person said so", self.house.row(id).name));
            }
        }
        book.looks = self.witness.looks;
        book.reached.append(&mut self.witness.reached);
        Ok(())
    }

    /// Everybody above a workspace.
    fn line_above(&self, id: WorkspaceId) -> Vec<WorkspaceId> {
        let rows = self.house.rows();
        let parent = |id| rows.iter().find(|row| row.id == id).and_then(|row| row.parent);
        std::iter::successors(parent(id), |above| parent(*above)).take(32).collect()
    }

    /// What is under way comes to its end, nobody says anything for a while, and the passes about agents look. Where
    /// containers die, one may do so again and again.
    fn lull(&mut self) -> Result<(), Broken> {
        let deadly = self.temper.deaths > 0;
        let times = if deadly && self.house.sim.choose(|rng| rng.permille(400)) { 7 } else { 1 };
        for _ in 0..times {
            self.until_nothing_is_due()?;
            if deadly {
                self.lay_hands_on(Some(0));
                self.until_nothing_is_due()?;
            }
            let waits = if deadly { &[1, 1, 2, 2] } else { &[1, 2, 4, 14] };
            let minutes = self.house.sim.choose(|rng| rng.pick(waits));
            self.note(format!("{minutes} minutes pass in a lull"));
            self.house.sim.pass(Duration::from_mins(minutes));
            for pass in ABOUT_AGENTS {
                self.begin_pass(pass);
            }
        }
        Ok(())
    }

    fn until_nothing_is_due(&mut self) -> Result<(), Broken> {
        for _ in 0..2000 {
            self.house.sim.run_ready();
            if let Some(next) = self.house.sim.held().first().copied() {
                self.note(format!("{} of {}", next.label, side(next)));
                self.house.sim.take(next.id);
                self.check()?;
            } else if !self.house.sim.fire_next_timer() {
                break;
            }
        }
        Ok(())
    }

    /// One thing happens.
    fn step(&mut self) {
        let held = self.house.sim.held();
        if self.house.sim.choose(|rng| rng.permille(self.temper.crashes)) {
            return self.crash();
        }
        if self.house.sim.choose(|rng| rng.permille(self.temper.deaths)) {
            return self.lay_hands_on(Some(0));
        }
        match self.house.sim.choose(|rng| rng.below(100)) {
            0..65 if !held.is_empty() => {
                let next = self.house.sim.choose(|rng| rng.pick(&held));
                self.note(format!("{} of {}", next.label, side(next)));
                self.house.sim.take(next.id);
            }
            65..72 if !self.temper.mute => self.speak(),
            65..75 => self.talk(),
            75..82 => self.wait(&held),
            82..89 => self.order(),
            89..92 => self.create(),
            92..97 => self.sweep(),
            97..99 => self.lay_hands_on(None),
            _ if self.house.sim.choose(|rng| rng.permille(300)) => self.jump(),
            _ if self.house.sim.choose(|rng| rng.permille(300)) => {
                let id = self.house.furnish_unknown();
                self.note(format!("something unknown, {id}, turns up"));
            }
            _ => self.wait(&held),
        }
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
        let rows = self.house.rows();
        (!rows.is_empty()).then(|| self.house.sim.choose(|rng| rng.pick(&rows)).id)
    }

    fn create(&mut self) {
        if self.house.rows().len() >= self.temper.workspaces {
            return;
        }
        self.named += 1;
        let image = self.house.sim.choose(|rng| match rng.below(100) {
            0..10 => REMOTE_IMAGE,
            10..15 => "no-such-image",
            _ => IMAGE,
        });
        let parent = self.any_workspace();
        let made = self.house.sim.choose(|rng| CreateRequest {
            runtime: rng.permille(600).then(|| AGENT.to_owned()),
            parent: parent.filter(|_| rng.permille(500)),
            habits: Habits {
                hibernation_idle_minutes: rng.permille(400).then_some(10),
                restart_when_wedged: rng.permille(500),
                ..Habits::default()
            },
            ..request(&format!("w{}", self.named), image)
        });
        let external = self.house.sim.choose(|rng| rng.permille(150));
        let made = if external {
            CreateRequest { runtime: None, external, habits: Habits::default(), ..made }
        } else {
            made
        };
        let (ops, book, name) = (self.house.daemon.ops.clone(), Arc::clone(&self.book), made.name.clone());
        self.note(format!("create {name}"));
        self.house.sim.spawn(Owner::Daemon, async move {
            let answer = ops.create(made).await;
            let mut book = book.lock().unwrap();
            book.history.push(format!("create {name} answered: {}", told(&answer)));
            book.tokens.extend(answer.ok().and_then(|created| created.token));
        });
    }

    fn order(&mut self) {
        let Some(id) = self.any_workspace() else { return };
        let word = self.house.sim.choose(|rng| rng.pick(&WORDS));
        self.say(id, word);
    }

    fn say(&mut self, id: WorkspaceId, word: Word) {
        let (ops, shared) = (self.house.daemon.ops.clone(), Arc::clone(&self.book));
        let mut book = self.book.lock().unwrap();
        book.orders += 1;
        let number = book.orders;
        book.said.entry(id).or_default().push(Said { number, word, answer: None, ended: None });
        book.history.push(format!("{word:?} {} (order {number})", self.house.row(id).name));
        self.house.sim.spawn(Owner::Daemon, async move {
            let (granted, answer) = obey(&ops, id, word).await;
            let mut book = shared.lock().unwrap();
            book.history.push(format!("order {number} answered: {answer}"));
            let (orders, looks) = (book.orders, book.looks);
            for said in book.said.entry(id).or_default().iter_mut().filter(|said| said.number == number) {
                said.answer = Some((granted, orders));
                said.ended = Some(looks + 1);
            }
        });
    }

    /// An agent says something: with the token it holds, or one that somebody once held.
    fn speak(&mut self) {
        let (runs, old) = self.house.sim.choose(|rng| (rng.permille(850), rng.next()));
        let running = self.any_workspace().filter(|_| runs).and_then(|id| self.house.container(id));
        let running = running.filter(|container| container.state.may_run());
        let token = running.and_then(|container| token_of(container.held_token.as_deref()));
        let mut book = self.book.lock().unwrap();
        let token = match token {
            Some(token) => {
                book.tokens.push(token.clone());
                token
            }
            None if book.tokens.is_empty() => return,
            None => book.tokens[usize::try_from(old % book.tokens.len() as u64).unwrap()].clone(),
        };
        drop(book);
        // Looked up now, written down whenever its turn comes.
        let Some(Bearer::Workspace(holder)) = self.house.eye.bearer(&token.digest(), self.house.sim.now())
        else {
            return;
        };
        let (says, beat) = self.house.sim.choose(|rng| {
            rng.pick(&[
                ("is well", Some(well())),
                ("is well", Some(well())),
                ("is well", Some(well())),
                ("works", Some(Beat { active_tasks: 1, current_task: "digging".into(), ..Beat::default() })),
                ("works and is well", Some(Beat { active_tasks: 2, ..well() })),
                ("fails", Some(Beat { error_rate: 1.0, sample_error: "no".into(), ..well() })),
                ("is wedged", Some(Beat { runtime_state: WEDGED.into(), active_tasks: 1, ..well() })),
                ("registers", None),
            ])
        });
        let name = self.house.row(holder.workspace).name;
        self.note(format!("{name} says that it {says}"));
        let (hearing, clock, book) =
            (self.house.daemon.hearing.clone(), self.house.sim.clock(), Arc::clone(&self.book));
        self.house.sim.spawn(Owner::Daemon, async move {
            let heard = if let Some(beat) = beat {
                hearing.note_beat(holder, beat, clock.now()).await
            } else {
                let registration = Registration { url: None, card: serde_json::json!({ "name": "x" }) };
                hearing.note_registration(holder, registration, clock.now()).await
            };
            book.lock().unwrap().history.push(format!("{name}, who {says}, was answered {heard:?}"));
        });
    }

    /// A message is on its way, or arrives.
    fn talk(&mut self) {
        let (arrives, from_somebody) = self.house.sim.choose(|rng| (rng.permille(500), rng.permille(500)));
        if arrives {
            let passage = self.book.lock().unwrap().passages.pop();
            drop(passage);
            return;
        }
        let Some(to) = self.any_workspace() else { return };
        let from = self.any_workspace().filter(|_| from_somebody);
        let passage = self.house.daemon.ops.traffic().begin(from, to);
        self.book.lock().unwrap().passages.extend(passage);
    }

    /// A pass begins, unless it runs already: that is the driver's promise.
    fn sweep(&mut self) {
        let restarts = self.temper.deaths > 0 && self.house.sim.choose(|rng| rng.permille(500));
        let pass = if restarts { "restart_due" } else { self.house.sim.choose(|rng| rng.pick(&PASSES)) };
        self.begin_pass(pass);
    }

    fn begin_pass(&mut self, pass: &'static str) {
        if self.book.lock().unwrap().running_passes.contains(&pass) {
            return;
        }
        self.book.lock().unwrap().running_passes.push(pass);
        self.note(format!("{pass} begins"));
        let (sweeper, book) = (Arc::clone(&self.house.daemon.sweeper), Arc::clone(&self.book));
        self.house.sim.spawn(Owner::Daemon, async move {
            let look = match pass_named(pass).sight() {
                Sight::Engine => sweeper.look().await,
                Sight::Store => Ok(sweeper.glance()),
            };
            let said = match look {
                Ok(look) => {
                    let run = sweeper.run(&*pass_named(pass), &look, Mode::Apply).await;
                    let actions =
                        run.actions.iter().map(|done| (done.planned.action.describe(), &done.verdict));
                    format!("{}: {:?}", run.outcome.as_str(), actions.collect::<Vec<_>>())
                }
                Err(untrusted) => untrusted.to_string(),
            };
            let mut book = book.lock().unwrap();
            book.running_passes.retain(|running| *running != pass);
            book.history.push(format!("{pass} ended {said}"));
        });
    }

    /// Somebody is at the engine who is not ostler.
    fn lay_hands_on(&mut self, how: Option<usize>) {
        let Some(id) = self.any_workspace() else { return };
        let row = self.house.row(id);
        let Some(container) = row.container else { return };
        let hand = how.unwrap_or_else(|| self.house.sim.choose(|rng| rng.below(5)));
        let mut state = self.house.world.state();
        let what = match hand {
            0 => {
                if state.containers.get(&container).is_none_or(|container| !container.state.may_run()) {
                    return;
                }
                state.kill(&container, 137);
                "its container is killed"
            }
            1 => {
                state.remove(&container);
                "its container is removed by hand"
            }
            2 => {
                let stands = |container: &FakeContainer| !container.state.may_run();
                if !state.containers.get(&container).is_some_and(stands) || row.status == Status::Provisioning
                {
                    return;
                }
                state.run(&container);
                self.witness.hands.insert(id);
                "its container is started by hand"
            }
            3 | 4 => {
                let name =
                    ostler::domain::naming::volume_name(id, ostler::domain::naming::VolumeKind::Config);
                let Some(volume) = state.volumes.get_mut(&name) else { return };
                volume.files.clear();
                volume.directory_missing = hand == 4;
                self.witness.wiped.insert(id);
                "its config volume is wiped"
            }
            _ => return,
        };
        drop(state);
        self.note(format!("{}: {what}", row.name));
    }

    fn crash(&mut self) {
        let arriving = self.house.sim.choose(|rng| rng.below(1001));
        self.note("the daemon is killed and starts again");
        let sim = self.house.sim.clone();
        let mut fates = sim.choose(|rng| rng.clone());
        sim.choose(Rng::next);
        self.house.crash(|_| fates.permille(arriving));
        self.house.watch();
        let passages = std::mem::take(&mut self.book.lock().unwrap().passages);
        drop(passages);
        let mut book = self.book.lock().unwrap();
        book.running_passes.clear();
        let looks = book.looks;
        // Who was not answered was promised nothing.
        let orders = book.orders;
        for said in book.said.values_mut().flatten() {
            said.answer.get_or_insert((false, orders));
            said.ended.get_or_insert(looks + 1);
        }
    }

    fn jump(&mut self) {
        let minutes = self.house.sim.choose(|rng| rng.below(240));
        let minutes = i64::try_from(minutes).unwrap() - 60;
        self.note(format!("the wall clock jumps by {minutes} minutes"));
        self.house.sim.jump(minutes * 60_000);
    }

    /// Faults stop, what is under way comes to its end, the sweeps go on until they have nothing to do.
    fn calm_down(&mut self) -> Result<(), Broken> {
        self.note("everything is well again");
        self.house.world.heal();
        let passages = std::mem::take(&mut self.book.lock().unwrap().passages);
        drop(passages);
        for _ in 0..100_000 {
            self.house.sim.run_ready();
            let held = self.house.sim.held();
            if !held.is_empty() {
                let next = self.house.sim.choose(|rng| rng.pick(&held));
                self.note(format!("{} of {}", next.label, side(next)));
                self.house.sim.take(next.id);
            } else if !self.house.sim.fire_next_timer() {
                break;
            }
            self.check()?;
        }
        self.witness.approving = true;
        self.everybody_is_well();
        self.house.converge();
        for id in std::mem::take(&mut self.witness.wiped) {
            // An agent that lost its token file gets it back when it is started the next time; one that lost it before
            // it was read was never heard.
            let late = Status::Failed(Failure::ProvisionTimeout);
            if [Status::Online, Status::Degraded, late].contains(&self.house.status(id)) {
                self.say(id, Word::Restart);
                self.house.sim.quiesce();
            }
        }
        let last = self.house.converge();
        self.note(format!("at rest after {} passes had nothing to do", last.len()));
        self.check()
    }

    /// Whoever can still be heard has nothing left to do.
    fn everybody_is_well(&self) {
        for token in &self.book.lock().unwrap().tokens {
            if let Some(Bearer::Workspace(holder)) =
                self.house.eye.bearer(&token.digest(), self.house.sim.now())
            {
                at_once(self.house.eye.note_beat(holder, well(), self.house.sim.now()))
                    .expect("the store answers");
            }
        }
    }

    /// Promise 3: who was told "stopped" or "removed", and said nothing since, finds it so. Orders that overlapped may
    /// have been carried out either way round: a start looks at the tree before it queues, and a stop given meanwhile
    /// may queue first. That a stop ends a start which has queued is `sweep::starts`' to hold.
    fn the_last_word_counts(&self) -> Result<(), Broken> {
        let book = self.book.lock().unwrap();
        for (id, said) in &book.said {
            let Some((last, before)) = said.split_last() else { continue };
            // What was said to somebody above it since, or meanwhile, was said to it too.
            let above = self.line_above(*id);
            let above = above.iter().filter_map(|id| book.said.get(id)).flatten();
            if !above.into_iter().all(|said| said.was_over_before(*last)) {
                continue;
            }
            let row = self.house.row(*id);
            let were_over = before.iter().all(|earlier| earlier.was_over_before(*last));
            if !last.answer.is_some_and(|(granted, _)| granted) || !were_over {
                continue;
            }
            let kept = match last.word {
                Word::Stop => row.status == Status::Paused,
                Word::Remove => row.status == Status::Removed,
                Word::Undelete => row.status != Status::Removed,
                // Who was woken may have been idle since.
                Word::Start | Word::Restart | Word::Recreate | Word::Wake => row.status != Status::Paused,
                Word::Hibernate => row.status == Status::Hibernated,
            };
            if !kept {
                let (number, word) = (last.number, last.word);
                return Err(format!(
                    "order {number} ({word:?} {}) was granted, and it is {}",
                    row.name, row.status
                ));
            }
        }
        Ok(())
    }
}

async fn obey(ops: &Ops, id: WorkspaceId, word: Word) -> (bool, String) {
    let answer = match word {
        Word::Start => ops.start(id, false).await,
        Word::Stop => ops.stop(id).await,
        Word::Restart => ops.restart(id).await,
        Word::Recreate => ops.recreate(id).await,
        Word::Undelete => ops.undelete(id, None).await,
        Word::Hibernate => ops.hibernate(id, false).await,
        Word::Wake => ops.wake(id).await,
        Word::Remove => {
            let answer = ops.remove(id, true, false).await;
            return (answer.is_ok(), told(&answer));
        }
    };
    // "Raced" says that something else came first: no promise was made.
    (matches!(answer, Ok(ostler::ops::Applied::Done(_))), told(&answer))
}

fn side(seen: Seen) -> &'static str {
    match (seen.place, seen.side) {
        (Place::Store, super::house::OPS) => "an order, in the store",
        (Place::Store, super::house::AGENTS) => "an agent, in the store",
        (Place::Store, _) => "a sweep, in the store",
        (Place::Engine, super::house::OPS) => "an order, in the engine",
        (Place::Engine, _) => "a sweep, in the engine",
    }
}

/// What goes wrong with an engine's call. A failure that states a fact (absent, conflict, no such image)
/// is never invented: an engine that lies is another engine.
fn fault(rng: &mut Rng, call: &Call) -> Fault {
    const FAILURES: [Trouble; 3] = [Trouble::Unreachable, Trouble::Other, Trouble::TimedOut];
    let trouble = rng.pick(&FAILURES);
    let wait = Duration::from_millis(rng.below(300_000) as u64);
    let dice = rng.below(1000);
    // A write that lands minutes after its caller gave up, and after a whole later start, would be met by
    // nobody: see the limits on the page of `ops/start.rs`.
    let may_be_late = call.method != "write_file";
    match dice {
        0..20 => Fault::Before(trouble),
        20..40 => Fault::After(trouble),
        40..60 => Fault::Slow(wait / 6),
        60..75 if may_be_late => Fault::Late(wait),
        75..80 => Fault::Lost,
        _ => Fault::None,
    }
}

fn event_fault(rng: &mut Rng) -> EventFault {
    match rng.below(10) {
        0..4 => EventFault::Lost,
        4..6 => EventFault::Twice,
        6..9 => EventFault::Late(Duration::from_millis(rng.below(120_000) as u64)),
        _ => EventFault::End(rng.permille(500).then_some(Trouble::Unreachable)),
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// A seed that broke a promise.
pub(crate) struct Failed {
    pub(crate) seed: u64,
    pub(crate) broken: Broken,
    pub(crate) history: String,
}

/// Lives one life; answers what anybody was in it.
pub(crate) fn run(seed: u64) -> Result<BTreeSet<Status>, Failed> {
    let book = Shared::default();
    let told = Arc::clone(&book);
    let ended = catch_unwind(AssertUnwindSafe(move || Story::new(seed, told).tell()));
    let broken = match ended {
        Ok(Ok(())) => return Ok(book.lock().unwrap().reached.clone()),
        Ok(Err(broken)) => broken,
        // The panic's own words have been printed where it happened.
        Err(_) => "it panicked".to_owned(),
    };
    let book = book.lock().unwrap_or_else(PoisonError::into_inner);
    let history = book.history.iter().enumerate().fold(String::new(), |mut text, (step, what)| {
        writeln!(text, "{step:5}  {what}").expect("a string takes everything");
        text
    });
    Err(Failed { seed, broken, history })
}

#[test]
fn no_life_of_an_installation_breaks_a_promise() {
    let seeds = match number("OSTLER_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("OSTLER_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let (mut reached, mut failed) = (BTreeSet::new(), Vec::new());
    let lives = seeds.end - seeds.start;
    for seed in seeds {
        match run(seed) {
            Ok(mut statuses) => reached.append(&mut statuses),
            Err(broken) => failed.push(broken),
        }
    }
    let Some(first) = failed.first() else {
        let missed: Vec<_> = Status::ALL.into_iter().filter(|status| !reached.contains(status)).collect();
        assert!(lives < SEEDS || missed.is_empty(), "{lives} lives in which nobody ever was {missed:?}");
        return;
    };
    let list = failed.iter().fold(String::new(), |mut text, failed| {
        writeln!(text, "seed {}: {}", failed.seed, failed.broken).expect("a string takes everything");
        text
    });
    let (history, seed) = (&first.history, first.seed);
    panic!("{history}{list}Again: OSTLER_SIM_SEED={seed} cargo test --test main simulation::smoke");
}
