//! Pause, sleep, end: the changes of a status that carry more than the status along.
//!
//! Each is one transaction that looks at what it decides on (the tree, the tasks, the last beat, the ends before)
//! and writes by the one function that moves a status.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use super::{
    Store, StoreResult,
    events::was_undeleted_after,
    lane::Tx,
    row::conversion,
    workspaces::{
        StatusChange, change_status, descendants, event_of, many, one, parents_first, paused_in_chain,
    },
};
use crate::domain::{
    budget::{Next, RestartBudget},
    event::EventKind,
    ids::{Incarnation, WorkspaceId},
    naming::WorkspaceName,
    status::{Cause, Status},
    time::{JUMP, Timestamp},
    workspace::Workspace,
};

/// What came of a pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PauseResult {
    /// The rows say paused: this one first, then those below it that were not paused before.
    Paused(Vec<WorkspaceId>),
    /// One above it is paused: this one.
    BelowPaused(WorkspaceName),
    /// There is no live row.
    NotThere,
}

/// What a change of status is bound to besides the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unless {
    /// Only if the status is the same since then.
    ChangedSince(Timestamp),
    /// Only if no beat came at that time or later. One that lies ahead of the clock came before it was set back.
    HeardSince(Timestamp),
    /// Only if no undelete came after this event: who is back and paused looks as it did before.
    UndeletedAfter(i64),
}

/// Why a workspace is put to sleep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drowsy {
    /// Somebody said so.
    Ordered {
        /// Even while it works on something.
        force: bool,
    },
    /// It was found idle.
    Idle {
        /// Unless something happened there after this time.
        since: Timestamp,
        /// What that was decided on.
        evidence: String,
    },
}

/// What came of putting a workspace to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepResult {
    /// The row says hibernating.
    Begun,
    /// It works on so many tasks.
    Busy(u32),
    /// Something happened to it since, or its status allows no sleep.
    Raced,
}

/// What follows from an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneResult {
    /// It is started again, at the earliest then.
    RestartDue(Timestamp),
    /// It ended too often: parked.
    Parked,
    /// The row is in no status that an end could change, or of another incarnation.
    Raced,
}

/// A restart that was taken out of a budget before it was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimedRestart {
    workspace: WorkspaceId,
    /// The incarnation that it is to end.
    incarnation: Incarnation,
    /// When it was charged.
    at: Timestamp,
}

/// The end of a container, as it is written down.
#[derive(Clone, Debug)]
pub struct ContainerEnd {
    /// Whose.
    pub workspace: WorkspaceId,
    /// In which incarnation.
    pub incarnation: Incarnation,
    /// Why, for people.
    pub reason: String,
    /// The event's particulars.
    pub told: Value,
    /// What may follow.
    pub budget: RestartBudget,
    /// Whether the restart budget counts it. One that is not charged is restarted at once.
    pub charged: bool,
}

