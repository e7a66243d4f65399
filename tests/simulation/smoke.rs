//! A hundred lives of an installation, each a seed: people's orders, sweeps, crashes, an engine that
//! fails in every way it can, hands at the engine and at the clock, in any order at all.
//!
//! `OSTLER_SIM_SEEDS=n` runs the first n seeds, `OSTLER_SIM_SEED=n` that one alone. A seed that breaks a
//! promise prints its history and how to run it again.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ostler::{
    domain::{ids::WorkspaceId, status::Status},
    engine::{
        Trouble,
        fake::{Call, FakeContainer, Fault},
    },
    ops::Ops,
    sweep::Mode,
};

use super::{
    executor::{Owner, Place, Rng, Seen, TaskOrder},
    house::{House, IMAGE, REMOTE_IMAGE, pass_named, request, told},
    invariants::{Broken, Witness, at_rest},
};

/// Choices per seed.
const STEPS: usize = 300;
const SEEDS: u64 = 100;

const PASSES: [&str; 5] =
    ["settle", "reap_removed", "reap_unknown", "revoke_stale_tokens", "check_containers"];

/// What a person says to a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Start,
    Stop,
    Restart,
    Recreate,
    Remove,
    Undelete,
}

const WORDS: [Word; 9] = [
    Word::Start,
    Word::Start,
    Word::Stop,
    Word::Stop,
    Word::Restart,
    Word::Restart,
    Word::Recreate,
    Word::Remove,
    Word::Undelete,
];

/// Something a person said to a workspace.
#[derive(Clone, Copy, Debug)]
struct Said {
    number: u64,
    word: Word,
    /// Once it was answered: whether it was granted, and which was the last order given by then.
    answer: Option<(bool, u64)>,
}

impl Said {
    fn came_before(self, later: Self) -> bool {
        let starts = matches!(self.word, Word::Start | Word::Restart | Word::Recreate);
        let ends = matches!(later.word, Word::Stop | Word::Remove);
        self.answer.is_some_and(|(_, last)| last < later.number) || (starts && ends)
    }
}

#[derive(Default)]
struct Book {
    history: Vec<String>,
    said: BTreeMap<WorkspaceId, Vec<Said>>,
    orders: u64,
    running_passes: Vec<&'static str>,
}

