//! Group commit: changes that wait at the same time share a commit, and each caller gets only its own result.
//!
//! The tests hold the database's write lock over a second connection while changes queue, so that the batches are the
//! same on every machine.

use std::task::{Context, Poll, Waker};

use ostler::{
    domain::{bounds::HISTORY_MAX_BYTES, event::EventKind, time::Timestamp, workspace::Kind},
    store::{CreateResult, Store},
};
use rusqlite::Connection;
use serde_json::json;
use tokio::sync::broadcast::error::TryRecvError;

use super::{Fixture, T0, commits, new_workspace, pin_log, registry, submit};

fn emit(store: &Store, number: usize) -> impl Future<Output = ostler::store::StoreResult<()>> + '_ {
    store.emit(T0, EventKind::ContainerStopped, None, json!({ "number": number }), None)
}

/// Holds the write lock while the function `changes` submits changes. The commits begin when `while_held` returns.
pub(super) fn while_held<T>(fixture: &Fixture, changes: impl FnOnce() -> T) -> T {
    let lock = fixture.side();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let changes = changes();
    lock.execute_batch("ROLLBACK").unwrap();
    changes
}

fn sequences(sql: &Connection) -> Vec<i64> {
    let mut query = sql.prepare("SELECT sequence FROM events ORDER BY sequence").unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn waiting_writers_share_a_commit() {
    const WRITERS: usize = 600;
    let fixture = Fixture::new().await;
    let pin = fixture.side();
    pin_log(&pin);
    let before = commits(&fixture.path());
    let waiting = while_held(&fixture, || {
        (0..WRITERS).map(|number| submit(emit(&fixture.store, number))).collect::<Vec<_>>()
    });
    for change in waiting {
        change.await.unwrap();
    }
    // The writer may have taken the first change before the others arrived. The others fill batches of 256.
    let shared = commits(&fixture.path()) - before;
    assert!(shared <= 4, "{WRITERS} concurrent writers needed {shared} commits");
    assert_eq!(sequences(&fixture.side()), (1..=i64::try_from(WRITERS).unwrap()).collect::<Vec<_>>());
}

#[tokio::test]
async fn events_are_not_sent_before_their_commit() {
    let fixture = Fixture::new().await;
    let mut feed = fixture.store.subscribe();
    let lock = fixture.side();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut waiting: Vec<_> = (0..20).map(|number| submit(emit(&fixture.store, number))).collect();
    for change in &mut waiting {
        assert!(matches!(change.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    }
    assert!(matches!(feed.try_recv(), Err(TryRecvError::Empty)), "an event was sent before its commit");
    lock.execute_batch("ROLLBACK").unwrap();
    for change in waiting {
        change.await.unwrap();
    }
}

#[tokio::test]
async fn events_are_broadcast_in_sequence_each_after_its_commit() {
    let fixture = Fixture::new().await;
    let mut feed = fixture.store.subscribe();
    let waiting = while_held(&fixture, || {
        (0..50).map(|number| submit(emit(&fixture.store, number))).collect::<Vec<_>>()
    });
    let committed = fixture.side();
    for expected in 1..=50 {
        let event = feed.recv().await.unwrap();
        assert_eq!(event.id, expected);
        assert!(
            sequences(&committed).contains(&event.id),
            "event {} was sent, and another connection does not read it",
            event.id
        );
        let stored = fixture.store.events_after(event.id - 1, 1).await.unwrap();
        assert_eq!(stored, [event], "the sent event equals the stored one");
    }
    for change in waiting {
        change.await.unwrap();
    }
}

#[tokio::test]
async fn failed_change_is_rolled_back_alone_without_a_sequence_gap() {
    // Without a registry row, creating a workspace fails at its last statement, after its event was written.
    let fixture = Fixture::without_identity();
    let mut feed = fixture.store.subscribe();
    let (first, failing, last) = while_held(&fixture, || {
        let new = new_workspace("alpha", Kind::Container);
        (
            submit(emit(&fixture.store, 1)),
            submit(fixture.store.create_workspace(new, T0)),
            submit(emit(&fixture.store, 2)),
        )
    });
    assert_eq!(first.await, Ok(()));
    assert!(failing.await.is_err());
    assert_eq!(last.await, Ok(()));
    assert_eq!(sequences(&fixture.side()), [1, 2], "the sequence has a gap at a rolled-back change");
    assert_eq!(fixture.number("SELECT count(*) FROM workspaces"), 0, "a rolled-back change left a workspace");
    assert_eq!(fixture.number("SELECT count(*) FROM pulse"), 0);

    fixture.store.found_registry(registry()).await.unwrap();
    let made = fixture.store.create_workspace(new_workspace("alpha", Kind::Container), T0).await;
    assert_eq!(made, Ok(CreateResult::Created(1)), "the writer continues after a failure");
    let mut sent = Vec::new();
    while sent.len() < 3 {
        sent.push(feed.recv().await.unwrap().id);
    }
    assert_eq!(sent, [1, 2, 3], "an event of a rolled-back change was sent");
}

#[tokio::test]
async fn change_is_committed_even_if_its_caller_is_gone() {
    let fixture = Fixture::new().await;
    let new = new_workspace("alpha", Kind::Container);
    let id = new.id;
    while_held(&fixture, || drop(submit(fixture.store.create_workspace(new, T0))));
    // The writer applies changes in the order of arrival: when this event is stored, the earlier change is committed.
    emit(&fixture.store, 1).await.unwrap();
    assert!(fixture.store.workspace(id).await.unwrap().is_some(), "the change was dropped with its caller");
}

#[tokio::test]
async fn oldest_events_are_deleted_first_and_ids_are_not_reused() {
    let fixture = Fixture::new().await;
    for number in 0..10_i64 {
        let at = Timestamp(T0.0 + number);
        fixture.store.emit(at, EventKind::ContainerStopped, None, json!({}), None).await.unwrap();
    }
    assert_eq!(fixture.store.forget_events(Timestamp(T0.0 + 6), 4).await, Ok(4), "no more than the limit");
    assert_eq!(fixture.store.forget_events(Timestamp(T0.0 + 6), 100).await, Ok(2));
    assert_eq!(fixture.store.forget_events(Timestamp(T0.0 + 100), 100).await, Ok(4));
    emit(&fixture.store, 1).await.unwrap();
    assert_eq!(sequences(&fixture.side()), [11], "a sequence number was reused");
}

#[tokio::test]
async fn event_flood_of_a_workspace_evicts_only_its_own_history() {
    let fixture = Fixture::new().await;
    let (quiet, loud) = (new_workspace("quiet", Kind::Container), new_workspace("loud", Kind::Container));
    let (quiet_id, loud_id) = (quiet.id, loud.id);
    fixture.store.create_workspace(quiet, T0).await.unwrap();
    fixture.store.create_workspace(loud, T0).await.unwrap();
    let swept = json!({ "evidence": "absent" });
    let swept =
        fixture.store.emit(T0, EventKind::ContainerReaped, Some(loud_id), swept, Some("reap_unknown"));
    swept.await.unwrap();
    let payload = json!({ "role": "x".repeat(64 << 10) });
    for _ in 0..400 {
        fixture.store.emit(T0, EventKind::Updated, Some(loud_id), payload.clone(), None).await.unwrap();
    }
    let bytes = fixture.number("SELECT sum(octet_length(payload) + 128) FROM events");
    assert!(bytes <= HISTORY_MAX_BYTES, "{bytes} bytes of history");
    assert_eq!(fixture.number("SELECT bytes FROM history"), bytes, "the stored size equals the sum");
    let of_quiet = fixture.store.newest_events(Some(quiet_id), 10).await.unwrap();
    assert_eq!(of_quiet.len(), 1, "the flood evicted another workspace's history");
    let swept = "SELECT count(*) FROM events WHERE swept_by IS NOT NULL";
    assert_eq!(fixture.number(swept), 1, "an event that the breaker counts was evicted");
    assert_eq!(
        fixture.store.forget_events(Timestamp(T0.0 + 1), 1_000_000).await.map(|count| count > 2),
        Ok(true)
    );
    assert_eq!(fixture.number("SELECT bytes FROM history"), 0);
}
