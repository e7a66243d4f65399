//! Changes the status of an existing row. [`change_status`] is the only function that does.

use rusqlite::params;
use serde_json::Value;

use crate::{
    domain::{
        event::EventKind,
        ids::{Incarnation, WorkspaceId},
        status::{Cause, Status},
        time::Timestamp,
        workspace::Kind,
    },
    store::{
        Store, StoreResult,
        lane::Tx,
        row::{self},
    },
    testing::mutation::{Mutation, is},
};

/// A status change. The cause determines the allowed source statuses.
#[derive(Clone, Debug)]
pub struct StatusChange {
    /// Workspace whose status changes.
    pub workspace: WorkspaceId,
    /// Determines the allowed source statuses and the target status.
    pub cause: Cause,
    /// Applies only to this incarnation; `None` applies to any.
    pub incarnation: Option<Incarnation>,
    /// Text shown beside the status.
    pub detail: Option<String>,
    /// Payload of the emitted event.
    pub payload: Value,
    /// Becomes `status_since` and the event's time.
    pub at: Timestamp,
}

impl Store {
    /// Changes a status. `false` means that another change came first: the row's status does not allow the change, or
    /// the row has another incarnation.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn change_status(&self, change: StatusChange) -> StoreResult<bool> {
        self.lanes
            .write("change status", move |tx| {
                let event = event_of(change.cause);
                change_status(tx, &change, event)
            })
            .await
    }
}

/// Changes the status of a row, and returns whether the row was changed. No other function changes a status.
///
/// `false` means that another change came first: the row's status does not allow this change, or the row has another
/// incarnation. No event is emitted in that case.
///
/// The change also clears fields that belong to the previous status: a due restart, and the links `paused_with` and
/// `removed_with`. A start, resume or pause by an operator resets the restart budget.
pub(in crate::store) fn change_status(
    tx: &mut Tx<'_>,
    change: &StatusChange,
    event: EventKind,
) -> StoreResult<bool> {
    let target = change.cause.target();
    let sources = if is(Mutation::DenyList) {
        Status::ALL
            .into_iter()
            .filter(|status| *status != target && *status != Status::Removed)
            .map(code)
            .collect()
    } else {
        change.cause.sources().iter().map(|status| code(*status)).collect::<Vec<String>>()
    };
    let changed = tx
        .sql
        .prepare_cached(
            "UPDATE workspaces SET status = ?2, failure = ?3, status_detail = ?4, status_since = ?5,
               removed_at = CASE ?2 WHEN 'removed' THEN ?5 END,
               online_since = CASE ?2 WHEN 'online' THEN COALESCE(online_since, ?5) WHEN 'degraded' THEN online_since END,
               paused_with = NULL, removed_with = NULL, restart_due_at = NULL,
               ends = CASE WHEN ?9 THEN '[]' ELSE ends END
             WHERE id = ?1 AND (?6 IS NULL OR incarnation = ?6) AND (?8 IS NULL OR kind = ?8)
               AND status || COALESCE(':' || failure, '') IN (SELECT value FROM rarray(?7))",
        )?
        .execute(params![
            change.workspace,
            target.as_str(),
            target.failure().map(crate::domain::status::Failure::as_str),
            change.detail,
            change.at,
            change.incarnation,
            row::texts(&sources),
            change.cause.only_kind().map(Kind::as_str),
            matches!(change.cause, Cause::StartByOperator | Cause::Resume | Cause::Pause)
        ])?;
    if changed > 0 && change.cause.is_decision() && !is(Mutation::MirrorCreationsOnly) {
        tx.raise()?;
    }
    if changed > 0 && !(is(Mutation::SilentChange) && change.cause == Cause::ContainerGone) {
        tx.emit(change.at, event, Some(change.workspace), change.payload.clone(), None)?;
    }
    Ok(changed > 0)
}

fn code(status: Status) -> String {
    match status.failure() {
        Some(failure) => format!("{}:{}", status.as_str(), failure.as_str()),
        None => status.as_str().to_owned(),
    }
}

/// Returns the event type that reports a status change with this cause.
pub(in crate::store) fn event_of(cause: Cause) -> EventKind {
    match cause {
        Cause::HeartbeatReceived | Cause::ContainerReady => EventKind::Online,
        Cause::ProvisioningTimedOut | Cause::StartImpossible => EventKind::ProvisionFailed,
        Cause::ReportedDegraded => EventKind::Degraded,
        Cause::ContainerGone => EventKind::Offline,
        Cause::ExternalSilent | Cause::AwaitAgain => EventKind::AwaitingAgent,
        Cause::Restart | Cause::StartByOperator | Cause::Resume | Cause::Wake => EventKind::Provisioning,
        Cause::BudgetSpent => EventKind::Parked,
        Cause::Pause => EventKind::Paused,
        Cause::BeginHibernation => EventKind::Hibernating,
        Cause::FinishHibernation => EventKind::Hibernated,
        Cause::Remove => EventKind::Removed,
        Cause::Undelete => EventKind::Undeleted,
        Cause::Adopt => EventKind::Adopted,
    }
}
