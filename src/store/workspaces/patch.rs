//! Changes the settings of a workspace.

use std::collections::BTreeSet;

use rusqlite::params;
use serde_json::{Value, json};

use super::read::{descendants, is_live, json_of, name_taken, one, paused_in_chain};
use crate::{
    domain::{
        event::EventKind,
        ids::WorkspaceId,
        naming::WorkspaceName,
        runtime::Tier,
        spec::{Spec, SpecPatch, Unfit},
        status::Status,
        time::Timestamp,
        workspace::{Kind, Policy, Workspace},
    },
    store::{Store, StoreResult, lane::Tx},
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
    /// Free text; empty clears it.
    pub role: Option<String>,
    /// Privilege tier.
    pub tier: Option<Tier>,
    /// Parent in the tree; `Some(None)` makes it a root.
    pub parent: Option<Option<WorkspaceId>>,
    /// Name of its runtime.
    pub runtime: Option<String>,
    /// Applied to the row's spec inside the transaction, so that two concurrent patches both take effect.
    pub spec: SpecPatch,
    /// URL of an external agent; empty clears it.
    pub url: Option<String>,
    /// Policy: hibernation, concurrency, restart when wedged.
    pub policy: Option<Policy>,
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
                let WorkspacePatch { name, role, tier, parent, runtime, spec, url, policy } = patch;
                if let Some(name) = name.as_ref().filter(|name| **name != row.name)
                    && name_taken(tx.sql, name)?
                {
                    return Ok(PatchResult::NameTaken);
                }
                if let Some(Some(parent)) = parent {
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
                if row.kind == Kind::External && spec != SpecPatch::default() {
                    return Ok(PatchResult::Unfit(Unfit::External));
                }
                let changes_parent = tier.is_some() || spec.workspace_dir.is_some();
                let config_pending = row.config_pending || spec.config.is_some();
                let spec = match spec.apply(&row.spec) {
                    Ok(spec) => spec,
                    Err(unfit) => return Ok(PatchResult::Unfit(unfit)),
                };
                if changes_parent && spec.workspace_dir.is_some() && tier.unwrap_or(row.tier) == Tier::SANDBOX
                {
                    return Ok(PatchResult::Unfit(Unfit::Sandbox));
                }
                let new = Workspace {
                    name: name.unwrap_or_else(|| row.name.clone()),
                    role: role
                        .map_or_else(|| row.role.clone(), |role| Some(role).filter(|role| !role.is_empty())),
                    tier: tier.unwrap_or(row.tier),
                    parent: parent.unwrap_or(row.parent),
                    runtime: runtime.unwrap_or_else(|| row.runtime.clone()),
                    spec,
                    config_pending,
                    url: url.map_or_else(|| row.url.clone(), |url| Some(url).filter(|url| !url.is_empty())),
                    policy: policy.unwrap_or(row.policy),
                    ..row.clone()
                };
                if parent.is_some() {
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
    tx.sql
        .prepare_cached(
            "UPDATE workspaces SET name = ?2, role = ?3, tier = ?4, parent_id = ?5, runtime = ?6, spec = ?7, url = ?8,
               hibernation_idle_minutes = ?9, max_concurrent_tasks = ?10, restart_when_wedged = ?11, config_pending = ?12
             WHERE id = ?1",
        )?
        .execute(params![
            new.id,
            new.name.as_str(),
            new.role,
            new.tier.number(),
            new.parent,
            new.runtime,
            json_of(&new.spec)?,
            new.url,
            new.policy.hibernation_idle_minutes,
            new.policy.max_concurrent_tasks,
            new.policy.restart_when_wedged,
            new.config_pending
        ])?;
    Ok(())
}

/// Returns the names of the changed fields, with values only where they cannot contain secrets.
fn changed_fields(old: &Workspace, new: &Workspace) -> Value {
    let mut payload = serde_json::Map::new();
    let mut note = |changed: bool, key: &str, value: Value| {
        if changed {
            payload.insert(key.to_owned(), value);
        }
    };
    note(old.name != new.name, "name", json!(new.name));
    note(old.role != new.role, "role", json!(new.role));
    note(old.tier != new.tier, "tier", json!(new.tier));
    note(old.parent != new.parent, "parent_id", json!(new.parent));
    note(old.runtime != new.runtime, "runtime", json!(new.runtime));
    note(old.spec.image != new.spec.image, "image", json!(new.spec.image));
    note(old.spec != new.spec, "spec", json!("changed"));
    let (old_env, new_env) = (&old.spec.env, &new.spec.env);
    let keys: BTreeSet<_> = old_env.keys().chain(new_env.keys()).collect();
    let keys: Vec<_> = keys.into_iter().filter(|key| old_env.get(*key) != new_env.get(*key)).collect();
    note(!keys.is_empty(), "env", json!(keys));
    note(old.spec.command != new.spec.command, "command", json!("changed"));
    let under = |spec: &Spec| (spec.workspace_dir.clone(), spec.workspace_access);
    note(under(&old.spec) != under(&new.spec), "workspace_dir", json!("changed"));
    note(
        old.spec.config != new.spec.config || old.config_pending != new.config_pending,
        "config",
        json!("changed"),
    );
    note(old.url != new.url, "url", json!(new.url));
    let (before, after) = (&old.policy, &new.policy);
    let idle = after.hibernation_idle_minutes;
    note(before.hibernation_idle_minutes != idle, "hibernation_idle_minutes", json!(idle));
    let tasks = after.max_concurrent_tasks;
    note(before.max_concurrent_tasks != tasks, "max_concurrent_tasks", json!(tasks));
    let restart = after.restart_when_wedged;
    note(before.restart_when_wedged != restart, "restart_when_wedged", json!(restart));
    note(before.delivery != after.delivery, "delivery_mode", json!(after.delivery));
    Value::Object(payload)
}
