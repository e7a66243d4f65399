//! `kill -9` between any two steps of every command and of every pass.
//!
//! Each scenario is run to its end once, to count its steps: engine calls, transactions, and timers. Then it is run
//! again and again, and the daemon is killed after one step, two, and so on to the last. An operation in flight at
//! that moment has taken effect or has not; both are tried. After the next start the installation must come to rest
//! ([`at_rest`]): nothing of a live workspace was deleted or moved to the trash, and every container, token file and
//! row agree.

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

/// The fate of the operations in flight when the daemon was killed.
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
fn begin<T, F>(site: &Installation, over: Arc<AtomicBool>, order: impl FnOnce(Ops) -> F)
where
    T: Debug + Send + 'static,
    F: Future<Output = OpResult<T>> + Send + 'static,
{
    let work = order(site.daemon.app.ops.clone());
    site.sim.spawn(Owner::Daemon, async move {
        let answer = work.await;
        assert!(answer.is_ok(), "the command failed without a crash: {}", outcome_text(&answer));
        over.store(true, Ordering::Relaxed);
    });
}

/// Begins a run of a pass on a snapshot of its own; the run must find work.
fn begin_pass(site: &Installation, over: Arc<AtomicBool>, pass: &'static str) {
    let sweeper = Arc::clone(&site.daemon.app.sweeper);
    site.sim.spawn(Owner::Daemon, async move {
        let snapshot = sweeper.snapshot().await.expect("the listing is trusted");
        let run = sweeper.run(&*pass_named(pass), &snapshot, Mode::Apply).await;
        assert!(!run.actions.is_empty(), "the pass found no work: {run:?}");
        over.store(true, Ordering::Relaxed);
    });
}

/// Takes one step. `false` when no step is left.
fn step(site: &Installation) -> bool {
    site.sim.run_ready();
    if let Some(next) = site.sim.held().first() {
        site.sim.take(next.id);
        return true;
    }
    site.sim.fire_next_timer()
}

/// Runs the scenario undisturbed and counts its steps.
fn count_steps(scenario: &Scenario) -> usize {
    let mut site = Installation::new(7, TaskOrder::AsWoken);
    let id = (scenario.prepare)(&mut site);
    let over = Arc::new(AtomicBool::new(false));
    (scenario.begin)(&site, id, Arc::clone(&over));
    let mut steps = 0;
    while step(&site) {
        steps += 1;
    }
    assert!(over.load(Ordering::Relaxed), "{}: the operation did not complete", scenario.name);
    steps
}

/// Kills the daemon after `steps` steps, and checks that the next start recovers.
fn kill_after(scenario: &Scenario, steps: usize, in_flight: InFlight) -> Result<(), String> {
    let mut site = Installation::new(7, TaskOrder::AsWoken);
    let mut witness = Witness::of(&site);
    let id = (scenario.prepare)(&mut site);
    witness.check(&site)?;
    (scenario.begin)(&site, id, Arc::default());
    for _ in 0..steps {
        step(&site);
        witness.check(&site)?;
    }
    site.sim.run_ready();
    if let InFlight::Done = in_flight {
        for held in site.sim.held() {
            site.sim.take(held.id);
        }
    }
    site.crash(|_| false);
    witness.check(&site)?;
    site.converge();
    witness.check(&site)?;
    at_rest(&site)?;
    let end = now_or_panic(site.reader.workspace(id)).expect("the store answers").map(|row| row.status);
    if scenario.ends.contains(&end) {
        Ok(())
    } else {
        Err(format!("the final status {end:?} is not allowed"))
    }
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

fn online(site: &mut Installation) -> WorkspaceId {
    site.online("w")
}

fn paused(site: &mut Installation) -> WorkspaceId {
    let id = site.online("w");
    site.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
    id
}

fn removed(site: &mut Installation) -> WorkspaceId {
    let id = site.online("w");
    site.calmly(|ops| async move { ops.remove(id, false, false).await }).expect("it is removed");
    site.sim.quiesce();
    id
}

#[test]
fn create_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "create",
        prepare: |site| {
            // The new workspace's id is the first random value of the create. A second machine with the same seed
            // yields the same id in advance.
            let copy = Installation::new(7, TaskOrder::AsWoken);
            let id = copy.online("w");
            assert!(site.rows().is_empty());
            id
        },
        begin: |site, _, over| {
            begin(site, over, |ops| async move { ops.create(request("w", IMAGE)).await });
        },
        ends: &[None, ONLINE],
    });
}

