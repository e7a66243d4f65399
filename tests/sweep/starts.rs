//! Starts that fail or take effect late.

use std::time::Duration;

use ostler::{
    domain::{
        beat::Beat,
        ids::WorkspaceId,
        naming::{LABEL_WORKSPACE, VolumeKind, volume_name},
        runtime::AGENT,
        status::{Failure, Status},
    },
    engine::{Trouble, fake::Fault},
    ops::{CreateRequest, OpError},
};

use crate::simulation::{
    executor::{Owner, TaskOrder},
    house::{House, IMAGE, REMOTE_IMAGE, request, well},
    invariants::{Witness, at_rest},
};

/// Names of a workspace's containers and volumes in the engine.
fn belongings(house: &House, id: WorkspaceId) -> Vec<String> {
    let state = house.world.state();
    let of = |labels: &std::collections::BTreeMap<String, String>| {
        labels.get(LABEL_WORKSPACE) == Some(&id.to_string())
    };
    let containers = state.containers.values().filter(|container| of(&container.spec.labels));
    let volumes = state.volumes.iter().filter(|(_, volume)| of(&volume.labels));
    containers.map(|container| container.name.clone()).chain(volumes.map(|(name, _)| name.clone())).collect()
}

#[test]
fn a_removal_during_an_image_pull_leaves_nothing_behind() {
    let house = House::new(1, TaskOrder::AsWoken);
    let made = request("w", REMOTE_IMAGE);
    let id = house.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
    while house.sim.held().first().is_none_or(|next| next.label != "pull_image") {
        assert!(house.sim.step_calmly(), "it comes to the pull");
        house.sim.run_ready();
    }
    let pull = house.sim.held()[0].id;
    let ops = house.daemon.ops.clone();
    house.sim.spawn(Owner::Daemon, async move {
        ops.remove(id, false, false).await.expect("a removal waits for no pull");
    });
    while house.status(id) != Status::Removed {
        house.sim.run_ready();
        let other = house.sim.held().into_iter().find(|held| held.id != pull).expect("the removal goes on");
        house.sim.take(other.id);
    }
    house.sim.quiesce();
    assert_eq!(belongings(&house, id), Vec::<String>::new());
    house.converge();
    at_rest(&house).unwrap();
}

/// The container's first start takes effect long after its caller has given up: while the second attempt is prepared,
/// is done, or is over.
#[test]
fn a_start_that_finishes_after_its_deadline_ends_with_one_container_and_one_token() {
    for late in (55..=130).map(Duration::from_secs) {
        let house = House::new(2, TaskOrder::AsWoken);
        let mut witness = Witness::of(&house);
        let (mut starts, mut writes) = (0, 0);
        house.world.inject(move |call| match call.method {
            "start_container" => {
                starts += 1;
                if starts == 1 { Fault::Late(late) } else { Fault::Slow(Duration::from_secs(10)) }
            }
            "write_file" => {
                writes += 1;
                if writes > 1 { Fault::Slow(Duration::from_secs(20)) } else { Fault::None }
            }
            _ => Fault::None,
        });
        let made = request("w", IMAGE);
        let id = house.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
        while house.sim.step_calmly() || house.sim.fire_next_timer() {
            witness.check(&house).unwrap_or_else(|broken| panic!("late by {late:?}: {broken}"));
        }
        house.converge();
        at_rest(&house).unwrap_or_else(|broken| panic!("late by {late:?}: {broken}"));
        assert_eq!(house.status(id), Status::Online, "late by {late:?}");
    }
}

#[test]
fn a_wrong_image_is_a_start_error_and_nothing_is_half_made() {
    let house = House::new(3, TaskOrder::AsWoken);
    let made = request("w", "no-such-image");
    let id = house.calmly(|ops| async move { ops.create(made).await }).expect("the row is made").id;
    house.sim.quiesce();
    let row = house.row(id);
    assert_eq!(row.status, Status::Failed(Failure::StartError));
    assert!(row.status_detail.is_some_and(|why| why.contains("`no-such-image`")), "it says which image");
    assert_eq!(belongings(&house, id), Vec::<String>::new());
}

