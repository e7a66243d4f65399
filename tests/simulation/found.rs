//! Regressions found by the simulator, each as a minimal test: a seed has another course when the scenarios change,
//! these tests do not.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ostler::{
    domain::{
        ids::WorkspaceId,
        naming::{VolumeKind, trash_name, volume_name},
        status::Status,
        trash::TrashState,
    },
    ops::{CreateRequest, Ops, Order},
    store::RemoveResult,
    sweep::Mode,
};

use super::{
    executor::{Owner, TaskOrder},
    house::{House, IMAGE, at_once, pass_named, request, well},
    invariants::at_rest,
};

fn house() -> House {
    House::new(7, TaskOrder::AsWoken)
}

fn runs(house: &House, id: WorkspaceId) -> bool {
    house.container(id).is_some_and(|container| container.state.may_run())
}

/// Begins a command, and takes its effects up to one with this label, which stays held.
fn until_held<F>(house: &House, label: &str, order: impl FnOnce(Ops) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    house.sim.spawn(Owner::Daemon, order(house.daemon.ops.clone()));
    loop {
        house.sim.run_ready();
        let next = *house.sim.held().first().expect("it comes to that");
        if next.label == label {
            return;
        }
        house.sim.take(next.id);
    }
}

/// An unknown container in the trash whose restore has reached the rename back to its own name.
fn restored_up_to_its_rename(house: &House) -> WorkspaceId {
    let id = house.furnish_unknown();
    house.look();
    house.sim.pass(Duration::from_mins(11));
    house.look();
    house.converge();
    let entry = at_once(house.eye.trash()).expect("the store answers")[0].id;
    until_held(house, "rename_container", |ops| async move { drop(ops.restore(entry).await) });
    id
}

#[test]
fn a_purge_takes_nothing_along_that_was_undeleted_and_removed_again() {
    let house = house();
    let id = house.online("w");
    // The purge has moved everything to the trash and is about to list what to delete.
    until_held(&house, "keep in trash", |ops| async move { drop(ops.remove(id, false, true).await) });
    house.sim.take(house.sim.held()[0].id);
    house.sim.run_ready();
    let purge = house.sim.held();
    house.sim.spawn(Owner::Daemon, {
        let ops = house.daemon.ops.clone();
        async move {
            ops.undelete(id, None, false).await.expect("it comes back");
            ops.remove(id, false, false).await.expect("it is removed again");
        }
    });
    // Everything except the purge runs until nothing else is left.
    loop {
        house.sim.run_ready();
        let Some(next) = house.sim.held().into_iter().find(|held| !purge.contains(held)) else { break };
        house.sim.take(next.id);
    }
    house.sim.quiesce();
    house.converge();
    let trash = at_once(house.eye.trash()).expect("the store answers");
    let volumes: usize = trash.iter().map(|entry| entry.things.volumes.len()).sum();
    assert_eq!(
        volumes, 2,
        "a plain removal keeps its volumes for 14 days, whoever was to be purged before: {trash:?}"
    );
    at_rest(&house).expect("all is well");
}

#[test]
fn a_deletion_that_another_engine_answered_is_finished_by_ours() {
    let house = house();
    let id = house.online("w");
    house.calmly(|ops| async move { ops.remove(id, false, false).await }).expect("it is removed");
    house.sim.quiesce();
    let entry = at_once(house.eye.trash()).expect("the store answers")[0].id;
    until_held(&house, "delete_container", |ops| async move { drop(ops.delete(entry).await) });
    house.world.lead_elsewhere();
    house.sim.quiesce();
    let kept = at_once(house.eye.trash_entry(entry)).expect("the store answers");
    assert_eq!(
        kept.map(|entry| entry.state),
        Some(TrashState::Deleting),
        "an engine that is not ours said that its things are gone, and the entry was forgotten"
    );
    house.world.lead_here();
    house.calmly(|ops| async move { ops.delete(entry).await }).expect("it is deleted now");
    assert!(house.world.state().volumes.keys().all(|name| !name.contains(&id.to_string())));
    at_rest(&house).expect("all is well");
}

