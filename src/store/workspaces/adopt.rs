//! Adopts containers: rebuilds rows that were lost, and takes over newer containers of known rows.

use rusqlite::params;
use serde_json::json;

use super::{
    create::add_heartbeat_row,
    read::{is_deleted, is_live, name_taken, one},
    status::{StatusChange, change_status},
    undelete::{UndeletedUnder, regroup_skipped, removed_parent, return_below, undelete_row},
};
use crate::{
    domain::{
        event::EventKind,
        ids::{ContainerId, Incarnation, WorkspaceId},
        naming::WorkspaceName,
        spec::WorkspaceSpec,
        status::{Cause, Status},
        time::Timestamp,
        workspace::Kind,
    },
    store::{
        Store, StoreResult,
        lane::Tx,
        spec_columns::{SpecValues, spec_columns},
        tokens::{HeldToken, TokenIssue, take_token},
    },
};

/// A row reconstructed from container and volume labels.
#[derive(Clone, Debug)]
pub struct AdoptedWorkspace {
    /// Id from the labels.
    pub id: WorkspaceId,
    /// Name from the labels, or another that is free.
    pub name: WorkspaceName,
    /// Spec from the labels. Its parent is stored only if it has a live row.
    pub spec: WorkspaceSpec,
    /// Its container; `None` if it no longer exists.
    pub container: Option<ContainerId>,
    /// Serial number in the container's name.
    pub serial: u32,
    /// Port that the container publishes.
    pub host_port: Option<u16>,
    /// Whether its work volume exists.
    pub has_work_volume: bool,
    /// Whether its process runs: the row is then `online`, otherwise `paused`.
    pub running: bool,
    /// Hash of the input its container was created from; `None` if the labels do not contain it.
    pub spec_hash: Option<String>,
    /// Token found in the volume of the container.
    pub token: Option<TokenIssue>,
    /// Evidence for the adoption; part of the event.
    pub evidence: String,
}

/// A container to assign to an existing row. The registry was restored from a copy, so the row does not name this
/// container, or has outdated data about it.
#[derive(Clone, Debug)]
pub struct AdoptedContainer {
    /// Workspace that owns the container.
    pub workspace: WorkspaceId,
    /// Incarnation of the row when the adoption was decided. The adoption is refused if the row has another one by now.
    pub incarnation: Incarnation,
    /// Id in the engine.
    pub container: ContainerId,
    /// Serial number in the container's name.
    pub serial: u32,
    /// Port that the container publishes.
    pub host_port: Option<u16>,
    /// Whether its process runs: the row is then `online`, otherwise `paused`.
    pub running: bool,
    /// Hash of the input the container was created from; `None` if its labels do not contain it.
    pub spec_hash: Option<String>,
    /// Token found in the volume of the container.
    pub token: Option<TokenIssue>,
    /// Evidence for the adoption; part of the event.
    pub evidence: String,
}

/// Result of adopting a container of a known workspace. Only `Adopted` changes anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerAdoption {
    /// The row now refers to the container.
    Adopted {
        /// Whether the token that the process holds is valid.
        token: HeldToken,
        /// Effect on the tree, if the row was removed before.
        under: UndeletedUnder,
    },
    /// The row changed after the decision, or the recovery has ended.
    Changed,
    /// The row is removed, and a live workspace has its name.
    NameTaken,
    /// The row is removed, and its resources were purged or are being purged.
    Deleted,
}

