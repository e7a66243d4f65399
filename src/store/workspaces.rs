//! Workspace rows: create, look up, patch, change status, start, remove, undelete, adopt.
//!
//! `change_status` is the only function that changes the status of an existing row.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use super::{
    Store, StoreResult,
    events::{newest_sequence, was_undeleted_after},
    lane::Tx,
    row::{self, WORKSPACE_COLUMNS, workspace},
    tokens::{HeldToken, TokenIssue, revoke_instance_tokens, rotate_instance_token, take_token},
    trash::{NewClaim, begin_restore, insert_claim},
};
use crate::domain::{
    access::STEPS_MAX,
    event::EventKind,
    ids::{ContainerId, IdPrefix, Incarnation, WorkspaceId, id_prefix},
    naming::WorkspaceName,
    runtime::Tier,
    spec::{Spec, SpecPatch, Unfit},
    status::{Cause, Status},
    time::Timestamp,
    workspace::{Kind, Policy, Workspace},
};
use crate::testing::mutation::{Mutation, is};

pub use crate::domain::ports::PortRange;

/// A workspace to create.
#[derive(Clone, Debug)]
pub struct NewWorkspace {
    /// Must be unused.
    pub id: WorkspaceId,
    /// Unique among live workspaces.
    pub name: WorkspaceName,
    /// Free text that describes its purpose.
    pub role: Option<String>,
    /// Container or external.
    pub kind: Kind,
    /// Name of its runtime.
    pub runtime: String,
    /// Privilege tier.
    pub tier: Tier,
    /// Parent in the tree; `None` makes it a root.
    pub parent: Option<WorkspaceId>,
    /// Input from which its container is created.
    pub spec: Spec,
    /// URL of an external agent.
    pub url: Option<String>,
    /// First API token of an external workspace.
    pub token: Option<TokenIssue>,
    /// Policy: hibernation, concurrency, restart when wedged, delivery.
    pub policy: Policy,
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

/// Which rows a query considers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Rows that are not removed.
    Live,
    /// Removed rows only.
    Removed,
    /// All rows; a live row comes before a removed one of the same name.
    Any,
}

impl Scope {
    pub(super) fn condition(self) -> &'static str {
        match self {
            Self::Live => "w.status <> 'removed'",
            Self::Removed => "w.status = 'removed'",
            Self::Any => "TRUE",
        }
    }
}

/// Result of resolving a name, id or id prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Exactly one row matches.
    One(Box<Workspace>),
    /// Several rows match: their names and ids.
    Many(Vec<(WorkspaceName, WorkspaceId)>),
    /// No row matches; contains the names that exist (at most 10000).
    None(Vec<WorkspaceName>),
}

/// A status change. The cause determines the allowed source statuses.
#[derive(Clone, Debug)]
pub struct StatusChange {
    /// Workspace whose status changes.
    pub workspace: WorkspaceId,
    /// Determines the allowed source statuses and the target status.
    pub cause: Cause,
    /// Applies only to this incarnation; `None` applies to any.
    pub incarnation: Option<Incarnation>,
    /// Text shown beside the status.
    pub detail: Option<String>,
    /// Payload of the emitted event.
    pub payload: Value,
    /// Becomes `status_since` and the event's time.
    pub at: Timestamp,
}

/// Input of the transaction that begins a start. After its commit, the row names the container that is then started.
#[derive(Clone, Debug)]
pub struct BeginStart {
    /// Workspace to start.
    pub workspace: WorkspaceId,
    /// Restart, start by an operator, resume or wake. If the row is provisioning already, its status stays.
    pub cause: Cause,
    /// The container to start. The row names it before its process runs.
    pub container: ContainerId,
    /// Hash of the input the container was created from.
    pub spec_hash: String,
    /// Instance token of the new incarnation.
    pub token: TokenIssue,
    /// Sequence number of the newest event when the start was ordered. The start is refused if the workspace was
    /// undeleted after that event. The row alone does not show this: a workspace that was removed and undeleted is
    /// paused, as it may have been before.
    pub not_undeleted_after: Option<i64>,
    /// The container that this start replaces. It is claimed for the trash in the same transaction: after a crash, the
    /// next sweep finds the claim and completes it.
    pub replaces: Option<NewClaim>,
    /// For a restart of a degraded or stalled workspace: the sweep pass that ordered it, and the reason. The event of
    /// the restart is written in this transaction.
    pub degraded: Option<(&'static str, String)>,
    /// Time of the status change and of the events.
    pub at: Timestamp,
}

/// Result of a start that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Incarnation of the new container process.
    pub incarnation: Incarnation,
}

/// Result of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoveResult {
    /// The status of all these rows is now `removed`.
    Removed {
        /// The workspace and its descendants.
        removed: Vec<WorkspaceId>,
    },
    /// The workspace has children, and `cascade` was not set; contains the direct children.
    HasChildren(Vec<(WorkspaceId, WorkspaceName)>),
    /// No live row has this id.
    NotThere,
}

