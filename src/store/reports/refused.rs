//! Requests of agents that are refused, and unusable fields in their reports.

use rusqlite::params;
use serde_json::json;

use super::allowance::may_cause_event;
use crate::{
    domain::{event::EventKind, heartbeat::Fields, ids::WorkspaceId, time::Timestamp},
    store::{Member, Store, StoreResult, lane::Tx},
};

impl Store {
    /// Emits an event that says that requests of a workspace's agent are refused, if the agent's event allowance
    /// permits it.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn note_refused_requests(
        &self,
        workspace: WorkspaceId,
        request: &'static str,
        reason: &'static str,
        at: Timestamp,
    ) -> StoreResult<()> {
        let payload = json!({ "request": request, "reason": reason });
        self.append_event(at, (EventKind::RequestsRefused, Some(workspace), payload), None, move |tx| {
            let Some(member) = tx.member(workspace)? else { return Ok(false) };
            may_cause_event(tx, (workspace, &member), at)
        })
        .await
    }

    /// Returns, from memory, the workspaces whose agents' last reports contained unusable fields.
    #[must_use]
    pub fn refusing(&self) -> Vec<(WorkspaceId, Fields)> {
        self.roster.read().refusing()
    }
}

/// Emits an event about refused fields, if `refused` is set and the agent's event allowance permits it.
pub(super) fn note_refused(
    tx: &mut Tx<'_>,
    of: (WorkspaceId, &Member),
    refused: Option<Fields>,
    request: &str,
    at: Timestamp,
) -> StoreResult<()> {
    if let Some(refused) = refused
        && may_cause_event(tx, of, at)?
    {
        let payload = json!({ "request": request, "fields_refused": refused.to_string() });
        tx.emit(at, EventKind::FieldsRefused, Some(of.0), payload, None)?;
    }
    Ok(())
}

/// Stores which fields of a registration were refused. Returns the new set of refused fields if the set changed and
/// this registration contained a refused field.
pub(super) fn write_refused(tx: &Tx<'_>, member: &Member, refused: Fields) -> StoreResult<Option<Fields>> {
    let before = member.last_report.refused;
    let after = before.after_register(refused);
    if after == before {
        return Ok(None);
    }
    tx.sql
        .prepare_cached(
            "INSERT INTO reports (workspace, refused) VALUES (?1, ?2)
             ON CONFLICT (workspace) DO UPDATE SET refused = ?2",
        )?
        .execute(params![member.key, after.to_string()])?;
    Ok(Some(after).filter(|_| !refused.is_empty()))
}
