//! What a pass wants done, decided before anything is done.
//!
//! A plan is a list of [`Planned`] actions, each with the evidence it was decided on. Applying one makes
//! no further choice; it only checks again that what it was decided on still holds. That is why a dry
//! run costs nothing and why the breaker can hold, show and approve a plan as it stands.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

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
    trash::{NamedContainer, Things, TrashEntry, TrashReason, TrashState},
};
use crate::mutation::{Mutation, is};

/// The part of a row that sweeps decide on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownRow {
    /// Its identity.
    pub id: WorkspaceId,
    /// Its name.
    pub name: String,
    /// What it is.
    pub status: Status,
    /// Its container.
    pub container: Option<ContainerId>,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Since when it is what it is.
    pub status_since: Timestamp,
    /// The name of its runtime.
    pub runtime: String,
}

/// A workspace whose instance tokens are old enough and whose container a listing did not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleCandidate {
    /// Whose tokens.
    pub workspace: WorkspaceId,
    /// Its name.
    pub name: String,
    /// Its status.
    pub status: String,
    /// When the token was issued.
    pub token_created_at: Timestamp,
    /// When it was last used.
    pub token_used_at: Option<Timestamp>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// Put what a removed workspace still owns into the trash.
    TrashRemoved {
        /// Whose.
        workspace: WorkspaceId,
        /// What.
        things: Things,
    },
    /// Put what no row knows into the trash.
    TrashUnknown {
        /// Whose, by the labels.
        workspace: WorkspaceId,
        /// What.
        things: Things,
    },
    /// Put a second container of a live workspace into the trash, without volumes.
    TrashStray {
        /// Whose.
        workspace: WorkspaceId,
        /// Which.
        container: NamedContainer,
        /// Whether it never ran: what a start left that was interrupted. It holds nobody's work.
        #[serde(default)]
        never_ran: bool,
    },
    /// Finish a claim that was left half done: stop, rename, keep.
    FinishTrash {
        /// Whose things.
        workspace: WorkspaceId,
        /// Which entry.
        entry: TrashId,
    },
    /// Finish a restore that was left half done.
    FinishRestore {
        /// Whose things.
        workspace: WorkspaceId,
        /// Which entry.
        entry: TrashId,
    },
    /// Delete what a removed workspace owned, as its removal ordered.
    Purge {
        /// Whose.
        workspace: WorkspaceId,
    },
    /// Delete an entry for good.
    DeleteTrash {
        /// Whose things.
        workspace: WorkspaceId,
        /// Which entry.
        entry: TrashId,
        /// Whether a person put it there.
        ordered: bool,
    },
    /// Revoke the instance tokens of a workspace without a container.
    RevokeStaleTokens {
        /// Whose.
        workspace: WorkspaceId,
        /// Tokens created or used at this time or later stay.
        older_than: Timestamp,
    },
    /// Stop the container of a workspace whose row forbids that it runs.
    StopContainer {
        /// Whose.
        workspace: WorkspaceId,
        /// Which.
        container: ContainerId,
    },
    /// Start anew what a crash left in the middle of a start.
    StartAnew {
        /// Whose.
        workspace: WorkspaceId,
    },
    /// Note that a container is gone or has ended.
    MarkOffline {
        /// Whose.
        workspace: WorkspaceId,
        /// In which incarnation.
        incarnation: Incarnation,
        /// Which container was expected.
        container: Option<ContainerId>,
    },
    /// Note that nothing was heard of an agent for too long.
    MarkSilent {
        /// Whose.
        workspace: WorkspaceId,
        /// In which incarnation.
        incarnation: Incarnation,
        /// Unless it was heard at this time or later.
        heard_before: Timestamp,
        /// Whether its agent runs elsewhere.
        external: bool,
    },
    /// Start anew what runs and is silent, or busy without result.
    RestartUnwell {
        /// Whose.
        workspace: WorkspaceId,
        /// Unless it was heard at this time or later.
        heard_before: Timestamp,
    },
    /// Note that a start took too long.
    TimeOutProvisioning {
        /// Whose.
        workspace: WorkspaceId,
        /// In which incarnation.
        incarnation: Incarnation,
        /// Since when it is provisioning.
        since: Timestamp,
        /// How long it may.
        limit_seconds: u64,
    },
    /// Put to sleep what does nothing.
    Hibernate {
        /// Whose.
        workspace: WorkspaceId,
        /// Unless something happened there after this time.
        idle_since: Timestamp,
    },
    /// See the container of what falls asleep stopped.
    FinishHibernation {
        /// Whose.
        workspace: WorkspaceId,
    },
    /// Flag what is busy without result.
    FlagWedged {
        /// Whose.
        workspace: WorkspaceId,
        /// Unless something came of it after this time.
        quiet_since: Timestamp,
    },
    /// Start again what ended, its wait being over.
    RestartDue {
        /// Whose.
        workspace: WorkspaceId,
    },
    /// Note that a container has run long enough.
    MarkReady {
        /// Whose.
        workspace: WorkspaceId,
        /// In which incarnation.
        incarnation: Incarnation,
        /// Which container.
        container: ContainerId,
    },
}

