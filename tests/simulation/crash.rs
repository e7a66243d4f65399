//! `kill -9` between any two steps of every command and of every pass.
//!
//! Each scenario is run to its end once, to count its steps: engine calls, transactions, and timers. Then it is run
//! again and again, and the daemon is killed after one step, two, and so on to the last. An operation in flight at
//! that moment has taken effect or has not; both are tried. The next start must lead to rest ([`at_rest`]): nothing of
//! a live workspace touched, every container, token file and row agreeing.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ostler::{
    domain::{ids::WorkspaceId, observed::ContainerState, status::Status},
    ops::{OpResult, Ops},
    store::{RemoveResult, UndeleteResult, UndeletedPlace},
    sweep::Mode,
};

use super::{
    executor::{Owner, TaskOrder},
    house::{House, IMAGE, at_once, pass_named, request, told},
    invariants::{Witness, at_rest},
};

/// The fate of the operations in flight when the daemon died.
#[derive(Clone, Copy, Debug)]
enum InFlight {
    /// They took effect; the answer was lost.
    Done,
    /// They never happened.
    Lost,
}

/// An operation during which the daemon is killed.
struct Scenario {
    name: &'static str,
    /// Prepares the initial state; returns the workspace concerned.
    prepare: fn(&mut House) -> WorkspaceId,
    /// Begins the operation.
    begin: fn(&House, WorkspaceId, Arc<AtomicBool>),
    /// Allowed statuses of that row at rest; `None` means that the row may be missing.
    ends: &'static [Option<Status>],
}

/// Begins a command, and sets `over` when it was answered.
fn begin<T, F>(house: &House, over: Arc<AtomicBool>, order: impl FnOnce(Ops) -> F)
where
    T: Debug + Send + 'static,
    F: Future<Output = OpResult<T>> + Send + 'static,
{
    let work = order(house.daemon.ops.clone());
    house.sim.spawn(Owner::Daemon, async move {
        let answer = work.await;
        assert!(answer.is_ok(), "undisturbed, it is carried out: {}", told(&answer));
        over.store(true, Ordering::Relaxed);
    });
}

/// Begins a run of a pass on a snapshot of its own; the run must find work.
fn begin_pass(house: &House, over: Arc<AtomicBool>, pass: &'static str) {
    let sweeper = Arc::clone(&house.daemon.sweeper);
    house.sim.spawn(Owner::Daemon, async move {
        let look = sweeper.look().await.expect("the listing is trusted");
        let run = sweeper.run(&*pass_named(pass), &look, Mode::Apply).await;
        assert!(!run.actions.is_empty(), "there is work for the pass: {run:?}");
        over.store(true, Ordering::Relaxed);
    });
}

/// Takes one step. `false` when nothing is left to happen.
fn step(house: &House) -> bool {
    house.sim.run_ready();
    if let Some(next) = house.sim.held().first() {
        house.sim.take(next.id);
        return true;
    }
    house.sim.fire_next_timer()
}

/// Runs the scenario undisturbed and counts its steps.
fn count_steps(scenario: &Scenario) -> usize {
    let mut house = House::new(7, TaskOrder::AsWoken);
    let id = (scenario.prepare)(&mut house);
    let over = Arc::new(AtomicBool::new(false));
    (scenario.begin)(&house, id, Arc::clone(&over));
    let mut steps = 0;
    while step(&house) {
        steps += 1;
    }
    assert!(over.load(Ordering::Relaxed), "{}: it comes to its end", scenario.name);
    steps
}

/// Kills the daemon after so many steps, and checks that the next start recovers.
fn kill_after(scenario: &Scenario, steps: usize, in_flight: InFlight) -> Result<(), String> {
    let mut house = House::new(7, TaskOrder::AsWoken);
    let mut witness = Witness::of(&house);
    let id = (scenario.prepare)(&mut house);
    witness.check(&house)?;
    (scenario.begin)(&house, id, Arc::default());
    for _ in 0..steps {
        step(&house);
        witness.check(&house)?;
    }
    house.sim.run_ready();
    if let InFlight::Done = in_flight {
        for held in house.sim.held() {
            house.sim.take(held.id);
        }
    }
    house.crash(|_| false);
    witness.check(&house)?;
    house.converge();
    witness.check(&house)?;
    at_rest(&house)?;
    let end = at_once(house.eye.workspace(id)).expect("the store answers").map(|row| row.status);
    if scenario.ends.contains(&end) { Ok(()) } else { Err(format!("it ends {end:?}")) }
}

