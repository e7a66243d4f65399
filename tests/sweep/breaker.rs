//! The breaker: a plan above its limit is held, and an approval releases exactly the actions that it lists.

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
    engine::ErrorKind,
    store::Approval,
    sweep::Outcome,
};

use crate::{
    simulation::{
        executor::TaskOrder,
        installation::{IMAGE, Installation, healthy, now_or_panic, request},
    },
    support::fake_engine::{FakeContainer, Fault},
};

fn token_is_live(site: &Installation, id: WorkspaceId) -> bool {
    let live = now_or_panic(site.reader.live_tokens(id, site.sim.now())).unwrap();
    live.iter().any(|token| token.kind == TokenKind::Instance)
}

/// Removes the containers of these workspaces and waits longer than the grace.
fn lose(site: &Installation, ids: &[WorkspaceId]) {
    for id in ids {
        site.remove_container(*id);
    }
    site.snapshot();
    site.sim.pass(Duration::from_mins(6));
    site.snapshot();
}

fn held(site: &Installation, pass: &'static str) -> ostler::domain::ids::PlanId {
    let outcome = site.run(pass).outcome;
    let Outcome::Held { plan, .. } = outcome else { panic!("{pass} is not held but {outcome:?}") };
    plan
}

#[test]
fn approval_releases_only_the_actions_of_its_held_plan() {
    let site = Installation::new(1, TaskOrder::AsWoken);
    let all: Vec<_> = (0..9).map(|n| site.online(&format!("w{n}"))).collect();
    let (four, others) = (&all[..4], &all[4..8]);
    lose(&site, four);
    let plan = held(&site, "revoke_stale_tokens");
    assert!(four.iter().all(|id| token_is_live(&site, *id)), "an action of a held plan was taken");
    assert_eq!(held(&site, "revoke_stale_tokens"), plan, "the same plan got another id");
    let at = site.sim.now();
    let approved = now_or_panic(site.reader.approve_plan("revoke_stale_tokens".into(), plan, at)).unwrap();
    assert!(matches!(approved, Approval::Approved(_)));
    lose(&site, others);
    let run = site.run("revoke_stale_tokens");
    assert!(four.iter().all(|id| !token_is_live(&site, *id)), "an approved action was not taken: {run:#?}");
    assert!(
        others.iter().all(|id| token_is_live(&site, *id)),
        "an action that the plan did not list was taken: {run:#?}"
    );
    assert_ne!(
        held(&site, "revoke_stale_tokens"),
        plan,
        "the other actions are held in the plan that is already approved"
    );
}

#[test]
fn approval_stays_valid_until_the_whole_plan_is_done() {
    let site = Installation::new(2, TaskOrder::AsWoken);
    let all: Vec<_> = (0..18).map(|n| site.online(&format!("w{n}"))).collect();
    let (twelve, others) = (&all[..12], &all[12..17]);
    lose(&site, twelve);
    let plan = held(&site, "revoke_stale_tokens");
    now_or_panic(site.reader.approve_plan("revoke_stale_tokens".into(), plan, site.sim.now())).unwrap();
    // Other workspaces, which were not approved, become due too. Each run takes only a limited number of actions.
    lose(&site, others);
    for _ in 0..3 {
        site.run("revoke_stale_tokens");
    }
    assert!(twelve.iter().all(|id| !token_is_live(&site, *id)), "an approved action was not taken");
    assert!(others.iter().all(|id| token_is_live(&site, *id)), "an action that was not approved was taken");
}

#[test]
fn unknown_container_is_reaped_in_recovery_only_if_approved() {
    let site = Installation::new(3, TaskOrder::AsWoken);
    site.add_unknown();
    now_or_panic(site.reader.begin_recovery(site.sim.now(), 7, "it was lost".into())).unwrap();
    site.snapshot();
    site.sim.pass(Duration::from_mins(11));
    site.snapshot();
    let plan = held(&site, "reap_unknown");
    assert_eq!(now_or_panic(site.reader.trash()).unwrap(), Vec::new());
    now_or_panic(site.reader.approve_plan("reap_unknown".into(), plan, site.sim.now())).unwrap();
    site.run("reap_unknown");
    assert_eq!(
        now_or_panic(site.reader.trash()).unwrap().len(),
        1,
        "the approved container is not in the trash"
    );
}

