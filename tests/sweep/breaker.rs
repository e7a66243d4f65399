//! The breaker: above its limit nothing is done, and an approval releases exactly what it lists.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ostler::{
    domain::{
        ids::{ContainerId, WorkspaceId},
        liveness::{RESTART_SILENT_AFTER, SILENT_AFTER},
        naming::container_name,
        status::Status,
        token::TokenKind,
    },
    engine::{
        Trouble,
        fake::{FakeContainer, Fault},
    },
    store::Approval,
    sweep::Outcome,
};

use crate::simulation::{
    executor::TaskOrder,
    house::{House, IMAGE, at_once, request, well},
};

fn token_is_live(house: &House, id: WorkspaceId) -> bool {
    let live = at_once(house.eye.live_tokens(id, house.sim.now())).unwrap();
    live.iter().any(|token| token.kind == TokenKind::Instance)
}

/// Removes their containers and waits longer than the grace.
fn lose(house: &House, ids: &[WorkspaceId]) {
    for id in ids {
        house.remove_container(*id);
    }
    house.look();
    house.sim.pass(Duration::from_mins(6));
    house.look();
}

fn held(house: &House, pass: &'static str) -> ostler::domain::ids::PlanId {
    let outcome = house.run(pass).outcome;
    let Outcome::Held { plan, .. } = outcome else { panic!("{pass} is held, and not {outcome:?}") };
    plan
}

#[test]
fn a_plan_above_the_limit_is_held_and_an_approval_releases_exactly_what_it_lists() {
    let house = House::new(1, TaskOrder::AsWoken);
    let all: Vec<_> = (0..9).map(|n| house.online(&format!("w{n}"))).collect();
    let (four, others) = (&all[..4], &all[4..8]);
    lose(&house, four);
    let plan = held(&house, "revoke_stale_tokens");
    assert!(four.iter().all(|id| token_is_live(&house, *id)), "nothing of a held plan is done");
    assert_eq!(held(&house, "revoke_stale_tokens"), plan, "the same plan keeps its id");
    let at = house.sim.now();
    let approved = at_once(house.eye.approve_plan("revoke_stale_tokens".into(), plan, at)).unwrap();
    assert!(matches!(approved, Approval::Approved(_)));
    lose(&house, others);
    let run = house.run("revoke_stale_tokens");
    assert!(four.iter().all(|id| !token_is_live(&house, *id)), "what was approved is done: {run:#?}");
    assert!(others.iter().all(|id| token_is_live(&house, *id)), "what was not listed is not: {run:#?}");
    assert_ne!(held(&house, "revoke_stale_tokens"), plan, "it waits for an approval of its own");
}

#[test]
fn what_was_approved_stays_so_until_all_of_it_is_done() {
    let house = House::new(2, TaskOrder::AsWoken);
    let all: Vec<_> = (0..18).map(|n| house.online(&format!("w{n}"))).collect();
    let (twelve, others) = (&all[..12], &all[12..17]);
    lose(&house, twelve);
    let plan = held(&house, "revoke_stale_tokens");
    at_once(house.eye.approve_plan("revoke_stale_tokens".into(), plan, house.sim.now())).unwrap();
    // Other workspaces, which were not approved, become due too. Each run takes only a limited number of actions.
    lose(&house, others);
    for _ in 0..3 {
        house.run("revoke_stale_tokens");
    }
    assert!(twelve.iter().all(|id| !token_is_live(&house, *id)), "all that was approved is done in the end");
    assert!(others.iter().all(|id| token_is_live(&house, *id)), "and nothing else");
}

