//! Regression tests for defects that the simulator found. A seed gives another history as soon as the scenarios change,
//! so each defect also has a minimal test that does not depend on a seed.

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
    ops::{Applied, Ops, Order},
    store::RemoveResult,
    sweep::Mode,
};

use super::{
    executor::{Owner, TaskOrder},
    installation::{IMAGE, Installation, healthy, now_or_panic, pass_named, request, request_below},
    invariants::at_rest,
};

fn site() -> Installation {
    Installation::new(7, TaskOrder::AsWoken)
}

fn runs(site: &Installation, id: WorkspaceId) -> bool {
    site.container(id).is_some_and(|container| container.state.may_run())
}

/// Begins a command, and takes its effects until an effect with this label is requested. That effect stays held.
fn until_held<F>(site: &Installation, label: &str, order: impl FnOnce(Ops) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    site.sim.spawn(Owner::Daemon, order(site.daemon.app.ops.clone()));
    loop {
        site.sim.run_ready();
        let next = *site.sim.held().first().expect("the effect is requested");
        if next.label == label {
            return;
        }
        site.sim.take(next.id);
    }
}

/// Moves an unknown container to the trash and begins to restore it. The restore waits before it renames the container
/// to its own name.
fn restored_up_to_its_rename(site: &Installation) -> WorkspaceId {
    let id = site.add_unknown();
    site.snapshot();
    site.sim.pass(Duration::from_mins(11));
    site.snapshot();
    site.converge();
    let entry = now_or_panic(site.reader.trash()).expect("the store answers")[0].id;
    until_held(site, "rename_container", |ops| async move { drop(ops.restore(entry).await) });
    id
}

#[test]
fn purge_keeps_workspace_that_was_undeleted_and_removed_again() {
    let site = site();
    let id = site.online("w");
    // The purge has moved everything to the trash and is about to list what to delete.
    until_held(&site, "mark in trash", |ops| async move { drop(ops.remove(id, false, true).await) });
    site.sim.take(site.sim.held()[0].id);
    site.sim.run_ready();
    let purge = site.sim.held();
    site.sim.spawn(Owner::Daemon, {
        let ops = site.daemon.app.ops.clone();
        async move {
            ops.undelete(id, None, false).await.expect("it is undeleted");
            ops.remove(id, false, false).await.expect("it is removed again");
        }
    });
    // Everything except the purge runs to its end.
    loop {
        site.sim.run_ready();
        let Some(next) = site.sim.held().into_iter().find(|held| !purge.contains(held)) else {
            break;
        };
        site.sim.take(next.id);
    }
    site.sim.quiesce();
    site.converge();
    let trash = now_or_panic(site.reader.trash()).expect("the store answers");
    let volumes: usize = trash.iter().map(|entry| entry.contents.volumes.len()).sum();
    assert_eq!(
        volumes, 2,
        "a removal without --purge, after a cancelled purge, did not keep the volumes for 14 days: {trash:?}"
    );
    at_rest(&site).expect("the state is consistent");
}

#[test]
fn deletion_stays_unfinished_if_another_engine_answers() {
    let site = site();
    let id = site.online("w");
    site.calmly(|ops| async move { ops.remove(id, false, false).await }).expect("it is removed");
    site.sim.quiesce();
    let entry = now_or_panic(site.reader.trash()).expect("the store answers")[0].id;
    until_held(&site, "delete_container", |ops| async move { drop(ops.delete(entry).await) });
    site.world.lead_elsewhere();
    site.sim.quiesce();
    let kept = now_or_panic(site.reader.trash_entry(entry)).expect("the store answers");
    assert_eq!(
        kept.map(|entry| entry.state),
        Some(TrashState::Deleting),
        "the entry counts as deleted, because another engine reported its objects absent"
    );
    site.world.lead_here();
    site.calmly(|ops| async move { ops.delete(entry).await }).expect("it is deleted now");
    assert!(site.world.state().volumes.keys().all(|name| !name.contains(&id.to_string())));
    at_rest(&site).expect("the state is consistent");
}