#[test]
fn nobody_is_called_stopped_by_another_engine() {
    let house = house();
    let id = house.online("w");
    until_held(&house, "list_containers", |ops| async move {
        let answer = ops.stop(id).await;
        assert!(answer.is_err(), "it runs on in our engine, and was called stopped: {answer:?}");
    });
    house.world.lead_elsewhere();
    house.sim.quiesce();
    assert!(runs(&house, id));
    house.world.lead_here();
    house.converge();
    assert!(!runs(&house, id) && house.status(id) == Status::Paused, "settle stops it");
}

#[test]
fn nobody_is_called_dead_by_another_engine() {
    let house = house();
    let id = house.online("w");
    let incarnation = house.row(id).incarnation;
    house.world.lead_elsewhere();
    let looked = house.calmly(|ops| async move { ops.order(id, Order::MarkOffline(incarnation)).await });
    assert!(
        looked.is_err(),
        "an engine that is not ours has never heard of it, and that was believed: {looked:?}"
    );
    assert_eq!(house.status(id), Status::Online);
    house.world.lead_here();
    house.remove_container(id);
    house
        .calmly(|ops| async move { ops.order(id, Order::MarkOffline(incarnation)).await })
        .expect("ours may say so");
    assert_eq!(house.status(id), Status::Offline);
}

#[test]
fn container_is_not_called_gone_when_ours_is_recognised_after_another_engine_answered() {
    let house = house();
    let id = house.online("w");
    let incarnation = house.row(id).incarnation;
    house.world.lead_elsewhere();
    until_held(&house, "inspect_container", |ops| async move {
        drop(ops.order(id, Order::MarkOffline(incarnation)).await);
    });
    house.sim.take(house.sim.held()[0].id);
    house.world.lead_here();
    house.sim.quiesce();
    assert!(runs(&house, id), "it ran all the time");
    assert_eq!(house.status(id), Status::Online, "the other engine's \"no such container\" was believed");
}

#[test]
fn what_cannot_go_back_stays_in_the_trash() {
    let mut house = house();
    for with_container in [false, true] {
        let id = house.furnish_unknown();
        if !with_container {
            let mut state = house.world.state();
            let container =
                state.containers.iter().find(|(_, container)| container.name.contains(&id.to_string()));
            let container = container.expect("it is there").0.clone();
            state.remove(&container);
        }
        house.look();
        house.sim.pass(Duration::from_mins(11));
        house.look();
        house.converge();
        let entry = at_once(house.eye.trash()).expect("the store answers");
        let entry = entry.into_iter().find(|entry| entry.workspace == id).expect("nobody knows it");
        if let Some(container) = &entry.things.container {
            // Removed at the engine since: there is nothing left to rebuild a row from.
            house.world.state().remove(&container.id);
        }
        let entry = entry.id;
        let back = house.calmly(|ops| async move { ops.restore(entry).await });
        assert!(back.is_err(), "there is nothing it could go back to: {back:?}");
        let kept = at_once(house.eye.trash_entry(entry)).expect("the store answers");
        assert_eq!(
            kept.map(|entry| entry.state),
            Some(TrashState::Kept),
            "it is on its way back for ever, and can be neither restored nor emptied"
        );
    }
    house.start_daemon();
}

#[test]
fn what_was_unknown_and_is_removed_before_all_of_it_is_back_can_be_undeleted() {
    let mut house = house();
    let id = restored_up_to_its_rename(&house);
    house.crash(|_| false);
    house.calmly(|ops| async move { ops.remove(id, false, false).await }).expect("it has a row by then");
    house.converge();
    house.calmly(|ops| async move { ops.undelete(id, None, false).await }).expect("it comes back");
    house.converge();
    let trash = at_once(house.eye.trash()).expect("the store answers");
    assert_eq!(trash, Vec::new(), "what a live workspace owns is kept in the trash");
    house.calmly(|ops| async move { ops.start(id, false).await }).expect("it is whole");
    house.converge();
    assert_eq!(house.status(id), Status::Online);
}

#[test]
fn a_container_that_another_engine_did_not_rename_gets_its_name_back_in_ours() {
    let house = house();
    let id = restored_up_to_its_rename(&house);
    house.world.lead_elsewhere();
    house.sim.quiesce();
    house.world.lead_here();
    let container = house.row(id).container.expect("it has a row by now");
    house.world.state().run(&container);
    house.look();
    house.converge();
    assert!(!runs(&house, id), "it is paused, and runs under a name by which nobody sees it");
    at_rest(&house).expect("all is well");
}

