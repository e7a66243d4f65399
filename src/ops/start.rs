//! Start: a fixed sequence of steps, so that no crash and no race leaves a container with the wrong token.
//!
//! Prepare (image, volumes, a container *created*) → verify that the previous token owner's container is stopped → one
//! transaction (incarnation + 1, new token, older tokens revoked) → write the token file and read it back → re-read
//! the row → start the container → re-read the row. From the transaction on, every listing shows the container, which
//! protects its token from `revoke_stale_tokens`. If preparing fails, a running container is not touched.
//!
//! If the engine's start call times out or reports that the container runs already, the running process may hold an
//! older token. The container is then stopped and verified, and all steps from the transaction on are repeated.
//!
//! Limit: if a token write times out, the engine may carry it out much later, even after a later start has written its
//! own token and read it back. The file then contains the older token. ostler cannot distinguish this from an agent
//! that saved the token from its `register` answer. A restart repairs it.

use std::collections::BTreeMap;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Applied, Inner, OpError, OpResult, Ops, Order, Settings, actor::Phase, paused_by_hand};
use crate::{
    domain::{
        ids::{ContainerId, Incarnation, TrashId, WorkspaceId},
        liveness::READY_AFTER,
        naming::{
            AGENT_PORT, LABEL_INSTANCE, LABEL_SPEC, LABEL_WORKSPACE, Owner, VolumeKind, WorkspaceName,
            container_name, container_owner, volume_name,
        },
        observed::ContainerState,
        runtime::{Readiness, Runtime, Tier, User},
        spec::{Access, LabelledSpec, Spec},
        status::{Cause, Failure, Status},
        token::Token,
        trash::{NamedContainer, TrashContents, TrashEntry, TrashReason, TrashState},
        workspace::{Kind, Workspace},
    },
    engine::{
        ContainerSpec, EngineError, EngineResult, Environment, ErrorKind, FileToWrite, Mount, MountSource,
        TOO_LONG, VolumeSpec,
    },
    runtime::clock::Boxed,
    store::{BeginStart, ClaimGuard, NewClaim, StatusChange, WorkspaceEdit},
    testing::{
        crash_point,
        mutation::{Mutation, is},
    },
};

/// Mount point of the config volume: the agent's configuration and token.
pub(super) const CONFIG_DIRECTORY: &str = "/configs";
/// Name of the token file in `CONFIG_DIRECTORY`.
pub(super) const TOKEN_FILE: &str = ".auth_token";
/// Name of the configuration file in `CONFIG_DIRECTORY`.
const CONFIG_FILE: &str = "config.yaml";
/// Maximum number of start calls for one order, when each times out or finds the container running.
const ATTEMPTS: u32 = 3;

/// Parameters of a start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartOrder {
    /// Cause of the status change; `None` for a row that is already provisioning. `StartByOperator` stands for any
    /// cause by which an operator may start a workspace.
    pub cause: Option<Cause>,
    /// Whether a running container is stopped and started again.
    pub even_if_running: bool,
    /// Whether the container is replaced by a new one.
    pub new_container: bool,
    /// Whether a new, empty work volume may replace a missing one.
    pub new_volume: bool,
    /// Id of the newest event when the order was given; `None` means the newest event when the start begins. If the
    /// workspace was removed and undeleted after that event, the start is abandoned.
    pub decided_after: Option<i64>,
    /// For a restart of a degraded or stalled workspace: the pass that ordered it, and the reason.
    pub degraded: Option<(&'static str, String)>,
}

impl StartOrder {
    /// The cause that applies to a row with this status; `None` if the order may not start it. No two of an operator's
    /// causes apply to the same status. If a stop changes the status after the order has read the row, the cause does
    /// not apply any more, and the order's transaction fails.
    fn cause_from(&self, status: Status) -> Option<Cause> {
        let cause = self.cause?;
        let operator = [Cause::Restart, Cause::Resume, Cause::StartByOperator];
        let causes =
            if cause == Cause::StartByOperator { &operator[..] } else { std::slice::from_ref(&cause) };
        causes.iter().copied().find(|cause| cause.sources().contains(&status))
    }
}

/// A container that is ready to be started.
struct Prepared {
    container: ContainerId,
    spec_hash: String,
    /// Whether this order created it.
    made_now: bool,
    /// The container that it replaces.
    replaces: Option<NamedContainer>,
}

/// Hash of all settings with which a container is created. If the hash of a container differs from its row's, the
/// container has drifted. It covers the platform URL, the platform port and the kind of network, which are fixed when a
/// container is created. It does not cover the configuration, which is in a volume and is written by a start.
fn spec_hash(row: &Workspace, runtime: &Runtime, settings: &Settings) -> String {
    let spec = Spec { config: None, ..row.spec.clone() };
    hash_of(&MadeFrom { spec: &spec, tier: row.tier, parent: row.parent }, runtime, settings)
}

/// Whether `hash` matches the row's current settings. Hashes of older versions also cover the configuration, so both
/// forms are compared.
pub(super) fn is_made_from(hash: &str, row: &Workspace, runtime: &Runtime, settings: &Settings) -> bool {
    let with_config = MadeFrom { spec: &row.spec, tier: row.tier, parent: row.parent };
    hash == spec_hash(row, runtime, settings) || hash == hash_of(&with_config, runtime, settings)
}

