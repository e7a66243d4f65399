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
    store::{RemoveResult, UndeleteResult, UndeletedUnder},
    sweep::Mode,
};

use super::{
    executor::{Owner, TaskOrder},
    installation::{IMAGE, Installation, now_or_panic, outcome_text, pass_named, request},
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
    prepare: fn(&mut Installation) -> WorkspaceId,
    /// Begins the operation.
    begin: fn(&Installation, WorkspaceId, Arc<AtomicBool>),
    /// Allowed statuses of that row at rest; `None` means that the row may be missing.
    ends: &'static [Option<Status>],
}

/// Begins a command, and sets `over` when it was answered.
fn begin<T, F>(installation: &Installation, over: Arc<AtomicBool>, order: impl FnOnce(Ops) -> F)
where
    T: Debug + Send + 'static,
    F: Future<Output = OpResult<T>> + Send + 'static,
{
    let work = order(installation.daemon.ops.clone());
    installation.sim.spawn(Owner::Daemon, async move {
        let answer = work.await;
        assert!(answer.is_ok(), "undisturbed, it is carried out: {}", outcome_text(&answer));
        over.store(true, Ordering::Relaxed);
    });
}

/// Begins a run of a pass on a snapshot of its own; the run must find work.
fn begin_pass(installation: &Installation, over: Arc<AtomicBool>, pass: &'static str) {
    let sweeper = Arc::clone(&installation.daemon.sweeper);
    installation.sim.spawn(Owner::Daemon, async move {
        let snapshot = sweeper.snapshot().await.expect("the listing is trusted");
        let run = sweeper.run(&*pass_named(pass), &snapshot, Mode::Apply).await;
        assert!(!run.actions.is_empty(), "there is work for the pass: {run:?}");
        over.store(true, Ordering::Relaxed);
    });
}

/// Takes one step. `false` when nothing is left to happen.
fn step(installation: &Installation) -> bool {
    installation.sim.run_ready();
    if let Some(next) = installation.sim.held().first() {
        installation.sim.take(next.id);
        return true;
    }
    installation.sim.fire_next_timer()
}

/// Runs the scenario undisturbed and counts its steps.
fn count_steps(scenario: &Scenario) -> usize {
    let mut installation = Installation::new(7, TaskOrder::AsWoken);
    let id = (scenario.prepare)(&mut installation);
    let over = Arc::new(AtomicBool::new(false));
    (scenario.begin)(&installation, id, Arc::clone(&over));
    let mut steps = 0;
    while step(&installation) {
        steps += 1;
    }
    assert!(over.load(Ordering::Relaxed), "{}: it comes to its end", scenario.name);
    steps
}

/// Kills the daemon after so many steps, and checks that the next start recovers.
fn kill_after(scenario: &Scenario, steps: usize, in_flight: InFlight) -> Result<(), String> {
    let mut installation = Installation::new(7, TaskOrder::AsWoken);
    let mut witness = Witness::of(&installation);
    let id = (scenario.prepare)(&mut installation);
    witness.check(&installation)?;
    (scenario.begin)(&installation, id, Arc::default());
    for _ in 0..steps {
        step(&installation);
        witness.check(&installation)?;
    }
    installation.sim.run_ready();
    if let InFlight::Done = in_flight {
        for held in installation.sim.held() {
            installation.sim.take(held.id);
        }
    }
    installation.crash(|_| false);
    witness.check(&installation)?;
    installation.converge();
    witness.check(&installation)?;
    at_rest(&installation)?;
    let end = now_or_panic(installation.eye.workspace(id)).expect("the store answers").map(|row| row.status);
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

fn online(installation: &mut Installation) -> WorkspaceId {
    installation.online("w")
}

fn paused(installation: &mut Installation) -> WorkspaceId {
    let id = installation.online("w");
    installation.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
    id
}

fn removed(installation: &mut Installation) -> WorkspaceId {
    let id = installation.online("w");
    installation.calmly(|ops| async move { ops.remove(id, false, false).await }).expect("it is removed");
    installation.sim.quiesce();
    id
}

#[test]
fn create_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "create",
        prepare: |installation| {
            // The id it will get: a create's first random value.
            let copy = Installation::new(7, TaskOrder::AsWoken);
            let id = copy.online("w");
            assert!(installation.rows().is_empty());
            id
        },
        begin: |installation, _, over| {
            begin(installation, over, |ops| async move { ops.create(request("w", IMAGE)).await });
        },
        ends: &[None, ONLINE],
    });
}

