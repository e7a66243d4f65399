//! A second run of a pass, directly after the first, does nothing.

use std::{collections::BTreeSet, time::Duration};

use ostler::{
    domain::{
        event::EventKind, heartbeat::Heartbeat, ids::WorkspaceId, liveness::WEDGED_AFTER, runtime::Runtime,
    },
    sweep::{Outcome, Verdict},
};
use serde_json::json;

use crate::simulation::{
    crash::{MakeWork, WORK},
    executor::TaskOrder,
    installation::{EVENT_RETENTION, IMAGE, Installation, healthy, now_or_panic, request},
    invariants::{Witness, at_rest},
};

/// The other passes that plan actions, with work for each.
const MORE_WORK: [(&str, MakeWork); 5] = [
    ("check_heartbeats", work_for_check_heartbeats),
    ("time_out_provisioning", work_for_time_out_provisioning),
    ("hibernate_idle", work_for_hibernate_idle),
    ("flag_wedged", work_for_flag_wedged),
    ("restart_due", work_for_restart_due),
];

/// The only pass that plans no actions. It deletes old events.
const HOUSEKEEPER: &str = "forget_history";

/// Lets time pass with the regular snapshots of a daemon, so that windows of liveness count it.
fn pass_observed(site: &Installation, time: Duration) {
    let until = site.sim.now() + time;
    while site.sim.now() < until {
        site.sim.pass(Duration::from_secs(30));
        site.snapshot();
    }
}

fn work_for_check_heartbeats(site: &mut Installation) -> WorkspaceId {
    let id = site.create_online(request("w", IMAGE));
    pass_observed(site, Duration::from_mins(4));
    id
}

fn work_for_time_out_provisioning(site: &mut Installation) -> WorkspaceId {
    let id = site.create_started(request("w", IMAGE));
    pass_observed(site, Runtime::agent().provisioning_limit + Duration::from_mins(1));
    id
}

fn work_for_hibernate_idle(site: &mut Installation) -> WorkspaceId {
    let mut made = request("w", IMAGE);
    made.spec.hibernation_idle_minutes = Some(10);
    let id = site.create_online(made);
    pass_observed(site, Duration::from_mins(11));
    id
}

fn work_for_flag_wedged(site: &mut Installation) -> WorkspaceId {
    let id = site.create_online(request("w", IMAGE));
    site.heartbeat(id, Heartbeat { active_tasks: 1, ..healthy() }).expect("its agent runs");
    pass_observed(site, WEDGED_AFTER + Duration::from_mins(1));
    id
}

fn work_for_restart_due(site: &mut Installation) -> WorkspaceId {
    let id = site.online("w");
    let container = site.row(id).container.expect("it has one");
    site.world.state().kill(&container, 1);
    site.snapshot();
    site.snapshot();
    site.run("check_containers");
    pass_observed(site, Duration::from_mins(1));
    id
}

#[test]
fn second_run_of_a_pass_does_nothing() {
    let all: BTreeSet<_> = ostler::sweep::all().iter().map(|pass| pass.name()).collect();
    let work = || WORK.into_iter().chain(MORE_WORK);
    let tried: BTreeSet<_> = work().map(|(pass, _)| pass).chain([HOUSEKEEPER]).collect();
    assert_eq!(tried, all, "every pass needs work here");
    for (pass, make_work) in work() {
        let mut site = Installation::new(11, TaskOrder::AsWoken);
        let mut witness = Witness::of(&site);
        make_work(&mut site);
        let first = site.run(pass);
        let done = |verdict: &Verdict| matches!(verdict, Verdict::Applied(_));
        assert!(!first.actions.is_empty(), "{pass} found no work");
        assert!(
            first.actions.iter().all(|action| done(&action.verdict)),
            "{pass} did not complete its work: {first:#?}"
        );
        site.sim.quiesce();
        let second = site.run(pass);
        assert_eq!(
            (second.outcome, second.actions),
            (Outcome::Done, Vec::new()),
            "{pass} did work again in its second run"
        );
        witness.check(&site).unwrap();
    }
}

#[test]
fn second_run_of_forget_history_deletes_nothing() {
    let site = Installation::new(13, TaskOrder::AsWoken);
    let old = site.sim.now() - EVENT_RETENTION - Duration::from_secs(1);
    let emitted = site.reader.emit(old, EventKind::EngineAccepted, None, json!({}), None);
    now_or_panic(emitted).expect("the store answers");
    let events = || now_or_panic(site.reader.events_after(0, 1_000)).expect("the store answers");
    let before = events();
    let first = site.run(HOUSEKEEPER);
    let left = events();
    assert!(left.len() < before.len(), "{HOUSEKEEPER} found no work: {first:#?}");
    assert_eq!(site.run(HOUSEKEEPER).outcome, Outcome::Done);
    assert_eq!(events(), left, "{HOUSEKEEPER} did work again in its second run");
}

#[test]
fn sweep_of_a_settled_installation_changes_nothing() {
    let site = Installation::new(12, TaskOrder::AsWoken);
    site.online("a");
    site.converge();
    let before = site.world.state().log.len();
    site.sweep();
    let changing = ["create", "start", "stop", "rename", "delete", "write", "repair", "pull"];
    let state = site.world.state();
    let calls =
        state.log[before..].iter().filter(|call| changing.iter().any(|verb| call.method.starts_with(verb)));
    assert_eq!(calls.count(), 0, "a sweep without work changed something in the engine");
    drop(state);
    at_rest(&site).unwrap();
}
