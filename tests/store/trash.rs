//! The trash: claims exclude each other, and a claimed object cannot be restored by another operation.

use ostler::{
    domain::{
        ids::{TrashId, WorkspaceId},
        spec::WorkspaceSpec,
        status::Status,
        trash::{TrashContents, TrashReason, TrashState},
    },
    store::{
        AdoptedWorkspace, ClaimGuard, DeleteGuard, NewClaim, RemoveResult, UndeleteResult, UndeletedUnder,
    },
};

use super::{Fixture, T0, claim, contents, minute, name, uuid};

pub(super) const REMOVED: (TrashReason, ClaimGuard) = (TrashReason::Removed, ClaimGuard::RowRemoved);

impl Fixture {
    /// Creates a removed workspace and a kept entry with its objects.
    async fn removed_and_kept(&self, called: &str) -> (WorkspaceId, TrashId) {
        let (id, _) = self.online(called, T0).await;
        self.remove(id, minute(1)).await;
        (id, self.kept(id, REMOVED).await)
    }

    pub(super) async fn kept(&self, id: WorkspaceId, (reason, guard): (TrashReason, ClaimGuard)) -> TrashId {
        let claim = claim(id, reason, guard);
        let entry = claim.id;
        self.store.claim_for_trash(claim, minute(2)).await.unwrap().expect("the claim holds");
        assert!(self.store.mark_in_trash(entry, minute(2)).await.unwrap());
        entry
    }

    async fn state(&self, entry: TrashId) -> Option<TrashState> {
        self.store.trash_entry(entry).await.unwrap().map(|entry| entry.state)
    }

    pub(super) async fn begin_delete(&self, entry: TrashId) -> bool {
        self.store.begin_delete(entry, DeleteGuard::Named, None, minute(3)).await.unwrap()
    }

    async fn undelete(&self, id: WorkspaceId) -> UndeleteResult {
        self.store.undelete_workspace(id, None, false, minute(4)).await.unwrap()
    }
}

#[tokio::test]
async fn trash_claim_fails_when_it_overlaps_another() {
    let fixture = Fixture::new().await;
    let (id, _) = fixture.online("alpha", T0).await;
    fixture.remove(id, minute(1)).await;
    let first = claim(id, TrashReason::Removed, ClaimGuard::RowRemoved);
    let container_only = TrashContents { volumes: vec![], ..first.contents.clone() };
    let volume_only = TrashContents { container: None, volumes: vec![first.contents.volumes[1].clone()] };
    let second = |contents| NewClaim { contents, ..claim(id, TrashReason::Removed, ClaimGuard::RowRemoved) };

    let whole = second(first.contents.clone());
    let (one, other) = tokio::join!(
        fixture.store.claim_for_trash(first.clone(), T0),
        fixture.store.claim_for_trash(whole, T0)
    );
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(one.is_some() != other.is_some(), "both claims succeeded, or neither: {one:?} {other:?}");
    let before = fixture.dump();
    for contents in [container_only, volume_only] {
        let again = fixture.store.claim_for_trash(second(contents.clone()), T0).await;
        assert_eq!(again, Ok(None), "{contents:?} was claimed twice");
    }
    assert_eq!(fixture.dump(), before, "a refused claim changed something");
    let stored = fixture.store.trash().await.unwrap();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].contents.container, first.contents.container);
}

#[tokio::test]
async fn trash_claim_requires_its_guard_to_hold() {
    let fixture = Fixture::new().await;
    let (live, _) = fixture.online("live", T0).await;
    let (removed, _) = fixture.online("removed", T0).await;
    fixture.remove(removed, minute(1)).await;
    let missing = WorkspaceId(uuid());
    let own = fixture.row(live).await.container.unwrap();
    let stray = contents().container.unwrap().id;
    let cases = [
        (ClaimGuard::RowRemoved, live, false),
        (ClaimGuard::RowRemoved, missing, false),
        (ClaimGuard::RowRemoved, removed, true),
        (ClaimGuard::NoRow, live, false),
        (ClaimGuard::NoRow, removed, false),
        (ClaimGuard::NoRow, missing, true),
        (ClaimGuard::NotTheRows(own), live, false),
        (ClaimGuard::NotTheRows(stray.clone()), missing, false),
        (ClaimGuard::NotTheRows(stray), live, true),
    ];
    for (guard, workspace, holds) in cases {
        let before = fixture.dump();
        let made = fixture
            .store
            .claim_for_trash(claim(workspace, TrashReason::Stray, guard.clone()), T0)
            .await
            .unwrap();
        assert_eq!(made.is_some(), holds, "{guard:?}");
        assert_eq!(fixture.dump() == before, !holds, "{guard:?}");
    }
}

