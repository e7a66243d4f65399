//! Lists, shows, creates, changes, starts, stops and removes workspaces.

use std::{future::Future, os::unix::fs::MetadataExt as _};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use tokio::sync::oneshot;

use super::{
    super::{
        Api,
        auth::{Principal, platform_url},
        error::{HttpError, HttpResult},
        view,
    },
    Body, LenientBody, Path, Query,
    registry::proxy_url,
};
use crate::{
    api::{
        self,
        order::{AffectedView, OrderOutcome},
        workspace::{
            Child, Connection, CreateWorkspace, CreatedWorkspace, PatchWorkspace, Patched, RemoveOutcome,
            WorkspaceView,
        },
    },
    domain::{
        bounds::ROLE_MAX_BYTES,
        ids::WorkspaceId,
        liveness::SILENT_AFTER,
        naming::{AGENT_PORT, WorkspaceName},
        runtime::{PLAIN, Tier, User},
        spec::{Access, Spec, SpecPatch},
        status::Status,
        workspace::{Delivery, Kind, Policy, Workspace},
    },
    engine::EngineInfo,
    ops::{Affected, Applied, CreateRequest, Created, OpError, Ops, Removal, Up},
    store::{Scope, WorkspacePatch},
};

#[derive(Deserialize)]
pub(in super::super) struct ListQuery {
    #[serde(default)]
    removed: bool,
}

pub(in super::super) async fn list(
    State(api): State<Api>,
    Query(query): Query<ListQuery>,
) -> HttpResult<Json<Vec<WorkspaceView>>> {
    let scope = if query.removed { Scope::Removed } else { Scope::Live };
    let _permit = api.list_permit().await;
    let all = api.0.store.describe_all(scope).await?;
    Ok(Json(all.into_iter().map(|one| view::workspace(one, &api.0.ops)).collect()))
}

