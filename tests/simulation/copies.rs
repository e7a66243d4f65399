//! A copy of the database is restored at any point, while engine and mirror have moved on.
//!
//! Commands are given, a copy is made, more commands are given (a kill may interrupt the last one), and the copy is
//! restored. Then nothing that runs is stopped or moved to the trash automatically, nothing that was stopped starts,
//! and differences are reported: the registry is recovering. Once everything is adopted, what ran still runs, with a
//! live token, and whatever is removed then can be undeleted: a purge that was ordered before the copy and undone
//! since is not carried out.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use ostler::{
    domain::{
        ids::{ContainerId, WorkspaceId},
        naming::LABEL_SPEC,
        observed::ContainerState,
        status::Status,
        workspace::Workspace,
    },
    ops::AdoptRequest,
    store::{Bearer, RemoveResult, Scope, Store},
    tasks::AtOnce,
};
use serde_json::{Value, json};

use super::{
    executor::{Owner, TaskOrder},
    house::{House, IMAGE, at_once, token_of},
    people::{WORDS, Word},
};
use crate::support::rng::Rng;

/// Longer than every grace.
const MINUTES: usize = 16;

/// Name, state and number of starts of a container.
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

/// What commands decided about a row, without what was only observed.
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

/// A random command. Not a purge: a restored copy cannot undo that.
fn word(rng: &mut Rng) -> Word {
    loop {
        let word = rng.pick(&WORDS);
        if word != Word::Purge {
            return word;
        }
    }
}

/// Runs the passes; nothing is approved.
fn sweep_for_a_while(house: &House) {
    for _ in 0..MINUTES {
        house.all_beat();
        house.sweep();
        house.sim.quiesce();
        house.sim.pass(Duration::from_mins(1));
    }
}

/// Orders a purge that is not carried out before the copy is made. `None` if every workspace is removed.
fn order_purge(house: &House, rng: &mut Rng) -> Option<WorkspaceId> {
    let live: Vec<_> = house.rows().into_iter().filter(|row| row.status != Status::Removed).collect();
    if live.is_empty() {
        return None;
    }
    let id = rng.pick(&live).id;
    let removed = at_once(house.eye.remove_workspace(id, true, true, house.sim.now()));
    assert!(matches!(removed, Ok(RemoveResult::Removed { .. })), "{removed:?}");
    Some(id)
}

/// Removes everything without a purge, and checks that all of it can be undeleted.
fn removals_keep_volumes(house: &House) -> Result<(), String> {
    let before = volumes(house);
    for row in house.rows().into_iter().filter(|row| row.status != Status::Removed) {
        let (method, path, body) = Word::Remove.request(row.id);
        house.sim.calmly(house.as_person(method, &path, body));
    }
    sweep_for_a_while(house);
    let after = volumes(house);
    let lost: Vec<_> = before.iter().filter(|volume| !after.contains(volume)).collect();
    if lost.is_empty() { Ok(()) } else { Err(format!("a removal without purge deleted {lost:?} for good")) }
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
    let undone = rng.one_in(3).then(|| order_purge(&house, &mut rng)).flatten();
    let copy = house.disk.copy().expect("a database in memory is copied");
    for word in [Word::Undelete, Word::Recreate] {
        if let Some((method, path, body)) = undone.map(|id| word.request(id)) {
            house.sim.calmly(house.as_person(method, &path, body));
        }
    }
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
        // Of an interrupted creation, only volumes may be left; there is nothing to make a row from.
        let adoptable =
            |request: &AdoptRequest| request.known.is_some() || request.things.container.is_some();
        for (request, _) in unknown.into_iter().filter(|(request, _)| adoptable(request)) {
            let named = format!("{request:?}");
            let adopted = house.calmly(|ops| async move { ops.adopt(request).await });
            if let Err(error) = adopted {
                // An operator has to decide about a parent whose children are up.
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
    removals_keep_volumes(&house)
}

/// Runs the scenario of a seed; `Err` describes the violation.
pub(crate) fn play(seed: u64) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|_| Err("it panicked".into()))
}

/// Number that a debug build runs in a few seconds; `tests/assurance` runs more.
const SEEDS: u64 = 40;

#[test]
fn older_copy_put_back_stops_and_starts_nothing() {
    let broken: Vec<_> = (0..SEEDS).filter_map(|seed| Some((seed, play(seed).err()?))).collect();
    assert!(broken.is_empty(), "{} of {SEEDS} seeds: {:#?}", broken.len(), &broken[..broken.len().min(5)]);
}

/// Adopts everything; returns the items and whether the registry is still recovering.
fn adopt_all(house: &House) -> (Vec<Value>, bool) {
    let (status, answer) = house.sim.calmly(house.as_person("POST", "/adopt", Some(json!({ "all": true }))));
    assert_eq!(status, 200, "{answer}");
    (answer["items"].as_array().unwrap().clone(), answer["recovering"].as_bool().unwrap())
}

