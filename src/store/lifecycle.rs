//! Pausing, hibernating and container exits: status changes that write more than the status.
//!
//! Each of them is one transaction. It reads the data for its decision (tree, tasks, last heartbeat, earlier exits) and
//! writes the status with `change_status`.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use super::{
    Store, StoreResult,
    lane::Tx,
    row::conversion,
    workspaces::{
        StatusChange, change_status, descendants, event_of, many, one, parents_first, paused_in_chain,
        was_stopped_since,
    },
};
use crate::domain::{
    budget::{Next, RestartBudget},
    duration::words,
    event::EventKind,
    ids::{Incarnation, WorkspaceId},
    naming::WorkspaceName,
    operation::Revision,
    status::{Cause, Status},
    time::{JUMP, Timestamp},
    workspace::Workspace,
};

/// Result of pausing a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PauseResult {
    /// The status is now `paused`: the workspace first, then the descendants that were not paused before.
    Paused(Vec<WorkspaceId>),
    /// Refused: an ancestor is paused already; contains its name.
    BelowPaused(WorkspaceName),
    /// No live row has this id.
    NotThere,
}

/// Precondition of a status change, in addition to the source status. Each variant is named after what must not have
/// happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The status has not changed since this time.
    ChangedSince(Timestamp),
    /// No heartbeat was received at this time or later. A heartbeat whose time is more than 10 s in the future does not
    /// count: it was received before the clock was set back.
    HeartbeatSince(Timestamp),
    /// The workspace was not stopped or undeleted since its row had this revision, and no ancestor is paused. The status alone does not show this:
    /// a workspace that was removed and undeleted meanwhile is paused again.
    StoppedSince(Revision),
}

/// Reason for hibernating a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HibernateReason {
    /// An operator or another caller ordered it.
    Ordered {
        /// Hibernate even while it has active tasks.
        force: bool,
    },
    /// The workspace is idle.
    Idle {
        /// Precondition: no activity after this time.
        since: Timestamp,
        /// Evidence for the decision; part of the event.
        evidence: String,
    },
}

/// Result of beginning a hibernation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HibernateResult {
    /// The status is now `hibernating`.
    Begun,
    /// Refused: the workspace has this number of active tasks.
    Busy(u32),
    /// There was activity after `since`, or the status does not allow hibernation.
    Raced,
}

/// Consequence of an unexpected exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneResult {
    /// The workspace is restarted at this time or later.
    RestartDue(Timestamp),
    /// There were too many exits in the budget's window: the workspace is parked.
    Parked,
    /// Nothing changed: the row's status does not allow the change, or the row has another incarnation.
    Raced,
}

/// A restart that was charged to the restart budget before its attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimedRestart {
    workspace: WorkspaceId,
    /// Incarnation that the restart is to replace.
    incarnation: Incarnation,
    /// Time of the charge; identifies it.
    at: Timestamp,
}

/// A container's exit to record.
#[derive(Clone, Debug)]
pub struct ContainerEnd {
    /// Workspace of the container.
    pub workspace: WorkspaceId,
    /// Incarnation of the container that exited.
    pub incarnation: Incarnation,
    /// Cause of the exit, as text; becomes the status detail.
    pub reason: String,
    /// Payload of the emitted event.
    pub payload: Value,
    /// Limits of restarts.
    pub budget: RestartBudget,
    /// Whether the exit counts against the restart budget. If not, the restart is due at once.
    pub charged: bool,
}