#[test]
fn a_resume_starts_nobody_who_was_removed_and_undeleted_since() {
    // At any number of steps taken by then.
    for steps in 0..12 {
        let house = house();
        let lead = house.online("lead");
        let made = CreateRequest { parent: Some(lead), ..request("worker", IMAGE) };
        let worker = house.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
        house.sim.quiesce();
        house.calmly(|ops| async move { ops.stop(lead).await }).expect("it is stopped");
        until_held(&house, "paused along with", |ops| async move { drop(ops.start(lead, false).await) });
        house.sim.take(house.sim.held()[0].id);
        house.sim.run_ready();
        at_once(house.eye.remove_workspace(lead, true, false, house.sim.now())).expect("they are removed");
        for _ in 0..steps {
            house.sim.step_calmly();
        }
        house.sim.run_ready();
        at_once(house.eye.undelete_workspace(worker, None, false, house.sim.now())).expect("it comes back");
        house.converge();
        let status = house.status(worker);
        assert_eq!(status, Status::Paused, "undeleted after {steps} steps of a resume that was said before");
    }
}

#[test]
fn a_start_that_was_being_prepared_brings_up_nobody_who_was_removed_and_undeleted_since() {
    for at in ["inspect_volume", "create_container", "begin start"] {
        let house = house();
        let id = house.online("w");
        house.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
        // A start finds the same as before the removal: a paused row.
        house.remove_container(id);
        until_held(&house, at, |ops| async move { drop(ops.start(id, false).await) });
        at_once(house.eye.remove_workspace(id, false, false, house.sim.now())).expect("it is removed");
        at_once(house.eye.undelete_workspace(id, None, false, house.sim.now())).expect("it comes back");
        house.converge();
        assert_eq!(house.status(id), Status::Paused, "undeleted when the start before had come to {at}");
        assert!(!runs(&house, id), "it is said to be paused, and runs");
    }
}

#[test]
fn what_was_decided_before_the_clock_was_set_back_for_a_moment_is_void() {
    let house = house();
    let id = house.heard(request("w", IMAGE));
    for _ in 0..10 {
        house.sim.pass(Duration::from_secs(20));
        house.look();
    }
    let sweeper = Arc::clone(&house.daemon.sweeper);
    until_held(&house, "held plan", |_| async move {
        let look = sweeper.look().await.expect("the listing is trusted");
        let run = sweeper.run(&*pass_named("check_heartbeats"), &look, Mode::Apply).await;
        assert_eq!(run.actions.len(), 1, "it was silent by then: {run:?}");
    });
    house.sim.jump(-3 * 3_600_000);
    house.beat(id, well());
    house.sim.jump(3 * 3_600_000);
    house.sim.quiesce();
    assert_eq!(house.status(id), Status::Online, "it spoke a moment ago");
}

#[test]
fn a_claim_is_finished_when_nothing_of_its_workspace_is_left_to_be_listed() {
    for known in [true, false] {
        let mut house = house();
        let id = if known { house.online("w") } else { house.furnish_unknown() };
        let put_away = "rename_container";
        if known {
            until_held(&house, put_away, |ops| async move { drop(ops.remove(id, false, false).await) });
        } else {
            house.look();
            house.sim.pass(Duration::from_mins(11));
            let sweeper = Arc::clone(&house.daemon.sweeper);
            until_held(&house, put_away, |_| async move {
                let look = sweeper.look().await.expect("the listing is trusted");
                sweeper.run(&*pass_named("reap_unknown"), &look, Mode::Apply).await;
            });
        }
        house.crash(|_| false);
        let mut state = house.world.state();
        state.containers.retain(|_, container| !container.name.contains(&id.to_string()));
        state.volumes.retain(|name, _| !name.contains(&id.to_string()));
        drop(state);
        house.converge();
        let claimed = at_once(house.eye.trash()).expect("the store answers");
        let claimed = claimed.into_iter().find(|entry| entry.state == TrashState::Claimed);
        assert_eq!(claimed, None, "it is on its way into the trash for ever (known: {known})");
    }
}

