//! Queries of agent data outside the workspace row: last reports and peers.

use rusqlite::{Connection, Row, params};
use serde_json::Value;

use super::{
    Scope, Store, StoreResult, row,
    workspace_columns::{WORKSPACE_COLUMN_COUNT, WORKSPACE_COLUMNS, workspace},
};
use crate::domain::{heartbeat::Fields, ids::WorkspaceId, time::Timestamp, workspace::Workspace};

/// Last report of an agent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vitals {
    /// When the last heartbeat was received.
    pub last_heartbeat_at: Option<Timestamp>,
    /// When a task, a message or a start was last recorded.
    pub last_activity_at: Option<Timestamp>,
    /// Share of the agent's recent requests that failed, 0 to 1.
    pub error_rate: f64,
    /// Number of tasks that the agent works on.
    pub active_tasks: u32,
    /// Uptime of the agent, in seconds.
    pub uptime_seconds: i64,
    /// Spending of the agent this month, in cents.
    pub monthly_spend_cents: i64,
    /// Time at which the workspace was flagged as stalled.
    pub wedged_since: Option<Timestamp>,
    /// Agent card, as the agent sent it.
    pub agent_card: Option<Value>,
    /// Description of the current task; empty for none.
    pub current_task: String,
    /// Example of a recent error; empty for none.
    pub sample_error: String,
    /// State in the agent's own words; empty for none.
    pub runtime_state: String,
    /// Fields of the last heartbeat and the last registration that could not be used.
    pub refused: Fields,
}

/// A workspace row with the last report of its agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Row of the workspace.
    pub row: Workspace,
    /// Last report of its agent.
    pub vitals: Vitals,
}

/// Number of columns before those of [`VITALS`].
const AFTER: usize = WORKSPACE_COLUMN_COUNT;

const VITALS: &str = "p.last_heartbeat_at, p.last_activity_at, p.error_rate, p.active_tasks, p.uptime_seconds, \
     p.monthly_spend_cents, p.wedged_since, r.agent_card, r.current_task, r.sample_error, r.runtime_state, \
     r.refused";

const FROM: &str =
    "FROM workspaces w LEFT JOIN pulse p ON p.workspace = w.key LEFT JOIN reports r ON r.workspace = w.key";

fn described(row: &Row<'_>) -> rusqlite::Result<Described> {
    let card: Option<String> = row.get(AFTER + 7)?;
    let text = |index| row.get::<_, Option<String>>(index).map(Option::unwrap_or_default);
    Ok(Described {
        row: workspace(row)?,
        vitals: Vitals {
            last_heartbeat_at: row.get(AFTER)?,
            last_activity_at: row.get(AFTER + 1)?,
            error_rate: row.get::<_, Option<f64>>(AFTER + 2)?.unwrap_or(0.0),
            active_tasks: row.get::<_, Option<u32>>(AFTER + 3)?.unwrap_or(0),
            uptime_seconds: row.get::<_, Option<i64>>(AFTER + 4)?.unwrap_or(0),
            monthly_spend_cents: row.get::<_, Option<i64>>(AFTER + 5)?.unwrap_or(0),
            wedged_since: row.get(AFTER + 6)?,
            agent_card: card.map(|card| serde_json::from_str(&card)).transpose().map_err(row::conversion)?,
            current_task: text(AFTER + 8)?,
            sample_error: text(AFTER + 9)?,
            runtime_state: text(AFTER + 10)?,
            refused: Fields::parse(&text(AFTER + 11)?),
        },
    })
}

fn read(sql: &Connection, tail: &str, bind: impl rusqlite::Params) -> StoreResult<Vec<Described>> {
    let text = format!("SELECT {WORKSPACE_COLUMNS}, {VITALS} {FROM} {tail}");
    Ok(sql.prepare_cached(&text)?.query_map(bind, described)?.collect::<Result<_, _>>()?)
}

impl Store {
    /// Returns a workspace and the last report of its agent, removed or not.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn describe(&self, id: WorkspaceId) -> StoreResult<Option<Described>> {
        self.lanes
            .read("describe", move |sql| Ok(read(sql, "WHERE w.id = ?1", [id])?.into_iter().next()))
            .await
    }

    /// Returns workspaces with the last reports of their agents, oldest first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn describe_all(&self, scope: Scope) -> StoreResult<Vec<Described>> {
        self.lanes
            .read("describe all", move |sql| {
                read(sql, &format!("WHERE {} ORDER BY w.created_at, w.key", scope.condition()), [])
            })
            .await
    }

    /// Returns a workspace's neighbours in the tree: children of the same parent, its own children, its parent.
    ///
    /// With `root_siblings`, the other roots count as siblings of a root.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn peers(&self, of: WorkspaceId, root_siblings: bool) -> StoreResult<Vec<Described>> {
        self.lanes
            .read("peers", move |sql| {
                let parent: Option<WorkspaceId> = sql
                    .prepare_cached("SELECT parent_id FROM workspaces WHERE id = ?1 AND status <> 'removed'")?
                    .query_row([of], |row| row.get(0))?;
                let mut peers = match parent {
                    Some(parent) => read(
                        sql,
                        "WHERE w.parent_id = ?1 AND w.status <> 'removed' ORDER BY w.created_at, w.key",
                        [parent],
                    )?,
                    None if root_siblings => read(
                        sql,
                        "WHERE w.parent_id IS NULL AND w.status <> 'removed' ORDER BY w.created_at, w.key",
                        [],
                    )?,
                    None => Vec::new(),
                };
                peers.retain(|peer| peer.row.id != of);
                peers.extend(read(
                    sql,
                    "WHERE w.parent_id = ?1 AND w.status <> 'removed' ORDER BY w.created_at, w.key",
                    [of],
                )?);
                if let Some(parent) = parent {
                    peers.extend(read(sql, "WHERE w.id = ?1 AND w.status <> 'removed'", params![parent])?);
                }
                Ok(peers)
            })
            .await
    }
}
