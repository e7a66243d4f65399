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
    installation::{IMAGE, Installation, now_or_panic, pass_named, request, well},
    invariants::at_rest,
};

fn installation() -> Installation {
    Installation::new(7, TaskOrder::AsWoken)
}

fn runs(installation: &Installation, id: WorkspaceId) -> bool {
    installation.container(id).is_some_and(|container| container.state.may_run())
}

/// Begins a command, and takes its effects up to one with this label, which stays held.
fn until_held<F>(installation: &Installation, label: &str, order: impl FnOnce(Ops) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    installation.sim.spawn(Owner::Daemon, order(installation.daemon.ops.clone()));
    loop {
        installation.sim.run_ready();
        let next = *installation.sim.held().first().expect("it comes to that");
        if next.label == label {
            return;
        }
        installation.sim.take(next.id);
    }
}

/// An unknown container in the trash whose restore has reached the rename back to its own name.
fn restored_up_to_its_rename(installation: &Installation) -> WorkspaceId {
    let id = installation.add_unknown();
    installation.snapshot();
    installation.sim.pass(Duration::from_mins(11));
    installation.snapshot();
    installation.converge();
    let entry = now_or_panic(installation.eye.trash()).expect("the store answers")[0].id;
    until_held(installation, "rename_container", |ops| async move { drop(ops.restore(entry).await) });
    id
}

#[test]
fn purge_spares_a_workspace_undeleted_and_removed_again() {
    let installation = installation();
    let id = installation.online("w");
    // The purge has moved everything to the trash and is about to list what to delete.
    until_held(&installation, "keep in trash", |ops| async move { drop(ops.remove(id, false, true).await) });
    installation.sim.take(installation.sim.held()[0].id);
    installation.sim.run_ready();
    let purge = installation.sim.held();
    installation.sim.spawn(Owner::Daemon, {
        let ops = installation.daemon.ops.clone();
        async move {
            ops.undelete(id, None, false).await.expect("it comes back");
            ops.remove(id, false, false).await.expect("it is removed again");
        }
    });
    // Everything except the purge runs until nothing else is left.
    loop {
        installation.sim.run_ready();
        let Some(next) = installation.sim.held().into_iter().find(|held| !purge.contains(held)) else {
            break;
        };
        installation.sim.take(next.id);
    }
    installation.sim.quiesce();
    installation.converge();
    let trash = now_or_panic(installation.eye.trash()).expect("the store answers");
    let volumes: usize = trash.iter().map(|entry| entry.contents.volumes.len()).sum();
    assert_eq!(
        volumes, 2,
        "a plain removal keeps its volumes for 14 days, whoever was to be purged before: {trash:?}"
    );
    at_rest(&installation).expect("all is well");
}

#[test]
fn deletion_is_not_finished_by_the_answer_of_another_engine() {
    let installation = installation();
    let id = installation.online("w");
    installation.calmly(|ops| async move { ops.remove(id, false, false).await }).expect("it is removed");
    installation.sim.quiesce();
    let entry = now_or_panic(installation.eye.trash()).expect("the store answers")[0].id;
    until_held(&installation, "delete_container", |ops| async move { drop(ops.delete(entry).await) });
    installation.world.lead_elsewhere();
    installation.sim.quiesce();
    let kept = now_or_panic(installation.eye.trash_entry(entry)).expect("the store answers");
    assert_eq!(
        kept.map(|entry| entry.state),
        Some(TrashState::Deleting),
        "an engine that is not ours said that its things are gone, and the entry was forgotten"
    );
    installation.world.lead_here();
    installation.calmly(|ops| async move { ops.delete(entry).await }).expect("it is deleted now");
    assert!(installation.world.state().volumes.keys().all(|name| !name.contains(&id.to_string())));
    at_rest(&installation).expect("all is well");
}

#[test]
fn stop_fails_when_another_engine_answers() {
    let installation = installation();
    let id = installation.online("w");
    until_held(&installation, "list_containers", |ops| async move {
        let answer = ops.stop(id).await;
        assert!(answer.is_err(), "it runs on in our engine, and was called stopped: {answer:?}");
    });
    installation.world.lead_elsewhere();
    installation.sim.quiesce();
    assert!(runs(&installation, id));
    installation.world.lead_here();
    installation.converge();
    assert!(!runs(&installation, id) && installation.status(id) == Status::Paused, "settle stops it");
}

