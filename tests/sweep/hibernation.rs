//! Hibernations that are refused, or whose caller stops waiting for the answer.

use std::time::Duration;

use ostler::{
    domain::{heartbeat::Heartbeat, ids::WorkspaceId, status::Status},
    ops::OpError,
    runtime::clock::within,
};

use crate::simulation::{
    executor::{Owner, TaskOrder},
    installation::{IMAGE, Installation, healthy, request},
};

/// Orders a hibernation and stops waiting before the store has answered its claim.
fn abandoned_at_its_claim(site: &Installation, id: WorkspaceId) {
    let (ops, clock) = (site.daemon.app.ops.clone(), site.sim.clock());
    site.sim.spawn(Owner::Daemon, async move {
        let done = within(&*clock, Duration::from_secs(1), ops.hibernate(id, false)).await;
        assert!(done.is_none(), "it was answered before its claim: {done:?}");
    });
    loop {
        site.sim.run_ready();
        let next = *site.sim.held().first().expect("the claim is requested");
        if next.label == "begin hibernation" {
            break;
        }
        site.sim.take(next.id);
    }
    assert!(site.sim.fire_next_timer(), "the caller has no timeout");
    site.sim.run_ready();
}

fn accepts_messages(site: &Installation, id: WorkspaceId) -> bool {
    site.daemon.app.ops.traffic().begin(None, id).is_some()
}

#[test]
fn hibernation_completes_when_its_caller_stops_waiting() {
    let site = Installation::new(1, TaskOrder::AsWoken);
    let id = site.create_online(request("w", IMAGE));
    abandoned_at_its_claim(&site, id);
    assert!(
        !accepts_messages(&site, id),
        "a message was accepted for a container that is about to be stopped"
    );
    site.sim.quiesce();
    assert_eq!(site.status(id), Status::Hibernated);
    assert!(accepts_messages(&site, id), "messages to it are not accepted again");
}

#[test]
fn refused_hibernation_without_waiting_caller_admits_messages() {
    let site = Installation::new(2, TaskOrder::AsWoken);
    let id = site.create_online(request("w", IMAGE));
    abandoned_at_its_claim(&site, id);
    site.heartbeat(id, Heartbeat { active_tasks: 1, ..healthy() });
    site.sim.quiesce();
    assert_eq!(site.status(id), Status::Online, "it was hibernated in spite of an active task");
    assert!(accepts_messages(&site, id), "messages to it are not accepted again");
}

/// Two hibernations are ordered; one is refused while the store has not yet answered the other.
#[test]
fn refused_hibernation_does_not_admit_messages_during_another() {
    let site = Installation::new(4, TaskOrder::AsWoken);
    let id = site.create_online(request("w", IMAGE));
    abandoned_at_its_claim(&site, id);
    let ops = site.daemon.app.ops.clone();
    site.sim.spawn(Owner::Daemon, async move { drop(ops.hibernate(id, false).await) });
    let claims = loop {
        site.sim.run_ready();
        let held = site.sim.held();
        let Some(other) = held.iter().find(|held| held.label != "begin hibernation") else { break held };
        site.sim.take(other.id);
    };
    assert_eq!(claims.len(), 2, "not both hibernations have requested their claim");
    site.heartbeat(id, Heartbeat { active_tasks: 1, ..healthy() });
    site.sim.take(claims[0].id);
    site.sim.run_ready();
    site.heartbeat(id, healthy());
    assert!(
        !accepts_messages(&site, id),
        "a message was accepted for a container that is about to be stopped"
    );
    site.sim.quiesce();
    assert_eq!(site.status(id), Status::Hibernated);
    assert!(accepts_messages(&site, id), "messages to it are not accepted again");
}

#[test]
fn hibernation_refusal_reports_open_requests_and_not_tasks() {
    let site = Installation::new(3, TaskOrder::AsWoken);
    let id = site.create_online(request("w", IMAGE));
    let in_flight = site.daemon.app.ops.traffic().begin(None, id).expect("a message is accepted");
    let refused = site.calmly(|ops| async move { ops.hibernate(id, false).await }).expect_err("it is in use");
    assert!(matches!(refused, OpError::InUse { open_requests: 1, .. }), "{refused:?}");
    assert!(refused.to_string().contains("messages or commands in progress: 1"), "{refused}");
    drop(in_flight);
    site.calmly(|ops| async move { ops.hibernate(id, false).await }).expect("it has no requests in progress");
}
