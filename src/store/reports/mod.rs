//! Reports from agents: heartbeats, registrations, cards.
//!
//! The token is checked again inside the transaction.

mod allowance;
mod card;
mod heartbeat;
mod refused;
mod registration;
mod token_use;

use serde_json::{Value, json};

use super::{
    Member, StoreResult, TokenOwner,
    lane::Tx,
    workspaces::{StatusChange, change_status, event_of},
};
use crate::domain::{status::Cause, time::Timestamp};

pub use registration::Registration;

/// Result of an agent's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportResult {
    /// The report is stored.
    Noted,
    /// The token is no longer valid for the workspace; nothing was written.
    Unauthorized,
    /// No live workspace has this id any more; nothing was written.
    Gone,
}

fn move_by(
    tx: &mut Tx<'_>,
    token_owner: &TokenOwner,
    member: &Member,
    moves: &[Cause],
    payload: &Value,
    degraded: Option<&(String, Value)>,
    at: Timestamp,
) -> StoreResult<()> {
    for cause in moves {
        let (detail, payload) = if let (Cause::ReportedDegraded, Some((detail, payload))) = (cause, degraded)
        {
            (Some(detail.clone()), payload.clone())
        } else {
            let mut payload = payload.clone();
            payload["recovered_from"] = json!(member.status.as_str());
            (None, payload)
        };
        let change = StatusChange {
            workspace: token_owner.workspace,
            cause: *cause,
            incarnation: Some(member.incarnation),
            detail,
            payload,
            at,
        };
        change_status(tx, &change, event_of(*cause))?;
    }
    Ok(())
}