#[test]
fn a_start_that_was_broken_off_half_way_is_healed_by_another_container() {
    let house = House::new(6, TaskOrder::AsWoken);
    let mut starts = 0;
    house.world.inject(move |call| {
        starts += usize::from(call.method == "start_container");
        if starts == 1 && call.method == "start_container" { Fault::HalfWay } else { Fault::None }
    });
    let made = request("w", IMAGE);
    let id = house.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
    house.sim.quiesce();
    let stuck = house.world.state().half_started.first().cloned().expect("the first start broke off");
    house.converge();
    at_rest(&house).unwrap_or_else(|broken| panic!("{broken}"));
    let row = house.row(id);
    assert_eq!(row.status, Status::Online);
    assert_ne!(row.container, Some(stuck.clone()), "it is online in the container that never starts");
    let world = house.world.state();
    assert!(
        !world.busy_ports.contains(&row.host_port.expect("it has a port")),
        "it has the port that is held"
    );
    let kept = &world.containers[&stuck];
    assert!(kept.name.contains("trash"), "the old one is not in the trash but called {}", kept.name);
}

#[test]
fn a_used_up_port_range_is_a_start_error_that_says_so() {
    let house = House::new(4, TaskOrder::AsWoken);
    house.world.state().busy_ports.extend(1024..=u16::MAX);
    let made = request("w", IMAGE);
    let id = house.calmly(|ops| async move { ops.create(made).await }).expect("the row is made").id;
    house.sim.quiesce();
    let row = house.row(id);
    assert_eq!(row.status, Status::Failed(Failure::StartError));
    assert!(row.status_detail.is_some_and(|why| why.contains("no port is free")), "it says what is used up");
    assert!(
        house
            .world
            .state()
            .containers
            .values()
            .all(|c| c.spec.labels.get(LABEL_WORKSPACE) != Some(&id.to_string()))
    );
    house.world.state().busy_ports.clear();
    house.calmly(|ops| async move { ops.start(id, false).await }).expect("with free ports it starts");
    house.sim.quiesce();
    assert_eq!(house.status(id), Status::Online);
}

#[test]
fn a_stop_has_the_last_word_over_a_start_that_is_under_way() {
    for after in 0.. {
        let house = House::new(5, TaskOrder::AsWoken);
        let id = house.online("w");
        house.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
        let ops = house.daemon.ops.clone();
        house.sim.spawn(Owner::Daemon, async move { drop(ops.start(id, false).await) });
        let under_way = (0..after).all(|_| house.sim.step_calmly());
        house.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
        house.sim.quiesce();
        assert_eq!(house.status(id), Status::Paused, "stopped after step {after} of the start");
        house.converge();
        at_rest(&house).unwrap_or_else(|broken| panic!("stopped after step {after} of the start: {broken}"));
        if !under_way {
            break;
        }
    }
}

/// Removed after each of the start's requests in turn.
#[test]
fn container_removed_at_any_step_of_a_start_is_made_again() {
    for after in 0.. {
        let house = House::new(10, TaskOrder::AsWoken);
        let id = house.online("w");
        house.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
        let ops = house.daemon.ops.clone();
        house.sim.spawn(Owner::Daemon, async move { drop(ops.start(id, false).await) });
        let under_way = (0..after).all(|_| house.sim.step_calmly());
        house.remove_container(id);
        house.sim.quiesce();
        let row = house.row(id);
        let why = row.status_detail;
        assert!(!matches!(row.status, Status::Failed(_)), "removed after step {after} of the start: {why:?}");
        house.converge();
        assert_eq!(house.status(id), Status::Online, "removed after step {after} of the start");
        at_rest(&house).unwrap_or_else(|broken| panic!("removed after step {after} of the start: {broken}"));
        if !under_way {
            break;
        }
    }
}

#[test]
fn refused_write_of_the_token_names_workspace_and_volume() {
    let house = House::new(11, TaskOrder::AsWoken);
    house.world.inject(|call| match call.method {
        "write_file" => Fault::Before(Trouble::Other),
        _ => Fault::None,
    });
    let made = request("w", IMAGE);
    let id = house.calmly(|ops| async move { ops.create(made).await }).expect("the row is made").id;
    house.sim.quiesce();
    let row = house.row(id);
    assert_eq!(row.status, Status::Failed(Failure::StartError));
    let why = row.status_detail.expect("it says why");
    let volume = volume_name(id, VolumeKind::Config);
    assert!(
        why.contains(&format!("podman volume inspect {volume}")) && why.contains("ostler start w"),
        "{why}"
    );
}