#[test]
fn second_container_is_stopped_in_recovery_only_if_approved() {
    // A registry restored from a backup may name the older of two containers.
    let site = Installation::new(5, TaskOrder::AsWoken);
    let id = site.online("agent");
    let newer = ContainerId::try_from("f".repeat(64)).unwrap();
    let container = FakeContainer { name: container_name(id, 9), ..site.container(id).unwrap() };
    site.world.state().containers.insert(newer.clone(), container);
    now_or_panic(site.reader.begin_recovery(site.sim.now(), 7, "it was restored".into())).unwrap();

    let plan = held(&site, "settle");
    assert!(
        site.world.state().containers[&newer].state.may_run(),
        "the container was stopped before an operator approved the plan"
    );
    now_or_panic(site.reader.approve_plan("settle".into(), plan, site.sim.now())).unwrap();
    site.run("settle");
    assert!(!site.world.state().containers[&newer].state.may_run(), "the approved stop was not carried out");
}

/// Runs the agent passes for this time without any heartbeat.
fn sweep_without_heartbeats(site: &Installation, time: Duration) {
    let until = site.sim.now() + time;
    while site.sim.now() < until {
        site.sim.pass(Duration::from_secs(30));
        site.run("check_heartbeats");
        site.sim.quiesce();
    }
}

#[test]
fn restarts_are_held_when_many_agents_are_silent_at_once() {
    let site = Installation::new(6, TaskOrder::AsWoken);
    let all: Vec<_> = (0..5).map(|n| site.create_online(request(&format!("w{n}"), IMAGE))).collect();
    sweep_without_heartbeats(&site, Duration::from_mins(20));
    let plan = held(&site, "check_heartbeats");
    for id in &all {
        assert_eq!(
            site.status(*id),
            Status::Degraded,
            "a silent agent was not marked degraded while the plan was held"
        );
        assert_eq!(
            site.row(*id).incarnation.0,
            1,
            "an agent was restarted before an operator approved the plan"
        );
    }
    assert_eq!(held(&site, "check_heartbeats"), plan, "the same plan got another id");
    now_or_panic(site.reader.approve_plan("check_heartbeats".into(), plan, site.sim.now())).unwrap();
    site.run("check_heartbeats");
    site.sim.quiesce();
    assert!(all.iter().all(|id| site.row(*id).incarnation.0 == 2), "an approved restart was not carried out");
}

#[test]
fn restarts_of_silent_agents_count_against_limit_for_an_hour() {
    let site = Installation::new(7, TaskOrder::AsWoken);
    let all: Vec<_> = (0..5).map(|n| site.create_online(request(&format!("w{n}"), IMAGE))).collect();
    let heartbeat_of = |ids: &[WorkspaceId]| {
        for id in ids {
            let _result = site.heartbeat(*id, healthy());
        }
    };
    let (first, others) = all.split_at(3);
    for _ in 0..32 {
        site.sim.pass(Duration::from_secs(30));
        heartbeat_of(others);
        site.run("check_heartbeats");
        site.sim.quiesce();
    }
    assert!(
        first.iter().all(|id| site.row(*id).incarnation.0 == 2),
        "a restart within the limit of three was not carried out"
    );
    sweep_without_heartbeats(&site, Duration::from_mins(15));
    held(&site, "check_heartbeats");
    assert!(
        others.iter().all(|id| site.row(*id).incarnation.0 == 1),
        "a restart above the limit of three within an hour was not held"
    );
}

fn restarts_reported(site: &Installation, id: WorkspaceId) -> usize {
    let events = now_or_panic(site.reader.newest_events(Some(id), 500)).unwrap();
    events.iter().filter(|event| event.event_type == "WORKSPACE_RESTARTED_SILENT").count()
}