#[test]
fn stop_fails_when_another_engine_answers() {
    let site = site();
    let id = site.online("w");
    until_held(&site, "list_containers", |ops| async move {
        let answer = ops.stop(id).await;
        assert!(answer.is_err(), "it was reported stopped, but still runs in our engine: {answer:?}");
    });
    site.world.lead_elsewhere();
    site.sim.quiesce();
    assert!(runs(&site, id));
    site.world.lead_here();
    site.converge();
    assert!(!runs(&site, id) && site.status(id) == Status::Paused, "settle did not stop it");
}

#[test]
fn workspace_is_not_marked_offline_when_another_engine_answers() {
    let site = site();
    let id = site.online("w");
    let incarnation = site.row(id).incarnation;
    site.world.lead_elsewhere();
    let answer = site.calmly(|ops| async move { ops.order(id, Order::MarkOffline(incarnation)).await });
    assert!(answer.is_err(), "the answer of another engine was accepted: {answer:?}");
    assert_eq!(site.status(id), Status::Online);
    site.world.lead_here();
    site.remove_container(id);
    site.calmly(|ops| async move { ops.order(id, Order::MarkOffline(incarnation)).await })
        .expect("our engine reports it absent");
    assert_eq!(site.status(id), Status::Offline);
}

#[test]
fn late_answer_of_another_engine_marks_no_workspace_offline() {
    let site = site();
    let id = site.online("w");
    let incarnation = site.row(id).incarnation;
    site.world.lead_elsewhere();
    until_held(&site, "inspect_container", |ops| async move {
        drop(ops.order(id, Order::MarkOffline(incarnation)).await);
    });
    site.sim.take(site.sim.held()[0].id);
    site.world.lead_here();
    site.sim.quiesce();
    assert!(runs(&site, id), "its container was stopped");
    assert_eq!(site.status(id), Status::Online, "the other engine's \"no such container\" was accepted");
}

#[test]
fn trash_entry_is_kept_when_it_cannot_be_restored() {
    let mut site = site();
    for with_container in [false, true] {
        let id = site.add_unknown();
        if !with_container {
            let mut state = site.world.state();
            let container =
                state.containers.iter().find(|(_, container)| container.name.contains(&id.to_string()));
            let container = container.expect("it is there").0.clone();
            state.remove(&container);
        }
        site.snapshot();
        site.sim.pass(Duration::from_mins(11));
        site.snapshot();
        site.converge();
        let entry = now_or_panic(site.reader.trash()).expect("the store answers");
        let entry = entry.into_iter().find(|entry| entry.workspace == id).expect("it is in the trash");
        if let Some(container) = &entry.contents.container {
            // The container is removed at the engine. No row can be rebuilt from the remaining objects of the entry.
            site.world.state().remove(&container.id);
        }
        let entry = entry.id;
        let back = site.calmly(|ops| async move { ops.restore(entry).await });
        assert!(back.is_err(), "it was restored without a container: {back:?}");
        let kept = now_or_panic(site.reader.trash_entry(entry)).expect("the store answers");
        assert_eq!(
            kept.map(|entry| entry.state),
            Some(TrashState::Kept),
            "the entry stays in state `restoring`, so that it can be neither restored nor deleted"
        );
    }
    site.start_daemon();
}

#[test]
fn workspace_removed_during_its_restore_can_be_undeleted() {
    let mut site = site();
    let id = restored_up_to_its_rename(&site);
    site.crash(|_| false);
    site.calmly(|ops| async move { ops.remove(id, false, false).await }).expect("it has a row");
    site.converge();
    site.calmly(|ops| async move { ops.undelete(id, None, false).await }).expect("it is undeleted");
    site.converge();
    let trash = now_or_panic(site.reader.trash()).expect("the store answers");
    assert_eq!(trash, Vec::new(), "an object of a live workspace is in the trash");
    site.calmly(|ops| async move { ops.start(id, false).await }).expect("it has all its objects");
    site.converge();
    assert_eq!(site.status(id), Status::Online);
}

#[test]
fn restore_completes_when_its_rename_went_to_another_engine() {
    let site = site();
    let id = restored_up_to_its_rename(&site);
    site.world.lead_elsewhere();
    site.sim.quiesce();
    site.world.lead_here();
    let container = site.row(id).container.expect("it has a row");
    site.world.state().run(&container);
    site.snapshot();
    site.converge();
    assert!(!runs(&site, id), "it is paused, but its container runs under its trash name");
    at_rest(&site).expect("the state is consistent");
}

