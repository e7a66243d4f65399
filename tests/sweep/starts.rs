//! Starts that fail or take effect late.

use std::time::Duration;

use ostler::{
    domain::{
        heartbeat::Heartbeat,
        ids::WorkspaceId,
        naming::{LABEL_WORKSPACE, VolumeKind, volume_name},
        runtime::AGENT,
        status::{Failure, Status},
    },
    engine::ErrorKind,
    ops::{CreateRequest, OpError},
};

use crate::{
    simulation::{
        executor::{Owner, TaskOrder},
        installation::{IMAGE, Installation, REMOTE_IMAGE, healthy, request, request_below},
        invariants::{Witness, at_rest},
    },
    support::fake_engine::Fault,
};

/// Names of a workspace's containers and volumes in the engine.
fn objects_of(site: &Installation, id: WorkspaceId) -> Vec<String> {
    let state = site.world.state();
    let of = |labels: &std::collections::BTreeMap<String, String>| {
        labels.get(LABEL_WORKSPACE) == Some(&id.to_string())
    };
    let containers = state.containers.values().filter(|container| of(&container.spec.labels));
    let volumes = state.volumes.iter().filter(|(_, volume)| of(&volume.labels));
    containers.map(|container| container.name.clone()).chain(volumes.map(|(name, _)| name.clone())).collect()
}

#[test]
fn removal_during_an_image_pull_leaves_nothing_behind() {
    let site = Installation::new(1, TaskOrder::AsWoken);
    let made = request("w", REMOTE_IMAGE);
    let id = site.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
    while site.sim.held().first().is_none_or(|next| next.label != "pull_image") {
        assert!(site.sim.step_calmly(), "the pull was not requested");
        site.sim.run_ready();
    }
    let pull = site.sim.held()[0].id;
    let ops = site.daemon.app.ops.clone();
    site.sim.spawn(Owner::Daemon, async move {
        ops.remove(id, false, false).await.expect("a removal does not wait for a pull");
    });
    while site.status(id) != Status::Removed {
        site.sim.run_ready();
        let other = site.sim.held().into_iter().find(|held| held.id != pull).expect("the removal continues");
        site.sim.take(other.id);
    }
    site.sim.quiesce();
    assert_eq!(objects_of(&site, id), Vec::<String>::new());
    site.converge();
    at_rest(&site).unwrap();
}

