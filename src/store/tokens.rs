//! Workspace tokens: issue, lookup and revocation. The store keeps only digests, never the tokens themselves.

use rusqlite::{OptionalExtension, Row, params};
use serde_json::json;

use super::{Store, StoreResult, lane::Tx, row};
use crate::domain::{
    event::EventKind,
    ids::{Incarnation, TokenId, WorkspaceId},
    time::Timestamp,
    token::{TokenDigest, TokenKind, TokenRow},
};
use crate::testing::mutation::{Mutation, is};

/// Data of an issued token that the store keeps.
#[derive(Clone, Debug)]
pub struct TokenIssue {
    /// Id of the token's row; not secret.
    pub id: TokenId,
    /// Digest by which a presented token is found.
    pub digest: TokenDigest,
    /// The token's first characters, which may be shown.
    pub prefix: String,
}

/// API token to issue.
#[derive(Clone, Debug)]
pub struct NewApiToken {
    /// Id, digest and prefix.
    pub token: TokenIssue,
    /// The token is invalid from this time on; `None` means that it does not expire.
    pub expires_at: Option<Timestamp>,
}

/// Conditions under which the stale-token sweep revokes tokens. A single UPDATE checks all of them.
#[derive(Clone, Copy, Debug)]
pub struct StaleTokens {
    /// Workspace whose container has been absent for the grace period.
    pub workspace: WorkspaceId,
    /// Tokens issued or used at this time or later are not stale.
    pub older_than: Timestamp,
    /// For the mutation tests only: omits the age condition.
    #[doc(hidden)]
    pub without_age: bool,
}

/// Statuses in which a workspace's instance tokens may be stale. Removed workspaces have no valid instance token, and a
/// provisioning workspace gets a new one or has just got it.
pub(super) const STALE_STATUSES: &str =
    "('online', 'degraded', 'offline', 'failed', 'paused', 'hibernating', 'hibernated')";

const COLUMNS: &str = "t.id, w.id, t.kind, t.incarnation, t.prefix, t.created_at, \
     CASE t.kind WHEN 'instance' THEN COALESCE(t.last_used_at, p.token_used_at) ELSE t.last_used_at END, \
     t.expires_at, t.revoked_at";

fn token(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    let kind: String = row.get(2)?;
    Ok(TokenRow {
        id: row.get(0)?,
        workspace: row.get(1)?,
        kind: row::word("kind", &kind, TokenKind::ALL.into_iter().find(|k| k.as_str() == kind))?,
        incarnation: row.get(3)?,
        prefix: row.get(4)?,
        created_at: row.get(5)?,
        last_used_at: row.get(6)?,
        expires_at: row.get(7)?,
        revoked_at: row.get(8)?,
    })
}

/// Issues the instance token of a new incarnation and revokes the older ones, in the transaction that begins the
/// incarnation. So a workspace never has two valid instance tokens.
pub(super) fn rotate_instance_token(
    tx: &Tx<'_>,
    workspace: WorkspaceId,
    incarnation: Incarnation,
    issue: &TokenIssue,
    at: Timestamp,
) -> StoreResult<()> {
    if !is(Mutation::KeepOlderTokens) {
        revoke_instance_tokens(tx, workspace, at)?;
    }
    tx.sql
        .prepare_cached(
            "INSERT INTO tokens (id, workspace, kind, incarnation, digest, prefix, created_at)
             SELECT ?1, key, 'instance', ?3, ?4, ?5, ?6 FROM workspaces WHERE id = ?2",
        )?
        .execute(params![issue.id, workspace, incarnation, issue.digest.0, issue.prefix, at])?;
    tx.sql
        .prepare_cached(
            "INSERT INTO pulse (workspace, token_used_at, last_activity_at)
             SELECT key, NULL, ?2 FROM workspaces WHERE id = ?1
             ON CONFLICT (workspace) DO UPDATE SET token_used_at = NULL, last_activity_at = ?2",
        )?
        .execute(params![workspace, at])?;
    Ok(())
}

/// State of the token found in the volume of an adopted container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldToken {
    /// The token is now the workspace's valid instance token.
    Live,
    /// The token is not valid: it was revoked, or issued for another workspace.
    Refused,
    /// The volume contains no token.
    NotFound,
}

impl HeldToken {
    /// Returns the word used in the event.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Live => "taken over",
            Self::Refused => "refused",
            Self::NotFound => "none found",
        }
    }
}