impl Action {
    /// Whom it concerns.
    #[must_use]
    pub fn workspace(&self) -> WorkspaceId {
        match self {
            Self::TrashRemoved { workspace, .. }
            | Self::TrashUnknown { workspace, .. }
            | Self::TrashStray { workspace, .. }
            | Self::FinishTrash { workspace, .. }
            | Self::FinishRestore { workspace, .. }
            | Self::Purge { workspace }
            | Self::DeleteTrash { workspace, .. }
            | Self::RevokeStaleTokens { workspace, .. }
            | Self::StopContainer { workspace, .. }
            | Self::StartAnew { workspace }
            | Self::MarkOffline { workspace, .. }
            | Self::MarkSilent { workspace, .. }
            | Self::RestartUnwell { workspace, .. }
            | Self::TimeOutProvisioning { workspace, .. }
            | Self::Hibernate { workspace, .. }
            | Self::FinishHibernation { workspace }
            | Self::FlagWedged { workspace, .. }
            | Self::RestartDue { workspace }
            | Self::MarkReady { workspace, .. } => *workspace,
        }
    }

    /// Whether it takes something away: at most a few of these per run. A stop takes nothing away that the row still
    /// allows, and finishing a claim takes no more than what was claimed.
    #[must_use]
    pub fn is_destructive(&self) -> bool {
        match self {
            Self::TrashRemoved { .. }
            | Self::TrashUnknown { .. }
            | Self::TrashStray { .. }
            | Self::Purge { .. }
            | Self::DeleteTrash { .. }
            | Self::RevokeStaleTokens { .. } => true,
            Self::StopContainer { .. } => is(Mutation::StopsAreDestruction),
            Self::FinishTrash { .. }
            | Self::FinishRestore { .. }
            | Self::StartAnew { .. }
            | Self::MarkOffline { .. }
            | Self::MarkSilent { .. }
            | Self::RestartUnwell { .. }
            | Self::TimeOutProvisioning { .. }
            | Self::Hibernate { .. }
            | Self::FinishHibernation { .. }
            | Self::FlagWedged { .. }
            | Self::RestartDue { .. }
            | Self::MarkReady { .. } => false,
        }
    }

    /// Whether it counts against the breaker: it could hurt somebody's work, and no operator ordered it by name.
    #[must_use]
    pub fn counts_against_breaker(&self) -> bool {
        // A restart takes the work of an agent that may only be unable to reach us: whatever silences many at once must
        // not restart them all.
        if let Self::RestartUnwell { .. } = self {
            return !is(Mutation::SilenceIsFree);
        }
        let harmless = match self {
            Self::TrashRemoved { .. } | Self::Purge { .. } => true,
            Self::TrashStray { never_ran, .. } => *never_ran,
            Self::DeleteTrash { ordered, .. } => *ordered,
            Self::TrashUnknown { .. }
            | Self::FinishTrash { .. }
            | Self::FinishRestore { .. }
            | Self::RevokeStaleTokens { .. }
            | Self::StopContainer { .. }
            | Self::StartAnew { .. }
            | Self::MarkOffline { .. }
            | Self::MarkSilent { .. }
            | Self::RestartUnwell { .. }
            | Self::TimeOutProvisioning { .. }
            | Self::Hibernate { .. }
            | Self::FinishHibernation { .. }
            | Self::FlagWedged { .. }
            | Self::RestartDue { .. }
            | Self::MarkReady { .. } => false,
        };
        self.is_destructive() && !harmless
    }