fn kill_between_any_two_steps(scenario: &Scenario) {
    let steps = count_steps(scenario);
    let mut failed = Vec::new();
    for after in 0..=steps {
        for in_flight in [InFlight::Done, InFlight::Lost] {
            if let Err(broken) = kill_after(scenario, after, in_flight) {
                failed
                    .push(format!("killed after step {after} of {steps}, in flight {in_flight:?}: {broken}"));
            }
        }
    }
    eprintln!("{}: killed at {} points", scenario.name, (steps + 1) * 2);
    assert!(failed.is_empty(), "{}:\n{}", scenario.name, failed.join("\n"));
}

const ONLINE: Option<Status> = Some(Status::Online);
const PAUSED: Option<Status> = Some(Status::Paused);
const REMOVED: Option<Status> = Some(Status::Removed);

fn online(house: &mut House) -> WorkspaceId {
    house.online("w")
}

fn paused(house: &mut House) -> WorkspaceId {
    let id = house.online("w");
    house.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
    id
}

fn removed(house: &mut House) -> WorkspaceId {
    let id = house.online("w");
    house.calmly(|ops| async move { ops.remove(id, false, false).await }).expect("it is removed");
    house.sim.quiesce();
    id
}

#[test]
fn a_create_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "create",
        prepare: |house| {
            // The id it will get: a create's first random value.
            let copy = House::new(7, TaskOrder::AsWoken);
            let id = copy.online("w");
            assert!(house.rows().is_empty());
            id
        },
        begin: |house, _, over| {
            begin(house, over, |ops| async move { ops.create(request("w", IMAGE)).await });
        },
        ends: &[None, ONLINE],
    });
}

#[test]
fn a_start_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "start",
        prepare: paused,
        begin: |house, id, over| begin(house, over, |ops| async move { ops.start(id, false).await }),
        ends: &[PAUSED, ONLINE],
    });
}

#[test]
fn a_start_whose_container_is_gone_is_killed_and_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "start without a container",
        prepare: |house| {
            let id = paused(house);
            house.remove_container(id);
            id
        },
        begin: |house, id, over| begin(house, over, |ops| async move { ops.start(id, false).await }),
        ends: &[PAUSED, ONLINE],
    });
}

#[test]
fn a_stop_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "stop",
        prepare: online,
        begin: |house, id, over| begin(house, over, |ops| async move { ops.stop(id).await }),
        ends: &[ONLINE, PAUSED],
    });
}

#[test]
fn a_restart_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "restart",
        prepare: online,
        begin: |house, id, over| begin(house, over, |ops| async move { ops.restart(id).await }),
        // Stopped and not started yet, it is restarted within the restart budget.
        ends: &[ONLINE],
    });
}

#[test]
fn a_recreate_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "recreate",
        prepare: online,
        begin: |house, id, over| begin(house, over, |ops| async move { ops.recreate(id).await }),
        ends: &[ONLINE],
    });
}

#[test]
fn a_remove_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "remove",
        prepare: online,
        begin: |house, id, over| {
            begin(house, over, |ops| async move { ops.remove(id, false, false).await });
        },
        ends: &[ONLINE, REMOVED],
    });
}

#[test]
fn a_purge_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "remove --purge",
        prepare: online,
        begin: |house, id, over| {
            begin(house, over, |ops| async move { ops.remove(id, false, true).await });
        },
        ends: &[ONLINE, REMOVED],
    });
}

#[test]
fn an_undelete_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "undelete",
        prepare: removed,
        begin: |house, id, over| begin(house, over, |ops| async move { ops.undelete(id, None, false).await }),
        ends: &[REMOVED, PAUSED],
    });
}

#[test]
fn an_adoption_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "adopt",
        prepare: |house| house.furnish_unknown(),
        begin: |house, _, over| {
            begin(house, over, |ops| async move {
                let (unknown, _) = ops.unknown().await?.remove(0);
                ops.adopt(unknown).await
            });
        },
        // If it was not adopted, it is moved to the trash in time, without a row.
        ends: &[None, ONLINE],
    });
}

/// Creates work for a pass; returns a workspace concerned.
pub(crate) type MakeWork = fn(&mut House) -> WorkspaceId;

/// Every pass, with work for it.
pub(crate) const WORK: [(&str, MakeWork); 6] = [
    ("reap_removed", work_for_reap_removed),
    ("reap_unknown", work_for_reap_unknown),
    ("revoke_stale_tokens", work_for_revoke_stale_tokens),
    ("settle", work_for_settle),
    ("check_containers", work_for_check_containers),
    ("empty_trash", work_for_empty_trash),
];

