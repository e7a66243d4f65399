//! Workspace rows: names, the tree, removal, undelete, starts, adoption, ports and the generation.

use ostler::{
    domain::{
        event::EventKind,
        ids::{Incarnation, TokenId, WorkspaceId},
        spec::{SpecPatch, WorkspaceSpec},
        status::{Cause, Status},
        token::Token,
        trash::TrashReason,
        workspace::Kind,
    },
    store::{
        AdoptedContainer, AdoptedWorkspace, BeginStart, ClaimGuard, ContainerAdoption, CreateResult,
        DeleteGuard, Found, HeldToken, Mirror, MirrorRecord, PortRange, RemoveResult, Scope, StatusChange,
        TokenIssue, TokenSubject, UndeleteResult, UndeletedUnder, WorkspaceEdit, WorkspacePatch,
    },
};
use serde_json::json;

use super::{
    Fixture, T0, claim, commits, container_id, digest, minute, name, new_workspace, pin_log, strings, token,
    trash::REMOVED, uuid,
};

#[tokio::test]
async fn name_is_unique_among_live_workspaces_only() {
    let fixture = Fixture::new().await;
    let first = fixture.container("alpha").await;
    let before = fixture.dump();
    let again = new_workspace("alpha", Kind::Container);
    assert_eq!(fixture.store.create_workspace(again.clone(), T0).await, Ok(CreateResult::NameTaken));
    assert_eq!(fixture.dump(), before, "a refused creation changed something");

    fixture.remove(first, minute(1)).await;
    assert_eq!(fixture.store.create_workspace(again, minute(2)).await, Ok(CreateResult::Created(3)));
}

#[tokio::test]
async fn schema_refuses_two_live_rows_with_the_same_name() {
    let fixture = Fixture::new().await;
    fixture.container("alpha").await;
    let second = fixture.container("beta").await;
    let refused =
        fixture.side().execute("UPDATE workspaces SET name = 'alpha' WHERE id = ?1", [second.0.as_bytes()]);
    assert!(refused.is_err_and(|error| error.to_string().contains("UNIQUE")));
}

#[tokio::test]
async fn undelete_fails_when_the_name_is_taken_unless_renamed() {
    let fixture = Fixture::new().await;
    let old = fixture.container("alpha").await;
    fixture.remove(old, minute(1)).await;
    fixture.container("alpha").await;
    let before = fixture.dump();
    assert_eq!(
        fixture.store.undelete_workspace(old, None, false, minute(2)).await,
        Ok(UndeleteResult::NameTaken)
    );
    assert_eq!(fixture.dump(), before, "a refused undelete changed something");

    let back = fixture.store.undelete_workspace(old, Some(name("gamma")), false, minute(3)).await;
    assert_eq!(
        back,
        Ok(UndeleteResult::Back { restoring: false, along: vec![], under: UndeletedUnder::default() })
    );
    let row = fixture.row(old).await;
    assert_eq!((row.name.as_str(), row.status, row.removed_at), ("gamma", Status::Paused, None));
    assert_eq!(
        fixture.store.undelete_workspace(old, None, false, minute(4)).await,
        Ok(UndeleteResult::NotThere),
        "a live row was undeleted"
    );
}

#[tokio::test]
async fn create_requires_an_existing_live_parent() {
    let fixture = Fixture::new().await;
    let parent = fixture.container("parent").await;
    fixture.remove(parent, minute(1)).await;
    let before = fixture.dump();
    for missing in [parent, WorkspaceId(uuid())] {
        let mut new = new_workspace("child", Kind::Container);
        new.spec.parent = Some(missing);
        assert_eq!(fixture.store.create_workspace(new, minute(2)).await, Ok(CreateResult::ParentMissing));
    }
    assert_eq!(fixture.dump(), before);
}

