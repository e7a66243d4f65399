//! Adopt: rebuilds the row of a container that belongs to this registry and has no row in it.
//!
//! Nothing in the engine is changed. A running agent is not disturbed: the digest of the token file in its volume
//! becomes the current instance token. While the registry is recovering, a workspace whose row differs from the engine
//! is also treated as unknown. Its adoption stores the newer container in the row, or pauses the workspace if its
//! container does not run.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    Applied, Inner, OpError, OpResult, Ops, Order, OwnContainers,
    start::{self, CONFIG_DIRECTORY, StartOrder, TOKEN_FILE},
    undelete,
};
use crate::{
    domain::{
        ids::{ContainerId, TokenId, WorkspaceId},
        inventory::Inventory,
        naming::{
            LABEL_SPEC, LABEL_WORKSPACE, Owner, VolumeKind, WorkspaceName, container_owner, volume_name,
        },
        observed::Observed,
        recovery::{Contradicted, Difference, contradiction, newer_container},
        spec::{LabelledSpec, NOT_IN_LABELS, OWN_VARIABLES, WorkspaceSpec},
        status::Cause,
        token::Token,
        trash::TrashContents,
        workspace::Workspace,
    },
    engine::{ErrorKind, InspectedContainer, trusted},
    store::{
        AdoptedContainer, AdoptedWorkspace, ContainerAdoption, Found, HeldToken, Scope, StatusChange,
        TokenIssue,
    },
    testing::mutation::{Mutation, is},
};

/// An unknown workspace that may be adopted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptRequest {
    /// The workspace, by the labels.
    pub workspace: WorkspaceId,
    /// Its container and volumes in the engine.
    pub contents: TrashContents,
    /// The row, if the registry has one that differs from the engine; set only while the registry is recovering.
    pub known: Option<Contradicted>,
}

/// An adoption, carried out under the workspace's actor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptOrder {
    /// The workspace to adopt.
    pub request: AdoptRequest,
    /// The reason, for the event.
    pub evidence: String,
}

/// The result of an adoption.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// The name that the workspace has now.
    pub name: WorkspaceName,
    /// Whether the process keeps running, and whether its token is valid.
    pub detail: String,
}

impl Ops {
    /// The unknown workspaces that can be adopted, with the spec in their labels: containers and volumes of this
    /// instance without a row or a trash entry and, while the registry is recovering, rows that the engine contradicts.
    /// Parents come before their children.
    ///
    /// # Errors
    /// If there is no trusted listing, or the store fails.
    pub async fn unknown(&self) -> OpResult<Vec<(AdoptRequest, Option<LabelledSpec>)>> {
        let instance = self.0.settings().instance;
        let listing =
            trusted::snapshot(&*self.0.engine, &*self.0.clock, instance, &OwnContainers(&self.0.store))
                .await?;
        let inventory = Inventory::of(instance, listing.observed());
        let ids = inventory.workspaces();
        let known = self.0.store.sweep_rows(ids.clone()).await?;
        let entries = self.0.store.trash_of(ids.clone()).await?;
        let mut found = Vec::new();
        for id in ids {
            if known.iter().any(|row| row.id == id) || entries.iter().any(|entry| entry.workspace == id) {
                continue;
            }
            if let Some(contents) = inventory.newest_of(id) {
                let label =
                    contents.container.as_ref().and_then(|container| inventory.container(id, &container.id));
                let spec = label.and_then(|container| LabelledSpec::of(&container.labels));
                found.push((AdoptRequest { workspace: id, contents, known: None }, spec));
            }
        }
        let mut parents = BTreeMap::new();
        if self.0.is_recovering().await? {
            let busy = self.busy();
            for row in self.0.store.workspaces(Scope::Any).await? {
                parents.insert(row.id, row.spec.parent);
                let of_row: Vec<_> =
                    entries.iter().filter(|entry| entry.workspace == row.id).cloned().collect();
                if busy.contains(&row.id) {
                    continue;
                }
                let Some(known) = contradiction(&row, &inventory, &of_row) else { continue };
                let container = known.difference.container().cloned();
                let spec = container
                    .as_ref()
                    .and_then(|container| inventory.container(row.id, &container.id))
                    .and_then(|container| LabelledSpec::of(&container.labels))
                    // The row's parent, because it determines the order of adoption.
                    .map(|spec| LabelledSpec { parent: row.spec.parent, ..spec });
                let contents = TrashContents { container, volumes: Vec::new() };
                found.push((AdoptRequest { workspace: row.id, contents, known: Some(known) }, spec));
            }
        }
        Ok(in_adoption_order(found, &parents))
    }

