//! Delegations: when a task may be sent, when a delegation expires, and the limit of open ones.

use ostler::{
    domain::{
        delegation::DelegationStatus,
        ids::{DelegationId, WorkspaceId},
        time::Timestamp,
    },
    store::{Attempt, Delegated, Dispatched, NewDelegation, Waiting},
};

use super::{Fixture, MINUTE, T0, minute, uuid};

/// The first minute in which a delegation created at `T0` is overdue.
const TOO_LATE: i64 = 6 * 60 + 1;

fn new(workspace: WorkspaceId, at: Timestamp) -> NewDelegation {
    NewDelegation {
        id: DelegationId(uuid()),
        workspace,
        target: WorkspaceId(uuid()),
        key: None,
        task: "dig".into(),
        sent_by_ostler: true,
        at,
    }
}

async fn begun(fixture: &Fixture, new: &NewDelegation) -> Waiting {
    assert_eq!(fixture.store.begin_delegation(new.clone()).await.unwrap(), Delegated::New);
    Waiting { id: new.id, workspace: new.workspace }
}

#[tokio::test]
async fn delegation_is_dispatched_at_most_twice() {
    let fixture = Fixture::new().await;
    let new = new(fixture.container("one").await, T0);
    let waiting = begun(&fixture, &new).await;
    let dispatch = async |attempt| fixture.store.dispatch_delegation(waiting, attempt, T0).await.unwrap();
    let sent = Some(Dispatched { target: new.target, task: "dig".into() });
    assert_eq!(dispatch(Attempt::Second).await, None, "a second attempt was allowed without a first one");
    assert_eq!(dispatch(Attempt::First).await, sent);
    assert_eq!(dispatch(Attempt::First).await, None, "the first attempt was allowed twice");
    assert_eq!(dispatch(Attempt::Second).await, sent);
    assert_eq!(dispatch(Attempt::Second).await, None, "a third attempt was allowed");
    assert_eq!(dispatch(Attempt::First).await, None);
    let all = fixture.store.delegations(new.workspace, T0).await.unwrap();
    assert_eq!((all[0].attempts, all[0].status), (2, DelegationStatus::Dispatched));
}

#[tokio::test]
async fn finished_delegation_is_not_dispatched() {
    let fixture = Fixture::new().await;
    let new = new(fixture.container("one").await, T0);
    let waiting = begun(&fixture, &new).await;
    let (id, failed) = (new.id, DelegationStatus::Failed);
    fixture.store.move_delegation(new.workspace, id, failed, (None, None), T0).await.unwrap();
    assert_eq!(fixture.store.dispatch_delegation(waiting, Attempt::First, T0).await.unwrap(), None);
    let elsewhere = Waiting { workspace: fixture.container("two").await, ..waiting };
    assert_eq!(fixture.store.dispatch_delegation(elsewhere, Attempt::First, T0).await.unwrap(), None);
}

#[tokio::test]
async fn overdue_delegation_fails_instead_of_being_dispatched() {
    let fixture = Fixture::new().await;
    let one = fixture.container("one").await;
    let (late, timely) = (new(one, T0), new(one, Timestamp(T0.0 + 2 * MINUTE)));
    let waiting = [begun(&fixture, &late).await, begun(&fixture, &timely).await];
    let dispatched = |waiting| fixture.store.dispatch_delegation(waiting, Attempt::First, minute(TOO_LATE));
    assert_eq!(dispatched(waiting[0]).await.unwrap(), None);
    assert!(dispatched(waiting[1]).await.unwrap().is_some());
    let all = fixture.store.delegations(one, minute(TOO_LATE)).await.unwrap();
    let outcomes: Vec<_> = all.iter().map(|one| (one.status, one.error.as_deref())).collect();
    let why = "not sent: it waited longer than 6 hours";
    assert_eq!(outcomes, [(DelegationStatus::Dispatched, None), (DelegationStatus::Failed, Some(why))]);
}

#[tokio::test]
async fn overdue_delegation_fails_when_open_ones_are_loaded() {
    let fixture = Fixture::new().await;
    let one = fixture.container("one").await;
    let (late, timely) = (new(one, T0), new(one, Timestamp(T0.0 + 2 * MINUTE)));
    begun(&fixture, &late).await;
    let timely = begun(&fixture, &timely).await;
    assert_eq!(fixture.store.take_up_delegations(minute(TOO_LATE)).await.unwrap(), [timely]);
    let failed = "SELECT count(*) FROM delegations WHERE status = 'failed' AND error LIKE 'not sent%'";
    assert_eq!(fixture.number(failed), 1);
}

#[tokio::test]
async fn overdue_delegations_fail_and_make_room_for_new_ones() {
    let fixture = Fixture::new().await;
    let one = fixture.container("one").await;
    for number in 0..64 {
        let recorded = NewDelegation { sent_by_ostler: number % 2 == 0, ..new(one, T0) };
        begun(&fixture, &recorded).await;
    }
    let next = |at| fixture.store.begin_delegation(new(one, at));
    assert_eq!(next(minute(TOO_LATE - 1)).await.unwrap(), Delegated::TooMany);
    assert_eq!(next(minute(TOO_LATE)).await.unwrap(), Delegated::New);
    let open = "SELECT count(*) FROM delegations WHERE finished_at IS NULL";
    assert_eq!(fixture.number(open), 1);
    let unanswered = "SELECT count(*) FROM delegations WHERE error = 'no result within 6 hours'";
    assert_eq!(
        fixture.number(unanswered),
        32,
        "delegations that ostler does not send expire without a result"
    );
}

#[tokio::test]
async fn failed_delegation_is_kept_when_its_retry_exceeds_the_limit() {
    let fixture = Fixture::new().await;
    let one = fixture.container("one").await;
    let recorded = NewDelegation { sent_by_ostler: false, ..new(one, T0) };
    begun(&fixture, &recorded).await;
    let (id, failed) = (recorded.id, DelegationStatus::Failed);
    fixture.store.move_delegation(one, id, failed, (Some("why".into()), None), T0).await.unwrap();
    for _ in 0..64 {
        begun(&fixture, &new(one, T0)).await;
    }
    assert_eq!(fixture.store.begin_delegation(recorded).await.unwrap(), Delegated::TooMany);
    assert_eq!(fixture.number("SELECT count(*) FROM delegations WHERE error = 'why'"), 1);
}