/// The engine refuses one of the requests that ostler sends before the start itself begins.
#[test]
fn failed_restart_is_neither_charged_nor_reported() {
    for step in ["inspect_volume", "stop_container"] {
        let site = Installation::new(8, TaskOrder::AsWoken);
        let id = site.create_online(request("w", IMAGE));
        let engine_off = Arc::new(AtomicBool::new(true));
        site.world.inject({
            let off = Arc::clone(&engine_off);
            move |call| {
                // Requests for the sentinel succeed, because no listing is trusted without the sentinel.
                let of_start = call.object.contains(&id.to_string()) || call.method == "stop_container";
                let is_refused = call.method == step && of_start && off.load(Ordering::Relaxed);
                if is_refused { Fault::Before(ErrorKind::Other) } else { Fault::None }
            }
        });
        sweep_without_heartbeats(&site, Duration::from_mins(18));
        assert_eq!(
            site.row(id).incarnation.0,
            1,
            "{step}: a restart that the engine refused changed the incarnation"
        );
        assert_eq!(restarts_reported(&site, id), 0, "{step}: a failed restart was reported");
        engine_off.store(false, Ordering::Relaxed);
        sweep_without_heartbeats(&site, Duration::from_mins(1));
        assert_eq!(
            site.row(id).incarnation.0,
            2,
            "{step}: no restart, because failed ones were charged to the budget"
        );
        assert_eq!(restarts_reported(&site, id), 1, "{step}");
    }
}

#[test]
fn restarts_in_progress_count_against_the_limit() {
    let site = Installation::new(9, TaskOrder::AsWoken);
    site.world.inject(|call| match call.method {
        "stop_container" => Fault::Slow(Duration::from_secs(15)),
        _ => Fault::None,
    });
    let all: Vec<_> = (0..6).map(|n| site.create_online(request(&format!("w{n}"), IMAGE))).collect();
    let (first, others) = all.split_at(3);
    site.sim.pass(Duration::from_secs(10));
    for id in others {
        site.heartbeat(*id, healthy());
    }
    site.sim.pass(SILENT_AFTER);
    site.run("check_heartbeats");
    site.sim.pass(RESTART_SILENT_AFTER.saturating_sub(Duration::from_secs(10)));
    let begun = site.run("check_heartbeats");
    let restarts = begun.actions.iter().filter(|one| one.planned.action.key().starts_with("restart"));
    assert_eq!(restarts.count(), 3, "not exactly the first three restarts began: {begun:#?}");
    site.sim.pass(Duration::from_secs(12));
    assert!(
        first.iter().all(|id| restarts_reported(&site, *id) == 0),
        "a restart was reported while its old process was still being stopped"
    );
    held(&site, "check_heartbeats");
    site.sim.quiesce();
    assert!(
        first.iter().all(|id| site.row(*id).incarnation.0 == 2),
        "a restart within the limit of three was not carried out"
    );
    assert!(
        others.iter().all(|id| site.row(*id).incarnation.0 == 1),
        "a fourth restart began while three were in progress"
    );
}

#[test]
fn concurrent_passes_share_one_breaker_limit() {
    let site = Installation::new(4, TaskOrder::AsWoken);
    for _ in 0..3 {
        site.add_unknown();
    }
    let all: Vec<_> = (0..4).map(|n| site.online(&format!("w{n}"))).collect();
    lose(&site, &all[..3]);
    site.sim.pass(Duration::from_mins(6));
    site.snapshot();
    let sweeper = std::sync::Arc::clone(&site.daemon.app.sweeper);
    let runs = site.sim.calmly(async move {
        let snapshot = sweeper.snapshot().await.expect("the listing is trusted");
        let run = async |pass| {
            sweeper
                .run(
                    &*crate::simulation::installation::pass_named(pass),
                    &snapshot,
                    ostler::sweep::Mode::Apply,
                )
                .await
        };
        futures_util::future::join(run("revoke_stale_tokens"), run("reap_unknown")).await
    });
    let hour_ago = site.sim.now() - Duration::from_hours(1);
    let affected = now_or_panic(site.reader.swept_since(hour_ago)).unwrap().len();
    assert_eq!(
        affected, 3,
        "of seven workspaces, all passes together must affect three, the limit: {runs:#?}"
    );
}