/// The fields of a workspace that are fixed when its container is created.
#[derive(Clone, Copy, Debug)]
pub(super) struct MadeFrom<'a> {
    pub(super) spec: &'a Spec,
    pub(super) tier: Tier,
    pub(super) parent: Option<WorkspaceId>,
}

pub(super) fn hash_of(made_from: &MadeFrom<'_>, runtime: &Runtime, settings: &Settings) -> String {
    let &MadeFrom { spec, tier, parent } = made_from;
    let made_from = json!({
        "spec": spec,
        "tier": tier,
        "user": runtime.user,
        "limits": runtime.limits(tier),
        "env": runtime.env,
        "stop_grace_ms": u64::try_from(runtime.stop_grace.as_millis()).unwrap_or(u64::MAX),
        "privileged": runtime.privileged_tiers.contains(&tier),
        "parent": parent,
        "platform_url": settings.platform_url,
        "platform_port": settings.platform_port,
        "isolate": settings.isolate,
    });
    let digest = Sha256::digest(made_from.to_string());
    digest.iter().take(12).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

impl Ops {
    /// Returns the row and an operator's start order that was decided on this row.
    pub(super) async fn start_by_operator(&self, id: WorkspaceId) -> OpResult<(Workspace, StartOrder)> {
        let (row, by_now) = self.0.row_by_now(id).await?;
        let (cause, decided_after) = (Some(Cause::StartByOperator), Some(by_now));
        Ok((row, StartOrder { cause, decided_after, ..StartOrder::default() }))
    }

    /// Submits a start and waits for its result.
    pub(super) async fn order_start(&self, id: WorkspaceId, order: StartOrder) -> OpResult<Applied> {
        let done = self.order(id, Order::Start(order)).await;
        let gave_up = matches!(&done, Err(OpError::Engine(error)) if error.gave_no_answer());
        // If the row is already provisioning, or a restart is due, the sweeps repeat the start.
        if gave_up && !self.0.is_retried(id).await { not_started(done) } else { done }
    }

    pub(super) async fn start_now(
        &self,
        id: WorkspaceId,
        order: StartOrder,
        phase: &Phase,
    ) -> OpResult<Applied> {
        let (row, by_now) = self.0.row_by_now(id).await?;
        let order = StartOrder { decided_after: order.decided_after.or(Some(by_now)), ..order };
        if row.kind == Kind::External {
            return Err(OpError::Conflict(row.runs_elsewhere("and is started there")));
        }
        if let Some(raced) = self.0.not_to_be_started(&row, &order).await? {
            return Ok(Applied::Raced(raced));
        }
        self.0.refuse_start_while_recovering(&row, &order).await?;
        let mut started = self.prepare_and_begin(&row, &order, phase).await;
        if let Err(OpError::Engine(error)) = &started
            && error.kind == ErrorKind::HalfStarted
            && !is(Mutation::KeepHalfStarted)
        {
            // Treated like a container with `exit_lost`: a new one replaces it, and the old one goes to the trash
            // with its data.
            tracing::warn!(workspace = %row.name, %error, "container cannot start again; creating a new one");
            let order = StartOrder { new_container: true, ..order };
            started = self.prepare_and_begin(&self.0.row(id).await?, &order, phase).await;
        } else if let Err(OpError::Engine(error)) = &started
            && error.kind == ErrorKind::Absent
        {
            // The container was removed after this order inspected it. The second run finds no container, and creates
            // one.
            tracing::warn!(workspace = %row.name, %error, "container disappeared during the start; creating a new one");
            started = self.prepare_and_begin(&self.0.row(id).await?, &order, phase).await;
        }
        match started {
            Err(error @ (OpError::Impossible(_) | OpError::Invalid(_) | OpError::NoRuntime { .. })) => {
                // If the socket leads to a different engine, the image and the volumes are missing there. That does not
                // show that this workspace cannot start.
                self.0.recognise_engine().await?;
                self.0.note_impossible(id, &error).await?;
                Err(error)
            }
            other => other,
        }
    }

    async fn prepare_and_begin(
        &self,
        row: &Workspace,
        order: &StartOrder,
        phase: &Phase,
    ) -> OpResult<Applied> {
        let runtime = self.0.runtime(&row.runtime)?;
        self.0.recognise_engine().await?;
        let Some(prepared) = self.0.prepare(row, &runtime, order, phase).await? else {
            return Ok(Applied::Raced("it was removed meanwhile".into()));
        };
        // The socket may lead to a different engine by now. A container created there must not become the row's
        // container: from then on, its id would identify that engine as ours.
        if prepared.made_now
            && let Err(error) = self.0.recognise_engine().await
        {
            self.0.discard(row.id, &prepared).await;
            return Err(error.into());
        }
        let cause = order.cause_from(row.status).unwrap_or(Cause::Restart);
        let done = {
            // Limits how many starts run at once, as after a boot. Acquired only here because pulling the image, which
            // can take long, is done by now. The transaction checks the row again.
            phase.report("start: waiting for other starts");
            let _permit = self.0.actors.starts.acquire().await;
            self.0.begin_and_run((row.id, &row.name), (cause, order), &runtime, &prepared, phase).await
        };
        match done {
            Ok(Some(incarnation)) => {
                self.0.actors.note_begun(row.id, incarnation, self.0.clock.now());
                if prepared.replaces.is_some()
                    && let Err(error) = self.finish_replacing(row.id, phase).await
                {
                    // The workspace is started anyway; `settle` completes the move to the trash.
                    tracing::warn!(workspace = %row.id, %error, "replaced container is not in the trash yet");
                }
                if runtime.readiness == Readiness::Container {
                    self.watch_readiness(row.id, incarnation, prepared.container);
                }
                Ok(Applied::Done("started".into()))
            }
            Ok(None) => {
                self.0.discard(row.id, &prepared).await;
                let status = self.0.row(row.id).await?.status;
                Ok(Applied::Raced(format!("the start was abandoned: it is {status} now")))
            }
            Err(error) => {
                self.0.discard(row.id, &prepared).await;
                Err(error)
            }
        }
    }

    /// Moves the replaced container, which the start's transaction has claimed, to the trash.
    async fn finish_replacing(&self, id: WorkspaceId, phase: &Phase) -> OpResult<()> {
        let claimed =
            |entry: &TrashEntry| entry.reason == TrashReason::Replaced && entry.state == TrashState::Claimed;
        for entry in self.0.store.trash_of(vec![id]).await?.iter().filter(|entry| claimed(entry)) {
            self.finish_move_to_trash_now(entry.id, phase).await?;
        }
        Ok(())
    }

    /// Inspects the container again after `READY_AFTER` and marks the workspace online or offline. If this process
    /// ends before that, the sweeps do it.
    fn watch_readiness(&self, id: WorkspaceId, incarnation: Incarnation, container: ContainerId) {
        let ops = self.clone();
        let watch: Boxed<()> = Box::pin(async move {
            ops.0.clock.sleep(READY_AFTER).await;
            let seen = match ops.0.engine.inspect_container(&container).await {
                Ok(seen) => seen.state.may_run(),
                Err(error) if error.kind == ErrorKind::Absent => false,
                // State unknown: the sweeps decide.
                Err(_) => return,
            };
            let order =
                if seen { Order::MarkReady(incarnation, container) } else { Order::MarkOffline(incarnation) };
            let _carried_out_anyway = ops.submit(id, order);
        });
        self.0.spawn.spawn(watch);
    }
}

/// Turns "no answer from the engine" into `OpError::NotStarted`: no sweep repeats this start.
pub(super) fn not_started(done: OpResult<Applied>) -> OpResult<Applied> {
    match done {
        Err(OpError::Engine(error)) if error.gave_no_answer() => Err(OpError::NotStarted(error)),
        done => done,
    }
}

impl Inner {
    /// Whether the sweeps start the workspace again when the engine answers. `false` if the row cannot be read.
    pub(super) async fn is_retried(&self, id: WorkspaceId) -> bool {
        self.row(id).await.is_ok_and(|row| {
            row.status == Status::Provisioning
                || (row.status == Status::Offline && row.restart_due_at.is_some())
        })
    }

    /// The reason why this order has become pointless; `None` if the start is still needed.
    async fn not_to_be_started(&self, row: &Workspace, order: &StartOrder) -> OpResult<Option<String>> {
        if row.status != Status::Provisioning && order.cause_from(row.status).is_none() {
            return Ok(Some(format!("it is {} now", row.status)));
        }
        let begun =
            row.status == Status::Provisioning && self.actors.begun_at(row.id, row.incarnation).is_some();
        let up = (begun || matches!(row.status, Status::Online | Status::Degraded)) && !order.even_if_running;
        let Some(container) = row.container.as_ref().filter(|_| up) else { return Ok(None) };
        match self.engine.inspect_container(container).await {
            Ok(seen) if seen.state == ContainerState::Paused => Err(OpError::Conflict(format!(
                "{}, `ostler restart {}` starts it as a new process",
                paused_by_hand(container),
                row.name
            ))),
            Ok(seen) if seen.state.may_run() => Ok(Some("it is running already".into())),
            Ok(_) => Ok(None),
            Err(error) if error.kind == ErrorKind::Absent => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All steps that can fail without affecting a running container. `None` if the row was removed meanwhile.
    async fn prepare(
        &self,
        row: &Workspace,
        runtime: &Runtime,
        order: &StartOrder,
        phase: &Phase,
    ) -> OpResult<Option<Prepared>> {
        phase.report("start: inspecting its container");
        let (mut runs, mut never_starts, mut port_lost) = (false, false, false);
        let held = match &row.container {
            None => None,
            Some(id) => match self.engine.inspect_container(id).await {
                Ok(seen) => {
                    (runs, never_starts) = (seen.state.may_run(), !seen.can_start_again());
                    port_lost = !self.has_its_port(row, seen.host_port).await?;
                    Some(NamedContainer { id: seen.id, name: seen.name })
                }
                Err(error) if error.kind == ErrorKind::Absent => None,
                Err(error) => return Err(error.into()),
            },
        };
        // A container that the engine will never start again, or whose port belongs to another workspace, is replaced.
        // The old one goes to the trash with its data.
        if let (Some(kept), false) = (&held, order.new_container || never_starts || port_lost) {
            self.ensure_volumes(row, runtime, order, phase).await?;
            self.restore_name(row, kept).await?;
            let spec_hash = row.container_spec_hash.clone().unwrap_or_else(|| self.spec_hash(row, runtime));
            let container = kept.id.clone();
            return Ok(Some(Prepared { container, spec_hash, made_now: false, replaces: None }));
        }
        // The command that error messages suggest for when the image exists again. It has to create a new container; if
        // there is a container that can start, `ostler start` would use that one.
        let again = if held.is_some() && !never_starts && !port_lost { "recreate" } else { "start" };
        self.ensure_image(row, again, phase).await?;
        if self.row(row.id).await?.status == Status::Removed {
            return Ok(None);
        }
        self.ensure_volumes(row, runtime, order, phase).await?;
        let Some((serial, port)) = self.allot(row, row.host_port.filter(|_| runs)).await? else {
            return Ok(None);
        };
        phase.report("start: creating its container");
        let spec = self.container_spec(row, runtime, serial, port).await?;
        crash_point::before("start: create its container");
        let mut made = self.engine.create_container(&spec).await;
        if made.as_ref().is_err_and(|error| error.kind == ErrorKind::Absent) {
            // A volume may have been removed since the check. The second check creates it again if that is allowed, and
            // otherwise reports it as missing.
            self.ensure_volumes(&self.row(row.id).await?, runtime, order, phase).await?;
            made = self.engine.create_container(&spec).await;
        }
        let container = match made {
            Ok(container) => container,
            Err(error) => return Err(self.verdict(error, |error| refused(error, &spec, row, again)).await),
        };
        crash_point::after("start: create its container");
        Ok(Some(Prepared {
            container,
            spec_hash: self.spec_hash(row, runtime),
            made_now: true,
            replaces: held,
        }))
    }

    /// Whether the row's port is the one that its container publishes. A container's port is fixed when it is created,
    /// so if the two differ, the container's port is stored in the row. The result is `false` if another row has that
    /// port. This happens because a registry that is recovering also allots ports that unknown containers publish: when
    /// such a container is adopted or restored later, its port may belong to another row.
    async fn has_its_port(&self, row: &Workspace, published: Option<u16>) -> OpResult<bool> {
        match published {
            Some(_) if row.host_port != published => {
                let edit = WorkspaceEdit { host_port: published, ..WorkspaceEdit::default() };
                self.store.edit_workspace(row.id, edit).await?;
                Ok(self.row(row.id).await?.host_port == published)
            }
            Some(_) | None => Ok(true),
        }
    }

    /// Renames a kept container that has a trash name back to its own name; otherwise no listing attributes it to its
    /// workspace. A container has such a name if its rename into the trash timed out, and the engine carried the rename
    /// out after the container was restored.
    async fn restore_name(&self, row: &Workspace, kept: &NamedContainer) -> OpResult<()> {
        let labels = self.labels(row.id);
        if let Owner::Trash(..) = container_owner(self.settings().instance, &kept.name, &labels) {
            crash_point::before("start: restore the container name");
            let name = container_name(row.id, row.container_serial);
            match self.engine.rename_container(&kept.id, &name).await {
                // Another container has that name by now. The row identifies its own by id.
                Err(error) if error.kind == ErrorKind::Conflict => {
                    tracing::warn!(workspace = %row.name, %error, "container keeps its trash name");
                }
                other => other?,
            }
            crash_point::after("start: restore the container name");
        }
        Ok(())
    }

    async fn ensure_image(&self, row: &Workspace, again: &str, phase: &Phase) -> OpResult<()> {
        let (name, image) = (&row.name, &row.spec.image);
        phase.report(format!("start: checking for image {image}"));
        if self.engine.has_image(image).await? {
            return Ok(());
        }
        phase.report(format!("start: pulling image {image}"));
        let progress = |line: &str| phase.report(format!("start: pulling image {image}: {line}"));
        crash_point::before("start: pull its image");
        self.engine.pull_image(image, &progress).await.map_err(|error| match error.kind {
            ErrorKind::ImageMissing => OpError::Impossible(format!(
                "image `{image}` is not on this machine and cannot be pulled: {}. Build or load it here (`podman \
                 images` lists the local images), or set another one (`ostler set {name} --image IMAGE`), then run \
                 `ostler {again} {name}`",
                error.message
            )),
            ErrorKind::Absent
            | ErrorKind::Conflict
            | ErrorKind::PortInUse
            | ErrorKind::HalfStarted
            | ErrorKind::Unreachable
            | ErrorKind::TimedOut
            | ErrorKind::Other => error.into(),
        })?;
        crash_point::after("start: pull its image");
        Ok(())
    }

    /// Creates missing volumes. A work volume is created only for a workspace that never had one, or with
    /// `new_volume`: an empty volume in place of lost work would hide the loss.
    async fn ensure_volumes(
        &self,
        row: &Workspace,
        runtime: &Runtime,
        order: &StartOrder,
        phase: &Phase,
    ) -> OpResult<()> {
        phase.report("start: checking its volumes");
        let config = volume_name(row.id, VolumeKind::Config);
        match self.engine.inspect_volume(&config).await {
            Ok(seen) if seen.directory_missing => {
                crash_point::before("start: repair its configuration volume");
                self.engine.repair_volume(&config, runtime.user).await?;
                crash_point::after("start: repair its configuration volume");
            }
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::Absent => {
                self.make_volume(row, config, runtime.user).await?;
            }
            Err(error) => return Err(error.into()),
        }
        if !row.wants_work_volume() {
            return Ok(());
        }
        let work = volume_name(row.id, VolumeKind::Work);
        let lost = match self.engine.inspect_volume(&work).await {
            Ok(seen) if !seen.directory_missing => return self.note_work_volume(row).await,
            Ok(_) => true,
            Err(error) if error.kind == ErrorKind::Absent => false,
            Err(error) => return Err(error.into()),
        };
        if (row.has_work_volume || lost) && !order.new_volume && !is(Mutation::VolumesOnTheFly) {
            return Err(OpError::Impossible(format!(
                "volume missing: its work volume `{work}` is gone. Restore it (a disk may be unmounted, or `podman \
                 system prune --volumes` may have deleted it), or start with an empty one: `ostler start {} \
                 --new-volume`",
                row.name
            )));
        }
        if lost {
            crash_point::before("start: create an empty work volume");
            self.engine.repair_volume(&work, runtime.user).await?;
            crash_point::after("start: create an empty work volume");
        } else {
            self.make_volume(row, work, runtime.user).await?;
        }
        // If the volume exists only in a different engine, it must not be recorded: every later start in the accepted
        // engine would report the volume as lost.
        self.recognise_engine().await?;
        self.note_work_volume(row).await
    }

    async fn make_volume(&self, row: &Workspace, name: String, owner: User) -> OpResult<()> {
        let spec = VolumeSpec { name, labels: self.labels(row.id), owner };
        crash_point::before("start: create a volume");
        match self.engine.create_volume(&spec).await {
            // An earlier creation succeeded although it was reported as failed.
            Err(error) if error.kind == ErrorKind::Conflict => {}
            other => other?,
        }
        crash_point::after("start: create a volume");
        Ok(())
    }

    async fn note_work_volume(&self, row: &Workspace) -> OpResult<()> {
        if !row.has_work_volume {
            let edit = WorkspaceEdit { has_work_volume: Some(true), ..WorkspaceEdit::default() };
            self.store.edit_workspace(row.id, edit).await?;
        }
        Ok(())
    }

    /// Allots a new serial for the container's name, and a port that is free on the host now. `own` is the port of
    /// this workspace's own running container and counts as free. `None` if the row was removed meanwhile.
    async fn allot(&self, row: &Workspace, own: Option<u16>) -> OpResult<Option<(u32, u16)>> {
        let mut taken = Vec::new();
        while taken.len() < 64 {
            let allotted = self.store.allot(row.id, self.settings().ports, taken.clone()).await?;
            let Some((serial, port)) = allotted else { break };
            if own == Some(port) || self.engine.port_is_free(port).await {
                return Ok(Some((serial, port)));
            }
            taken.push(port);
        }
        if self.row(row.id).await?.status == Status::Removed {
            return Ok(None);
        }
        Err(OpError::Impossible(format!(
            "no port is free in the range {}: free one, or widen `ports` in the configuration",
            self.settings().ports
        )))
    }

    fn spec_hash(&self, row: &Workspace, runtime: &Runtime) -> String {
        spec_hash(row, runtime, &self.settings())
    }

    fn labels(&self, id: WorkspaceId) -> BTreeMap<String, String> {
        BTreeMap::from([
            (LABEL_INSTANCE.to_owned(), self.settings().instance.to_string()),
            (LABEL_WORKSPACE.to_owned(), id.to_string()),
        ])
    }

    async fn container_spec(
        &self,
        row: &Workspace,
        runtime: &Runtime,
        serial: u32,
        port: u16,
    ) -> OpResult<ContainerSpec> {
        let network = self.network_of(row.id).await?;
        let mut labels = self.labels(row.id);
        let labelled = LabelledSpec {
            name: row.name.clone(),
            role: row.role.clone(),
            parent: row.parent,
            runtime: row.runtime.clone(),
            tier: row.tier,
            image: row.spec.image.clone(),
            command: row.spec.command.clone(),
            workspace_dir: row.spec.workspace_dir.clone(),
            workspace_access: row.spec.workspace_access,
        };
        let labelled =
            serde_json::to_string(&labelled).map_err(|error| OpError::Invalid(error.to_string()))?;
        labels.insert(LABEL_SPEC.to_owned(), labelled);
        Ok(ContainerSpec {
            name: container_name(row.id, serial),
            image: row.spec.image.clone(),
            command: row.spec.command.clone(),
            labels,
            env: environment(row, runtime, network.platform_url),
            user: runtime.user,
            mounts: mounts(row),
            publish: Some((AGENT_PORT, port)),
            network: network.name,
            aliases: vec![format!("ws-{}", row.id)],
            hostname: format!("ws-{}", &row.id.to_string()[..8]),
            limits: runtime.limits(row.tier),
            read_only_root: row.tier == Tier::SANDBOX,
            privileged: runtime.privileged_tiers.contains(&row.tier),
            stop_grace: runtime.stop_grace,
            log_bytes: self.settings().log_bytes,
        })
    }

    /// The trash claim on the container that is replaced. Its volumes stay with the workspace.
    fn claim_of_replaced(&self, name: &WorkspaceName, id: WorkspaceId, old: &NamedContainer) -> NewClaim {
        NewClaim {
            id: TrashId(self.entropy.uuid()),
            workspace: id,
            workspace_name: name.to_string(),
            reason: TrashReason::Replaced,
            evidence: "it was replaced by a new container".into(),
            contents: TrashContents { container: Some(old.clone()), volumes: Vec::new() },
            guard: ClaimGuard::NotTheRows(old.id.clone()),
            keep_until: self.clock.now() + self.settings().trash_retention,
            swept_by: None,
        }
    }

    /// All steps from the transaction to the running container. `None` if the row was changed by another action.
    async fn begin_and_run(
        &self,
        (id, name): (WorkspaceId, &WorkspaceName),
        (cause, order): (Cause, &StartOrder),
        runtime: &Runtime,
        prepared: &Prepared,
        phase: &Phase,
    ) -> OpResult<Option<Incarnation>> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            phase.report("start: stopping the old process");
            let previous_owners = prepared.replaces.iter().map(|old| &old.id).chain([&prepared.container]);
            for previous_owner in previous_owners.filter(|_| !is(Mutation::LetOldProcessRun)) {
                self.stop_and_verify(previous_owner, runtime.stop_grace).await?;
            }
            let token = self.entropy.token();
            let next = BeginStart {
                workspace: id,
                cause,
                container: prepared.container.clone(),
                spec_hash: prepared.spec_hash.clone(),
                token: self.issue(&token),
                not_undeleted_after: order.decided_after,
                replaces: prepared.replaces.as_ref().map(|old| self.claim_of_replaced(name, id, old)),
                degraded: order.degraded.clone(),
                at: self.clock.now(),
            };
            let Some(begun) = self.store.begin_start(next).await? else { return Ok(None) };
            phase.report("start: writing its token");
            self.write_files((id, name), runtime, &prepared.container, &token).await?;
            if !self.still_starting(id, begun.incarnation).await? {
                return Ok(None);
            }
            phase.report("start: starting its container");
            self.serve_before_start(id).await;
            crash_point::before("start: start its container");
            match self.engine.start_container(&prepared.container).await {
                Ok(()) => crash_point::after("start: start its container"),
                Err(error) if is(Mutation::AnyStartIsMine) && error.kind == ErrorKind::Conflict => {}
                Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::TimedOut) => {
                    last = Some(error);
                    continue;
                }
                Err(error) => {
                    let shared = self.row(id).await?.spec.workspace_dir;
                    let failure =
                        |error: &EngineError| start_failure(error, name, shared.as_deref(), runtime.user);
                    return Err(self.verdict_of(&prepared.container, error, failure).await);
                }
            }
            if self.still_starting(id, begun.incarnation).await? {
                return Ok(Some(begun.incarnation));
            }
            self.stop_and_verify(&prepared.container, runtime.stop_grace).await?;
            return Ok(None);
        }
        // Each attempt timed out, or found the container running. The container may run with an older token, so it is
        // stopped.
        self.stop_and_verify(&prepared.container, runtime.stop_grace).await?;
        Err(last.map_or_else(
            || OpError::Impossible("its container could not be started".into()),
            OpError::Engine,
        ))
    }

    /// Converts an engine error: to `Impossible` if it is permanent (an operator has to act), to `Engine` if it is
    /// transient. It is transient if the engine did not answer, if the engine is not recognised as the accepted one, or
    /// if the container is half-started, in which case the next attempt creates a new container.
    async fn verdict(&self, error: EngineError, emit: impl FnOnce(&EngineError) -> String) -> OpError {
        let engines_own =
            matches!(error.kind, ErrorKind::Unreachable | ErrorKind::TimedOut | ErrorKind::HalfStarted);
        if engines_own || self.recognise_engine().await.is_err() {
            return OpError::Engine(error);
        }
        OpError::Impossible(emit(&error))
    }

    /// Same as `verdict`, for a call on a container. If the container was removed meanwhile, the result is an engine
    /// error of kind `Absent`, and the order begins again with a new container. Because a missing file is also reported
    /// as `Absent`, the container is inspected.
    async fn verdict_of(
        &self,
        container: &ContainerId,
        error: EngineError,
        emit: impl FnOnce(&EngineError) -> String,
    ) -> OpError {
        if error.kind == ErrorKind::Absent {
            match self.engine.inspect_container(container).await {
                Ok(_) => {}
                Err(error) => return OpError::Engine(error),
            }
        }
        self.verdict(error, emit).await
    }

    async fn still_starting(&self, id: WorkspaceId, incarnation: Incarnation) -> OpResult<bool> {
        let row = self.row(id).await?;
        // A heartbeat before this read has already made it online, or degraded if the agent reported that.
        let up = matches!(row.status, Status::Provisioning | Status::Online | Status::Degraded);
        Ok(row.incarnation == incarnation && up)
    }

    /// Writes the token and reads it back; writes the configuration if it is missing or changed. The files belong to
    /// the agent's uid: the agent could not read a token file that is owned by root and has mode 0600.
    async fn write_files(
        &self,
        (id, workspace): (WorkspaceId, &WorkspaceName),
        runtime: &Runtime,
        container: &ContainerId,
        token: &Token,
    ) -> OpResult<()> {
        let file = |name: &str, content: &str, mode| FileToWrite {
            name: name.to_owned(),
            content: content.as_bytes().to_vec(),
            mode,
            owner: runtime.user,
        };
        let token_file = file(TOKEN_FILE, token.expose(), 0o600);
        crash_point::before("start: write its token");
        let written = self.engine.write_file(container, CONFIG_DIRECTORY, &token_file).await;
        self.check_written((id, workspace), container, &token_file, written).await?;
        crash_point::after("start: write its token");
        let path = format!("{CONFIG_DIRECTORY}/{TOKEN_FILE}");
        if !is(Mutation::NoReadBack) {
            let repair_advice = repair_advice(id, workspace);
            let unreadable = |error: &EngineError| {
                format!("{path} cannot be read back: {}. {repair_advice}", error.message)
            };
            match self.engine.file_holds(container, &path, token.expose().as_bytes()).await {
                Ok(true) => {}
                Ok(false) => {
                    return Err(OpError::Impossible(format!(
                        "{path} does not contain what was written to it. {repair_advice}"
                    )));
                }
                Err(error) => return Err(self.verdict_of(container, error, unreadable).await),
            }
        }
        let row = self.row(id).await?;
        let Some(config) = row.spec.config.or_else(|| runtime.config_template.clone()) else { return Ok(()) };
        let path = format!("{CONFIG_DIRECTORY}/{CONFIG_FILE}");
        // From the same row as the configuration: a change that is made after this row was read stays pending.
        let pending = row.config_pending;
        match self.engine.read_file(container, &path).await {
            Ok(_) if !pending => Ok(()),
            // A regular file that is too long to read is the agent's own and stays. Anything that no runtime can read
            // as a configuration (a directory, a FIFO) is replaced, like a missing file.
            Err(error) if error.kind == ErrorKind::Conflict && error.message == TOO_LONG && !pending => {
                Ok(())
            }
            Err(error) if !matches!(error.kind, ErrorKind::Absent | ErrorKind::Conflict) => {
                let repair_advice = repair_advice(id, workspace);
                let unreadable = |error: &EngineError| {
                    format!("{path} cannot be read: {}. {repair_advice}", error.message)
                };
                Err(self.verdict_of(container, error, unreadable).await)
            }
            Ok(_) | Err(_) => {
                let config_file = file(CONFIG_FILE, &config, 0o644);
                crash_point::before("start: write its configuration");
                let written = self.engine.write_file(container, CONFIG_DIRECTORY, &config_file).await;
                self.check_written((id, workspace), container, &config_file, written).await?;
                crash_point::after("start: write its configuration");
                if pending {
                    let edit = WorkspaceEdit { config_written: Some(config), ..WorkspaceEdit::default() };
                    self.store.edit_workspace(id, edit).await?;
                }
                Ok(())
            }
        }
    }

    /// Reports a failed write into the config volume. If a working engine refuses the write, the cause is a file that
    /// the agent left in the volume, or a full disk. Every start would fail in the same way, so an operator has to act.
    async fn check_written(
        &self,
        (id, workspace): (WorkspaceId, &WorkspaceName),
        container: &ContainerId,
        file: &FileToWrite,
        written: EngineResult<()>,
    ) -> OpResult<()> {
        let Err(error) = written else { return Ok(()) };
        let name = &file.name;
        let repair_advice = repair_advice(id, workspace);
        let refused = |error: &EngineError| {
            format!("{CONFIG_DIRECTORY}/{name} cannot be written: {}. {repair_advice}", error.message)
        };
        Err(self.verdict_of(container, error, refused).await)
    }

    /// Deletes a container that this order created, unless a row names it. If it cannot be deleted now, it is a stray
    /// that `settle` moves to the trash.
    async fn discard(&self, id: WorkspaceId, prepared: &Prepared) {
        if !prepared.made_now {
            return;
        }
        // If the store cannot answer, the container is kept: at worst it is a stray.
        let Ok(row) = self.store.workspace(id).await else { return };
        let named = row.is_some_and(|row| row.container.as_ref() == Some(&prepared.container));
        if named {
            return;
        }
        crash_point::before("start: discard a container");
        match self.engine.delete_container(&prepared.container).await {
            Ok(()) => crash_point::after("start: discard a container"),
            Err(error) => {
                tracing::warn!(
                    container = %prepared.container.short(), %error,
                    "new container could not be deleted; settle moves it to the trash"
                );
            }
        }
    }

    /// Marks a workspace without a running container as unable to start. Paused workspaces stay paused.
    async fn note_impossible(&self, id: WorkspaceId, error: &OpError) -> OpResult<()> {
        let row = self.row(id).await?;
        let change = |cause| StatusChange {
            workspace: id,
            cause,
            incarnation: Some(row.incarnation),
            detail: Some(error.to_string()),
            payload: json!({ "error": error.to_string(), "runtime": row.runtime, "source": "start" }),
            at: self.clock.now(),
        };
        // The cause applies to the status that was read, and not to `paused`, so that a stop in between is not
        // overwritten.
        let retry = match row.status {
            Status::Offline | Status::Failed(Failure::ProvisionTimeout) => Some(Cause::Restart),
            Status::Failed(Failure::StartError) => Some(Cause::StartByOperator),
            Status::Provisioning
            | Status::Online
            | Status::Degraded
            | Status::Failed(Failure::Parked)
            | Status::Paused
            | Status::Hibernating
            | Status::Hibernated
            | Status::AwaitingAgent
            | Status::Removed => None,
        };
        if let Some(cause) = retry {
            self.store.change_status(change(cause)).await?;
        }
        self.store.change_status(change(Cause::StartImpossible)).await?;
        Ok(())
    }
}