/// Result of an undelete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UndeleteResult {
    /// The row is live again, with status `paused`.
    Back {
        /// Whether an entry of the trash is being restored to the workspace.
        restoring: bool,
        /// The descendants that the same removal had removed, parents first.
        along: Vec<UndeletedAlong>,
        /// Effect on the workspace's position in the tree, and on workspaces that were below it before.
        under: UndeletedUnder,
    },
    /// A live workspace has that name.
    NameTaken,
    /// Its resources were purged, or are being purged.
    Deleted,
    /// No removed row has this id.
    NotThere,
}

/// Effect of an undelete on the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UndeletedUnder {
    /// Name of the workspace's parent, if the parent is removed. The workspace is a root until the parent is undeleted.
    pub removed_parent: Option<WorkspaceName>,
    /// Workspaces that were roots because their parent was removed, and are now below that parent again.
    pub returned: Vec<WorkspaceName>,
    /// Workspaces that were roots for the same reason and stay roots, because they are not paused: no workspace may run
    /// below a paused parent.
    pub skipped_roots: Vec<WorkspaceName>,
}

/// Effect of an undelete on a descendant that the same removal had removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndeletedAlong {
    /// Id of the descendant.
    pub id: WorkspaceId,
    /// Name of the descendant, as stored.
    pub name: WorkspaceName,
    /// Why it is still removed; `None` if it was undeleted too.
    pub left: Option<UndeleteSkip>,
}

/// Why an undelete leaves a descendant of the same removal removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UndeleteSkip {
    /// A live workspace has its name.
    NameTaken,
    /// Its resources were purged, or are being purged.
    Deleted,
    /// The contained ancestor stays removed. An undelete of that ancestor also restores the descendant.
    Below(WorkspaceName),
}

/// A row reconstructed from container and volume labels.
#[derive(Clone, Debug)]
pub struct AdoptedWorkspace {
    /// Id from the labels.
    pub id: WorkspaceId,
    /// Name from the labels, or another that is free.
    pub name: WorkspaceName,
    /// Role recorded in the labels.
    pub role: Option<String>,
    /// Runtime from the labels.
    pub runtime: String,
    /// Tier from the labels.
    pub tier: Tier,
    /// Parent; stored only if it has a live row.
    pub parent: Option<WorkspaceId>,
    /// Input from which its container was created.
    pub spec: Spec,
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

/// Changes the status of a row, and returns whether the row was changed. No other function changes a status.
///
/// `false` means that another change came first: the row's status does not allow this change, or the row has another
/// incarnation. No event is emitted in that case.
///
/// The change also clears fields that belong to the previous status: a due restart, and the links `paused_with` and
/// `removed_with`. A start, resume or pause by an operator resets the restart budget.
pub(super) fn change_status(tx: &mut Tx<'_>, change: &StatusChange, event: EventKind) -> StoreResult<bool> {
    let target = change.cause.target();
    let sources = if is(Mutation::DenyList) {
        Status::ALL
            .into_iter()
            .filter(|status| *status != target && *status != Status::Removed)
            .map(code)
            .collect()
    } else {
        change.cause.sources().iter().map(|status| code(*status)).collect::<Vec<String>>()
    };
    let changed = tx
        .sql
        .prepare_cached(
            "UPDATE workspaces SET status = ?2, failure = ?3, status_detail = ?4, status_since = ?5,
               removed_at = CASE ?2 WHEN 'removed' THEN ?5 END,
               online_since = CASE ?2 WHEN 'online' THEN COALESCE(online_since, ?5) WHEN 'degraded' THEN online_since END,
               paused_with = NULL, removed_with = NULL, restart_due_at = NULL,
               ends = CASE WHEN ?9 THEN '[]' ELSE ends END
             WHERE id = ?1 AND (?6 IS NULL OR incarnation = ?6) AND (?8 IS NULL OR kind = ?8)
               AND status || COALESCE(':' || failure, '') IN (SELECT value FROM rarray(?7))",
        )?
        .execute(params![
            change.workspace,
            target.as_str(),
            target.failure().map(crate::domain::status::Failure::as_str),
            change.detail,
            change.at,
            change.incarnation,
            row::texts(&sources),
            change.cause.only_kind().map(Kind::as_str),
            matches!(change.cause, Cause::StartByOperator | Cause::Resume | Cause::Pause)
        ])?;
    if changed > 0 && change.cause.is_decision() && !is(Mutation::MirrorCreationsOnly) {
        tx.raise()?;
    }
    if changed > 0 && !(is(Mutation::SilentChange) && change.cause == Cause::ContainerGone) {
        tx.emit(change.at, event, Some(change.workspace), change.payload.clone(), None)?;
    }
    Ok(changed > 0)
}

fn code(status: Status) -> String {
    match status.failure() {
        Some(failure) => format!("{}:{}", status.as_str(), failure.as_str()),
        None => status.as_str().to_owned(),
    }
}

/// Returns the event type that reports a status change with this cause.
pub(super) fn event_of(cause: Cause) -> EventKind {
    match cause {
        Cause::HeartbeatReceived | Cause::ContainerReady => EventKind::Online,
        Cause::ProvisioningTimedOut | Cause::StartImpossible => EventKind::ProvisionFailed,
        Cause::ReportedDegraded => EventKind::Degraded,
        Cause::ContainerGone => EventKind::Offline,
        Cause::ExternalSilent | Cause::AwaitAgain => EventKind::AwaitingAgent,
        Cause::Restart | Cause::StartByOperator | Cause::Resume | Cause::Wake => EventKind::Provisioning,
        Cause::BudgetSpent => EventKind::Parked,
        Cause::Pause => EventKind::Paused,
        Cause::BeginHibernation => EventKind::Hibernating,
        Cause::FinishHibernation => EventKind::Hibernated,
        Cause::Remove => EventKind::Removed,
        Cause::Undelete => EventKind::Undeleted,
        Cause::Adopt => EventKind::Adopted,
    }
}

pub(super) fn one(sql: &Connection, id: WorkspaceId) -> StoreResult<Option<Workspace>> {
    let text = format!("SELECT {WORKSPACE_COLUMNS} FROM workspaces w WHERE w.id = ?1");
    Ok(sql.prepare_cached(&text)?.query_row([id], workspace).optional()?)
}

pub(super) fn many(sql: &Connection, tail: &str, bind: impl rusqlite::Params) -> StoreResult<Vec<Workspace>> {
    let text = format!("SELECT {WORKSPACE_COLUMNS} FROM workspaces w {tail}");
    Ok(sql.prepare_cached(&text)?.query_map(bind, workspace)?.collect::<Result<_, _>>()?)
}

pub(super) fn name_taken(sql: &Connection, name: &WorkspaceName) -> StoreResult<bool> {
    Ok(sql
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM workspaces WHERE name = ?1 AND status <> 'removed')")?
        .query_row([name.as_str()], |row| row.get(0))?)
}

