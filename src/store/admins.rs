//! Admin tokens. They grant all permissions to clients that do not use the local socket.

use rusqlite::params;
use serde_json::json;

use super::{Store, StoreResult, TokenIssue};
use crate::domain::{event::EventKind, ids::TokenId, time::Timestamp};

/// An admin token in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminToken {
    /// Id of the row; not secret.
    pub id: TokenId,
    /// Purpose, in the words of the operator who issued it.
    pub name: String,
    /// The token's first characters, which may be shown.
    pub prefix: String,
    /// Time of issue.
    pub created_at: Timestamp,
    /// The token is invalid from this time on; `None` means that it does not expire.
    pub expires_at: Option<Timestamp>,
}

impl Store {
    /// Issues an admin token, and emits an event.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn issue_admin_token(
        &self,
        token: TokenIssue,
        name: String,
        expires_at: Option<Timestamp>,
        at: Timestamp,
    ) -> StoreResult<()> {
        self.lanes
            .write("issue admin token", move |tx| {
                tx.sql
                    .prepare_cached(
                        "INSERT INTO admin_tokens (id, name, digest, prefix, created_at, expires_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    )?
                    .execute(params![token.id, name, token.digest.0, token.prefix, at, expires_at])?;
                tx.touch_admins();
                tx.raise()?;
                let payload = json!({ "token_id": token.id, "prefix": token.prefix, "name": name });
                tx.emit(at, EventKind::AdminTokenIssued, None, payload, None)
            })
            .await
    }

    /// Returns the admin tokens, oldest first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn admin_tokens(&self) -> StoreResult<Vec<AdminToken>> {
        self.lanes
            .read("admin tokens", |sql| {
                let mut query = sql.prepare_cached(
                    "SELECT id, name, prefix, created_at, expires_at FROM admin_tokens ORDER BY created_at, id",
                )?;
                let tokens = query.query_map([], |row| {
                    Ok(AdminToken {
                        id: row.get(0)?,
                        name: row.get(1)?,
                        prefix: row.get(2)?,
                        created_at: row.get(3)?,
                        expires_at: row.get(4)?,
                    })
                })?;
                Ok(tokens.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Revokes an admin token by deleting its row. Returns whether there was one.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn revoke_admin_token(&self, id: TokenId, at: Timestamp) -> StoreResult<bool> {
        self.lanes
            .write("revoke admin token", move |tx| {
                let gone =
                    tx.sql.prepare_cached("DELETE FROM admin_tokens WHERE id = ?1")?.execute([id])? > 0;
                if gone {
                    tx.touch_admins();
                    tx.raise()?;
                    tx.emit(at, EventKind::AdminTokenRevoked, None, json!({ "token_id": id }), None)?;
                }
                Ok(gone)
            })
            .await
    }
}
