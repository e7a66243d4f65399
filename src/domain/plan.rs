//! The actions that a pass plans, computed before anything is changed.
//!
//! A plan is a list of [`Planned`] actions, each with the evidence for it. The code that applies a plan makes no
//! further decisions; it only checks that the evidence still holds. A dry run therefore needs no code of its own, and
//! the breaker can hold a plan until an operator has seen and approved exactly this plan.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    access::STEPS_MAX,
    ids::{ContainerId, Incarnation, InstanceId, TrashId, WorkspaceId},
    naming::{Owner, container_owner, volume_owner},
    observed::{ContainerState, Observed, ObservedContainer},
    presence::Presence,
    runtime::Readiness,
    status::Status,
    time::{Awake, Timestamp},
    trash::{NamedContainer, TrashContents, TrashEntry, TrashReason, TrashState},
};
use crate::testing::mutation::{Mutation, is};

/// The columns of a workspace row that sweeps decide on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepRow {
    /// Never reused by another workspace.
    pub id: WorkspaceId,
    /// Unique among live workspaces.
    pub name: String,
    /// Status stored in the row.
    pub status: Status,
    /// Current container according to the row; `None` for external workspaces and before the first start.
    pub container: Option<ContainerId>,
    /// Number of starts. If it has changed since planning, the workspace was restarted and the action is not applied.
    pub incarnation: Incarnation,
    /// Time of the last status change.
    pub status_since: Timestamp,
    /// Name of its runtime in the configuration.
    pub runtime: String,
}

/// A workspace that has no container in a listing, and whose instance tokens are older than the grace period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleCandidate {
    /// Workspace that owns the tokens.
    pub workspace: WorkspaceId,
    /// Name of that workspace.
    pub name: String,
    /// Status of that workspace.
    pub status: String,
    /// Creation time of the token.
    pub token_created_at: Timestamp,
    /// Last use of the token; `None` if it was never used.
    pub token_used_at: Option<Timestamp>,
}

/// One change that a pass plans.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// Move the remaining containers and volumes of a removed workspace to the trash.
    TrashRemoved {
        /// The removed workspace.
        workspace: WorkspaceId,
        /// The container and volumes to move.
        contents: TrashContents,
    },
    /// Move a container or volumes that have ostler's labels, but no row, to the trash.
    TrashUnknown {
        /// Workspace named by the labels.
        workspace: WorkspaceId,
        /// The container and volumes to move.
        contents: TrashContents,
    },
    /// Move a second container of a live workspace to the trash, without volumes.
    TrashStray {
        /// The live workspace.
        workspace: WorkspaceId,
        /// The container to move.
        container: NamedContainer,
        /// True if it never ran: an interrupted start left it, and it contains no work.
        #[serde(default)]
        never_ran: bool,
    },
    /// Complete a move to the trash: stop, rename, mark as kept.
    FinishTrash {
        /// Workspace that owned the container and volumes.
        workspace: WorkspaceId,
        /// The trash entry: in state `claimed`, or in state `kept` with a container that runs or does not have its
        /// trash name.
        entry: TrashId,
    },
    /// Finish an interrupted restore.
    FinishRestore {
        /// Workspace that owns the container and volumes.
        workspace: WorkspaceId,
        /// The trash entry in state `restoring`.
        entry: TrashId,
    },
    /// Delete the container and volumes of a workspace that was removed with `--purge`.
    Purge {
        /// The removed workspace.
        workspace: WorkspaceId,
    },
    /// Delete a trash entry permanently.
    DeleteTrash {
        /// Workspace that owned the container and volumes.
        workspace: WorkspaceId,
        /// The trash entry.
        entry: TrashId,
        /// True if an operator ordered the move to the trash, or if the deletion has already begun.
        ordered: bool,
    },
    /// Revoke the instance tokens of a workspace without a container.
    RevokeStaleTokens {
        /// Workspace that owns the tokens.
        workspace: WorkspaceId,
        /// Tokens created or used at or after this time are not revoked.
        older_than: Timestamp,
    },
    /// Stop the container of a workspace whose status forbids running.
    StopContainer {
        /// The workspace.
        workspace: WorkspaceId,
        /// The container to stop.
        container: ContainerId,
    },
    /// Repeat a start that a crash interrupted.
    StartAgain {
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// Set `offline` because the container is gone or has exited.
    MarkOffline {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: the row still has this incarnation.
        incarnation: Incarnation,
        /// Guard: the row still has this container.
        container: Option<ContainerId>,
    },
    /// Record that an agent missed its heartbeats for too long.
    MarkSilent {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: the row still has this incarnation.
        incarnation: Incarnation,
        /// Guard: no heartbeat was received at or after this time.
        heartbeat_before: Timestamp,
        /// True for an external workspace.
        external: bool,
    },
    /// Restart a container that runs and misses heartbeats, or is busy without progress.
    RestartDegraded {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: no heartbeat was received at or after this time.
        heartbeat_before: Timestamp,
    },
    /// Set `failed(provision_timeout)` because a start took too long.
    TimeOutProvisioning {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: the row still has this incarnation.
        incarnation: Incarnation,
        /// Guard: the row has been provisioning since this time.
        since: Timestamp,
        /// Limit of its runtime, in seconds.
        limit_seconds: u64,
    },
    /// Begin to hibernate an idle workspace.
    Hibernate {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: no activity after this time.
        idle_since: Timestamp,
    },
    /// Stop the container of a hibernating workspace and verify that it is stopped.
    FinishHibernation {
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// Flag a workspace that is busy without progress.
    FlagWedged {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: no sign of progress after this time.
        quiet_since: Timestamp,
    },
    /// Restart after an exit, once the backoff has passed.
    RestartDue {
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// Set `online` because the container has run long enough.
    MarkReady {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: the row still has this incarnation.
        incarnation: Incarnation,
        /// Guard: the row's container is still this one, which runs.
        container: ContainerId,
    },
}

/// How an action affects containers, volumes and tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Only records an observation in the row.
    Records,
    /// Starts, stops or restores something, or finishes a move to the trash that has begun.
    Acts,
    /// Moves something to the trash, deletes it or revokes it.
    Destroys,
}

/// The properties of an action that sweeps and output need.
struct Description {
    workspace: WorkspaceId,
    effect: Effect,
    /// Whether it counts against the breaker.
    counted: bool,
    /// Whether it was planned because some time has elapsed. If a clock has jumped since, it must not be applied.
    timed: bool,
    /// First part of the key that identifies the same action in another run. `None` if the action's fields identify it.
    /// Needed if some of the fields are times that change with every run.
    key: Option<&'static str>,
    /// Phrase for the user, such as `restart it`.
    text: Cow<'static, str>,
}

impl Description {
    fn of(workspace: WorkspaceId, effect: Effect, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            workspace,
            effect,
            counted: effect == Effect::Destroys,
            timed: false,
            key: None,
            text: text.into(),
        }
    }

    fn counted(self, counted: bool) -> Self {
        Self { counted, ..self }
    }

    fn timed(self) -> Self {
        Self { timed: true, ..self }
    }

    fn key(self, key: &'static str) -> Self {
        Self { key: Some(key), ..self }
    }
}

