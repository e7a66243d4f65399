//! Hibernation whose caller stops waiting, or that is refused.

use std::time::Duration;

use ostler::{
    clock::within,
    domain::{heartbeat::Heartbeat, ids::WorkspaceId, status::Status},
    ops::OpError,
};

use crate::simulation::{
    executor::{Owner, TaskOrder},
    installation::{IMAGE, Installation, request, well},
};

/// Orders a hibernation and stops waiting before the store has answered its claim.
fn given_up_at_its_claim(installation: &Installation, id: WorkspaceId) {
    let (ops, clock) = (installation.daemon.ops.clone(), installation.sim.clock());
    installation.sim.spawn(Owner::Daemon, async move {
        let done = within(&*clock, Duration::from_secs(1), ops.hibernate(id, false)).await;
        assert!(done.is_none(), "it was answered before its claim: {done:?}");
    });
    loop {
        installation.sim.run_ready();
        let next = *installation.sim.held().first().expect("it comes to its claim");
        if next.label == "begin hibernation" {
            break;
        }
        installation.sim.take(next.id);
    }
    assert!(installation.sim.fire_next_timer(), "its time is up");
    installation.sim.run_ready();
}

fn accepts_messages(installation: &Installation, id: WorkspaceId) -> bool {
    installation.daemon.ops.traffic().begin(None, id).is_some()
}

#[test]
fn hibernation_completes_when_its_caller_stops_waiting() {
    let installation = Installation::new(1, TaskOrder::AsWoken);
    let id = installation.create_online(request("w", IMAGE));
    given_up_at_its_claim(&installation, id);
    assert!(
        !accepts_messages(&installation, id),
        "a message is let through to a container that is about to be stopped"
    );
    installation.sim.quiesce();
    assert_eq!(installation.status(id), Status::Hibernated);
    assert!(accepts_messages(&installation, id), "messages to it wait in vain");
}

#[test]
fn refused_unawaited_hibernation_admits_messages_again() {
    let installation = Installation::new(2, TaskOrder::AsWoken);
    let id = installation.create_online(request("w", IMAGE));
    given_up_at_its_claim(&installation, id);
    installation.heartbeat(id, Heartbeat { active_tasks: 1, ..well() });
    installation.sim.quiesce();
    assert_eq!(installation.status(id), Status::Online, "it works on something");
    assert!(accepts_messages(&installation, id), "messages to it wait in vain");
}

/// One order is refused while the store has not answered the other.
#[test]
fn refused_hibernation_does_not_admit_messages_during_another() {
    let installation = Installation::new(4, TaskOrder::AsWoken);
    let id = installation.create_online(request("w", IMAGE));
    given_up_at_its_claim(&installation, id);
    let ops = installation.daemon.ops.clone();
    installation.sim.spawn(Owner::Daemon, async move { drop(ops.hibernate(id, false).await) });
    let claims = loop {
        installation.sim.run_ready();
        let held = installation.sim.held();
        let Some(other) = held.iter().find(|held| held.label != "begin hibernation") else { break held };
        installation.sim.take(other.id);
    };
    assert_eq!(claims.len(), 2, "both claim it");
    installation.heartbeat(id, Heartbeat { active_tasks: 1, ..well() });
    installation.sim.take(claims[0].id);
    installation.sim.run_ready();
    installation.heartbeat(id, well());
    assert!(
        !accepts_messages(&installation, id),
        "a message is let through to a container that is about to be stopped"
    );
    installation.sim.quiesce();
    assert_eq!(installation.status(id), Status::Hibernated);
    assert!(accepts_messages(&installation, id), "messages to it wait in vain");
}

#[test]
fn hibernation_refusal_reports_open_requests_and_not_tasks() {
    let installation = Installation::new(3, TaskOrder::AsWoken);
    let id = installation.create_online(request("w", IMAGE));
    let in_flight = installation.daemon.ops.traffic().begin(None, id).expect("a message is let through");
    let refused =
        installation.calmly(|ops| async move { ops.hibernate(id, false).await }).expect_err("it is in use");
    assert!(matches!(refused, OpError::InUse { open_requests: 1, .. }), "{refused:?}");
    assert!(refused.to_string().contains("messages or commands in progress: 1"), "{refused}");
    drop(in_flight);
    installation.calmly(|ops| async move { ops.hibernate(id, false).await }).expect("nobody uses it");
}
