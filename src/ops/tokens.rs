//! Tokens that operators issue and revoke.

use std::time::Duration;

use super::{OpError, OpResult, Ops};
use crate::{
    domain::{
        ids::{TokenId, WorkspaceId},
        status::Status,
        token::{Token, TokenKind, TokenRow},
    },
    store::{InvalidToken, NewApiToken, TokenOwner, TokenSubject},
};

/// The maximum number of valid tokens of a workspace (wire protocol, §5).
pub(super) const LIVE_TOKENS_MAX: u32 = 50;
/// Minimum time after which the use of an instance token is recorded again. Heartbeats are not subject to it: each one
/// records a use.
const USE_NOTED_EVERY: Duration = Duration::from_secs(30);

impl Ops {
    /// Issues an API token. This is the only time its text is available.
    ///
    /// # Errors
    /// If the workspace is gone or has too many tokens.
    pub async fn issue_token(&self, id: WorkspaceId, valid_for: Option<Duration>) -> OpResult<Token> {
        let (now, token) = (self.0.clock.now(), self.0.entropy.token());
        let new = NewApiToken { token: self.0.issue(&token), expires_at: valid_for.map(|time| now + time) };
        if self.0.store.issue_api_token(id, new, LIVE_TOKENS_MAX, now).await? {
            return Ok(token);
        }
        let row = self.0.row(id).await?;
        if row.status == Status::Removed {
            return Err(OpError::Conflict(format!("workspace `{}` was removed", row.name)));
        }
        Err(OpError::TooManyTokens(format!(
            "workspace `{}` has {LIVE_TOKENS_MAX} valid tokens: revoke one first (`ostler token ls`)",
            row.name
        )))
    }

    /// A workspace's valid tokens.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn tokens(&self, id: WorkspaceId) -> OpResult<Vec<TokenRow>> {
        Ok(self.0.store.live_tokens(id, self.0.clock.now()).await?)
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// If the workspace has no such valid token.
    pub async fn revoke_token(&self, id: WorkspaceId, token: TokenId) -> OpResult<()> {
        if self.0.store.revoke_token(id, token, self.0.clock.now()).await? {
            Ok(())
        } else {
            Err(OpError::NotFound(
                "this workspace has no such valid token; `ostler token ls` lists its tokens".into(),
            ))
        }
    }

    /// The principal that a presented token authenticates, from memory. `None` means that the token is certainly not
    /// valid.
    #[must_use]
    pub fn token_subject(&self, presented: &str) -> Option<TokenSubject> {
        let token = Token::parse(presented)?;
        self.0.store.token_subject(&token.digest(), self.0.clock.now())
    }

    /// Whether the use of a token is to be recorded again. Each heartbeat records the use of an instance token, so
    /// other uses are recorded less often. The interval is much shorter than the grace period after which a token
    /// counts as stale.
    #[must_use]
    pub fn is_use_due(&self, token_owner: &TokenOwner) -> bool {
        let now = self.0.clock.now();
        let Some(member) = self.0.store.member(token_owner.workspace) else { return false };
        match token_owner.kind {
            TokenKind::Instance => {
                member.last_report.token_used_at.is_none_or(|last| now.since(last) >= USE_NOTED_EVERY)
            }
            TokenKind::Api => token_owner.is_due(now),
        }
    }

    /// Records that a token was used.
    pub async fn note_token_use(&self, token_owner: TokenOwner) {
        if let Err(error) = self.0.store.note_token_use(token_owner, self.0.clock.now()).await {
            tracing::warn!(workspace = %token_owner.workspace, %error, "use of a token could not be recorded");
        }
    }

    /// The workspace that a token belonged to, if the token is no longer valid.
    ///
    /// # Errors
    /// If the store fails. The caller must then not refuse the token, because it may be valid.
    pub async fn invalid_token(&self, presented: &str) -> OpResult<Option<InvalidToken>> {
        let Some(token) = Token::parse(presented) else { return Ok(None) };
        Ok(self.0.store.invalid_token(token.digest()).await?)
    }

    /// The removed workspace that owned this token when it was removed.
    ///
    /// # Errors
    /// If the store fails. The caller must then not refuse the token, because it may be valid.
    pub async fn removed_token_owner(&self, presented: &str) -> OpResult<Option<WorkspaceId>> {
        let Some(token) = Token::parse(presented) else { return Ok(None) };
        Ok(self.0.store.removed_token_owner(token.digest()).await?)
    }

    /// Issues an admin token, which allows everything. This is the only time its text is available.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn issue_admin_token(&self, name: String, valid_for: Option<Duration>) -> OpResult<Token> {
        let (now, token) = (self.0.clock.now(), self.0.entropy.token());
        let expires_at = valid_for.map(|time| now + time);
        self.0.store.issue_admin_token(self.0.issue(&token), name, expires_at, now).await?;
        Ok(token)
    }

    /// Revokes an admin token.
    ///
    /// # Errors
    /// If there is no valid admin token with that id.
    pub async fn revoke_admin_token(&self, id: TokenId) -> OpResult<()> {
        if self.0.store.revoke_admin_token(id, self.0.clock.now()).await? {
            Ok(())
        } else {
            Err(OpError::NotFound(
                "there is no such admin token; `ostler token ls --admin` lists them".into(),
            ))
        }
    }
}