#[test]
fn start_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "start",
        prepare: paused,
        begin: |installation, id, over| {
            begin(installation, over, |ops| async move { ops.start(id, false).await })
        },
        ends: &[PAUSED, ONLINE],
    });
}

#[test]
fn start_without_its_container_converges_after_a_kill() {
    kill_between_any_two_steps(&Scenario {
        name: "start without a container",
        prepare: |installation| {
            let id = paused(installation);
            installation.remove_container(id);
            id
        },
        begin: |installation, id, over| {
            begin(installation, over, |ops| async move { ops.start(id, false).await })
        },
        ends: &[PAUSED, ONLINE],
    });
}

#[test]
fn stop_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "stop",
        prepare: online,
        begin: |installation, id, over| begin(installation, over, |ops| async move { ops.stop(id).await }),
        ends: &[ONLINE, PAUSED],
    });
}

#[test]
fn restart_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "restart",
        prepare: online,
        begin: |installation, id, over| begin(installation, over, |ops| async move { ops.restart(id).await }),
        // Stopped and not started yet, it is restarted within the restart budget.
        ends: &[ONLINE],
    });
}

#[test]
fn recreate_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "recreate",
        prepare: online,
        begin: |installation, id, over| {
            begin(installation, over, |ops| async move { ops.recreate(id).await })
        },
        ends: &[ONLINE],
    });
}

#[test]
fn remove_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "remove",
        prepare: online,
        begin: |installation, id, over| {
            begin(installation, over, |ops| async move { ops.remove(id, false, false).await });
        },
        ends: &[ONLINE, REMOVED],
    });
}

#[test]
fn purge_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "remove --purge",
        prepare: online,
        begin: |installation, id, over| {
            begin(installation, over, |ops| async move { ops.remove(id, false, true).await });
        },
        ends: &[ONLINE, REMOVED],
    });
}

#[test]
fn undelete_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "undelete",
        prepare: removed,
        begin: |installation, id, over| {
            begin(installation, over, |ops| async move { ops.undelete(id, None, false).await })
        },
        ends: &[REMOVED, PAUSED],
    });
}

#[test]
fn adoption_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "adopt",
        prepare: |installation| installation.add_unknown(),
        begin: |installation, _, over| {
            begin(installation, over, |ops| async move {
                let (unknown, _) = ops.unknown().await?.remove(0);
                ops.adopt(unknown).await
            });
        },
        // If it was not adopted, it is moved to the trash in time, without a row.
        ends: &[None, ONLINE],
    });
}

/// Creates work for a pass; returns a workspace concerned.
pub(crate) type MakeWork = fn(&mut Installation) -> WorkspaceId;

/// Every pass, with work for it.
pub(crate) const WORK: [(&str, MakeWork); 6] = [
    ("reap_removed", work_for_reap_removed),
    ("reap_unknown", work_for_reap_unknown),
    ("revoke_stale_tokens", work_for_revoke_stale_tokens),
    ("settle", work_for_settle),
    ("check_containers", work_for_check_containers),
    ("empty_trash", work_for_empty_trash),
];

fn work_for_reap_removed(installation: &mut Installation) -> WorkspaceId {
    let id = installation.online("w");
    let removed =
        now_or_panic(installation.eye.remove_workspace(id, false, false, installation.sim.now())).unwrap();
    assert!(matches!(removed, RemoveResult::Removed { removed, .. } if removed == [id]));
    id
}

#[test]
fn reap_removed_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "reap_removed",
        prepare: work_for_reap_removed,
        begin: |installation, _, over| begin_pass(installation, over, "reap_removed"),
        ends: &[REMOVED],
    });
}