/// Makes `held`, the token that the container's process uses, the valid instance token of an incarnation. A token that
/// was revoked, or issued for another workspace, stays invalid.
pub(super) fn take_token(
    tx: &Tx<'_>,
    workspace: WorkspaceId,
    incarnation: Incarnation,
    held: Option<&TokenIssue>,
    at: Timestamp,
) -> StoreResult<HeldToken> {
    let Some(held) = held else { return Ok(HeldToken::NotFound) };
    let kept = tx
        .sql
        .prepare_cached(
            "UPDATE tokens SET incarnation = ?3
             WHERE digest = ?2 AND kind = 'instance' AND revoked_at IS NULL
               AND workspace = (SELECT key FROM workspaces WHERE id = ?1)",
        )?
        .execute(params![workspace, held.digest.0, incarnation])?;
    if kept > 0 {
        return Ok(HeldToken::Live);
    }
    let known: bool = tx
        .sql
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM tokens WHERE digest = ?1)")?
        .query_row([held.digest.0], |row| row.get(0))?;
    if known {
        return Ok(HeldToken::Refused);
    }
    rotate_instance_token(tx, workspace, incarnation, held, at)?;
    Ok(HeldToken::Live)
}

/// Revokes every valid instance token of a workspace; returns how many there were.
pub(super) fn revoke_instance_tokens(
    tx: &Tx<'_>,
    workspace: WorkspaceId,
    at: Timestamp,
) -> StoreResult<usize> {
    Ok(tx
        .sql
        .prepare_cached(
            "UPDATE tokens SET revoked_at = ?2
             WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1)
               AND kind = 'instance' AND revoked_at IS NULL",
        )?
        .execute(params![workspace, at])?)
}

/// Token that authenticates no workspace any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidToken {
    /// Workspace that the token was issued for.
    pub workspace: WorkspaceId,
    /// `true` if the token was valid until the workspace was removed. Otherwise the workspace is live, and the token
    /// was revoked or has expired.
    pub removed: bool,
}

impl Store {
    /// Returns the workspace that a token was issued for. To be called only for a token that is no longer valid.
    ///
    /// # Errors
    /// When the store cannot answer; this does not mean that the token is unknown.
    pub async fn invalid_token(&self, digest: TokenDigest) -> StoreResult<Option<InvalidToken>> {
        self.lanes
            .read("invalid token", move |sql| {
                let mut query = sql.prepare_cached(
                    "SELECT w.id, w.status = 'removed' FROM tokens t JOIN workspaces w ON w.key = t.workspace
                     WHERE t.digest = ?1
                       AND (w.status <> 'removed' OR t.revoked_at IS NULL OR t.revoked_at >= w.removed_at)",
                )?;
                let dead = |row: &Row<'_>| Ok(InvalidToken { workspace: row.get(0)?, removed: row.get(1)? });
                Ok(query.query_row([digest.0], dead).optional()?)
            })
            .await
    }

    /// Returns the removed workspace for which a token was valid until the removal. To be called only for a token that
    /// is not valid, to answer that its workspace is gone instead of that the token is unknown.
    ///
    /// # Errors
    /// When the store cannot answer; this does not mean that the token is unknown.
    pub async fn removed_token_owner(&self, digest: TokenDigest) -> StoreResult<Option<WorkspaceId>> {
        self.lanes
            .read("removed token owner", move |sql| {
                let mut query = sql.prepare_cached(
                    "SELECT w.id FROM tokens t JOIN workspaces w ON w.key = t.workspace
                     WHERE t.digest = ?1 AND w.status = 'removed'
                       AND (t.revoked_at IS NULL OR t.revoked_at >= w.removed_at)",
                )?;
                Ok(query.query_row([digest.0], |row| row.get(0)).optional()?)
            })
            .await
    }