    /// Whether it waits while the registry is recovering: whatever starts, stops, deletes or revokes something. What
    /// only writes down an observation does not.
    #[must_use]
    pub fn waits_for_recovery(&self) -> bool {
        match self {
            Self::TrashRemoved { .. }
            | Self::TrashUnknown { .. }
            | Self::TrashStray { .. }
            | Self::Purge { .. }
            | Self::FinishTrash { .. }
            | Self::FinishRestore { .. }
            | Self::DeleteTrash { .. }
            | Self::RevokeStaleTokens { .. }
            | Self::StopContainer { .. }
            | Self::StartAnew { .. }
            | Self::RestartUnwell { .. }
            | Self::Hibernate { .. }
            | Self::FinishHibernation { .. }
            | Self::RestartDue { .. } => true,
            Self::MarkOffline { .. }
            | Self::MarkSilent { .. }
            | Self::TimeOutProvisioning { .. }
            | Self::FlagWedged { .. }
            | Self::MarkReady { .. } => false,
        }
    }

    /// What makes it the same action in another run, for approvals. Points in time are left out.
    #[must_use]
    pub fn key(&self) -> String {
        if let Self::RevokeStaleTokens { workspace, .. } = self {
            return format!("revoke tokens of {workspace}");
        }
        if let Self::Hibernate { workspace, .. } = self {
            return format!("hibernate {workspace}");
        }
        if let Self::RestartUnwell { workspace, .. } = self {
            return format!("restart {workspace}");
        }
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What it does, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::TrashRemoved { things, .. } | Self::TrashUnknown { things, .. } => {
                format!("put {} into the trash", describe_things(things))
            }
            Self::TrashStray { container, .. } => {
                format!("put the second container {} into the trash", container.id.short())
            }
            Self::FinishTrash { entry, .. } => format!("finish putting entry {entry} into the trash"),
            Self::FinishRestore { entry, .. } => format!("finish restoring entry {entry}"),
            Self::Purge { .. } => "delete what it owned for good".into(),
            Self::DeleteTrash { entry, .. } => format!("delete trash entry {entry} for good"),
            Self::RevokeStaleTokens { .. } => "revoke its stale instance tokens".into(),
            Self::StopContainer { container, .. } => format!("stop container {}", container.short()),
            Self::StartAnew { .. } => "start anew what was interrupted".into(),
            Self::MarkOffline { .. } => "mark it offline".into(),
            Self::MarkSilent { external: true, .. } => "wait for its agent again".into(),
            Self::MarkSilent { external: false, .. } => "mark it degraded".into(),
            Self::RestartUnwell { .. } => "start it anew".into(),
            Self::TimeOutProvisioning { .. } => "give its start up".into(),
            Self::Hibernate { .. } => "put it to sleep".into(),
            Self::FinishHibernation { .. } => "see it asleep".into(),
            Self::FlagWedged { .. } => "flag it as wedged".into(),
            Self::RestartDue { .. } => "start it again".into(),
            Self::MarkReady { .. } => "mark it online".into(),
        }
    }
}

fn describe_things(things: &Things) -> String {
    let volumes = match things.volumes.len() {
        0 => None,
        1 => Some("1 volume".to_owned()),
        n => Some(format!("{n} volumes")),
    };
    let container = things.container.as_ref().map(|c| format!("container {}", c.id.short()));
    let parts: Vec<_> = container.into_iter().chain(volumes).collect();
    if parts.is_empty() { "nothing".into() } else { parts.join(" and ") }
}

