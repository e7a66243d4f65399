//! Tokens: authentication, and which tokens a sweep may revoke.

use ostler::{
    domain::{
        event::EventKind,
        heartbeat::Heartbeat,
        ids::{Incarnation, TokenId, WorkspaceId},
        status::Status,
        time::Timestamp,
        token::{Token, TokenKind, TokenRow},
        workspace::Kind,
    },
    store::{
        NewApiToken, NewWorkspace, Registration, RemoveResult, ReportResult, StaleTokens, TokenIssue,
        TokenOwner, TokenSubject,
    },
};

use super::{Fixture, T0, commits::while_held, digest, minute, new_workspace, submit, token, uuid};

/// Tokens created or used at or after this minute are not stale.
const OLDER_THAN: i64 = 10;

impl Fixture {
    async fn valid(&self, token: &Token, at: Timestamp) -> Option<TokenRow> {
        let token_owner = self.token_owner(token, at)?;
        let live = self.store.live_tokens(token_owner.workspace, at).await.unwrap();
        Some(
            live.into_iter()
                .find(|row| row.id == token_owner.token)
                .expect("a token in memory is also in the table"),
        )
    }

    fn token_owner(&self, token: &Token, at: Timestamp) -> Option<TokenOwner> {
        match self.store.token_subject(&digest(token), at)? {
            TokenSubject::Workspace(token_owner) => Some(token_owner),
            TokenSubject::Admin => panic!("the token is an admin token"),
        }
    }

    async fn api_token(&self, workspace: WorkspaceId, expires_at: Option<Timestamp>) -> (Token, TokenId) {
        let (token, issue) = token();
        let id = issue.id;
        let new = NewApiToken { token: issue, expires_at };
        assert!(self.store.issue_api_token(workspace, new, 50, T0).await.unwrap());
        (token, id)
    }

    async fn sweep(&self, workspace: WorkspaceId) -> Vec<Incarnation> {
        let stale = StaleTokens { workspace, older_than: minute(OLDER_THAN), without_age: false };
        self.store
            .revoke_stale_tokens(stale, "its container is gone".into(), "pass", minute(20))
            .await
            .unwrap()
    }

    async fn candidates(&self, listed: Vec<WorkspaceId>) -> Vec<WorkspaceId> {
        let found = self.store.stale_candidates(listed, minute(OLDER_THAN)).await.unwrap();
        found.into_iter().map(|candidate| candidate.workspace).collect()
    }
}

#[tokio::test]
async fn token_is_valid_until_expiry_revocation_or_removal() {
    let fixture = Fixture::new().await;
    let (id, instance) = fixture.online("alpha", T0).await;
    let (api, api_id) = fixture.api_token(id, Some(minute(5))).await;
    let row = fixture.valid(&instance, T0).await.unwrap();
    assert_eq!((row.workspace, row.kind, row.incarnation), (id, TokenKind::Instance, Some(Incarnation(1))));
    let row = fixture.valid(&api, minute(4)).await.unwrap();
    assert_eq!((row.workspace, row.kind, row.incarnation), (id, TokenKind::Api, None));
    assert!(fixture.valid(&api, minute(5)).await.is_none(), "the token was valid at its expiry time");
    assert!(fixture.valid(&token().0, T0).await.is_none(), "a token that was not issued was valid");

    let (other, _) = fixture.online("beta", T0).await;
    assert_eq!(
        fixture.store.revoke_token(other, api_id, minute(1)).await,
        Ok(false),
        "a token of another workspace was revoked"
    );
    assert_eq!(fixture.store.revoke_token(id, api_id, minute(1)).await, Ok(true));
    assert!(fixture.valid(&api, minute(2)).await.is_none());
    assert_eq!(
        fixture.store.revoke_token(id, api_id, minute(1)).await,
        Ok(false),
        "the token was revoked twice"
    );

    let (kept, _) = fixture.api_token(id, None).await;
    fixture.remove(id, minute(3)).await;
    assert!(
        fixture.valid(&instance, minute(3)).await.is_none()
            && fixture.valid(&kept, minute(3)).await.is_none()
    );
    fixture.store.undelete_workspace(id, None, false, minute(4)).await.unwrap();
    assert!(
        fixture.valid(&kept, minute(4)).await.is_some(),
        "an undelete restores tokens that an operator issued"
    );
    assert!(fixture.valid(&instance, minute(4)).await.is_none(), "an undelete restored an instance token");
}