    /// Issues an API token; `false` if the workspace is gone or already has `most` valid tokens.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn issue_api_token(
        &self,
        workspace: WorkspaceId,
        new: NewApiToken,
        most: u32,
        at: Timestamp,
    ) -> StoreResult<bool> {
        self.lanes
            .write("issue api token", move |tx| {
                let issued = tx
                    .sql
                    .prepare_cached(
                        "INSERT INTO tokens (id, workspace, kind, digest, prefix, created_at, expires_at)
                         SELECT ?1, key, 'api', ?3, ?4, ?5, ?6 FROM workspaces
                         WHERE id = ?2 AND status <> 'removed' AND ?7 >
                           (SELECT count(*) FROM tokens t WHERE t.workspace = workspaces.key
                              AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > ?5))",
                    )?
                    .execute(params![
                        new.token.id,
                        workspace,
                        new.token.digest.0,
                        new.token.prefix,
                        at,
                        new.expires_at,
                        most
                    ])?;
                if issued > 0 {
                    tx.raise()?;
                    let payload = json!({ "token_id": new.token.id, "prefix": new.token.prefix });
                    tx.emit(at, EventKind::TokenIssued, Some(workspace), payload, None)?;
                }
                Ok(issued > 0)
            })
            .await
    }

    /// Makes a token that a running process holds, and that has no row in this registry, the valid instance token of
    /// its workspace.
    ///
    /// Returns `false` if the token has a row (a revoked token stays revoked), or if the workspace's row has another
    /// incarnation or is removed.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn take_token_over(
        &self,
        workspace: WorkspaceId,
        incarnation: Incarnation,
        held: TokenIssue,
        at: Timestamp,
    ) -> StoreResult<bool> {
        self.lanes
            .write("take over token", move |tx| {
                let unreported: bool = tx
                    .sql
                    .prepare_cached(
                        "SELECT EXISTS (SELECT 1 FROM workspaces
                                        WHERE id = ?1 AND incarnation = ?2 AND status <> 'removed')
                            AND NOT EXISTS (SELECT 1 FROM tokens WHERE digest = ?3)",
                    )?
                    .query_row(params![workspace, incarnation, held.digest.0], |row| row.get(0))?;
                if unreported {
                    tx.raise()?;
                    rotate_instance_token(tx, workspace, incarnation, &held, at)?;
                    let payload = json!({
                        "token_id": held.id,
                        "prefix": held.prefix,
                        "evidence": "the registry was restored, and the running agent uses this token",
                    });
                    tx.emit(at, EventKind::TokenIssued, Some(workspace), payload, None)?;
                }
                Ok(unreported)
            })
            .await
    }

    /// Returns a workspace's valid tokens, oldest first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn live_tokens(&self, workspace: WorkspaceId, now: Timestamp) -> StoreResult<Vec<TokenRow>> {
        self.lanes
            .read("valid tokens", move |sql| {
                let mut query = sql.prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM tokens t JOIN workspaces w ON w.key = t.workspace
                     LEFT JOIN pulse p ON p.workspace = w.key
                     WHERE t.workspace = (SELECT key FROM workspaces WHERE id = ?1) AND t.revoked_at IS NULL
                       AND (t.expires_at IS NULL OR t.expires_at > ?2) ORDER BY t.created_at, t.id"
                ))?;
                Ok(query.query_map(params![workspace, now], token)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Revokes a valid token of a workspace on behalf of an operator. Returns whether there was one.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn revoke_token(
        &self,
        workspace: WorkspaceId,
        token: TokenId,
        at: Timestamp,
    ) -> StoreResult<bool> {
        self.lanes
            .write("revoke token", move |tx| {
                let prefix: Option<String> = tx
                    .sql
                    .prepare_cached(
                        "UPDATE tokens SET revoked_at = ?3 WHERE id = ?2 AND revoked_at IS NULL
                           AND workspace = (SELECT key FROM workspaces WHERE id = ?1) RETURNING prefix",
                    )?
                    .query_row(params![workspace, token, at], |row| row.get(0))
                    .optional()?;
                if let Some(prefix) = &prefix {
                    tx.raise()?;
                    let payload = json!({ "token_id": token, "prefix": prefix });
                    tx.emit(at, EventKind::TokenRevoked, Some(workspace), payload, None)?;
                }
                Ok(prefix.is_some())
            })
            .await
    }

    /// Revokes the stale instance tokens of a workspace, and returns their incarnations.
    ///
    /// One UPDATE checks every condition, so a token that was issued or used after the listing was read is never
    /// revoked.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn revoke_stale_tokens(
        &self,
        stale: StaleTokens,
        evidence: String,
        pass: &'static str,
        at: Timestamp,
    ) -> StoreResult<Vec<Incarnation>> {
        self.lanes
            .write("revoke stale tokens", move |tx| {
                let age = if stale.without_age || is(Mutation::RevokeWithoutAge) {
                    "?2 IS NOT NULL"
                } else {
                    "created_at < ?2 AND NOT EXISTS (SELECT 1 FROM pulse p
                        WHERE p.workspace = tokens.workspace AND p.token_used_at >= ?2)"
                };
                let kind = if is(Mutation::RevokeAnyKind) { "TRUE" } else { "kind = 'instance'" };
                let revoked = tx
                    .sql
                    .prepare_cached(&format!(
                        "UPDATE tokens SET revoked_at = ?3
                         WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1
                                              AND kind = 'container' AND status IN {STALE_STATUSES})
                           AND {kind} AND revoked_at IS NULL AND {age}
                         RETURNING incarnation"
                    ))?
                    .query_map(params![stale.workspace, stale.older_than, at], |row| row.get(0))?
                    .collect::<Result<Vec<Incarnation>, _>>()?;
                if !revoked.is_empty() {
                    let payload = json!({ "incarnations": revoked, "evidence": evidence });
                    tx.emit(at, EventKind::TokensRevoked, Some(stale.workspace), payload, Some(pass))?;
                }
                Ok(revoked)
            })
            .await
    }
}