/// Shows a workspace. An admin and the workspace itself see all fields. Workspaces that may communicate with it do not
/// see its private fields.
pub(in super::super) async fn show(
    State(api): State<Api>,
    principal: Principal,
    Path(reference): Path<String>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> HttpResult<Json<WorkspaceView>> {
    let row = api.addressed(principal, &reference, Scope::Any).await?;
    let of_itself = match principal {
        Principal::Admin => true,
        Principal::Workspace(token_owner) => token_owner.workspace == row.id,
    };
    if let Principal::Workspace(token_owner) = principal {
        let removed = row.status == Status::Removed;
        let may = || api.0.store.may_communicate(token_owner.workspace, row.id, api.access().root_siblings);
        if !removed && !of_itself && !may() {
            return Err(HttpError::forbidden("not authorized to see this workspace"));
        }
    }
    // An admin may request a removed workspace explicitly.
    let wanted = principal.is_admin() && query.removed;
    if row.status == Status::Removed && !wanted {
        return Err(removed_error(&row));
    }
    let described = api.0.store.describe(row.id).await?;
    let described = described.ok_or_else(|| HttpError::not_found("workspace not found"))?;
    let now = api.0.clock.now();
    let fresh_heartbeat = described.vitals.last_heartbeat_at.is_some_and(|at| now.since(at) < SILENT_AFTER);
    let mut view = view::workspace(described, &api.0.ops);
    if !of_itself {
        view.current_task = None;
        view.last_sample_error = None;
        // These fields would help another workspace to reach or attack this one without the proxy.
        view.image = None;
        view.container_id = None;
        view.host_port = None;
        view.status_detail = None;
    }
    if principal.is_admin()
        && fresh_heartbeat
        && api.ask_engine(api.0.ops.listens(&row)).await.flatten() == Some(false)
    {
        view.port_note = Some(format!(
            "the agent sends heartbeats, but no process in the container accepts connections on port {AGENT_PORT}: \
             messages to the agent fail"
        ));
    }
    if principal.is_admin() && row.kind == Kind::Container {
        view.limits_note = limits_note(&api).await;
        view.command.clone_from(&row.spec.command);
        view.env_names = row.spec.env.keys().cloned().collect();
        view.workspace_dir.clone_from(&row.spec.workspace_dir);
        let read_only = row.spec.workspace_access == Access::ReadOnly;
        view.workspace_access = read_only.then(|| "read_only".to_owned());
        view.config_pending = row.config_pending;
        view.config_bytes = row.spec.config.as_ref().map(String::len);
    }
    if !principal.is_admin() {
        view.url = Some(proxy_url(&platform_url(&api, &headers), row.id));
    }
    Ok(Json(view))
}

/// Describes the resource limits that the engine cannot enforce. `None` if it can enforce all of them, or does not
/// answer at once.
async fn limits_note(api: &Api) -> Option<String> {
    engine_info(api).await?.limits_note()
}

async fn engine_info(api: &Api) -> Option<EngineInfo> {
    api.ask_engine(api.0.engine.describe()).await?.ok()
}

/// Notes on the parts of a create request that do not work as requested on this host.
async fn notes_for(api: &Api, request: &CreateRequest) -> Vec<String> {
    if request.external {
        return Vec::new();
    }
    let Some(info) = engine_info(api).await else { return Vec::new() };
    let runtime = request.runtime.as_deref().unwrap_or(PLAIN);
    let shared = request.spec.workspace_dir.as_deref().zip(Some(request.spec.workspace_access));
    info.limits_note().into_iter().chain(closed_directory(api, &info, runtime, shared)).collect()
}

/// Warns if the user of a runtime lacks permissions in the directory that is shared with its container.
fn closed_directory(
    api: &Api,
    info: &EngineInfo,
    runtime: &str,
    shared: Option<(&str, Access)>,
) -> Option<String> {
    let (directory, access) = shared?;
    let settings = api.0.ops.settings();
    let runtime = settings.runtimes.get(runtime)?;
    let found = std::fs::metadata(directory).ok()?;
    // A rootless Podman runs as the user of this process.
    let service = if info.rootless { Some(std::fs::metadata("/proc/self").ok()?.uid()) } else { None };
    let shared = Shared { path: directory, owner: found.uid(), group: found.gid(), mode: found.mode() };
    closed(&shared, access, runtime.user, service)
}

/// Notes on the parts of a change that do not work as requested, or whose effect may be unexpected.
async fn notes_for_change(api: &Api, row: &Workspace, patch: &WorkspacePatch) -> Vec<String> {
    let spec = &patch.spec;
    let mut notes = Vec::new();
    let absent = |key: &&String| !row.spec.env.contains_key(*key);
    let removed = spec.env.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key);
    for key in removed.filter(absent) {
        notes.push(format!("the workspace's environment had no variable {key}"));
    }
    if spec.config.is_some() {
        notes.push(
            "the workspace's next start overwrites the configuration file, including changes made in the container"
                .into(),
        );
    }
    let shared = (spec.workspace_dir.is_some() || spec.workspace_access.is_some())
        .then(|| spec.workspace_dir.as_deref().or(row.spec.workspace_dir.as_deref()))
        .flatten();
    if let Some(shared) = shared
        && let Some(info) = engine_info(api).await
    {
        let access = spec.workspace_access.unwrap_or(row.spec.workspace_access);
        let runtime = patch.runtime.as_deref().unwrap_or(&row.runtime);
        notes.extend(closed_directory(api, &info, runtime, Some((shared, access))));
    }
    notes
}

/// A directory of this host that is to be mounted into a container.
struct Shared<'a> {
    path: &'a str,
    owner: u32,
    group: u32,
    mode: u32,
}