fn environment(row: &Workspace, runtime: &Runtime, platform_url: String) -> Environment {
    let mut env = runtime.env.clone();
    env.extend(row.spec.env.clone());
    // Last, so that they override the row's environment (`OWN_VARIABLES` of the spec): a workspace's environment must
    // not be able to give its container the id of another workspace.
    env.insert("WORKSPACE_ID".into(), row.id.to_string());
    env.insert("WORKSPACE_CONFIG_PATH".into(), CONFIG_DIRECTORY.into());
    env.insert("PLATFORM_URL".into(), platform_url);
    env.insert("TIER".into(), row.tier.number().to_string());
    env.insert("PARENT_ID".into(), row.parent.map(|parent| parent.to_string()).unwrap_or_default());
    Environment(env)
}

fn mounts(row: &Workspace) -> Vec<Mount> {
    let volume = |kind, target: &str| Mount {
        source: MountSource::Volume(volume_name(row.id, kind)),
        target: target.to_owned(),
        read_only: false,
    };
    let mut mounts = vec![volume(VolumeKind::Config, CONFIG_DIRECTORY)];
    if row.tier == Tier::SANDBOX {
        mounts.push(Mount { source: MountSource::Tmpfs, target: "/tmp".into(), read_only: false });
    } else if let Some(directory) = &row.spec.workspace_dir {
        mounts.push(Mount {
            source: MountSource::HostDirectory(directory.clone()),
            target: "/workspace".into(),
            read_only: row.spec.workspace_access == Access::ReadOnly,
        });
    } else {
        mounts.push(volume(VolumeKind::Work, "/workspace"));
    }
    mounts
}

