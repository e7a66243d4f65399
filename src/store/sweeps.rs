//! Queries of the sweep passes.
//!
//! The cost of a query depends on the number of live rows or on the size of the listing of containers, never on the
//! number of removed rows. A test checks the query plans.

use std::collections::HashSet;

use rusqlite::{Connection, Row, params};

use super::{Store, StoreResult, row, tokens::STALE_STATUSES};
use crate::domain::{
    ids::{ContainerId, WorkspaceId},
    status::Status,
    sweep_row::{IdleRow, QuietRow, RestartsDue, StaleCandidate, SweepRow},
    time::{JUMP, Timestamp},
    workspace::Kind,
};

const SWEEP_COLUMNS: &str =
    "w.id, w.name, w.status, w.failure, w.container_id, w.incarnation, w.status_since, w.runtime";

fn known(row: &Row<'_>) -> rusqlite::Result<SweepRow> {
    let (status, failure): (String, Option<String>) = (row.get(2)?, row.get(3)?);
    let container: Option<String> = row.get(4)?;
    Ok(SweepRow {
        id: row.get(0)?,
        name: row.get(1)?,
        status: row::word("status", &status, Status::parse(&status, failure.as_deref()))?,
        container: container.map(TryInto::try_into).transpose().map_err(row::conversion)?,
        incarnation: row.get(5)?,
        status_since: row.get(6)?,
        runtime: row.get(7)?,
    })
}

/// Query for stale tokens. The listing in `?1` must be trusted: if it is empty, `NOT IN` matches every workspace.
///
/// The query reads two narrow indexes and the table `pulse`, but not the rows of `workspaces`. Live rows are scattered
/// among removed ones there, so that each row would cost reading one page.
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

fn sweep_rows(sql: &Connection, text: &str, bind: impl rusqlite::Params) -> StoreResult<Vec<SweepRow>> {
    Ok(sql.prepare_cached(text)?.query_map(bind, known)?.collect::<Result<_, _>>()?)
}