fn is_live(sql: &Connection, id: WorkspaceId) -> StoreResult<bool> {
    Ok(sql
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM workspaces WHERE id = ?1 AND status <> 'removed')")?
        .query_row([id], |row| row.get(0))?)
}

fn json_of(spec: &Spec) -> StoreResult<String> {
    serde_json::to_string(spec).map_err(|error| super::StoreError::new(error.to_string()))
}

fn add_heartbeat_row(tx: &Tx<'_>, id: WorkspaceId) -> StoreResult<()> {
    tx.sql
        .prepare_cached("INSERT OR IGNORE INTO pulse (workspace) SELECT key FROM workspaces WHERE id = ?1")?
        .execute([id])?;
    Ok(())
}

fn insert(tx: &mut Tx<'_>, new: &NewWorkspace, at: Timestamp) -> StoreResult<()> {
    let (status, event) = match (new.kind, &new.url) {
        (Kind::Container, _) => (Status::Provisioning, EventKind::Provisioning),
        (Kind::External, None) => (Status::AwaitingAgent, EventKind::AwaitingAgent),
        (Kind::External, Some(_)) => (Status::Online, EventKind::Online),
    };
    tx.sql
        .prepare_cached(
            "INSERT INTO workspaces (id, name, role, kind, runtime, tier, parent_id, spec, status, status_since,
                                     url, created_at, online_since, hibernation_idle_minutes, max_concurrent_tasks,
                                     restart_when_wedged, delivery_mode)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?10, CASE ?9 WHEN 'online' THEN ?10 END, ?12, ?13,
                     ?14, ?15)",
        )?
        .execute(params![
            new.id,
            new.name.as_str(),
            new.role,
            new.kind.as_str(),
            new.runtime,
            new.tier.number(),
            new.parent,
            json_of(&new.spec)?,
            status.as_str(),
            at,
            new.url,
            new.policy.hibernation_idle_minutes,
            new.policy.max_concurrent_tasks,
            new.policy.restart_when_wedged,
            new.policy.delivery.as_str()
        ])?;
    add_heartbeat_row(tx, new.id)?;
    if let Some(token) = &new.token {
        tx.sql
            .prepare_cached(
                "INSERT INTO tokens (id, workspace, kind, digest, prefix, created_at)
                 SELECT ?1, key, 'api', ?3, ?4, ?5 FROM workspaces WHERE id = ?2",
            )?
            .execute(params![token.id, new.id, token.digest.0, token.prefix, at])?;
    }
    let payload = json!({ "name": new.name, "tier": new.tier, "runtime": new.runtime });
    tx.emit(at, event, Some(new.id), payload, None)
}