#[tokio::test]
async fn start_leaves_exactly_one_live_instance_token() {
    let fixture = Fixture::new().await;
    let id = fixture.container("alpha").await;
    let mut earlier: Vec<Token> = Vec::new();
    for start in 1..=4_u32 {
        let (begun, token) = fixture.start(id, minute(start.into())).await.unwrap();
        let live = fixture.store.live_tokens(id, minute(start.into())).await.unwrap();
        assert_eq!(live.len(), 1, "{live:?}");
        assert_eq!(live[0].incarnation, Some(begun.incarnation));
        assert!(fixture.valid(&token, minute(9)).await.is_some());
        for old in &earlier {
            assert!(
                fixture.valid(old, minute(9)).await.is_none(),
                "a token of an older incarnation is valid"
            );
        }
        earlier.push(token);
    }
}

#[tokio::test]
async fn sweep_revokes_old_instance_tokens_and_emits_an_event() {
    let fixture = Fixture::new().await;
    let (id, token) = fixture.online("alpha", T0).await;
    assert_eq!(fixture.candidates(vec![]).await, [id]);
    assert!(fixture.candidates(vec![id]).await.is_empty(), "a listed workspace is a candidate");
    assert_eq!(fixture.sweep(id).await, [Incarnation(1)]);
    assert!(fixture.valid(&token, minute(20)).await.is_none());
    let events = fixture.events().await;
    let (_, kind, of) = events.last().unwrap();
    assert_eq!((kind.as_str(), *of), (EventKind::TokensRevoked.as_str(), Some(id)));
    assert_eq!(fixture.store.swept_since(minute(19)).await, Ok(vec![id]), "the breaker does not count it");
    let before = fixture.dump();
    assert!(fixture.sweep(id).await.is_empty(), "the second run revoked something");
    assert_eq!(fixture.dump(), before);
}

#[tokio::test]
async fn sweep_revokes_tokens_in_exactly_the_stale_statuses() {
    let fixture = Fixture::new().await;
    let stale = |status| match status {
        Status::Provisioning | Status::AwaitingAgent | Status::Removed => false,
        Status::Online
        | Status::Degraded
        | Status::Offline
        | Status::Failed(_)
        | Status::Paused
        | Status::Hibernating
        | Status::Hibernated => true,
    };
    for (number, status) in Status::ALL.into_iter().enumerate() {
        let (id, _) = fixture.online(&format!("w{number}"), T0).await;
        fixture.force(id, status);
        assert_eq!(fixture.candidates(vec![]).await.contains(&id), stale(status), "{status} as a candidate");
        assert_eq!(!fixture.sweep(id).await.is_empty(), stale(status), "{status} revoked");
    }
}

#[tokio::test]
async fn sweep_never_revokes_api_tokens_or_external_tokens() {
    let fixture = Fixture::new().await;
    let (id, instance) = fixture.online("alpha", T0).await;
    let (api, _) = fixture.api_token(id, None).await;
    fixture.sweep(id).await;
    assert!(fixture.valid(&instance, minute(20)).await.is_none());
    assert!(fixture.valid(&api, minute(20)).await.is_some(), "a sweep revoked an api token");

    let (held, issue) = token();
    let mut new = NewWorkspace { token: Some(issue), ..new_workspace("outside", Kind::External) };
    new.spec.url = Some("http://192.0.2.1:9".into());
    let outside = fixture.create(new, T0).await;
    // The sweep must not revoke an instance token of an external workspace either, although the store never issues one.
    let (also, issue) = token();
    let written = fixture.side().execute(
        "INSERT INTO tokens (id, workspace, kind, incarnation, digest, prefix, created_at)
         SELECT ?1, key, 'instance', 1, ?2, 'x', ?3 FROM workspaces WHERE id = ?4",
        rusqlite::params![issue.id.0.as_bytes(), issue.digest.0, T0.0, outside.0.as_bytes()],
    );
    assert_eq!(written, Ok(1));
    assert!(!fixture.candidates(vec![]).await.contains(&outside));
    assert!(fixture.sweep(outside).await.is_empty());
    assert!(fixture.valid(&held, minute(20)).await.is_some());
    // The token was inserted without the store and is missing in the store's memory, so the table is queried.
    let left = fixture.side().query_row(
        "SELECT count(*) FROM tokens WHERE digest = ?1 AND revoked_at IS NULL",
        [digest(&also).0],
        |row| row.get(0),
    );
    assert_eq!(left, Ok(1));
}