/// An action and what it was decided on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// What to do.
    pub action: Action,
    /// The workspace's name, as far as anybody knows.
    pub name: String,
    /// Why, in words a person can check.
    pub evidence: String,
}

/// What a pass wants done, and what it keeps an eye on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be done.
    pub actions: Vec<Planned>,
    /// To be done later if it stays so.
    pub watching: Vec<String>,
    /// When the pass wants to run again, if that is before its turn.
    pub again_at: Option<Timestamp>,
}

impl Plan {
    /// Claims that a failed stop or a crash left open, of the reasons that are this pass's own.
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
            let evidence = format!("claimed for the trash at {} and not put away yet", entry.created_at);
            self.act(action, &entry.workspace_name, evidence);
        }
    }

    /// Puts actions of workspaces higher in the tree before those of workspaces below them; otherwise the order stays.
    pub fn parents_first(&mut self, parent: &dyn Fn(WorkspaceId) -> Option<WorkspaceId>) {
        self.actions.sort_by_cached_key(|planned| depth(planned.action.workspace(), parent));
    }

    /// Asks for another run at that time, or at the earlier one that was asked for.
    pub fn run_again_at(&mut self, at: Timestamp) {
        self.again_at = Some(self.again_at.map_or(at, |earlier| earlier.min(at)));
    }

    pub(super) fn act(&mut self, action: Action, name: impl Into<String>, evidence: impl Into<String>) {
        self.actions.push(Planned { action, name: name.into(), evidence: evidence.into() });
    }
}

/// A listing, sorted by whose things it shows. Foreign and unrelated containers do not appear.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Per workspace, its containers under our names for it, with their serials.
    pub containers: BTreeMap<WorkspaceId, Vec<(u32, ObservedContainer)>>,
    /// Per workspace, its containers under trash names.
    pub trashed: BTreeMap<WorkspaceId, Vec<(TrashId, ObservedContainer)>>,
    /// Per workspace, its volumes' names.
    pub volumes: BTreeMap<WorkspaceId, Vec<String>>,
    /// Containers with our label that are not ours to touch.
    pub foreign: Vec<ObservedContainer>,
}

impl Inventory {
    /// Sorts a listing.
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

    /// Workspaces that foreign containers name in their labels: one of those may be a row's own under another name.
    #[must_use]
    pub fn named_by_foreign(&self) -> Vec<WorkspaceId> {
        let named: BTreeSet<_> = self.foreign.iter().filter_map(workspace_named_by).collect();
        named.into_iter().collect()
    }

    /// Takes containers back that were renamed by hand. For a container that a row or a trash entry holds by its id,
    /// that id and the labels are proof enough, whatever it is called now. All others stay foreign.
    pub fn recognise(&mut self, rows: &[KnownRow], entries: &[TrashEntry]) {
        if is(Mutation::NamesAreProof) {
            return;
        }
        let rows = by_id(rows);
        for container in std::mem::take(&mut self.foreign) {
            let workspace = workspace_named_by(&container);
            let row = workspace.and_then(|id| rows.get(&id));
            let entry = entries.iter().find(|entry| {
                Some(entry.workspace) == workspace
                    && entry.things.container.as_ref().is_some_and(|held| held.id == container.id)
            });
            if let Some(entry) = entry {
                self.trashed.entry(entry.workspace).or_default().push((entry.id, container));
            } else if let Some(row) = row.filter(|row| row.container.as_ref() == Some(&container.id)) {
                // The lowest serial: only a container under our own name may be taken for a newer one.
                self.containers.entry(row.id).or_default().insert(0, (0, container));
            } else {
                self.foreign.push(container);
            }
        }
    }

    /// Workspaces one of whose containers is paused (`podman pause`).
    #[must_use]
    pub fn with_paused(&self) -> BTreeSet<WorkspaceId> {
        let paused = |(_, container): &(u32, ObservedContainer)| container.state == ContainerState::Paused;
        self.containers.iter().filter(|(_, own)| own.iter().any(paused)).map(|(id, _)| *id).collect()
    }