impl Action {
    /// Describes each variant. No other code distinguishes the variants by these properties.
    fn description(&self) -> Description {
        use Effect::{Acts, Destroys, Records};
        match self {
            // Not counted: an operator removed the workspace.
            Self::TrashRemoved { workspace, contents } => {
                Description::of(*workspace, Destroys, move_to_trash(contents)).counted(false)
            }
            Self::TrashUnknown { workspace, contents } => {
                Description::of(*workspace, Destroys, move_to_trash(contents))
            }
            Self::TrashStray { workspace, container, never_ran } => {
                let text = format!("move the second container {} to the trash", container.id.short());
                Description::of(*workspace, Destroys, text).counted(!never_ran)
            }
            Self::FinishTrash { workspace, entry } => {
                Description::of(*workspace, Acts, format!("finish moving entry {entry} to the trash"))
            }
            Self::FinishRestore { workspace, entry } => {
                Description::of(*workspace, Acts, format!("finish restoring entry {entry}"))
            }
            Self::Purge { workspace } => {
                Description::of(*workspace, Destroys, "permanently delete its container and volumes")
                    .counted(false)
            }
            Self::DeleteTrash { workspace, entry, ordered } => {
                Description::of(*workspace, Destroys, format!("permanently delete trash entry {entry}"))
                    .counted(!ordered)
            }
            Self::RevokeStaleTokens { workspace, .. } => {
                Description::of(*workspace, Destroys, "revoke its stale instance tokens")
                    .timed()
                    .key("revoke tokens of")
            }
            // Not destructive: its row no longer permits the container to run.
            Self::StopContainer { workspace, container } => {
                let effect = if is(Mutation::StopsAreDestructive) { Destroys } else { Acts };
                Description::of(*workspace, effect, format!("stop container {}", container.short()))
            }
            Self::StartAgain { workspace } => {
                Description::of(*workspace, Acts, "repeat its interrupted start")
            }
            Self::MarkOffline { workspace, .. } => Description::of(*workspace, Records, "mark it offline"),
            Self::MarkSilent { workspace, external: true, .. } => {
                Description::of(*workspace, Records, "mark it awaiting_agent").timed()
            }
            Self::MarkSilent { workspace, external: false, .. } => {
                Description::of(*workspace, Records, "mark it degraded").timed()
            }
            // Counted: the agent may be healthy and only unable to reach the daemon, and a restart then destroys its
            // work. A single network fault can cut off many agents at once, and must not restart all of them.
            Self::RestartDegraded { workspace, .. } => {
                let counted = !is(Mutation::SilenceIsFree);
                Description::of(*workspace, Acts, "restart it").counted(counted).timed().key("restart")
            }
            Self::TimeOutProvisioning { workspace, .. } => {
                Description::of(*workspace, Records, "mark its start as timed out").timed()
            }
            Self::Hibernate { workspace, .. } => {
                Description::of(*workspace, Acts, "hibernate it").timed().key("hibernate")
            }
            Self::FinishHibernation { workspace } => {
                Description::of(*workspace, Acts, "finish its hibernation")
            }
            Self::FlagWedged { workspace, .. } => {
                Description::of(*workspace, Records, "flag it as stalled").timed()
            }
            Self::RestartDue { workspace } => Description::of(*workspace, Acts, "restart it"),
            Self::MarkReady { workspace, .. } => Description::of(*workspace, Records, "mark it online"),
        }
    }

