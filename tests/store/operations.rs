//! Operations as the queue of each workspace, and the revision of a row as the guard of a start.

use ostler::{
    domain::{
        heartbeat::Heartbeat,
        ids::WorkspaceId,
        operation::{Command, Operation, OperationState, Requester, Revision},
        spec::SpecPatch,
        status::{Cause, Status},
        workspace::Kind,
    },
    store::{BeginStart, CancelResult, NewOperation, Parked, PauseResult, WorkspacePatch},
};

use super::{Fixture, T0, container_id, minute, new_workspace, token};

fn order(workspace: WorkspaceId, command: Command) -> NewOperation {
    NewOperation {
        workspace,
        fallback_name: String::new(),
        command,
        requested_by: Requester::Operator,
        decided_on: None,
    }
}

const START: Command = Command::Start { new_volume: false };

async fn accept(fixture: &Fixture, workspace: WorkspaceId, command: Command) -> Operation {
    let stored = fixture.store.accept_operation(order(workspace, command), T0).await.unwrap();
    stored.operation.expect("an operation is stored")
}

async fn state(fixture: &Fixture, operation: &Operation) -> OperationState {
    fixture.store.operation(operation.id).await.unwrap().expect("it is kept").state
}

/// Begins a start on behalf of an operation that was decided on its revision. Returns whether it began.
async fn begins(fixture: &Fixture, operation: &Operation) -> bool {
    let begin = BeginStart {
        workspace: operation.workspace,
        cause: Cause::Resume,
        container: container_id(),
        spec_hash: "hash".into(),
        token: token().1,
        decided_on: Some(operation.revision),
        operation: Some(operation.id),
        replaces: None,
        degraded: None,
        at: minute(2),
    };
    fixture.store.begin_start(begin).await.unwrap().is_some()
}

#[tokio::test]
async fn operations_of_a_workspace_run_one_at_a_time_in_their_order() {
    let fixture = Fixture::new().await;
    let (one, other) = (fixture.container("one").await, fixture.container("other").await);
    let first = accept(&fixture, one, Command::Restart).await;
    let second = accept(&fixture, one, Command::Recreate).await;
    let third = accept(&fixture, one, Command::Restart).await;
    let of_other = accept(&fixture, other, Command::Restart).await;
    let states = [&first, &second, &third, &of_other].map(|operation| operation.state);
    let (runs, accepted) = (OperationState::Running, OperationState::Accepted);
    assert_eq!(states, [runs, accepted, accepted, runs]);
    let (_, next) =
        fixture.store.end_operation(first.clone(), OperationState::Done, None, minute(1)).await.unwrap();
    assert_eq!(next.map(|next| (next.id, next.state)), Some((second.id, runs)));
    assert_eq!(state(&fixture, &third).await, accepted);
    let why = "it was refused".to_owned();
    let (_, next) =
        fixture.store.end_operation(second, OperationState::Failed, Some(why), minute(1)).await.unwrap();
    assert_eq!(next.map(|next| next.id), Some(third.id));
    let (_, next) = fixture.store.end_operation(third, OperationState::Done, None, minute(1)).await.unwrap();
    assert_eq!(next, None);
    let (_, again) =
        fixture.store.end_operation(first.clone(), OperationState::Failed, None, minute(2)).await.unwrap();
    assert_eq!((again, state(&fixture, &first).await), (None, OperationState::Done), "an end is final");
}

#[tokio::test]
async fn waiting_operation_blocks_later_ones_until_it_continues() {
    let fixture = Fixture::new().await;
    let one = fixture.container("one").await;
    let first = accept(&fixture, one, START).await;
    let why = "Podman does not answer".to_owned();
    let parked = fixture.store.park_operation(first.clone(), why.clone(), minute(1)).await.unwrap();
    assert_eq!(parked, Parked::Waits);
    let second = accept(&fixture, one, Command::Restart).await;
    assert_eq!(second.state, OperationState::Accepted, "it overtakes a waiting operation");
    let stored = fixture.store.operation(first.id).await.unwrap().unwrap();
    assert_eq!((stored.state, stored.detail), (OperationState::Waiting, Some(why)));
    let continued = fixture.store.continue_operation(one, minute(2)).await.unwrap();
    assert_eq!(continued.map(|next| (next.id, next.state)), Some((first.id, OperationState::Running)));
    assert_eq!(fixture.store.continue_operation(one, minute(2)).await.unwrap(), None, "it runs already");
}

#[tokio::test]
async fn stop_cancels_accepted_starts_and_voids_running_ones() {
    let fixture = Fixture::new().await;
    let (one, _) = fixture.online("one", T0).await;
    fixture.force(one, Status::Paused);
    let running = accept(&fixture, one, START).await;
    let accepted = accept(&fixture, one, START).await;
    let stored = fixture.store.accept_stop(one, Some(Requester::Operator), minute(1)).await.unwrap();
    assert_eq!(stored.result, PauseResult::Paused(vec![one]));
    assert_eq!(stored.cancelled, [(accepted.id, one)]);
    assert_eq!(state(&fixture, &accepted).await, OperationState::Cancelled);
    assert!(!begins(&fixture, &running).await, "a start began that was decided before the stop");
    let decided_now = Operation { revision: fixture.row(one).await.revision, ..running.clone() };
    assert!(begins(&fixture, &decided_now).await, "a start did not begin that was decided after the stop");
    let stored = fixture.store.operation(running.id).await.unwrap().unwrap();
    assert_eq!(stored.incarnation, Some(fixture.row(one).await.incarnation));
}