    /// Every workspace that anything belongs to.
    #[must_use]
    pub fn workspaces(&self) -> Vec<WorkspaceId> {
        let all: BTreeSet<_> =
            self.containers.keys().chain(self.trashed.keys()).chain(self.volumes.keys()).copied().collect();
        all.into_iter().collect()
    }

    /// Workspaces with a container under its own name: those whose tokens may have a holder.
    #[must_use]
    pub fn with_container(&self) -> Vec<WorkspaceId> {
        // A container under a trash name counts too: it may be on its way back.
        let all: BTreeSet<_> = self.containers.keys().chain(self.trashed.keys()).copied().collect();
        all.into_iter().collect()
    }

    /// Any container of a workspace by its id, whatever its name.
    #[must_use]
    pub fn container(&self, workspace: WorkspaceId, id: &ContainerId) -> Option<&ObservedContainer> {
        let own = self.containers.get(&workspace).into_iter().flatten().map(|(_, container)| container);
        let trashed = self.trashed.get(&workspace).into_iter().flatten().map(|(_, container)| container);
        own.chain(trashed).find(|container| container.id == *id)
    }

    /// A workspace's newest container (a running one first) and its volumes: what an adoption takes.
    /// Containers under trash names are left out: those were put away once, and stay so.
    #[must_use]
    pub fn newest_of(&self, workspace: WorkspaceId) -> Option<Things> {
        let own = self.containers.get(&workspace).into_iter().flatten();
        let newest = own.max_by_key(|(serial, container)| (container.state.may_run(), *serial));
        let container = newest
            .map(|(_, container)| NamedContainer { id: container.id.clone(), name: container.name.clone() });
        let volumes = self.volumes.get(&workspace).cloned().unwrap_or_default();
        (container.is_some() || (!volumes.is_empty() && !self.trashed.contains_key(&workspace)))
            .then_some(Things { container, volumes })
    }

    /// What of a workspace's things no trash entry holds, bundled: each container its own bundle, the
    /// volumes with the first.
    fn loose(&self, workspace: WorkspaceId, held: &Held<'_>) -> Vec<Things> {
        let own = self.containers.get(&workspace).into_iter().flatten().map(|(_, container)| container);
        let trashed = self.trashed.get(&workspace).into_iter().flatten().map(|(_, container)| container);
        let mut bundles: Vec<Things> = own
            .chain(trashed)
            .filter(|container| !held.contains(container.id.as_str()))
            .map(|container| Things {
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
                bundles.push(Things::default());
            }
            bundles[0].volumes = volumes;
        }
        bundles
    }
}

/// The items that trash entries hold.
struct Held<'a>(BTreeSet<&'a str>);

impl<'a> Held<'a> {
    fn by(entries: &'a [TrashEntry]) -> Self {
        let items = entries.iter().flat_map(|entry| {
            let container = entry.things.container.iter().map(|container| container.id.as_str());
            container.chain(entry.things.volumes.iter().map(String::as_str))
        });
        Self(items.collect())
    }

    fn contains(&self, item: &str) -> bool {
        self.0.contains(item)
    }
}

/// How many workspaces are above one. Bounded, should there be a cycle.
pub(super) fn depth(workspace: WorkspaceId, parent: &dyn Fn(WorkspaceId) -> Option<WorkspaceId>) -> usize {
    std::iter::successors(parent(workspace), |above| parent(*above)).take(STEPS_MAX).count()
}

fn workspace_named_by(container: &ObservedContainer) -> Option<WorkspaceId> {
    container.labels.get(super::naming::LABEL_WORKSPACE)?.parse().ok()
}

fn by_id(rows: &[KnownRow]) -> HashMap<WorkspaceId, &KnownRow> {
    rows.iter().map(|row| (row.id, row)).collect()
}