#[tokio::test]
async fn breaker_counts_claims_by_sweeps_but_not_user_removals() {
    let fixture = Fixture::new().await;
    let (unknown, (ordered, _)) = (WorkspaceId(uuid()), fixture.online("alpha", T0).await);
    fixture.remove(ordered, minute(1)).await;
    for (workspace, (reason, guard)) in
        [(unknown, (TrashReason::Unknown, ClaimGuard::NoRow)), (ordered, REMOVED)]
    {
        let new = NewClaim { swept_by: Some("pass"), ..claim(workspace, reason, guard) };
        fixture.store.claim_for_trash(new, minute(5)).await.unwrap().unwrap();
    }
    assert_eq!(fixture.store.swept_since(minute(4)).await, Ok(vec![unknown]));
    assert_eq!(fixture.store.swept_since(minute(5)).await, Ok(vec![]), "the window has passed");
}

#[tokio::test]
async fn trash_entry_is_not_deleted_while_a_live_row_needs_it() {
    let fixture = Fixture::new().await;
    let (id, entry) = fixture.removed_and_kept("alpha").await;
    fixture.force(id, Status::Paused);
    let before = fixture.dump();
    assert!(!fixture.begin_delete(entry).await, "the volumes of a live row were claimed for deletion");
    assert_eq!(fixture.dump(), before);
    fixture.force(id, Status::Removed);
    assert!(fixture.begin_delete(entry).await);

    let (live, _) = fixture.online("beta", T0).await;
    let not_its_own = ClaimGuard::NotTheRows(contents().container.unwrap().id);
    let stray = fixture.kept(live, (TrashReason::Stray, not_its_own)).await;
    assert!(
        fixture.begin_delete(stray).await,
        "the entry of a stray container contains no volumes of its row"
    );
}

#[tokio::test]
async fn trash_entry_is_deleted_only_after_its_retention_time() {
    let fixture = Fixture::new().await;
    let (_, entry) = fixture.removed_and_kept("alpha").await;
    let past = async |at| {
        fixture
            .store
            .begin_delete(entry, DeleteGuard::RetentionEndedBefore(at), None, minute(200))
            .await
            .unwrap()
    };
    assert!(!past(minute(100)).await, "kept until minute 100, deleted at minute 100");
    assert_eq!(fixture.store.trash_due(minute(100), 10).await.map(|due| due.len()), Ok(0));
    assert_eq!(fixture.store.trash_due(minute(101), 10).await.map(|due| due.len()), Ok(1));
    assert!(past(minute(101)).await);
    assert!(!past(minute(102)).await, "the entry was claimed for deletion twice");
    assert_eq!(
        fixture.store.trash_due(T0, 10).await.map(|due| due.len()),
        Ok(1),
        "interrupted deletions are due"
    );
    fixture.store.cancel_transition(entry).await.unwrap();
    assert_eq!(fixture.state(entry).await, Some(TrashState::Kept));
}

fn adopted(id: WorkspaceId) -> AdoptedWorkspace {
    AdoptedWorkspace {
        id,
        name: name("adopted"),
        spec: WorkspaceSpec { runtime: "plain".into(), ..WorkspaceSpec::default() },
        container: None,
        serial: 1,
        host_port: None,
        has_work_volume: true,
        running: false,
        spec_hash: None,
        token: None,
        evidence: "its labels".into(),
    }
}