    /// The workspace that the action applies to.
    #[must_use]
    pub fn workspace(&self) -> WorkspaceId {
        self.description().workspace
    }

    /// Whether the action moves something to the trash, deletes it or revokes it. Each run may apply only a few such
    /// actions. Stopping a container is not destructive, because the row does not allow it to run. Finishing a move to
    /// the trash is not destructive either, because the decision was made when the move began.
    #[must_use]
    pub fn is_destructive(&self) -> bool {
        self.description().effect == Effect::Destroys
    }

    /// Whether the action counts against the breaker: it could destroy work, and no operator ordered it for this
    /// workspace.
    #[must_use]
    pub fn counts_against_breaker(&self) -> bool {
        self.description().counted
    }

    /// Whether it waits while the registry is recovering: every action that starts, stops, deletes or revokes
    /// something. Actions that only record an observation do not wait.
    #[must_use]
    pub fn waits_for_recovery(&self) -> bool {
        self.description().effect != Effect::Records
    }

    /// Whether it was planned because some time has elapsed. If a clock has jumped since, it must not be applied.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        self.description().timed
    }

    /// Key that identifies the same action in another run, for approvals. It does not contain times that change with
    /// every run.
    #[must_use]
    pub fn key(&self) -> String {
        match self.description() {
            Description { key: Some(key), workspace, .. } => format!("{key} {workspace}"),
            Description { key: None, .. } => serde_json::to_string(self).unwrap_or_default(),
        }
    }

    /// Describes the action for the user, as a phrase such as `restart it`.
    #[must_use]
    pub fn describe(&self) -> String {
        self.description().text.into_owned()
    }
}

fn move_to_trash(contents: &TrashContents) -> String {
    format!("move {} to the trash", describe_contents(contents))
}

fn describe_contents(contents: &TrashContents) -> String {
    let volumes = match contents.volumes.len() {
        0 => None,
        1 => Some("1 volume".to_owned()),
        n => Some(format!("{n} volumes")),
    };
    let container = contents.container.as_ref().map(|c| format!("container {}", c.id.short()));
    let parts: Vec<_> = container.into_iter().chain(volumes).collect();
    if parts.is_empty() { "nothing".into() } else { parts.join(" and ") }
}

/// An action and the evidence for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// The change to apply.
    pub action: Action,
    /// Name of the workspace: from the row, else from the labels, else its id.
    pub name: String,
    /// The reason, in terms that a user can check.
    pub evidence: String,
}

/// The result of planning: actions, and conditions that may lead to an action later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Actions to apply now.
    pub actions: Vec<Planned>,
    /// Conditions that lead to an action if they last, one line each.
    pub watching: Vec<String>,
    /// Time of an extra run before the next regular one.
    pub again_at: Option<Timestamp>,
}

impl Plan {
    /// Plans to finish moves to the trash that a failed stop or a crash interrupted. Each pass handles only entries
    /// with its own `reasons`.
    fn finish_claims(
        &mut self,
        entries: &[TrashEntry],
        busy: &BTreeSet<WorkspaceId>,
        reasons: &[TrashReason],
    ) {
        let open = entries.iter().filter(|entry| {
            entry.state == TrashState::Claimed
                && !is(Mutation::LeaveClaimsOpen)
                && reasons.contains(&entry.reason)
                && !busy.contains(&entry.workspace)
        });
        for entry in open {
            let action = Action::FinishTrash { workspace: entry.workspace, entry: entry.id };
            let evidence = format!("marked for the trash at {}; the move is not finished", entry.created_at);
            self.act(action, &entry.workspace_name, evidence);
        }
    }