impl Store {
    /// Pauses a workspace and everything below it. Those below remember with whom they were paused.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn pause_workspace(&self, id: WorkspaceId, at: Timestamp) -> StoreResult<PauseResult> {
        self.lanes
            .write("pause workspace", move |tx| {
                let Some(row) = one(tx.sql, id)?.filter(|row| row.status != Status::Removed) else {
                    return Ok(PauseResult::NotThere);
                };
                if let Some(parent) = row.parent
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
            })
            .await
    }

    /// The nearest paused workspace above this one.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn paused_above(&self, parent: WorkspaceId) -> StoreResult<Option<WorkspaceName>> {
        self.lanes.read("paused above", move |sql| paused_in_chain(sql, parent)).await
    }

    /// What was paused along with a workspace, those higher in the tree first.
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

    /// Changes a status that is bound to more than the status. `false` means raced.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn change_status_unless(&self, change: StatusChange, unless: Unless) -> StoreResult<bool> {
        self.lanes
            .write("change status unless", move |tx| {
                Ok(holds(tx.sql, change.workspace, unless, change.at)?
                    && change_status(tx, &change, event_of(change.cause))?)
            })
            .await
    }

    /// Claims a workspace for sleep: its row says hibernating, unless it works on something or, where it was found
    /// idle, something happened there since.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn begin_hibernation(
        &self,
        id: WorkspaceId,
        why: Drowsy,
        at: Timestamp,
    ) -> StoreResult<SleepResult> {
        self.lanes
            .write("begin hibernation", move |tx| {
                let seen: Option<(u32, Option<Timestamp>, String, u8)> = tx
                    .sql
                    .prepare_cached(
                        "SELECT p.active_tasks, p.last_activity_at, w.name, w.tier FROM workspaces w
                         JOIN pulse p ON p.workspace = w.key WHERE w.id = ?1",
                    )?
                    .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
                    .optional()?;
                let Some((tasks, active_at, name, tier)) = seen else { return Ok(SleepResult::Raced) };
                let (idle_since, evidence, force) = match why {
                    Drowsy::Ordered { force } => (None, None, force),
                    Drowsy::Idle { since, evidence } => (Some(since), Some(evidence), false),
                };
                if tasks > 0 && !force {
                    return Ok(SleepResult::Busy(tasks));
                }
                if let (Some(since), Some(active_at)) = (idle_since, active_at)
                    && active_at > since
                    && !active_at.is_ahead_of(at)
                {
                    return Ok(SleepResult::Raced);
                }
                let change = StatusChange {
                    workspace: id,
                    cause: Cause::BeginHibernation,
                    incarnation: None,
                    detail: None,
                    told: json!({ "name": name, "tier": tier, "evidence": evidence, "ordered": idle_since.is_none() }),
                    at,
                };
                let begun = change_status(tx, &change, EventKind::Hibernating)?;
                Ok(if begun { SleepResult::Begun } else { SleepResult::Raced })
            })
            .await
    }

    /// Writes down that a container has ended, and what follows: a restart when it is due, or nothing any more
    /// once the budget is spent.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn note_container_end(&self, end: ContainerEnd, at: Timestamp) -> StoreResult<GoneResult> {
        self.lanes
            .write("note container end", move |tx| {
                let (id, budget) = (end.workspace, end.budget);
                let (ends, online_since) = spent(tx.sql, id)?;
                let change = |cause, detail, told| StatusChange {
                    workspace: id,
                    cause,
                    incarnation: Some(end.incarnation),
                    detail: Some(detail),
                    told,
                    at,
                };
                let offline = change(Cause::ContainerGone, end.reason.clone(), end.told.clone());
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
                        let minutes = budget.window.as_secs() / 60;
                        let detail = format!(
                            "it ended {ends} times within {minutes} min, the last time because {}. `ostler logs` and \
                             `ostler why` show more; `ostler start` tries again",
                            end.reason
                        );
                        let mut told = end.told.clone();
                        told["ends"] = json!(ends);
                        change_status(tx, &change(Cause::BudgetSpent, detail, told), EventKind::Parked)?;
                        Ok(GoneResult::Parked)
                    }
                }
            })
            .await
    }

    /// Takes a restart of something that runs and gives no good sign of life out of its budget. `None` means
    /// that the budget allows none, or that it was heard since, or is no longer degraded.
    ///
    /// Before the start, not in its transaction: the old process is stopped before that. If this process ended in
    /// between, an end that nobody charges (it came while the daemon was down) would lead to a restart that nobody
    /// charges, and a daemon that is killed each time at that moment would restart without a bound. So a crash leaves
    /// the charge; a restart that did not happen is taken back by [`Store::give_back_restart`]. What happened is told
    /// by the start's transaction.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn claim_restart_of_unwell(
        &self,
        id: WorkspaceId,
        unless: Unless,
        budget: RestartBudget,
        at: Timestamp,
    ) -> StoreResult<Option<ClaimedRestart>> {
        self.lanes
            .write("claim restart of unwell", move |tx| {
                let Some(row) = one(tx.sql, id)?.filter(|row| row.status == Status::Degraded) else {
                    return Ok(None);
                };
                if !holds(tx.sql, id, unless, at)? {
                    return Ok(None);
                }
                let (ends, _) = spent(tx.sql, id)?;
                let Next::Restart { ends, .. } = budget.judge(&ends, None, at) else { return Ok(None) };
                write_ends(tx, id, &ends, None)?;
                Ok(Some(ClaimedRestart { workspace: id, incarnation: row.incarnation, at }))
            })
            .await
    }

    /// Takes a charge back whose restart did not happen: no incarnation has begun since. Answers whether there was
    /// one to take back.
    ///
    /// # Errors
    /// When the store cannot answer. The charge stays then.
    pub async fn give_back_restart(&self, claimed: ClaimedRestart) -> StoreResult<bool> {
        self.lanes
            .write("give back restart", move |tx| {
                let ClaimedRestart { workspace, incarnation, at } = claimed;
                if one(tx.sql, workspace)?.is_none_or(|row| row.incarnation != incarnation) {
                    return Ok(false);
                }
                let (mut ends, _) = spent(tx.sql, workspace)?;
                let Some(place) = ends.iter().rposition(|end| *end == at) else { return Ok(false) };
                ends.remove(place);
                tx.sql
                    .prepare_cached("UPDATE workspaces SET ends = ?2 WHERE id = ?1")?
                    .execute(params![workspace, json!(ends).to_string()])?;
                Ok(true)
            })
            .await
    }

    /// Puts off a restart that could not be tried: that the engine was away is nobody's fault.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn put_off_restart(&self, id: WorkspaceId, due_at: Timestamp) -> StoreResult<()> {
        self.lanes
            .write("put off restart", move |tx| {
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

    /// Flags a workspace that is busy and from which nothing came since. Answers whether it was not flagged yet.
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
                tx.tell(at, EventKind::Wedged, Some(id), json!({ "evidence": evidence }), None)?;
                let change = StatusChange {
                    workspace: id,
                    cause: Cause::Unwell,
                    incarnation: None,
                    detail: Some(evidence.clone()),
                    told: json!({ "runtime_state": "wedged", "evidence": evidence }),
                    at,
                };
                // Degraded already, for being silent, is no fault.
                change_status(tx, &change, EventKind::Degraded)?;
                Ok(true)
            })
            .await
    }

    /// Writes down activity that was seen in passing: messages on either side.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn note_activity_at(&self, seen: Vec<(WorkspaceId, Timestamp)>) -> StoreResult<()> {
        self.lanes
            .write("note activity at", move |tx| {
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
        told: json!({ "name": row.name, "paused_with": with }),
        at,
    };
    let paused = change_status(tx, &change, EventKind::Paused)?;
    // One that was paused along with another and is now paused by itself does not come back with that one.
    let by_itself = row.status == Status::Paused && with.is_none();
    if paused || by_itself {
        tx.sql
            .prepare_cached("UPDATE workspaces SET paused_with = ?2 WHERE id = ?1")?
            .execute(params![row.id, with])?;
        // No event tells of what only changes with whom it comes back.
        tx.touch(row.id);
    }
    Ok(paused)
}

fn holds(sql: &Connection, id: WorkspaceId, unless: Unless, now: Timestamp) -> StoreResult<bool> {
    Ok(match unless {
        Unless::ChangedSince(since) => sql
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM workspaces WHERE id = ?1 AND status_since = ?2)")?
            .query_row(params![id, since], |row| row.get(0))?,
        Unless::HeardSince(since) => sql
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM workspaces w JOIN pulse p ON p.workspace = w.key
                                WHERE w.id = ?1 AND COALESCE(p.last_heartbeat_at, 0) NOT BETWEEN ?2 AND ?3)",
            )?
            .query_row(params![id, since, now + JUMP], |row| row.get(0))?,
        Unless::UndeletedAfter(event) => !was_undeleted_after(sql, id, event)?,
    })
}

/// The ends that count against the budget, and since when it is online.
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