#[tokio::test]
async fn workspace_in_the_trash_is_adopted_only_during_its_restore() {
    let fixture = Fixture::new().await;
    let id = WorkspaceId(uuid());
    let claim = claim(id, TrashReason::Unknown, ClaimGuard::NoRow);
    let entry = claim.id;
    fixture.store.claim_for_trash(claim, T0).await.unwrap().unwrap();
    let adopt = async || fixture.store.adopt_workspace(adopted(id), minute(5)).await.unwrap();
    assert_eq!(adopt().await, None, "adopted while claimed");
    fixture.store.mark_in_trash(entry, T0).await.unwrap();
    assert_eq!(adopt().await, None, "adopted while kept");
    assert!(fixture.begin_delete(entry).await);
    assert_eq!(adopt().await, None, "adopted while being deleted");
    assert_eq!(
        fixture.store.begin_restore(entry, minute(1)).await,
        Ok(false),
        "restored while being deleted"
    );
    fixture.store.cancel_transition(entry).await.unwrap();
    assert_eq!(fixture.store.begin_restore(entry, minute(1)).await, Ok(true));
    assert!(!fixture.begin_delete(entry).await, "deleted while it is restored");
    assert!(adopt().await.is_some());
    assert_eq!(fixture.store.finish_restore(entry, minute(6)).await, Ok(true));
    assert_eq!(fixture.state(entry).await, None);
}

#[tokio::test]
async fn undelete_restores_a_kept_entry_but_not_one_being_deleted() {
    let fixture = Fixture::new().await;
    let (id, entry) = fixture.removed_and_kept("alpha").await;
    assert!(fixture.begin_delete(entry).await);
    let before = fixture.dump();
    assert_eq!(fixture.undelete(id).await, UndeleteResult::Deleted);
    assert_eq!(fixture.dump(), before, "a refused undelete changed something");
    fixture.store.cancel_transition(entry).await.unwrap();
    assert_eq!(
        fixture.undelete(id).await,
        UndeleteResult::Back { restoring: true, along: vec![], under: UndeletedUnder::default() }
    );
    assert_eq!(fixture.state(entry).await, Some(TrashState::Restoring));
    assert!(!fixture.begin_delete(entry).await, "deleted while it is restored");
    let row = fixture.row(id).await;
    assert_eq!(row.status, Status::Paused);
    assert!(row.container.is_some(), "the row does not refer to its container any more");
}

/// Found by the simulator: after `rm --purge`, an undelete and an `rm` without `--purge`, the first purge order deleted
/// the workspace's objects.
#[tokio::test]
async fn purge_is_cancelled_by_an_undelete() {
    let fixture = Fixture::new().await;
    let id = fixture.container("alpha").await;
    let remove = async |purge, at| {
        let removed = fixture.store.remove_workspace(id, false, purge, minute(at)).await.unwrap();
        assert!(matches!(removed, RemoveResult::Removed { .. }), "{removed:?}");
    };
    let ordered = async || fixture.store.purges_ordered().await.unwrap().len();
    remove(true, 1).await;
    assert_eq!(ordered().await, 1, "the purge order is not kept");
    assert_eq!(
        fixture.undelete(id).await,
        UndeleteResult::Back { restoring: false, along: vec![], under: UndeletedUnder::default() }
    );
    assert_eq!(ordered().await, 0, "an undelete cancels the purge order");
    remove(false, 1).await;
    let entry = fixture.kept(id, REMOVED).await;
    let purge =
        async || fixture.store.begin_delete(entry, DeleteGuard::PurgeOrdered, None, minute(3)).await.unwrap();
    assert!(
        !purge().await,
        "the earlier, cancelled purge deleted a workspace that was removed again without a purge"
    );
    assert_eq!(
        fixture.undelete(id).await,
        UndeleteResult::Back { restoring: true, along: vec![], under: UndeletedUnder::default() }
    );
    fixture.store.finish_restore(entry, minute(4)).await.unwrap();
    remove(true, 5).await;
    let entry = fixture.kept(id, REMOVED).await;
    assert!(
        !fixture.store.finish_purge(id, minute(6)).await.unwrap(),
        "the purge was finished while the trash has an entry"
    );
    let purge = fixture.store.begin_delete(entry, DeleteGuard::PurgeOrdered, None, minute(6)).await.unwrap();
    assert!(purge, "a purge deletes nothing");
    fixture.store.finish_delete(entry, minute(6)).await.unwrap();
    assert!(fixture.store.finish_purge(id, minute(6)).await.unwrap(), "the purge was not finished");
    assert_eq!(ordered().await, 0, "a finished purge is still listed");
    assert_eq!(fixture.undelete(id).await, UndeleteResult::Deleted);
}