/// Replaces the label that describes the container; returns its previous value.
fn relabel(house: &House, id: WorkspaceId, label: &str) -> String {
    let mut state = house.world.state();
    let container = state.containers.values_mut().find(|container| container.name.contains(&id.to_string()));
    container.unwrap().spec.labels.insert(LABEL_SPEC.into(), label.into()).unwrap()
}

#[test]
fn recovery_goes_on_while_a_container_could_not_be_adopted() {
    let house = House::new(1, TaskOrder::AsWoken);
    let id = house.furnish_unknown();
    let label = relabel(&house, id, "unreadable");
    let ready = || house.sim.calmly(house.as_person("GET", "/ready", None));
    assert_eq!(ready(), (200, json!({ "status": "ready" })));
    at_once(house.eye.begin_recovery(house.sim.now(), 7, "it was lost".into())).unwrap();
    let (items, recovering_still) = adopt_all(&house);
    assert_eq!(items[0]["adopted"], false, "{items:#?}");
    assert_eq!(ready(), (200, json!({ "status": "ready", "recovering": true })));
    let before = containers(&house);
    sweep_for_a_while(&house);
    assert_eq!(containers(&house), before, "what could not be adopted was stopped and moved to the trash");
    assert!(recovering_still && recovering(&house), "the recovery ended");

    relabel(&house, id, &label);
    let (items, recovering_still) = adopt_all(&house);
    assert_eq!((&items[0]["adopted"], recovering_still), (&true.into(), false), "{items:#?}");
    sweep_for_a_while(&house);
    assert_eq!(containers(&house), before, "what was adopted runs on");
}

#[test]
fn recovery_ends_where_only_volumes_are_left() {
    let house = House::new(2, TaskOrder::AsWoken);
    house.furnish_unknown();
    at_once(house.eye.begin_recovery(house.sim.now(), 7, "it was lost".into())).unwrap();
    house.world.state().containers.clear();
    let (items, recovering_still) = adopt_all(&house);
    assert_eq!((&items[0]["adopted"], recovering_still), (&false.into(), false), "{items:#?}");
}

fn drifted(house: &House, id: WorkspaceId) -> bool {
    let (_, shown) = house.sim.calmly(house.as_person("GET", &format!("/workspaces/{id}"), None));
    shown["drifted"].as_bool().unwrap_or_else(|| panic!("{shown}"))
}

fn set_tier(house: &House, id: WorkspaceId, tier: u8) {
    let body = json!({ "tier": tier });
    let (status, answer) =
        house.sim.calmly(house.as_person("PATCH", &format!("/workspaces/{id}"), Some(body)));
    assert_eq!(status, 200, "{answer}");
}

fn say_to(house: &House, id: WorkspaceId, word: Word) {
    let (method, path, body) = word.request(id);
    let (status, answer) = house.sim.calmly(house.as_person(method, &path, body));
    assert!(status < 300, "{word:?}: {answer}");
    house.sim.quiesce();
}

#[test]
fn workspace_rebuilt_from_labels_drifts_when_it_is_changed() {
    let house = House::new(3, TaskOrder::AsWoken);
    let id = house.furnish_unknown();
    adopt_all(&house);
    assert!(!drifted(&house, id), "nothing was changed");
    set_tier(&house, id, 3);
    assert!(drifted(&house, id), "its container is still of the tier before");
    say_to(&house, id, Word::Stop);
    say_to(&house, id, Word::Start);
    assert!(drifted(&house, id), "a start keeps the container");
}

#[test]
fn adopted_container_of_a_known_row_shows_drift() {
    let mut house = House::new(4, TaskOrder::AsWoken);
    let (kept, made) = (house.online("kept"), house.online("made"));
    say_to(&house, kept, Word::Stop);
    let copy = house.disk.copy().unwrap();
    say_to(&house, kept, Word::Start);
    set_tier(&house, made, 3);
    say_to(&house, made, Word::Recreate);
    house.put_back(copy);
    let (items, _) = adopt_all(&house);
    assert!(items.len() == 2 && items.iter().all(|item| item["adopted"] == true), "{items:#?}");
    let says_so = |name: &str| {
        let item = items.iter().find(|item| item["name"] == name).unwrap();
        item["detail"].as_str().unwrap().contains("ostler show")
    };
    assert!(says_so("made") && !says_so("kept"), "{items:#?}");
    assert!(!drifted(&house, kept), "it is the container that the row knows");
    assert!(drifted(&house, made), "it was made from what the copy does not know");
    set_tier(&house, kept, 3);
    assert!(drifted(&house, kept), "what its container was made from was forgotten");
}
