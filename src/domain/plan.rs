//! The actions that a pass plans, computed before anything is changed.
//!
//! A plan is a list of [`Planned`] actions, each with the evidence for it. Applying a plan makes no further decisions;
//! it only checks again that the evidence still holds. A dry run therefore costs nothing extra, and the breaker can
//! hold, show and approve a plan unchanged.

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
use crate::mutation::{Mutation, is};

/// The columns of a workspace row that sweeps decide on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepRow {
    /// Never reused by another workspace.
    pub id: WorkspaceId,
    /// Unique among live workspaces.
    pub name: String,
    /// Status stored in the row.
    pub status: Status,
    /// Container that the row expects; `None` for external workspaces and before the first start.
    pub container: Option<ContainerId>,
    /// Start counter; guards actions against a restart in between.
    pub incarnation: Incarnation,
    /// Time of the last status change.
    pub status_since: Timestamp,
    /// Name of its runtime in the configuration.
    pub runtime: String,
}

/// A workspace whose instance tokens are older than the grace and that has no container in a listing.
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

/// One change that a pass asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// Move the remaining things of a removed workspace to the trash.
    TrashRemoved {
        /// The removed workspace.
        workspace: WorkspaceId,
        /// The container and volumes to move.
        contents: TrashContents,
    },
    /// Move things with our labels and without a row to the trash.
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
        /// True if it never ran: the remains of an interrupted start, which hold no work.
        #[serde(default)]
        never_ran: bool,
    },
    /// Complete a move to the trash: stop, rename, mark as kept.
    FinishTrash {
        /// Workspace that owned the things.
        workspace: WorkspaceId,
        /// The trash entry: `claimed`, or `kept` with a container that runs or lost its trash name.
        entry: TrashId,
    },
    /// Finish an interrupted restore.
    FinishRestore {
        /// Workspace that owns the things.
        workspace: WorkspaceId,
        /// The trash entry in state `restoring`.
        entry: TrashId,
    },
    /// Delete the things of a workspace that was removed with `--purge`.
    Purge {
        /// The removed workspace.
        workspace: WorkspaceId,
    },
    /// Delete a trash entry permanently.
    DeleteTrash {
        /// Workspace that owned the things.
        workspace: WorkspaceId,
        /// The trash entry.
        entry: TrashId,
        /// True if an operator moved it to the trash, or if its deletion has begun.
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
    /// Begin a start again that a crash interrupted.
    StartAgain {
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// Set `offline` because the container is gone or has exited.
    MarkOffline {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: the incarnation it was decided on.
        incarnation: Incarnation,
        /// Guard: the container that the row expected.
        container: Option<ContainerId>,
    },
    /// Record that an agent missed its heartbeats for too long.
    MarkSilent {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: the incarnation it was decided on.
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
        /// Guard: the incarnation it was decided on.
        incarnation: Incarnation,
        /// Guard: the row is provisioning since this time.
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
        /// Guard: the incarnation it was decided on.
        incarnation: Incarnation,
        /// Guard: the container that runs.
        container: ContainerId,
    },
}

/// What an action does to work that a user may still want.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Records an observation.
    Records,
    /// Starts, stops or restores something, or finishes what was claimed before.
    Acts,
    /// Takes something away.
    Destroys,
}