    /// Ends the recovery if no unknown workspace is left, or if an operator adopted everything (`adopted_all`) and no
    /// unknown container is left. After the recovery, the sweeps stop what could not be adopted and move it to the
    /// trash. The registry may have been restored from a copy. For agents that were started after that copy was made,
    /// the token that they hold becomes the current one.
    ///
    /// # Errors
    /// If there is no trusted listing, or the engine or the store fails: the recovery continues.
    pub async fn end_recovery_if_settled(&self, adopted_all: bool) -> OpResult<()> {
        let left = self.unknown().await?;
        if left.iter().any(|(request, _)| request.known.is_some() || request.contents.container.is_some()) {
            return Ok(());
        }
        let why = match (left.len(), adopted_all) {
            (0, true) => "an operator adopted all unknown workspaces".to_owned(),
            (0, false) => "no unknown workspace is left".to_owned(),
            (left, true) => {
                format!(
                    "an operator adopted all unknown workspaces with a container; {left} others have only volumes"
                )
            }
            (_, false) => return Ok(()),
        };
        if self.0.is_recovering().await? {
            for row in self.0.store.workspaces(Scope::Live).await? {
                self.order(row.id, Order::TakeTokenOver).await?;
            }
        }
        self.0.store.end_recovery(self.0.clock.now(), why).await?;
        Ok(())
    }