#[test]
fn start_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "start",
        prepare: paused,
        begin: |site, id, over| begin(site, over, |ops| async move { ops.start(id, false).await }),
        ends: &[PAUSED, ONLINE],
    });
}

#[test]
fn start_without_its_container_converges_after_a_kill() {
    kill_between_any_two_steps(&Scenario {
        name: "start without a container",
        prepare: |site| {
            let id = paused(site);
            site.remove_container(id);
            id
        },
        begin: |site, id, over| begin(site, over, |ops| async move { ops.start(id, false).await }),
        ends: &[PAUSED, ONLINE],
    });
}

#[test]
fn stop_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "stop",
        prepare: online,
        begin: |site, id, over| begin(site, over, |ops| async move { ops.stop(id).await }),
        ends: &[ONLINE, PAUSED],
    });
}

#[test]
fn restart_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "restart",
        prepare: online,
        begin: |site, id, over| begin(site, over, |ops| async move { ops.restart(id).await }),
        // If the kill came after the stop and before the start, a sweep restarts it within the restart budget.
        ends: &[ONLINE],
    });
}

#[test]
fn recreate_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "recreate",
        prepare: online,
        begin: |site, id, over| begin(site, over, |ops| async move { ops.recreate(id).await }),
        ends: &[ONLINE],
    });
}

#[test]
fn remove_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "remove",
        prepare: online,
        begin: |site, id, over| {
            begin(site, over, |ops| async move { ops.remove(id, false, false).await });
        },
        ends: &[ONLINE, REMOVED],
    });
}

#[test]
fn purge_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "remove --purge",
        prepare: online,
        begin: |site, id, over| {
            begin(site, over, |ops| async move { ops.remove(id, false, true).await });
        },
        ends: &[ONLINE, REMOVED],
    });
}

#[test]
fn undelete_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "undelete",
        prepare: removed,
        begin: |site, id, over| begin(site, over, |ops| async move { ops.undelete(id, None, false).await }),
        ends: &[REMOVED, PAUSED],
    });
}

#[test]
fn adoption_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "adopt",
        prepare: |site| site.add_unknown(),
        begin: |site, _, over| {
            begin(site, over, |ops| async move {
                let (unknown, _) = ops.unknown().await?.remove(0);
                ops.adopt(unknown).await
            });
        },
        // If it was not adopted, there is no row, and its container is moved to the trash after the grace.
        ends: &[None, ONLINE],
    });
}

/// Creates work for a pass; returns a workspace concerned.
pub(crate) type MakeWork = fn(&mut Installation) -> WorkspaceId;

/// Passes that change the engine, with work for each.
pub(crate) const WORK: [(&str, MakeWork); 6] = [
    ("reap_removed", work_for_reap_removed),
    ("reap_unknown", work_for_reap_unknown),
    ("revoke_stale_tokens", work_for_revoke_stale_tokens),
    ("settle", work_for_settle),
    ("check_containers", work_for_check_containers),
    ("empty_trash", work_for_empty_trash),
];

fn work_for_reap_removed(site: &mut Installation) -> WorkspaceId {
    let id = site.online("w");
    let removed = now_or_panic(site.reader.remove_workspace(id, false, false, site.sim.now())).unwrap();
    assert!(matches!(removed, RemoveResult::Removed { removed, .. } if removed == [id]));
    id
}

#[test]
fn reap_removed_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "reap_removed",
        prepare: work_for_reap_removed,
        begin: |site, _, over| begin_pass(site, over, "reap_removed"),
        ends: &[REMOVED],
    });
}