fn refused(error: &EngineError, spec: &ContainerSpec, row: &Workspace, again: &str) -> String {
    if error.kind == ErrorKind::ImageMissing {
        return format!(
            "image `{}` was removed during the start. Build or load it again, then run `ostler {again} {}`",
            spec.image, row.name
        );
    }
    format!("the engine refused to create its container: {}", error.message)
}

/// Advice to the operator about a file in the config volume that a working engine cannot write or read. The engine's
/// message gives the cause: for example, the agent put something else in the file's place, or the disk is full.
fn repair_advice(id: WorkspaceId, name: &WorkspaceName) -> String {
    let volume = volume_name(id, VolumeKind::Config);
    format!(
        "Repair its config volume (`podman volume inspect {volume}` shows its path), then run `ostler start {name}`"
    )
}

fn start_failure(error: &EngineError, name: &WorkspaceName, shared: Option<&str>, user: User) -> String {
    if error.kind == ErrorKind::PortInUse {
        return format!(
            "its port on this host is in use ({}). Run `ostler recreate {name}` to give it another port, or free the \
             port and run `ostler start {name}`",
            error.message
        );
    }
    // The OCI runtime's message names only the directory inside the container.
    let denied = error.message.to_ascii_lowercase().contains("permission denied");
    let shared = shared.filter(|_| denied).map_or_else(String::new, |shared| {
        format!(". /workspace is {shared} on this host: user {user} must have access to that directory")
    });
    format!("its container failed to start: {}{shared}", error.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ids::InstanceId, naming::WorkspaceName, time::Timestamp, workspace::Policy};

    #[test]
    fn container_spec_hash_is_accepted_with_or_without_config() {
        let runtime = Runtime::plain();
        let settings = Settings {
            instance: InstanceId(uuid::Uuid::nil()),
            runtimes: BTreeMap::new(),
            ports: crate::store::PortRange { first: 1, last: 2 },
            platform_port: 1,
            platform_url: None,
            isolate: false,
            log_bytes: 0,
            trash_retention: std::time::Duration::ZERO,
            restart: crate::domain::budget::RestartBudget::default(),
            limits: crate::ops::Limits {
                absence_grace: std::time::Duration::ZERO,
                unknown_grace: std::time::Duration::ZERO,
                removed_retention: std::time::Duration::ZERO,
                event_retention: std::time::Duration::ZERO,
            },
            access: crate::ops::Access {
                root_siblings: true,
                wakes_per_hour: 1,
                external: crate::domain::address::Allow::default(),
            },
            concurrent_starts: 1,
        };
        let row = Workspace {
            id: WorkspaceId(uuid::Uuid::nil()),
            name: WorkspaceName::stored("one".into()),
            role: None,
            kind: Kind::Container,
            runtime: "plain".into(),
            tier: Tier::default(),
            parent: None,
            spec: Spec { image: "image".into(), config: Some("first".into()), ..Spec::default() },
            status: Status::Online,
            status_detail: None,
            status_since: Timestamp(0),
            incarnation: Incarnation(1),
            container: None,
            container_serial: 1,
            host_port: None,
            container_spec_hash: None,
            config_pending: false,
            has_work_volume: true,
            url: None,
            policy: Policy::default(),
            paused_with: None,
            removed_with: None,
            restart_due_at: None,
            created_at: Timestamp(0),
            removed_at: None,
        };
        let now = spec_hash(&row, &runtime, &settings);
        let with_config = MadeFrom { spec: &row.spec, tier: row.tier, parent: row.parent };
        let of_older_version = hash_of(&with_config, &runtime, &settings);
        assert_ne!(now, of_older_version);
        let is_made_from = |hash: &str, row: &Workspace| is_made_from(hash, row, &runtime, &settings);
        assert!(
            is_made_from(&now, &row) && is_made_from(&of_older_version, &row),
            "both hashes must match the row"
        );

        let mut other = row.clone();
        other.spec.config = Some("second".into());
        assert!(is_made_from(&now, &other), "a changed configuration must not count as drift");
        let mut other = row.clone();
        other.spec.env.insert("A".into(), "1".into());
        assert!(!is_made_from(&now, &other) && !is_made_from(&of_older_version, &other));
    }
}
