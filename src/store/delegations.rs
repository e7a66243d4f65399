//! Delegations: tasks that one workspace gives to another and whose result it queries later.
//!
//! A row is `pending` until just before its task is sent, and `dispatched` from then on. So after a crash it is known
//! whether the task may have been sent. A task that was never sent is sent. A task that may have been sent fails, with
//! an error that says so. An open row is never dropped to make room: it fails when it is [`DEADLINE`] old. Overdue rows
//! are failed before it is decided whether there is room for another row, or whether a task is sent.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Store, StoreResult, row::word};
use crate::domain::{
    delegation::{DEADLINE, DelegationStatus},
    ids::{DelegationId, WorkspaceId},
    time::Timestamp,
};

/// Maximum number of open delegations of one workspace.
const OPEN_MAX: i64 = 64;
/// Finished delegations kept per workspace.
const KEPT: u32 = 100;
/// Maximum number of delegations in one answer.
const LISTED: u32 = 50;

/// Sets open delegations that are too old to `failed`. Callers append conditions that select the rows.
const EXPIRE: &str = "UPDATE delegations SET status = 'failed', finished_at = ?1,
       error = CASE WHEN sent_by_ostler = 1 AND status = 'pending'
                    THEN 'not sent: it waited longer than 6 hours' ELSE 'no result within 6 hours' END
     WHERE finished_at IS NULL AND created_at < ?2";

/// Delegation to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDelegation {
    /// Must be unused.
    pub id: DelegationId,
    /// Workspace that delegates the task.
    pub workspace: WorkspaceId,
    /// Workspace that is to do the task.
    pub target: WorkspaceId,
    /// Idempotency key chosen by the delegator: a task is delegated only once per key.
    pub key: Option<String>,
    /// Full text of the task.
    pub task: String,
    /// Whether ostler sends the task. Otherwise the delegator has sent it itself, and reports its progress.
    pub sent_by_ostler: bool,
    /// Time of the delegation.
    pub at: Timestamp,
}

/// Delegation as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// Unique among all delegations.
    pub id: DelegationId,
    /// Workspace that delegated the task.
    pub workspace: WorkspaceId,
    /// Workspace that is to do the task.
    pub target: WorkspaceId,
    /// Name of the target; `None` if its row no longer exists.
    pub target_name: Option<String>,
    /// The first 200 characters of the task.
    pub task: String,
    /// State of the task.
    pub status: DelegationStatus,
    /// Number of times it was sent.
    pub attempts: u32,
    /// Error text, if it failed.
    pub error: Option<String>,
    /// First part of the answer.
    pub response_preview: Option<String>,
    /// Time of the delegation.
    pub created_at: Timestamp,
    /// When it was completed or failed; `None` while it is open.
    pub finished_at: Option<Timestamp>,
}

/// Delegation that waits to be sent. Its task stays in the store until then, so that a long queue needs little memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Id of the delegation.
    pub id: DelegationId,
    /// Workspace that delegated the task.
    pub workspace: WorkspaceId,
}

/// Delegation that is about to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatched {
    /// Workspace that is to do the task.
    pub target: WorkspaceId,
    /// Full text of the task.
    pub task: String,
}

/// Which attempt to send a task this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The task was never sent.
    First,
    /// It was sent once, and the target agent was unreachable.
    Second,
}

/// Result of writing a delegation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delegated {
    /// The delegation is stored.
    New,
    /// A delegation with this id or key exists and is not started again; contains that delegation.
    Same(Box<Delegation>),
    /// Another workspace has a delegation with this id.
    Taken,
    /// The workspace already has the maximum number of open delegations.
    TooMany,
    /// The workspace is gone.
    Gone,
}

/// Contains only the first 200 characters of the task; the full text is read when the task is sent.
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

/// Sets the open delegations of a workspace that are too old to `failed`.
fn expire(sql: &Connection, workspace: i64, at: Timestamp) -> StoreResult<()> {
    sql.prepare_cached(&format!("{EXPIRE} AND workspace = ?3"))?.execute(params![
        at,
        at - DEADLINE,
        workspace
    ])?;
    Ok(())
}

impl Store {
    /// Stores a delegation as pending. A failed delegation with the same key loses its key. A failed delegation with
    /// the same id is replaced if ostler did not send it.
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
                    // ostler sends this delegation and determines its result, so the delegator cannot start it again.
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
                    // Insert a new row instead of updating it, because the list shows the newest row first.
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

    /// Records that a task is about to be sent, and returns the task.
    ///
    /// Returns `None` if the task must not be sent: the delegation has finished in the meantime, or this attempt was
    /// recorded before. So a delegation that is queued twice is sent once.
    ///
    /// # Errors
    /// When the store cannot answer. The task must not be sent then.
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

    /// Changes the status of an open delegation, and returns the resulting status. A finished one keeps its status.
    /// `None` if the workspace has no such delegation.
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
            .write("update delegation", move |tx| {
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

    /// Processes the delegations that an earlier daemon left open.
    ///
    /// Returns those that were never sent and are to be sent now. Delegations that may have been sent, or that are too
    /// old, are set to `failed`.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn take_up_delegations(&self, at: Timestamp) -> StoreResult<Vec<Waiting>> {
        self.lanes
            .write("resume delegations", move |tx| {
                tx.sql
                    .prepare_cached(
                        "UPDATE delegations SET status = 'failed', finished_at = ?1,
                           error = 'ostler was restarted before the agent answered: the task may have been done'
                         WHERE sequence IN (SELECT sequence FROM delegations INDEXED BY delegations_open
                                            WHERE finished_at IS NULL AND sent_by_ostler = 1
                                              AND status = 'dispatched')",
                    )?
                    .execute([at])?;
                // Delegations that their delegators sent themselves are excluded: they expire when the delegator lists
                // its delegations or begins another.
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

    /// Returns a workspace's delegations, newest first. Sets overdue ones to `failed` before.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn delegations(&self, of: WorkspaceId, at: Timestamp) -> StoreResult<Vec<Delegation>> {
        // Agents poll this often, so it writes only if a delegation is overdue.
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