    /// Sorts actions on parents before actions on their descendants. The order is otherwise kept.
    pub fn parents_first(&mut self, parent: &dyn Fn(WorkspaceId) -> Option<WorkspaceId>) {
        self.actions.sort_by_cached_key(|planned| depth(planned.action.workspace(), parent));
    }

    /// Requests another run at `at`, or keeps the requested time if that is earlier.
    pub fn run_again_at(&mut self, at: Timestamp) {
        self.again_at = Some(self.again_at.map_or(at, |earlier| earlier.min(at)));
    }

    pub(super) fn act(&mut self, action: Action, name: impl Into<String>, evidence: impl Into<String>) {
        self.actions.push(Planned { action, name: name.into(), evidence: evidence.into() });
    }
}

/// A listing, grouped by owning workspace. Unrelated containers are left out.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Per workspace: containers with a regular name, and the serial in that name.
    pub containers: BTreeMap<WorkspaceId, Vec<(u32, ObservedContainer)>>,
    /// Per workspace: containers with a trash name, and the entry in that name.
    pub trashed: BTreeMap<WorkspaceId, Vec<(TrashId, ObservedContainer)>>,
    /// Per workspace: names of its volumes.
    pub volumes: BTreeMap<WorkspaceId, Vec<String>>,
    /// Containers with this instance's label and a name that ostler does not give. ostler must not change them.
    pub foreign: Vec<ObservedContainer>,
}

impl Inventory {
    /// Groups a listing by owner.
    #[must_use]
    pub fn of(instance: InstanceId, observed: &Observed) -> Self {
        let mut sorted = Self::default();
        for container in &observed.containers {
            match container_owner(instance, &container.name, &container.labels) {
                Owner::Workspace(workspace, serial) => {
                    sorted.containers.entry(workspace).or_default().push((serial, container.clone()));
                }
                Owner::Trash(trash, workspace) => {
                    sorted.trashed.entry(workspace).or_default().push((trash, container.clone()));
                }
                Owner::Foreign => sorted.foreign.push(container.clone()),
                Owner::Unrelated => {}
            }
        }
        for volume in &observed.volumes {
            if let Some((workspace, _)) = volume_owner(instance, &volume.name, &volume.labels) {
                sorted.volumes.entry(workspace).or_default().push(volume.name.clone());
            }
        }
        for containers in sorted.containers.values_mut() {
            containers.sort_by_key(|(serial, _)| *serial);
        }
        for volumes in sorted.volumes.values_mut() {
            volumes.sort();
        }
        sorted
    }

    /// Workspaces in the labels of foreign containers. Such a container may be the workspace's own one, which a user
    /// has renamed.
    #[must_use]
    pub fn named_by_foreign(&self) -> Vec<WorkspaceId> {
        let named: BTreeSet<_> = self.foreign.iter().filter_map(workspace_named_by).collect();
        named.into_iter().collect()
    }

    /// Recognises containers that a user has renamed. If a row or a trash entry contains the container's id, the id and
    /// the labels prove that the container belongs to the workspace, even with another name. All other containers stay
    /// foreign.
    pub fn recognise(&mut self, rows: &[SweepRow], entries: &[TrashEntry]) {
        if is(Mutation::NamesAreProof) {
            return;
        }
        let rows = by_id(rows);
        for container in std::mem::take(&mut self.foreign) {
            let workspace = workspace_named_by(&container);
            let row = workspace.and_then(|id| rows.get(&id));
            let entry = entries.iter().find(|entry| {
                Some(entry.workspace) == workspace
                    && entry.contents.container.as_ref().is_some_and(|held| held.id == container.id)
            });
            if let Some(entry) = entry {
                self.trashed.entry(entry.workspace).or_default().push((entry.id, container));
            } else if let Some(row) = row.filter(|row| row.container.as_ref() == Some(&container.id)) {
                // With serial 0, the lowest, so that only a container with a regular name can count as newer.
                self.containers.entry(row.id).or_default().insert(0, (0, container));
            } else {
                self.foreign.push(container);
            }
        }
    }

    /// Workspaces with a container paused by `podman pause`.
    #[must_use]
    pub fn with_paused(&self) -> BTreeSet<WorkspaceId> {
        let paused = |(_, container): &(u32, ObservedContainer)| container.state == ContainerState::Paused;
        self.containers.iter().filter(|(_, own)| own.iter().any(paused)).map(|(id, _)| *id).collect()
    }

