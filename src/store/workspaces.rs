//! Workspaces: their rows, and the one function that changes a status.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use super::{
    Store, StoreResult,
    lane::Tx,
    row::{self, WORKSPACE_COLUMNS, workspace},
    tokens::{TokenIssue, revoke_instance_tokens, rotate_instance_token},
    trash::begin_restore,
};
use crate::domain::{
    event::EventKind,
    ids::{ContainerId, Incarnation, WorkspaceId},
    naming::WorkspaceName,
    runtime::Tier,
    spec::Spec,
    status::{Cause, Status},
    time::Timestamp,
    workspace::{Kind, Workspace},
};

pub use crate::domain::ports::PortRange;

/// A workspace to be made.
#[derive(Clone, Debug)]
pub struct NewWorkspace {
    /// Its identity, never used before.
    pub id: WorkspaceId,
    /// Its name.
    pub name: WorkspaceName,
    /// What it is for.
    pub role: Option<String>,
    /// Container or external.
    pub kind: Kind,
    /// The name of its runtime.
    pub runtime: String,
    /// Its tier.
    pub tier: Tier,
    /// Above it in the tree.
    pub parent: Option<WorkspaceId>,
    /// What its container is made from.
    pub spec: Spec,
    /// Where an external agent is reached.
    pub url: Option<String>,
    /// Its first api token, for an external one.
    pub token: Option<TokenIssue>,
}

/// What came of making one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateResult {
    /// Made; the registry's generation is now this.
    Created(i64),
    /// A live workspace has that name.
    NameTaken,
    /// The parent is not there, or removed.
    ParentMissing,
}

/// Which rows are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Not removed.
    Live,
    /// Removed only.
    Removed,
    /// All; a live row comes before a removed one of the same name.
    Any,
}

impl Scope {
    fn condition(self) -> &'static str {
        match self {
            Self::Live => "w.status <> 'removed'",
            Self::Removed => "w.status = 'removed'",
            Self::Any => "TRUE",
        }
    }
}

/// What a name, id or id prefix led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This one.
    One(Box<Workspace>),
    /// Several: their names and ids.
    Many(Vec<(WorkspaceName, WorkspaceId)>),
    /// None; these are the names there are.
    None(Vec<WorkspaceName>),
}

/// A change of status. The allowed sources come from the cause.
#[derive(Clone, Debug)]
pub struct StatusChange {
    /// Whose.
    pub workspace: WorkspaceId,
    /// Why; decides sources and target.
    pub cause: Cause,
    /// Only this incarnation, where the cause speaks of one.
    pub incarnation: Option<Incarnation>,
    /// What to show beside the status.
    pub detail: Option<String>,
    /// The event's particulars.
    pub told: Value,
    /// When.
    pub at: Timestamp,
}

/// The one transaction of a start: from here on a listing shows the container.
#[derive(Clone, Debug)]
pub struct BeginStart {
    /// Whose.
    pub workspace: WorkspaceId,
    /// Restart, start by a person, or resume. A row that is provisioning already stays so.
    pub cause: Cause,
    /// The container that is about to be started.
    pub container: ContainerId,
    /// The hash of what it was made from.
    pub spec_hash: String,
    /// The new instance token.
    pub token: TokenIssue,
    /// When.
    pub at: Timestamp,
}

/// A begun start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The new incarnation.
    pub incarnation: Incarnation,
}

/// What came of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoveResult {
    /// The rows say removed now: this one and those below it.
    Removed(Vec<WorkspaceId>),
    /// It has children, and the removal was not to cascade.
    HasChildren(Vec<(WorkspaceId, WorkspaceName)>),
    /// There is no live row.
    NotThere,
}

/// What came of an undelete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UndeleteResult {
    /// The row is back, paused. Whether the trash held something of it.
    Back {
        /// Whether things are on their way back from the trash.
        restoring: bool,
    },
    /// A live workspace has that name.
    NameTaken,
    /// What it owned has been, or is being, deleted for good.
    Deleted,
    /// There is no removed row.
    NotThere,
}

