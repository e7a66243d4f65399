//! A copy of the database is restored at any point. The engine and the mirror file have changed since the copy was
//! made.
//!
//! Commands are given, a copy is made, more commands are given (a kill may interrupt the last one), and the copy is
//! restored. Then no running container is stopped or moved to the trash automatically, no stopped one is started, and
//! differences are reported: the registry is recovering. Once everything is adopted, every container that ran still
//! runs with a live token, and every workspace removed from then on can be undeleted: a purge that was ordered before
//! the copy and undone since is not carried out.

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
    runtime::tasks::AtOnce,
    store::{RemoveResult, Scope, Store, TokenSubject},
};
use serde_json::{Value, json};

use super::{
    commands::{COMMANDS, Command},
    executor::{Owner, TaskOrder},
    installation::{IMAGE, Installation, now_or_panic, token_of},
};
use crate::support::rng::Rng;

/// Longer than every grace.
const MINUTES: usize = 16;

/// Name, state and number of starts of a container.
type Seen = (String, ContainerState, u32);

fn containers(site: &Installation) -> BTreeMap<ContainerId, Seen> {
    let state = site.world.state();
    state.containers.iter().map(|(id, c)| (id.clone(), (c.name.clone(), c.state, c.starts))).collect()
}

fn volumes(site: &Installation) -> Vec<String> {
    site.world.state().volumes.keys().cloned().collect()
}

fn recovering(site: &Installation) -> bool {
    now_or_panic(site.reader.registry())
        .expect("the store answers")
        .is_some_and(|r| r.recovering_since.is_some())
}

/// For each row, the values that commands set; not the values that result from observations.
fn decided(rows: &[Workspace]) -> BTreeMap<WorkspaceId, (bool, bool, u32, Option<ContainerId>)> {
    let of = |row: &Workspace| {
        let removed = row.status == Status::Removed;
        (removed, row.status == Status::Paused, row.incarnation.0, row.container.clone())
    };
    rows.iter().map(|row| (row.id, of(row))).collect()
}

fn command(site: &Installation, rng: &mut Rng, number: usize) {
    let rows = site.rows();
    if rows.is_empty() || rng.permille(200) {
        let body = json!({ "name": format!("w{number}"), "image": IMAGE });
        site.sim.calmly(site.as_operator("POST", "/workspaces", Some(body)));
        return;
    }
    let (method, path, body) = random_command(rng).request(rng.pick(&rows).id);
    site.sim.calmly(site.as_operator(method, &path, body));
}

/// Returns a random command other than a purge, because restoring a copy cannot undo a purge.
fn random_command(rng: &mut Rng) -> Command {
    loop {
        let random_command = rng.pick(&COMMANDS);
        if random_command != Command::Purge {
            return random_command;
        }
    }
}

/// Runs the passes without approving any plan.
fn sweep_for_a_while(site: &Installation) {
    for _ in 0..MINUTES {
        site.all_heartbeat();
        site.sweep();
        site.sim.quiesce();
        site.sim.pass(Duration::from_mins(1));
    }
}

/// Orders a purge that is not carried out before the copy is made. `None` if every workspace is removed.
fn order_purge(site: &Installation, rng: &mut Rng) -> Option<WorkspaceId> {
    let live: Vec<_> = site.rows().into_iter().filter(|row| row.status != Status::Removed).collect();
    if live.is_empty() {
        return None;
    }
    let id = rng.pick(&live).id;
    let removed = now_or_panic(site.reader.remove_workspace(id, true, true, site.sim.now()));
    assert!(matches!(removed, Ok(RemoveResult::Removed { .. })), "{removed:?}");
    Some(id)
}

/// Removes every workspace without a purge, and checks that no volume is deleted.
fn removals_keep_volumes(site: &Installation) -> Result<(), String> {
    let before = volumes(site);
    for row in site.rows().into_iter().filter(|row| row.status != Status::Removed) {
        let (method, path, body) = Command::Remove.request(row.id);
        site.sim.calmly(site.as_operator(method, &path, body));
    }
    sweep_for_a_while(site);
    let after = volumes(site);
    let lost: Vec<_> = before.iter().filter(|volume| !after.contains(volume)).collect();
    if lost.is_empty() {
        Ok(())
    } else {
        Err(format!("a removal without --purge deleted {lost:?} permanently"))
    }
}