/// Returns the reason why the user of a container cannot work in the directory, with advice. `None` if the user can.
///
/// `service` is the uid as which a rootless Podman runs on the host; `None` if Podman runs as root. In rootless
/// containers, only root is that host user. The other users have subordinate ids on the host, which only Podman knows.
/// So in the rootless case nothing is reported about directories that belong to another user.
fn closed(shared: &Shared<'_>, access: Access, user: User, service: Option<u32>) -> Option<String> {
    let Shared { path, owner, group, mode } = *shared;
    // Only the permission bits of the user's own class (owner, group or others) apply: an owner without the write bit
    // cannot write, even if others can.
    let bits = match service {
        Some(service) if user.uid == 0 || owner != service => return None,
        None if user.uid == 0 => return None,
        None if user.uid == owner => mode >> 6 & 0o7,
        None if user.gid == group => mode >> 3 & 0o7,
        Some(_) | None => mode & 0o7,
    };
    let (enters, writes) = (bits & 0o5 == 0o5, bits & 0o2 != 0);
    let cannot = match (enters, access) {
        (false, _) => "cannot enter and read",
        (true, Access::ReadWrite) if !writes => "cannot write to",
        (true, Access::ReadWrite | Access::ReadOnly) => return None,
    };
    let why = format!("the container's user {user} {cannot} {path} (mode {:04o})", mode & 0o7777);
    Some(match (service, enters) {
        (Some(_), true) => format!(
            "{why}: with rootless Podman this user differs from yours on the host. Make it the owner with \
             `podman unshare chown {user} {path}`, or share it read-only as {path}:ro"
        ),
        (Some(_), false) => format!(
            "{why}: with rootless Podman this user differs from yours on the host. Make it the owner with \
             `podman unshare chown {user} {path}`, or let all users read it with `chmod o+rx {path}`"
        ),
        (None, true) => format!("{why}: run `chown {user} {path}`, or share it read-only as {path}:ro"),
        (None, false) => format!("{why}: share another directory, or give this user access to the directory"),
    })
}

fn removed_error(row: &Workspace) -> HttpError {
    let removed_at = row.removed_at.map(|at| at.to_string());
    HttpError::gone().with("id", row.id.to_string()).with("removed_at", removed_at)
}

/// Changes the fields that are given. A workspace may change its own name and role; an admin may change all fields.
pub(in super::super) async fn update(
    State(api): State<Api>,
    principal: Principal,
    Path(reference): Path<String>,
    LenientBody { body, ignored }: LenientBody<PatchWorkspace>,
) -> HttpResult<Json<Patched>> {
    let row = api.addressed(principal, &reference, Scope::Live).await?;
    principal.require_workspace(row.id)?;
    if row.status == Status::Removed {
        return Err(removed_error(&row));
    }
    let own =
        PatchWorkspace { name: body.name.clone(), role: body.role.clone(), ..PatchWorkspace::default() };
    if !principal.is_admin() && body != own {
        return Err(HttpError::forbidden("only an admin may change more than name and role"));
    }
    if !principal.is_admin() {
        api.0.buckets.changes.check(row.id).map_err(HttpError::too_many)?;
    }
    let patch = patch(&api, &row, body).await?;
    let notes = notes_for_change(&api, &row, &patch).await;
    let (ops, id) = (api.0.ops.clone(), row.id);
    let needs = api.detached(async move { ops.update(id, patch).await }).await?;
    Ok(Json(Patched {
        status: "updated".into(),
        needs_restart: needs.restart,
        needs_recreate: needs.recreate,
        notes,
        ignored,
    }))
}