/// A row rebuilt from labels.
#[derive(Clone, Debug)]
pub struct AdoptedWorkspace {
    /// The identity from the labels.
    pub id: WorkspaceId,
    /// The name from the labels, or one that is free.
    pub name: WorkspaceName,
    /// The role at that time.
    pub role: Option<String>,
    /// Runtime.
    pub runtime: String,
    /// Tier.
    pub tier: Tier,
    /// Parent, where it has a row.
    pub parent: Option<WorkspaceId>,
    /// What the container was made from.
    pub spec: Spec,
    /// The container, if it is still there.
    pub container: Option<ContainerId>,
    /// The serial in its name.
    pub serial: u32,
    /// The port it publishes.
    pub host_port: Option<u16>,
    /// Whether the work volume is there.
    pub has_work_volume: bool,
    /// Whether its process runs: then the row is online, otherwise paused.
    pub running: bool,
    /// The token its process holds.
    pub token: Option<TokenIssue>,
    /// What it was decided on.
    pub evidence: String,
}

/// What may be changed of a row besides its status.
#[derive(Clone, Debug, Default)]
pub struct WorkspaceEdit {
    /// A work volume was made, or is known to be gone for good.
    pub has_work_volume: Option<bool>,
}

/// The one way a status is written. Answers whether it was: no row in an allowed status, or of another
/// incarnation, is "raced", and nothing is told of it.
fn change_status(tx: &mut Tx<'_>, change: &StatusChange, event: EventKind) -> StoreResult<bool> {
    let target = change.cause.target();
    let sources: Vec<String> = change.cause.sources().iter().map(|status| code(*status)).collect();
    let changed = tx
        .sql
        .prepare_cached(
            "UPDATE workspaces SET status = ?2, failure = ?3, status_detail = ?4, status_since = ?5,
               removed_at = CASE ?2 WHEN 'removed' THEN ?5 END
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
            change.cause.only_kind().map(Kind::as_str)
        ])?;
    if changed > 0 {
        tx.tell(change.at, event, Some(change.workspace), change.told.clone(), None)?;
    }
    Ok(changed > 0)
}

fn code(status: Status) -> String {
    match status.failure() {
        Some(failure) => format!("{}:{}", status.as_str(), failure.as_str()),
        None => status.as_str().to_owned(),
    }
}

/// The event that tells of a cause.
fn event_of(cause: Cause) -> EventKind {
    match cause {
        Cause::AgentHeard | Cause::ContainerReady => EventKind::Online,
        Cause::ProvisioningTimedOut | Cause::StartImpossible => EventKind::ProvisionFailed,
        Cause::Unwell => EventKind::Degraded,
        Cause::ContainerGone => EventKind::Offline,
        Cause::ExternalSilent => EventKind::AwaitingAgent,
        Cause::Restart | Cause::StartByPerson | Cause::Resume => EventKind::Provisioning,
        Cause::BudgetSpent => EventKind::Parked,
        Cause::Pause => EventKind::Paused,
        Cause::BeginHibernation => EventKind::Hibernating,
        Cause::FinishHibernation => EventKind::Hibernated,
        Cause::Remove => EventKind::Removed,
        Cause::Undelete => EventKind::Undeleted,
    }
}

fn one(sql: &Connection, id: WorkspaceId) -> StoreResult<Option<Workspace>> {
    let text = format!("SELECT {WORKSPACE_COLUMNS} FROM workspaces w WHERE w.id = ?1");
    Ok(sql.prepare_cached(&text)?.query_row([id], workspace).optional()?)
}

fn many(sql: &Connection, tail: &str, bind: impl rusqlite::Params) -> StoreResult<Vec<Workspace>> {
    let text = format!("SELECT {WORKSPACE_COLUMNS} FROM workspaces w {tail}");
    Ok(sql.prepare_cached(&text)?.query_map(bind, workspace)?.collect::<Result<_, _>>()?)
}