#[tokio::test]
async fn removal_of_a_tree_is_one_transaction() {
    let fixture = Fixture::new().await;
    let root = fixture.container("root").await;
    let left = fixture.child("left", root).await;
    let leaf = fixture.child("leaf", left).await;
    let right = fixture.child("right", root).await;
    let beside = fixture.container("beside").await;
    let (_, token) = fixture.start(leaf, minute(1)).await.unwrap();

    let before = fixture.dump();
    let refused = fixture.store.remove_workspace(root, false, false, minute(2)).await.unwrap();
    let mut children = vec![(left, name("left")), (right, name("right"))];
    children.sort();
    let RemoveResult::HasChildren(mut named) = refused else {
        panic!("removed although it has children: {refused:?}")
    };
    named.sort();
    assert_eq!(named, children);
    assert_eq!(fixture.dump(), before);

    let pin = fixture.side();
    pin_log(&pin);
    let counted = commits(&fixture.path());
    let removed = fixture.store.remove_workspace(root, true, false, minute(3)).await.unwrap();
    assert_eq!(commits(&fixture.path()), counted + 1, "a tree was removed in several transactions");
    let RemoveResult::Removed { removed: mut ids, .. } = removed else { panic!("{removed:?}") };
    assert_eq!(ids[0], root, "the named workspace is first");
    ids.sort();
    let mut expected = vec![root, left, leaf, right];
    expected.sort();
    assert_eq!(ids, expected);
    for id in expected {
        let row = fixture.row(id).await;
        assert_eq!((row.status, row.removed_at), (Status::Removed, Some(minute(3))));
    }
    assert_eq!(fixture.row(beside).await.status, Status::Provisioning);
    assert_eq!(fixture.number("SELECT count(*) FROM pulse"), 1, "only the live workspace has a `pulse` row");
    assert_eq!(fixture.store.token_subject(&digest(&token), minute(4)), None);
    let removals = fixture.events().await.into_iter().filter(|e| e.1 == EventKind::Removed.as_str()).count();
    assert_eq!(removals, 4, "one event for each row");
    assert_eq!(
        fixture.store.remove_workspace(root, true, false, minute(5)).await,
        Ok(RemoveResult::NotThere)
    );
}

#[tokio::test]
async fn child_of_a_removed_parent_is_undeleted_as_a_root() {
    let fixture = Fixture::new().await;
    let root = fixture.container("root").await;
    let child = fixture.child("child", root).await;
    fixture.remove(root, minute(1)).await;
    fixture.store.undelete_workspace(child, None, false, minute(2)).await.unwrap();
    assert_eq!(fixture.row(child).await.spec.parent, None);

    fixture.force(child, Status::Online);
    let other = fixture.child("other", child).await;
    fixture.remove(other, minute(3)).await;
    fixture.store.undelete_workspace(other, None, false, minute(4)).await.unwrap();
    assert_eq!(fixture.row(other).await.spec.parent, Some(child), "a live parent is kept");
}

#[tokio::test]
async fn removed_workspace_is_never_started() {
    let fixture = Fixture::new().await;
    let id = fixture.container("alpha").await;
    fixture.remove(id, minute(1)).await;
    let before = fixture.dump();
    for cause in [Cause::Restart, Cause::StartByOperator, Cause::Resume] {
        let begin = BeginStart {
            workspace: id,
            cause,
            container: container_id(),
            spec_hash: "hash".into(),
            token: token().1,
            decided_on: None,
            operation: None,
            replaces: None,
            degraded: None,
            at: minute(2),
        };
        assert_eq!(fixture.store.begin_start(begin).await, Ok(None), "{cause:?} started a removed row");
    }
    assert_eq!(fixture.dump(), before);
}

#[tokio::test]
async fn external_workspace_is_never_started() {
    let fixture = Fixture::new().await;
    let id = fixture.create(new_workspace("outside", Kind::External), T0).await;
    for status in Status::ALL.into_iter().filter(|status| *status != Status::Removed) {
        fixture.force(id, status);
        let before = fixture.dump();
        assert!(fixture.start(id, minute(1)).await.is_none(), "an external row that is {status} was started");
        assert_eq!(fixture.dump(), before);
    }
}

#[tokio::test]
async fn start_increments_the_incarnation_or_changes_nothing() {
    let fixture = Fixture::new().await;
    let id = fixture.container("alpha").await;
    for expected in 1..=3 {
        let (begun, _) = fixture.start(id, minute(expected.into())).await.unwrap();
        assert_eq!(begun.incarnation, Incarnation(expected));
        let row = fixture.row(id).await;
        assert_eq!((row.status, row.incarnation), (Status::Provisioning, Incarnation(expected)));
        assert_eq!(row.status_since, T0, "a restart does not change the status");
    }
    fixture.force(id, Status::Hibernating);
    let before = fixture.dump();
    assert!(fixture.start(id, minute(9)).await.is_none());
    assert_eq!(fixture.dump(), before, "a refused start changed something");
}

