//! Checks what the engine lists: whether the listing is trusted, and what it contains.

use super::{
    parts::Doctor,
    paused::paused,
    unknown::unknown,
    verdict::{fail, ok, store_fails, warn},
};
use crate::{
    api::doctor::Check,
    domain::{inventory::Inventory, naming::instance_name, sweep_row::SweepRow, trash::TrashEntry},
    engine::trusted::{self, Untrusted},
    store::StoreResult,
    sweep::OwnContainers,
};

impl Doctor {
    pub(super) async fn listing(&self) -> Vec<Check> {
        let own = OwnContainers(&self.0.store);
        match trusted::snapshot(&*self.0.engine, &*self.0.clock, self.0.instance, &own).await {
            Ok(listing) => {
                let mut inventory = Inventory::of(self.0.instance, listing.observed());
                let (rows, entries) = match self.rows_of(&mut inventory).await {
                    Ok(known) => known,
                    Err(error) => return vec![store_fails(&error)],
                };
                let mut checks = vec![self.sentinel(listing.observed().containers.len()).await];
                checks.extend(paused(&inventory, &rows));
                checks.extend(unknown(&inventory, &rows, &entries));
                match self.lost_work().await {
                    Ok(lost) => checks.extend(lost),
                    Err(error) => checks.push(store_fails(&error)),
                }
                if !inventory.foreign.is_empty() {
                    let names: Vec<_> =
                        inventory.foreign.iter().map(|container| container.name.as_str()).collect();
                    checks.push(warn(
                        "foreign",
                        format!(
                            "{} containers carry ostler's label but are not managed by ostler: {}",
                            names.len(),
                            names.join(", ")
                        ),
                        "no action needed: ostler does not change them. Their image may have been committed from a \
                         workspace's container, whose labels it keeps",
                    ));
                }
                checks
            }
            Err(Untrusted::NoAnswer(error)) => vec![fail(
                "listing",
                format!("no sweep pass changes anything: {error}"),
                format!(
                    "start Podman's service: {}; sweeps resume automatically once it answers",
                    self.0.engine.commands().start
                ),
            )],
            Err(missing @ Untrusted::SentinelMissing(_)) => vec![fail(
                "listing",
                format!("no sweep pass changes anything: {missing}"),
                "restore the previous engine or storage, or accept this one with `ostler doctor --accept-engine`",
            )],
            Err(failed @ Untrusted::RegistryFailed(_)) => {
                vec![fail(
                    "listing",
                    format!("no sweep pass changes anything: {failed}"),
                    "see the daemon's log",
                )]
            }
        }
    }

    /// Returns the rows and trash entries of the workspaces in `inventory`. In `inventory`, assigns containers that
    /// were renamed by hand to their workspaces.
    async fn rows_of(&self, inventory: &mut Inventory) -> StoreResult<(Vec<SweepRow>, Vec<TrashEntry>)> {
        let mut workspaces = inventory.workspaces();
        workspaces.extend(inventory.named_by_foreign());
        let entries = self.0.store.trash_of(workspaces.clone()).await?;
        let rows = self.0.store.sweep_rows(workspaces).await?;
        inventory.recognise(&rows, &entries);
        Ok((rows, entries))
    }

    async fn sentinel(&self, containers: usize) -> Check {
        let found = format!("{containers} containers of this instance in the accepted engine");
        match trusted::has_sentinel(&*self.0.engine, self.0.instance).await {
            Ok(true) | Err(_) => ok("listing", found),
            Ok(false) => warn(
                "listing",
                format!(
                    "{found}; only these containers identify the engine, because volume {} is missing (`podman volume \
                     prune` deletes it)",
                    instance_name(self.0.instance)
                ),
                "`ostler doctor --accept-engine` creates the volume again",
            ),
        }
    }
}