impl Store {
    /// Creates the row of a workspace that is known only from the labels of its container and volumes. Returns the
    /// state of the token that was found in the container's volume. `None` if the workspace has a row, or a trash entry
    /// that is not being restored, or if the name is taken.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn adopt_workspace(
        &self,
        adopted: AdoptedWorkspace,
        at: Timestamp,
    ) -> StoreResult<Option<HeldToken>> {
        self.lanes
            .write("adopt workspace", move |tx| {
                let known: bool = tx
                    .sql
                    .prepare_cached(
                        "SELECT EXISTS (SELECT 1 FROM workspaces WHERE id = ?1)
                             OR EXISTS (SELECT 1 FROM trash WHERE workspace = ?1 AND state <> 'restoring')",
                    )?
                    .query_row([adopted.id], |row| row.get(0))?;
                if known || name_taken(tx.sql, &adopted.name)? {
                    return Ok(None);
                }
                let token = insert_adopted(tx, &adopted, at)?;
                // From here on, an entry that is being restored belongs to this row. If the row is removed before the
                // restore finishes, the entry is treated like that of any removed row, and an undelete finds it.
                tx.sql
                    .prepare_cached(
                        "UPDATE trash SET reason = 'removed' WHERE workspace = ?1 AND state = 'restoring'",
                    )?
                    .execute([adopted.id])?;
                tx.raise_known()?;
                Ok(Some(token))
            })
            .await
    }

    /// Assigns to an existing row its container in the engine, and the token in the container's volume. Possible only
    /// while the registry is recovering. A removed row is undeleted first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn adopt_container(
        &self,
        adopted: AdoptedContainer,
        at: Timestamp,
    ) -> StoreResult<ContainerAdoption> {
        self.lanes
            .write("adopt container", move |tx| {
                let id = adopted.workspace;
                let recovering: bool = tx
                    .sql
                    .prepare_cached("SELECT EXISTS (SELECT 1 FROM registry WHERE recovering_since IS NOT NULL)")?
                    .query_row([], |row| row.get(0))?;
                let row = one(tx.sql, id)?
                    .filter(|row| row.incarnation == adopted.incarnation && row.kind == Kind::Container);
                let Some(row) = row.filter(|_| recovering) else { return Ok(ContainerAdoption::Changed) };
                let mut under = UndeletedUnder::default();
                if row.status == Status::Removed {
                    if is_deleted(tx.sql, id)? {
                        return Ok(ContainerAdoption::Deleted);
                    }
                    if name_taken(tx.sql, &row.name)? {
                        return Ok(ContainerAdoption::NameTaken);
                    }
                    undelete_row(tx, id, &row.name, None, at)?;
                    under.removed_parent = removed_parent(tx.sql, id)?;
                    return_below(tx, id, &mut under, at)?;
                    regroup_skipped(tx, id)?;
                }
                let incarnation = row.incarnation.next();
                let token = take_token(tx, id, incarnation, adopted.token.as_ref(), at)?;
                let change = StatusChange {
                    workspace: id,
                    cause: if adopted.running { Cause::Adopt } else { Cause::Pause },
                    incarnation: None,
                    detail: Some("adopted".to_owned()),
                    payload: json!({
                        "name": row.name,
                        "status": if adopted.running { Status::Online } else { Status::Paused }.as_str(),
                        "container": adopted.container,
                        "evidence": adopted.evidence,
                        "token": token.as_str(),
                    }),
                    at,
                };
                if !change_status(tx, &change, EventKind::Adopted)? {
                    tx.raise()?;
                    tx.emit(at, EventKind::Adopted, Some(id), change.payload, None)?;
                }
                // If the row names this container already, its stored spec hash stays.
                tx.sql
                    .prepare_cached(
                        "UPDATE workspaces SET incarnation = ?2, container_id = ?3,
                           container_spec_hash = CASE WHEN container_id = ?3 THEN container_spec_hash ELSE ?6 END,
                           container_serial = MAX(container_serial, ?4),
                           host_port = CASE WHEN EXISTS (SELECT 1 FROM workspaces o WHERE o.host_port = ?5 AND o.id <> ?1)
                                            THEN NULL ELSE ?5 END
                         WHERE id = ?1",
                    )?
                    .execute(params![
                        id,
                        incarnation,
                        adopted.container.as_str(),
                        adopted.serial,
                        adopted.host_port,
                        adopted.spec_hash
                    ])?;
                Ok(ContainerAdoption::Adopted { token, under })
            })
            .await
    }
}

fn insert_adopted(tx: &mut Tx<'_>, adopted: &AdoptedWorkspace, at: Timestamp) -> StoreResult<HeldToken> {
    let status = if adopted.running { Status::Online } else { Status::Paused };
    let port_taken: bool = tx
        .sql
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM workspaces WHERE host_port = ?1)")?
        .query_row([adopted.host_port], |row| row.get(0))?;
    let parent = match adopted.spec.parent {
        Some(parent) if is_live(tx.sql, parent)? => Some(parent),
        Some(_) | None => None,
    };
    let spec = SpecValues::of(&WorkspaceSpec { parent, ..adopted.spec.clone() })?;
    tx.sql
        .prepare_cached(concat!(
            "INSERT INTO workspaces (id, name, kind, status, status_since, status_detail, incarnation, container_id,
                                     container_serial, host_port, has_work_volume, created_at, container_spec_hash, ",
            spec_columns!(""),
            ") VALUES (:id, :name, 'container', :status, :at, 'adopted', :incarnation, :container_id,
                       :container_serial, :host_port, :has_work_volume, :at, :spec_hash, ",
            spec_columns!(":"),
            ")"
        ))?
        .execute(
            &*spec.and(&[
                (":id", &adopted.id),
                (":name", &adopted.name.as_str()),
                (":status", &status.as_str()),
                (":at", &at),
                (":incarnation", &Incarnation(1)),
                (":container_id", &adopted.container.as_ref().map(ContainerId::as_str)),
                (":container_serial", &adopted.serial),
                (":host_port", &adopted.host_port.filter(|_| !port_taken)),
                (":has_work_volume", &adopted.has_work_volume),
                (":spec_hash", &adopted.spec_hash),
            ]),
        )?;
    add_heartbeat_row(tx, adopted.id)?;
    let token = take_token(tx, adopted.id, Incarnation(1), adopted.token.as_ref(), at)?;
    let payload = json!({
        "name": adopted.name,
        "status": status.as_str(),
        "container": adopted.container,
        "evidence": adopted.evidence,
        "token": token.as_str(),
    });
    tx.emit(at, EventKind::Adopted, Some(adopted.id), payload, None)?;
    Ok(token)
}