impl Store {
    /// Creates a workspace's row. The caller creates container and volumes afterwards, and only if this succeeded.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn create_workspace(&self, new: NewWorkspace, at: Timestamp) -> StoreResult<CreateResult> {
        self.lanes
            .write("create workspace", move |tx| {
                if name_taken(tx.sql, &new.name)? {
                    return Ok(CreateResult::NameTaken);
                }
                if let Some(parent) = new.parent
                    && !is_live(tx.sql, parent)?
                {
                    return Ok(CreateResult::ParentMissing);
                }
                if let Some(parent) = new.parent
                    && let Some(paused) = paused_in_chain(tx.sql, parent)?
                {
                    return Ok(CreateResult::ParentPaused(paused));
                }
                insert(tx, &new, at)?;
                tx.raise_known().map(CreateResult::Created)
            })
            .await
    }

    /// Returns a row, removed or not.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn workspace(&self, id: WorkspaceId) -> StoreResult<Option<Workspace>> {
        self.lanes.read("workspace", move |sql| one(sql, id)).await
    }

    /// Like `Store::workspace`, with the sequence number of the newest event. Later events have greater numbers.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn workspace_by_now(&self, id: WorkspaceId) -> StoreResult<Option<(Workspace, i64)>> {
        self.lanes
            .read("workspace", move |sql| {
                let by_now = newest_sequence(sql)?;
                Ok(one(sql, id)?.map(|row| (row, by_now)))
            })
            .await
    }

    /// Finds a row by name, id or unique id prefix. An exact name takes precedence over an id prefix, unless the name
    /// itself looks like an id prefix. A complete id takes precedence over a name.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn find_workspace(&self, reference: String, scope: Scope) -> StoreResult<Found> {
        self.lanes
            .read("find workspace", move |sql| {
                let within = scope.condition();
                let prefix = id_prefix(&reference);
                // A complete id is never looked up as a name: otherwise a workspace whose name is the id of another
                // workspace would receive the requests meant for the other one.
                if let Some(prefix) =
                    prefix.filter(|prefix| prefix.whole().is_some() && !is(Mutation::NamesBeforeIds))
                {
                    return match by_id_prefix(sql, prefix, within)?.into_iter().next() {
                        Some(found) => Ok(Found::One(found.into())),
                        None => names(sql, within).map(Found::None),
                    };
                }
                let mut named = many(
                    sql,
                    &format!(
                        "WHERE w.name = ?1 AND {within} ORDER BY w.status = 'removed', w.removed_at DESC"
                    ),
                    [&reference],
                )?;
                prefer_restorable(sql, &mut named)?;
                let live = named.iter().filter(|row| row.status != Status::Removed).count();
                // Names that look like an id prefix are refused, but older rows may have one. If such a name matches
                // one workspace and an id prefix another, the result is ambiguous.
                let shadowing = prefix.filter(|prefix| prefix.is_id_prefix() && !named.is_empty());
                if let Some(prefix) = shadowing.filter(|_| !is(Mutation::NamesBeforeIds)) {
                    let mut all = by_id_prefix(sql, prefix, within)?;
                    all.retain(|row| named.iter().all(|named| named.id != row.id));
                    if !all.is_empty() {
                        all.extend(named);
                        return Ok(Found::Many(all.into_iter().map(|w| (w.name, w.id)).collect()));
                    }
                }
                if named.len() == 1 || live == 1 {
                    return Ok(named
                        .into_iter()
                        .next()
                        .map_or(Found::None(Vec::new()), |w| Found::One(w.into())));
                }
                if named.len() > 1 {
                    return Ok(Found::Many(named.into_iter().map(|w| (w.name, w.id)).collect()));
                }
                let mut by_id =
                    prefix.map(|prefix| by_id_prefix(sql, prefix, within)).transpose()?.unwrap_or_default();
                prefer_restorable(sql, &mut by_id)?;
                if by_id.len() > 1 {
                    return Ok(Found::Many(by_id.into_iter().map(|w| (w.name, w.id)).collect()));
                }
                match by_id.into_iter().next() {
                    Some(found) => Ok(Found::One(found.into())),
                    None => names(sql, within).map(Found::None),
                }
            })
            .await
    }

    /// Returns rows, oldest first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn workspaces(&self, scope: Scope) -> StoreResult<Vec<Workspace>> {
        self.lanes
            .read("workspaces", move |sql| {
                many(sql, &format!("WHERE {} ORDER BY w.created_at, w.key", scope.condition()), [])
            })
            .await
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

    /// Changes a status. `false` means that another change came first: the row's status does not allow the change, or
    /// the row has another incarnation.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn change_status(&self, change: StatusChange) -> StoreResult<bool> {
        self.lanes
            .write("change status", move |tx| {
                let event = event_of(change.cause);
                change_status(tx, &change, event)
            })
            .await
    }

    /// Begins a start in one transaction: sets the new incarnation, container and token, and revokes older instance
    /// tokens. `None` means that another change came first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn begin_start(&self, begin: BeginStart) -> StoreResult<Option<Begun>> {
        self.lanes
            .write("begin start", move |tx| {
                let Some(row) = one(tx.sql, begin.workspace)?.filter(|row| row.kind == Kind::Container)
                else {
                    return Ok(None);
                };
                if row.parent.map(|parent| paused_in_chain(tx.sql, parent)).transpose()?.flatten().is_some() {
                    return Ok(None);
                }
                if let Some(decided_after) = begin.not_undeleted_after
                    && was_undeleted_after(tx.sql, row.id, decided_after)?
                {
                    return Ok(None);
                }
                let payload = json!({
                    "name": row.name, "tier": row.tier, "runtime": row.runtime,
                    "incarnation": row.incarnation.next(), "container": begin.container,
                });
                if row.status == Status::Provisioning {
                    if !is(Mutation::MirrorCreationsOnly) {
                        tx.raise()?;
                    }
                    tx.emit(begin.at, EventKind::Started, Some(row.id), payload, None)?;
                } else {
                    let change = StatusChange {
                        workspace: row.id,
                        cause: begin.cause,
                        incarnation: None,
                        detail: None,
                        payload,
                        at: begin.at,
                    };
                    if !change_status(tx, &change, EventKind::Provisioning)? {
                        return Ok(None);
                    }
                    // Only in this branch: if the row is provisioning already, this is another attempt of the same
                    // restart, and the first attempt emitted the event.
                    if let Some((swept_by, why)) = begin.degraded {
                        let payload = json!({ "reason": why });
                        tx.emit(begin.at, EventKind::RestartedSilent, Some(row.id), payload, Some(swept_by))?;
                    }
                }
                let incarnation = row.incarnation.next();
                tx.sql
                    .prepare_cached(
                        "UPDATE workspaces SET incarnation = ?2, container_id = ?3, container_spec_hash = ?4
                         WHERE id = ?1",
                    )?
                    .execute(params![row.id, incarnation, begin.container.as_str(), begin.spec_hash])?;
                if let Some(replaced) = begin.replaces {
                    // Claims nothing in a second attempt, because the first attempt has claimed the container.
                    insert_claim(tx, replaced, begin.at)?;
                }
                rotate_instance_token(tx, row.id, incarnation, &begin.token, begin.at)?;
                // A new process has no active tasks and no error rate yet.
                tx.sql
                    .prepare_cached(
                        "UPDATE pulse SET active_tasks = 0, error_rate = 0, wedged_since = NULL
                         WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1)",
                    )?
                    .execute([row.id])?;
                Ok(Some(Begun { incarnation }))
            })
            .await
    }

    /// Removes a row and, with `cascade`, its descendants, and revokes their instance tokens.
    ///
    /// Their containers and volumes are removed later. With `purge`, the rows record that these are to be deleted
    /// permanently.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn remove_workspace(
        &self,
        id: WorkspaceId,
        cascade: bool,
        purge: bool,
        at: Timestamp,
    ) -> StoreResult<RemoveResult> {
        self.lanes
            .write("remove workspace", move |tx| {
                if !is_live(tx.sql, id)? {
                    return Ok(RemoveResult::NotThere);
                }
                let below = descendants(tx.sql, id)?;
                if !below.is_empty() && !cascade {
                    let children = many(tx.sql, "WHERE w.parent_id = ?1 AND w.status <> 'removed'", [id])?;
                    return Ok(RemoveResult::HasChildren(
                        children.into_iter().map(|w| (w.id, w.name)).collect(),
                    ));
                }
                let mut removed = vec![id];
                removed.extend(below);
                for workspace in &removed {
                    let along = Some(id).filter(|_| *workspace != id);
                    // A workspace that was paused on its own gets no `paused_with`: after an undelete, it must not
                    // resume together with the others.
                    let stopped = one(tx.sql, *workspace)?
                        .is_some_and(|row| row.status == Status::Paused && row.paused_with.is_none());
                    let payload = if *workspace == id {
                        json!({ "cascade_deleted": removed.len() - 1 })
                    } else {
                        json!({ "removed_with": id })
                    };
                    let change = StatusChange {
                        workspace: *workspace,
                        cause: Cause::Remove,
                        incarnation: None,
                        detail: None,
                        payload,
                        at,
                    };
                    change_status(tx, &change, EventKind::Removed)?;
                    revoke_instance_tokens(tx, *workspace, at)?;
                    tx.sql
                        .prepare_cached(
                            // The assignment also clears the purge order of an earlier removal, which does not apply to
                            // this removal.
                            "UPDATE workspaces SET removed_with = ?2, paused_with = ?3,
                               purge_ordered_at = CASE WHEN ?4 THEN ?5 END WHERE id = ?1",
                        )?
                        .execute(params![workspace, along, along.filter(|_| !stopped), purge, at])?;
                    tx.sql
                        .prepare_cached(
                            "DELETE FROM pulse WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1)",
                        )?
                        .execute([workspace])?;
                }
                Ok(RemoveResult::Removed { removed })
            })
            .await
    }

    /// Undoes a removal. One transaction sets the row's status to `paused` and the state of its trash entry to
    /// `restoring`.
    ///
    /// A row whose parent is removed becomes a root. It moves back below that parent when the parent is undeleted,
    /// unless an operator has moved or started it in the meantime. Unless `only` is set, the descendants that the same
    /// removal had removed are undeleted too, parents first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn undelete_workspace(
        &self,
        id: WorkspaceId,
        name: Option<WorkspaceName>,
        only: bool,
        at: Timestamp,
    ) -> StoreResult<UndeleteResult> {
        self.lanes
            .write("undelete workspace", move |tx| {
                let Some(row) = one(tx.sql, id)?.filter(|row| row.status == Status::Removed) else {
                    return Ok(UndeleteResult::NotThere);
                };
                let name = name.unwrap_or_else(|| row.name.clone());
                if name_taken(tx.sql, &name)? {
                    return Ok(UndeleteResult::NameTaken);
                }
                if is_deleted(tx.sql, id)? && !is(Mutation::UndeleteDeleted) {
                    return Ok(UndeleteResult::Deleted);
                }
                let below =
                    if only || is(Mutation::UndeleteAlone) { Vec::new() } else { removed_along(tx, &row)? };
                let restoring = undelete_row(tx, id, &name, None, at)?;
                let mut under =
                    UndeletedUnder { removed_parent: removed_parent(tx.sql, id)?, ..Default::default() };
                return_below(tx, id, &mut under, at)?;
                let along = undelete_descendants(tx, id, below, &mut under, at)?;
                if !is(Mutation::UndeleteAlone) {
                    regroup_skipped(tx, id)?;
                }
                Ok(UndeleteResult::Back { restoring, along, under })
            })
            .await
    }

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

    /// Deletes the oldest rows that were removed before `before`. Returns how many.
    ///
    /// Deletes at most `limit` rows, no row in `keep`, and no row that has a trash entry or a child row.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn forget_removed(
        &self,
        before: Timestamp,
        keep: Vec<WorkspaceId>,
        limit: u32,
    ) -> StoreResult<usize> {
        self.lanes
            .write("delete old removed rows", move |tx| {
                Ok(tx
                    .sql
                    .prepare_cached(
                        "DELETE FROM workspaces WHERE key IN (
                           SELECT w.key FROM workspaces w
                           WHERE w.status = 'removed' AND w.removed_at < ?1
                             AND w.id NOT IN (SELECT value FROM rarray(?2))
                             AND NOT EXISTS (SELECT 1 FROM trash t WHERE t.workspace = w.id)
                             AND NOT EXISTS (SELECT 1 FROM workspaces c WHERE c.parent_id = w.id)
                           ORDER BY w.removed_at LIMIT ?3)",
                    )?
                    .execute(params![before, row::ids(&keep), limit])?)
            })
            .await
    }
}