/// What a seed is like: seeds that do less of everything at once get deeper into the rest.
struct Temper {
    /// The most workspaces it makes.
    workspaces: usize,
    /// Engine calls that go wrong, in a thousand.
    faults: usize,
    /// Steps that are a crash, in a thousand.
    crashes: usize,
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
        };
        let faults = temper.faults;
        house
            .world
            .inject(move |call| if rng.permille(faults) { fault(&mut rng, call) } else { Fault::None });
        let witness = Witness::of(&house);
        Self { house, witness, book, temper, named: 0 }
    }

    fn note(&self, what: impl Into<String>) {
        self.book.lock().unwrap().history.push(what.into());
    }

    fn tell(&mut self) -> Result<(), Broken> {
        for _ in 0..STEPS {
            self.house.sim.run_ready();
            self.step();
            self.witness.check(&self.house)?;
        }
        self.calm_down()?;
        at_rest(&self.house)?;
        self.the_last_word_counts()
    }

    /// One thing happens.
    fn step(&mut self) {
        let held = self.house.sim.held();
        if self.house.sim.choose(|rng| rng.permille(self.temper.crashes)) {
            return self.crash();
        }
        match self.house.sim.choose(|rng| rng.below(100)) {
            0..75 if !held.is_empty() => {
                let next = self.house.sim.choose(|rng| rng.pick(&held));
                self.note(format!("{} of {}", next.label, side(next)));
                self.house.sim.take(next.id);
            }
            75..82 => self.wait(&held),
            82..89 => self.order(),
            89..92 => self.create(),
            92..97 => self.sweep(),
            97..99 => self.lay_hands_on(),
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
            self.note("a minute passes");
            self.house.sim.idle(Duration::from_mins(1));
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
        let image = self.house.sim.choose(|rng| if rng.permille(100) { REMOTE_IMAGE } else { IMAGE });
        let made = request(&format!("w{}", self.named), image);
        let (ops, book, name) = (self.house.daemon.ops.clone(), Arc::clone(&self.book), made.name.clone());
        self.note(format!("create {name}"));
        self.house.sim.spawn(Owner::Daemon, async move {
            let answer = ops.create(made).await;
            book.lock().unwrap().history.push(format!("create {name} answered: {}", told(&answer)));
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
        book.said.entry(id).or_default().push(Said { number, word, answer: None });
        book.history.push(format!("{word:?} {} (order {number})", self.house.row(id).name));
        self.house.sim.spawn(Owner::Daemon, async move {
            let (granted, answer) = obey(&ops, id, word).await;
            let mut book = shared.lock().unwrap();
            book.history.push(format!("order {number} answered: {answer}"));
            let orders = book.orders;
            for said in book.said.entry(id).or_default().iter_mut().filter(|said| said.number == number) {
                said.answer = Some((granted, orders));
            }
        });
    }

    /// A pass begins, unless it runs already: that is the driver's promise.
    fn sweep(&mut self) {
        let pass = self.house.sim.choose(|rng| rng.pick(&PASSES));
        if self.book.lock().unwrap().running_passes.contains(&pass) {
            return;
        }
        self.book.lock().unwrap().running_passes.push(pass);
        self.note(format!("{pass} begins"));
        let (sweeper, book) = (Arc::clone(&self.house.daemon.sweeper), Arc::clone(&self.book));
        self.house.sim.spawn(Owner::Daemon, async move {
            let said = match sweeper.look().await {
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
    fn lay_hands_on(&mut self) {
        let Some(id) = self.any_workspace() else { return };
        let row = self.house.row(id);
        let Some(container) = row.container else { return };
        let hand = self.house.sim.choose(|rng| rng.below(5));
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
        let mut book = self.book.lock().unwrap();
        book.running_passes.clear();
        // Who was not answered was promised nothing.
        let orders = book.orders;
        for said in book.said.values_mut().flatten() {
            said.answer.get_or_insert((false, orders));
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
            self.witness.check(&self.house)?;
        }
        self.witness.approving = true;
        self.house.converge();
        for id in std::mem::take(&mut self.witness.wiped) {
            // An agent that lost its token file gets it back when it is started the next time.
            if self.house.status(id) == Status::Online {
                self.say(id, Word::Restart);
                self.house.sim.quiesce();
            }
        }
        let last = self.house.converge();
        self.note(format!("at rest after {} passes had nothing to do", last.len()));
        self.witness.check(&self.house)
    }

    /// Promise 3: who was told "stopped" or "removed", and said nothing since, finds it so. Orders that
    /// overlapped may have been carried out either way round, other than a stop or a removal given while
    /// something was starting: it was given to end that.
    fn the_last_word_counts(&self) -> Result<(), Broken> {
        for (id, said) in &self.book.lock().unwrap().said {
            let Some((last, before)) = said.split_last() else { continue };
            if !last.answer.is_some_and(|(granted, _)| granted)
                || !before.iter().all(|earlier| earlier.came_before(*last))
            {
                continue;
            }
            let row = self.house.row(*id);
            let kept = match last.word {
                Word::Stop => row.status == Status::Paused,
                Word::Remove => row.status == Status::Removed,
                Word::Undelete => row.status != Status::Removed,
                Word::Start | Word::Restart | Word::Recreate => row.status != Status::Paused,
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

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// A seed that broke a promise.
struct Failed {
    seed: u64,
    broken: Broken,
    history: String,
}

fn run(seed: u64) -> Result<(), Failed> {
    let book = Shared::default();
    let told = Arc::clone(&book);
    let ended = catch_unwind(AssertUnwindSafe(move || Story::new(seed, told).tell()));
    let broken = match ended {
        Ok(Ok(())) => return Ok(()),
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
    let failed: Vec<_> = seeds.filter_map(|seed| run(seed).err()).collect();
    let Some(first) = failed.first() else { return };
    let list = failed.iter().fold(String::new(), |mut text, failed| {
        writeln!(text, "seed {}: {}", failed.seed, failed.broken).expect("a string takes everything");
        text
    });
    let (history, seed) = (&first.history, first.seed);
    panic!("{history}{list}Again: OSTLER_SIM_SEED={seed} cargo test --test main simulation::smoke");
}