#[test]
fn what_lies_under_a_trash_name_and_in_no_entry_is_put_away_again() {
    let house = house();
    let id = house.online("w");
    house.calmly(|ops| async move { ops.recreate(id).await }).expect("it is made anew");
    house.sim.quiesce();
    let entry = at_once(house.eye.trash()).expect("the store answers")[0].clone();
    // As a registry does that was restored from a copy.
    let container = entry.things.container.expect("the old container lies there").id;
    at_once(house.eye.drop_from_trash(entry.id, container.to_string())).expect("the store answers");
    house.look();
    house.sim.pass(Duration::from_mins(11));
    house.converge();
    let trash = at_once(house.eye.trash()).expect("the store answers");
    assert!(
        trash.iter().any(|entry| entry.things.container.as_ref().is_some_and(|lies| lies.id == container)),
        "the container is nobody's for ever: {trash:?}"
    );
    assert_eq!(house.status(id), Status::Online);
}

#[test]
fn what_lies_in_the_trash_and_is_given_its_old_name_back_lies_there_again() {
    let house = house();
    let id = house.online("w");
    let own_name = house.container(id).expect("it runs").name;
    house.calmly(|ops| async move { ops.recreate(id).await }).expect("it is made anew");
    house.sim.quiesce();
    let entry = at_once(house.eye.trash()).expect("the store answers")[0].clone();
    let lies = entry.things.container.expect("the old container lies there").id;
    // A delayed rename from an earlier, abandoned restore takes effect.
    house.world.state().containers.get_mut(&lies).expect("it is there").name = own_name;
    house.converge();
    assert_eq!(house.world.state().containers[&lies].name, trash_name(entry.id));
    assert_eq!(house.status(id), Status::Online);
    at_rest(&house).expect("all is well");
}

#[test]
fn a_stop_that_has_the_last_word_has_it_over_what_came_up_below() {
    let house = house();
    let lead = house.online("lead");
    let made = CreateRequest { parent: Some(lead), ..request("worker", IMAGE) };
    let worker = house.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
    house.sim.quiesce();
    assert_eq!(house.status(worker), Status::Online);
    // The stop of a pause that preceded the start of both, and the creation of the worker.
    let stop = Order::Stop { swept: None };
    house.calmly(|ops| async move { ops.order(lead, stop).await }).expect("it is stopped");
    house.sim.quiesce();
    assert_eq!(house.status(lead), Status::Paused);
    assert_eq!(house.status(worker), Status::Paused, "it is above nothing that could let it start");
    assert!(!runs(&house, worker), "it runs below what is paused");
}

#[test]
fn work_that_is_taken_away_in_the_middle_of_a_start_is_missed_in_the_same_words() {
    let house = house();
    let id = house.online("w");
    house.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
    house.remove_container(id);
    let answer = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&answer);
    until_held(&house, "create_container", |ops| async move {
        *heard.lock().unwrap() =
            format!("{:?}", ops.start(id, false).await.map_err(|error| error.to_string()));
    });
    house.world.state().volumes.remove(&volume_name(id, VolumeKind::Work));
    house.sim.quiesce();
    let answer = answer.lock().unwrap();
    assert!(answer.contains("volume missing") && answer.contains("--new-volume"), "{answer}");
    let work = volume_name(id, VolumeKind::Work);
    assert!(!house.world.state().volumes.contains_key(&work), "an empty one took its place");
}

/// Undelete before the container of the removed workspace was stopped.
#[test]
fn undelete_reports_paused_once_the_container_is_stopped() {
    let house = house();
    let id = house.online("w");
    let removed = at_once(house.eye.remove_workspace(id, false, false, house.sim.now()));
    assert!(matches!(removed, Ok(RemoveResult::Removed { .. })), "{removed:?}");
    let undelete = house.as_person("POST", &format!("/workspaces/{id}/undelete"), None);
    let (status, answer) = house.sim.calmly(undelete);
    let state = house.container(id).unwrap().state;
    assert!(status == 200 && !state.may_run(), "it is {state:?}: {answer}");
    assert_eq!(house.status(id), Status::Paused);
}