async fn patch(api: &Api, row: &Workspace, body: PatchWorkspace) -> HttpResult<WorkspacePatch> {
    let PatchWorkspace {
        name,
        role,
        tier,
        parent_id,
        runtime,
        image,
        command,
        env,
        workspace_dir,
        workspace_access,
        config,
        url,
        hibernation_idle_minutes,
        max_concurrent_tasks,
        restart_when_wedged,
    } = body;
    let invalid = |error: &dyn std::fmt::Display| HttpError::invalid(error.to_string());
    let role = bounded_role(role)?;
    let name = name.map(|name| name.parse::<WorkspaceName>()).transpose().map_err(|error| invalid(&error))?;
    let tier = tier.map(Tier::try_from).transpose().map_err(|error| invalid(&error))?;
    let parent = match parent_id.as_deref() {
        None => None,
        Some("") => Some(None),
        Some(parent) => {
            let parent = api.resolve(parent, Scope::Live).await.map_err(HttpError::unprocessable_parent)?;
            Some(Some(parent.id))
        }
    };
    if url.is_some() && row.kind == Kind::Container {
        return Err(HttpError::invalid("only an external workspace has a url"));
    }
    if let Some(url) = url.as_deref().filter(|url| !url.is_empty()) {
        api.check_url(url).await?;
    }
    let policy = Policy {
        hibernation_idle_minutes: hibernation_idle_minutes
            .map_or(row.policy.hibernation_idle_minutes, |minutes| {
                Some(minutes).filter(|minutes| *minutes > 0)
            }),
        max_concurrent_tasks: max_concurrent_tasks
            .map_or(row.policy.max_concurrent_tasks, |tasks| Some(tasks).filter(|tasks| *tasks > 0)),
        restart_when_wedged: restart_when_wedged.unwrap_or(row.policy.restart_when_wedged),
        delivery: row.policy.delivery,
    };
    let given = workspace_dir.as_ref().filter(|directory| !directory.is_empty());
    let has_directory = given.or(row.spec.workspace_dir.as_ref()).is_some();
    let workspace_access = access(workspace_access.as_deref(), has_directory)?;
    let spec = SpecPatch { image, command, env, workspace_dir, workspace_access, config };
    Ok(WorkspacePatch { name, role, tier, parent, runtime, spec, url, policy: Some(policy) })
}

/// Parses the access mode that a request names for a host directory.
fn access(named: Option<&str>, has_directory: bool) -> HttpResult<Option<Access>> {
    match named {
        None | Some("") => Ok(None),
        Some("read_write") => Ok(Some(Access::ReadWrite)),
        // Existing clients send this for a workspace without a host directory.
        Some("none") if !has_directory => Ok(None),
        Some("read_only") => Ok(Some(Access::ReadOnly)),
        Some(other) => Err(HttpError::invalid(format!(
            "unknown workspace_access `{other}`: use read_only or read_write"
        ))),
    }
}

const NEVER_IDLE: &str = "the workspace is not hibernated automatically: ostler cannot detect connections to its port. \
                          Run ostler on the same host as Podman's service, in the same process and network namespaces";

/// Limits the length of a role, which is shown to operators and sent to every peer.
fn bounded_role(role: Option<String>) -> HttpResult<Option<String>> {
    match &role {
        Some(text) if text.len() > ROLE_MAX_BYTES => Err(HttpError::invalid(format!(
            "the role has {} bytes: at most {ROLE_MAX_BYTES} are allowed",
            text.len()
        ))),
        Some(_) | None => Ok(role),
    }
}

pub(in super::super) async fn create(
    State(api): State<Api>,
    LenientBody { body, ignored }: LenientBody<CreateWorkspace>,
) -> HttpResult<(StatusCode, Json<CreatedWorkspace>)> {
    let name = body.name.clone();
    let request = validated(&api, body).await?;
    let mut notes = Vec::new();
    if request.policy.hibernation_idle_minutes.is_some() && !api.0.ops.can_see_connections().await {
        notes.push(NEVER_IDLE.to_owned());
    }
    notes.extend(notes_for(&api, &request).await);
    let ops = api.0.ops.clone();
    let Created { id, token, waits } = api.detached(async move { ops.create(request).await }).await?;
    notes.extend(waits.map(|why| {
        format!("the workspace is started when Podman answers. Podman does not answer now ({why})")
    }));
    let status = api.0.store.workspace(id).await?.map_or(Status::Removed, |row| row.status);
    let connection = token.map(|token| {
        let platform_url = api.0.ops.settings().platform_url();
        Connection {
            workspace_id: id.to_string(),
            auth_token: token.expose().to_owned(),
            registry_endpoint: format!("{platform_url}/registry/register"),
            heartbeat_endpoint: format!("{platform_url}/registry/heartbeat"),
            platform_url,
        }
    });
    let created = CreatedWorkspace {
        id: id.to_string(),
        name,
        status: status.as_str().into(),
        external: connection.is_some(),
        connection,
        notes,
        ignored,
    };
    Ok((StatusCode::CREATED, Json(created)))
}