#[tokio::test]
async fn token_used_or_issued_within_the_grace_period_is_not_stale() {
    let fixture = Fixture::new().await;
    let (used, token) = fixture.online("used", T0).await;
    let token_owner = fixture.token_owner(&token, T0).unwrap();
    fixture.store.note_token_use(token_owner, minute(OLDER_THAN)).await.unwrap();
    assert!(fixture.candidates(vec![]).await.is_empty());
    assert!(fixture.sweep(used).await.is_empty(), "a token used at the limit was revoked");
    fixture.store.note_token_use(token_owner, Timestamp(minute(OLDER_THAN).0 - 1)).await.unwrap();
    assert_eq!(fixture.sweep(used).await, [Incarnation(1)], "the last use was before the limit");

    let (issued, _) = fixture.online("issued", minute(OLDER_THAN)).await;
    assert!(fixture.sweep(issued).await.is_empty(), "a token issued at the limit was revoked");
}

#[tokio::test]
async fn token_of_a_start_between_listing_and_sweep_stays_valid() {
    let fixture = Fixture::new().await;
    let (id, _) = fixture.online("alpha", T0).await;
    assert_eq!(fixture.candidates(vec![]).await, [id]);
    fixture.force(id, Status::Offline);
    let (_, token) = fixture.start(id, minute(OLDER_THAN + 1)).await.unwrap();
    for status in [Status::Provisioning, Status::Online] {
        fixture.force(id, status);
        assert!(fixture.sweep(id).await.is_empty());
        assert!(
            fixture.valid(&token, minute(20)).await.is_some(),
            "a restart's token was revoked by an old listing"
        );
    }
}

#[tokio::test]
async fn token_takeover_requires_unknown_token_and_current_incarnation() {
    let fixture = Fixture::new().await;
    let (id, first) = fixture.online("alpha", T0).await;
    let (held, issue) = token();
    let take = |issue, incarnation| fixture.store.take_token_over(id, incarnation, issue, minute(1));
    let before = fixture.dump();
    assert_eq!(take(issue.clone(), Incarnation(2)).await, Ok(false), "the row is of another incarnation");
    assert_eq!(fixture.dump(), before);

    assert_eq!(take(issue.clone(), Incarnation(1)).await, Ok(true));
    assert!(fixture.valid(&held, minute(2)).await.is_some());
    assert!(fixture.valid(&first, minute(2)).await.is_none(), "two instance tokens are live");

    let known = TokenIssue { id: TokenId(uuid()), digest: digest(&first), prefix: first.prefix() };
    let before = fixture.dump();
    assert_eq!(take(known, Incarnation(1)).await, Ok(false), "a revoked token became valid again");
    assert_eq!(fixture.dump(), before);

    fixture.remove(id, minute(3)).await;
    assert_eq!(take(token().1, Incarnation(1)).await, Ok(false), "a removed row got a token");
}

#[tokio::test]
async fn use_of_an_old_token_does_not_count_for_the_new_one() {
    let fixture = Fixture::new().await;
    let (id, first) = fixture.online("alpha", T0).await;
    let old = fixture.token_owner(&first, T0).unwrap();
    fixture.start(id, minute(1)).await.unwrap();
    fixture.store.note_token_use(old, minute(15)).await.unwrap();
    fixture.force(id, Status::Online);
    assert_eq!(fixture.sweep(id).await, [Incarnation(2)]);
}