#[test]
fn while_the_registry_recovers_nothing_unknown_is_reaped_until_a_person_approves() {
    let house = House::new(3, TaskOrder::AsWoken);
    house.furnish_unknown();
    at_once(house.eye.begin_recovery(house.sim.now(), 7, "it was lost".into())).unwrap();
    house.look();
    house.sim.pass(Duration::from_mins(11));
    house.look();
    let plan = held(&house, "reap_unknown");
    assert_eq!(at_once(house.eye.trash()).unwrap(), Vec::new());
    at_once(house.eye.approve_plan("reap_unknown".into(), plan, house.sim.now())).unwrap();
    house.run("reap_unknown");
    assert_eq!(at_once(house.eye.trash()).unwrap().len(), 1, "a person decided");
}

#[test]
fn while_the_registry_recovers_a_second_container_runs_on_until_a_person_approves() {
    // A registry restored from a backup may name the older of two containers.
    let house = House::new(5, TaskOrder::AsWoken);
    let id = house.online("agent");
    let newer = ContainerId::try_from("f".repeat(64)).unwrap();
    let container = FakeContainer { name: container_name(id, 9), ..house.container(id).unwrap() };
    house.world.state().containers.insert(newer.clone(), container);
    at_once(house.eye.begin_recovery(house.sim.now(), 7, "it was restored".into())).unwrap();

    let plan = held(&house, "settle");
    assert!(house.world.state().containers[&newer].state.may_run(), "it was stopped before anybody decided");
    at_once(house.eye.approve_plan("settle".into(), plan, house.sim.now())).unwrap();
    house.run("settle");
    assert!(!house.world.state().containers[&newer].state.may_run(), "a person decided");
}

/// Runs the agent passes for this time without any heartbeat.
fn be_silent_for(house: &House, time: Duration) {
    let until = house.sim.now() + time;
    while house.sim.now() < until {
        house.sim.pass(Duration::from_secs(30));
        house.run("check_heartbeats");
        house.sim.quiesce();
    }
}

#[test]
fn restarts_are_held_when_many_agents_are_silent_at_once() {
    let house = House::new(6, TaskOrder::AsWoken);
    let all: Vec<_> = (0..5).map(|n| house.heard(request(&format!("w{n}"), IMAGE))).collect();
    be_silent_for(&house, Duration::from_mins(20));
    let plan = held(&house, "check_heartbeats");
    for id in &all {
        assert_eq!(house.status(*id), Status::Degraded, "a held plan does not hide that it is silent");
        assert_eq!(house.row(*id).incarnation.0, 1, "it was restarted before a user decided");
    }
    assert_eq!(held(&house, "check_heartbeats"), plan, "the same plan keeps its id");
    at_once(house.eye.approve_plan("check_heartbeats".into(), plan, house.sim.now())).unwrap();
    house.run("check_heartbeats");
    house.sim.quiesce();
    assert!(all.iter().all(|id| house.row(*id).incarnation.0 == 2), "a user decided");
}

#[test]
fn restarts_for_silence_count_for_an_hour() {
    let house = House::new(7, TaskOrder::AsWoken);
    let all: Vec<_> = (0..5).map(|n| house.heard(request(&format!("w{n}"), IMAGE))).collect();
    let beat_of = |ids: &[WorkspaceId]| {
        for id in ids {
            let _heard = house.beat(*id, well());
        }
    };
    let (first, others) = all.split_at(3);
    for _ in 0..32 {
        house.sim.pass(Duration::from_secs(30));
        beat_of(others);
        house.run("check_heartbeats");
        house.sim.quiesce();
    }
    assert!(first.iter().all(|id| house.row(*id).incarnation.0 == 2), "three are within the limit");
    be_silent_for(&house, Duration::from_mins(15));
    held(&house, "check_heartbeats");
    assert!(others.iter().all(|id| house.row(*id).incarnation.0 == 1), "more within the hour are not");
}

fn restarts_told(house: &House, id: WorkspaceId) -> usize {
    let events = at_once(house.eye.newest_events(Some(id), 500)).unwrap();
    events.iter().filter(|event| event.event_type == "WORKSPACE_RESTARTED_SILENT").count()
}

