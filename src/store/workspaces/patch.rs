//! Changes the settings of a workspace.

use rusqlite::params;
use serde_json::{Value, json};

use super::read::{descendants, is_live, name_taken, one, paused_in_chain};
use crate::{
    domain::{
        event::EventKind,
        ids::WorkspaceId,
        naming::WorkspaceName,
        spec::{Part, SpecPatch, Unfit, diff},
        status::Status,
        time::Timestamp,
        workspace::Workspace,
    },
    store::{
        Store, StoreResult,
        lane::Tx,
        spec_columns::{SpecValues, spec_columns},
    },
};

/// Changes of a row that do not affect its status; `None` leaves a field unchanged.
#[derive(Clone, Debug, Default)]
pub struct WorkspaceEdit {
    /// Whether it has a work volume: `true` when one was created, `false` when it is gone for good.
    pub has_work_volume: Option<bool>,
    /// Configuration that was written to the config volume. It clears `config_pending` only if it is still the row's
    /// configuration.
    pub config_written: Option<String>,
    /// Port that its current container publishes. Ignored if the row is removed, or if another row has that port.
    pub host_port: Option<u16>,
}

/// Changes that an operator, or an agent for its own workspace, requests. `None` leaves a field unchanged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkspacePatch {
    /// Unique among live workspaces.
    pub name: Option<WorkspaceName>,
    /// Applied to the row's spec inside the transaction, so that two concurrent patches both take effect.
    pub spec: SpecPatch,
}

/// Result of a patch.
#[derive(Clone, Debug, PartialEq)]
pub enum PatchResult {
    /// The row after the patch.
    Patched(Box<Workspace>),
    /// A live workspace has that name.
    NameTaken,
    /// The new parent does not exist, or is removed.
    ParentMissing,
    /// The new parent is the workspace itself, or one of its descendants.
    Cycle,
    /// The new parent or one of its ancestors is paused, and the workspace is not; contains the name of the paused one.
    ParentPaused(WorkspaceName),
    /// The patch is not applicable to this workspace.
    Unfit(Unfit),
    /// No live row has this id.
    NotThere,
}

impl Store {
    /// Changes fields that do not affect the status.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn edit_workspace(&self, id: WorkspaceId, edit: WorkspaceEdit) -> StoreResult<()> {
        self.lanes
            .write("edit workspace", move |tx| {
                let WorkspaceEdit { has_work_volume, config_written, host_port } = edit;
                // Compare with the row: if its configuration was changed after the volume was written, the change stays
                // pending.
                let written = match config_written {
                    Some(config) => one(tx.sql, id)?.is_some_and(|row| row.spec.config == Some(config)),
                    None => false,
                };
                tx.sql
                    .prepare_cached(
                        "UPDATE workspaces SET has_work_volume = COALESCE(?2, has_work_volume),
                           config_pending = CASE WHEN ?3 THEN 0 ELSE config_pending END,
                           host_port = CASE
                             WHEN ?4 IS NULL OR status = 'removed' THEN host_port
                             WHEN EXISTS (SELECT 1 FROM workspaces o WHERE o.host_port = ?4 AND o.id <> ?1) THEN host_port
                             ELSE ?4 END
                         WHERE id = ?1",
                    )?
                    .execute(params![id, has_work_volume, written, host_port])?;
                if host_port.is_some() {
                    tx.touch(id);
                }
                Ok(())
            })
            .await
    }

    /// Applies a patch, completely or not at all.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn patch_workspace(
        &self,
        id: WorkspaceId,
        patch: WorkspacePatch,
        at: Timestamp,
    ) -> StoreResult<PatchResult> {
        self.lanes
            .write("patch workspace", move |tx| {
                let Some(row) = one(tx.sql, id)?.filter(|row| row.status != Status::Removed) else {
                    return Ok(PatchResult::NotThere);
                };
                let WorkspacePatch { name, spec: patch } = patch;
                if let Some(name) = name.as_ref().filter(|name| **name != row.name)
                    && name_taken(tx.sql, name)?
                {
                    return Ok(PatchResult::NameTaken);
                }
                if let Some(Some(parent)) = patch.parent {
                    if !is_live(tx.sql, parent)? {
                        return Ok(PatchResult::ParentMissing);
                    }
                    if parent == id || descendants(tx.sql, id)?.contains(&parent) {
                        return Ok(PatchResult::Cycle);
                    }
                    // Nothing may run below a paused workspace, so only a paused one may be moved there.
                    if row.status != Status::Paused
                        && let Some(paused) = paused_in_chain(tx.sql, parent)?
                    {
                        return Ok(PatchResult::ParentPaused(paused));
                    }
                }
                let sets_parent = patch.parent.is_some();
                let config_pending = row.config_pending || patch.config.is_some();
                let spec = match patch.accepted_by(row.kind, &row.spec) {
                    Ok(spec) => spec,
                    Err(unfit) => return Ok(PatchResult::Unfit(unfit)),
                };
                let new = Workspace {
                    name: name.unwrap_or_else(|| row.name.clone()),
                    spec,
                    config_pending,
                    ..row.clone()
                };
                if sets_parent {
                    // The patch sets the workspace's position: a later undelete of its former parent must not move it.
                    tx.sql
                        .prepare_cached("UPDATE workspaces SET was_below = NULL WHERE id = ?1")?
                        .execute([id])?;
                }
                if new != row {
                    write_patch(tx, &new)?;
                    tx.emit(at, EventKind::Updated, Some(id), changed_fields(&row, &new), None)?;
                }
                Ok(PatchResult::Patched(new.into()))
            })
            .await
    }
}

fn write_patch(tx: &Tx<'_>, new: &Workspace) -> StoreResult<()> {
    let spec = SpecValues::of(&new.spec)?;
    tx.sql
        .prepare_cached(concat!(
            "UPDATE workspaces SET name = :name, config_pending = :config_pending, (",
            spec_columns!(""),
            ") = (",
            spec_columns!(":"),
            ") WHERE id = :id"
        ))?
        .execute(&*spec.and(&[
            (":id", &new.id),
            (":name", &new.name.as_str()),
            (":config_pending", &new.config_pending),
        ]))?;
    Ok(())
}

/// Returns the names of the changed fields, with values only where they cannot contain secrets.
fn changed_fields(old: &Workspace, new: &Workspace) -> Value {
    let mut payload = serde_json::Map::new();
    if old.name != new.name {
        payload.insert("name".into(), json!(new.name));
    }
    if old.config_pending != new.config_pending {
        payload.insert("config".into(), json!("changed"));
    }
    for difference in diff(&old.spec, &new.spec) {
        if difference.field.part == Part::Container {
            payload.insert("spec".into(), json!("changed"));
        }
        payload.insert(difference.key.into(), difference.value);
    }
    Value::Object(payload)
}
