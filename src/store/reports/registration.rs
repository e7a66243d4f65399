//! Registrations: card, URL and delivery mode.

use rusqlite::params;
use serde_json::{Value, json};

use super::{
    ReportResult,
    card::write_card,
    move_by,
    refused::{note_refused, write_refused},
    token_use::note_api_use,
};
use crate::{
    domain::{
        heartbeat::{self, Fields, Standing},
        time::Timestamp,
        token::TokenKind,
        workspace::{Delivery, Kind},
    },
    store::{Store, StoreResult, TokenOwner, card_digest::CARD_DIGEST, lane::Known},
};

/// Content of an agent's registration.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// URL of an external agent, already checked; ignored for a container.
    pub url: Option<String>,
    /// How messages reach an external agent; `None` leaves the row unchanged. Ignored for a container.
    pub delivery: Option<Delivery>,
    /// Agent card as JSON; `None` leaves the stored one unchanged.
    pub card: Option<Value>,
    /// Fields of the request that were unusable and ignored.
    pub refused: Fields,
}

impl Store {
    /// Stores an agent's registration: card, URL and delivery mode. It changes the status as a heartbeat does.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn record_registration(
        &self,
        token_owner: TokenOwner,
        registration: Registration,
        at: Timestamp,
    ) -> StoreResult<ReportResult> {
        self.lanes
            .write("record registration", move |tx| {
                let id = token_owner.workspace;
                let Some(Known { member, holds }) = tx.known(id, &token_owner.digest, at)? else {
                    return Ok(ReportResult::Gone);
                };
                if !holds {
                    return Ok(ReportResult::Unauthorized);
                }
                let Registration { url, delivery, card, refused } = registration;
                let card = card.map(|card| write_card(tx, member.key, &card)).transpose()?;
                let refused = write_refused(tx, &member, refused)?;
                if let Some(url) = url.as_deref().filter(|_| member.kind == Kind::External) {
                    tx.sql
                        .prepare_cached(
                            "UPDATE workspaces SET url = ?2 WHERE key = ?1 AND kind = 'external'",
                        )?
                        .execute(params![member.key, (!url.is_empty()).then_some(url)])?;
                }
                if let Some(delivery) = delivery {
                    tx.sql
                        .prepare_cached(
                            "UPDATE workspaces SET delivery_mode = ?2 WHERE key = ?1 AND kind = 'external'",
                        )?
                        .execute(params![member.key, delivery.as_str()])?;
                }
                let counts_as_use = token_owner.kind == TokenKind::Instance;
                tx.sql
                    .prepare_cached(
                        "UPDATE pulse SET last_heartbeat_at = ?2,
                           token_used_at = CASE WHEN ?3 THEN ?2 ELSE token_used_at END WHERE workspace = ?1",
                    )?
                    .execute(params![member.key, at, counts_as_use])?;
                note_api_use(tx, &token_owner, at)?;
                tx.touch(id);
                let standing = Standing {
                    status: member.status,
                    kind: member.kind,
                    token: token_owner.kind,
                    manages_status: member.last_report.manages_status,
                };
                let mut payload = json!({ "url": url });
                if let Some(card) = card {
                    payload[CARD_DIGEST] = json!(card.digest);
                }
                move_by(
                    tx,
                    &token_owner,
                    &member,
                    &heartbeat::moves_of_register(standing),
                    &payload,
                    None,
                    at,
                )?;
                note_refused(tx, (id, &member), refused, "register", at)?;
                Ok(ReportResult::Noted)
            })
            .await
    }
}