#[tokio::test]
async fn permanently_deleted_workspace_cannot_be_undeleted() {
    let fixture = Fixture::new().await;
    let (id, entry) = fixture.removed_and_kept("alpha").await;
    assert!(fixture.begin_delete(entry).await);
    fixture.store.finish_delete(entry, minute(4)).await.unwrap();
    let row = fixture.row(id).await;
    assert_eq!((row.container, row.has_work_volume, row.host_port), (None, false, None));
    assert_eq!(
        fixture.undelete(id).await,
        UndeleteResult::Deleted,
        "a workspace without its volumes was undeleted"
    );

    let bare = fixture.container("bare").await;
    fixture.remove(bare, minute(1)).await;
    assert_eq!(
        fixture.undelete(bare).await,
        UndeleteResult::Back { restoring: false, along: vec![], under: UndeletedUnder::default() },
        "a workspace that owned nothing can be undeleted"
    );
}

#[tokio::test]
async fn row_keeps_its_container_until_its_last_entry_is_deleted() {
    let fixture = Fixture::new().await;
    let (id, entry) = fixture.removed_and_kept("alpha").await;
    let late = fixture.kept(id, REMOVED).await;
    assert!(fixture.begin_delete(late).await);
    fixture.store.finish_delete(late, minute(4)).await.unwrap();
    assert!(
        fixture.row(id).await.container.is_some(),
        "the container of the other entry was dropped from the row"
    );
    assert_eq!(
        fixture.undelete(id).await,
        UndeleteResult::Back { restoring: true, along: vec![], under: UndeletedUnder::default() }
    );
    assert_eq!(fixture.state(entry).await, Some(TrashState::Restoring));
}

#[tokio::test]
async fn trash_operations_cannot_finish_before_they_begin() {
    let fixture = Fixture::new().await;
    let (_, kept) = fixture.removed_and_kept("alpha").await;
    let before = fixture.dump();
    fixture.store.finish_delete(kept, minute(5)).await.unwrap();
    assert_eq!(fixture.store.finish_restore(kept, minute(5)).await, Ok(false));
    assert_eq!(fixture.store.mark_in_trash(kept, minute(5)).await, Ok(false));
    fixture.store.cancel_transition(kept).await.unwrap();
    let nothing = TrashId(uuid());
    fixture.store.finish_delete(nothing, minute(5)).await.unwrap();
    assert_eq!(fixture.store.finish_restore(nothing, minute(5)).await, Ok(false));
    assert_eq!(fixture.dump(), before);
}

#[tokio::test]
async fn trash_entry_lists_its_objects_and_can_drop_one() {
    let fixture = Fixture::new().await;
    let (id, _) = fixture.online("alpha", T0).await;
    fixture.remove(id, minute(1)).await;
    let new = claim(id, TrashReason::Removed, ClaimGuard::RowRemoved);
    let mut expected = fixture.store.claim_for_trash(new.clone(), minute(2)).await.unwrap().unwrap();
    expected.contents.volumes.sort();
    assert_eq!(fixture.store.trash_of(vec![id]).await, Ok(vec![expected.clone()]));
    assert_eq!(fixture.store.trash_of(vec![WorkspaceId(uuid())]).await, Ok(vec![]));
    let container = new.contents.container.unwrap();
    fixture.store.drop_from_trash(new.id, container.id.as_str().to_owned()).await.unwrap();
    expected.contents.container = None;
    assert_eq!(fixture.store.trash_entry(new.id).await, Ok(Some(expected)));
}
