//! A copy of the database is put back at any point, beside an engine and a mirror that have moved on.
//!
//! Orders are given, a copy is kept, more orders are given, the last of them perhaps cut off by a kill, and the copy is
//! put back. Then nothing that runs is stopped or moved by itself, nothing that was stopped comes up, and whatever
//! differs is said: the registry is recovering. Once everything is adopted, what ran still runs, with a live token.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use ostler::{
    domain::{
        ids::{ContainerId, WorkspaceId},
        observed::ContainerState,
        status::Status,
        workspace::Workspace,
    },
    ops::AdoptRequest,
    store::{Bearer, Scope, Store},
    tasks::AtOnce,
};
use serde_json::json;

use super::{
    executor::{Owner, TaskOrder},
    house::{House, IMAGE, at_once, token_of},
    people::{WORDS, Word},
};
use crate::support::rng::Rng;

/// Longer than every grace.
const MINUTES: usize = 16;

/// What the engine has of a container.
type Seen = (String, ContainerState, u32);

fn containers(house: &House) -> BTreeMap<ContainerId, Seen> {
    let state = house.world.state();
    state.containers.iter().map(|(id, c)| (id.clone(), (c.name.clone(), c.state, c.starts))).collect()
}

fn volumes(house: &House) -> Vec<String> {
    house.world.state().volumes.keys().cloned().collect()
}

fn recovering(house: &House) -> bool {
    at_once(house.eye.registry()).expect("the store answers").is_some_and(|r| r.recovering_since.is_some())
}

/// What an order decided of a row, as opposed to what was only observed.
fn decided(rows: &[Workspace]) -> BTreeMap<WorkspaceId, (bool, bool, u32, Option<ContainerId>)> {
    let of = |row: &Workspace| {
        let removed = row.status == Status::Removed;
        (removed, row.status == Status::Paused, row.incarnation.0, row.container.clone())
    };
    rows.iter().map(|row| (row.id, of(row))).collect()
}

fn say(house: &House, rng: &mut Rng, number: usize) {
    let rows = house.rows();
    if rows.is_empty() || rng.permille(200) {
        let body = json!({ "name": format!("w{number}"), "image": IMAGE });
        house.sim.calmly(house.as_person("POST", "/workspaces", Some(body)));
        return;
    }
    let (method, path, body) = word(rng).request(rng.pick(&rows).id);
    house.sim.calmly(house.as_person(method, &path, body));
}

/// What empties the trash is a word that no copy takes back.
fn word(rng: &mut Rng) -> Word {
    loop {
        let word = rng.pick(&WORDS);
        if word != Word::Purge {
            return word;
        }
    }
}

/// Passes run, and nobody approves anything.
fn sweep_for_a_while(house: &House) {
    for _ in 0..MINUTES {
        house.all_beat();
        house.sweep();
        house.sim.quiesce();
        house.sim.pass(Duration::from_mins(1));
    }
}

fn run(seed: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed, 40);
    let mut house = House::new(seed, TaskOrder::Seeded);
    for number in 0..3 + rng.below(4) {
        house.online(&format!("first-{number}"));
    }
    for number in 0..rng.below(4) {
        say(&house, &mut rng, number);
    }
    house.sim.quiesce();
    let copy = house.disk.copy().expect("a database in memory is copied");
    for number in 0..=rng.below(4) {
        say(&house, &mut rng, 100 + number);
    }
    house.sim.quiesce();
    if rng.one_in(3) {
        let (method, path, body) = word(&mut rng).request(rng.pick(&house.rows()).id);
        let asking = house.as_person(method, &path, body);
        house.sim.spawn(Owner::Daemon, async move { drop(asking.await) });
        for _ in 0..rng.below(30) {
            house.sim.run_ready();
            let Some(next) = house.sim.held().first().copied() else { break };
            house.sim.take(next.id);
        }
    }
    if rng.one_in(4) {
        house.crash(|_| false);
        house.establish();
        return if recovering(&house) {
            Err("after a kill alone the registry takes itself for an older one".into())
        } else {
            Ok(())
        };
    }
    let then =
        decided(&at_once(Store::staged(&copy, Arc::new(AtOnce)).workspaces(Scope::Any)).expect("it answers"));
    let now = decided(&house.rows());
    house.put_back(copy);
    let before = (containers(&house), volumes(&house));
    if then != now && !recovering(&house) {
        return Err(format!("nothing says that the registry is older: {then:?}, and it was {now:?}"));
    }
    sweep_for_a_while(&house);
    let after = (containers(&house), volumes(&house));
    if recovering(&house) && after != before {
        return Err(format!("while it was recovering, {before:?} became {after:?}"));
    }

    for _ in 0..4 {
        let unknown =
            house.calmly(|ops| async move { ops.unknown().await }).map_err(|error| error.to_string())?;
        // Of what was being made only volumes may be left: there is nothing to make a row of.
        let adoptable =
            |request: &AdoptRequest| request.known.is_some() || request.things.container.is_some();
        for (request, _) in unknown.into_iter().filter(|(request, _)| adoptable(request)) {
            let named = format!("{request:?}");
            let adopted = house.calmly(|ops| async move { ops.adopt(request).await });
            if let Err(error) = adopted {
                // A parent whose children are up is a person's to decide on.
                let id = house
                    .rows()
                    .into_iter()
                    .find(|row| named.contains(&row.id.to_string()))
                    .map(|row| row.id);
                let Some(id) = id else { return Err(format!("{named} is not adopted: {error}")) };
                let (method, path, body) = Word::Stop.request(id);
                house.sim.calmly(house.as_person(method, &path, body));
            }
        }
        house
            .calmly(|ops| async move { ops.end_recovery_if_settled(true).await })
            .map_err(|error| error.to_string())?;
    }
    if recovering(&house) {
        return Err("everything was adopted, and the recovery does not end".into());
    }
    let before = containers(&house);
    sweep_for_a_while(&house);
    let after = containers(&house);
    for (id, (name, state, _)) in before.iter().filter(|(_, (_, state, _))| state.may_run()) {
        let Some((_, now, _)) = after.get(id) else {
            return Err(format!("{name} is gone, which was {state:?}"));
        };
        if !now.may_run() {
            return Err(format!("{name} ran when all was adopted, and is {now:?}"));
        }
    }
    for row in house.rows() {
        let Some(container) = house.container(row.id).filter(|container| container.state.may_run()) else {
            continue;
        };
        let token = token_of(container.held_token.as_deref());
        let holder = token.and_then(|token| house.eye.bearer(&token.digest(), house.sim.now()));
        if !matches!(holder, Some(Bearer::Workspace(holder)) if holder.workspace == row.id) {
            return Err(format!("{} is {}, and the token of its process is dead", row.name, row.status));
        }
    }
    Ok(())
}

/// Plays the life of a seed; answers how it breaks a promise.
pub(crate) fn play(seed: u64) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|_| Err("it panicked".into()))
}

/// As many as a debug build plays in a few seconds; `tests/assurance` plays more.
const SEEDS: u64 = 40;

#[test]
fn older_copy_put_back_stops_and_starts_nothing() {
    let broken: Vec<_> = (0..SEEDS).filter_map(|seed| Some((seed, play(seed).err()?))).collect();
    assert!(broken.is_empty(), "{} of {SEEDS} seeds: {:#?}", broken.len(), &broken[..broken.len().min(5)]);
}