/// `reap_removed`: what removed rows still own, claims a crash left open, and purges that were not carried out.
#[must_use]
pub fn reap_removed(
    inventory: &Inventory,
    rows: &[KnownRow],
    entries: &[TrashEntry],
    purges: &[KnownRow],
    busy: &BTreeSet<WorkspaceId>,
) -> Plan {
    let held = Held::by(entries);
    let mut plan = Plan::default();
    plan.finish_claims(entries, busy, &[TrashReason::Removed]);
    for row in purges.iter().filter(|row| !busy.contains(&row.id)) {
        let evidence =
            format!("removed at {} with `--purge`, which is not carried out yet", row.status_since);
        plan.act(Action::Purge { workspace: row.id }, &row.name, evidence);
    }
    for row in rows.iter().filter(|row| row.status == Status::Removed && !busy.contains(&row.id)) {
        for things in inventory.loose(row.id, &held) {
            let evidence = format!(
                "the workspace was removed at {}, and {} is still there",
                row.status_since,
                describe_things(&things)
            );
            plan.act(Action::TrashRemoved { workspace: row.id, things }, &row.name, evidence);
        }
    }
    plan
}

/// What `reap_unknown` looks at besides the listing.
#[derive(Clone, Copy, Debug)]
pub struct UnknownInput<'a> {
    /// Rows, removed ones among them, of the workspaces the listing shows.
    pub rows: &'a [KnownRow],
    /// Trash entries of those workspaces, and everybody's that are on their way in or back.
    pub entries: &'a [TrashEntry],
    /// Workspaces with an operation in flight: left alone.
    pub busy: &'a BTreeSet<WorkspaceId>,
    /// Since when things are seen.
    pub presence: &'a Presence,
    /// When the listing was taken.
    pub now: Awake,
    /// How long they have to be seen.
    pub grace: Duration,
}

/// `reap_unknown`: things of ours that neither a row nor the trash knows, seen for the grace.
#[must_use]
pub fn reap_unknown(inventory: &Inventory, input: &UnknownInput<'_>) -> Plan {
    let UnknownInput { rows, entries, busy, presence, now, grace } = *input;
    let known = by_id(rows);
    let held = Held::by(entries);
    let mut plan = Plan::default();
    plan.finish_claims(entries, busy, &[TrashReason::Unknown]);
    let unknown = |id: &WorkspaceId| !known.contains_key(id) && !busy.contains(id);
    for workspace in inventory.workspaces().into_iter().filter(unknown) {
        for things in inventory.loose(workspace, &held) {
            let first = things
                .container
                .iter()
                .map(|container| container.id.as_str())
                .chain(things.volumes.iter().map(String::as_str))
                .filter_map(|item| presence.seen(item))
                .max_by_key(|seen| seen.since);
            let name = labelled_name(inventory, workspace, &things);
            match first {
                Some(seen) if seen.looks >= 2 && now.since(seen.since) >= grace => {
                    let evidence = format!(
                        "no row and no trash entry knows it; seen in {} trusted listings over {}",
                        seen.looks,
                        words(now.since(seen.since))
                    );
                    plan.act(Action::TrashUnknown { workspace, things }, name, evidence);
                }
                seen => plan.watching.push(format!(
                    "{name}: {} is unknown to the registry; to be put into the trash once seen for {} (so far {})",
                    describe_things(&things),
                    words(grace),
                    words(seen.map_or(Duration::ZERO, |seen| now.since(seen.since)))
                )),
            }
        }
    }
    plan
}

fn labelled_name(inventory: &Inventory, workspace: WorkspaceId, things: &Things) -> String {
    things
        .container
        .as_ref()
        .and_then(|named| inventory.container(workspace, &named.id))
        .and_then(|container| container.labels.get(super::naming::LABEL_SPEC))
        .and_then(|spec| serde_json::from_str::<super::spec::LabelledSpec>(spec).ok())
        .map_or_else(|| workspace.to_string(), |spec| spec.name.to_string())
}

