//! Tokens that people make and revoke.

use std::time::Duration;

use super::{OpError, OpResult, Ops};
use crate::{
    domain::{
        ids::{TokenId, WorkspaceId},
        token::{Token, TokenKind, TokenRow},
    },
    store::{NewApiToken, Validity},
};

/// The most live tokens a workspace may have (wire protocol, §5).
pub(super) const LIVE_TOKENS_MAX: u32 = 50;

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
        Err(OpError::Conflict(format!(
            "workspace `{}` was removed or has {LIVE_TOKENS_MAX} live tokens: revoke one first (`ostler token ls`)",
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

    /// Whom a presented token speaks for, noting its use. `None` when it is not valid.
    ///
    /// # Errors
    /// When the store cannot answer: the token may be good, so this is never a refusal.
    pub async fn validate_token(&self, presented: &str) -> OpResult<Option<(WorkspaceId, TokenKind)>> {
        let Some(token) = Token::parse(presented) else { return Ok(None) };
        let now = self.0.clock.now();
        match self.0.store.validate_token(token.digest(), now).await? {
            Validity::Invalid => Ok(None),
            Validity::Valid(row) => {
                let (workspace, kind) = (row.workspace, row.kind);
                self.0.store.note_token_use(row, now).await?;
                Ok(Some((workspace, kind)))
            }
        }
    }
}