impl Store {
    /// Returns the rows of the workspaces in a listing, removed ones included.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn sweep_rows(&self, listed: Vec<WorkspaceId>) -> StoreResult<Vec<SweepRow>> {
        self.lanes
            .read("known rows", move |sql| {
                // The first query finds most rows in a covering index. The second query finds the others in the table,
                // including rows that have left the index since the first query.
                let text = format!(
                    "SELECT {SWEEP_COLUMNS}
                     FROM rarray(?1) l CROSS JOIN workspaces w INDEXED BY workspaces_holding ON w.id = l.value
                     WHERE w.kind = 'container' AND w.status IN {STALE_STATUSES}"
                );
                let mut rows = sweep_rows(sql, &text, [row::ids(&listed)])?;
                let found: HashSet<_> = rows.iter().map(|row| row.id).collect();
                let others: Vec<_> = listed.into_iter().filter(|id| !found.contains(id)).collect();
                let text = format!(
                    "SELECT {SWEEP_COLUMNS} FROM rarray(?1) l CROSS JOIN workspaces w ON w.id = l.value"
                );
                rows.extend(sweep_rows(sql, &text, [row::ids(&others)])?);
                Ok(rows)
            })
            .await
    }

    /// Counts the workspaces in a listing that have a row, removed ones included.
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

    /// Returns workspaces that are not in the listing and have a valid instance token that was issued before
    /// `older_than` and not used since then. The listing must be trusted.
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

    /// Returns container workspaces whose process runs or may run: online, degraded, offline.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn up_rows(&self) -> StoreResult<Vec<SweepRow>> {
        self.lanes
            .read("up rows", |sql| {
                let text = format!(
                    "SELECT {SWEEP_COLUMNS} FROM workspaces w INDEXED BY workspaces_holding
                     WHERE w.kind = 'container' AND w.status IN {STALE_STATUSES}
                       AND w.status IN ('online', 'degraded', 'offline')"
                );
                sweep_rows(sql, &text, [])
            })
            .await
    }

    /// Returns workspaces that are provisioning, ordered by the start of the provisioning.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn provisioning_rows(&self) -> StoreResult<Vec<SweepRow>> {
        self.lanes
            .read("provisioning rows", |sql| {
                let text = format!(
                    "SELECT {SWEEP_COLUMNS} FROM workspaces w WHERE w.status = 'provisioning' ORDER BY w.status_since"
                );
                sweep_rows(sql, &text, [])
            })
            .await
    }

    /// Returns online or degraded rows without a heartbeat at `heartbeat_before` or later.
    ///
    /// A heartbeat whose time is more than 10 s after `now` does not count: the clock was set back after the heartbeat,
    /// so its real age is unknown.
    ///
    /// The query starts from the table `pulse`, which is narrow and contains only live workspaces. For a workspace with
    /// a recent heartbeat it reads no other table.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn quiet_rows(
        &self,
        heartbeat_before: Timestamp,
        now: Timestamp,
    ) -> StoreResult<Vec<QuietRow>> {
        self.lanes
            .read("quiet rows", move |sql| {
                let text = format!(
                    "SELECT {SWEEP_COLUMNS}, w.kind, p.last_heartbeat_at, p.active_tasks, p.last_activity_at,
                            p.wedged_since, w.restart_when_wedged
                     FROM pulse p CROSS JOIN workspaces w ON w.key = p.workspace
                     WHERE (p.last_heartbeat_at IS NULL OR p.last_heartbeat_at < ?1 OR p.last_heartbeat_at > ?2)
                       AND w.status IN ('online', 'degraded')"
                );
                let mut query = sql.prepare_cached(&text)?;
                let rows = query.query_map([heartbeat_before, now + JUMP], |row| {
                    let kind: String = row.get(8)?;
                    Ok(QuietRow {
                        row: known(row)?,
                        kind: row::word("kind", &kind, Kind::ALL.into_iter().find(|k| k.as_str() == kind))?,
                        heartbeat_at: row.get(9)?,
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

    /// Returns rows that may hibernate, have no active tasks, and have stored no activity for their idle minutes.
    ///
    /// The caller must check two more conditions: there may be later activity that is known only in memory, and the
    /// liveness epoch may be shorter than the idle minutes.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn idle_rows(&self, now: Timestamp) -> StoreResult<Vec<IdleRow>> {
        self.lanes
            .read("idle rows", move |sql| {
                let text = format!(
                    "SELECT {SWEEP_COLUMNS}, w.hibernation_idle_minutes, p.last_activity_at, w.online_since
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

    /// Returns the running containers of workspaces with idle minutes, and the ports that these containers publish.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn hibernation_candidates(&self) -> StoreResult<Vec<(WorkspaceId, ContainerId, u16)>> {
        self.lanes
            .read("hibernation candidates", |sql| {
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

    /// Returns rows whose hibernation has begun and is not finished.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn hibernating_rows(&self) -> StoreResult<Vec<SweepRow>> {
        self.lanes
            .read("hibernating rows", |sql| {
                let text = format!(
                    "SELECT {SWEEP_COLUMNS} FROM workspaces w INDEXED BY workspaces_falling_asleep
                     WHERE w.status = 'hibernating'"
                );
                sweep_rows(sql, &text, [])
            })
            .await
    }

    /// Returns offline rows whose restart is due at or before `by`, ordered by due time, and the due time of the next
    /// restart after `by`.
    ///
    /// A row whose status changed more than 10 s after `by` is due too: the clock was set back after the change, and a
    /// restart waits only minutes in any case.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn restarts_due(&self, by: Timestamp) -> StoreResult<RestartsDue> {
        self.lanes
            .read("restarts due", move |sql| {
                let text = format!(
                    "SELECT {SWEEP_COLUMNS}, w.restart_due_at FROM workspaces w INDEXED BY workspaces_restart_due
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

    /// Counts the rows that are not removed.
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

    /// Returns removed workspaces with a purge order: their resources may still exist.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn purges_ordered(&self) -> StoreResult<Vec<SweepRow>> {
        self.lanes
            .read("purges ordered", |sql| {
                let text = format!(
                    "SELECT {SWEEP_COLUMNS} FROM workspaces w
                     WHERE w.purge_ordered_at IS NOT NULL AND w.status = 'removed'"
                );
                sweep_rows(sql, &text, [])
            })
            .await
    }

    /// Returns the workspaces that sweep passes changed by destructive actions after `since`.
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
}