impl Store {
    /// Pauses a workspace and its descendants. In each descendant that was not paused before, `paused_with` refers to
    /// the workspace.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn pause_workspace(&self, id: WorkspaceId, at: Timestamp) -> StoreResult<PauseResult> {
        Ok(self.accept_stop(id, None, at).await?.result)
    }

    /// Returns the nearest paused workspace among `parent` and its ancestors.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn paused_above(&self, parent: WorkspaceId) -> StoreResult<Option<WorkspaceName>> {
        self.lanes.read("paused above", move |sql| paused_in_chain(sql, parent)).await
    }

    /// Returns the workspaces that were paused by the pause of this one, parents first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn paused_along_with(&self, id: WorkspaceId) -> StoreResult<Vec<Workspace>> {
        self.lanes
            .read("paused along with", move |sql| {
                let rows = many(sql, "WHERE w.paused_with = ?1 ORDER BY w.created_at, w.key", [id])?;
                Ok(parents_first(rows.into_iter().filter(|row| row.status == Status::Paused).collect()))
            })
            .await
    }

    /// Changes a status if a precondition holds. `false` means that it does not hold, or that another change came
    /// first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn change_status_under(
        &self,
        change: StatusChange,
        precondition: Precondition,
    ) -> StoreResult<bool> {
        self.lanes
            .write("change status under guard", move |tx| {
                Ok(holds(tx.sql, change.workspace, precondition, change.at)?
                    && change_status(tx, &change, event_of(change.cause))?)
            })
            .await
    }

    /// Begins a hibernation: sets the status to `hibernating`.
    ///
    /// Refused if the workspace has active tasks, unless forced. A hibernation for idleness is also refused if there
    /// was activity after the workspace was found idle.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn begin_hibernation(
        &self,
        id: WorkspaceId,
        why: HibernateReason,
        at: Timestamp,
    ) -> StoreResult<HibernateResult> {
        Ok(self.accept_hibernation(id, why, None, at).await?.result)
    }

    /// Records a container's exit and its consequence: a restart with its due time, or parking if the budget is used
    /// up.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn note_container_end(&self, end: ContainerEnd, at: Timestamp) -> StoreResult<GoneResult> {
        self.lanes
            .write("record container exit", move |tx| {
                let (id, budget) = (end.workspace, end.budget);
                let (ends, online_since) = spent(tx.sql, id)?;
                let change = |cause, detail, payload| StatusChange {
                    workspace: id,
                    cause,
                    incarnation: Some(end.incarnation),
                    detail: Some(detail),
                    payload,
                    at,
                };
                let offline = change(Cause::ContainerGone, end.reason.clone(), end.payload.clone());
                if !change_status(tx, &offline, EventKind::Offline)? {
                    return Ok(GoneResult::Raced);
                }
                if !end.charged {
                    write_ends(tx, id, &ends, Some(at))?;
                    return Ok(GoneResult::RestartDue(at));
                }
                match budget.judge(&ends, online_since.map(|since| at.since(since)), at) {
                    Next::Restart { due_at, ends } => {
                        write_ends(tx, id, &ends, Some(due_at))?;
                        Ok(GoneResult::RestartDue(due_at))
                    }
                    Next::Spent { ends } => {
                        let window = words(budget.window);
                        let detail = format!(
                            "restart budget spent: {ends} exits within {window}, the last one because {}. `ostler logs` \
                             and `ostler why` show details; `ostler start` starts it again",
                            end.reason
                        );
                        let mut payload = end.payload.clone();
                        payload["exits"] = json!(ends);
                        change_status(tx, &change(Cause::BudgetSpent, detail, payload), EventKind::Parked)?;
                        Ok(GoneResult::Parked)
                    }
                }
            })
            .await
    }

    /// Charges the restart of a degraded workspace to its restart budget. `None` if the budget does not allow the
    /// restart, the precondition does not hold, or the workspace is no longer degraded.
    ///
    /// The charge is written before the old process is stopped, not in the start's transaction. A daemon that crashes
    /// between stop and start would otherwise leave no charge: the next daemon does not charge an exit that happened
    /// while no daemon was running. Repeated crashes at that point would allow restarts without limit. With the early
    /// charge, a crash leaves the charge. [`Store::refund_restart`] undoes the charge of a restart that did not happen.
    /// The start's transaction emits the event.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn charge_degraded_restart(
        &self,
        id: WorkspaceId,
        precondition: Precondition,
        budget: RestartBudget,
        at: Timestamp,
    ) -> StoreResult<Option<ClaimedRestart>> {
        self.lanes
            .write("charge degraded restart", move |tx| {
                let Some(row) = one(tx.sql, id)?.filter(|row| row.status == Status::Degraded) else {
                    return Ok(None);
                };
                if !holds(tx.sql, id, precondition, at)? {
                    return Ok(None);
                }
                let (ends, _) = spent(tx.sql, id)?;
                let Next::Restart { ends, .. } = budget.judge(&ends, None, at) else { return Ok(None) };
                write_ends(tx, id, &ends, None)?;
                Ok(Some(ClaimedRestart { workspace: id, incarnation: row.incarnation, at }))
            })
            .await
    }

    /// Undoes the charge of a restart that did not happen. Does nothing if the incarnation has changed, because the
    /// restart then happened. Returns whether a charge was undone.
    ///
    /// # Errors
    /// When the store cannot answer. The charge then stays.
    pub async fn refund_restart(&self, claimed: ClaimedRestart) -> StoreResult<bool> {
        self.lanes
            .write("refund restart", move |tx| {
                let ClaimedRestart { workspace, incarnation, at } = claimed;
                if one(tx.sql, workspace)?.is_none_or(|row| row.incarnation != incarnation) {
                    return Ok(false);
                }
                let (mut ends, _) = spent(tx.sql, workspace)?;
                let Some(location) = ends.iter().rposition(|end| *end == at) else { return Ok(false) };
                ends.remove(location);
                tx.sql
                    .prepare_cached("UPDATE workspaces SET ends = ?2 WHERE id = ?1")?
                    .execute(params![workspace, json!(ends).to_string()])?;
                Ok(true)
            })
            .await
    }

    /// Changes the due time of a restart that could not be attempted, for example because of an engine outage. The
    /// restart budget is not charged.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn put_off_restart(&self, id: WorkspaceId, due_at: Timestamp) -> StoreResult<()> {
        self.lanes
            .write("postpone restart", move |tx| {
                tx.sql
                    .prepare_cached(
                        "UPDATE workspaces SET restart_due_at = ?2
                         WHERE id = ?1 AND status = 'offline' AND restart_due_at IS NOT NULL",
                    )?
                    .execute(params![id, due_at])?;
                Ok(())
            })
            .await
    }

    /// Flags a workspace that has active tasks and no heartbeat or activity after `quiet_since`. Returns whether it was
    /// not flagged before.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn flag_wedged(
        &self,
        id: WorkspaceId,
        quiet_since: Timestamp,
        evidence: String,
        at: Timestamp,
    ) -> StoreResult<bool> {
        self.lanes
            .write("flag wedged", move |tx| {
                let flagged = tx
                    .sql
                    .prepare_cached(
                        "UPDATE pulse SET wedged_since = ?3
                         WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1 AND status IN ('online', 'degraded'))
                           AND wedged_since IS NULL AND active_tasks > 0
                           AND NOT (COALESCE(last_heartbeat_at, 0) > ?2 AND last_heartbeat_at <= ?4)
                           AND NOT (COALESCE(last_activity_at, 0) > ?2 AND last_activity_at <= ?4)",
                    )?
                    .execute(params![id, quiet_since, at, at + JUMP])?;
                if flagged == 0 {
                    return Ok(false);
                }
                tx.emit(at, EventKind::Wedged, Some(id), json!({ "evidence": evidence }), None)?;
                let change = StatusChange {
                    workspace: id,
                    cause: Cause::ReportedDegraded,
                    incarnation: None,
                    detail: Some(evidence.clone()),
                    payload: json!({ "runtime_state": "wedged", "evidence": evidence }),
                    at,
                };
                // If the change is refused, the workspace is degraded already.
                change_status(tx, &change, EventKind::Degraded)?;
                Ok(true)
            })
            .await
    }

    /// Records when the proxy forwarded messages to or from workspaces.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn note_activity_at(&self, seen: Vec<(WorkspaceId, Timestamp)>) -> StoreResult<()> {
        self.lanes
            .write("record activity time", move |tx| {
                for (id, at) in seen {
                    tx.sql
                        .prepare_cached(
                            "UPDATE pulse SET last_activity_at = MAX(COALESCE(last_activity_at, 0), ?2)
                             WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1)",
                        )?
                        .execute(params![id, at])?;
                }
                Ok(())
            })
            .await
    }
}

