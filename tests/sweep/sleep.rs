//! Hibernation whose caller stops waiting, or that is refused.

use std::time::Duration;

use ostler::{
    clock::within,
    domain::{beat::Beat, ids::WorkspaceId, status::Status},
    ops::OpError,
};

use crate::simulation::{
    executor::{Owner, TaskOrder},
    house::{House, IMAGE, request, well},
};

/// Orders a hibernation and stops waiting before the store has answered its claim.
fn given_up_at_its_claim(house: &House, id: WorkspaceId) {
    let (ops, clock) = (house.daemon.ops.clone(), house.sim.clock());
    house.sim.spawn(Owner::Daemon, async move {
        let done = within(&*clock, Duration::from_secs(1), ops.hibernate(id, false)).await;
        assert!(done.is_none(), "it was answered before its claim: {done:?}");
    });
    loop {
        house.sim.run_ready();
        let next = *house.sim.held().first().expect("it comes to its claim");
        if next.label == "begin hibernation" {
            break;
        }
        house.sim.take(next.id);
    }
    assert!(house.sim.fire_next_timer(), "its time is up");
    house.sim.run_ready();
}

fn takes_messages(house: &House, id: WorkspaceId) -> bool {
    house.daemon.ops.traffic().begin(None, id).is_some()
}

#[test]
fn sleep_that_nobody_waits_for_is_carried_out() {
    let house = House::new(1, TaskOrder::AsWoken);
    let id = house.heard(request("w", IMAGE));
    given_up_at_its_claim(&house, id);
    assert!(
        !takes_messages(&house, id),
        "a message is let through to a container that is about to be stopped"
    );
    house.sim.quiesce();
    assert_eq!(house.status(id), Status::Hibernated);
    assert!(takes_messages(&house, id), "messages to it wait in vain");
}

#[test]
fn refused_sleep_that_nobody_waits_for_lets_messages_through() {
    let house = House::new(2, TaskOrder::AsWoken);
    let id = house.heard(request("w", IMAGE));
    given_up_at_its_claim(&house, id);
    house.beat(id, Beat { active_tasks: 1, ..well() });
    house.sim.quiesce();
    assert_eq!(house.status(id), Status::Online, "it works on something");
    assert!(takes_messages(&house, id), "messages to it wait in vain");
}

/// One order is refused while the store has not answered the other.
#[test]
fn refused_sleep_does_not_open_what_another_has_closed() {
    let house = House::new(4, TaskOrder::AsWoken);
    let id = house.heard(request("w", IMAGE));
    given_up_at_its_claim(&house, id);
    let ops = house.daemon.ops.clone();
    house.sim.spawn(Owner::Daemon, async move { drop(ops.hibernate(id, false).await) });
    let claims = loop {
        house.sim.run_ready();
        let held = house.sim.held();
        let Some(other) = held.iter().find(|held| held.label != "begin hibernation") else { break held };
        house.sim.take(other.id);
    };
    assert_eq!(claims.len(), 2, "both claim it");
    house.beat(id, Beat { active_tasks: 1, ..well() });
    house.sim.take(claims[0].id);
    house.sim.run_ready();
    house.beat(id, well());
    assert!(
        !takes_messages(&house, id),
        "a message is let through to a container that is about to be stopped"
    );
    house.sim.quiesce();
    assert_eq!(house.status(id), Status::Hibernated);
    assert!(takes_messages(&house, id), "messages to it wait in vain");
}

#[test]
fn workspace_in_use_is_not_said_to_have_tasks() {
    let house = House::new(3, TaskOrder::AsWoken);
    let id = house.heard(request("w", IMAGE));
    let passage = house.daemon.ops.traffic().begin(None, id).expect("a message is let through");
    let refused =
        house.calmly(|ops| async move { ops.hibernate(id, false).await }).expect_err("it is in use");
    assert!(matches!(refused, OpError::InUse { open_requests: 1, .. }), "{refused:?}");
    assert!(refused.to_string().contains("messages or commands in progress: 1"), "{refused}");
    drop(passage);
    house.calmly(|ops| async move { ops.hibernate(id, false).await }).expect("nobody uses it");
}