/// Returns the descendants that were removed together with this workspace and are still removed, parents first.
fn removed_along(tx: &Tx<'_>, row: &Workspace) -> StoreResult<Vec<Workspace>> {
    let removal = row.removed_with.unwrap_or(row.id);
    let group =
        parents_first(many(tx.sql, "WHERE w.removed_with = ?1 ORDER BY w.created_at, w.key", [removal])?);
    if removal == row.id {
        return Ok(group);
    }
    let mut within = BTreeSet::from([row.id]);
    let mut below = Vec::new();
    for other in group {
        if other.parent.is_some_and(|parent| within.contains(&parent)) {
            within.insert(other.id);
            below.push(other);
        }
    }
    Ok(below)
}

/// Undeletes one row. Returns whether an entry of the trash is being restored to it. `along` is set for a descendant:
/// the workspace whose undelete restores it too, and whether the descendant is to resume with that workspace.
fn undelete_row(
    tx: &mut Tx<'_>,
    id: WorkspaceId,
    name: &WorkspaceName,
    along: Option<(WorkspaceId, bool)>,
    at: Timestamp,
) -> StoreResult<bool> {
    tx.sql
        .prepare_cached(
            "UPDATE workspaces SET name = ?2, purge_ordered_at = NULL,
               was_below = (SELECT p.id FROM workspaces p
                            WHERE p.id = COALESCE(workspaces.parent_id, workspaces.was_below) AND p.status = 'removed'),
               parent_id = (SELECT p.id FROM workspaces p
                            WHERE p.id = COALESCE(workspaces.parent_id, workspaces.was_below) AND p.status <> 'removed')
             WHERE id = ?1",
        )?
        .execute(params![id, name.as_str()])?;
    let with = along.map(|(with, _)| with);
    let reason = removed_parent(tx.sql, id)?
        .map(|parent| format!("its parent `{parent}` is removed, so it is now a root of the tree"));
    let change = StatusChange {
        workspace: id,
        cause: Cause::Undelete,
        incarnation: None,
        detail: None,
        payload: json!({ "name": name, "undeleted_with": with, "reason": reason }),
        at,
    };
    change_status(tx, &change, EventKind::Undeleted)?;
    if let Some((with, true)) = along {
        tx.sql
            .prepare_cached("UPDATE workspaces SET paused_with = ?2 WHERE id = ?1")?
            .execute(params![id, with])?;
    }
    add_heartbeat_row(tx, id)?;
    begin_restore(tx, id)
}

