//! `reap_unknown`: moves containers and volumes that have ostler's labels, but no row in the registry, to the trash
//! after a grace period.
//!
//! While the registry is recovering, all actions of this pass are held: after a loss of the database every container is
//! unknown. An operator then decides about each workspace or about all at once.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;

use crate::{
    domain::{
        action::{Action, describe_contents},
        duration::words,
        ids::WorkspaceId,
        inventory::{Held, Inventory},
        plan::Plan,
        presence::Presence,
        sweep_row::{SweepRow, by_id},
        time::Awake,
        trash::{TrashContents, TrashEntry, TrashReason},
    },
    sweep::{
        context::{Snapshot, Sweeper},
        error::SweepError,
        pass::Pass,
    },
};

/// See the module documentation.
pub(super) struct ReapUnknown;

#[async_trait]
impl Pass for ReapUnknown {
    fn name(&self) -> &'static str {
        "reap_unknown"
    }

    fn summary(&self) -> &'static str {
        "Moves containers and volumes that are not in the registry to the trash, after a grace period"
    }

    fn period(&self) -> Duration {
        Duration::from_mins(1)
    }

    async fn plan(&self, sweeper: &Sweeper, snapshot: &Snapshot) -> Result<Plan, SweepError> {
        let seen = snapshot.seen()?;
        let listed = seen.inventory.workspaces();
        let rows = sweeper.store.sweep_rows(listed.clone()).await?;
        let entries = sweeper.store.relevant_trash(listed).await?;
        let input = UnknownInput {
            rows: &rows,
            entries: &entries,
            busy: &sweeper.ops.busy(),
            presence: &seen.presence,
            now: snapshot.awake(),
            grace: sweeper.limits().unknown_grace,
        };
        Ok(reap_unknown(&seen.inventory, &input))
    }
}

/// Input of `reap_unknown` besides the listing.
#[derive(Clone, Copy, Debug)]
struct UnknownInput<'a> {
    /// Rows of the workspaces in the listing, including removed ones.
    rows: &'a [SweepRow],
    /// Trash entries of those workspaces, and every entry that is being moved in or restored.
    entries: &'a [TrashEntry],
    /// Workspaces with an operation in progress. They are skipped.
    busy: &'a BTreeSet<WorkspaceId>,
    /// Record of earlier listings.
    presence: &'a Presence,
    /// Time of the listing.
    now: Awake,
    /// Minimum time for which a container or volume must have been listed.
    grace: Duration,
}

/// `reap_unknown`: moves containers and volumes to the trash that have ostler's labels, belong to no row and no trash
/// entry, and have been listed for at least the grace period. Also finishes interrupted moves of this kind.
fn reap_unknown(inventory: &Inventory, input: &UnknownInput<'_>) -> Plan {
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
        .and_then(|container| container.labels.get(crate::domain::naming::LABEL_SPEC))
        .and_then(|spec| serde_json::from_str::<crate::domain::spec::LabelledSpec>(spec).ok())
        .map_or_else(|| workspace.to_string(), |spec| spec.name.to_string())
}