fn work_for_reap_unknown(site: &mut Installation) -> WorkspaceId {
    let id = site.add_unknown();
    site.snapshot();
    site.sim.pass(Duration::from_mins(11));
    site.snapshot();
    id
}

#[test]
fn reap_unknown_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "reap_unknown",
        prepare: work_for_reap_unknown,
        begin: |site, _, over| begin_pass(site, over, "reap_unknown"),
        ends: &[None],
    });
}

fn work_for_revoke_stale_tokens(site: &mut Installation) -> WorkspaceId {
    let id = site.online("w");
    site.remove_container(id);
    site.snapshot();
    site.sim.pass(Duration::from_mins(6));
    site.snapshot();
    id
}

#[test]
fn revoke_stale_tokens_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "revoke_stale_tokens",
        prepare: work_for_revoke_stale_tokens,
        begin: |site, _, over| begin_pass(site, over, "revoke_stale_tokens"),
        // An unexpected exit leads to a restart.
        ends: &[ONLINE],
    });
}

/// One of everything that `settle` repairs: a paused workspace that runs, an interrupted creation, a second container,
/// a half-done restore, and a running container in the trash.
fn work_for_settle(site: &mut Installation) -> WorkspaceId {
    let trashed = site.online("trashed");
    site.calmly(|ops| async move { ops.remove(trashed, false, false).await }).unwrap();
    site.sim.quiesce();
    let restoring = site.online("restoring");
    site.calmly(|ops| async move { ops.remove(restoring, false, false).await }).unwrap();
    site.sim.quiesce();
    let recreated = site.online("recreated");
    let two = site.daemon.app.ops.clone();
    site.sim.spawn(Owner::Daemon, async move { drop(two.recreate(recreated).await) });
    until_taken(site, "begin start");
    let made = site.daemon.app.ops.clone();
    site.sim.spawn(Owner::Daemon, async move { drop(made.create(request("interrupted", IMAGE)).await) });
    until_taken(site, "create workspace");
    site.crash(|_| false);
    let back = now_or_panic(site.reader.undelete_workspace(restoring, None, false, site.sim.now())).unwrap();
    assert_eq!(
        back,
        UndeleteResult::Back { restoring: true, along: vec![], under: UndeletedUnder::default() }
    );
    let paused = site.online("paused");
    site.calmly(|ops| async move { ops.stop(paused).await }).unwrap();
    for running in [paused, trashed] {
        let id = site.row(running).container.expect("it has one");
        let mut state = site.world.state();
        state.containers.get_mut(&id).expect("it is there").state = ContainerState::Running;
    }
    paused
}

fn until_taken(site: &Installation, label: &str) {
    loop {
        site.sim.run_ready();
        let next = *site.sim.held().first().expect("the effect is requested");
        site.sim.take(next.id);
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
        begin: |site, _, over| begin_pass(site, over, "settle"),
        ends: &[PAUSED],
    });
}

fn work_for_check_containers(site: &mut Installation) -> WorkspaceId {
    let id = site.online("ended");
    let container = site.row(id).container.expect("it has one");
    site.world.state().kill(&container, 1);
    site.snapshot();
    site.snapshot();
    id
}

#[test]
fn check_containers_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "check_containers",
        prepare: work_for_check_containers,
        begin: |site, _, over| begin_pass(site, over, "check_containers"),
        // An unexpected exit leads to a restart.
        ends: &[ONLINE],
    });
}

fn work_for_empty_trash(site: &mut Installation) -> WorkspaceId {
    let id = removed(site);
    site.sim.jump(15 * 24 * 3_600_000);
    id
}

#[test]
fn empty_trash_converges_after_a_kill_at_any_step() {
    kill_between_any_two_steps(&Scenario {
        name: "empty_trash",
        prepare: work_for_empty_trash,
        begin: |site, _, over| begin_pass(site, over, "empty_trash"),
        ends: &[REMOVED],
    });
}