/// Returns the name of the removed parent below which a root is to be moved when that parent is undeleted.
fn removed_parent(sql: &Connection, id: WorkspaceId) -> StoreResult<Option<WorkspaceName>> {
    let mut query = sql.prepare_cached(
        "SELECT p.name FROM workspaces w JOIN workspaces p ON p.id = w.was_below
         WHERE w.id = ?1 AND w.parent_id IS NULL AND p.status = 'removed'",
    )?;
    let name: Option<String> = query.query_row([id], |row| row.get(0)).optional()?;
    Ok(name.map(WorkspaceName::stored))
}

/// Moves workspaces back below `parent`: those that became roots because they were undeleted while `parent` was
/// removed. A workspace that is not paused stays a root, because `parent` is paused.
fn return_below(
    tx: &mut Tx<'_>,
    parent: WorkspaceId,
    under: &mut UndeletedUnder,
    at: Timestamp,
) -> StoreResult<()> {
    for row in many(tx.sql, "WHERE w.was_below = ?1 ORDER BY w.created_at, w.key", [parent])? {
        let may_move = row.status != Status::Removed && row.parent.is_none();
        // A removed row keeps `was_below`: its own undelete reads it.
        if !may_move || descendants(tx.sql, row.id)?.contains(&parent) {
            continue;
        }
        if row.status != Status::Paused {
            under.skipped_roots.push(row.name);
            continue;
        }
        tx.sql
            .prepare_cached("UPDATE workspaces SET parent_id = ?2, was_below = NULL WHERE id = ?1")?
            .execute([row.id, parent])?;
        let payload =
            json!({ "parent_id": parent, "reason": "moved back below its parent, which was undeleted" });
        tx.emit(at, EventKind::Updated, Some(row.id), payload, None)?;
        under.returned.push(row.name);
    }
    Ok(())
}