#[test]
fn resume_skips_a_child_removed_and_undeleted_meanwhile() {
    // The undelete comes after 0, 1, 2, … steps of the resume.
    for steps in 0..12 {
        let site = site();
        let lead = site.online("lead");
        let made = request_below(lead, "worker", IMAGE);
        let worker = site.calmly(|ops| async move { ops.create(made).await }).expect("it is created").id;
        site.sim.quiesce();
        site.calmly(|ops| async move { ops.stop(lead).await }).expect("it is stopped");
        until_held(&site, "paused along with", |ops| async move { drop(ops.start(lead, false).await) });
        site.sim.take(site.sim.held()[0].id);
        site.sim.run_ready();
        now_or_panic(site.reader.remove_workspace(lead, true, false, site.sim.now()))
            .expect("they are removed");
        for _ in 0..steps {
            site.sim.step_calmly();
        }
        site.sim.run_ready();
        now_or_panic(site.reader.undelete_workspace(worker, None, false, site.sim.now()))
            .expect("it is undeleted");
        site.converge();
        let status = site.status(worker);
        assert_eq!(
            status,
            Status::Paused,
            "a resume started a child that was removed and undeleted after {steps} of its steps"
        );
    }
}

#[test]
fn start_is_abandoned_if_workspace_was_removed_and_undeleted() {
    for at in ["inspect_volume", "create_container", "begin start"] {
        let site = site();
        let id = site.online("w");
        site.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
        // A start finds the same state as before the removal: a paused row.
        site.remove_container(id);
        until_held(&site, at, |ops| async move { drop(ops.start(id, false).await) });
        now_or_panic(site.reader.remove_workspace(id, false, false, site.sim.now())).expect("it is removed");
        now_or_panic(site.reader.undelete_workspace(id, None, false, site.sim.now()))
            .expect("it is undeleted");
        site.converge();
        assert_eq!(site.status(id), Status::Paused, "the earlier start continued after an undelete at {at}");
        assert!(!runs(&site, id), "the row is paused, but its container runs");
    }
}

#[test]
fn heartbeat_cancels_planned_degrade_while_clock_is_set_back() {
    let site = site();
    let id = site.create_online(request("w", IMAGE));
    for _ in 0..10 {
        site.sim.pass(Duration::from_secs(20));
        site.snapshot();
    }
    let sweeper = Arc::clone(&site.daemon.app.sweeper);
    until_held(&site, "held plan", |_| async move {
        let snapshot = sweeper.snapshot().await.expect("the listing is trusted");
        let run = sweeper.run(&*pass_named("check_heartbeats"), &snapshot, Mode::Apply).await;
        assert_eq!(run.actions.len(), 1, "no action for a silent agent: {run:?}");
    });
    site.sim.jump(-3 * 3_600_000);
    site.heartbeat(id, healthy());
    site.sim.jump(3 * 3_600_000);
    site.sim.quiesce();
    assert_eq!(site.status(id), Status::Online, "it changed its status although its heartbeat is recent");
}

#[test]
fn trash_claim_is_finished_when_its_objects_are_gone() {
    for known in [true, false] {
        let mut site = site();
        let id = if known { site.online("w") } else { site.add_unknown() };
        let move_to_trash = "rename_container";
        if known {
            until_held(&site, move_to_trash, |ops| async move { drop(ops.remove(id, false, false).await) });
        } else {
            site.snapshot();
            site.sim.pass(Duration::from_mins(11));
            let sweeper = Arc::clone(&site.daemon.app.sweeper);
            until_held(&site, move_to_trash, |_| async move {
                let snapshot = sweeper.snapshot().await.expect("the listing is trusted");
                sweeper.run(&*pass_named("reap_unknown"), &snapshot, Mode::Apply).await;
            });
        }
        site.crash(|_| false);
        let mut state = site.world.state();
        state.containers.retain(|_, container| !container.name.contains(&id.to_string()));
        state.volumes.retain(|name, _| !name.contains(&id.to_string()));
        drop(state);
        site.converge();
        let claimed = now_or_panic(site.reader.trash()).expect("the store answers");
        let claimed = claimed.into_iter().find(|entry| entry.state == TrashState::Claimed);
        assert_eq!(claimed, None, "the entry stays in state `claimed` (known: {known})");
    }
}

