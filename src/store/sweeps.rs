//! What the passes ask, and the plans the breaker holds.
//!
//! Every query here grows with the live rows or with what the listing shows, never with removed
//! history; a test reads the query plans.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;

use super::{Store, StoreResult, row, tokens::STALE_STATUSES};
use crate::domain::{
    event::EventKind,
    ids::{ContainerId, PlanId, WorkspaceId},
    liveness::{IdleRow, QuietRow, RestartsDue},
    plan::{KnownRow, StaleCandidate},
    status::Status,
    time::{JUMP, Timestamp},
    workspace::Kind,
};

/// A plan to hold.
#[derive(Clone, Debug)]
pub struct NewHeldPlan {
    /// Its identity.
    pub id: PlanId,
    /// The pass.
    pub pass: &'static str,
    /// Why it is held.
    pub reason: String,
    /// The actions, exactly, as JSON.
    pub plan: serde_json::Value,
}

/// A held plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldPlanRow {
    /// Its identity.
    pub id: PlanId,
    /// The pass.
    pub pass: String,
    /// Why it is held.
    pub reason: String,
    /// The actions, as JSON.
    pub plan: serde_json::Value,
    /// Since when.
    pub held_at: Timestamp,
    /// When a person approved it.
    pub approved_at: Option<Timestamp>,
}

/// What came of an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    /// Approved, now or before.
    Approved(HeldPlanRow),
    /// The pass holds another plan now: this one's id.
    Superseded(PlanId),
    /// The pass holds nothing.
    NothingHeld,
}

const KNOWN_COLUMNS: &str =
    "w.id, w.name, w.status, w.failure, w.container_id, w.incarnation, w.status_since, w.runtime";

fn known(row: &Row<'_>) -> rusqlite::Result<KnownRow> {
    let (status, failure): (String, Option<String>) = (row.get(2)?, row.get(3)?);
    let container: Option<String> = row.get(4)?;
    Ok(KnownRow {
        id: row.get(0)?,
        name: row.get(1)?,
        status: row::word("status", &status, Status::parse(&status, failure.as_deref()))?,
        container: container.map(TryInto::try_into).transpose().map_err(row::conversion)?,
        incarnation: row.get(5)?,
        status_since: row.get(6)?,
        runtime: row.get(7)?,
    })
}

/// `NOT IN` an empty list matches everything: only a trusted listing may be passed in.
///
/// It reads two narrow indexes and the pulse, and never the wide rows: those of the live lie scattered
/// among the removed, a page each.
fn stale() -> String {
    format!(
        "SELECT w.id, w.name, w.status, t.created_at, p.token_used_at
         FROM workspaces w INDEXED BY workspaces_holding
         LEFT JOIN pulse p ON p.workspace = w.key
         CROSS JOIN tokens t INDEXED BY tokens_live_instance ON t.workspace = w.key
         WHERE w.kind = 'container' AND w.status IN {STALE_STATUSES}
           AND w.id NOT IN (SELECT value FROM rarray(?1))
           AND (p.token_used_at IS NULL OR p.token_used_at < ?2)
           AND t.kind = 'instance' AND t.revoked_at IS NULL AND t.created_at < ?2"
    )
}

fn known_rows(sql: &Connection, text: &str, bind: impl rusqlite::Params) -> StoreResult<Vec<KnownRow>> {
    Ok(sql.prepare_cached(text)?.query_map(bind, known)?.collect::<Result<_, _>>()?)
}

fn held(row: &Row<'_>) -> rusqlite::Result<HeldPlanRow> {
    let plan: String = row.get(3)?;
    Ok(HeldPlanRow {
        pass: row.get(0)?,
        id: row.get(1)?,
        reason: row.get(2)?,
        plan: serde_json::from_str(&plan).map_err(row::conversion)?,
        held_at: row.get(4)?,
        approved_at: row.get(5)?,
    })
}

const HELD: &str = "SELECT pass, id, reason, plan, held_at, approved_at FROM held_plans";