/// The engine refuses a request that a start needs before it begins.
#[test]
fn restart_that_did_not_happen_is_neither_charged_nor_told() {
    for step in ["inspect_volume", "stop_container"] {
        let house = House::new(8, TaskOrder::AsWoken);
        let id = house.heard(request("w", IMAGE));
        let engine_off = Arc::new(AtomicBool::new(true));
        house.world.inject({
            let off = Arc::clone(&engine_off);
            move |call| {
                // Requests for the sentinel succeed; without it no listing is taken.
                let of_start = call.object.contains(&id.to_string()) || call.method == "stop_container";
                let is_refused = call.method == step && of_start && off.load(Ordering::Relaxed);
                if is_refused { Fault::Before(Trouble::Other) } else { Fault::None }
            }
        });
        be_silent_for(&house, Duration::from_mins(18));
        assert_eq!(house.row(id).incarnation.0, 1, "{step}: it was started");
        assert_eq!(restarts_told(&house, id), 0, "{step}: a restart was told that did not happen");
        engine_off.store(false, Ordering::Relaxed);
        be_silent_for(&house, Duration::from_mins(1));
        assert_eq!(house.row(id).incarnation.0, 2, "{step}: what did not happen has spent the budget");
        assert_eq!(restarts_told(&house, id), 1, "{step}");
    }
}

#[test]
fn restarts_in_progress_count_before_they_are_told() {
    let house = House::new(9, TaskOrder::AsWoken);
    house.world.inject(|call| match call.method {
        "stop_container" => Fault::Slow(Duration::from_secs(15)),
        _ => Fault::None,
    });
    let all: Vec<_> = (0..6).map(|n| house.heard(request(&format!("w{n}"), IMAGE))).collect();
    let (first, others) = all.split_at(3);
    house.sim.pass(Duration::from_secs(10));
    for id in others {
        house.beat(*id, well());
    }
    house.sim.pass(SILENT_AFTER);
    house.run("check_heartbeats");
    house.sim.pass(RESTART_SILENT_AFTER.saturating_sub(Duration::from_secs(10)));
    let begun = house.run("check_heartbeats");
    let restarts = begun.actions.iter().filter(|one| one.planned.action.key().starts_with("restart"));
    assert_eq!(restarts.count(), 3, "the first three are due: {begun:#?}");
    house.sim.pass(Duration::from_secs(12));
    assert!(first.iter().all(|id| restarts_told(&house, *id) == 0), "their old processes are being stopped");
    held(&house, "check_heartbeats");
    house.sim.quiesce();
    assert!(first.iter().all(|id| house.row(*id).incarnation.0 == 2), "three are within the limit");
    assert!(others.iter().all(|id| house.row(*id).incarnation.0 == 1), "more at the same time are not");
}

#[test]
fn passes_that_run_side_by_side_share_one_limit() {
    let house = House::new(4, TaskOrder::AsWoken);
    for _ in 0..3 {
        house.furnish_unknown();
    }
    let all: Vec<_> = (0..4).map(|n| house.online(&format!("w{n}"))).collect();
    lose(&house, &all[..3]);
    house.sim.pass(Duration::from_mins(6));
    house.look();
    let sweeper = std::sync::Arc::clone(&house.daemon.sweeper);
    let runs = house.sim.calmly(async move {
        let look = sweeper.look().await.expect("the listing is trusted");
        let run = async |pass| {
            sweeper.run(&*crate::simulation::house::pass_named(pass), &look, ostler::sweep::Mode::Apply).await
        };
        futures_util::future::join(run("revoke_stale_tokens"), run("reap_unknown")).await
    });
    let hour_ago = house.sim.now() - Duration::from_hours(1);
    let hit = at_once(house.eye.swept_since(hour_ago)).unwrap().len();
    assert_eq!(hit, 3, "three of seven known workspaces may be hit, by all passes together: {runs:#?}");
}