fn name_taken(sql: &Connection, name: &WorkspaceName) -> StoreResult<bool> {
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

fn add_pulse(tx: &Tx<'_>, id: WorkspaceId) -> StoreResult<()> {
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
                                     url, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?10)",
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
            new.url
        ])?;
    add_pulse(tx, new.id)?;
    if let Some(token) = &new.token {
        tx.sql
            .prepare_cached(
                "INSERT INTO tokens (id, workspace, kind, digest, prefix, created_at)
                 SELECT ?1, key, 'api', ?3, ?4, ?5 FROM workspaces WHERE id = ?2",
            )?
            .execute(params![token.id, new.id, token.digest.0, token.prefix, at])?;
    }
    let told = json!({ "name": new.name, "tier": new.tier, "runtime": new.runtime });
    tx.tell(at, event, Some(new.id), told, None)
}

fn bump_generation(tx: &Tx<'_>) -> StoreResult<i64> {
    Ok(tx
        .sql
        .prepare_cached("UPDATE registry SET generation = generation + 1 RETURNING generation")?
        .query_row([], |row| row.get(0))?)
}

impl Store {
    /// Makes a workspace's row. Everything else of it comes later, and only if this succeeded.
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
                insert(tx, &new, at)?;
                bump_generation(tx).map(CreateResult::Created)
            })
            .await
    }

    /// Takes back a row that was made a moment ago and has never been started.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn unmake_workspace(&self, id: WorkspaceId, why: String, at: Timestamp) -> StoreResult<()> {
        self.lanes
            .write("unmake workspace", move |tx| {
                let gone = tx
                    .sql
                    .prepare_cached(
                        "DELETE FROM workspaces WHERE id = ?1 AND incarnation = 0 AND container_id IS NULL",
                    )?
                    .execute([id])?;
                if gone > 0 {
                    tx.tell(at, EventKind::Removed, Some(id), json!({ "reason": why }), None)?;
                }
                Ok(())
            })
            .await
    }

    /// One row, removed or not.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn workspace(&self, id: WorkspaceId) -> StoreResult<Option<Workspace>> {
        self.lanes.read("workspace", move |sql| one(sql, id)).await
    }

    /// Finds a row by name, id or unique id prefix. An exact name wins over a prefix.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn find_workspace(&self, reference: String, scope: Scope) -> StoreResult<Found> {
        self.lanes
            .read("find workspace", move |sql| {
                let within = scope.condition();
                let named = many(
                    sql,
                    &format!(
                        "WHERE w.name = ?1 AND {within} ORDER BY w.status = 'removed', w.removed_at DESC"
                    ),
                    [&reference],
                )?;
                let live = named.iter().filter(|row| row.status != Status::Removed).count();
                if named.len() == 1 || live == 1 {
                    return Ok(named
                        .into_iter()
                        .next()
                        .map_or(Found::None(Vec::new()), |w| Found::One(w.into())));
                }
                if named.len() > 1 {
                    return Ok(Found::Many(named.into_iter().map(|w| (w.name, w.id)).collect()));
                }
                let by_id = by_id_prefix(sql, &reference, within)?;
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

    /// Rows, oldest first.
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

    /// Hands out the next container name's serial, and a host port where the row has none
    /// that will do. `None` when the row is gone or the range is used up (`taken` ports,
    /// found busy on the host, are passed over).
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
            .write("allot", move |tx| {
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
                Ok(Some((serial, port)))
            })
            .await
    }

    /// Changes what has no bearing on the status.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn edit_workspace(&self, id: WorkspaceId, edit: WorkspaceEdit) -> StoreResult<()> {
        self.lanes
            .write("edit workspace", move |tx| {
                let WorkspaceEdit { has_work_volume } = edit;
                tx.sql
                    .prepare_cached(
                        "UPDATE workspaces SET has_work_volume = COALESCE(?2, has_work_volume) WHERE id = ?1",
                    )?
                    .execute(params![id, has_work_volume])?;
                Ok(())
            })
            .await
    }

    /// Changes a status. `false` means raced: the row is in no allowed status, or of another incarnation.
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

    /// Begins a start: the next incarnation, its container, its token, and the older ones revoked, in
    /// one transaction. `None` means raced.
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
                let told = json!({
                    "name": row.name, "tier": row.tier, "runtime": row.runtime,
                    "incarnation": row.incarnation.next(), "container": begin.container,
                });
                if row.status == Status::Provisioning {
                    tx.tell(begin.at, EventKind::StartedAnew, Some(row.id), told, None)?;
                } else {
                    let change = StatusChange {
                        workspace: row.id,
                        cause: begin.cause,
                        incarnation: None,
                        detail: None,
                        told,
                        at: begin.at,
                    };
                    if !change_status(tx, &change, EventKind::Provisioning)? {
                        return Ok(None);
                    }
                }
                let incarnation = row.incarnation.next();
                tx.sql
                    .prepare_cached(
                        "UPDATE workspaces SET incarnation = ?2, container_id = ?3, container_spec_hash = ?4
                         WHERE id = ?1",
                    )?
                    .execute(params![row.id, incarnation, begin.container.as_str(), begin.spec_hash])?;
                rotate_instance_token(tx, row.id, incarnation, &begin.token, begin.at)?;
                Ok(Some(Begun { incarnation }))
            })
            .await
    }

    /// Removes a row and, with `cascade`, everything below it. Their instance tokens go with them;
    /// what they own in the engine follows later.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn remove_workspace(
        &self,
        id: WorkspaceId,
        cascade: bool,
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
                    let told = if *workspace == id {
                        json!({ "cascade_deleted": removed.len() - 1 })
                    } else {
                        json!({ "removed_with": id })
                    };
                    let change = StatusChange {
                        workspace: *workspace,
                        cause: Cause::Remove,
                        incarnation: None,
                        detail: None,
                        told,
                        at,
                    };
                    change_status(tx, &change, EventKind::Removed)?;
                    revoke_instance_tokens(tx, *workspace, at)?;
                    tx.sql
                        .prepare_cached(
                            "DELETE FROM pulse WHERE workspace = (SELECT key FROM workspaces WHERE id = ?1)",
                        )?
                        .execute([workspace])?;
                }
                Ok(RemoveResult::Removed(removed))
            })
            .await
    }

    /// Takes a removal back: the row is paused again, and what it owned is marked as on its way back,
    /// in one transaction. A parent that is removed is let go: the row comes back as a root.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn undelete_workspace(
        &self,
        id: WorkspaceId,
        name: Option<WorkspaceName>,
        at: Timestamp,
    ) -> StoreResult<UndeleteResult> {
        self.lanes
            .write("undelete workspace", move |tx| {
                let Some(row) = one(tx.sql, id)?.filter(|row| row.status == Status::Removed) else {
                    return Ok(UndeleteResult::NotThere);
                };
                let name = name.unwrap_or(row.name);
                if name_taken(tx.sql, &name)? {
                    return Ok(UndeleteResult::NameTaken);
                }
                let deleting: bool = tx
                    .sql
                    .prepare_cached(
                        "SELECT EXISTS (SELECT 1 FROM workspaces WHERE id = ?1 AND purged_at IS NOT NULL)
                             OR EXISTS (SELECT 1 FROM trash
                                        WHERE workspace = ?1 AND reason = 'removed' AND state = 'deleting')",
                    )?
                    .query_row([id], |row| row.get(0))?;
                if deleting {
                    return Ok(UndeleteResult::Deleted);
                }
                tx.sql
                    .prepare_cached(
                        "UPDATE workspaces SET name = ?2, parent_id =
                           (SELECT p.id FROM workspaces p WHERE p.id = workspaces.parent_id AND p.status <> 'removed')
                         WHERE id = ?1",
                    )?
                    .execute(params![id, name.as_str()])?;
                let change = StatusChange {
                    workspace: id,
                    cause: Cause::Undelete,
                    incarnation: None,
                    detail: None,
                    told: json!({ "name": name }),
                    at,
                };
                change_status(tx, &change, EventKind::Undeleted)?;
                add_pulse(tx, id)?;
                Ok(UndeleteResult::Back { restoring: begin_restore(tx, id)? })
            })
            .await
    }

    /// Rebuilds a row from labels. `None` when there is a row, a claim on its things, or the name is
    /// taken; otherwise the registry's generation.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn adopt_workspace(
        &self,
        adopted: AdoptedWorkspace,
        at: Timestamp,
    ) -> StoreResult<Option<i64>> {
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
                insert_adopted(tx, &adopted, at)?;
                bump_generation(tx).map(Some)
            })
            .await
    }

    /// The oldest removed rows that own nothing any more and whose retention has passed are forgotten.
    /// Answers how many.
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
            .write("forget removed", move |tx| {
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

fn insert_adopted(tx: &mut Tx<'_>, adopted: &AdoptedWorkspace, at: Timestamp) -> StoreResult<()> {
    let status = if adopted.running { Status::Online } else { Status::Paused };
    let port_taken: bool = tx
        .sql
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM workspaces WHERE host_port = ?1)")?
        .query_row([adopted.host_port], |row| row.get(0))?;
    tx.sql
        .prepare_cached(
            "INSERT INTO workspaces (id, name, role, kind, runtime, tier, parent_id, spec, status, status_since,
                                     status_detail, incarnation, container_id, container_serial, host_port,
                                     has_work_volume, created_at)
             VALUES (?1, ?2, ?3, 'container', ?4, ?5,
                     (SELECT id FROM workspaces WHERE id = ?6 AND status <> 'removed'), ?7, ?8, ?9, ?10, ?11, ?12,
                     ?13, ?14, ?15, ?9)",
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
            adopted.has_work_volume
        ])?;
    add_pulse(tx, adopted.id)?;
    if let Some(token) = &adopted.token {
        rotate_instance_token(tx, adopted.id, Incarnation(1), token, at)?;
    }
    let told = json!({
        "name": adopted.name,
        "status": status.as_str(),
        "container": adopted.container,
        "evidence": adopted.evidence,
        "token": if adopted.token.is_some() { "taken over" } else { "none found" },
    });
    tx.tell(at, EventKind::Adopted, Some(adopted.id), told, None)
}