fn work_for_reap_unknown(installation: &mut Installation) -> WorkspaceId {
    let id = installation.add_unknown();
    installation.snapshot();
    installation.sim.pass(Duration::from_mins(11));
    installation.snapshot();
    id
}

#[test]
fn reap_unknown_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "reap_unknown",
        prepare: work_for_reap_unknown,
        begin: |installation, _, over| begin_pass(installation, over, "reap_unknown"),
        ends: &[None],
    });
}

fn work_for_revoke_stale_tokens(installation: &mut Installation) -> WorkspaceId {
    let id = installation.online("w");
    installation.remove_container(id);
    installation.snapshot();
    installation.sim.pass(Duration::from_mins(6));
    installation.snapshot();
    id
}

#[test]
fn revoke_stale_tokens_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "revoke_stale_tokens",
        prepare: work_for_revoke_stale_tokens,
        begin: |installation, _, over| begin_pass(installation, over, "revoke_stale_tokens"),
        // An unexpected exit leads to a restart.
        ends: &[ONLINE],
    });
}

/// One of everything that `settle` repairs: a paused workspace that runs, an interrupted creation, a second container,
/// a half-done restore, and a running container in the trash.
fn work_for_settle(installation: &mut Installation) -> WorkspaceId {
    let stirring = installation.online("stirring");
    installation.calmly(|ops| async move { ops.remove(stirring, false, false).await }).unwrap();
    installation.sim.quiesce();
    let restoring = installation.online("restoring");
    installation.calmly(|ops| async move { ops.remove(restoring, false, false).await }).unwrap();
    installation.sim.quiesce();
    let recreated = installation.online("recreated");
    let two = installation.daemon.ops.clone();
    installation.sim.spawn(Owner::Daemon, async move { drop(two.recreate(recreated).await) });
    until_taken(installation, "begin start");
    let made = installation.daemon.ops.clone();
    installation
        .sim
        .spawn(Owner::Daemon, async move { drop(made.create(request("interrupted", IMAGE)).await) });
    until_taken(installation, "create workspace");
    installation.crash(|_| false);
    let back =
        now_or_panic(installation.eye.undelete_workspace(restoring, None, false, installation.sim.now()))
            .unwrap();
    assert_eq!(
        back,
        UndeleteResult::Back { restoring: true, along: vec![], under: UndeletedUnder::default() }
    );
    let paused = installation.online("paused");
    installation.calmly(|ops| async move { ops.stop(paused).await }).unwrap();
    for running in [paused, stirring] {
        let id = installation.row(running).container.expect("it has one");
        let mut state = installation.world.state();
        state.containers.get_mut(&id).expect("it is there").state = ContainerState::Running;
    }
    paused
}

fn until_taken(installation: &Installation, label: &str) {
    loop {
        installation.sim.run_ready();
        let next = *installation.sim.held().first().expect("it comes to that");
        installation.sim.take(next.id);
        if next.label == label {
            return;
        }
    }
}

#[test]
fn settle_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "settle",
        prepare: work_for_settle,
        begin: |installation, _, over| begin_pass(installation, over, "settle"),
        ends: &[PAUSED],
    });
}

fn work_for_check_containers(installation: &mut Installation) -> WorkspaceId {
    let id = installation.online("ended");
    let container = installation.row(id).container.expect("it has one");
    installation.world.state().kill(&container, 1);
    installation.snapshot();
    installation.snapshot();
    id
}

#[test]
fn check_containers_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "check_containers",
        prepare: work_for_check_containers,
        begin: |installation, _, over| begin_pass(installation, over, "check_containers"),
        // An unexpected exit leads to a restart.
        ends: &[ONLINE],
    });
}

fn work_for_empty_trash(installation: &mut Installation) -> WorkspaceId {
    let id = removed(installation);
    installation.sim.jump(15 * 24 * 3_600_000);
    id
}

#[test]
fn empty_trash_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "empty_trash",
        prepare: work_for_empty_trash,
        begin: |installation, _, over| begin_pass(installation, over, "empty_trash"),
        ends: &[REMOVED],
    });
}