fn run(seed: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed, 40);
    let mut site = Installation::new(seed, TaskOrder::Seeded);
    for number in 0..3 + rng.below(4) {
        site.online(&format!("first-{number}"));
    }
    for number in 0..rng.below(4) {
        command(&site, &mut rng, number);
    }
    site.sim.quiesce();
    let undone = rng.one_in(3).then(|| order_purge(&site, &mut rng)).flatten();
    let copy = site.disk.copy().expect("a database in memory is copied");
    for random_command in [Command::Undelete, Command::Recreate] {
        if let Some((method, path, body)) = undone.map(|id| random_command.request(id)) {
            site.sim.calmly(site.as_operator(method, &path, body));
        }
    }
    for number in 0..=rng.below(4) {
        command(&site, &mut rng, 100 + number);
    }
    site.sim.quiesce();
    if rng.one_in(3) {
        let (method, path, body) = random_command(&mut rng).request(rng.pick(&site.rows()).id);
        let asking = site.as_operator(method, &path, body);
        site.sim.spawn(Owner::Daemon, async move { drop(asking.await) });
        for _ in 0..rng.below(30) {
            site.sim.run_ready();
            let Some(next) = site.sim.held().first().copied() else { break };
            site.sim.take(next.id);
        }
    }
    if rng.one_in(4) {
        site.crash(|_| false);
        site.establish();
        return if recovering(&site) {
            Err("after a kill alone the registry is reported as older than its mirror".into())
        } else {
            Ok(())
        };
    }
    let then = decided(
        &now_or_panic(Store::staged(&copy, Arc::new(AtOnce)).workspaces(Scope::Any))
            .expect("the store answers"),
    );
    let now = decided(&site.rows());
    site.restore_copy(copy);
    let before = (containers(&site), volumes(&site));
    if then != now && !recovering(&site) {
        return Err(format!("the older registry was not detected: it is {then:?}, and it was {now:?}"));
    }
    sweep_for_a_while(&site);
    let after = (containers(&site), volumes(&site));
    if recovering(&site) && after != before {
        return Err(format!(
            "during the recovery the sweeps changed containers or volumes: {before:?}, then {after:?}"
        ));
    }

    for _ in 0..4 {
        let unknown =
            site.calmly(|ops| async move { ops.unknown().await }).map_err(|error| error.to_string())?;
        // An interrupted creation may have left only volumes. No row can be rebuilt from volumes alone.
        let adoptable =
            |request: &AdoptRequest| request.known.is_some() || request.contents.container.is_some();
        for (request, _) in unknown.into_iter().filter(|(request, _)| adoptable(request)) {
            let named = format!("{request:?}");
            let adopted = site.calmly(|ops| async move { ops.adopt(request).await });
            if let Err(error) = adopted {
                // ostler does not adopt a parent whose children are up: an operator has to decide. Here the operator
                // stops it.
                let id =
                    site.rows().into_iter().find(|row| named.contains(&row.id.to_string())).map(|row| row.id);
                let Some(id) = id else { return Err(format!("{named} was not adopted: {error}")) };
                let (method, path, body) = Command::Stop.request(id);
                site.sim.calmly(site.as_operator(method, &path, body));
            }
        }
        site.calmly(|ops| async move { ops.end_recovery_if_settled(true).await })
            .map_err(|error| error.to_string())?;
    }
    if recovering(&site) {
        return Err("everything was adopted, and the recovery did not end".into());
    }
    let before = containers(&site);
    sweep_for_a_while(&site);
    let after = containers(&site);
    for (id, (name, state, _)) in before.iter().filter(|(_, (_, state, _))| state.may_run()) {
        let Some((_, now, _)) = after.get(id) else {
            return Err(format!("{name}, which was {state:?}, is gone"));
        };
        if !now.may_run() {
            return Err(format!("{name} ran when all was adopted, and is {now:?}"));
        }
    }
    running_tokens_are_valid(&site)?;
    removals_keep_volumes(&site)
}

/// Checks that the token of every process in a running container is valid, and belongs to its workspace.
fn running_tokens_are_valid(site: &Installation) -> Result<(), String> {
    for row in site.rows() {
        let Some(container) = site.container(row.id).filter(|container| container.state.may_run()) else {
            continue;
        };
        let token = token_of(container.held_token.as_deref());
        let token_owner = token.and_then(|token| site.reader.token_subject(&token.digest(), site.sim.now()));
        let is_its_own =
            matches!(token_owner, Some(TokenSubject::Workspace(owner)) if owner.workspace == row.id);
        if !is_its_own {
            return Err(format!("{} is {}, and the token of its process is not valid", row.name, row.status));
        }
    }
    Ok(())
}

/// Runs the scenario of a seed; `Err` describes the violation.
pub(crate) fn play(seed: u64) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|_| Err("it panicked".into()))
}

/// Number of seeds, which a debug build runs in a few seconds; `tests/assurance` runs more.
const SEEDS: u64 = 40;

#[test]
fn restored_older_database_stops_and_starts_no_container() {
    let broken: Vec<_> = (0..SEEDS).filter_map(|seed| Some((seed, play(seed).err()?))).collect();
    assert!(broken.is_empty(), "{} of {SEEDS} seeds: {:#?}", broken.len(), &broken[..broken.len().min(5)]);
}

/// Adopts everything; returns the items and whether the registry is still recovering.
fn adopt_all(site: &Installation) -> (Vec<Value>, bool) {
    let (status, answer) = site.sim.calmly(site.as_operator("POST", "/adopt", Some(json!({ "all": true }))));
    assert_eq!(status, 200, "{answer}");
    (answer["items"].as_array().unwrap().clone(), answer["recovering"].as_bool().unwrap())
}