    /// A registry that was restored from a copy contains the token of the last start before the copy was made. If the
    /// process was started again since then, it holds a newer token.
    pub(super) async fn take_token_over_now(&self, id: WorkspaceId) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        let Some(container) = &row.container else { return Ok(Applied::Raced("it has no container".into())) };
        match self.0.engine.inspect_container(container).await {
            Ok(seen) if seen.state.may_run() => {}
            Ok(_) => return Ok(Applied::Raced("its container does not run".into())),
            Err(error) if error.kind == ErrorKind::Absent => {
                return Ok(Applied::Raced("its container is gone".into()));
            }
            Err(error) => return Err(error.into()),
        }
        let Some(held) = self.0.token_of(container).await? else {
            return Ok(Applied::Raced("its container holds no token".into()));
        };
        let taken = self.0.store.take_token_over(id, row.incarnation, held, self.0.clock.now()).await?;
        Ok(if taken {
            Applied::Done("its token stays valid".into())
        } else {
            Applied::Raced("its token is in the registry already".into())
        })
    }

    /// Adopts one unknown workspace.
    ///
    /// # Errors
    /// If the workspace has a row by now, is being moved to the trash, or has incomplete labels.
    pub async fn adopt(&self, request: AdoptRequest) -> OpResult<Applied> {
        let order = AdoptOrder { request: request.clone(), evidence: "adopted by an operator".into() };
        self.order(request.workspace, Order::Adopt(order)).await
    }

    pub(super) async fn adopt_now(
        &self,
        id: WorkspaceId,
        order: AdoptOrder,
        phase: &super::actor::Phase,
    ) -> OpResult<Applied> {
        phase.report("adopt: rebuilding its row");
        debug_assert_eq!(id, order.request.workspace, "the order was sent to the actor of another workspace");
        if let Some(known) = &order.request.known {
            return self.adopt_known(id, known, &order.evidence).await;
        }
        let adopted = self.adopt_contents(&order.request, &order.evidence).await?;
        Ok(Applied::Done(format!("adopted as `{}`: {}", adopted.name, adopted.detail)))
    }

    /// Resolves the difference between a row and the engine.
    async fn adopt_known(&self, id: WorkspaceId, known: &Contradicted, evidence: &str) -> OpResult<Applied> {
        let Some(container) = known.difference.container() else {
            return self.pause_what_is_down(id, known).await;
        };
        let (labels, seen) = self.0.inspect(id, &container.id).await?;
        let serial = match container_owner(self.0.settings().instance, &container.name, &labels) {
            Owner::Workspace(_, serial) => serial,
            Owner::Trash(..) | Owner::Foreign | Owner::Unrelated => 0,
        };
        let running = seen.state.may_run();
        let token = self.0.token_of(&container.id).await?;
        let spec_hash = match LabelledSpec::of(&labels) {
            Some(labelled) => self.0.newer_spec_hash(id, &labelled, &seen).await?,
            None => None,
        };
        let adopted = AdoptedContainer {
            workspace: id,
            incarnation: known.incarnation,
            container: container.id.clone(),
            serial,
            host_port: seen.host_port,
            running,
            spec_hash,
            token,
            evidence: evidence.to_owned(),
        };
        let name = &known.name;
        Err(OpError::Conflict(match self.0.store.adopt_container(adopted, self.0.clock.now()).await? {
            ContainerAdoption::Adopted { token, under } => {
                let summary = described(name, running, token);
                let under = undelete::described(name, &under);
                let drift = if self.drifted(&self.0.row(id).await?) {
                    format!(
                        ". Its container was created with other settings than this registry has: see `ostler show \
                         {name}`. `ostler restart {name}` and `ostler recreate {name}` replace it by one with the \
                         registry's settings, and move it to the trash"
                    )
                } else {
                    String::new()
                };
                return Ok(Applied::Done(format!("adopted as `{name}`: {summary}{under}{drift}")));
            }
            ContainerAdoption::Changed => "the workspace has changed meanwhile: nothing was done".into(),
            ContainerAdoption::NameTaken => format!(
                "another workspace is named `{name}`: undelete this one under another name with `ostler undelete {id} \
                 --name NEW`, then adopt it again"
            ),
            ContainerAdoption::Deleted => {
                "the workspace cannot be adopted: its container and volumes are permanently deleted".into()
            }
        }))
    }

    /// Pauses a workspace whose container does not run although its status says that it is up. It cannot be known
    /// whether the container was stopped, removed or exited since the registry's copy was made.
    async fn pause_what_is_down(&self, id: WorkspaceId, known: &Contradicted) -> OpResult<Applied> {
        let rows = self.0.store.workspaces(Scope::Live).await?;
        let up_below = rows.iter().find(|row| row.spec.parent == Some(id) && !row.status.forbids_running());
        if let Some(child) = up_below {
            return Err(OpError::Conflict(format!(
                "its container does not run, but `{child}` below it is up, and pausing would stop `{child}` too: run \
                 `ostler start {name}` or `ostler stop {name}`",
                child = child.name,
                name = known.name,
            )));
        }
        let change = StatusChange {
            workspace: id,
            cause: Cause::Pause,
            incarnation: Some(known.incarnation),
            detail: Some("its container did not run when the registry was restored".into()),
            payload: json!({ "name": known.name, "reason": "adopted: its container did not run" }),
            at: self.0.clock.now(),
        };
        Ok(if self.0.store.change_status(change).await? {
            Applied::Done(format!("`{}` is paused: its container does not run", known.name))
        } else {
            Applied::Raced("the workspace has changed meanwhile".into())
        })
    }

    pub(super) async fn adopt_contents(&self, request: &AdoptRequest, evidence: &str) -> OpResult<Adopted> {
        let id = request.workspace;
        let container = request.contents.container.as_ref().ok_or_else(|| {
            OpError::Conflict(format!(
                "workspace {id} has only volumes left ({}), and no container to rebuild its row from. Create a new \
                 workspace and copy what you need, or approve the plan that moves the volumes to the trash",
                request.contents.volumes.join(", ")
            ))
        })?;
        let (labels, seen) = self.0.inspect(id, &container.id).await?;
        let labelled = LabelledSpec::of(&labels).ok_or_else(|| {
            OpError::Conflict(format!(
                "container {} has no readable {LABEL_SPEC} label",
                container.id.short()
            ))
        })?;
        let serial = match container_owner(self.0.settings().instance, &container.name, &labels) {
            Owner::Workspace(_, serial) => serial,
            Owner::Trash(..) | Owner::Foreign | Owner::Unrelated => 0,
        };
        let token = self.0.token_of(&container.id).await?;
        let name = self.0.free_name(&labelled.name, id).await?;
        let work = volume_name(id, VolumeKind::Work);
        let (running, spec) = (seen.state.may_run(), self.0.rebuilt_spec(&labelled, &seen));
        let adopted = AdoptedWorkspace {
            id,
            name: name.clone(),
            spec_hash: self.0.made_from(&spec),
            spec,
            container: Some(container.id.clone()),
            serial,
            host_port: seen.host_port,
            has_work_volume: seen.volumes.contains(&work),
            running,
            token,
            evidence: evidence.to_owned(),
        };
        let Some(token) = self.0.store.adopt_workspace(adopted, self.0.clock.now()).await? else {
            return Err(OpError::Conflict(
                "it is registered or in the trash by now, or another workspace took its name: nothing was done".into(),
            ));
        };
        let detail = format!("{}; {NOT_IN_LABELS}", described(&name, running, token));
        Ok(Adopted { name, detail })
    }
}