fn work_for_reap_removed(house: &mut House) -> WorkspaceId {
    let id = house.online("w");
    let removed = at_once(house.eye.remove_workspace(id, false, false, house.sim.now())).unwrap();
    assert!(matches!(removed, RemoveResult::Removed { removed, .. } if removed == [id]));
    id
}

#[test]
fn reap_removed_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "reap_removed",
        prepare: work_for_reap_removed,
        begin: |house, _, over| begin_pass(house, over, "reap_removed"),
        ends: &[REMOVED],
    });
}

fn work_for_reap_unknown(house: &mut House) -> WorkspaceId {
    let id = house.furnish_unknown();
    house.look();
    house.sim.pass(Duration::from_mins(11));
    house.look();
    id
}

#[test]
fn reap_unknown_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "reap_unknown",
        prepare: work_for_reap_unknown,
        begin: |house, _, over| begin_pass(house, over, "reap_unknown"),
        ends: &[None],
    });
}

fn work_for_revoke_stale_tokens(house: &mut House) -> WorkspaceId {
    let id = house.online("w");
    house.remove_container(id);
    house.look();
    house.sim.pass(Duration::from_mins(6));
    house.look();
    id
}

#[test]
fn revoke_stale_tokens_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "revoke_stale_tokens",
        prepare: work_for_revoke_stale_tokens,
        begin: |house, _, over| begin_pass(house, over, "revoke_stale_tokens"),
        // An unexpected exit leads to a restart.
        ends: &[ONLINE],
    });
}

/// One of everything that `settle` repairs: a paused workspace that runs, an interrupted creation, a second container,
/// a half-done restore, and a running container in the trash.
fn work_for_settle(house: &mut House) -> WorkspaceId {
    let stirring = house.online("stirring");
    house.calmly(|ops| async move { ops.remove(stirring, false, false).await }).unwrap();
    house.sim.quiesce();
    let restoring = house.online("restoring");
    house.calmly(|ops| async move { ops.remove(restoring, false, false).await }).unwrap();
    house.sim.quiesce();
    let recreated = house.online("recreated");
    let two = house.daemon.ops.clone();
    house.sim.spawn(Owner::Daemon, async move { drop(two.recreate(recreated).await) });
    until_taken(house, "begin start");
    let made = house.daemon.ops.clone();
    house.sim.spawn(Owner::Daemon, async move { drop(made.create(request("interrupted", IMAGE)).await) });
    until_taken(house, "create workspace");
    house.crash(|_| false);
    let back = at_once(house.eye.undelete_workspace(restoring, None, false, house.sim.now())).unwrap();
    assert_eq!(
        back,
        UndeleteResult::Back { restoring: true, along: vec![], place: UndeletedPlace::default() }
    );
    let paused = house.online("paused");
    house.calmly(|ops| async move { ops.stop(paused).await }).unwrap();
    for running in [paused, stirring] {
        let id = house.row(running).container.expect("it has one");
        let mut state = house.world.state();
        state.containers.get_mut(&id).expect("it is there").state = ContainerState::Running;
    }
    paused
}

fn until_taken(house: &House, label: &str) {
    loop {
        house.sim.run_ready();
        let next = *house.sim.held().first().expect("it comes to that");
        house.sim.take(next.id);
        if next.label == label {
            return;
        }
    }
}

#[test]
fn settle_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "settle",
        prepare: work_for_settle,
        begin: |house, _, over| begin_pass(house, over, "settle"),
        ends: &[PAUSED],
    });
}

fn work_for_check_containers(house: &mut House) -> WorkspaceId {
    let id = house.online("ended");
    let container = house.row(id).container.expect("it has one");
    house.world.state().kill(&container, 1);
    house.look();
    house.look();
    id
}

#[test]
fn check_containers_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "check_containers",
        prepare: work_for_check_containers,
        begin: |house, _, over| begin_pass(house, over, "check_containers"),
        // An unexpected exit leads to a restart.
        ends: &[ONLINE],
    });
}

fn work_for_empty_trash(house: &mut House) -> WorkspaceId {
    let id = removed(house);
    house.sim.jump(15 * 24 * 3_600_000);
    id
}

#[test]
fn empty_trash_that_is_killed_converges() {
    kill_between_any_two_steps(&Scenario {
        name: "empty_trash",
        prepare: work_for_empty_trash,
        begin: |house, _, over| begin_pass(house, over, "empty_trash"),
        ends: &[REMOVED],
    });
}