#[test]
fn workspace_is_not_marked_offline_when_another_engine_answers() {
    let installation = installation();
    let id = installation.online("w");
    let incarnation = installation.row(id).incarnation;
    installation.world.lead_elsewhere();
    let looked =
        installation.calmly(|ops| async move { ops.order(id, Order::MarkOffline(incarnation)).await });
    assert!(
        looked.is_err(),
        "an engine that is not ours has never heard of it, and that was believed: {looked:?}"
    );
    assert_eq!(installation.status(id), Status::Online);
    installation.world.lead_here();
    installation.remove_container(id);
    installation
        .calmly(|ops| async move { ops.order(id, Order::MarkOffline(incarnation)).await })
        .expect("ours may say so");
    assert_eq!(installation.status(id), Status::Offline);
}

#[test]
fn late_answer_of_another_engine_marks_no_workspace_offline() {
    let installation = installation();
    let id = installation.online("w");
    let incarnation = installation.row(id).incarnation;
    installation.world.lead_elsewhere();
    until_held(&installation, "inspect_container", |ops| async move {
        drop(ops.order(id, Order::MarkOffline(incarnation)).await);
    });
    installation.sim.take(installation.sim.held()[0].id);
    installation.world.lead_here();
    installation.sim.quiesce();
    assert!(runs(&installation, id), "it ran all the time");
    assert_eq!(
        installation.status(id),
        Status::Online,
        "the other engine's \"no such container\" was believed"
    );
}

#[test]
fn trash_entry_is_kept_when_it_cannot_be_restored() {
    let mut installation = installation();
    for with_container in [false, true] {
        let id = installation.add_unknown();
        if !with_container {
            let mut state = installation.world.state();
            let container =
                state.containers.iter().find(|(_, container)| container.name.contains(&id.to_string()));
            let container = container.expect("it is there").0.clone();
            state.remove(&container);
        }
        installation.snapshot();
        installation.sim.pass(Duration::from_mins(11));
        installation.snapshot();
        installation.converge();
        let entry = now_or_panic(installation.eye.trash()).expect("the store answers");
        let entry = entry.into_iter().find(|entry| entry.workspace == id).expect("nobody knows it");
        if let Some(container) = &entry.contents.container {
            // Removed at the engine since: there is nothing left to rebuild a row from.
            installation.world.state().remove(&container.id);
        }
        let entry = entry.id;
        let back = installation.calmly(|ops| async move { ops.restore(entry).await });
        assert!(back.is_err(), "there is nothing it could go back to: {back:?}");
        let kept = now_or_panic(installation.eye.trash_entry(entry)).expect("the store answers");
        assert_eq!(
            kept.map(|entry| entry.state),
            Some(TrashState::Kept),
            "it is on its way back for ever, and can be neither restored nor emptied"
        );
    }
    installation.start_daemon();
}

#[test]
fn workspace_removed_during_its_restore_can_be_undeleted() {
    let mut installation = installation();
    let id = restored_up_to_its_rename(&installation);
    installation.crash(|_| false);
    installation
        .calmly(|ops| async move { ops.remove(id, false, false).await })
        .expect("it has a row by then");
    installation.converge();
    installation.calmly(|ops| async move { ops.undelete(id, None, false).await }).expect("it comes back");
    installation.converge();
    let trash = now_or_panic(installation.eye.trash()).expect("the store answers");
    assert_eq!(trash, Vec::new(), "what a live workspace owns is kept in the trash");
    installation.calmly(|ops| async move { ops.start(id, false).await }).expect("it is whole");
    installation.converge();
    assert_eq!(installation.status(id), Status::Online);
}

#[test]
fn restore_completes_when_its_rename_went_to_another_engine() {
    let installation = installation();
    let id = restored_up_to_its_rename(&installation);
    installation.world.lead_elsewhere();
    installation.sim.quiesce();
    installation.world.lead_here();
    let container = installation.row(id).container.expect("it has a row by now");
    installation.world.state().run(&container);
    installation.snapshot();
    installation.converge();
    assert!(!runs(&installation, id), "it is paused, and runs under a name by which nobody sees it");
    at_rest(&installation).expect("all is well");
}