/// Describes the state of the process and of the token that it holds.
fn described(name: &WorkspaceName, running: bool, token: HeldToken) -> String {
    match (running, token) {
        (true, HeldToken::Live) => "it keeps running, and its token stays valid".to_owned(),
        (true, HeldToken::Refused) => format!(
            "it keeps running, but its token is not valid (revoked, or not an instance token of this workspace): \
             `ostler restart {name}` issues a new one"
        ),
        (true, HeldToken::NotFound) => {
            format!("it keeps running, but no token was found: `ostler restart {name}` issues one")
        }
        (false, _) => "paused".to_owned(),
    }
}

impl Inner {
    /// Whether the registry was lost or restored, and an operator has not yet decided what happens to all unknown
    /// workspaces.
    pub(super) async fn is_recovering(&self) -> OpResult<bool> {
        Ok(self.store.registry().await?.is_some_and(|registry| registry.recovering_since.is_some()))
    }

    /// While the registry is recovering, refuses a start that would stop, or run beside, a container that the registry
    /// does not know.
    pub(super) async fn refuse_start_while_recovering(
        &self,
        row: &Workspace,
        order: &StartOrder,
    ) -> OpResult<()> {
        if is(Mutation::ActWhileRecovering) || !self.is_recovering().await? {
            return Ok(());
        }
        if order.cause == Some(Cause::Wake) {
            return Err(OpError::Conflict(format!(
                "the registry was restored and is recovering, so messages wake no workspace. `ostler adopt --dry-run` \
                 shows the differences, `ostler start {}` starts it",
                row.name
            )));
        }
        let containers = self.engine.list_containers(LABEL_WORKSPACE, Some(&row.id.to_string())).await?;
        let observed = Observed { containers, volumes: Vec::new() };
        let inventory = Inventory::of(self.settings().instance, &observed);
        let entries = self.store.trash_of(vec![row.id]).await?;
        match newer_container(row, &inventory, &entries) {
            None => Ok(()),
            Some(newer) => Err(OpError::Conflict(format!(
                "`{name}` has a newer container than the restored registry records ({newer}): `ostler adopt {name}` \
                 takes over the newer container",
                name = row.name,
                newer = newer.id.short(),
            ))),
        }
    }

    async fn inspect(
        &self,
        id: WorkspaceId,
        container: &ContainerId,
    ) -> OpResult<(BTreeMap<String, String>, InspectedContainer)> {
        let listed = self.engine.list_containers(LABEL_WORKSPACE, Some(&id.to_string())).await?;
        let labels = listed.into_iter().find(|seen| seen.id == *container).map(|seen| seen.labels);
        let gone = || OpError::Conflict(format!("container {} is gone", container.short()));
        Ok((labels.ok_or_else(gone)?, self.engine.inspect_container(container).await?))
    }

    /// The digest of the token that the container's process holds. `None` if the file is missing or holds no token.
    async fn token_of(&self, container: &ContainerId) -> OpResult<Option<TokenIssue>> {
        let path = format!("{CONFIG_DIRECTORY}/{TOKEN_FILE}");
        let text = match self.engine.read_file(container, &path).await {
            Ok(bytes) => String::from_utf8(bytes).unwrap_or_default(),
            // `Conflict` means that it is not a regular file, or is too long. Such a file holds no token either.
            Err(error) if matches!(error.kind, ErrorKind::Absent | ErrorKind::Conflict) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Token::parse(text.trim_end()).map(|token| TokenIssue {
            id: TokenId(self.entropy.uuid()),
            digest: token.digest(),
            prefix: token.prefix(),
        }))
    }

