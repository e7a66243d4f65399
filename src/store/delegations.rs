//! Delegations: tasks that one workspace hands to another and whose end it asks for later.
//!
//! A row says what is known for certain. It is `pending` until a moment before the task is sent, `dispatched` from
//! then on, so that a crash in between is told apart from one before: what was never sent may be sent, what may have
//! been sent ends as failed and says so. An open row is never dropped to make room; it ends when it is [`DEADLINE`]
//! old, before anything is decided by it: whether there is room for another, and whether it is sent.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Store, StoreResult, row::word};
use crate::domain::{
    delegation::{DEADLINE, DelegationStatus},
    ids::{DelegationId, WorkspaceId},
    time::Timestamp,
};

/// The most delegations of one workspace that are open at once.
const OPEN_MAX: i64 = 64;
/// Finished delegations kept of each workspace.
const KEPT: u32 = 100;
/// Delegations in one answer.
const LISTED: u32 = 50;

/// Ends the open delegations that are too old. The rest of the condition says whose.
const EXPIRE: &str = "UPDATE delegations SET status = 'failed', finished_at = ?1,
       error = CASE WHEN sent_by_ostler = 1 AND status = 'pending'
                    THEN 'not sent: its turn did not come within 6 hours' ELSE 'no result within 6 hours' END
     WHERE finished_at IS NULL AND created_at < ?2";

/// A delegation to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDelegation {
    /// Its id, never used before.
    pub id: DelegationId,
    /// Workspace that hands the task over.
    pub workspace: WorkspaceId,
    /// Workspace that gets it.
    pub target: WorkspaceId,
    /// The delegator's key: the same task under the same key is handed over once.
    pub key: Option<String>,
    /// The task.
    pub task: String,
    /// Whether ostler sends it. The delegator has sent the others itself, and reports of them.
    pub sent_by_ostler: bool,
    /// When.
    pub at: Timestamp,
}

/// A delegation as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// Its id.
    pub id: DelegationId,
    /// Workspace that handed the task over.
    pub workspace: WorkspaceId,
    /// Workspace that gets it.
    pub target: WorkspaceId,
    /// Name of the target, while it is there.
    pub target_name: Option<String>,
    /// The first 200 characters of the task.
    pub task: String,
    /// What has become of it.
    pub status: DelegationStatus,
    /// How often it was sent.
    pub attempts: u32,
    /// Why it failed.
    pub error: Option<String>,
    /// The beginning of the answer.
    pub response_preview: Option<String>,
    /// When it was handed over.
    pub created_at: Timestamp,
    /// When it was completed or failed.
    pub finished_at: Option<Timestamp>,
}

/// A delegation that waits to be sent. Its task stays in the store until then, so that many of them are small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its id.
    pub id: DelegationId,
    /// Workspace that hands the task over.
    pub workspace: WorkspaceId,
}

/// What is about to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatched {
    /// Workspace that gets it.
    pub target: WorkspaceId,
    /// The task.
    pub task: String,
}

/// Which time a task is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It was never sent.
    First,
    /// It was sent once, and its agent could not be reached.
    Second,
}

/// What came of handing a task over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delegated {
    /// It is written down.
    New,
    /// The key or the id has one already that does not begin again: this one.
    Same(Box<Delegation>),
    /// Another workspace has one of that id.
    Taken,
    /// The workspace has as many open ones as it may have.
    TooMany,
    /// The workspace is gone.
    Gone,
}

/// Of a task its beginning. The whole of it is read only to be sent.
const COLUMNS: &str = "d.id, w.id, d.target, t.name, substr(d.task, 1, 200), d.status, d.attempts, d.error, d.response_preview, \
     d.created_at, d.finished_at";

const FROM: &str = "FROM delegations d JOIN workspaces w ON w.key = d.workspace \
     LEFT JOIN workspaces t ON t.id = d.target";

fn delegation(row: &rusqlite::Row<'_>) -> rusqlite::Result<Delegation> {
    let status: String = row.get(5)?;
    Ok(Delegation {
        id: row.get(0)?,
        workspace: row.get(1)?,
        target: row.get(2)?,
        target_name: row.get(3)?,
        task: row.get(4)?,
        status: word("status", &status, DelegationStatus::parse(&status))?,
        attempts: row.get(6)?,
        error: row.get(7)?,
        response_preview: row.get(8)?,
        created_at: row.get(9)?,
        finished_at: row.get(10)?,
    })
}

fn key_of(sql: &Connection, id: WorkspaceId) -> StoreResult<Option<i64>> {
    Ok(sql
        .prepare_cached("SELECT key FROM workspaces WHERE id = ?1 AND status <> 'removed'")?
        .query_row([id], |row| row.get(0))
        .optional()?)
}