/// The properties of an action that do not depend on how it is carried out.
struct Description {
    workspace: WorkspaceId,
    effect: Effect,
    /// Whether it counts against the breaker.
    counted: bool,
    /// Whether it was decided by an elapsed time: a jump of a clock since then makes it void.
    timed: bool,
    /// Identifies the same action in another run, if its fields do not: some of them are times that change with every
    /// run.
    key: Option<&'static str>,
    /// One phrase for the user.
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
    /// The only place that describes the variants; a new one is described here.
    fn description(&self) -> Description {
        use Effect::{Acts, Destroys, Records};
        match self {
            // Not counted: an operator removed it.
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
            // Counted: a restart destroys the work of an agent that may only be unable to reach the daemon. One fault
            // that cuts off many agents at once must not restart all of them.
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
    /// actions. Stopping a container is not destructive, because its row does not allow it to run. Finishing a claim is
    /// not destructive, because it affects only what was claimed.
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

    /// Whether it was decided by an elapsed time: a jump of a clock since then makes it void.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        self.description().timed
    }

    /// Identifies the same action in another run, for approvals; deadlines and other times that change with every run
    /// are left out.
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

/// The result of a pass: actions for now and observations for later.
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
    /// Plans to finish the claims that a failed stop or a crash left open, limited to the trash reasons of this pass.
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

    /// Sorts parents before their descendants; the order is otherwise kept.
    pub fn parents_first(&mut self, parent: &dyn Fn(WorkspaceId) -> Option<WorkspaceId>) {
        self.actions.sort_by_cached_key(|planned| depth(planned.action.workspace(), parent));
    }

    /// Requests another run at `at`; an earlier request stays.
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
    /// Per workspace: containers under our name for it, with the serial in that name.
    pub containers: BTreeMap<WorkspaceId, Vec<(u32, ObservedContainer)>>,
    /// Per workspace: containers under trash names.
    pub trashed: BTreeMap<WorkspaceId, Vec<(TrashId, ObservedContainer)>>,
    /// Per workspace: names of its volumes.
    pub volumes: BTreeMap<WorkspaceId, Vec<String>>,
    /// Containers with our instance label and a name that is not ours. They must not be changed.
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

    /// Workspaces named in the labels of foreign containers. Such a container may be a row's own, renamed.
    #[must_use]
    pub fn named_by_foreign(&self) -> Vec<WorkspaceId> {
        let named: BTreeSet<_> = self.foreign.iter().filter_map(workspace_named_by).collect();
        named.into_iter().collect()
    }

    /// Reclassifies containers that were renamed by hand. If a row or a trash entry holds the container's id, that id
    /// and the labels prove ownership, whatever the name is now. All others stay foreign.
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
                // Serial 0, the lowest: only a container under our own name may count as newer.
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

    /// Workspaces with a container of their own, in the trash or not: their tokens may be in use.
    #[must_use]
    pub fn with_container(&self) -> Vec<WorkspaceId> {
        // A container under a trash name counts too: a restore may be in progress.
        let all: BTreeSet<_> = self.containers.keys().chain(self.trashed.keys()).copied().collect();
        all.into_iter().collect()
    }

    /// Finds a container of a workspace by its id, under any name.
    #[must_use]
    pub fn container(&self, workspace: WorkspaceId, id: &ContainerId) -> Option<&ObservedContainer> {
        let own = self.containers.get(&workspace).into_iter().flatten().map(|(_, container)| container);
        let trashed = self.trashed.get(&workspace).into_iter().flatten().map(|(_, container)| container);
        own.chain(trashed).find(|container| container.id == *id)
    }

    /// The container (a running one first, then the highest serial) and the volumes that an adoption takes over.
    /// Containers under trash names are left out: they were moved to the trash and stay there.
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

    /// The workspace's things that no trash entry holds: one bundle per container, all volumes in the first bundle.
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

/// Container ids and volume names held by trash entries.
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

/// `reap_removed`: things that removed rows still own, open claims, and purges that were not carried out.
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
    /// Workspaces with an operation in progress; skipped.
    pub busy: &'a BTreeSet<WorkspaceId>,
    /// Since when each thing has been listed.
    pub presence: &'a Presence,
    /// Time of the listing.
    pub now: Awake,
    /// Minimum time that a thing must have been listed.
    pub grace: Duration,
}

/// `reap_unknown`: things with our labels that no row and no trash entry holds, listed for at least the grace.
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

/// `revoke_stale_tokens`: candidates whose container was absent for the grace and from two listings.
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
        // A listing older than the token's last creation or use proves nothing about its owner: the container may have
        // appeared and gone between two listings.
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
    /// Provisioning rows that this process did not start.
    pub interrupted: &'a [SweepRow],
    /// Rows in status `hibernating`.
    pub hibernating: &'a [SweepRow],
    /// Trash entries that are being moved in or restored, and those that hold a container in the listing.
    pub entries: &'a [TrashEntry],
    /// Workspaces with an operation in progress; skipped.
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
        // A registry restored from a backup may not know of a later restore from the trash: then no row owns the
        // container.
        let is_elsewhere = rows.iter().any(|row| {
            row.id == entry.workspace
                && (row.status == Status::Removed || row.container.as_ref() != Some(&kept.id))
        });
        let evidence = if trashed.map(|(_, container)| container).any(|c| is_it(c) && c.state.may_run()) {
            "its container is in the trash, but runs"
        } else if is_elsewhere && own.map(|(_, container)| container).any(is_it) {
            // The rename of an earlier restore took effect after the restore had given up on it.
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
        // A container under a trash name without an entry: its entry was dropped while the container was not visible.
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

/// Delay of the second listing after the first one in which a container does not run.
const SECOND_LISTING_AFTER: Duration = Duration::from_millis(250);

/// Time a container must run before a workspace with readiness `container` is online.
pub const READY_AFTER: Duration = Duration::from_secs(2);

/// A start time further in the future than this means that the wall clock was set back.
const SET_BACK: Duration = Duration::from_mins(1);

/// `check_containers`: rows whose container is gone or has exited in two consecutive listings, and rows that are
/// offline or provisioning while their container runs. Provisioning rows must be in `rows` only if this process started
/// them.
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
            // A container that is stopping or in an unknown state counts neither as exited nor as ready.
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

/// `empty_trash`: entries past their retention, and deletions that a crash interrupted.
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