#[tokio::test]
async fn undelete_voids_starts_that_were_decided_before_the_removal() {
    let fixture = Fixture::new().await;
    let (one, _) = fixture.online("one", T0).await;
    fixture.force(one, Status::Paused);
    let start = accept(&fixture, one, START).await;
    fixture.remove(one, minute(1)).await;
    fixture.store.undelete_workspace(one, None, false, minute(1)).await.unwrap();
    assert_eq!(fixture.row(one).await.status, Status::Paused, "the status is the same as before the removal");
    assert!(!begins(&fixture, &start).await);
}

#[tokio::test]
async fn cancelled_start_never_begins_and_a_begun_start_is_not_cancelled() {
    let fixture = Fixture::new().await;
    let (one, _) = fixture.online("one", T0).await;
    fixture.force(one, Status::Paused);
    let first = accept(&fixture, one, START).await;
    assert_eq!(fixture.store.cancel_operation(first.id, minute(1)).await.unwrap(), CancelResult::Requested);
    assert!(!begins(&fixture, &first).await, "a start began although it was to be cancelled");
    fixture.store.end_operation(first.clone(), OperationState::Skipped, None, minute(2)).await.unwrap();
    assert_eq!(state(&fixture, &first).await, OperationState::Cancelled);

    let second = accept(&fixture, one, START).await;
    assert!(begins(&fixture, &second).await);
    let late = fixture.store.cancel_operation(second.id, minute(2)).await.unwrap();
    assert!(matches!(late, CancelResult::Refused(why) if why.contains("ostler stop")), "{late:?}");

    let restart = accept(&fixture, one, Command::Restart).await;
    let cancelled = fixture.store.cancel_operation(restart.id, minute(2)).await.unwrap();
    assert_eq!(cancelled, CancelResult::Cancelled(None), "it had not begun");
    let again = fixture.store.cancel_operation(restart.id, minute(2)).await.unwrap();
    assert_eq!(again, CancelResult::Ended(OperationState::Cancelled));
    let none = ostler::domain::operation::OperationId(99);
    assert_eq!(fixture.store.cancel_operation(none, minute(2)).await.unwrap(), CancelResult::NotThere);
}

#[tokio::test]
async fn waiting_operation_that_is_to_be_cancelled_ends_and_the_next_runs() {
    let fixture = Fixture::new().await;
    let (one, _) = fixture.online("one", T0).await;
    let first = accept(&fixture, one, START).await;
    let second = accept(&fixture, one, Command::Restart).await;
    fixture.store.cancel_operation(first.id, minute(1)).await.unwrap();
    let parked = fixture.store.park_operation(first.clone(), "no answer".into(), minute(1)).await.unwrap();
    let Parked::Cancelled(Some(next)) = parked else { panic!("{parked:?}") };
    assert_eq!((next.id, next.state), (second.id, OperationState::Running));
    assert_eq!(state(&fixture, &first).await, OperationState::Cancelled);
}

#[tokio::test]
async fn every_change_of_a_row_raises_its_revision_but_no_heartbeat() {
    let fixture = Fixture::new().await;
    let (one, token) = fixture.online("one", T0).await;
    let before = fixture.row(one).await.revision;
    let patch = WorkspacePatch {
        spec: SpecPatch { role: Some("digs".into()), ..SpecPatch::default() },
        ..WorkspacePatch::default()
    };
    fixture.store.patch_workspace(one, patch, minute(1)).await.unwrap();
    assert_eq!(fixture.row(one).await.revision, Revision(before.0 + 1), "after a change of the role");
    fixture.force(one, Status::Degraded);
    assert_eq!(fixture.row(one).await.revision, Revision(before.0 + 2), "after a statement of this test");
    let Some(ostler::store::TokenSubject::Workspace(owner)) =
        fixture.store.token_subject(&token.digest(), minute(1))
    else {
        panic!("the token is not valid");
    };
    fixture.force(one, Status::Online);
    let before = fixture.row(one).await.revision;
    fixture.store.record_heartbeat(owner, Heartbeat::default(), minute(1)).await.unwrap();
    assert_eq!(fixture.row(one).await.revision, before, "after a heartbeat");
}

#[tokio::test]
async fn only_the_newest_ended_operations_are_kept() {
    let fixture = Fixture::new().await;
    let one = fixture.container("one").await;
    let open = accept(&fixture, one, START).await;
    let other = fixture.container("other").await;
    let recent = accept(&fixture, other, Command::Restart).await;
    fixture.store.end_operation(recent.clone(), OperationState::Done, None, minute(30)).await.unwrap();
    for _ in 0..1100 {
        let stored =
            fixture.store.accept_operation(order(other, Command::Restart), minute(70)).await.unwrap();
        let ended = stored.operation.expect("it is accepted");
        fixture.store.end_operation(ended, OperationState::Done, None, T0).await.unwrap();
    }
    assert_eq!(state(&fixture, &recent).await, OperationState::Done, "it ended less than an hour ago");
    let kept = fixture.store.operations(None, 5000).await.unwrap();
    assert!((1000..1005).contains(&kept.len()), "{} operations are kept", kept.len());
    assert_eq!(kept.last().map(|oldest| oldest.id), Some(open.id), "an open operation was forgotten");
    let stored =
        fixture.store.accept_creation(new_workspace("third", Kind::External), None, T0).await.unwrap();
    assert_eq!(stored.operation, None, "an external workspace is not started");
}

#[tokio::test]
async fn restart_is_not_joined_to_one_that_has_begun() {
    let fixture = Fixture::new().await;
    let (one, _) = fixture.online("one", T0).await;
    fixture.force(one, Status::Paused);
    let first = accept(&fixture, one, START).await;
    assert!(begins(&fixture, &first).await);
    fixture.store.park_operation(first.clone(), "no answer".into(), minute(2)).await.unwrap();
    let again = accept(&fixture, one, START).await;
    assert_ne!(again.id, first.id, "a later order was answered by a start that began before it");
}