/// Ends the open delegations of a workspace that are too old.
fn expire(sql: &Connection, workspace: i64, at: Timestamp) -> StoreResult<()> {
    sql.prepare_cached(&format!("{EXPIRE} AND workspace = ?3"))?.execute(params![
        at,
        at - DEADLINE,
        workspace
    ])?;
    Ok(())
}

impl Store {
    /// Writes a delegation down, as pending. A failed one of the same key makes room for it, and so does a failed one
    /// that was recorded under its id.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn begin_delegation(&self, new: NewDelegation) -> StoreResult<Delegated> {
        self.lanes
            .write("begin delegation", move |tx| {
                let Some(key) = key_of(tx.sql, new.workspace)? else { return Ok(Delegated::Gone) };
                expire(tx.sql, key, new.at)?;
                let id_has = tx
                    .sql
                    .prepare_cached(&format!("SELECT {COLUMNS}, d.sent_by_ostler {FROM} WHERE d.id = ?1"))?
                    .query_row([new.id], |row| Ok((row.get::<_, bool>(11)?, delegation(row)?)))
                    .optional()?;
                let key_has = tx
                    .sql
                    .prepare_cached(&format!(
                        "SELECT {COLUMNS} {FROM} WHERE d.workspace = ?1 AND d.idempotency_key = ?2"
                    ))?
                    .query_row(params![key, new.key], delegation)
                    .optional()?;
                match (&id_has, &key_has) {
                    (Some((_, other)), _) if other.workspace != new.workspace => return Ok(Delegated::Taken),
                    // ostler has sent this one and reported its end: it does not begin again.
                    (Some((sent_by_ostler, same)), _)
                        if *sent_by_ostler || same.status != DelegationStatus::Failed =>
                    {
                        return Ok(Delegated::Same(same.clone().into()));
                    }
                    (_, Some(same)) if same.status != DelegationStatus::Failed => {
                        return Ok(Delegated::Same(same.clone().into()));
                    }
                    _ => {}
                }
                let open: i64 = tx
                    .sql
                    .prepare_cached(
                        "SELECT count(*) FROM delegations WHERE workspace = ?1 AND finished_at IS NULL",
                    )?
                    .query_row([key], |row| row.get(0))?;
                if open >= OPEN_MAX {
                    return Ok(Delegated::TooMany);
                }
                if let Some((_, failed)) = id_has {
                    // As a new row: the newest is listed first.
                    tx.sql.prepare_cached("DELETE FROM delegations WHERE id = ?1")?.execute([failed.id])?;
                }
                if let Some(failed) = key_has {
                    tx.sql
                        .prepare_cached("UPDATE delegations SET idempotency_key = NULL WHERE id = ?1")?
                        .execute([failed.id])?;
                }
                tx.sql
                    .prepare_cached(
                        "INSERT INTO delegations (id, workspace, target, idempotency_key, task, sent_by_ostler, status,
                                                  created_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'pending', ?7)",
                    )?
                    .execute(params![
                        new.id,
                        key,
                        new.target,
                        new.key,
                        new.task,
                        new.sent_by_ostler,
                        new.at
                    ])?;
                tx.sql
                    .prepare_cached(
                        "DELETE FROM delegations WHERE sequence IN (
                           SELECT sequence FROM delegations WHERE workspace = ?1 AND finished_at IS NOT NULL
                           ORDER BY sequence DESC LIMIT -1 OFFSET ?2)",
                    )?
                    .execute(params![key, KEPT])?;
                Ok(Delegated::New)
            })
            .await
    }

    /// Notes that a task is about to be sent, and answers it. `None` when it must not be: it has ended meanwhile, or
    /// this attempt was noted before. So a delegation that is queued twice is sent once.
    ///
    /// # Errors
    /// When the store cannot answer: then it must not be sent either.
    pub async fn dispatch_delegation(
        &self,
        waiting: Waiting,
        attempt: Attempt,
        at: Timestamp,
    ) -> StoreResult<Option<Dispatched>> {
        let (status, sent) = match attempt {
            Attempt::First => (DelegationStatus::Pending, 0),
            Attempt::Second => (DelegationStatus::Dispatched, 1),
        };
        self.lanes
            .write("dispatch delegation", move |tx| {
                let Some(key) = key_of(tx.sql, waiting.workspace)? else { return Ok(None) };
                expire(tx.sql, key, at)?;
                Ok(tx
                    .sql
                    .prepare_cached(
                        "UPDATE delegations SET status = 'dispatched', attempts = attempts + 1
                         WHERE id = ?1 AND workspace = ?2 AND status = ?3 AND attempts = ?4
                         RETURNING target, task",
                    )?
                    .query_row(params![waiting.id, key, status.as_str(), sent], |row| {
                        Ok(Dispatched { target: row.get(0)?, task: row.get(1)? })
                    })
                    .optional()?)
            })
            .await
    }

    /// Moves an open delegation on. Answers the status it has afterwards: one that has ended keeps its end. `None`
    /// when the workspace has no such delegation.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn move_delegation(
        &self,
        of: WorkspaceId,
        id: DelegationId,
        to: DelegationStatus,
        (error, response_preview): (Option<String>, Option<String>),
        at: Timestamp,
    ) -> StoreResult<Option<DelegationStatus>> {
        self.lanes
            .write("move delegation", move |tx| {
                let Some(key) = key_of(tx.sql, of)? else { return Ok(None) };
                tx.sql
                    .prepare_cached(
                        "UPDATE delegations SET status = ?3, error = COALESCE(?4, error),
                           response_preview = COALESCE(?5, response_preview), finished_at = CASE WHEN ?6 THEN ?7 END
                         WHERE id = ?2 AND workspace = ?1 AND finished_at IS NULL",
                    )?
                    .execute(params![key, id, to.as_str(), error, response_preview, to.is_end(), at])?;
                let now: Option<String> = tx
                    .sql
                    .prepare_cached("SELECT status FROM delegations WHERE id = ?2 AND workspace = ?1")?
                    .query_row(params![key, id], |row| row.get(0))
                    .optional()?;
                Ok(now.map(|now| word("status", &now, DelegationStatus::parse(&now))).transpose()?)
            })
            .await
    }

    /// What a daemon before this one left open: those that it never sent, to be sent now. Those that it may have sent
    /// end as failed, and so do those that are too old.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn take_up_delegations(&self, at: Timestamp) -> StoreResult<Vec<Waiting>> {
        self.lanes
            .write("take up delegations", move |tx| {
                tx.sql
                    .prepare_cached(
                        "UPDATE delegations SET status = 'failed', finished_at = ?1,
                           error = 'ostler was restarted before the agent answered: the task may have been done'
                         WHERE sequence IN (SELECT sequence FROM delegations INDEXED BY delegations_open
                                            WHERE finished_at IS NULL AND sent_by_ostler = 1
                                              AND status = 'dispatched')",
                    )?
                    .execute([at])?;
                // Those that their delegator sends are its own to ask for, and end when it does.
                let text = EXPIRE.replacen("delegations", "delegations INDEXED BY delegations_open", 1);
                tx.sql
                    .prepare_cached(&format!("{text} AND sent_by_ostler = 1"))?
                    .execute([at, at - DEADLINE])?;
                let mut query = tx.sql.prepare_cached(
                    "SELECT d.id, w.id FROM delegations d INDEXED BY delegations_open
                     JOIN workspaces w ON w.key = d.workspace
                     WHERE d.finished_at IS NULL AND d.sent_by_ostler = 1 AND d.status = 'pending'
                     ORDER BY d.sequence",
                )?;
                let waiting = |row: &rusqlite::Row<'_>| Ok(Waiting { id: row.get(0)?, workspace: row.get(1)? });
                let pending = query.query_map([], waiting)?.collect::<Result<_, _>>()?;
                Ok(pending)
            })
            .await
    }

    /// The delegations of a workspace, newest first, once those that have had no result for too long are ended.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn delegations(&self, of: WorkspaceId, at: Timestamp) -> StoreResult<Vec<Delegation>> {
        // Polled all the time: only what has to be ended costs a write.
        let overdue = self
            .lanes
            .read("overdue delegations", move |sql| {
                Ok(sql
                    .prepare_cached(
                        "SELECT EXISTS (SELECT 1 FROM delegations
                                        WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1)
                                          AND finished_at IS NULL AND created_at < ?2)",
                    )?
                    .query_row(params![of, at - DEADLINE], |row| row.get::<_, bool>(0))?)
            })
            .await?;
        if overdue {
            self.lanes
                .write("expire delegations", move |tx| match key_of(tx.sql, of)? {
                    Some(key) => expire(tx.sql, key, at),
                    None => Ok(()),
                })
                .await?;
        }
        self.lanes
            .read("delegations", move |sql| {
                let mut query = sql.prepare_cached(&format!(
                    "SELECT {COLUMNS} {FROM} WHERE d.workspace = (SELECT key FROM workspaces WHERE id = ?1)
                     ORDER BY d.sequence DESC LIMIT ?2"
                ))?;
                let rows = query.query_map(params![of, LISTED], delegation)?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }
}