/// Undeletes the descendants in `below`, where possible. If the name of one is taken, its own descendants stay removed
/// too, because they would lose their position in the tree.
fn undelete_descendants(
    tx: &mut Tx<'_>,
    with: WorkspaceId,
    below: Vec<Workspace>,
    under: &mut UndeletedUnder,
    at: Timestamp,
) -> StoreResult<Vec<UndeletedAlong>> {
    let mut waiting: BTreeMap<WorkspaceId, WorkspaceName> = BTreeMap::new();
    let mut along = Vec::with_capacity(below.len());
    for row in below {
        let above = row.parent.and_then(|parent| waiting.get(&parent)).cloned();
        let left = if let Some(above) = above {
            waiting.insert(row.id, above.clone());
            Some(UndeleteSkip::Below(above))
        } else if is_deleted(tx.sql, row.id)? {
            Some(UndeleteSkip::Deleted)
        } else if name_taken(tx.sql, &row.name)? {
            waiting.insert(row.id, row.name.clone());
            Some(UndeleteSkip::NameTaken)
        } else {
            undelete_row(tx, row.id, &row.name, Some((with, row.paused_with.is_some())), at)?;
            return_below(tx, row.id, under, at)?;
            None
        };
        along.push(UndeletedAlong { id: row.id, name: row.name, left });
    }
    Ok(along)
}

/// Updates `removed_with` of the rows that the undelete of `back` left removed. It then names the highest ancestor that
/// is still removed, so that an undelete of that ancestor restores them too.
fn regroup_skipped(tx: &Tx<'_>, back: WorkspaceId) -> StoreResult<()> {
    let left = parents_first(many(tx.sql, "WHERE w.removed_with = ?1", [back])?);
    let mut highest: BTreeMap<WorkspaceId, WorkspaceId> = BTreeMap::new();
    for row in left {
        let above = row.parent.and_then(|parent| highest.get(&parent)).copied();
        highest.insert(row.id, above.unwrap_or(row.id));
        tx.sql
            .prepare_cached("UPDATE workspaces SET removed_with = ?2 WHERE id = ?1")?
            .execute(params![row.id, above])?;
    }
    Ok(())
}

/// Sorts rows so that each parent comes before its children.
pub(super) fn parents_first(rows: Vec<Workspace>) -> Vec<Workspace> {
    let mut left = rows;
    let mut ordered: Vec<Workspace> = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let below: BTreeSet<_> = left.iter().map(|row| row.id).collect();
        let (later, now): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|row| row.parent.is_some_and(|parent| below.contains(&parent)));
        if now.is_empty() {
            // A cycle, which the store never creates: keep the remaining rows in any order.
            ordered.extend(later);
            break;
        }
        ordered.extend(now);
        left = later;
    }
    ordered
}

