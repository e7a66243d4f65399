//! Changes of an agent's card.

use axum::{
    extract::{Request, State},
    response::Response,
};

use super::{
    fields::{Unfit, named},
    report::{answered, json, report},
};
use crate::{
    domain::{
        bounds::CARD_MAX_BYTES,
        heartbeat::{Field, Fields},
        lenient,
    },
    http::{
        Api,
        error::{HttpError, HttpResult},
    },
};

pub(in crate::http) async fn update_card(State(api): State<Api>, request: Request) -> HttpResult<Response> {
    let report = report(&api, request, "update-card").await?;
    let text = lenient::repaired(&report.body);
    let fields = lenient::fields(&text, &["workspace_id", Field::AgentCard.as_str()]);
    let read = fields.and_then(|fields| Some((named(&fields, "workspace_id", report.cut)?, fields)));
    let (id, fields) = read.ok_or_else(|| report.refused(&api))?;
    let token_owner = report.verified_owner(&api, &id).await?;
    api.0.buckets.cards.check(token_owner.workspace).map_err(HttpError::too_many)?;
    let mut unfit = Unfit { fields: &fields, unknown: Fields::default(), refused: Fields::default() };
    // The request carries only the card and does not count as a heartbeat. So it is refused if the card is not usable.
    let card = unfit.object(Field::AgentCard, CARD_MAX_BYTES).ok_or_else(|| report.refused(&api))?;
    answered(api.0.store.note_card(token_owner, card, api.0.clock.now()).await?)?;
    Ok(json(r#"{"status":"updated"}"#))
}