/// Replaces the label that describes the container; returns its previous value.
fn relabel(site: &Installation, id: WorkspaceId, label: &str) -> String {
    let mut state = site.world.state();
    let container = state.containers.values_mut().find(|container| container.name.contains(&id.to_string()));
    container.unwrap().spec.labels.insert(LABEL_SPEC.into(), label.into()).unwrap()
}

#[test]
fn recovery_continues_while_a_container_cannot_be_adopted() {
    let site = Installation::new(1, TaskOrder::AsWoken);
    let id = site.add_unknown();
    let label = relabel(&site, id, "unreadable");
    let ready = || site.sim.calmly(site.as_operator("GET", "/ready", None));
    assert_eq!(ready(), (200, json!({ "status": "ready" })));
    now_or_panic(site.reader.begin_recovery(site.sim.now(), 7, "it was lost".into())).unwrap();
    let (items, recovering_still) = adopt_all(&site);
    assert_eq!(items[0]["adopted"], false, "{items:#?}");
    assert_eq!(ready(), (200, json!({ "status": "ready", "recovering": true })));
    let before = containers(&site);
    sweep_for_a_while(&site);
    assert_eq!(
        containers(&site),
        before,
        "a container that could not be adopted was stopped or moved to the trash"
    );
    assert!(recovering_still && recovering(&site), "the recovery ended");

    relabel(&site, id, &label);
    let (items, recovering_still) = adopt_all(&site);
    assert_eq!((&items[0]["adopted"], recovering_still), (&true.into(), false), "{items:#?}");
    sweep_for_a_while(&site);
    assert_eq!(containers(&site), before, "the adopted container was changed");
}

#[test]
fn recovery_ends_when_only_volumes_are_left() {
    let site = Installation::new(2, TaskOrder::AsWoken);
    site.add_unknown();
    now_or_panic(site.reader.begin_recovery(site.sim.now(), 7, "it was lost".into())).unwrap();
    site.world.state().containers.clear();
    let (items, recovering_still) = adopt_all(&site);
    assert_eq!((&items[0]["adopted"], recovering_still), (&false.into(), false), "{items:#?}");
}

fn drifted(site: &Installation, id: WorkspaceId) -> bool {
    let (_, answer) = site.sim.calmly(site.as_operator("GET", &format!("/workspaces/{id}"), None));
    answer["drifted"].as_bool().unwrap_or_else(|| panic!("{answer}"))
}

fn set_tier(site: &Installation, id: WorkspaceId, tier: u8) {
    let body = json!({ "tier": tier });
    let (status, answer) =
        site.sim.calmly(site.as_operator("PATCH", &format!("/workspaces/{id}"), Some(body)));
    assert_eq!(status, 200, "{answer}");
}

fn command_to(site: &Installation, id: WorkspaceId, random_command: Command) {
    let (method, path, body) = random_command.request(id);
    let (status, answer) = site.sim.calmly(site.as_operator(method, &path, body));
    assert!(status < 300, "{random_command:?}: {answer}");
    site.sim.quiesce();
}

#[test]
fn workspace_rebuilt_from_labels_shows_drift_after_a_change() {
    let site = Installation::new(3, TaskOrder::AsWoken);
    let id = site.add_unknown();
    adopt_all(&site);
    assert!(!drifted(&site, id), "drift is reported although nothing was changed");
    set_tier(&site, id, 3);
    assert!(drifted(&site, id), "no drift is reported although its container has the previous tier");
    command_to(&site, id, Command::Stop);
    command_to(&site, id, Command::Start);
    assert!(drifted(&site, id), "no drift is reported after a start, which keeps the container");
}

#[test]
fn adopted_container_of_a_known_row_shows_drift() {
    let mut site = Installation::new(4, TaskOrder::AsWoken);
    let (kept, made) = (site.online("kept"), site.online("made"));
    command_to(&site, kept, Command::Stop);
    let copy = site.disk.copy().unwrap();
    command_to(&site, kept, Command::Start);
    set_tier(&site, made, 3);
    command_to(&site, made, Command::Recreate);
    site.restore_copy(copy);
    let (items, _) = adopt_all(&site);
    assert!(items.len() == 2 && items.iter().all(|item| item["adopted"] == true), "{items:#?}");
    let mentions_show = |name: &str| {
        let item = items.iter().find(|item| item["name"] == name).unwrap();
        item["detail"].as_str().unwrap().contains("ostler show")
    };
    assert!(mentions_show("made") && !mentions_show("kept"), "{items:#?}");
    assert!(!drifted(&site, kept), "drift is reported for the container that the row names");
    assert!(drifted(&site, made), "no drift is reported for a configuration that the copy does not have");
    set_tier(&site, kept, 3);
    assert!(drifted(&site, kept), "no drift is reported: the configuration of its container was lost");
}