#[test]
fn resume_skips_a_child_removed_and_undeleted_meanwhile() {
    // At any number of steps taken by then.
    for steps in 0..12 {
        let installation = installation();
        let lead = installation.online("lead");
        let made = CreateRequest { parent: Some(lead), ..request("worker", IMAGE) };
        let worker =
            installation.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
        installation.sim.quiesce();
        installation.calmly(|ops| async move { ops.stop(lead).await }).expect("it is stopped");
        until_held(
            &installation,
            "paused along with",
            |ops| async move { drop(ops.start(lead, false).await) },
        );
        installation.sim.take(installation.sim.held()[0].id);
        installation.sim.run_ready();
        now_or_panic(installation.eye.remove_workspace(lead, true, false, installation.sim.now()))
            .expect("they are removed");
        for _ in 0..steps {
            installation.sim.step_calmly();
        }
        installation.sim.run_ready();
        now_or_panic(installation.eye.undelete_workspace(worker, None, false, installation.sim.now()))
            .expect("it comes back");
        installation.converge();
        let status = installation.status(worker);
        assert_eq!(status, Status::Paused, "undeleted after {steps} steps of a resume that was said before");
    }
}

#[test]
fn start_is_abandoned_if_workspace_was_removed_and_undeleted() {
    for at in ["inspect_volume", "create_container", "begin start"] {
        let installation = installation();
        let id = installation.online("w");
        installation.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
        // A start finds the same as before the removal: a paused row.
        installation.remove_container(id);
        until_held(&installation, at, |ops| async move { drop(ops.start(id, false).await) });
        now_or_panic(installation.eye.remove_workspace(id, false, false, installation.sim.now()))
            .expect("it is removed");
        now_or_panic(installation.eye.undelete_workspace(id, None, false, installation.sim.now()))
            .expect("it comes back");
        installation.converge();
        assert_eq!(
            installation.status(id),
            Status::Paused,
            "undeleted when the start before had come to {at}"
        );
        assert!(!runs(&installation, id), "it is said to be paused, and runs");
    }
}

#[test]
fn degrade_is_dropped_by_a_heartbeat_while_clock_was_set_back() {
    let installation = installation();
    let id = installation.create_online(request("w", IMAGE));
    for _ in 0..10 {
        installation.sim.pass(Duration::from_secs(20));
        installation.snapshot();
    }
    let sweeper = Arc::clone(&installation.daemon.sweeper);
    until_held(&installation, "held plan", |_| async move {
        let snapshot = sweeper.snapshot().await.expect("the listing is trusted");
        let run = sweeper.run(&*pass_named("check_heartbeats"), &snapshot, Mode::Apply).await;
        assert_eq!(run.actions.len(), 1, "it was silent by then: {run:?}");
    });
    installation.sim.jump(-3 * 3_600_000);
    installation.heartbeat(id, well());
    installation.sim.jump(3 * 3_600_000);
    installation.sim.quiesce();
    assert_eq!(installation.status(id), Status::Online, "it spoke a moment ago");
}

#[test]
fn trash_claim_is_finished_when_its_objects_are_gone() {
    for known in [true, false] {
        let mut installation = installation();
        let id = if known { installation.online("w") } else { installation.add_unknown() };
        let move_to_trash = "rename_container";
        if known {
            until_held(&installation, move_to_trash, |ops| async move {
                drop(ops.remove(id, false, false).await)
            });
        } else {
            installation.snapshot();
            installation.sim.pass(Duration::from_mins(11));
            let sweeper = Arc::clone(&installation.daemon.sweeper);
            until_held(&installation, move_to_trash, |_| async move {
                let snapshot = sweeper.snapshot().await.expect("the listing is trusted");
                sweeper.run(&*pass_named("reap_unknown"), &snapshot, Mode::Apply).await;
            });
        }
        installation.crash(|_| false);
        let mut state = installation.world.state();
        state.containers.retain(|_, container| !container.name.contains(&id.to_string()));
        state.volumes.retain(|name, _| !name.contains(&id.to_string()));
        drop(state);
        installation.converge();
        let claimed = now_or_panic(installation.eye.trash()).expect("the store answers");
        let claimed = claimed.into_iter().find(|entry| entry.state == TrashState::Claimed);
        assert_eq!(claimed, None, "it is on its way into the trash for ever (known: {known})");
    }
}

