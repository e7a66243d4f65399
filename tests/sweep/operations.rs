//! Operations across crashes of the daemon and outages of the engine.

use std::time::Duration;

use ostler::{
    domain::{
        ids::WorkspaceId,
        operation::{Operation, OperationState, Requester},
        status::Status,
    },
    engine::ErrorKind,
    ops::{Applied, Request, Up},
};

use crate::{
    simulation::{
        executor::{Owner, TaskOrder},
        installation::{IMAGE, Installation, healthy, now_or_panic, request},
        invariants::at_rest,
    },
    support::fake_engine::Fault,
};

fn operations(site: &Installation) -> Vec<Operation> {
    now_or_panic(site.reader.operations(None, 100)).expect("the store answers")
}

fn newest(site: &Installation) -> Operation {
    operations(site).into_iter().next().expect("an operation was accepted")
}

/// Every engine call gets no answer.
fn cut_off(site: &Installation) {
    site.world.inject(|_| Fault::Before(ErrorKind::Unreachable));
}

/// A stopped workspace whose start is accepted, and the requests of that start that were carried out.
fn begin_start(site: &Installation, steps: usize) -> (WorkspaceId, bool) {
    let id = site.online("w");
    site.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
    let ops = site.daemon.app.ops.clone();
    site.sim.spawn(Owner::Daemon, async move { drop(ops.start(id, false).await) });
    let under_way = (0..steps).all(|_| site.sim.step_calmly());
    (id, under_way)
}

#[test]
fn accepted_start_is_carried_out_once_by_the_next_daemon() {
    let mut continued = 0;
    for steps in 0.. {
        let mut site = Installation::new(1, TaskOrder::AsWoken);
        let (id, under_way) = begin_start(&site, steps);
        let stored = newest(&site);
        let begun = site.row(id).incarnation;
        site.crash(|_| false);
        site.sim.quiesce();
        let accepted = stored.command.kind() == "start";
        let place = format!("killed after step {steps} of the start");
        if accepted {
            let ended = newest(&site);
            assert_eq!((ended.id, ended.state), (stored.id, OperationState::Done), "{place}: {ended:?}");
            continued += usize::from(stored.state.is_open());
            if stored.incarnation.is_some() && !stored.state.is_open() {
                assert_eq!(site.row(id).incarnation, begun, "{place}: it was started twice");
            }
        }
        site.converge();
        assert_eq!(site.status(id) == Status::Online, accepted, "{place}");
        at_rest(&site).unwrap_or_else(|broken| panic!("{place}: {broken}"));
        if !under_way {
            break;
        }
    }
    assert!(continued > 5, "only {continued} starts were continued");
}

#[test]
fn restart_that_has_begun_is_not_repeated_after_a_crash() {
    let mut checked = 0;
    for steps in 0.. {
        let mut site = Installation::new(2, TaskOrder::AsWoken);
        let id = site.create_online(request("w", IMAGE));
        let ops = site.daemon.app.ops.clone();
        site.sim.spawn(Owner::Daemon, async move { drop(ops.restart(id).await) });
        let under_way = (0..steps).all(|_| site.sim.step_calmly());
        let stored = newest(&site);
        // The new process sends its first heartbeat while the operation is still open.
        if stored.incarnation.is_some() && stored.state.is_open() && site.token_owner(id).is_some() {
            site.heartbeat(id, healthy());
        }
        let row = site.row(id);
        let up = row.status == Status::Online && stored.incarnation == Some(row.incarnation);
        site.crash(|_| false);
        site.sim.quiesce();
        if up && stored.state.is_open() {
            checked += 1;
            assert_eq!(site.row(id).incarnation, row.incarnation, "restarted again after step {steps}");
            assert_eq!(newest(&site).state, OperationState::Done, "after step {steps}");
        }
        if !under_way {
            break;
        }
    }
    assert!(checked > 0, "no restart was open when its agent was online");
}

#[test]
fn orders_wait_for_the_engine_and_continue_in_their_order() {
    let site = Installation::new(3, TaskOrder::AsWoken);
    let id = site.online("w");
    cut_off(&site);
    let stopped = site.calmly(|ops| async move { ops.stop(id).await }).expect("it is accepted");
    assert!(matches!(&stopped, Applied::Accepted(why) if why.contains("Podman")), "{stopped:?}");
    let started = site.calmly(|ops| async move { ops.start(id, false).await }).expect("it is accepted");
    assert!(matches!(started, Applied::Accepted(_)), "{started:?}");
    let states: Vec<_> = operations(&site).iter().map(|one| (one.command.kind(), one.state)).collect();
    let (accepted, waits) = (OperationState::Accepted, OperationState::Waiting);
    assert_eq!(states[..2], [("start", accepted), ("stop", waits)]);
    assert!(site.container(id).is_some_and(|container| container.state.may_run()), "nothing was stopped yet");
    site.world.heal();
    site.snapshot();
    site.sim.quiesce();
    let ended: Vec<_> = operations(&site).iter().map(|one| one.state).take(2).collect();
    assert_eq!(ended, [OperationState::Done; 2]);
    assert_eq!(site.status(id), Status::Online);
    assert_eq!(site.daemon.app.ops.progress(id), None);
}

