//! The transaction that begins a start.

use rusqlite::params;
use serde_json::json;

use super::{
    read::{one, paused_in_chain, was_stopped_since},
    status::{StatusChange, change_status},
};
use crate::{
    domain::{
        event::EventKind,
        ids::{ContainerId, Incarnation, WorkspaceId},
        operation::{OperationId, Revision},
        status::{Cause, Status},
        time::Timestamp,
        workspace::Kind,
    },
    store::{
        Store, StoreResult,
        operations::{may_begin, note_incarnation},
        tokens::{TokenIssue, rotate_instance_token},
        trash::{NewClaim, insert_claim},
    },
    testing::mutation::{Mutation, is},
};

/// Input of the transaction that begins a start. After its commit, the row names the container that is then started.
#[derive(Clone, Debug)]
pub struct BeginStart {
    /// Workspace to start.
    pub workspace: WorkspaceId,
    /// Restart, start by an operator, resume or wake. If the row is provisioning already, its status stays.
    pub cause: Cause,
    /// The container to start. The row names it before its process runs.
    pub container: ContainerId,
    /// Hash of the input the container was created from.
    pub spec_hash: String,
    /// Instance token of the new incarnation.
    pub token: TokenIssue,
    /// Revision of the row on which the start was decided. The start is refused if the workspace was stopped or
    /// undeleted since. The status alone does not show this: a workspace that was removed and undeleted is paused, as it
    /// may have been before.
    pub decided_on: Option<Revision>,
    /// The operation that ordered the start. The start is refused if the operation has ended or is to be cancelled.
    pub operation: Option<OperationId>,
    /// The container that this start replaces. It is claimed for the trash in the same transaction: after a crash, the
    /// next sweep finds the claim and completes it.
    pub replaces: Option<NewClaim>,
    /// For a restart of a degraded or stalled workspace: the sweep pass that ordered it, and the reason. The event of
    /// the restart is written in this transaction.
    pub degraded: Option<(&'static str, String)>,
    /// Time of the status change and of the events.
    pub at: Timestamp,
}

/// Result of a start that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Incarnation of the new container process.
    pub incarnation: Incarnation,
}

impl Store {
    /// Begins a start in one transaction: sets the new incarnation, container and token, and revokes older instance
    /// tokens. `None` means that another change came first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn begin_start(&self, begin: BeginStart) -> StoreResult<Option<Begun>> {
        self.lanes
            .write("begin start", move |tx| {
                let Some(row) = one(tx.sql, begin.workspace)?.filter(|row| row.kind == Kind::Container)
                else {
                    return Ok(None);
                };
                if row
                    .spec
                    .parent
                    .map(|parent| paused_in_chain(tx.sql, parent))
                    .transpose()?
                    .flatten()
                    .is_some()
                {
                    return Ok(None);
                }
                if was_stopped_since(tx.sql, row.id, begin.decided_on)? {
                    return Ok(None);
                }
                if let Some(operation) = begin.operation
                    && !may_begin(tx.sql, operation)?
                {
                    return Ok(None);
                }
                let payload = json!({
                    "name": row.name, "tier": row.spec.tier, "runtime": row.spec.runtime,
                    "incarnation": row.incarnation.next(), "container": begin.container,
                });
                if row.status == Status::Provisioning {
                    if !is(Mutation::MirrorCreationsOnly) {
                        tx.raise()?;
                    }
                    tx.emit(begin.at, EventKind::Started, Some(row.id), payload, None)?;
                } else {
                    let change = StatusChange {
                        workspace: row.id,
                        cause: begin.cause,
                        incarnation: None,
                        detail: None,
                        payload,
                        at: begin.at,
                    };
                    if !change_status(tx, &change, EventKind::Provisioning)? {
                        return Ok(None);
                    }
                    // Only in this branch: if the row is provisioning already, this is another attempt of the same
                    // restart, and the first attempt emitted the event.
                    if let Some((swept_by, why)) = begin.degraded {
                        let payload = json!({ "reason": why });
                        tx.emit(begin.at, EventKind::RestartedSilent, Some(row.id), payload, Some(swept_by))?;
                    }
                }
                let incarnation = row.incarnation.next();
                tx.sql
                    .prepare_cached(
                        "UPDATE workspaces SET incarnation = ?2, container_id = ?3, container_spec_hash = ?4
                         WHERE id = ?1",
                    )?
                    .execute(params![row.id, incarnation, begin.container.as_str(), begin.spec_hash])?;
                if let Some(replaced) = begin.replaces {
                    // Claims nothing in a second attempt, because the first attempt has claimed the container.
                    insert_claim(tx, replaced, begin.at)?;
                }
                rotate_instance_token(tx, row.id, incarnation, &begin.token, begin.at)?;
                if let Some(operation) = begin.operation {
                    note_incarnation(tx.sql, operation, row.id, incarnation)?;
                }
                // A new process has no active tasks and no error rate yet.
                tx.sql
                    .prepare_cached(
                        "UPDATE pulse SET active_tasks = 0, error_rate = 0, wedged_since = NULL
                         WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1)",
                    )?
                    .execute([row.id])?;
                Ok(Some(Begun { incarnation }))
            })
            .await
    }
}
