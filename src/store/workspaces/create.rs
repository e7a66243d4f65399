//! Creates workspaces, and assigns their ports.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

use super::PortRange;
use super::read::{is_live, name_taken, paused_in_chain};
use crate::{
    domain::{
        event::EventKind,
        ids::WorkspaceId,
        naming::WorkspaceName,
        spec::WorkspaceSpec,
        status::Status,
        time::Timestamp,
        workspace::{Delivery, Kind},
    },
    store::{
        Store, StoreResult,
        lane::Tx,
        spec_columns::{SpecValues, spec_columns},
        tokens::TokenIssue,
    },
};

/// A workspace to create.
#[derive(Clone, Debug)]
pub struct NewWorkspace {
    /// Must be unused.
    pub id: WorkspaceId,
    /// Unique among live workspaces.
    pub name: WorkspaceName,
    /// Container or external.
    pub kind: Kind,
    /// Delivery of messages.
    pub delivery: Delivery,
    /// Its spec.
    pub spec: WorkspaceSpec,
    /// First API token of an external workspace.
    pub token: Option<TokenIssue>,
}

/// Result of creating a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateResult {
    /// Created; contains the registry's new generation.
    Created(i64),
    /// A live workspace has that name.
    NameTaken,
    /// The parent does not exist, or is removed.
    ParentMissing,
    /// The parent or one of its ancestors is paused; contains the name of the paused one.
    ParentPaused(WorkspaceName),
}

impl Store {
    /// Creates a workspace's row. The caller creates container and volumes afterwards, and only if this succeeded.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn create_workspace(&self, new: NewWorkspace, at: Timestamp) -> StoreResult<CreateResult> {
        Ok(self.accept_creation(new, None, at).await?.result)
    }

    /// Allocates the next container serial number, and a host port if the row has none or its port is in `taken`.
    ///
    /// Returns `None` if the row is gone or the range has no free port. `taken` lists ports that were found busy on the
    /// host.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn allot(
        &self,
        id: WorkspaceId,
        ports: PortRange,
        taken: Vec<u16>,
    ) -> StoreResult<Option<(u32, u16)>> {
        self.lanes
            .write("allocate port", move |tx| {
                let held: Option<Option<u16>> = tx
                    .sql
                    .prepare_cached("SELECT host_port FROM workspaces WHERE id = ?1 AND status <> 'removed'")?
                    .query_row([id], |row| row.get(0))
                    .optional()?;
                let Some(held) = held else { return Ok(None) };
                let port = match held.filter(|port| !taken.contains(port)) {
                    Some(port) => Some(port),
                    None => free_port(tx.sql, ports, &taken)?,
                };
                let Some(port) = port else { return Ok(None) };
                let serial = tx
                    .sql
                    .prepare_cached(
                        "UPDATE workspaces SET container_serial = container_serial + 1, host_port = ?2
                         WHERE id = ?1 RETURNING container_serial",
                    )?
                    .query_row(params![id, port], |row| row.get(0))?;
                tx.touch(id);
                Ok(Some((serial, port)))
            })
            .await
    }
}

pub(super) fn add_heartbeat_row(tx: &Tx<'_>, id: WorkspaceId) -> StoreResult<()> {
    tx.sql
        .prepare_cached("INSERT OR IGNORE INTO pulse (workspace) SELECT key FROM workspaces WHERE id = ?1")?
        .execute([id])?;
    Ok(())
}

pub(super) fn insert(tx: &mut Tx<'_>, new: &NewWorkspace, at: Timestamp) -> StoreResult<()> {
    let (status, event) = match (new.kind, &new.spec.url) {
        (Kind::Container, _) => (Status::Provisioning, EventKind::Provisioning),
        (Kind::External, None) => (Status::AwaitingAgent, EventKind::AwaitingAgent),
        (Kind::External, Some(_)) => (Status::Online, EventKind::Online),
    };
    let spec = SpecValues::of(&new.spec)?;
    tx.sql
        .prepare_cached(concat!(
            "INSERT INTO workspaces (id, name, kind, delivery_mode, status, status_since, created_at, online_since, ",
            spec_columns!(""),
            ") VALUES (:id, :name, :kind, :delivery_mode, :status, :at, :at,
                       CASE :status WHEN 'online' THEN :at END, ",
            spec_columns!(":"),
            ")"
        ))?
        .execute(
            &*spec.and(&[
                (":id", &new.id),
                (":name", &new.name.as_str()),
                (":kind", &new.kind.as_str()),
                (":delivery_mode", &new.delivery.as_str()),
                (":status", &status.as_str()),
                (":at", &at),
            ]),
        )?;
    add_heartbeat_row(tx, new.id)?;
    if let Some(token) = &new.token {
        tx.sql
            .prepare_cached(
                "INSERT INTO tokens (id, workspace, kind, digest, prefix, created_at)
                 SELECT ?1, key, 'api', ?3, ?4, ?5 FROM workspaces WHERE id = ?2",
            )?
            .execute(params![token.id, new.id, token.digest.0, token.prefix, at])?;
    }
    let payload = json!({ "name": new.name, "tier": new.spec.tier, "runtime": new.spec.runtime });
    tx.emit(at, event, Some(new.id), payload, None)
}

fn free_port(sql: &Connection, ports: PortRange, taken: &[u16]) -> StoreResult<Option<u16>> {
    let mut query = sql.prepare_cached(
        "SELECT host_port FROM workspaces WHERE host_port BETWEEN ?1 AND ?2 ORDER BY host_port",
    )?;
    let held = query
        .query_map([ports.first, ports.last], |row| row.get(0))?
        .collect::<Result<std::collections::BTreeSet<u16>, _>>()?;
    Ok((ports.first..=ports.last).find(|port| !held.contains(port) && !taken.contains(port)))
}

/// See [`Store::create_workspace`].
pub(in crate::store) fn create(
    tx: &mut Tx<'_>,
    new: &NewWorkspace,
    at: Timestamp,
) -> StoreResult<CreateResult> {
    if name_taken(tx.sql, &new.name)? {
        return Ok(CreateResult::NameTaken);
    }
    if let Some(parent) = new.spec.parent
        && !is_live(tx.sql, parent)?
    {
        return Ok(CreateResult::ParentMissing);
    }
    if let Some(parent) = new.spec.parent
        && let Some(paused) = paused_in_chain(tx.sql, parent)?
    {
        return Ok(CreateResult::ParentPaused(paused));
    }
    insert(tx, new, at)?;
    tx.raise_known().map(CreateResult::Created)
}
