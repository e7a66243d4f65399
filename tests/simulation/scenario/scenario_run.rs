//! Random scenarios: run, shortened, printed, and repeated.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use ostler::domain::status::Status;

use super::{
    super::invariants::{Broken, Coverage, Witness},
    STEPS, Scenario,
    book::{Shared, open},
};

/// A scenario to run.
#[derive(Clone, Debug)]
pub(crate) struct ScenarioRun {
    pub(crate) seed: u64,
    /// Numbers of its steps.
    pub(crate) steps: Vec<u64>,
}

/// Results of a scenario.
pub(crate) struct Ran {
    pub(crate) broken: Option<Broken>,
    pub(crate) history: Vec<String>,
    pub(crate) done: BTreeMap<&'static str, u64>,
    pub(crate) coverage: Coverage,
    pub(crate) reached: BTreeSet<Status>,
    /// Number of checks.
    pub(crate) looks: usize,
}

impl ScenarioRun {
    /// The full scenario of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        Self { seed, steps: (0..STEPS as u64).collect() }
    }

    /// Runs it.
    pub(crate) fn live(&self) -> Ran {
        let book = Shared::default();
        let transcript = Arc::clone(&book);
        let (seed, steps) = (self.seed, self.steps.clone());
        let ended = catch_unwind(AssertUnwindSafe(move || {
            let mut scenario = Scenario::new(seed, transcript);
            let ended = scenario.run(seed, &steps);
            let Witness { coverage, reached, checks, .. } = std::mem::take(&mut scenario.witness);
            (ended, coverage, reached, checks)
        }));
        let (broken, coverage, reached, checks) = match ended {
            Ok((ended, coverage, reached, checks)) => (ended.err(), coverage, reached, checks),
            // The panic message was printed where it happened.
            Err(_) => (Some("[panic] it panicked".to_owned()), Coverage::default(), BTreeSet::new(), 0),
        };
        let mut book = open(&book);
        Ran {
            broken,
            history: std::mem::take(&mut book.history),
            done: std::mem::take(&mut book.done),
            coverage,
            reached,
            looks: checks,
        }
    }

    /// Finds fewer steps that violate the same rule. It omits smaller and smaller groups of steps as long as the rule
    /// is still violated.
    pub(crate) fn shorten(&self, rule: &str, most: usize) -> Self {
        let breaks = |steps: &[u64]| {
            let scenario_run = Self { seed: self.seed, steps: steps.to_vec() };
            scenario_run.live().broken.is_some_and(|broken| rule_of(&broken) == rule)
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

    /// The steps as text: `3,7-9`.
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
            write!(text, "{comma}{range}").expect("writing to a string succeeds");
        }
        text
    }

    /// Parses the text of [`ScenarioRun::spelled`].
    pub(crate) fn spelled_out(seed: u64, text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        for range in text.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            steps.extend(first.parse::<u64>().ok()?..=last.parse::<u64>().ok()?);
        }
        Some(Self { seed, steps })
    }
}

/// The name of the rule in a violation.
pub(crate) fn rule_of(broken: &str) -> &str {
    broken.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or("other", |(rule, _)| rule)
}

impl Ran {
    /// The history, one event a line.
    pub(crate) fn transcript(&self) -> String {
        self.history.iter().enumerate().fold(String::new(), |mut text, (step, what)| {
            writeln!(text, "{step:5}  {what}").expect("writing to a string succeeds");
            text
        })
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Number of seeds, which a debug build runs in a few seconds; `tests/assurance` runs more.
const SEEDS: u64 = 60;

#[test]
fn random_scenarios_violate_no_invariant() {
    let seeds: Vec<u64> = match number("OSTLER_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("OSTLER_SIM_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let mut reached = BTreeSet::new();
    for seed in &seeds {
        let ran = ScenarioRun::of(*seed).live();
        reached.extend(ran.reached.iter().copied());
        if let Some(broken) = &ran.broken {
            panic!(
                "{}seed {seed}: {broken}\nAgain: OSTLER_SIM_SEED={seed} cargo test --test main simulation::scenario",
                ran.transcript()
            );
        }
    }
    let missed: Vec<_> = Status::ALL.into_iter().filter(|status| !reached.contains(status)).collect();
    assert!(
        seeds.len() < 60 || missed.is_empty(),
        "in {} scenarios no workspace ever had one of the statuses {missed:?}",
        seeds.len()
    );
}

#[test]
fn scenario_history_is_identical_for_the_same_seed() {
    for seed in 0..6 {
        let (once, again) = (ScenarioRun::of(seed).live(), ScenarioRun::of(seed).live());
        assert_eq!(once.history, again.history, "two runs of seed {seed} differ");
    }
}
