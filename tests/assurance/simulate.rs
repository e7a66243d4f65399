//! Random scenarios on the simulated machine of `tests/simulation`: as many as time allows, on all cores.

use std::{
    collections::BTreeMap,
    panic::{self, AssertUnwindSafe},
    sync::{Mutex, PoisonError},
    thread,
};

use crate::{
    Settings,
    report::Section,
    simulation::{
        invariants::{Coverage, Rule},
        scenario::{
            STEPS,
            scenario_run::{Ran, ScenarioRun, rule_of},
        },
    },
};

/// Number of scenarios in CI, and in a long run.
const SEEDS: u64 = 20_000;
const LONG: u64 = 1_000_000;
/// Maximum number of runs that are used to shorten a scenario that violates an invariant.
const TRIES: usize = 400;
/// Number of violations that are reported in full. Later violations often have the same cause as the first ones.
const SHOWN_IN_FULL: usize = 3;

/// Number of cores, 2 if unknown: the smallest supported machine. More cores run more scenarios in the same time.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(2, usize::from)
}

/// Totals over all scenarios.
#[derive(Default)]
struct Sum {
    runs: u64,
    steps: u64,
    checks: u64,
    done: BTreeMap<&'static str, u64>,
    coverage: Coverage,
    broken: BTreeMap<u64, String>,
}

impl Sum {
    fn add(&mut self, seed: u64, ran: &Ran) {
        self.runs += 1;
        self.steps += STEPS as u64;
        self.checks += ran.looks as u64;
        for (what, count) in &ran.done {
            *self.done.entry(what).or_default() += count;
        }
        self.coverage.add(&ran.coverage);
        if let Some(broken) = &ran.broken {
            self.broken.insert(seed, broken.clone());
        }
    }
}

pub(crate) fn run(settings: &Settings, section: &mut Section) {
    if let Some(seed) = settings.seed {
        return replay(settings, seed, section);
    }
    let wanted = settings.seeds.unwrap_or(if settings.long { LONG } else { SEEDS });
    let sum = Mutex::new(Sum::default());
    on_all_cores(settings.first_seed..settings.first_seed + wanted, |seed| {
        let ran = ScenarioRun::of(seed).live();
        sum.lock().unwrap_or_else(PoisonError::into_inner).add(seed, &ran);
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    print(&sum, section);
    for seed in sum.broken.keys().take(SHOWN_IN_FULL) {
        print_shortest(*seed, section);
    }
}

fn print(sum: &Sum, section: &mut Section) {
    section.count("seeds", sum.runs);
    section.count("steps by seed", sum.steps);
    section.count("checks of all rules, one after each step and while converging", sum.checks);
    for (what, count) in &sum.done {
        section.count(*what, *count);
    }
    let rows = Rule::ALL.iter().map(|(rule, name, promise, statement)| {
        let count = sum.coverage.0[*rule as usize];
        [(*name).to_owned(), (*promise).to_owned(), (*statement).to_owned(), count.to_string()]
    });
    section.table("Rules", ["rule", "promise", "what holds", "cases checked"], rows);
    // A rule that never had a case to check proves nothing.
    if sum.runs >= 1000 {
        for (rule, name, ..) in Rule::ALL {
            section
                .expect(sum.coverage.0[*rule as usize] > 0, || format!("rule {name} had no case to check"));
        }
    }
    for (seed, broken) in &sum.broken {
        section.broke(format!("seed {seed}: {broken}"));
    }
}

/// Reports the shortest scenario found for a violation.
fn print_shortest(seed: u64, section: &mut Section) {
    let scenario_run = ScenarioRun::of(seed);
    let Some(broken) = scenario_run.live().broken else { return };
    let short = quietly(|| scenario_run.shorten(rule_of(&broken), TRIES));
    let ran = short.live();
    let broken = ran.broken.clone().unwrap_or(broken);
    println!("{}seed {seed}: {broken}", ran.transcript());
    let hint = format!("replay: cargo assurance simulate --seed {seed} --steps {}", short.spelled());
    println!("{hint}\n");
    section.broke(format!("seed {seed} in {} steps; {hint}", short.steps.len()));
}

/// Runs one scenario again, and prints its history.
fn replay(settings: &Settings, seed: u64, section: &mut Section) {
    let scenario_run = match &settings.steps {
        None => ScenarioRun::of(seed),
        Some(text) => match ScenarioRun::spelled_out(seed, text) {
            Some(scenario_run) => scenario_run,
            None => return section.broke(format!("--steps {text} is not a list such as 3,7-9")),
        },
    };
    let ran = scenario_run.live();
    println!("{}", ran.transcript());
    section.count("seeds", 1);
    if let Some(broken) = ran.broken {
        section.broke(format!("seed {seed}: {broken}"));
    }
}

/// Calls `work` with each item, in this order, on all cores and without panic output.
pub(crate) fn on_all_cores<T>(items: impl IntoIterator<Item = T, IntoIter: Send>, work: impl Fn(T) + Sync) {
    let items = Mutex::new(items.into_iter());
    // A function, so that the lock is released before the work begins.
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    quietly(|| {
        thread::scope(|scope| {
            for _ in 0..cores() {
                scope.spawn(|| {
                    while let Some(item) = next() {
                        work(item);
                    }
                });
            }
        });
    });
}

/// Runs `work` without panic output: the history describes a panic, and the output would be thousands of lines.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    panic::set_hook(hook);
    done.unwrap_or_else(|panic| panic::resume_unwind(panic))
}