/// A token that was valid when the request arrived must still be valid when the heartbeat is written.
#[tokio::test]
async fn heartbeat_is_refused_if_its_token_was_revoked_meanwhile() {
    let fixture = Fixture::new().await;
    let (id, first) = fixture.online("alpha", T0).await;
    let old = fixture.token_owner(&first, T0).unwrap();
    fixture.force(id, Status::Offline);
    fixture.start(id, minute(1)).await.unwrap();
    let before = fixture.dump();
    assert_eq!(
        fixture.store.record_heartbeat(old, Heartbeat::default(), minute(2)).await,
        Ok(ReportResult::Unauthorized)
    );
    let registration = Registration { card: Some(serde_json::json!({})), ..Registration::default() };
    assert_eq!(
        fixture.store.record_registration(old, registration, minute(2)).await,
        Ok(ReportResult::Unauthorized)
    );
    assert_eq!(
        fixture.store.note_card(old, serde_json::json!({}), minute(2)).await,
        Ok(ReportResult::Unauthorized)
    );
    assert_eq!(fixture.dump(), before, "a heartbeat of the previous incarnation was recorded");
}

#[tokio::test]
async fn heartbeat_after_token_revocation_in_same_commit_is_refused() {
    let fixture = Fixture::new().await;
    let (id, _) = fixture.online("alpha", T0).await;
    let (api, api_id) = fixture.api_token(id, None).await;
    let token_owner = fixture.token_owner(&api, T0).unwrap();
    let (gone, held) = fixture.online("beta", T0).await;
    let held = fixture.token_owner(&held, T0).unwrap();
    let (revoked, refused, removed, too_late) = while_held(&fixture, || {
        (
            submit(fixture.store.revoke_token(id, api_id, minute(1))),
            submit(fixture.store.record_heartbeat(token_owner, Heartbeat::default(), minute(1))),
            submit(fixture.store.remove_workspace(gone, false, false, minute(1))),
            submit(fixture.store.record_heartbeat(held, Heartbeat::default(), minute(1))),
        )
    });
    assert_eq!(revoked.await, Ok(true));
    assert_eq!(refused.await, Ok(ReportResult::Unauthorized));
    assert!(matches!(removed.await, Ok(RemoveResult::Removed { .. })));
    assert_eq!(too_late.await, Ok(ReportResult::Gone));
}

#[tokio::test]
async fn api_token_use_is_written_at_most_every_five_minutes() {
    let fixture = Fixture::new().await;
    let (id, _) = fixture.online("alpha", T0).await;
    let (api, _) = fixture.api_token(id, None).await;
    let mut seen = Vec::new();
    for at in [1, 2, 6, 7, 12] {
        let token_owner = fixture.token_owner(&api, T0).unwrap();
        fixture.store.note_token_use(token_owner, minute(at)).await.unwrap();
        seen.push(fixture.valid(&api, minute(at)).await.unwrap().last_used_at.unwrap());
    }
    assert_eq!(seen, [1, 1, 6, 6, 12].map(minute));
}

#[tokio::test]
async fn token_count_is_limited_and_removed_workspaces_get_none() {
    let fixture = Fixture::new().await;
    let (id, _) = fixture.online("alpha", T0).await;
    let issue = async |expires_at, at| {
        let new = NewApiToken { token: token().1, expires_at };
        fixture.store.issue_api_token(id, new, 3, at).await.unwrap()
    };
    assert!(issue(Some(minute(5)), T0).await);
    assert!(issue(None, T0).await);
    assert!(!issue(None, T0).await, "a fourth valid token was issued, counting the instance token");
    assert!(issue(None, minute(6)).await, "an expired token does not count");
    fixture.remove(id, minute(7)).await;
    let before = fixture.dump();
    assert!(!issue(None, minute(8)).await);
    assert_eq!(fixture.dump(), before);
    let orphan = NewApiToken { token: token().1, expires_at: None };
    assert_eq!(fixture.store.issue_api_token(WorkspaceId(uuid()), orphan, 3, T0).await, Ok(false));
}