#[test]
fn container_with_a_trash_name_and_no_entry_gets_a_new_entry() {
    let installation = installation();
    let id = installation.online("w");
    installation.calmly(|ops| async move { ops.recreate(id).await }).expect("it is made anew");
    installation.sim.quiesce();
    let entry = now_or_panic(installation.eye.trash()).expect("the store answers")[0].clone();
    // As a registry does that was restored from a copy.
    let container = entry.contents.container.expect("the old container lies there").id;
    now_or_panic(installation.eye.drop_from_trash(entry.id, container.to_string()))
        .expect("the store answers");
    installation.snapshot();
    installation.sim.pass(Duration::from_mins(11));
    installation.converge();
    let trash = now_or_panic(installation.eye.trash()).expect("the store answers");
    assert!(
        trash.iter().any(|entry| entry.contents.container.as_ref().is_some_and(|lies| lies.id == container)),
        "the container is nobody's for ever: {trash:?}"
    );
    assert_eq!(installation.status(id), Status::Online);
}

#[test]
fn trashed_container_renamed_back_gets_its_trash_name_again() {
    let installation = installation();
    let id = installation.online("w");
    let own_name = installation.container(id).expect("it runs").name;
    installation.calmly(|ops| async move { ops.recreate(id).await }).expect("it is made anew");
    installation.sim.quiesce();
    let entry = now_or_panic(installation.eye.trash()).expect("the store answers")[0].clone();
    let lies = entry.contents.container.expect("the old container lies there").id;
    // A delayed rename from an earlier, abandoned restore takes effect.
    installation.world.state().containers.get_mut(&lies).expect("it is there").name = own_name;
    installation.converge();
    assert_eq!(installation.world.state().containers[&lies].name, trash_name(entry.id));
    assert_eq!(installation.status(id), Status::Online);
    at_rest(&installation).expect("all is well");
}

#[test]
fn late_stop_of_a_parent_also_stops_its_started_children() {
    let installation = installation();
    let lead = installation.online("lead");
    let made = CreateRequest { parent: Some(lead), ..request("worker", IMAGE) };
    let worker = installation.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
    installation.sim.quiesce();
    assert_eq!(installation.status(worker), Status::Online);
    // The stop of a pause that preceded the start of both, and the creation of the worker.
    let stop = Order::Stop { swept: None };
    installation.calmly(|ops| async move { ops.order(lead, stop).await }).expect("it is stopped");
    installation.sim.quiesce();
    assert_eq!(installation.status(lead), Status::Paused);
    assert_eq!(installation.status(worker), Status::Paused, "it is above nothing that could let it start");
    assert!(!runs(&installation, worker), "it runs below what is paused");
}

#[test]
fn start_reports_a_work_volume_deleted_during_the_start() {
    let installation = installation();
    let id = installation.online("w");
    installation.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
    installation.remove_container(id);
    let answer = Arc::new(Mutex::new(String::new()));
    let create_online = Arc::clone(&answer);
    until_held(&installation, "create_container", |ops| async move {
        *create_online.lock().unwrap() =
            format!("{:?}", ops.start(id, false).await.map_err(|error| error.to_string()));
    });
    installation.world.state().volumes.remove(&volume_name(id, VolumeKind::Work));
    installation.sim.quiesce();
    let answer = answer.lock().unwrap();
    assert!(answer.contains("volume missing") && answer.contains("--new-volume"), "{answer}");
    let work = volume_name(id, VolumeKind::Work);
    assert!(!installation.world.state().volumes.contains_key(&work), "an empty one took its place");
}

/// Undelete before the container of the removed workspace was stopped.
#[test]
fn undelete_reports_paused_once_the_container_is_stopped() {
    let installation = installation();
    let id = installation.online("w");
    let removed = now_or_panic(installation.eye.remove_workspace(id, false, false, installation.sim.now()));
    assert!(matches!(removed, Ok(RemoveResult::Removed { .. })), "{removed:?}");
    let undelete = installation.as_operator("POST", &format!("/workspaces/{id}/undelete"), None);
    let (status, answer) = installation.sim.calmly(undelete);
    let state = installation.container(id).unwrap().state;
    assert!(status == 200 && !state.may_run(), "it is {state:?}: {answer}");
    assert_eq!(installation.status(id), Status::Paused);
}