    /// Every workspace that owns a container, a trashed container or a volume.
    #[must_use]
    pub fn workspaces(&self) -> Vec<WorkspaceId> {
        let all: BTreeSet<_> =
            self.containers.keys().chain(self.trashed.keys()).chain(self.volumes.keys()).copied().collect();
        all.into_iter().collect()
    }

    /// Workspaces with a container, in the trash or not. A process in it may use the workspace's tokens.
    #[must_use]
    pub fn with_container(&self) -> Vec<WorkspaceId> {
        // A container with a trash name counts too, because its restore may be in progress.
        let all: BTreeSet<_> = self.containers.keys().chain(self.trashed.keys()).copied().collect();
        all.into_iter().collect()
    }

    /// Finds a container of a workspace by its id, with a regular name or a trash name.
    #[must_use]
    pub fn container(&self, workspace: WorkspaceId, id: &ContainerId) -> Option<&ObservedContainer> {
        let own = self.containers.get(&workspace).into_iter().flatten().map(|(_, container)| container);
        let trashed = self.trashed.get(&workspace).into_iter().flatten().map(|(_, container)| container);
        own.chain(trashed).find(|container| container.id == *id)
    }

    /// The container and the volumes that an adoption takes over. A running container has precedence, then the one with
    /// the highest serial. Containers with trash names are left out, because they were moved to the trash and stay
    /// there.
    #[must_use]
    pub fn newest_of(&self, workspace: WorkspaceId) -> Option<TrashContents> {
        let own = self.containers.get(&workspace).into_iter().flatten();
        let newest = own.max_by_key(|(serial, container)| (container.state.may_run(), *serial));
        let container = newest
            .map(|(_, container)| NamedContainer { id: container.id.clone(), name: container.name.clone() });
        let volumes = self.volumes.get(&workspace).cloned().unwrap_or_default();
        (container.is_some() || (!volumes.is_empty() && !self.trashed.contains_key(&workspace)))
            .then_some(TrashContents { container, volumes })
    }

    /// The workspace's containers and volumes that are in no trash entry, as contents of future entries: one for each
    /// container, with all volumes in the first.
    fn loose(&self, workspace: WorkspaceId, held: &Held<'_>) -> Vec<TrashContents> {
        let own = self.containers.get(&workspace).into_iter().flatten().map(|(_, container)| container);
        let trashed = self.trashed.get(&workspace).into_iter().flatten().map(|(_, container)| container);
        let mut bundles: Vec<TrashContents> = own
            .chain(trashed)
            .filter(|container| !held.contains(container.id.as_str()))
            .map(|container| TrashContents {
                container: Some(NamedContainer { id: container.id.clone(), name: container.name.clone() }),
                volumes: Vec::new(),
            })
            .collect();
        let volumes: Vec<String> = self
            .volumes
            .get(&workspace)
            .into_iter()
            .flatten()
            .filter(|volume| !held.contains(volume))
            .cloned()
            .collect();
        if !volumes.is_empty() {
            if bundles.is_empty() {
                bundles.push(TrashContents::default());
            }
            bundles[0].volumes = volumes;
        }
        bundles
    }
}

/// Container ids and volume names that trash entries contain.
struct Held<'a>(BTreeSet<&'a str>);

impl<'a> Held<'a> {
    fn by(entries: &'a [TrashEntry]) -> Self {
        let items = entries.iter().flat_map(|entry| {
            let container = entry.contents.container.iter().map(|container| container.id.as_str());
            container.chain(entry.contents.volumes.iter().map(String::as_str))
        });
        Self(items.collect())
    }

    fn contains(&self, item: &str) -> bool {
        self.0.contains(item)
    }
}

/// Number of ancestors. Limited to `STEPS_MAX`, in case of a cycle.
pub(super) fn depth(workspace: WorkspaceId, parent: &dyn Fn(WorkspaceId) -> Option<WorkspaceId>) -> usize {
    std::iter::successors(parent(workspace), |above| parent(*above)).take(STEPS_MAX).count()
}

fn workspace_named_by(container: &ObservedContainer) -> Option<WorkspaceId> {
    container.labels.get(super::naming::LABEL_WORKSPACE)?.parse().ok()
}

fn by_id(rows: &[SweepRow]) -> HashMap<WorkspaceId, &SweepRow> {
    rows.iter().map(|row| (row.id, row)).collect()
}