fn adopted(id: WorkspaceId, called: &str) -> AdoptedWorkspace {
    AdoptedWorkspace {
        id,
        name: name(called),
        spec: WorkspaceSpec {
            role: Some("tester".into()),
            runtime: "plain".into(),
            ..WorkspaceSpec::default()
        },
        container: Some(container_id()),
        serial: 4,
        host_port: Some(21_500),
        has_work_volume: true,
        running: true,
        spec_hash: None,
        token: None,
        evidence: "its labels".into(),
    }
}

#[tokio::test]
async fn adopted_workspace_keeps_the_token_it_holds() {
    let fixture = Fixture::new().await;
    let (held, issue) = token();
    let id = WorkspaceId(uuid());
    let made = AdoptedWorkspace { token: Some(issue), ..adopted(id, "alpha") };
    assert_eq!(fixture.store.adopt_workspace(made.clone(), T0).await, Ok(Some(HeldToken::Live)));
    let row = fixture.row(id).await;
    assert_eq!((row.status, row.incarnation, row.container_serial), (Status::Online, Incarnation(1), 4));
    assert_eq!((row.host_port, row.container), (Some(21_500), made.container.clone()));
    assert!(
        matches!(fixture.store.token_subject(&digest(&held), T0), Some(TokenSubject::Workspace(token_owner)) if token_owner.workspace == id)
    );

    let before = fixture.dump();
    assert_eq!(fixture.store.adopt_workspace(made, T0).await, Ok(None), "adopted twice");
    assert_eq!(
        fixture.store.adopt_workspace(adopted(WorkspaceId(uuid()), "alpha"), T0).await,
        Ok(None),
        "name taken"
    );
    assert_eq!(fixture.dump(), before);
}

#[tokio::test]
async fn stopped_workspace_is_adopted_as_paused_without_a_used_port() {
    let fixture = Fixture::new().await;
    fixture.store.adopt_workspace(adopted(WorkspaceId(uuid()), "alpha"), T0).await.unwrap();
    let second = AdoptedWorkspace { running: false, ..adopted(WorkspaceId(uuid()), "beta") };
    let id = second.id;
    fixture.store.adopt_workspace(second, T0).await.unwrap();
    let row = fixture.row(id).await;
    assert_eq!((row.status, row.host_port), (Status::Paused, None));
}

