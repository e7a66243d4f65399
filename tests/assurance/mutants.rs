//! The proof that the simulator would notice: rules are left out of ostler, one after the other, and each has to be
//! missed within a stated number of lives.
//!
//! The breakages are in `src/mutation.rs`, in one build: which is in force is decided at run time, for one thread.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use ostler::mutation::{Mutation, put_in_force};

use crate::{
    Settings,
    report::Section,
    simulate::{cores, quietly},
    simulation::{
        copies, outside,
        story::life::{Life, rule_of},
    },
};

/// Within so many lives each has to be found.
const WITHIN: u64 = 5_000;

/// How a breakage was found.
struct Found {
    name: &'static str,
    says: &'static str,
    /// By the life of which seed, and by which rule.
    how: Option<(u64, String)>,
}

pub(crate) fn run(settings: &Settings, section: &mut Section) {
    let within = settings.seeds.unwrap_or(WITHIN);
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let wanted: Vec<_> = Mutation::ALL
        .iter()
        .filter(|(_, name, _)| settings.mutation.as_deref().is_none_or(|wanted| wanted == *name))
        .collect();
    quietly(|| {
        thread::scope(|scope| {
            for _ in 0..cores() {
                scope.spawn(|| {
                    while let Some((mutation, name, says)) = wanted.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let how = hunt(*mutation, settings.first_seed, within);
                        // Said at once: one that is not found takes as long as all the others.
                        match &how {
                            Some((seed, rule)) => println!("  {name}: seed {seed}, {rule}"),
                            None => println!("  {name}: NOT noticed in {within} lives"),
                        }
                        let one = Found { name, says, how };
                        found.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                    }
                });
            }
        });
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|one| one.name);
    section.count("breakages", wanted.len() as u64);
    section.count("breakages found", found.iter().filter(|one| one.how.is_some()).count() as u64);
    section.expect(!wanted.is_empty(), || "no breakage is called that".to_owned());
    for one in &found {
        section.expect(one.how.is_some(), || {
            format!("`{}` ({}) was not noticed in {within} lives", one.name, one.says)
        });
    }
    let rows = found.iter().map(|one| {
        let (life, rule) =
            one.how.clone().map_or(("-".to_owned(), "-".to_owned()), |(n, rule)| (n.to_string(), rule));
        [one.name.to_owned(), one.says.to_owned(), life, rule]
    });
    section.table("Breakages", ["breakage", "what it does", "found by seed", "by rule"], rows);
}

/// Lives lives with a breakage in force until one breaks; answers its seed, and by which rule.
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
        let life = Life::of(seed);
        let broken = life.live().broken?;
        // A life that breaks all the same proves nothing.
        put_in_force(None);
        life.live().broken.is_none().then(|| (seed, rule_of(&broken).to_owned()))
    });
    put_in_force(None);
    found
}