/// `reap_removed`: moves containers and volumes that removed workspaces still own to the trash, and finishes
/// interrupted moves and purges.
#[must_use]
pub fn reap_removed(
    inventory: &Inventory,
    rows: &[SweepRow],
    entries: &[TrashEntry],
    purges: &[SweepRow],
    busy: &BTreeSet<WorkspaceId>,
) -> Plan {
    let held = Held::by(entries);
    let mut plan = Plan::default();
    plan.finish_claims(entries, busy, &[TrashReason::Removed]);
    for row in purges.iter().filter(|row| !busy.contains(&row.id)) {
        let evidence =
            format!("removed at {} with `--purge`; the deletion is not finished", row.status_since);
        plan.act(Action::Purge { workspace: row.id }, &row.name, evidence);
    }
    for row in rows.iter().filter(|row| row.status == Status::Removed && !busy.contains(&row.id)) {
        for contents in inventory.loose(row.id, &held) {
            let evidence = format!(
                "the workspace was removed at {}; it still owns {}",
                row.status_since,
                describe_contents(&contents)
            );
            plan.act(Action::TrashRemoved { workspace: row.id, contents }, &row.name, evidence);
        }
    }
    plan
}

/// Input of `reap_unknown` besides the listing.
#[derive(Clone, Copy, Debug)]
pub struct UnknownInput<'a> {
    /// Rows of the workspaces in the listing, including removed ones.
    pub rows: &'a [SweepRow],
    /// Trash entries of those workspaces, and every entry that is being moved in or restored.
    pub entries: &'a [TrashEntry],
    /// Workspaces with an operation in progress. They are skipped.
    pub busy: &'a BTreeSet<WorkspaceId>,
    /// Record of earlier listings.
    pub presence: &'a Presence,
    /// Time of the listing.
    pub now: Awake,
    /// Minimum time for which a container or volume must have been listed.
    pub grace: Duration,
}

/// `reap_unknown`: moves containers and volumes to the trash that have ostler's labels, belong to no row and no trash
/// entry, and have been listed for at least the grace period. Also finishes interrupted moves of this kind.
#[must_use]
pub fn reap_unknown(inventory: &Inventory, input: &UnknownInput<'_>) -> Plan {
    let UnknownInput { rows, entries, busy, presence, now, grace } = *input;
    let known = by_id(rows);
    let held = Held::by(entries);
    let mut plan = Plan::default();
    plan.finish_claims(entries, busy, &[TrashReason::Unknown]);
    let unknown = |id: &WorkspaceId| !known.contains_key(id) && !busy.contains(id);
    for workspace in inventory.workspaces().into_iter().filter(unknown) {
        for contents in inventory.loose(workspace, &held) {
            let first = contents
                .container
                .iter()
                .map(|container| container.id.as_str())
                .chain(contents.volumes.iter().map(String::as_str))
                .filter_map(|item| presence.seen(item))
                .max_by_key(|seen| seen.since);
            let name = labelled_name(inventory, workspace, &contents);
            match first {
                Some(seen) if seen.listings >= 2 && now.since(seen.since) >= grace => {
                    let evidence = format!(
                        "not in the registry and in no trash entry; present in {} trusted listings over {}",
                        seen.listings,
                        words(now.since(seen.since))
                    );
                    plan.act(Action::TrashUnknown { workspace, contents }, name, evidence);
                }
                seen => plan.watching.push(format!(
                    "{name}: {} not in the registry; will be moved to the trash after {} (observed for {} so far)",
                    describe_contents(&contents),
                    words(grace),
                    words(seen.map_or(Duration::ZERO, |seen| now.since(seen.since)))
                )),
            }
        }
    }
    plan
}

fn labelled_name(inventory: &Inventory, workspace: WorkspaceId, contents: &TrashContents) -> String {
    contents
        .container
        .as_ref()
        .and_then(|named| inventory.container(workspace, &named.id))
        .and_then(|container| container.labels.get(super::naming::LABEL_SPEC))
        .and_then(|spec| serde_json::from_str::<super::spec::LabelledSpec>(spec).ok())
        .map_or_else(|| workspace.to_string(), |spec| spec.name.to_string())
}

/// `revoke_stale_tokens`: revokes the tokens of candidates whose container was absent for the grace period, and from at
/// least two listings.
#[must_use]
pub fn revoke_stale_tokens(
    candidates: &[StaleCandidate],
    presence: &Presence,
    now: Awake,
    grace: Duration,
    older_than: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let asked_at = older_than + grace;
    for candidate in candidates {
        // Only listings after the token's creation and last use count. Before that, the container may have existed
        // between two listings.
        let sign = candidate.token_used_at.max(Some(candidate.token_created_at)).unwrap_or_default();
        let absent = presence.absent(candidate.workspace, now - asked_at.since(sign), now);
        if absent.listings >= 2 && absent.time >= grace {
            let evidence = format!(
                "its container was absent from {} trusted listings over {}; the token was issued at {} \
                 and {}",
                absent.listings,
                words(absent.time),
                candidate.token_created_at,
                candidate
                    .token_used_at
                    .map_or_else(|| "never used".into(), |at| format!("last used at {at}"))
            );
            let action = Action::RevokeStaleTokens { workspace: candidate.workspace, older_than };
            plan.act(action, &candidate.name, evidence);
        } else {
            plan.watching.push(format!(
                "{}: no container; its instance tokens are revoked after {} (so far {})",
                candidate.name,
                words(grace),
                words(absent.time)
            ));
        }
    }
    plan
}