    /// The labelled name; if it is taken or no longer valid, that name with the first digits of the id.
    async fn free_name(&self, wanted: &WorkspaceName, id: WorkspaceId) -> OpResult<WorkspaceName> {
        let taken = match self.store.find_workspace(wanted.to_string(), Scope::Live).await? {
            Found::One(row) => row.name == *wanted,
            Found::Many(_) => true,
            Found::None(_) => false,
        };
        if let (false, Ok(name)) = (taken, wanted.as_str().parse()) {
            return Ok(name);
        }
        let (short, id): (String, _) = (wanted.as_str().chars().take(54).collect(), id.to_string());
        let named = format!("{}-{}", short.trim_end(), &id[..8]).parse();
        named
            .or_else(|_| format!("adopted-{}", &id[..8]).parse())
            .map_err(|error: crate::domain::naming::InvalidName| OpError::Invalid(error.to_string()))
    }

    /// Hash of the settings with which a container was created, from the spec in its labels. Settings and runtime are
    /// not in the labels; their current values are used. `None` if that runtime is no longer configured.
    fn made_from(&self, spec: &WorkspaceSpec) -> Option<String> {
        let settings = self.settings();
        let runtime = settings.runtimes.get(&spec.runtime)?;
        Some(start::hash_of(spec, runtime, &settings))
    }

    /// Hash of the settings with which a container that is newer than its row was created. If the container's
    /// environment contains all variables of the row, the row's environment is used, because variables of the image
    /// cannot be distinguished from variables that were set later.
    async fn newer_spec_hash(
        &self,
        id: WorkspaceId,
        labelled: &LabelledSpec,
        seen: &InspectedContainer,
    ) -> OpResult<Option<String>> {
        let mut spec = self.rebuilt_spec(labelled, seen);
        let of_row = self.row(id).await?.spec.env;
        if of_row.iter().all(|(key, value)| seen.env.0.get(key) == Some(value)) {
            spec.env = of_row;
        }
        Ok(self.made_from(&spec))
    }

    fn rebuilt_spec(&self, labelled: &LabelledSpec, seen: &InspectedContainer) -> WorkspaceSpec {
        let settings = self.settings();
        let of_runtime = settings.runtimes.get(&labelled.runtime).map(|runtime| &runtime.env);
        let env = seen.env.0.iter().filter(|(key, value)| {
            let engines = ["PATH", "HOSTNAME", "HOME", "TERM", "container"].contains(&key.as_str());
            let runtimes = of_runtime.is_some_and(|env| env.get(*key) == Some(*value));
            !engines && !runtimes && !OWN_VARIABLES.contains(&key.as_str())
        });
        WorkspaceSpec {
            env: env.map(|(key, value)| (key.clone(), value.clone())).collect(),
            ..labelled.spec()
        }
    }
}

/// Sorts found workspaces into the order in which they are adopted: parents first. Known workspaces whose container
/// does not run come last, children first, because a workspace with a running child is not paused.
fn in_adoption_order(
    found: Vec<(AdoptRequest, Option<LabelledSpec>)>,
    parents: &BTreeMap<WorkspaceId, Option<WorkspaceId>>,
) -> Vec<(AdoptRequest, Option<LabelledSpec>)> {
    let is_down = |(request, _): &(AdoptRequest, _)| {
        request.known.as_ref().is_some_and(|known| matches!(known.difference, Difference::Down))
    };
    let (down, others): (Vec<_>, Vec<_>) = parents_first(found, parents).into_iter().partition(is_down);
    others.into_iter().chain(down.into_iter().rev()).collect()
}

/// Sorts parents before children, so that a child finds its parent's row. If the labels contain a cycle, the workspaces
/// that cannot be sorted come last, in their original order.
fn parents_first(
    mut found: Vec<(AdoptRequest, Option<LabelledSpec>)>,
    parents: &BTreeMap<WorkspaceId, Option<WorkspaceId>>,
) -> Vec<(AdoptRequest, Option<LabelledSpec>)> {
    let mut sorted = Vec::new();
    while !found.is_empty() {
        let waiting: Vec<_> = found.iter().map(|(request, _)| request.workspace).collect();
        let (ready, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|(request, spec)| {
            let of_row = || parents.get(&request.workspace).copied().flatten();
            let parent = spec.as_ref().map_or_else(of_row, |spec| spec.parent);
            parent.is_none_or(|parent| parent == request.workspace || !waiting.contains(&parent))
        });
        found = rest;
        if ready.is_empty() {
            sorted.append(&mut found);
        }
        sorted.extend(ready);
    }
    sorted
}