/// The container's first start takes effect long after its caller has given up: while the second attempt is prepared,
/// while it is carried out, or after it has ended.
#[test]
fn late_container_start_leaves_one_container_and_one_token() {
    for late in (55..=130).map(Duration::from_secs) {
        let site = Installation::new(2, TaskOrder::AsWoken);
        let mut witness = Witness::of(&site);
        let (mut starts, mut writes) = (0, 0);
        site.world.inject(move |call| match call.method {
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
        let id = site.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
        while site.sim.step_calmly() || site.sim.fire_next_timer() {
            witness.check(&site).unwrap_or_else(|broken| panic!("late by {late:?}: {broken}"));
        }
        site.converge();
        at_rest(&site).unwrap_or_else(|broken| panic!("late by {late:?}: {broken}"));
        assert_eq!(site.status(id), Status::Online, "late by {late:?}");
    }
}

#[test]
fn missing_image_is_a_start_error_and_leaves_nothing_behind() {
    let site = Installation::new(3, TaskOrder::AsWoken);
    let made = request("w", "no-such-image");
    let id = site.calmly(|ops| async move { ops.create(made).await }).expect("the row is created").id;
    site.sim.quiesce();
    let row = site.row(id);
    assert_eq!(row.status, Status::Failed(Failure::StartError));
    assert!(
        row.status_detail.is_some_and(|why| why.contains("`no-such-image`")),
        "the detail does not name the image"
    );
    assert_eq!(objects_of(&site, id), Vec::<String>::new());
}

#[test]
fn half_started_container_is_replaced_by_a_new_one() {
    let site = Installation::new(6, TaskOrder::AsWoken);
    let mut starts = 0;
    site.world.inject(move |call| {
        starts += usize::from(call.method == "start_container");
        if starts == 1 && call.method == "start_container" { Fault::HalfWay } else { Fault::None }
    });
    let made = request("w", IMAGE);
    let id = site.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
    site.sim.quiesce();
    let stuck = site.world.state().half_started.first().cloned().expect("the first start failed half-way");
    site.converge();
    at_rest(&site).unwrap_or_else(|broken| panic!("{broken}"));
    let row = site.row(id);
    assert_eq!(row.status, Status::Online);
    assert_ne!(row.container, Some(stuck.clone()), "its row still names the half-started container");
    let world = site.world.state();
    assert!(
        !world.busy_ports.contains(&row.host_port.expect("it has a port")),
        "it has a port that is in use"
    );
    let kept = &world.containers[&stuck];
    assert!(kept.name.contains("trash"), "the old container is not in the trash but named {}", kept.name);
}

#[test]
fn exhausted_port_range_is_a_start_error_with_its_reason() {
    let site = Installation::new(4, TaskOrder::AsWoken);
    site.world.state().busy_ports.extend(1024..=u16::MAX);
    let made = request("w", IMAGE);
    let id = site.calmly(|ops| async move { ops.create(made).await }).expect("the row is created").id;
    site.sim.quiesce();
    let row = site.row(id);
    assert_eq!(row.status, Status::Failed(Failure::StartError));
    assert!(
        row.status_detail.is_some_and(|why| why.contains("no port is free")),
        "the detail does not say that no port is free"
    );
    assert!(
        site.world
            .state()
            .containers
            .values()
            .all(|c| c.spec.labels.get(LABEL_WORKSPACE) != Some(&id.to_string()))
    );
    site.world.state().busy_ports.clear();
    site.calmly(|ops| async move { ops.start(id, false).await })
        .expect("the start succeeds once ports are free");
    site.sim.quiesce();
    assert_eq!(site.status(id), Status::Online);
}

#[test]
fn stop_given_during_a_start_leaves_workspace_paused() {
    for after in 0.. {
        let site = Installation::new(5, TaskOrder::AsWoken);
        let id = site.online("w");
        site.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
        let ops = site.daemon.app.ops.clone();
        site.sim.spawn(Owner::Daemon, async move { drop(ops.start(id, false).await) });
        let under_way = (0..after).all(|_| site.sim.step_calmly());
        site.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
        site.sim.quiesce();
        assert_eq!(site.status(id), Status::Paused, "stopped after step {after} of the start");
        site.converge();
        at_rest(&site).unwrap_or_else(|broken| panic!("stopped after step {after} of the start: {broken}"));
        if !under_way {
            break;
        }
    }
}

/// In a new installation each time, the container is removed after 0, 1, 2, … requests of the start.
#[test]
fn container_removed_at_any_step_of_a_start_is_recreated() {
    for after in 0.. {
        let site = Installation::new(10, TaskOrder::AsWoken);
        let id = site.online("w");
        site.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
        let ops = site.daemon.app.ops.clone();
        site.sim.spawn(Owner::Daemon, async move { drop(ops.start(id, false).await) });
        let under_way = (0..after).all(|_| site.sim.step_calmly());
        site.remove_container(id);
        site.sim.quiesce();
        let row = site.row(id);
        let why = row.status_detail;
        assert!(!matches!(row.status, Status::Failed(_)), "removed after step {after} of the start: {why:?}");
        site.converge();
        assert_eq!(site.status(id), Status::Online, "removed after step {after} of the start");
        at_rest(&site).unwrap_or_else(|broken| panic!("removed after step {after} of the start: {broken}"));
        if !under_way {
            break;
        }
    }
}

#[test]
fn token_write_error_names_workspace_and_volume() {
    let site = Installation::new(11, TaskOrder::AsWoken);
    site.world.inject(|call| match call.method {
        "write_file" => Fault::Before(ErrorKind::Other),
        _ => Fault::None,
    });
    let made = request("w", IMAGE);
    let id = site.calmly(|ops| async move { ops.create(made).await }).expect("the row is created").id;
    site.sim.quiesce();
    let row = site.row(id);
    assert_eq!(row.status, Status::Failed(Failure::StartError));
    let why = row.status_detail.expect("the detail has a reason");
    let volume = volume_name(id, VolumeKind::Config);
    assert!(
        why.contains(&format!("podman volume inspect {volume}")) && why.contains("ostler start w"),
        "{why}"
    );
}

/// The agent's first heartbeat may arrive before the start checks the container, and may report bad health.
#[test]
fn agent_that_starts_degraded_is_left_running() {
    let site = Installation::new(7, TaskOrder::AsWoken);
    let mut made = request("w", IMAGE);
    AGENT.clone_into(&mut made.spec.runtime);
    let id = site.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
    loop {
        site.sim.run_ready();
        let next = *site.sim.held().first().expect("the start is requested");
        site.sim.take(next.id);
        if next.label == "start_container" {
            break;
        }
    }
    site.heartbeat(id, Heartbeat { error_rate: 1.0, ..healthy() });
    site.sim.quiesce();
    assert_eq!(site.status(id), Status::Degraded);
    assert!(
        site.container(id).is_some_and(|container| container.state.may_run()),
        "the start stopped an agent because it was degraded"
    );
    assert_eq!(site.row(id).incarnation.0, 1);
}

/// Pausing and resuming an external workspace changes nothing in the engine. So no delayed work of the pause may remain
/// that pauses the workspace again.
#[test]
fn external_workspace_stays_resumed_after_pause_and_resume() {
    let site = Installation::new(8, TaskOrder::AsWoken);
    let made = CreateRequest { external: true, ..request("w", "") };
    let id = site.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
    site.calmly(|ops| async move { ops.pause(id).await }).expect("it is paused");
    site.sim.run_ready();
    let late: Vec<_> = site.sim.held().into_iter().map(|held| held.id).collect();
    let ops = site.daemon.app.ops.clone();
    site.sim.spawn(Owner::Daemon, async move {
        ops.resume(id, false).await.expect("it is resumed");
    });
    while site.status(id) == Status::Paused {
        site.sim.run_ready();
        let next =
            site.sim.held().into_iter().find(|held| !late.contains(&held.id)).expect("the resume continues");
        site.sim.take(next.id);
    }
    site.sim.quiesce();
    assert_eq!(site.status(id), Status::AwaitingAgent);
}

/// An operator pauses the child while the parent and its descendants are being resumed.
#[test]
fn child_paused_during_resume_of_its_parent_stays_paused() {
    for after in 0.. {
        let site = Installation::new(9, TaskOrder::AsWoken);
        let parent = site.create_online(request("parent", IMAGE));
        let child = site.create_online(request_below(parent, "child", IMAGE));
        site.calmly(|ops| async move { ops.pause(parent).await }).expect("both are paused");
        assert_eq!(site.status(child), Status::Paused);
        let ops = site.daemon.app.ops.clone();
        site.sim.spawn(Owner::Daemon, async move { drop(ops.resume(parent, false).await) });
        let under_way = (0..after).all(|_| site.sim.step_calmly());
        let paused = site.calmly(|ops| async move { ops.pause(child).await });
        let store = site.daemon.app.store.clone();
        assert!(site.calmly(|_| async move { store.memory_is_true().await }).unwrap(), "after step {after}");
        site.sim.quiesce();
        if paused.is_ok() {
            assert_eq!(site.status(child), Status::Paused, "paused after step {after} of the resume");
        }
        site.converge();
        at_rest(&site).unwrap_or_else(|broken| panic!("paused after step {after} of the resume: {broken}"));
        if !under_way {
            break;
        }
    }
}

#[test]
fn start_without_its_work_volume_requires_an_explicit_option() {
    let site = Installation::new(6, TaskOrder::AsWoken);
    let id = site.online("w");
    site.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
    site.remove_container(id);
    site.world.state().volumes.retain(|name, _| !name.ends_with("-work") || !name.contains(&id.to_string()));
    let refused = site.calmly(|ops| async move { ops.start(id, false).await });
    assert!(matches!(refused, Err(OpError::Impossible(why)) if why.contains("volume missing")));
    site.converge();
    assert_eq!(site.status(id), Status::Paused, "a refused start changed the status");
    site.calmly(|ops| async move { ops.start(id, true).await })
        .expect("the explicit option permits the start");
    site.sim.quiesce();
    assert_eq!(site.status(id), Status::Online);
}
