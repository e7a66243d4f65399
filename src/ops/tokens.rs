//! Tokens that people make and revoke.

use std::time::Duration;

use super::{OpError, OpResult, Ops};
use crate::{
    domain::{
        ids::{TokenId, WorkspaceId},
        status::Status,
        token::{Token, TokenKind, TokenRow},
    },
    store::{Bearer, DeadToken, Holder, NewApiToken},
};

/// The most live tokens a workspace may have (wire protocol, §5).
pub(super) const LIVE_TOKENS_MAX: u32 = 50;
/// How often the use of an instance token is written down besides beats.
const USE_NOTED_EVERY: Duration = Duration::from_secs(30);

impl Ops {
    /// Issues an api token. This is the only time it is in the clear.
    ///
    /// # Errors
    /// When the workspace is gone or has too many.
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
            "workspace `{}` has {LIVE_TOKENS_MAX} live tokens: revoke one first (`ostler token ls`)",
            row.name
        )))
    }

    /// A workspace's live tokens.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn tokens(&self, id: WorkspaceId) -> OpResult<Vec<TokenRow>> {
        Ok(self.0.store.live_tokens(id, self.0.clock.now()).await?)
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// When there is no such live token.
    pub async fn revoke_token(&self, id: WorkspaceId, token: TokenId) -> OpResult<()> {
        if self.0.store.revoke_token(id, token, self.0.clock.now()).await? {
            Ok(())
        } else {
            Err(OpError::NotFound(
                "this workspace has no such live token; `ostler token ls` shows them".into(),
            ))
        }
    }

    /// Whom a presented token speaks for, from memory. `None` is certain: for nobody.
    #[must_use]
    pub fn bearer(&self, presented: &str) -> Option<Bearer> {
        let token = Token::parse(presented)?;
        self.0.store.bearer(&token.digest(), self.0.clock.now())
    }

    /// Whether the use of a token is to be written down again. An instance token's is part of every beat, so others
    /// are noted rarely: well within the grace after which a token counts as stale.
    #[must_use]
    pub fn is_use_due(&self, holder: &Holder) -> bool {
        let now = self.0.clock.now();
        let Some(member) = self.0.store.member(holder.workspace) else { return false };
        match holder.kind {
            TokenKind::Instance => {
                member.said.token_used_at.is_none_or(|last| now.since(last) >= USE_NOTED_EVERY)
            }
            TokenKind::Api => holder.is_due(now),
        }
    }

    /// Writes down that a token was used.
    pub async fn note_token_use(&self, holder: Holder) {
        if let Err(error) = self.0.store.note_token_use(holder, self.0.clock.now()).await {
            tracing::warn!(workspace = %holder.workspace, %error, "the use of a token is not written down");
        }
    }

    /// The workspace whose token this was, where it is one no more.
    ///
    /// # Errors
    /// When the store cannot answer: the token may have been good, so this is never a refusal.
    pub async fn dead_token(&self, presented: &str) -> OpResult<Option<DeadToken>> {
        let Some(token) = Token::parse(presented) else { return Ok(None) };
        Ok(self.0.store.dead_token(token.digest()).await?)
    }

    /// The removed workspace whose token this was when it was removed.
    ///
    /// # Errors
    /// When the store cannot answer: the token may have been good, so this is never a refusal.
    pub async fn removed_holder(&self, presented: &str) -> OpResult<Option<WorkspaceId>> {
        let Some(token) = Token::parse(presented) else { return Ok(None) };
        Ok(self.0.store.removed_holder(token.digest()).await?)
    }

    /// Issues a token that may do everything. This is the only time it is in the clear.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn issue_admin_token(&self, name: String, valid_for: Option<Duration>) -> OpResult<Token> {
        let (now, token) = (self.0.clock.now(), self.0.entropy.token());
        let expires_at = valid_for.map(|time| now + time);
        self.0.store.issue_admin_token(self.0.issue(&token), name, expires_at, now).await?;
        Ok(token)
    }

    /// Revokes an admin token.
    ///
    /// # Errors
    /// When there is none of that id.
    pub async fn revoke_admin_token(&self, id: TokenId) -> OpResult<()> {
        if self.0.store.revoke_admin_token(id, self.0.clock.now()).await? {
            Ok(())
        } else {
            Err(OpError::NotFound(
                "there is no such admin token; `ostler token ls --admin` shows them".into(),
            ))
        }
    }
}