/// `revoke_stale_tokens`: candidates whose container has been absent for the grace and two looks.
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
        // A listing older than the token's last sign of life says nothing about its holder: the container
        // may have come and gone between two listings.
        let sign = candidate.token_used_at.max(Some(candidate.token_created_at)).unwrap_or_default();
        let absent = presence.absent(candidate.workspace, now - asked_at.since(sign), now);
        if absent.looks >= 2 && absent.time >= grace {
            let evidence = format!(
                "its container was absent from {} trusted listings over {}; the token was issued at {} and last \
                 used {}",
                absent.looks,
                words(absent.time),
                candidate.token_created_at,
                candidate.token_used_at.map_or_else(|| "never".into(), |at| format!("at {at}"))
            );
            let action = Action::RevokeStaleTokens { workspace: candidate.workspace, older_than };
            plan.act(action, &candidate.name, evidence);
        } else {
            plan.watching.push(format!(
                "{}: no container; its instance token is revoked once that has lasted {} (so far {})",
                candidate.name,
                words(grace),
                words(absent.time)
            ));
        }
    }
    plan
}

/// What `settle` looks at besides the listing.
#[derive(Clone, Copy, Debug)]
pub struct SettleInput<'a> {
    /// Rows of the workspaces the listing shows.
    pub rows: &'a [KnownRow],
    /// Rows that are provisioning without this process having brought them up.
    pub interrupted: &'a [KnownRow],
    /// Rows on their way to sleep.
    pub falling_asleep: &'a [KnownRow],
    /// Trash entries that are on their way in or back, and those of the containers that lie there.
    pub entries: &'a [TrashEntry],
    /// Workspaces with an operation in flight: left alone.
    pub busy: &'a BTreeSet<WorkspaceId>,
}

/// `settle`: drives the engine to what the rows say, and finishes what a crash left.
#[must_use]
pub fn settle(inventory: &Inventory, input: &SettleInput<'_>) -> Plan {
    let SettleInput { rows, interrupted, falling_asleep, entries, busy } = *input;
    let mut plan = Plan::default();
    let idle = |id: &WorkspaceId| !busy.contains(id);
    plan.finish_claims(entries, busy, &[TrashReason::Stray, TrashReason::Replaced]);
    for entry in entries.iter().filter(|entry| idle(&entry.workspace) && entry.state == TrashState::Restoring)
    {
        plan.act(
            Action::FinishRestore { workspace: entry.workspace, entry: entry.id },
            &entry.workspace_name,
            "taken out of the trash and not given back",
        );
    }
    for entry in entries.iter().filter(|entry| idle(&entry.workspace) && entry.state == TrashState::Kept) {
        let Some(lies) = &entry.things.container else { continue };
        let is_it = |container: &ObservedContainer| container.id == lies.id;
        let lying = inventory.trashed.get(&entry.workspace).into_iter().flatten();
        let own = inventory.containers.get(&entry.workspace).into_iter().flatten();
        // A registry that was put back from a copy may not know that it was given back since: then no row says so.
        let is_elsewhere = rows.iter().any(|row| {
            row.id == entry.workspace
                && (row.status == Status::Removed || row.container.as_ref() != Some(&lies.id))
        });
        let evidence = if lying.map(|(_, container)| container).any(|c| is_it(c) && c.state.may_run()) {
            "its container runs although it lies in the trash"
        } else if is_elsewhere && own.map(|(_, container)| container).any(is_it) {
            // A rename that had been given up, of a restore before, took effect after all.
            "its container lies in the trash under a name of its own"
        } else {
            continue;
        };
        let action = Action::FinishTrash { workspace: entry.workspace, entry: entry.id };
        plan.act(action, &entry.workspace_name, evidence);
    }
    let interrupted = interrupted.iter().filter(|_| !is(Mutation::LeaveInterrupted));
    for row in interrupted.filter(|row| idle(&row.id)) {
        let evidence = format!("provisioning since {} with nobody at work on it", row.status_since);
        plan.act(Action::StartAnew { workspace: row.id }, &row.name, evidence);
    }
    for row in falling_asleep.iter().filter(|row| idle(&row.id)) {
        let evidence = format!("hibernating since {} with nobody at work on it", row.status_since);
        plan.act(Action::FinishHibernation { workspace: row.id }, &row.name, evidence);
    }
    let held = Held::by(entries);
    for row in rows.iter().filter(|row| row.status != Status::Removed && idle(&row.id)) {
        let own = inventory.containers.get(&row.id).into_iter().flatten().map(|(_, container)| container);
        // Under a trash name and in no entry: an entry that was forgotten while its container was out of sight.
        let lying = inventory.trashed.get(&row.id).into_iter().flatten().map(|(_, container)| container);
        let lying = lying.filter(|container| row.container.as_ref() != Some(&container.id));
        for container in own.chain(lying) {
            if row.container.as_ref() == Some(&container.id) {
                let stops = row.status.forbids_running() && row.status != Status::Hibernating;
                if stops && container.state.may_run() {
                    let evidence = format!("it runs although the workspace is {}", row.status);
                    let action = Action::StopContainer { workspace: row.id, container: container.id.clone() };
                    plan.act(action, &row.name, evidence);
                }
            } else if !held.contains(container.id.as_str()) {
                let evidence = match &row.container {
                    Some(own) => format!("the workspace's container is {}", own.short()),
                    None => "the workspace has no container by its row".into(),
                };
                let never_ran = container.state == ContainerState::Created && container.started_at.is_none();
                let container = NamedContainer { id: container.id.clone(), name: container.name.clone() };
                plan.act(Action::TrashStray { workspace: row.id, container, never_ran }, &row.name, evidence);
            }
        }
    }
    plan
}