/// See [`Store::pause_workspace`].
pub(super) fn pause(tx: &mut Tx<'_>, id: WorkspaceId, at: Timestamp) -> StoreResult<PauseResult> {
    let Some(row) = one(tx.sql, id)?.filter(|row| row.status != Status::Removed) else {
        return Ok(PauseResult::NotThere);
    };
    if let Some(parent) = row.spec.parent
        && let Some(paused) = paused_in_chain(tx.sql, parent)?
    {
        return Ok(PauseResult::BelowPaused(paused));
    }
    let mut paused = vec![id];
    pause_one(tx, &row, None, at)?;
    for below in descendants(tx.sql, id)? {
        if let Some(row) = one(tx.sql, below)?
            && pause_one(tx, &row, Some(id), at)?
        {
            paused.push(below);
        }
    }
    Ok(PauseResult::Paused(paused))
}

fn pause_one(
    tx: &mut Tx<'_>,
    row: &Workspace,
    with: Option<WorkspaceId>,
    at: Timestamp,
) -> StoreResult<bool> {
    let change = StatusChange {
        workspace: row.id,
        cause: Cause::Pause,
        incarnation: None,
        detail: None,
        payload: json!({ "name": row.name, "paused_with": with }),
        at,
    };
    let paused = change_status(tx, &change, EventKind::Paused)?;
    // If a workspace was paused by the pause of an ancestor and is now paused by its own order, it must not resume with
    // the ancestor.
    let by_itself = row.status == Status::Paused && with.is_none();
    if paused || by_itself {
        tx.sql
            .prepare_cached(
                "UPDATE workspaces SET paused_with = ?2, stopped_revision = revision + 1 WHERE id = ?1",
            )?
            .execute(params![row.id, with])?;
        // A change of `paused_with` alone emits no event.
        tx.touch(row.id);
    }
    Ok(paused)
}