async fn validated(api: &Api, body: CreateWorkspace) -> HttpResult<CreateRequest> {
    let CreateWorkspace {
        name,
        role,
        runtime,
        image,
        command,
        tier,
        parent_id,
        external,
        url,
        workspace_dir,
        workspace_access,
        env,
        config,
        hibernation_idle_minutes,
        max_concurrent_tasks,
        restart_when_wedged,
        delivery_mode,
    } = body;
    // Existing clients send an empty string for a field that is not set.
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (role, runtime, image) = (given(role), given(runtime), given(image));
    let (parent_id, url, workspace_dir) = (given(parent_id), given(url), given(workspace_dir));
    let name: WorkspaceName = name
        .parse()
        .map_err(|error: crate::domain::naming::InvalidName| HttpError::invalid(error.to_string()))?;
    let role = bounded_role(role)?;
    let tier = tier.map_or(Ok(Tier::default()), Tier::try_from);
    let tier = tier.map_err(|error| HttpError::invalid(error.to_string()))?;
    let workspace_access = access(workspace_access.as_deref(), workspace_dir.is_some())?.unwrap_or_default();
    let parent = match parent_id {
        None => None,
        Some(reference) => {
            Some(api.resolve(&reference, Scope::Live).await.map_err(HttpError::about_parent)?.id)
        }
    };
    let external = external || runtime.as_deref() == Some("external");
    if !external && url.is_some() {
        return Err(HttpError::invalid(
            "only an external workspace has a url: add --external or leave it out",
        ));
    }
    let delivery = match delivery_mode.as_deref() {
        None | Some("") => Delivery::Push,
        Some(word) => Delivery::parse(word)
            .ok_or_else(|| HttpError::invalid("delivery_mode must be 'push' or 'poll'"))?,
    };
    if delivery == Delivery::Poll && !external {
        return Err(HttpError::invalid(
            "only an external workspace can poll; ostler sends messages to a container's agent directly",
        ));
    }
    // The url of an agent that polls is never called.
    let url = url.filter(|_| delivery == Delivery::Push);
    if let Some(url) = &url {
        api.check_url(url).await?;
    }
    let policy = Policy {
        hibernation_idle_minutes: hibernation_idle_minutes.filter(|minutes| *minutes > 0),
        max_concurrent_tasks: max_concurrent_tasks.filter(|tasks| *tasks > 0),
        restart_when_wedged,
        delivery,
    };
    let spec =
        Spec { image: image.unwrap_or_default(), command, env, workspace_dir, workspace_access, config };
    Ok(CreateRequest { name, role, runtime, tier, parent, external, url, policy, spec })
}

#[derive(Deserialize)]
pub(in super::super) struct WaitQuery {
    #[serde(default = "yes")]
    wait: bool,
}

fn yes() -> bool {
    true
}

/// Runs an operation on the workspace named by `reference` and returns its outcome. If `wait` is false, it only returns
/// that the operation was accepted.
async fn ordered<W>(
    api: &Api,
    (reference, scope): (&str, Scope),
    wait: bool,
    order: impl FnOnce(Ops, WorkspaceId) -> W,
) -> HttpResult<Json<OrderOutcome>>
where
    W: Future<Output = Result<Applied, OpError>> + Send + 'static,
{
    let id = api.resolve(reference, scope).await?.id;
    ordered_for(api, id, wait, order).await
}