#[test]
fn container_with_a_trash_name_and_no_entry_gets_a_new_entry() {
    let site = site();
    let id = site.online("w");
    site.calmly(|ops| async move { ops.recreate(id).await }).expect("it is recreated");
    site.sim.quiesce();
    let entry = now_or_panic(site.reader.trash()).expect("the store answers")[0].clone();
    // The entry is dropped, as if the registry had been restored from an older copy.
    let container = entry.contents.container.expect("the old container is in the trash").id;
    now_or_panic(site.reader.drop_from_trash(entry.id, container.to_string())).expect("the store answers");
    site.snapshot();
    site.sim.pass(Duration::from_mins(11));
    site.converge();
    let trash = now_or_panic(site.reader.trash()).expect("the store answers");
    assert!(
        trash.iter().any(|entry| entry
            .contents
            .container
            .as_ref()
            .is_some_and(|trashed| trashed.id == container)),
        "the container has neither a row nor a trash entry: {trash:?}"
    );
    assert_eq!(site.status(id), Status::Online);
}

#[test]
fn trashed_container_renamed_back_gets_its_trash_name_again() {
    let site = site();
    let id = site.online("w");
    let own_name = site.container(id).expect("it runs").name;
    site.calmly(|ops| async move { ops.recreate(id).await }).expect("it is recreated");
    site.sim.quiesce();
    let entry = now_or_panic(site.reader.trash()).expect("the store answers")[0].clone();
    let trashed = entry.contents.container.expect("the old container is in the trash").id;
    // A delayed rename from an earlier, abandoned restore takes effect.
    site.world.state().containers.get_mut(&trashed).expect("it is there").name = own_name;
    site.converge();
    assert_eq!(site.world.state().containers[&trashed].name, trash_name(entry.id));
    assert_eq!(site.status(id), Status::Online);
    at_rest(&site).expect("the state is consistent");
}

#[test]
fn late_stop_does_not_undo_a_later_start() {
    let site = site();
    let id = site.online("w");
    // This stop belongs to a pause that was ordered before the workspace was started again.
    let stop = Order::Stop { swept: None };
    let done = site.calmly(|ops| async move { ops.order(id, stop).await }).expect("it is answered");
    assert!(matches!(&done, Applied::Raced(why) if why.contains("online")), "{done:?}");
    site.sim.quiesce();
    assert_eq!(site.status(id), Status::Online);
    assert!(runs(&site, id), "a later start was undone");
}

#[test]
fn start_reports_a_work_volume_deleted_during_the_start() {
    let site = site();
    let id = site.online("w");
    site.calmly(|ops| async move { ops.stop(id).await }).expect("it is stopped");
    site.remove_container(id);
    let answer = Arc::new(Mutex::new(String::new()));
    let recorded = Arc::clone(&answer);
    until_held(&site, "create_container", |ops| async move {
        *recorded.lock().unwrap() =
            format!("{:?}", ops.start(id, false).await.map_err(|error| error.to_string()));
    });
    site.world.state().volumes.remove(&volume_name(id, VolumeKind::Work));
    site.sim.quiesce();
    let answer = answer.lock().unwrap();
    assert!(answer.contains("volume missing") && answer.contains("--new-volume"), "{answer}");
    let work = volume_name(id, VolumeKind::Work);
    assert!(
        !site.world.state().volumes.contains_key(&work),
        "the lost work volume was replaced with an empty one"
    );
}

/// The undelete is ordered before the container of the removed workspace is stopped.
#[test]
fn undelete_reports_paused_once_the_container_is_stopped() {
    let site = site();
    let id = site.online("w");
    let removed = now_or_panic(site.reader.remove_workspace(id, false, false, site.sim.now()));
    assert!(matches!(removed, Ok(RemoveResult::Removed { .. })), "{removed:?}");
    let undelete = site.as_operator("POST", &format!("/workspaces/{id}/undelete"), None);
    let (status, answer) = site.sim.calmly(undelete);
    let state = site.container(id).unwrap().state;
    assert!(
        status == 200 && !state.may_run(),
        "undelete was answered while the container was {state:?}: {answer}"
    );
    assert_eq!(site.status(id), Status::Paused);
}
