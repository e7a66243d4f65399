//! External influences on an installation, in short scenes: containers that are renamed or paused at the engine, a
//! pruned engine, and agents that all become silent at once.
//!
//! Each seed runs every scene on a new installation, and chooses the number of workspaces and the commands.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use ostler::domain::{breaker, ids::WorkspaceId, observed::ContainerState};

use super::{
    commands::Command,
    executor::TaskOrder,
    installation::{IMAGE, Installation, now_or_panic, request},
    invariants::at_rest,
};
use crate::support::rng::Rng;

/// A scene: its name in reports, and its function.
type Scene = (&'static str, fn(u64, &mut Rng) -> Result<(), String>);

const SCENES: [Scene; 5] = [
    ("stop commands reach a renamed container", renamed_container_is_stopped),
    ("a container paused by hand is left alone", manually_paused_container_is_left_alone),
    ("a pruned engine is recognised", pruned_engine_is_recognised),
    ("containers of paused workspaces are stopped", containers_of_paused_workspaces_are_stopped),
    ("silence of many agents restarts few", silence_of_many_restarts_few),
];

/// Longer than every grace.
const MINUTES: usize = 16;

fn give_command(site: &Installation, command: Command, id: WorkspaceId) -> u16 {
    let (method, path, body) = command.request(id);
    let (status, _answer) = site.sim.calmly(site.as_operator(method, &path, body));
    site.sim.quiesce();
    status
}

fn some_online(site: &Installation, most: usize, rng: &mut Rng) -> Vec<WorkspaceId> {
    (0..=rng.below(most)).map(|number| site.online(&format!("w{number}"))).collect()
}

/// Runs all passes for a while. No agent sends a heartbeat, and no plan is approved.
fn sweep_for_a_while(site: &Installation) {
    for _ in 0..MINUTES {
        site.sweep();
        site.sim.quiesce();
        site.sim.pass(Duration::from_mins(1));
    }
}

fn nothing_is_held(site: &Installation) -> Result<(), String> {
    for pass in ostler::sweep::all() {
        if let Some(plan) = now_or_panic(site.reader.held_plan(pass.name())).expect("the store answers") {
            return Err(format!("{} is held: {}", pass.name(), plan.reason));
        }
    }
    Ok(())
}

/// A stop command stops the row's own container, found by id and labels, whatever its name.
fn renamed_container_is_stopped(seed: u64, rng: &mut Rng) -> Result<(), String> {
    let site = Installation::new(seed, TaskOrder::Seeded);
    let ids = some_online(&site, 3, rng);
    let id = rng.pick(&ids);
    let container = site.row(id).container.ok_or("it has no container")?;
    site.world.state().rename(&container, "bob");
    let command = rng.pick(&[
        Command::Stop,
        Command::HibernateAnyway,
        Command::Restart,
        Command::Recreate,
        Command::Remove,
    ]);
    let answer = give_command(&site, command, id);
    let row = site.row(id);
    let runs = site.world.state().containers.get(&container).is_some_and(|c| c.state.may_run());
    if runs && row.status.forbids_running() {
        return Err(format!(
            "{command:?} was answered {answer}, the row is {}, but the renamed container `bob` runs",
            row.status
        ));
    }
    site.try_to_converge()?;
    at_rest(&site)
}

/// ostler neither restarts nor unpauses an agent that is silent because a user ran `podman pause`.
fn manually_paused_container_is_left_alone(seed: u64, rng: &mut Rng) -> Result<(), String> {
    let site = Installation::new(seed, TaskOrder::Seeded);
    some_online(&site, 2, rng);
    let id = site.create_online(request("frozen", IMAGE));
    let row = site.row(id);
    let container = row.container.clone().ok_or("it has no container")?;
    site.world.state().freeze(&container, true);
    sweep_for_a_while(&site);
    let now = site.row(id);
    if now.container != row.container || now.incarnation != row.incarnation {
        return Err(format!("it was restarted: {} in incarnation {}", now.status, now.incarnation));
    }
    let state = site.world.state().containers.get(&container).map(|c| c.state);
    if state != Some(ContainerState::Paused) {
        return Err(format!("its container was paused by hand, and is now {state:?}"));
    }
    give_command(&site, Command::Stop, id);
    site.try_to_converge()?;
    at_rest(&site)
}

/// `podman volume prune` deletes the sentinel; a container that the registry knows identifies the engine as well.
fn pruned_engine_is_recognised(seed: u64, rng: &mut Rng) -> Result<(), String> {
    let site = Installation::new(seed, TaskOrder::Seeded);
    let ids = some_online(&site, 3, rng);
    let pruned = site.world.state().prune_volumes();
    let id = rng.pick(&ids);
    let command = rng.pick(&[Command::Stop, Command::Restart, Command::Recreate]);
    let answer = give_command(&site, command, id);
    if answer >= 400 {
        return Err(format!("{pruned:?} was pruned, and {command:?} was refused: {answer}"));
    }
    let sweeper = Arc::clone(&site.daemon.app.sweeper);
    let snapshot = site.sim.calmly(async move { sweeper.snapshot().await.map(drop) });
    snapshot.map_err(|untrusted| format!("{pruned:?} was pruned: {untrusted}"))?;
    site.try_to_converge()?;
    at_rest(&site)
}

/// Stopping containers that must not run is not destructive. It needs no approval, however many there are.
fn containers_of_paused_workspaces_are_stopped(seed: u64, rng: &mut Rng) -> Result<(), String> {
    let site = Installation::new(seed, TaskOrder::Seeded);
    let many = breaker::FLOOR + 2 + rng.below(4);
    let ids: Vec<_> = (0..many).map(|number| site.online(&format!("w{number}"))).collect();
    for id in &ids {
        give_command(&site, Command::Stop, *id);
        let container = site.row(*id).container.ok_or("it has no container")?;
        site.world.state().run(&container);
    }
    sweep_for_a_while(&site);
    nothing_is_held(&site)?;
    let runs = ids.iter().filter(|id| site.container(**id).is_some_and(|c| c.state.may_run()));
    match runs.count() {
        0 => at_rest(&site),
        left => Err(format!("{left} of {many} containers of paused workspaces still run")),
    }
}

/// When many agents become silent at once, ostler restarts at most the breaker's limit of them.
fn silence_of_many_restarts_few(seed: u64, rng: &mut Rng) -> Result<(), String> {
    let site = Installation::new(seed, TaskOrder::Seeded);
    let many = breaker::FLOOR + 2 + rng.below(4);
    let ids: Vec<_> =
        (0..many).map(|number| site.create_online(request(&format!("w{number}"), IMAGE))).collect();
    let first = ids.iter().map(|id| site.row(*id).incarnation).max();
    sweep_for_a_while(&site);
    let restarted: BTreeSet<_> =
        ids.iter().filter(|id| Some(site.row(**id).incarnation) > first).copied().collect();
    let limit = breaker::limit(many);
    if restarted.len() > limit {
        return Err(format!(
            "{} of {many} silent agents were restarted, the limit is {limit}",
            restarted.len()
        ));
    }
    Ok(())
}

/// Runs the scenes of a seed; `Err` holds the name of the failed scene and the violation.
pub(crate) fn play(seed: u64) -> Result<(), (&'static str, String)> {
    for (name, scene) in SCENES {
        let mut rng = Rng::new(seed, 41);
        catch_unwind(AssertUnwindSafe(|| scene(seed, &mut rng)))
            .unwrap_or_else(|_| Err("it panicked".into()))
            .map_err(|how| (name, how))?;
    }
    Ok(())
}

/// Number of seeds, which a debug build runs in a few seconds; `tests/assurance` runs more.
const SEEDS: u64 = 20;

#[test]
fn external_changes_and_agent_silence_violate_no_invariant() {
    let broken: Vec<_> = (0..SEEDS).filter_map(|seed| Some((seed, play(seed).err()?))).collect();
    assert!(broken.is_empty(), "{} of {SEEDS} seeds: {:#?}", broken.len(), &broken[..broken.len().min(5)]);
}