/// How long after the first look that finds a container not running the second one is taken.
const SECOND_LOOK_AFTER: Duration = Duration::from_millis(250);

/// How long a container has to run before a workspace of readiness `container` counts as online.
pub const READY_AFTER: Duration = Duration::from_secs(2);

/// A start that lies this far ahead was not just made: the wall clock has been set back since.
const SET_BACK: Duration = Duration::from_mins(1);

/// `check_containers`: rows whose container is gone or has ended, twice in a row, and rows whose
/// container runs although they are called offline or provisioning. Of the provisioning ones, `rows` holds
/// those that this process has brought up.
#[must_use]
pub fn check_containers(
    inventory: &Inventory,
    rows: &[KnownRow],
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
                        "its container has ended{}",
                        ended.exit_code.map(|code| format!(" with exit code {code}")).unwrap_or_default()
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
                plan.watching.push(format!("{}: its container does not run; looking once more", row.name));
                plan.run_again_at(now + SECOND_LOOK_AFTER);
            }
            (_, Some(container)) if container.state == ContainerState::Paused => {
                plan.watching.push(format!(
                    "{}: its container is paused by hand; `podman unpause {}` lets it go on",
                    row.name,
                    container.id.short()
                ));
            }
            // While it is being stopped, or in a state that is not known, it counts neither as ended nor as ready.
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
                plan.watching.push(format!("{}: its container has only just been started", row.name));
            }
            _ => {}
        }
    }
    plan
}

/// `empty_trash`: entries past their time, and deletions a crash left half done.
#[must_use]
pub fn empty_trash(due: &[TrashEntry], busy: &BTreeSet<WorkspaceId>) -> Plan {
    let mut plan = Plan::default();
    for entry in due.iter().filter(|entry| !busy.contains(&entry.workspace)) {
        let evidence = match entry.state {
            TrashState::Deleting => "its deletion was begun and not finished".to_owned(),
            TrashState::Claimed | TrashState::Kept | TrashState::Restoring => {
                format!("it was to be kept until {}", entry.keep_until)
            }
        };
        let action = Action::DeleteTrash {
            workspace: entry.workspace,
            entry: entry.id,
            ordered: entry.reason.ordered_by_person() || entry.state == TrashState::Deleting,
        };
        plan.act(action, &entry.workspace_name, evidence);
    }
    plan
}

/// A duration in a person's words: the two largest units.
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