async fn ordered_for<W>(
    api: &Api,
    id: WorkspaceId,
    wait: bool,
    order: impl FnOnce(Ops, WorkspaceId) -> W,
) -> HttpResult<Json<OrderOutcome>>
where
    W: Future<Output = Result<Applied, OpError>> + Send + 'static,
{
    let applied = if wait {
        Some(api.detached(order(api.0.ops.clone(), id)).await?)
    } else {
        queued(api, id, order).await?
    };
    let row = api.0.store.workspace(id).await?;
    let row = row.ok_or_else(|| HttpError::not_found("workspace not found"))?;
    Ok(Json(match applied {
        Some(Applied::Done(detail)) => outcome(&row, Some(detail)),
        Some(Applied::Raced(why)) => outcome(&row, Some(format!("nothing was done: {why}"))),
        // The operation is only queued: the row still describes the state before it.
        None => OrderOutcome { accepted: true, detail: None, ..outcome(&row, None) },
    }))
}

/// Starts an operation and waits only until it is queued, so that operations requested later run after it.
///
/// Returns `None` once the operation is queued. If the operation ended before that, returns its result.
async fn queued<W>(
    api: &Api,
    id: WorkspaceId,
    order: impl FnOnce(Ops, WorkspaceId) -> W,
) -> Result<Option<Applied>, OpError>
where
    W: Future<Output = Result<Applied, OpError>> + Send + 'static,
{
    let (queued_sender, queued) = oneshot::channel();
    let (answer, mut done) = oneshot::channel();
    let work = order(api.0.ops.reporting_queued(queued_sender), id);
    api.0.spawn.spawn(Box::pin(async move {
        if let Err(Err(error)) = answer.send(work.await) {
            tracing::warn!(workspace = %id, %error, "background operation failed");
        }
    }));
    tokio::select! {
        biased;
        done = &mut done => return done.unwrap_or(Err(OpError::Stopping)).map(Some),
        Ok(()) = queued => return Ok(None),
        else => {}
    }
    done.await.unwrap_or(Err(OpError::Stopping)).map(Some)
}

fn outcome(row: &Workspace, detail: Option<String>) -> OrderOutcome {
    OrderOutcome {
        id: row.id.to_string(),
        name: row.name.to_string(),
        status: row.status.as_str().into(),
        detail: detail.or_else(|| row.status_detail.clone()),
        along: Vec::new(),
        accepted: false,
    }
}

/// Runs an operation on a workspace and the workspaces below it, and returns the outcome of each.
async fn cascaded<W>(
    api: &Api,
    id: WorkspaceId,
    wait: bool,
    order: impl FnOnce(Ops, WorkspaceId) -> W,
) -> HttpResult<Json<OrderOutcome>>
where
    W: Future<Output = Result<Vec<Affected>, OpError>> + Send + 'static,
{
    if !wait {
        let own = |ops, id| {
            let work = order(ops, id);
            async move {
                let own = work.await?.into_iter().find(|affected| affected.id == id);
                own.map_or_else(|| Ok(Applied::Done(String::new())), |affected| affected.result)
            }
        };
        return ordered_for(api, id, false, own).await;
    }
    let work = order(api.0.ops.clone(), id);
    let affected = api.detached(work).await?;
    let mut own = None;
    let mut along = Vec::new();
    for Affected { id: of, result } in affected {
        let row = api.0.store.workspace(of).await?;
        let row = row.ok_or_else(|| HttpError::not_found("workspace not found"))?;
        let (detail, failed) = match result {
            Ok(Applied::Done(detail)) => (Some(detail), false),
            Ok(Applied::Raced(why)) => (Some(format!("nothing was done: {why}")), false),
            // A failure of the workspace itself fails the request; those of workspaces below it are listed.
            Err(error) if of == id => return Err(error.into()),
            Err(error) => (Some(error.to_string()), true),
        };
        if of == id {
            own = Some(outcome(&row, detail));
            continue;
        }
        along.push(AffectedView {
            id: of.to_string(),
            name: row.name.to_string(),
            status: row.status.as_str().into(),
            detail: detail.or_else(|| row.status_detail.clone()),
            failed,
        });
    }
    let own = own.ok_or_else(|| HttpError::not_found("workspace not found"))?;
    Ok(Json(OrderOutcome { along, ..own }))
}

