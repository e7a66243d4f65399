//! Graces count only time covered by trusted listings.

use std::{sync::Arc, time::Duration};

use ostler::{
    domain::{
        naming::{VolumeKind, instance_name, volume_name},
        trash::{TrashContents, TrashReason},
    },
    engine::trusted::Untrusted,
    ops::{Applied, MoveToTrash, OpError, Order},
    store::ClaimGuard,
    sweep::{Driver, Mode, Outcome, Requirement},
};

use crate::simulation::{
    executor::{Owner, TaskOrder},
    installation::{INSTANCE, Installation, pass_named},
    invariants::at_rest,
};

#[test]
fn grace_periods_restart_after_a_clock_jump() {
    for hours in [1, -1] {
        let site = Installation::new(1, TaskOrder::AsWoken);
        let id = site.online("w");
        site.remove_container(id);
        site.add_unknown();
        site.snapshot();
        site.sim.pass(Duration::from_mins(15));
        site.sim.jump(hours * 3_600_000);
        for pass in ["revoke_stale_tokens", "reap_unknown"] {
            let run = site.run(pass);
            assert_eq!(
                run.actions,
                Vec::new(),
                "{pass} counted a grace period that began before the clock jump"
            );
        }
        site.sim.pass(Duration::from_mins(15));
        site.snapshot();
        assert_eq!(
            site.run("reap_unknown").actions.len(),
            1,
            "no action although the whole grace period was observed"
        );
    }
}

#[test]
fn grace_period_of_stale_tokens_restarts_with_the_daemon() {
    let mut site = Installation::new(2, TaskOrder::AsWoken);
    let id = site.online("w");
    site.remove_container(id);
    site.snapshot();
    site.sim.pass(Duration::from_mins(15));
    site.crash(|_| false);
    assert_eq!(site.run("revoke_stale_tokens").actions, Vec::new());
}

/// The engine answers but lists none of this instance's objects: it is another user's engine, it has another storage,
/// or its disk is not mounted.
#[test]
fn untrusted_listing_blocks_every_action_on_the_engine() {
    let site = Installation::new(3, TaskOrder::AsWoken);
    let id = site.online("w");
    site.remove_container(id);
    site.snapshot();
    site.sim.pass(Duration::from_mins(15));
    site.world.state().volumes.remove(&instance_name(INSTANCE));
    let before = site.world.state().log.len();
    let sweeper = Arc::clone(&site.daemon.app.sweeper);
    let (driver, handle) = Driver::new(
        Arc::clone(&sweeper),
        ostler::sweep::all(),
        site.sim.clock(),
        site.sim.spawner(Owner::Daemon),
        ostler::runtime::wake::Wake::new().1,
    );
    site.sim.spawn(Owner::Daemon, driver.drive(tokio_util::sync::CancellationToken::new()));
    let runs = site.sim.calmly(async move { handle.run_now(Vec::new(), Mode::Apply).await });
    assert_eq!(runs.len(), ostler::sweep::all().len());
    let needs_engine = |name: &str| pass_named(name).requires() == Requirement::Engine;
    assert!(
        runs.iter()
            .filter(|run| needs_engine(run.pass))
            .all(|run| matches!(run.outcome, Outcome::Untrusted(_))),
        "{runs:#?}"
    );
    let refused = site.calmly(|ops| async move { ops.recreate(id).await });
    assert!(matches!(refused, Err(OpError::Untrusted(Untrusted::SentinelMissing(_)))), "{refused:?}");
    let state = site.world.state();
    assert!(
        state.log[before..]
            .iter()
            .all(|call| ["inspect_", "list_"].iter().any(|prefix| call.method.starts_with(prefix))),
        "{:#?}",
        &state.log[before..]
    );
    drop(state);
    let snapshot = site.sim.calmly(async move { sweeper.snapshot().await.map(drop) });
    assert!(matches!(snapshot, Err(Untrusted::SentinelMissing(_))));
}

/// `podman volume prune` deletes the sentinel, because no container mounts it.
#[test]
fn known_container_identifies_an_engine_without_its_sentinel() {
    let site = Installation::new(6, TaskOrder::AsWoken);
    let id = site.online("w");
    let pruned = site.world.state().prune_volumes();
    assert_eq!(pruned, [instance_name(INSTANCE)]);
    let recreated = site.calmly(|ops| async move { ops.recreate(id).await });
    assert!(matches!(recreated, Ok(Applied::Done(_))), "{recreated:?}");
    site.sim.quiesce();
    site.converge();
    at_rest(&site).unwrap();
    // A container that has neither a row nor a trash entry does not identify the engine, whatever its labels.
    let site = Installation::new(7, TaskOrder::AsWoken);
    site.add_unknown();
    site.world.state().volumes.remove(&instance_name(INSTANCE));
    let sweeper = Arc::clone(&site.daemon.app.sweeper);
    let snapshot = site.sim.calmly(async move { sweeper.snapshot().await.map(drop) });
    assert!(matches!(snapshot, Err(Untrusted::SentinelMissing(_))), "{snapshot:?}");
}

/// Two consecutive listings are required, because one may be taken during a restart.
#[test]
fn workspace_is_not_marked_offline_after_a_single_listing() {
    let site = Installation::new(4, TaskOrder::AsWoken);
    let id = site.online("w");
    site.snapshot();
    let container = site.row(id).container.expect("it has one");
    site.world.state().kill(&container, 1);
    assert_eq!(site.run("check_containers").actions, Vec::new());
    let started = site.calmly(|ops| async move { ops.start(id, false).await });
    assert!(matches!(started, Ok(Applied::Done(_))));
    site.sim.quiesce();
    site.converge();
    at_rest(&site).unwrap();
}

/// Found in external testing: `rm --purge` was ordered while Podman was down, and a sweep used a listing from before
/// the purge.
#[test]
fn workspace_purged_after_a_listing_gets_no_trash_entry() {
    let site = Installation::new(1, TaskOrder::AsWoken);
    let id = site.online("w");
    site.calmly(|ops| async move { ops.remove(id, false, true).await }).expect("it is purged");
    site.sim.quiesce();
    let from_before = Order::MoveToTrash(MoveToTrash {
        name: "w".into(),
        reason: TrashReason::Removed,
        evidence: "a listing".into(),
        contents: TrashContents { container: None, volumes: vec![volume_name(id, VolumeKind::Work)] },
        guard: ClaimGuard::RowRemoved,
        swept_by: Some("reap_removed"),
    });
    let done = site.calmly(|ops| async move { ops.order(id, from_before).await });
    assert!(matches!(done, Ok(Applied::Raced(_))), "{done:?}");
    let store = site.daemon.app.store.clone();
    let trash = site.calmly(|_| async move { store.trash().await }).unwrap();
    assert_eq!(trash, [], "a purged workspace has a trash entry");
}