/// Input of `settle` besides the listing.
#[derive(Clone, Copy, Debug)]
pub struct SettleInput<'a> {
    /// Rows of the workspaces in the listing.
    pub rows: &'a [SweepRow],
    /// Provisioning rows whose start this process did not begin.
    pub interrupted: &'a [SweepRow],
    /// Rows in status `hibernating`.
    pub hibernating: &'a [SweepRow],
    /// Trash entries that are being moved in or restored, and those of workspaces that have a container in the listing.
    pub entries: &'a [TrashEntry],
    /// Workspaces with an operation in progress. They are skipped.
    pub busy: &'a BTreeSet<WorkspaceId>,
}

/// `settle`: makes the engine match the rows, and completes operations that a crash interrupted.
#[must_use]
pub fn settle(inventory: &Inventory, input: &SettleInput<'_>) -> Plan {
    let SettleInput { rows, interrupted, hibernating, entries, busy } = *input;
    let mut plan = Plan::default();
    let idle = |id: &WorkspaceId| !busy.contains(id);
    plan.finish_claims(entries, busy, &[TrashReason::Stray, TrashReason::Replaced]);
    for entry in entries.iter().filter(|entry| idle(&entry.workspace) && entry.state == TrashState::Restoring)
    {
        plan.act(
            Action::FinishRestore { workspace: entry.workspace, entry: entry.id },
            &entry.workspace_name,
            "its restore from the trash is not finished",
        );
    }
    for entry in entries.iter().filter(|entry| idle(&entry.workspace) && entry.state == TrashState::Kept) {
        let Some(kept) = &entry.contents.container else { continue };
        let is_it = |container: &ObservedContainer| container.id == kept.id;
        let trashed = inventory.trashed.get(&entry.workspace).into_iter().flatten();
        let own = inventory.containers.get(&entry.workspace).into_iter().flatten();
        // True only if a row shows that the workspace does not use this container. If there is no row, the registry may
        // have been restored from a backup that is older than a restore of this container from the trash.
        let is_elsewhere = rows.iter().any(|row| {
            row.id == entry.workspace
                && (row.status == Status::Removed || row.container.as_ref() != Some(&kept.id))
        });
        let evidence = if trashed.map(|(_, container)| container).any(|c| is_it(c) && c.state.may_run()) {
            "its container is in the trash, but runs"
        } else if is_elsewhere && own.map(|(_, container)| container).any(is_it) {
            // A restore requested this rename and gave up waiting for it, and the rename took effect later.
            "its container is in the trash, but does not have its trash name"
        } else {
            continue;
        };
        let action = Action::FinishTrash { workspace: entry.workspace, entry: entry.id };
        plan.act(action, &entry.workspace_name, evidence);
    }
    let interrupted = interrupted.iter().filter(|_| !is(Mutation::LeaveInterrupted));
    for row in interrupted.filter(|row| idle(&row.id)) {
        let evidence = format!("provisioning since {}, and no start is in progress", row.status_since);
        plan.act(Action::StartAgain { workspace: row.id }, &row.name, evidence);
    }
    for row in hibernating.iter().filter(|row| idle(&row.id)) {
        let evidence = format!("hibernating since {}, and no stop is in progress", row.status_since);
        plan.act(Action::FinishHibernation { workspace: row.id }, &row.name, evidence);
    }
    let held = Held::by(entries);
    for row in rows.iter().filter(|row| row.status != Status::Removed && idle(&row.id)) {
        let own = inventory.containers.get(&row.id).into_iter().flatten().map(|(_, container)| container);
        // Also containers that have a trash name but no entry: the entry was dropped while the engine did not list the
        // container.
        let trashed = inventory.trashed.get(&row.id).into_iter().flatten().map(|(_, container)| container);
        let trashed = trashed.filter(|container| row.container.as_ref() != Some(&container.id));
        for container in own.chain(trashed) {
            if row.container.as_ref() == Some(&container.id) {
                let stops = row.status.forbids_running() && row.status != Status::Hibernating;
                if stops && container.state.may_run() {
                    let evidence = format!("it runs, but the workspace is {}", row.status);
                    let action = Action::StopContainer { workspace: row.id, container: container.id.clone() };
                    plan.act(action, &row.name, evidence);
                }
            } else if !held.contains(container.id.as_str()) {
                let evidence = match &row.container {
                    Some(own) => format!("the workspace's container is {}", own.short()),
                    None => "the workspace has no container in the registry".into(),
                };
                let never_ran = container.state == ContainerState::Created && container.started_at.is_none();
                let container = NamedContainer { id: container.id.clone(), name: container.name.clone() };
                plan.act(Action::TrashStray { workspace: row.id, container, never_ran }, &row.name, evidence);
            }
        }
    }
    plan
}

