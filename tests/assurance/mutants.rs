//! Mutation test of the simulator: rules are removed from ostler, one at a time, and each removal has to be detected
//! within a fixed number of scenarios.
//!
//! The mutants are in `src/testing/mutation.rs`, all in one build; the active one is selected at run time, per thread.

use std::sync::{Mutex, PoisonError};

use ostler::testing::mutation::{Mutation, put_in_force};

use crate::{
    Settings,
    report::Section,
    simulate::on_all_cores,
    simulation::{
        copies, outside,
        scenario::scenario_run::{ScenarioRun, rule_of},
    },
};

/// Maximum number of scenarios within which each mutant has to be detected.
const WITHIN: u64 = 5_000;

/// How a mutant was detected.
struct Found {
    name: &'static str,
    description: &'static str,
    /// Seed of the scenario and rule that detected it; `None` if nothing did.
    how: Option<(u64, String)>,
}

pub(crate) fn run(settings: &Settings, section: &mut Section) {
    let within = settings.seeds.unwrap_or(WITHIN);
    let found = Mutex::new(Vec::new());
    let wanted: Vec<_> = Mutation::ALL
        .iter()
        .filter(|(_, name, _)| settings.mutation.as_deref().is_none_or(|wanted| wanted == *name))
        .collect();
    on_all_cores(&wanted, |(mutation, name, description)| {
        let how = hunt(*mutation, settings.first_seed, within);
        // Printed at once, because one undetected mutant takes as long as all detected ones together.
        match &how {
            Some((seed, rule)) => println!("  {name}: seed {seed}, {rule}"),
            None => println!("  {name}: NOT detected in {within} runs"),
        }
        found.lock().unwrap_or_else(PoisonError::into_inner).push(Found { name, description, how });
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|one| one.name);
    section.count("mutants", wanted.len() as u64);
    section.count("mutants detected", found.iter().filter(|one| one.how.is_some()).count() as u64);
    section.expect(!wanted.is_empty(), || "there is no mutant of this name".to_owned());
    for one in &found {
        section.expect(one.how.is_some(), || {
            format!("`{}` ({}) was not detected in {within} runs", one.name, one.description)
        });
    }
    let rows = found.iter().map(|one| {
        let (scenario_run, rule) =
            one.how.clone().map_or(("-".to_owned(), "-".to_owned()), |(n, rule)| (n.to_string(), rule));
        [one.name.to_owned(), one.description.to_owned(), scenario_run, rule]
    });
    section.table("Mutants", ["mutant", "what it does", "detected by seed", "by rule"], rows);
}

/// Runs scenarios with a mutant until one violates a rule; returns seed and rule.
fn hunt(mutation: Mutation, first: u64, within: u64) -> Option<(u64, String)> {
    let found = (first..first + within).find_map(|seed| {
        put_in_force(Some(mutation));
        if copies::play(seed).is_err() {
            put_in_force(None);
            return copies::play(seed).is_ok().then(|| (seed, "copies".to_owned()));
        }
        if let Err((scene, _)) = outside::play(seed) {
            put_in_force(None);
            return outside::play(seed).is_ok().then(|| (seed, scene.to_owned()));
        }
        let scenario_run = ScenarioRun::of(seed);
        let broken = scenario_run.live().broken?;
        // A scenario that also fails without the mutant proves nothing.
        put_in_force(None);
        scenario_run.live().broken.is_none().then(|| (seed, rule_of(&broken).to_owned()))
    });
    put_in_force(None);
    found
}
