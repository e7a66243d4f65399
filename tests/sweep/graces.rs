//! Graces count only time covered by trusted listings.

use std::{sync::Arc, time::Duration};

use ostler::{
    domain::{
        naming::{VolumeKind, instance_name, volume_name},
        trash::{Things, TrashReason},
    },
    engine::trusted::Untrusted,
    ops::{Applied, OpError, Order, PutAway},
    store::ClaimGuard,
    sweep::{Driver, Mode, Outcome, Sight},
};

use crate::simulation::{
    executor::{Owner, TaskOrder},
    house::{House, INSTANCE, pass_named},
    invariants::at_rest,
};

#[test]
fn a_clock_that_jumps_begins_every_grace_anew() {
    for hours in [1, -1] {
        let house = House::new(1, TaskOrder::AsWoken);
        let id = house.online("w");
        house.remove_container(id);
        house.furnish_unknown();
        house.look();
        house.sim.pass(Duration::from_mins(15));
        house.sim.jump(hours * 3_600_000);
        for pass in ["revoke_stale_tokens", "reap_unknown"] {
            let run = house.run(pass);
            assert_eq!(run.actions, Vec::new(), "{pass} acts on a grace that began before the jump");
        }
        house.sim.pass(Duration::from_mins(15));
        house.look();
        assert_eq!(
            house.run("reap_unknown").actions.len(),
            1,
            "a grace that was watched from end to end counts"
        );
    }
}

#[test]
fn a_restart_of_the_daemon_begins_every_grace_anew() {
    let mut house = House::new(2, TaskOrder::AsWoken);
    let id = house.online("w");
    house.remove_container(id);
    house.look();
    house.sim.pass(Duration::from_mins(15));
    house.crash(|_| false);
    assert_eq!(house.run("revoke_stale_tokens").actions, Vec::new());
}

/// The engine answers but shows none of our objects: another user's engine, another storage, a disk that is not
/// mounted.
#[test]
fn a_listing_that_cannot_be_trusted_lets_nothing_act() {
    let house = House::new(3, TaskOrder::AsWoken);
    let id = house.online("w");
    house.remove_container(id);
    house.look();
    house.sim.pass(Duration::from_mins(15));
    house.world.state().volumes.remove(&instance_name(INSTANCE));
    let before = house.world.state().log.len();
    let sweeper = Arc::clone(&house.daemon.sweeper);
    let (driver, handle) = Driver::new(
        Arc::clone(&sweeper),
        ostler::sweep::all(),
        house.sim.clock(),
        house.sim.spawner(Owner::Daemon),
        ostler::wake::Wake::new().1,
    );
    house.sim.spawn(Owner::Daemon, driver.drive(tokio_util::sync::CancellationToken::new()));
    let runs = house.sim.calmly(async move { handle.run_now(Vec::new(), Mode::Apply).await });
    assert_eq!(runs.len(), ostler::sweep::all().len());
    let sees = |name: &str| pass_named(name).sight() == Sight::Engine;
    assert!(
        runs.iter().filter(|run| sees(run.pass)).all(|run| matches!(run.outcome, Outcome::Untrusted(_))),
        "{runs:#?}"
    );
    let refused = house.calmly(|ops| async move { ops.recreate(id).await });
    assert!(matches!(refused, Err(OpError::Untrusted(Untrusted::SentinelMissing(_)))), "{refused:?}");
    let state = house.world.state();
    assert!(
        state.log[before..]
            .iter()
            .all(|call| ["inspect_", "list_"].iter().any(|look| call.method.starts_with(look))),
        "{:#?}",
        &state.log[before..]
    );
    drop(state);
    let looked = house.sim.calmly(async move { sweeper.look().await.map(drop) });
    assert!(matches!(looked, Err(Untrusted::SentinelMissing(_))));
}

/// `podman volume prune` deletes the sentinel, because no container mounts it.
#[test]
fn known_container_is_evidence_where_the_sentinel_was_pruned() {
    let house = House::new(6, TaskOrder::AsWoken);
    let id = house.online("w");
    let pruned = house.world.state().prune_volumes();
    assert_eq!(pruned, [instance_name(INSTANCE)]);
    let recreated = house.calmly(|ops| async move { ops.recreate(id).await });
    assert!(matches!(recreated, Ok(Applied::Done(_))), "{recreated:?}");
    house.sim.quiesce();
    house.converge();
    at_rest(&house).unwrap();
    // A container that no row and no trash entry knows proves nothing, whatever its labels.
    let house = House::new(7, TaskOrder::AsWoken);
    house.furnish_unknown();
    house.world.state().volumes.remove(&instance_name(INSTANCE));
    let sweeper = Arc::clone(&house.daemon.sweeper);
    let looked = house.sim.calmly(async move { sweeper.look().await.map(drop) });
    assert!(matches!(looked, Err(Untrusted::SentinelMissing(_))), "{looked:?}");
}

/// Two consecutive listings are required, because one may be taken during a restart.
#[test]
fn one_look_without_a_running_container_marks_nobody_offline() {
    let house = House::new(4, TaskOrder::AsWoken);
    let id = house.online("w");
    house.look();
    let container = house.row(id).container.expect("it has one");
    house.world.state().kill(&container, 1);
    assert_eq!(house.run("check_containers").actions, Vec::new());
    let started = house.calmly(|ops| async move { ops.start(id, false).await });
    assert!(matches!(started, Ok(Applied::Done(_))));
    house.sim.quiesce();
    house.converge();
    at_rest(&house).unwrap();
}

/// Found by an outside tester: `rm --purge` was given while Podman was away, and a sweep used a listing from before the
/// purge.
#[test]
fn what_was_purged_since_a_listing_gets_no_trash_entry() {
    let house = House::new(1, TaskOrder::AsWoken);
    let id = house.online("w");
    house.calmly(|ops| async move { ops.remove(id, false, true).await }).expect("it is purged");
    house.sim.quiesce();
    let from_before = Order::PutAway(PutAway {
        name: "w".into(),
        reason: TrashReason::Removed,
        evidence: "a listing".into(),
        things: Things { container: None, volumes: vec![volume_name(id, VolumeKind::Work)] },
        guard: ClaimGuard::RowRemoved,
        swept_by: Some("reap_removed"),
    });
    let done = house.calmly(|ops| async move { ops.order(id, from_before).await });
    assert!(matches!(done, Ok(Applied::Raced(_))), "{done:?}");
    let store = house.daemon.hearing.clone();
    let trash = house.calmly(|_| async move { store.trash().await }).unwrap();
    assert_eq!(trash, [], "nothing of it can come back");
}