/// Delay between the first listing in which a container does not run and the second listing, which confirms it.
const SECOND_LISTING_AFTER: Duration = Duration::from_millis(250);

/// Time a container must run before a workspace with readiness `container` is online.
pub const READY_AFTER: Duration = Duration::from_secs(2);

/// If the start time of a container is further in the future than this, the wall clock was set back since.
const SET_BACK: Duration = Duration::from_mins(1);

/// `check_containers`: marks rows offline whose container did not run in two consecutive listings. Marks offline or
/// provisioning rows online if their container has run for [`READY_AFTER`] and their readiness is `container`. The
/// caller must pass provisioning rows only if this process began their start.
#[must_use]
pub fn check_containers(
    inventory: &Inventory,
    rows: &[SweepRow],
    presence: &Presence,
    busy: &BTreeSet<WorkspaceId>,
    readiness: &dyn Fn(&str) -> Readiness,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    for row in rows.iter().filter(|row| !busy.contains(&row.id)) {
        let container = row.container.as_ref().and_then(|id| inventory.container(row.id, id));
        let running = container.filter(|container| container.state.may_run());
        match (row.status, running) {
            (Status::Online | Status::Degraded | Status::Provisioning, None)
                if presence.not_running(row.id) >= 2 =>
            {
                let evidence = match container {
                    Some(ended) => format!(
                        "its container has exited{}",
                        ended.exit_code.map(|code| format!(" (exit code {code})")).unwrap_or_default()
                    ),
                    None => "its container is gone".into(),
                };
                let action = Action::MarkOffline {
                    workspace: row.id,
                    incarnation: row.incarnation,
                    container: row.container.clone(),
                };
                plan.act(action, &row.name, evidence);
            }
            (Status::Online | Status::Degraded | Status::Provisioning, None) => {
                plan.watching.push(format!("{}: its container does not run; checking once more", row.name));
                plan.run_again_at(now + SECOND_LISTING_AFTER);
            }
            (_, Some(container)) if container.state == ContainerState::Paused => {
                plan.watching.push(format!(
                    "{}: its container was paused by hand; `podman unpause {}` resumes it",
                    row.name,
                    container.id.short()
                ));
            }
            // A container that is stopping or in an unknown state counts neither as exited nor as ready, so only
            // `Running` is accepted here.
            (Status::Offline | Status::Provisioning, Some(container))
                if readiness(&row.runtime) == Readiness::Container
                    && container.state == ContainerState::Running
                    && container
                        .started_at
                        .is_some_and(|at| now.since(at) >= READY_AFTER || at.since(now) > SET_BACK) =>
            {
                let action = Action::MarkReady {
                    workspace: row.id,
                    incarnation: row.incarnation,
                    container: container.id.clone(),
                };
                plan.act(action, &row.name, "its container runs");
            }
            (Status::Offline | Status::Provisioning, Some(container))
                if readiness(&row.runtime) == Readiness::Container
                    && container.state == ContainerState::Running =>
            {
                plan.watching.push(format!("{}: its container has just been started", row.name));
            }
            _ => {}
        }
    }
    plan
}

/// `empty_trash`: deletes entries whose retention has ended, and finishes deletions that a crash interrupted.
#[must_use]
pub fn empty_trash(due: &[TrashEntry], busy: &BTreeSet<WorkspaceId>) -> Plan {
    let mut plan = Plan::default();
    for entry in due.iter().filter(|entry| !busy.contains(&entry.workspace)) {
        let evidence = match entry.state {
            TrashState::Deleting => "its deletion is not finished".to_owned(),
            TrashState::Claimed | TrashState::Kept | TrashState::Restoring => {
                format!("its retention ended at {}", entry.keep_until)
            }
        };
        let action = Action::DeleteTrash {
            workspace: entry.workspace,
            entry: entry.id,
            ordered: entry.reason.ordered_by_operator() || entry.state == TrashState::Deleting,
        };
        plan.act(action, &entry.workspace_name, evidence);
    }
    plan
}

/// Formats a duration with its two largest units.
#[must_use]
pub fn words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}