/// Handles both `/start` and `/resume`.
pub(in super::super) async fn resume(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
    Body(body): Body<api::order::Start>,
) -> HttpResult<Json<OrderOutcome>> {
    let id = api.resolve(&reference, Scope::Live).await?.id;
    let order = |ops: Ops, id| ops.resume(id, body.new_volume);
    cascaded(&api, id, query.wait, order).await
}

/// Handles both `/stop` and `/pause`.
pub(in super::super) async fn pause(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    let id = api.resolve(&reference, Scope::Live).await?.id;
    cascaded(&api, id, query.wait, |ops: Ops, id| async move { ops.pause(id).await }).await
}

#[derive(Deserialize)]
pub(in super::super) struct HibernateQuery {
    #[serde(default = "yes")]
    wait: bool,
    #[serde(default)]
    force: bool,
}

/// Hibernates a workspace, at the request of an admin or of the workspace itself.
pub(in super::super) async fn hibernate(
    State(api): State<Api>,
    principal: Principal,
    Path(reference): Path<String>,
    Query(query): Query<HibernateQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    let row = api.addressed(principal, &reference, Scope::Live).await?;
    principal.require_workspace(row.id)?;
    if !principal.is_admin() {
        api.0.buckets.orders.check(row.id).map_err(HttpError::too_many)?;
    }
    let order = |ops: Ops, id| async move { ops.hibernate(id, query.force).await };
    ordered_for(&api, row.id, query.wait, order).await
}

pub(in super::super) async fn wake(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    let order = |ops: Ops, id| async move { ops.wake(id).await };
    ordered(&api, (&reference, Scope::Live), query.wait, order).await
}

/// Restarts a workspace, at the request of an admin or of the workspace itself.
pub(in super::super) async fn restart(
    State(api): State<Api>,
    principal: Principal,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    let row = api.addressed(principal, &reference, Scope::Live).await?;
    principal.require_workspace(row.id)?;
    if !principal.is_admin() {
        api.0.buckets.orders.check(row.id).map_err(HttpError::too_many)?;
    }
    // If the settings have changed since the container was created, this route recreates the container to apply them.
    let how = if api.0.ops.drifted(&row) { Up::Recreate } else { Up::Restart };
    if principal.is_admin() {
        let order = |ops: Ops, id| ops.bring_up(id, how);
        return cascaded(&api, row.id, query.wait, order).await;
    }
    let order = |ops: Ops, id| async move { ops.restart_itself(id).await };
    ordered_for(&api, row.id, query.wait, order).await
}

