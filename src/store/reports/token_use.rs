//! The time at which a workspace's token was last used.

use rusqlite::params;

use crate::{
    domain::{time::Timestamp, token::TokenKind},
    store::{
        Store, StoreResult, TokenOwner,
        lane::{Known, Tx},
    },
};

impl Store {
    /// Records the use of a workspace's token for a request other than a heartbeat.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn note_token_use(&self, token_owner: TokenOwner, at: Timestamp) -> StoreResult<()> {
        self.lanes
            .write("record token use", move |tx| {
                let known = tx.known(token_owner.workspace, &token_owner.digest, at)?;
                let Some(Known { member, holds: true }) = known else { return Ok(()) };
                match token_owner.kind {
                    TokenKind::Instance => {
                        tx.sql
                            .prepare_cached("UPDATE pulse SET token_used_at = ?2 WHERE workspace = ?1")?
                            .execute(params![member.key, at])?;
                        tx.touch(token_owner.workspace);
                        Ok(())
                    }
                    TokenKind::Api => note_api_use(tx, &token_owner, at),
                }
            })
            .await
    }
}

/// Records the use of an API token, at most every few minutes, because a row of `tokens` is wider than one of `pulse`.
pub(super) fn note_api_use(tx: &mut Tx<'_>, token_owner: &TokenOwner, at: Timestamp) -> StoreResult<()> {
    if token_owner.kind == TokenKind::Api && token_owner.is_due(at) {
        tx.sql
            .prepare_cached("UPDATE tokens SET last_used_at = ?2 WHERE id = ?1 AND revoked_at IS NULL")?
            .execute(params![token_owner.token, at])?;
        tx.touch(token_owner.workspace);
    }
    Ok(())
}