fn descendants(sql: &Connection, id: WorkspaceId) -> StoreResult<Vec<WorkspaceId>> {
    let mut query = sql.prepare_cached(
        "WITH RECURSIVE below (id) AS (
           SELECT w.id FROM workspaces w WHERE w.parent_id = ?1 AND w.status <> 'removed'
           UNION
           SELECT w.id FROM below b JOIN workspaces w ON w.parent_id = b.id AND w.status <> 'removed')
         SELECT id FROM below",
    )?;
    Ok(query.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

fn names(sql: &Connection, within: &str) -> StoreResult<Vec<WorkspaceName>> {
    let mut query =
        sql.prepare_cached(&format!("SELECT DISTINCT w.name FROM workspaces w WHERE {within} LIMIT 10000"))?;
    let names = query.query_map([], |row| row.get::<_, String>(0)?.parse().map_err(row::conversion))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// A prefix of an id is a range of ids, which the primary index answers.
fn by_id_prefix(sql: &Connection, prefix: &str, within: &str) -> StoreResult<Vec<Workspace>> {
    let hex: String = prefix.chars().filter(|c| *c != '-').collect();
    let looks_like_id = (4..=32).contains(&hex.len()) && hex.bytes().all(|b| b.is_ascii_hexdigit());
    let bound = |fill: &str| u128::from_str_radix(&format!("{hex}{}", fill.repeat(32 - hex.len())), 16).ok();
    let (true, Some(low), Some(high)) = (looks_like_id, bound("0"), bound("f")) else {
        return Ok(Vec::new());
    };
    let id = |number| WorkspaceId(uuid::Uuid::from_u128(number));
    many(sql, &format!("WHERE w.id BETWEEN ?1 AND ?2 AND {within} LIMIT 5"), params![id(low), id(high)])
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