#[test]
fn operation_is_attempted_again_after_the_engine_was_stopped_for_a_moment() {
    let site = Installation::new(8, TaskOrder::AsWoken);
    let id = site.online("w");
    let mut first = true;
    site.world.inject(move |_| {
        let lost = std::mem::replace(&mut first, false);
        if lost { Fault::Before(ErrorKind::TimedOut) } else { Fault::None }
    });
    let restarted = site.calmly(|ops| async move { ops.restart(id).await });
    assert_eq!(restarted.expect("it is carried out"), Applied::Done("started".into()));
    assert_eq!(newest(&site).state, OperationState::Done);
}

#[test]
fn operation_fails_if_one_call_times_out_while_the_engine_answers() {
    let site = Installation::new(9, TaskOrder::AsWoken);
    let id = site.online("w");
    site.world.inject(|call| match call.method {
        "stop_container" => Fault::Before(ErrorKind::TimedOut),
        _ => Fault::None,
    });
    site.calmly(|ops| async move { ops.restart(id).await }).expect_err("the old process cannot be stopped");
    assert_eq!(newest(&site).state, OperationState::Failed);
    site.world.heal();
    site.calmly(|ops| async move { ops.restart(id).await }).expect("later operations are not blocked");
}

#[test]
fn stop_given_while_a_start_waits_for_the_engine_cancels_it() {
    let site = Installation::new(4, TaskOrder::AsWoken);
    let id = site.online("w");
    site.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
    cut_off(&site);
    site.calmly(|ops| async move { ops.start(id, false).await }).expect("it is accepted");
    site.calmly(|ops| async move { ops.stop(id).await }).expect("it is accepted");
    site.world.heal();
    site.snapshot();
    site.sim.quiesce();
    site.converge();
    assert_eq!(site.status(id), Status::Paused, "{:?}", operations(&site));
    let start = operations(&site).into_iter().find(|one| one.command.kind() == "start").expect("it is kept");
    assert_eq!(start.state, OperationState::Cancelled);
    assert_eq!(start.detail.as_deref(), Some("another order cancelled it"));
    assert!(operations(&site).iter().all(|one| !one.state.is_open()));
    at_rest(&site).unwrap();
}

#[test]
fn cancelled_start_leaves_the_workspace_stopped() {
    let mut cancelled = 0;
    for steps in 0.. {
        let site = Installation::new(5, TaskOrder::AsWoken);
        let (id, under_way) = begin_start(&site, steps);
        let start = newest(&site);
        if start.command.kind() == "start" {
            let number = start.id;
            let answer = site.calmly(|ops| async move { ops.cancel(number).await });
            site.sim.quiesce();
            let (status, stored) = (site.status(id), newest(&site));
            match answer {
                Ok(ended) => {
                    cancelled += 1;
                    assert_eq!(ended.state, OperationState::Cancelled, "step {steps}");
                    assert_eq!((status, stored.incarnation), (Status::Paused, None), "step {steps}");
                }
                Err(refused) => {
                    assert_eq!(status, Status::Online, "step {steps}: {refused}");
                    assert_eq!(stored.state, OperationState::Done, "step {steps}: {refused}");
                }
            }
        }
        site.converge();
        at_rest(&site).unwrap_or_else(|broken| panic!("cancelled after step {steps}: {broken}"));
        if !under_way {
            break;
        }
    }
    assert!(cancelled > 3, "only {cancelled} starts were cancelled");
}

#[test]
fn recovering_registry_closes_open_operations() {
    let mut site = Installation::new(6, TaskOrder::AsWoken);
    let id = site.online("w");
    site.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
    cut_off(&site);
    site.calmly(|ops| async move { ops.start(id, false).await }).expect("it is accepted");
    let copy = site.disk.copy().expect("the disk is copied");
    site.world.heal();
    let made = request("later", IMAGE);
    site.calmly(|ops| async move { ops.create(made).await }).expect("it is created");
    site.sim.quiesce();
    site.restore_copy(copy);
    site.sim.pass(Duration::from_secs(5));
    let start =
        operations(&site).into_iter().find(|one| one.command.kind() == "start").expect("it is in the copy");
    assert_eq!(start.state, OperationState::Failed);
    assert!(start.detail.is_some_and(|why| why.contains("lost or restored")));
    assert_eq!(site.status(id), Status::Paused);
}

#[test]
fn agents_restart_does_not_end_a_pause() {
    let site = Installation::new(7, TaskOrder::AsWoken);
    let id = site.online("w");
    site.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
    let by = Requester::Agent(id);
    let restarted = site.calmly(|ops| async move {
        let ticket = ops.operate(id, Request::Up(Up::Restart), by).await.expect("it is accepted");
        ticket.ended().await
    });
    let restarted = restarted.expect("it is answered");
    assert!(matches!(&restarted[0].result, Ok(Applied::Raced(_))), "{restarted:?}");
    assert_eq!((site.status(id), newest(&site).state), (Status::Paused, OperationState::Skipped));
}