pub(in super::super) async fn recreate(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> HttpResult<Json<OrderOutcome>> {
    let id = api.resolve(&reference, Scope::Live).await?.id;
    let order = |ops: Ops, id| ops.bring_up(id, Up::Recreate);
    cascaded(&api, id, query.wait, order).await
}

pub(in super::super) async fn undelete(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
    Body(body): Body<api::order::Undelete>,
) -> HttpResult<Json<OrderOutcome>> {
    let name = body.name.map(|name| name.parse::<WorkspaceName>()).transpose();
    let name = name.map_err(|error| HttpError::invalid(error.to_string()))?;
    let id = api.resolve(&reference, Scope::Removed).await?.id;
    cascaded(&api, id, query.wait, |ops: Ops, id| async move { ops.undelete(id, name, body.only).await })
        .await
}

#[derive(Deserialize)]
pub(in super::super) struct RemoveQuery {
    #[serde(default)]
    confirm: bool,
    #[serde(default)]
    purge: bool,
}

pub(in super::super) async fn remove(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> HttpResult<Response> {
    let row = api.resolve(&reference, Scope::Live).await?;
    let (ops, id) = (api.0.ops.clone(), row.id);
    let removal = api.detached(async move { ops.remove(id, query.confirm, query.purge).await }).await?;
    Ok(match removal {
        Removal::Removed { cascaded, purged, waits } => Json(RemoveOutcome {
            detail: waits.map(|error| {
                format!(
                    "the container is stopped and moved to the trash when Podman answers. Podman does not answer now \
                     ({error})"
                )
            }),
            status: "removed".into(),
            cascade_deleted: cascaded,
            purged: purged.as_ref().map(Result::is_ok),
            purge_error: purged.and_then(Result::err).map(|error| error.to_string()),
            children: Vec::new(),
            children_count: 0,
        })
        .into_response(),
        Removal::HasChildren(children) => {
            let children: Vec<_> = children
                .into_iter()
                .map(|(id, name)| Child { id: id.to_string(), name: name.to_string() })
                .collect();
            // The protocol requires exactly these keys (§5). Nothing was removed, so there is no count of removals.
            let outcome = json!({
                "status": "confirmation_required",
                "children_count": children.len(),
                "children": children,
            });
            (StatusCode::CONFLICT, Json(outcome)).into_response()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_access_is_checked_by_the_users_permission_class() {
        let user = User { uid: 1000, gid: 1000 };
        let closed_note = |user, (owner, group, mode), access, service| {
            closed(&Shared { path: "/d", owner, group, mode }, access, user, service)
        };
        for (directory, writable) in [
            ((1000, 0, 0o755), true),
            ((0, 0, 0o755), false),
            ((0, 1000, 0o775), true),
            ((0, 0, 0o777), true),
            ((1000, 1000, 0o077), false),
        ] {
            let closed_note = closed_note(user, directory, Access::ReadWrite, None);
            assert_eq!(closed_note.is_none(), writable, "{directory:?}: {closed_note:?}");
        }
        assert_eq!(
            closed_note(User { uid: 0, gid: 0 }, (7, 7, 0o700), Access::ReadWrite, None),
            None,
            "root may write everywhere"
        );
        assert_eq!(closed_note(user, (0, 0, 0o755), Access::ReadOnly, None), None, "others may read");
        let closed_to = closed_note(user, (0, 0, 0o700), Access::ReadOnly, None)
            .expect("others cannot enter the directory");
        assert!(closed_to.contains("cannot enter and read /d (mode 0700)"), "{closed_to}");
    }

    #[test]
    fn rootless_container_user_is_checked_as_another_user() {
        let user = User { uid: 1000, gid: 1000 };
        let closed_note = |user, owner, mode, access| {
            closed(&Shared { path: "/d", owner, group: 1000, mode }, access, user, Some(1000))
        };
        let own =
            closed_note(user, 1000, 0o700, Access::ReadWrite).expect("a subordinate uid is a different user");
        assert!(own.contains("cannot enter and read /d") && own.contains("podman unshare chown"), "{own}");
        let own =
            closed_note(user, 1000, 0o755, Access::ReadWrite).expect("others may not write to the directory");
        assert!(own.contains("cannot write to /d") && own.contains("/d:ro"), "{own}");
        assert_eq!(closed_note(user, 1000, 0o755, Access::ReadOnly), None);
        assert_eq!(closed_note(user, 1000, 0o777, Access::ReadWrite), None);
        assert_eq!(
            closed_note(User { uid: 0, gid: 0 }, 1000, 0o700, Access::ReadWrite),
            None,
            "root in the container is the user on the host"
        );
        assert_eq!(
            closed_note(user, 100_999, 0o700, Access::ReadWrite),
            None,
            "the owner may be the user with this uid in the container"
        );
    }
}