/// Drops purged workspaces from the candidates if another candidate is live or can be restored. If all are purged, all
/// stay, because their history can still be read.
fn prefer_restorable(sql: &Connection, candidates: &mut Vec<Workspace>) -> StoreResult<()> {
    if candidates.len() < 2 {
        return Ok(());
    }
    let mut kept = Vec::with_capacity(candidates.len());
    for row in candidates.iter() {
        if row.status != Status::Removed || !is_deleted(sql, row.id)? {
            kept.push(row.clone());
        }
    }
    if !kept.is_empty() {
        *candidates = kept;
    }
    Ok(())
}

/// Returns whether the resources of a removed row were purged, or are being purged.
fn is_deleted(sql: &Connection, id: WorkspaceId) -> StoreResult<bool> {
    Ok(sql
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM workspaces WHERE id = ?1 AND purged_at IS NOT NULL)
                 OR EXISTS (SELECT 1 FROM trash
                            WHERE workspace = ?1 AND reason = 'removed' AND state = 'deleting')",
        )?
        .query_row([id], |row| row.get(0))?)
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

fn insert_adopted(tx: &mut Tx<'_>, adopted: &AdoptedWorkspace, at: Timestamp) -> StoreResult<HeldToken> {
    let status = if adopted.running { Status::Online } else { Status::Paused };
    let port_taken: bool = tx
        .sql
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM workspaces WHERE host_port = ?1)")?
        .query_row([adopted.host_port], |row| row.get(0))?;
    tx.sql
        .prepare_cached(
            "INSERT INTO workspaces (id, name, role, kind, runtime, tier, parent_id, spec, status, status_since,
                                     status_detail, incarnation, container_id, container_serial, host_port,
                                     has_work_volume, created_at, container_spec_hash)
             VALUES (?1, ?2, ?3, 'container', ?4, ?5,
                     (SELECT id FROM workspaces WHERE id = ?6 AND status <> 'removed'), ?7, ?8, ?9, ?10, ?11, ?12,
                     ?13, ?14, ?15, ?9, ?16)",
        )?
        .execute(params![
            adopted.id,
            adopted.name.as_str(),
            adopted.role,
            adopted.runtime,
            adopted.tier.number(),
            adopted.parent,
            json_of(&adopted.spec)?,
            status.as_str(),
            at,
            "adopted",
            Incarnation(1),
            adopted.container.as_ref().map(ContainerId::as_str),
            adopted.serial,
            adopted.host_port.filter(|_| !port_taken),
            adopted.has_work_volume,
            adopted.spec_hash
        ])?;
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

pub(super) fn descendants(sql: &Connection, id: WorkspaceId) -> StoreResult<Vec<WorkspaceId>> {
    let mut query = sql.prepare_cached(
        "WITH RECURSIVE below (id) AS (
           SELECT w.id FROM workspaces w WHERE w.parent_id = ?1 AND w.status <> 'removed'
           UNION
           SELECT w.id FROM below b JOIN workspaces w ON w.parent_id = b.id AND w.status <> 'removed')
         SELECT id FROM below",
    )?;
    Ok(query.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Returns the nearest paused workspace among this one and its ancestors.
pub(super) fn paused_in_chain(sql: &Connection, from: WorkspaceId) -> StoreResult<Option<WorkspaceName>> {
    let mut query = sql.prepare_cached(
        "WITH RECURSIVE above (id, parent_id, name, status, depth) AS (
           SELECT w.id, w.parent_id, w.name, w.status, 0 FROM workspaces w WHERE w.id = ?1
           UNION ALL
           SELECT w.id, w.parent_id, w.name, w.status, a.depth + 1 FROM above a JOIN workspaces w ON w.id = a.parent_id
           WHERE a.depth < ?2)
         SELECT name FROM above WHERE status = 'paused' ORDER BY depth LIMIT 1",
    )?;
    let steps = u32::try_from(STEPS_MAX).unwrap_or(u32::MAX);
    let name: Option<String> = query.query_row(params![from, steps], |row| row.get(0)).optional()?;
    Ok(name.map(WorkspaceName::stored))
}

fn names(sql: &Connection, within: &str) -> StoreResult<Vec<WorkspaceName>> {
    let mut query =
        sql.prepare_cached(&format!("SELECT DISTINCT w.name FROM workspaces w WHERE {within} LIMIT 10000"))?;
    let names = query.query_map([], |row| row.get(0).map(WorkspaceName::stored))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// Returns at most five rows. An id prefix is a range of ids, so the query uses the index of the ids.
fn by_id_prefix(sql: &Connection, prefix: IdPrefix, within: &str) -> StoreResult<Vec<Workspace>> {
    let text = format!("WHERE w.id BETWEEN ?1 AND ?2 AND {within} LIMIT 5");
    many(sql, &text, params![prefix.first, prefix.last])
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