fn holds(sql: &Connection, id: WorkspaceId, precondition: Precondition, now: Timestamp) -> StoreResult<bool> {
    Ok(match precondition {
        Precondition::ChangedSince(since) => sql
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM workspaces WHERE id = ?1 AND status_since = ?2)")?
            .query_row(params![id, since], |row| row.get(0))?,
        Precondition::HeartbeatSince(since) => sql
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM workspaces w JOIN pulse p ON p.workspace = w.key
                                WHERE w.id = ?1 AND COALESCE(p.last_heartbeat_at, 0) NOT BETWEEN ?2 AND ?3)",
            )?
            .query_row(params![id, since, now + JUMP], |row| row.get(0))?,
        Precondition::StoppedSince(revision) => {
            let parent: Option<WorkspaceId> = sql
                .prepare_cached("SELECT parent_id FROM workspaces WHERE id = ?1")?
                .query_row([id], |row| row.get(0))
                .optional()?
                .flatten();
            let above = parent.map(|parent| paused_in_chain(sql, parent)).transpose()?.flatten();
            above.is_none() && !was_stopped_since(sql, id, Some(revision))?
        }
    })
}

/// Returns the times of the exits that count against the restart budget, and when the current up-period began.
fn spent(sql: &Connection, id: WorkspaceId) -> StoreResult<(Vec<Timestamp>, Option<Timestamp>)> {
    let found: Option<(String, Option<Timestamp>)> = sql
        .prepare_cached("SELECT ends, online_since FROM workspaces WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((ends, online_since)) = found else { return Ok((Vec::new(), None)) };
    Ok((serde_json::from_str(&ends).map_err(conversion)?, online_since))
}

fn write_ends(
    tx: &Tx<'_>,
    id: WorkspaceId,
    ends: &[Timestamp],
    due_at: Option<Timestamp>,
) -> StoreResult<()> {
    tx.sql
        .prepare_cached("UPDATE workspaces SET ends = ?2, restart_due_at = ?3 WHERE id = ?1")?
        .execute(params![id, json!(ends).to_string(), due_at])?;
    Ok(())
}

/// See [`Store::begin_hibernation`].
pub(in crate::store) fn hibernate(
    tx: &mut Tx<'_>,
    id: WorkspaceId,
    why: HibernateReason,
    at: Timestamp,
) -> StoreResult<HibernateResult> {
    let seen: Option<(u32, Option<Timestamp>, String, u8)> = tx
        .sql
        .prepare_cached(
            "SELECT p.active_tasks, p.last_activity_at, w.name, w.tier FROM workspaces w
             JOIN pulse p ON p.workspace = w.key WHERE w.id = ?1",
        )?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((tasks, active_at, name, tier)) = seen else { return Ok(HibernateResult::Raced) };
    let (idle_since, evidence, force) = match why {
        HibernateReason::Ordered { force } => (None, None, force),
        HibernateReason::Idle { since, evidence } => (Some(since), Some(evidence), false),
    };
    if tasks > 0 && !force {
        return Ok(HibernateResult::Busy(tasks));
    }
    if let (Some(since), Some(active_at)) = (idle_since, active_at)
        && active_at > since
        && !active_at.is_ahead_of(at)
    {
        return Ok(HibernateResult::Raced);
    }
    let change = StatusChange {
        workspace: id,
        cause: Cause::BeginHibernation,
        incarnation: None,
        detail: None,
        payload: json!({ "name": name, "tier": tier, "evidence": evidence, "ordered": idle_since.is_none() }),
        at,
    };
    let begun = change_status(tx, &change, EventKind::Hibernating)?;
    Ok(if begun { HibernateResult::Begun } else { HibernateResult::Raced })
}