#[tokio::test]
async fn adoption_refuses_a_token_that_belongs_to_another_workspace() {
    let fixture = Fixture::new().await;
    let (held, issue) = token();
    let first = AdoptedWorkspace { token: Some(issue.clone()), ..adopted(WorkspaceId(uuid()), "alpha") };
    let owner = first.id;
    fixture.store.adopt_workspace(first, T0).await.unwrap();
    // Two containers have the same token, as after a copy of a volume.
    let issue = TokenIssue { id: TokenId(uuid()), ..issue };
    let copy = AdoptedWorkspace { token: Some(issue), ..adopted(WorkspaceId(uuid()), "beta") };
    let id = copy.id;
    assert_eq!(fixture.store.adopt_workspace(copy, T0).await, Ok(Some(HeldToken::Refused)));
    assert!(
        fixture.store.live_tokens(id, T0).await.unwrap().is_empty(),
        "a token is valid for two workspaces"
    );
    assert!(
        matches!(fixture.store.token_subject(&digest(&held), T0), Some(TokenSubject::Workspace(token_owner)) if token_owner.workspace == owner)
    );
    let payloads =
        strings(&fixture.side(), "SELECT payload FROM events WHERE event_type = 'WORKSPACE_ADOPTED'");
    assert!(payloads[1].contains(r#""token":"refused""#), "{payloads:?}");
}

/// Adopts a container of a known row, in a registry that is recovering.
async fn adopt(
    fixture: &Fixture,
    id: WorkspaceId,
    running: bool,
    token: Option<TokenIssue>,
) -> ContainerAdoption {
    let adopted = AdoptedContainer {
        workspace: id,
        incarnation: fixture.row(id).await.incarnation,
        container: container_id(),
        serial: 9,
        host_port: None,
        running,
        spec_hash: None,
        token,
        evidence: "its labels".into(),
    };
    fixture.store.adopt_container(adopted, minute(5)).await.unwrap()
}

fn taken_over(token: HeldToken) -> ContainerAdoption {
    ContainerAdoption::Adopted { token, under: UndeletedUnder::default() }
}

#[tokio::test]
async fn adoption_reports_a_revoked_token_as_refused() {
    let fixture = Fixture::new().await;
    let (id, held) = fixture.online("alpha", T0).await;
    let issued = fixture.store.live_tokens(id, T0).await.unwrap().remove(0);
    assert!(fixture.store.revoke_token(id, issued.id, minute(1)).await.unwrap());
    fixture.store.begin_recovery(minute(2), 9, "restored".into()).await.unwrap();

    let again =
        |token: &Token| TokenIssue { id: TokenId(uuid()), digest: digest(token), prefix: token.prefix() };
    assert_eq!(adopt(&fixture, id, true, Some(again(&held))).await, taken_over(HeldToken::Refused));
    let payloads =
        strings(&fixture.side(), "SELECT payload FROM events WHERE event_type = 'WORKSPACE_ADOPTED'");
    assert!(
        payloads[0].contains(r#""token":"refused""#),
        "the event reports a revoked token as valid: {payloads:?}"
    );
    assert!(fixture.store.live_tokens(id, minute(6)).await.unwrap().is_empty(), "a revoked token is valid");

    assert_eq!(adopt(&fixture, id, true, None).await, taken_over(HeldToken::NotFound));
    let (other, issue) = token();
    assert_eq!(adopt(&fixture, id, true, Some(issue)).await, taken_over(HeldToken::Live));
    assert_eq!(
        adopt(&fixture, id, true, Some(again(&other))).await,
        taken_over(HeldToken::Live),
        "the token is valid already"
    );
}

#[tokio::test]
async fn adoption_cancels_an_earlier_purge() {
    let fixture = Fixture::new().await;
    let (id, _) = fixture.online("alpha", T0).await;
    fixture.store.begin_recovery(T0, 9, "restored".into()).await.unwrap();
    let remove = async |purge, at| {
        let removed = fixture.store.remove_workspace(id, false, purge, minute(at)).await.unwrap();
        assert!(matches!(removed, RemoveResult::Removed { .. }), "{removed:?}");
    };
    let ordered = async || fixture.store.purges_ordered().await.unwrap().len();
    remove(true, 1).await;
    assert_eq!(ordered().await, 1, "the purge order is not kept");
    assert_eq!(adopt(&fixture, id, true, None).await, taken_over(HeldToken::NotFound));
    let left = "SELECT count(*) FROM workspaces WHERE purge_ordered_at IS NOT NULL";
    assert_eq!(fixture.number(left), 0, "the live row keeps its purge order");

    // A live row with a purge order, as an older version could leave it.
    fixture.side().execute("UPDATE workspaces SET purge_ordered_at = 1", []).unwrap();
    assert_eq!(ordered().await, 0, "a live workspace is listed for a purge");
    remove(false, 6).await;
    assert_eq!(ordered().await, 0, "a removal without --purge orders a purge");
    let entry = fixture.kept(id, REMOVED).await;
    let deleted =
        fixture.store.begin_delete(entry, DeleteGuard::PurgeOrdered, None, minute(7)).await.unwrap();
    assert!(!deleted, "a removal without --purge is deleted permanently");
}

#[tokio::test]
async fn recovery_cancels_pending_purges() {
    let fixture = Fixture::new().await;
    let (id, _) = fixture.online("alpha", T0).await;
    fixture.store.remove_workspace(id, false, true, minute(1)).await.unwrap();
    fixture.store.begin_recovery(minute(2), 9, "restored".into()).await.unwrap();
    assert!(
        fixture.store.purges_ordered().await.unwrap().is_empty(),
        "a workspace that may have been undeleted since the copy is listed for a purge"
    );
    let payloads =
        strings(&fixture.side(), "SELECT payload FROM events WHERE event_type = 'REGISTRY_RECOVERING'");
    assert!(payloads[0].contains(r#""purges_cancelled":1"#), "{payloads:?}");
}

#[tokio::test]
async fn adoption_reattaches_parent_and_child_like_undelete() {
    let fixture = Fixture::new().await;
    let (root, _) = fixture.online("root", T0).await;
    let child = fixture.child("child", root).await;
    fixture.store.begin_recovery(T0, 9, "restored".into()).await.unwrap();
    fixture.store.remove_workspace(root, true, false, minute(1)).await.unwrap();

    let under = UndeletedUnder { removed_parent: Some(name("root")), ..UndeletedUnder::default() };
    let alone = ContainerAdoption::Adopted { token: HeldToken::NotFound, under };
    assert_eq!(adopt(&fixture, child, false, None).await, alone);
    assert_eq!(fixture.row(child).await.spec.parent, None, "a live workspace is below a removed one");
    assert_eq!(fixture.row(child).await.status, Status::Paused);
    let under = UndeletedUnder { returned: vec![name("child")], ..UndeletedUnder::default() };
    let back = ContainerAdoption::Adopted { token: HeldToken::NotFound, under };
    assert_eq!(adopt(&fixture, root, true, None).await, back);
    assert_eq!(fixture.row(child).await.spec.parent, Some(root));
}

#[tokio::test]
async fn adoption_reports_why_a_removed_workspace_is_not_undeleted() {
    let fixture = Fixture::new().await;
    let (id, _) = fixture.online("alpha", T0).await;
    fixture.remove(id, minute(1)).await;
    assert_eq!(
        adopt(&fixture, id, true, None).await,
        ContainerAdoption::Changed,
        "the registry is not recovering"
    );
    fixture.store.begin_recovery(minute(2), 9, "restored".into()).await.unwrap();
    let other = fixture.container("alpha").await;
    let before = fixture.dump();
    assert_eq!(adopt(&fixture, id, true, None).await, ContainerAdoption::NameTaken);
    assert_eq!(fixture.dump(), before);
    fixture.remove(other, minute(3)).await;
    let entry = fixture.kept(id, REMOVED).await;
    assert!(fixture.begin_delete(entry).await);
    assert_eq!(adopt(&fixture, id, true, None).await, ContainerAdoption::Deleted);
}

#[tokio::test]
async fn port_stays_allocated_until_its_trash_entry_is_deleted() {
    let fixture = Fixture::new().await;
    let ports = PortRange { first: 21_000, last: 21_001 };
    let (first, second, third) =
        (fixture.container("a").await, fixture.container("b").await, fixture.container("c").await);
    let allot = async |id, taken: Vec<u16>| fixture.store.allot(id, ports, taken).await.unwrap();
    assert_eq!(allot(first, vec![]).await, Some((1, 21_000)));
    assert_eq!(allot(first, vec![]).await, Some((2, 21_000)), "a new serial, and the same port");
    assert_eq!(allot(second, vec![21_001]).await, None, "the only free port is busy on the host");
    assert_eq!(allot(second, vec![]).await, Some((1, 21_001)));
    assert_eq!(allot(third, vec![]).await, None, "the range is used up");

    fixture.remove(first, minute(1)).await;
    assert_eq!(allot(first, vec![]).await, None, "a removed row gets no port");
    assert_eq!(allot(third, vec![]).await, None, "a workspace in the trash keeps its port");
    let claim = claim(first, TrashReason::Removed, ClaimGuard::RowRemoved);
    let entry = claim.id;
    fixture.store.claim_for_trash(claim, minute(2)).await.unwrap().unwrap();
    fixture.store.mark_in_trash(entry, minute(2)).await.unwrap();
    assert!(fixture.store.begin_delete(entry, DeleteGuard::Named, None, minute(3)).await.unwrap());
    fixture.store.finish_delete(entry, minute(3)).await.unwrap();
    assert_eq!(allot(third, vec![]).await, Some((1, 21_000)));
}

#[tokio::test]
async fn removed_rows_are_deleted_only_when_nothing_refers_to_them() {
    let fixture = Fixture::new().await;
    let (plain, listed, trashed, parent) = (
        fixture.container("plain").await,
        fixture.container("listed").await,
        fixture.container("trashed").await,
        fixture.container("parent").await,
    );
    let child = fixture.child("child", parent).await;
    let young = fixture.container("young").await;
    let live = fixture.container("live").await;
    fixture.start(plain, T0).await.unwrap();
    for id in [plain, listed, trashed, parent] {
        fixture.remove(id, minute(1)).await;
    }
    fixture.remove(young, minute(50)).await;
    let claim = claim(trashed, TrashReason::Removed, ClaimGuard::RowRemoved);
    fixture.store.claim_for_trash(claim, minute(1)).await.unwrap().unwrap();

    let forget = async |limit| fixture.store.forget_removed(minute(10), vec![listed], limit).await.unwrap();
    assert_eq!(forget(1).await, 1, "no more than the limit");
    assert_eq!(forget(100).await, 1, "the other of `child` and `plain`; `parent` only after its child");
    assert_eq!(forget(100).await, 1);
    assert_eq!(forget(100).await, 0);
    for gone in [plain, child, parent] {
        assert_eq!(fixture.store.workspace(gone).await.unwrap(), None);
    }
    for kept in [listed, trashed, young, live] {
        assert!(fixture.store.workspace(kept).await.unwrap().is_some());
    }
    assert_eq!(fixture.number("SELECT count(*) FROM tokens"), 0, "the tokens of deleted rows are deleted");
}

#[tokio::test]
async fn lookup_by_name_id_or_prefix_prefers_live_workspaces() {
    let fixture = Fixture::new().await;
    let old = fixture.container("alpha").await;
    fixture.remove(old, minute(1)).await;
    let older = fixture.container("alpha").await;
    fixture.remove(older, minute(2)).await;
    let find = async |text: &str, scope| fixture.store.find_workspace(text.to_owned(), scope).await.unwrap();
    assert!(matches!(find("alpha", Scope::Live).await, Found::None(names) if names.is_empty()));
    assert!(matches!(find("alpha", Scope::Removed).await, Found::Many(all) if all.len() == 2));
    let live = fixture.container("alpha").await;
    for scope in [Scope::Live, Scope::Any] {
        assert!(matches!(find("alpha", scope).await, Found::One(row) if row.id == live));
    }
    assert!(matches!(find(&live.to_string(), Scope::Any).await, Found::One(row) if row.id == live));
    assert!(matches!(find(&live.to_string()[..4], Scope::Any).await, Found::Many(all) if all.len() == 3));
    assert!(matches!(find("nothing", Scope::Live).await, Found::None(names) if names == [name("alpha")]));
    assert!(matches!(find("%", Scope::Any).await, Found::None(_)), "`%` was treated as a wildcard");
    for longer_than_an_id in
        ["a-name-of-more-than-thirty-two-letters".to_owned(), "f".repeat(63), "0".repeat(40_000)]
    {
        let found = find(&longer_than_an_id, Scope::Any).await;
        assert!(matches!(found, Found::None(_)), "{longer_than_an_id}");
    }
}

#[tokio::test]
async fn edit_changes_only_the_given_fields() {
    let fixture = Fixture::new().await;
    let id = fixture.container("alpha").await;
    let edit = |has_work_volume| {
        fixture.store.edit_workspace(id, WorkspaceEdit { has_work_volume, ..WorkspaceEdit::default() })
    };
    edit(Some(true)).await.unwrap();
    edit(None).await.unwrap();
    assert!(fixture.row(id).await.has_work_volume);
    edit(Some(false)).await.unwrap();
    assert!(!fixture.row(id).await.has_work_volume);
}

#[tokio::test]
async fn writing_an_old_config_keeps_a_newer_one_pending() {
    let fixture = Fixture::new().await;
    let id = fixture.container("alpha").await;
    let change = async |text: &str| {
        let spec = SpecPatch { config: Some(text.into()), ..SpecPatch::default() };
        let patch = WorkspacePatch { spec, ..WorkspacePatch::default() };
        fixture.store.patch_workspace(id, patch, minute(1)).await.unwrap();
    };
    let written = async |text: &str| {
        let edit = WorkspaceEdit { config_written: Some(text.into()), ..WorkspaceEdit::default() };
        fixture.store.edit_workspace(id, edit).await.unwrap();
    };
    change("first").await;
    change("second").await;
    written("first").await;
    assert!(fixture.row(id).await.config_pending, "the newer config counts as written");
    written("second").await;
    assert!(!fixture.row(id).await.config_pending);
    change("second").await;
    assert!(fixture.row(id).await.config_pending, "the config is not pending after it was set again");
}

/// Generation of the registry.
async fn generation(fixture: &Fixture) -> i64 {
    fixture.store.registry().await.unwrap().unwrap().generation
}

#[tokio::test]
async fn generation_increases_with_commands_but_not_with_observations() {
    let fixture = Fixture::new().await;
    let mirror = Mirror::Directory(fixture.directory().to_owned());
    let record = MirrorRecord {
        instance: ostler::domain::ids::InstanceId(uuid()),
        generation: 0,
        engine_accepted: true,
        device: 0,
        inode: 0,
        born: None,
    };
    mirror.write(&record).unwrap();
    let mut last = 0;
    let mut raised = async |what: &str| {
        let now = generation(&fixture).await;
        assert!(now > last, "{what} left the generation at {now}");
        assert_eq!(mirror.read().unwrap().unwrap().generation, now, "{what} is not in the mirror");
        last = now;
    };
    let id = fixture.container("alpha").await;
    raised("a creation").await;
    fixture.start(id, T0).await.unwrap();
    raised("a start").await;
    fixture.store.pause_workspace(id, minute(1)).await.unwrap();
    raised("a pause").await;
    fixture.store.remove_workspace(id, false, false, minute(2)).await.unwrap();
    raised("a removal").await;
    fixture.store.undelete_workspace(id, None, false, minute(3)).await.unwrap();
    raised("an undelete").await;

    let before = generation(&fixture).await;
    let ready = StatusChange {
        workspace: id,
        cause: Cause::HeartbeatReceived,
        incarnation: None,
        detail: None,
        payload: json!({}),
        at: minute(4),
    };
    fixture.store.change_status(ready).await.unwrap();
    assert_eq!(generation(&fixture).await, before, "a heartbeat raised the generation");
}

#[tokio::test]
async fn change_is_rolled_back_when_the_mirror_cannot_be_written() {
    let fixture = Fixture::new().await;
    let mirror = Mirror::Directory(fixture.directory().to_owned());
    let record = MirrorRecord {
        instance: ostler::domain::ids::InstanceId(uuid()),
        generation: 0,
        engine_accepted: true,
        device: 0,
        inode: 0,
        born: None,
    };
    mirror.write(&record).unwrap();
    let id = fixture.container("alpha").await;
    let in_the_way = fixture.directory().join("instance.json.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let before = fixture.dump();
    let refused = fixture.store.pause_workspace(id, minute(1)).await.unwrap_err().to_string();
    assert!(refused.contains("mirror") && refused.contains("Nothing was changed"), "{refused}");
    assert_eq!(fixture.dump(), before, "a change was kept although its mirror could not be written");
    fixture.store.emit(T0, EventKind::ContainerStopped, None, json!({}), None).await.unwrap();
    std::fs::remove_dir(in_the_way).unwrap();
    fixture.store.pause_workspace(id, minute(1)).await.unwrap();
    assert_eq!(mirror.read().unwrap().unwrap().generation, generation(&fixture).await);
}

#[tokio::test]
async fn only_an_empty_registry_can_take_another_instance_id() {
    let fixture = Fixture::new().await;
    let other = ostler::domain::ids::InstanceId(uuid());
    assert_eq!(fixture.store.become_instance(other, T0).await, Ok(true));
    let registry = fixture.store.registry().await.unwrap().unwrap();
    assert_eq!((registry.instance, registry.recovering_since), (other, Some(T0)));
    fixture.container("alpha").await;
    let before = fixture.dump();
    assert_eq!(fixture.store.become_instance(ostler::domain::ids::InstanceId(uuid()), T0).await, Ok(false));
    assert_eq!(fixture.dump(), before);
}

#[tokio::test]
async fn recovery_begins_once_and_ends_once() {
    let fixture = Fixture::new().await;
    fixture.store.begin_recovery(minute(1), 9, "lost".into()).await.unwrap();
    fixture.store.begin_recovery(minute(2), 4, "lost".into()).await.unwrap();
    let registry = fixture.store.registry().await.unwrap().unwrap();
    assert_eq!((registry.recovering_since, registry.generation), (Some(minute(1)), 9));
    assert_eq!(fixture.store.end_recovery(minute(3), "decided".into()).await, Ok(true));
    let before = fixture.dump();
    assert_eq!(fixture.store.end_recovery(minute(4), "decided".into()).await, Ok(false));
    assert_eq!(fixture.dump(), before, "the end of a recovery was recorded twice");
}