impl Store {
    /// The rows, removed ones among them, of the workspaces a listing shows.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn known_rows(&self, listed: Vec<WorkspaceId>) -> StoreResult<Vec<KnownRow>> {
        self.lanes
            .read("known rows", move |sql| {
                // Nearly all of them, out of an index. Whichever changes before the second question is found by one
                // of the two.
                let text = format!(
                    "SELECT {KNOWN_COLUMNS}
                     FROM rarray(?1) l CROSS JOIN workspaces w INDEXED BY workspaces_holding ON w.id = l.value
                     WHERE w.kind = 'container' AND w.status IN {STALE_STATUSES}"
                );
                let mut rows = known_rows(sql, &text, [row::ids(&listed)])?;
                let found: HashSet<_> = rows.iter().map(|row| row.id).collect();
                let others: Vec<_> = listed.into_iter().filter(|id| !found.contains(id)).collect();
                let text = format!(
                    "SELECT {KNOWN_COLUMNS} FROM rarray(?1) l CROSS JOIN workspaces w ON w.id = l.value"
                );
                rows.extend(known_rows(sql, &text, [row::ids(&others)])?);
                Ok(rows)
            })
            .await
    }

    /// How many of the workspaces a listing shows have a row, removed ones among them.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn known_count(&self, listed: Vec<WorkspaceId>) -> StoreResult<usize> {
        self.lanes
            .read("known count", move |sql| {
                let text = "SELECT count(*) FROM rarray(?1) l CROSS JOIN workspaces w ON w.id = l.value";
                let known: u32 =
                    sql.prepare_cached(text)?.query_row([row::ids(&listed)], |row| row.get(0))?;
                Ok(known as usize)
            })
            .await
    }

    /// Workspaces with live instance tokens, none newer or used since `older_than`, whose containers are
    /// not among the listed ones. The listing must be a trusted one.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn stale_candidates(
        &self,
        listed: Vec<WorkspaceId>,
        older_than: Timestamp,
    ) -> StoreResult<Vec<StaleCandidate>> {
        self.lanes
            .read("stale candidates", move |sql| {
                let mut query = sql.prepare_cached(&stale())?;
                let found = query.query_map(params![row::ids(&listed), older_than], |row| {
                    Ok(StaleCandidate {
                        workspace: row.get(0)?,
                        name: row.get(1)?,
                        status: row.get(2)?,
                        token_created_at: row.get(3)?,
                        token_used_at: row.get(4)?,
                    })
                })?;
                Ok(found.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Container workspaces that are, or might be, up: online, degraded, offline.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn up_rows(&self) -> StoreResult<Vec<KnownRow>> {
        self.lanes
            .read("up rows", |sql| {
                let text = format!(
                    "SELECT {KNOWN_COLUMNS} FROM workspaces w INDEXED BY workspaces_holding
                     WHERE w.kind = 'container' AND w.status IN {STALE_STATUSES}
                       AND w.status IN ('online', 'degraded', 'offline')"
                );
                known_rows(sql, &text, [])
            })
            .await
    }

    /// Workspaces being provisioned, the longest first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn provisioning_rows(&self) -> StoreResult<Vec<KnownRow>> {
        self.lanes
            .read("provisioning rows", |sql| {
                let text = format!(
                    "SELECT {KNOWN_COLUMNS} FROM workspaces w WHERE w.status = 'provisioning' ORDER BY w.status_since"
                );
                known_rows(sql, &text, [])
            })
            .await
    }

    /// Rows that are online or degraded and were not heard at `heard_before` or later, or never, as far as the clock
    /// that says `now` can tell: a beat that lies ahead of it is one of nobody knows when.
    ///
    /// Driven by the pulse, which is narrow and holds live rows only; whoever was heard lately costs no second look.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn quiet_rows(&self, heard_before: Timestamp, now: Timestamp) -> StoreResult<Vec<QuietRow>> {
        self.lanes
            .read("quiet rows", move |sql| {
                let text = format!(
                    "SELECT {KNOWN_COLUMNS}, w.kind, p.last_heartbeat_at, p.active_tasks, p.last_activity_at,
                            p.wedged_since, w.restart_when_wedged
                     FROM pulse p CROSS JOIN workspaces w ON w.key = p.workspace
                     WHERE (p.last_heartbeat_at IS NULL OR p.last_heartbeat_at < ?1 OR p.last_heartbeat_at > ?2)
                       AND w.status IN ('online', 'degraded')"
                );
                let mut query = sql.prepare_cached(&text)?;
                let rows = query.query_map([heard_before, now + JUMP], |row| {
                    let kind: String = row.get(8)?;
                    Ok(QuietRow {
                        row: known(row)?,
                        kind: row::word("kind", &kind, Kind::ALL.into_iter().find(|k| k.as_str() == kind))?,
                        heard_at: row.get(9)?,
                        active_tasks: row.get(10)?,
                        active_at: row.get(11)?,
                        wedged_since: row.get(12)?,
                        restart_when_wedged: row.get(13)?,
                    })
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Rows that may sleep, work on nothing, and at which nothing has happened for as long as they may be idle, as far
    /// as is written down. More may be known of them, and they may not have been listened to for so long.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn idle_rows(&self, now: Timestamp) -> StoreResult<Vec<IdleRow>> {
        self.lanes
            .read("idle rows", move |sql| {
                let text = format!(
                    "SELECT {KNOWN_COLUMNS}, w.hibernation_idle_minutes, p.last_activity_at, w.online_since
                     FROM workspaces w INDEXED BY workspaces_may_sleep JOIN pulse p ON p.workspace = w.key
                     WHERE w.hibernation_idle_minutes IS NOT NULL AND w.status IN ('online', 'degraded')
                       AND w.kind = 'container' AND p.active_tasks = 0
                       AND (p.last_activity_at IS NULL
                         OR p.last_activity_at <= ?1 - w.hibernation_idle_minutes * 60000
                          OR p.last_activity_at > ?2)"
                );
                let mut query = sql.prepare_cached(&text)?;
                let rows = query.query_map([now, now + JUMP], |row| {
                    let (idle_minutes, active_at, online_since) = (row.get(8)?, row.get(9)?, row.get(10)?);
                    Ok(IdleRow { row: known(row)?, idle_minutes, active_at, online_since })
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Containers that are up and may sleep, with the ports they publish.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn may_sleep(&self) -> StoreResult<Vec<(WorkspaceId, ContainerId, u16)>> {
        self.lanes
            .read("containers that may sleep", |sql| {
                let mut query = sql.prepare_cached(
                    "SELECT w.id, w.container_id, w.host_port FROM workspaces w INDEXED BY workspaces_may_sleep
                     WHERE w.hibernation_idle_minutes IS NOT NULL AND w.status IN ('online', 'degraded')
                       AND w.kind = 'container' AND w.container_id IS NOT NULL AND w.host_port IS NOT NULL",
                )?;
                let rows = query.query_map([], |found| {
                    let container: String = found.get(1)?;
                    Ok((found.get(0)?, container.try_into().map_err(row::conversion)?, found.get(2)?))
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Rows on their way to sleep.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn falling_asleep_rows(&self) -> StoreResult<Vec<KnownRow>> {
        self.lanes
            .read("falling asleep rows", |sql| {
                let text = format!(
                    "SELECT {KNOWN_COLUMNS} FROM workspaces w INDEXED BY workspaces_falling_asleep
                     WHERE w.status = 'hibernating'"
                );
                known_rows(sql, &text, [])
            })
            .await
    }

    /// Offline rows whose restart is due by then, the longest due first, and when the next one is due. One that ended at a time still to come, by a
    /// clock that has been set back since, is due too: its wait was minutes.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn restarts_due(&self, by: Timestamp) -> StoreResult<RestartsDue> {
        self.lanes
            .read("restarts due", move |sql| {
                let text = format!(
                    "SELECT {KNOWN_COLUMNS}, w.restart_due_at FROM workspaces w INDEXED BY workspaces_restart_due
                     WHERE w.status = 'offline' AND w.restart_due_at IS NOT NULL
                       AND (w.restart_due_at <= ?1 OR w.status_since > ?2)
                     ORDER BY w.restart_due_at"
                );
                let mut query = sql.prepare_cached(&text)?;
                let rows = query.query_map([by, by + JUMP], |row| Ok((known(row)?, row.get(8)?)))?;
                let rows = rows.collect::<Result<_, _>>()?;
                let next_at = sql
                    .prepare_cached(
                        "SELECT MIN(restart_due_at) FROM workspaces INDEXED BY workspaces_restart_due
                         WHERE status = 'offline' AND restart_due_at IS NOT NULL AND restart_due_at > ?1",
                    )?
                    .query_row([by], |row| row.get(0))?;
                Ok(RestartsDue { rows, next_at })
            })
            .await
    }

    /// How many rows are not removed.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn live_count(&self) -> StoreResult<usize> {
        self.lanes
            .read("live count", |sql| {
                let live: u32 = sql
                    .prepare_cached("SELECT count(*) FROM workspaces w WHERE w.status <> 'removed'")?
                    .query_row([], |row| row.get(0))?;
                Ok(live as usize)
            })
            .await
    }

    /// Removed workspaces whose things are to be deleted for good, and may still be there.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn purges_ordered(&self) -> StoreResult<Vec<KnownRow>> {
        self.lanes
            .read("purges ordered", |sql| {
                let text = format!(
                    "SELECT {KNOWN_COLUMNS} FROM workspaces w
                     WHERE w.purge_ordered_at IS NOT NULL AND w.status = 'removed'"
                );
                known_rows(sql, &text, [])
            })
            .await
    }

    /// The workspaces that destructive actions of passes have hit since then.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn swept_since(&self, since: Timestamp) -> StoreResult<Vec<WorkspaceId>> {
        self.lanes
            .read("swept since", move |sql| {
                let mut query = sql.prepare_cached(
                    "SELECT DISTINCT workspace FROM events
                     WHERE swept_by IS NOT NULL AND created_at > ?1 AND workspace IS NOT NULL",
                )?;
                Ok(query.query_map([since], |row| row.get(0))?.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// The plan of a pass that is held, or approved and not yet used up.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn held_plan(&self, pass: &'static str) -> StoreResult<Option<HeldPlanRow>> {
        self.lanes
            .read("held plan", move |sql| {
                let mut query = sql.prepare_cached(&format!("{HELD} WHERE pass = ?1"))?;
                Ok(query.query_row([pass], held).optional()?)
            })
            .await
    }

    /// Holds a plan in place of the pass's earlier one, and tells of it.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn hold_plan(&self, new: NewHeldPlan, at: Timestamp) -> StoreResult<()> {
        self.lanes
            .write("hold plan", move |tx| {
                tx.sql
                    .prepare_cached(
                        "INSERT INTO held_plans (pass, id, reason, plan, held_at) VALUES (?1, ?2, ?3, ?4, ?5)
                         ON CONFLICT (pass) DO UPDATE SET id = ?2, reason = ?3, plan = ?4, held_at = ?5,
                           approved_at = NULL",
                    )?
                    .execute(params![new.pass, new.id, new.reason, new.plan.to_string(), at])?;
                let told =
                    json!({ "pass": new.pass, "plan_id": new.id, "reason": new.reason, "plan": new.plan });
                tx.tell(at, EventKind::SweepHeld, None, told, None)
            })
            .await
    }

    /// A person approves a plan: exactly the one named.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn approve_plan(&self, pass: String, plan: PlanId, at: Timestamp) -> StoreResult<Approval> {
        self.lanes
            .write("approve plan", move |tx| {
                let held: Option<HeldPlanRow> = tx
                    .sql
                    .prepare_cached(&format!("{HELD} WHERE pass = ?1"))?
                    .query_row([&pass], held)
                    .optional()?;
                let Some(mut held) = held else { return Ok(Approval::NothingHeld) };
                if held.id != plan {
                    return Ok(Approval::Superseded(held.id));
                }
                if held.approved_at.is_none() {
                    tx.sql
                        .prepare_cached("UPDATE held_plans SET approved_at = ?2 WHERE pass = ?1")?
                        .execute(params![pass, at])?;
                    held.approved_at = Some(at);
                    let told = json!({ "pass": pass, "plan_id": plan });
                    tx.tell(at, EventKind::SweepApproved, None, told, None)?;
                }
                Ok(Approval::Approved(held))
            })
            .await
    }

    /// The held plan's cause is gone, or it is used up.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn drop_held_plan(&self, pass: &'static str, id: PlanId) -> StoreResult<()> {
        self.lanes
            .write("drop held plan", move |tx| {
                tx.sql
                    .prepare_cached("DELETE FROM held_plans WHERE pass = ?1 AND id = ?2")?
                    .execute(params![pass, id])?;
                Ok(())
            })
            .await
    }
}
