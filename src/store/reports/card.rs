//! Agent cards.

use rusqlite::{OptionalExtension, params};
use serde_json::{Value, json};

use super::{ReportResult, allowance::may_cause_event};
use crate::{
    domain::{event::EventKind, time::Timestamp},
    store::{
        Store, StoreResult, TokenOwner,
        card_digest::{CARD_DIGEST, card_digest},
        lane::{Known, Tx},
    },
};

impl Store {
    /// Stores an agent's new card.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn note_card(
        &self,
        token_owner: TokenOwner,
        card: Value,
        at: Timestamp,
    ) -> StoreResult<ReportResult> {
        self.lanes
            .write("record card", move |tx| {
                let id = token_owner.workspace;
                let Some(Known { member, holds }) = tx.known(id, &token_owner.digest, at)? else {
                    return Ok(ReportResult::Gone);
                };
                if !holds {
                    return Ok(ReportResult::Unauthorized);
                }
                let card = write_card(tx, member.key, &card)?;
                if card.changed && may_cause_event(tx, (id, &member), at)? {
                    let payload = json!({ CARD_DIGEST: card.digest });
                    tx.emit(at, EventKind::CardUpdated, Some(id), payload, None)?;
                }
                Ok(ReportResult::Noted)
            })
            .await
    }
}

/// Result of storing a card.
pub(super) struct StoredCard {
    pub(super) digest: String,
    pub(super) changed: bool,
}

/// Stores a card, only in `reports`: events refer to the card by its digest.
pub(super) fn write_card(tx: &Tx<'_>, key: i64, card: &Value) -> StoreResult<StoredCard> {
    let text = card.to_string();
    let before: Option<Option<String>> = tx
        .sql
        .prepare_cached("SELECT agent_card FROM reports WHERE workspace = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    let changed = before.flatten().as_deref() != Some(&text);
    if changed {
        tx.sql
            .prepare_cached(
                "INSERT INTO reports (workspace, agent_card) VALUES (?1, ?2)
                 ON CONFLICT (workspace) DO UPDATE SET agent_card = ?2",
            )?
            .execute(params![key, text])?;
    }
    Ok(StoredCard { digest: card_digest(&text), changed })
}