/// Its first heartbeat may arrive before the start's own check, and report bad health.
#[test]
fn an_agent_that_comes_up_unwell_is_left_running() {
    let house = House::new(7, TaskOrder::AsWoken);
    let made = CreateRequest { runtime: Some(AGENT.to_owned()), ..request("w", IMAGE) };
    let id = house.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
    loop {
        house.sim.run_ready();
        let next = *house.sim.held().first().expect("it comes to its start");
        house.sim.take(next.id);
        if next.label == "start_container" {
            break;
        }
    }
    house.beat(id, Beat { error_rate: 1.0, ..well() });
    house.sim.quiesce();
    assert_eq!(house.status(id), Status::Degraded);
    assert!(
        house.container(id).is_some_and(|container| container.state.may_run()),
        "it was stopped for that"
    );
    assert_eq!(house.row(id).incarnation.0, 1);
}

/// Pausing and resuming it changes nothing in the engine, so no late work may remain.
#[test]
fn an_external_workspace_that_is_paused_and_resumed_stays_resumed() {
    let house = House::new(8, TaskOrder::AsWoken);
    let made = CreateRequest { external: true, ..request("w", "") };
    let id = house.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
    house.calmly(|ops| async move { ops.pause(id).await }).expect("it is paused");
    house.sim.run_ready();
    let late: Vec<_> = house.sim.held().into_iter().map(|held| held.id).collect();
    let ops = house.daemon.ops.clone();
    house.sim.spawn(Owner::Daemon, async move {
        ops.resume(id, false).await.expect("it is resumed");
    });
    while house.status(id) == Status::Paused {
        house.sim.run_ready();
        let next = house.sim.held().into_iter().find(|held| !late.contains(&held.id)).expect("it goes on");
        house.sim.take(next.id);
    }
    house.sim.quiesce();
    assert_eq!(house.status(id), Status::AwaitingAgent);
}

/// A pause given while the parent and its descendants are being resumed must win.
#[test]
fn a_pause_in_the_middle_of_its_parents_resume_has_the_last_word() {
    for after in 0.. {
        let house = House::new(9, TaskOrder::AsWoken);
        let parent = house.heard(request("parent", IMAGE));
        let child = house.heard(CreateRequest { parent: Some(parent), ..request("child", IMAGE) });
        house.calmly(|ops| async move { ops.pause(parent).await }).expect("both are paused");
        assert_eq!(house.status(child), Status::Paused);
        let ops = house.daemon.ops.clone();
        house.sim.spawn(Owner::Daemon, async move { drop(ops.resume(parent, false).await) });
        let under_way = (0..after).all(|_| house.sim.step_calmly());
        let said = house.calmly(|ops| async move { ops.pause(child).await });
        let store = house.daemon.hearing.clone();
        assert!(house.calmly(|_| async move { store.memory_is_true().await }).unwrap(), "after step {after}");
        house.sim.quiesce();
        if said.is_ok() {
            assert_eq!(house.status(child), Status::Paused, "paused after step {after} of the resume");
        }
        house.converge();
        at_rest(&house).unwrap_or_else(|broken| panic!("paused after step {after} of the resume: {broken}"));
        if !under_way {
            break;
        }
    }
}

#[test]
fn a_row_whose_work_volume_is_gone_waits_for_a_persons_word() {
    let house = House::new(6, TaskOrder::AsWoken);
    let id = house.online("w");
    house.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
    house.remove_container(id);
    house.world.state().volumes.retain(|name, _| !name.ends_with("-work") || !name.contains(&id.to_string()));
    let refused = house.calmly(|ops| async move { ops.start(id, false).await });
    assert!(matches!(refused, Err(OpError::Impossible(why)) if why.contains("volume missing")));
    house.converge();
    assert_eq!(house.status(id), Status::Paused, "a paused row stays paused");
    house.calmly(|ops| async move { ops.start(id, true).await }).expect("a person's word is enough");
    house.sim.quiesce();
    assert_eq!(house.status(id), Status::Online);
}
