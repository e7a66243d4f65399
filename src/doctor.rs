//! The doctor: runs diagnostic checks and reports for each what it found and what to do about it.
//!
//! It changes nothing. Checks are independent: one that cannot be completed does not hide the others.

mod configuration;
mod network;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use crate::{
    api::doctor::{Check, DoctorReport},
    domain::{
        ids::InstanceId,
        inventory::Inventory,
        naming::{VolumeKind, instance_name, volume_name},
        spec::LabelledSpec,
        status::Status,
        sweep_row::SweepRow,
        trash::{TrashContents, TrashEntry, TrashState},
    },
    engine::{
        Engine, EngineUse, ErrorKind,
        trusted::{self, Untrusted},
    },
    runtime::clock::SharedClock,
    store::{Scope, Store, StoreError, StoreResult},
    sweep::{self, OwnContainers},
};

pub use configuration::{BuiltIn, Configured};
pub use network::{AskBound, AskReach, Network, Reach, registry_mark};

/// Free bytes below which the disk check warns. The registry needs little; container logs and images need more.
const LOW_DISK_BYTES: u64 = 512 << 20;

/// Free bytes below which the disk check fails: the store's next batch of changes may not fit.
const FULL_DISK_BYTES: u64 = 16 << 20;

/// Share of a core above which the engine check warns. An idle engine uses none.
const BUSY_ENGINE_CORES: f64 = 0.8;

/// Memory of the engine's process above which the check warns of a leak. Podman uses 40 MiB, 70 with 200 containers.
const LARGE_ENGINE_BYTES: u64 = 512 << 20;

/// Runs the checks of a running daemon.
#[derive(Clone)]
pub struct Doctor(Arc<DoctorParts>);

/// The dependencies of a [`Doctor`].
pub struct DoctorParts {
    /// The registry's database.
    pub store: Store,
    /// The engine, with deadlines on its calls.
    pub engine: Arc<dyn Engine>,
    /// Wall clock and timers.
    pub clock: SharedClock,
    /// The instance whose containers and volumes are checked.
    pub instance: InstanceId,
    /// The directory that contains the database; its file system is checked for free space.
    pub data_dir: PathBuf,
    /// Where the daemon listens for agents, and how workspaces reach it.
    pub network: Network,
    /// The configuration in force, and the file it came from.
    pub configuration: Arc<dyn Configured>,
}

/// Builds a check with the verdict `ok`.
pub fn ok(name: &str, found: impl Into<String>) -> Check {
    Check { name: name.into(), verdict: "ok".into(), found: found.into(), advice: None }
}

/// Builds a check with the verdict `warn`.
pub fn warn(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check { name: name.into(), verdict: "warn".into(), found: found.into(), advice: Some(advice.into()) }
}

/// Builds a check with the verdict `fail`.
pub fn fail(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check { name: name.into(), verdict: "fail".into(), found: found.into(), advice: Some(advice.into()) }
}

fn store_fails(error: &StoreError) -> Check {
    fail("store", error.to_string(), "follow the error; the daemon's log has the details")
}

impl Doctor {
    /// Wraps `parts` for shared use; clones share them.
    #[must_use]
    pub fn new(parts: DoctorParts) -> Self {
        Self(Arc::new(parts))
    }

    /// Runs all checks.
    pub async fn examine(&self) -> DoctorReport {
        // The checks run concurrently: an engine that does not answer delays the report by one deadline in total, not
        // by one for each check.
        let (engine, engine_use, listing, trash, network, of_store) = tokio::join!(
            engine(&*self.0.engine),
            engine_use(&*self.0.engine),
            self.listing(),
            self.trash(),
            self.network(),
            async {
                [
                    self.location().await,
                    self.registry().await,
                    self.workspaces().await,
                    self.agents().await,
                    self.held().await,
                ]
            },
        );
        let mut checks =
            vec![ok("daemon", format!("ostler {} is running", env!("CARGO_PKG_VERSION"))), engine];
        checks.extend(engine_use);
        checks.push(disk(&self.0.data_dir));
        checks.push(configuration::check(&self.configuration().running()));
        checks.extend(listing);
        let of_store = of_store.into_iter().chain([trash]);
        checks.extend(of_store.map(|check| check.unwrap_or_else(|error| store_fails(&error))));
        checks.extend(network.unwrap_or_else(|error| vec![store_fails(&error)]));
        DoctorReport { checks }
    }

    /// The configuration in force.
    #[must_use]
    pub fn configuration(&self) -> &dyn Configured {
        &*self.0.configuration
    }

    async fn listing(&self) -> Vec<Check> {
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

    /// Warns of workspaces that do not run and whose work volume is missing; `None` if there are none.
    ///
    /// Without this check a missing volume shows only at the next start.
    async fn lost_work(&self) -> StoreResult<Option<Check>> {
        let mut lost = Vec::new();
        for row in self.0.store.workspaces(Scope::Live).await? {
            // Podman does not delete a volume that a running container mounts.
            let is_up = matches!(row.status, Status::Online | Status::Degraded | Status::Provisioning);
            if is_up || !row.has_work_volume || !row.wants_work_volume() {
                continue;
            }
            let work = volume_name(row.id, VolumeKind::Work);
            let gone = match self.0.engine.inspect_volume(&work).await {
                Ok(seen) => seen.directory_missing,
                Err(error) if error.kind == ErrorKind::Absent => true,
                // Each further call could run into the same deadline. The engine check reports the error.
                Err(_) => return Ok(None),
            };
            if gone {
                lost.push(format!("{} ({work})", row.name));
            }
        }
        // A volume that is missing in another engine is not lost. After the last inspection, verify that the engine is
        // still the accepted one.
        let own = OwnContainers(&self.0.store);
        if lost.is_empty()
            || trusted::snapshot(&*self.0.engine, &*self.0.clock, self.0.instance, &own).await.is_err()
        {
            return Ok(None);
        }
        Ok(Some(warn(
            "work",
            format!("the work volume is missing for {}", lost.join(", ")),
            "restore the volume; an unmounted disk or `podman system prune --volumes` can be the cause. \
             `ostler start NAME --new-volume` starts with an empty volume",
        )))
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

    async fn location(&self) -> StoreResult<Check> {
        self.0.store.check_location().await?;
        Ok(ok("database", "the open database is the file at its path"))
    }

    async fn registry(&self) -> StoreResult<Check> {
        let recovering = self.0.store.registry().await?.and_then(|registry| registry.recovering_since);
        Ok(match recovering {
            None => ok("registry", format!("instance {}", self.0.instance)),
            Some(since) => warn(
                "registry",
                format!(
                    "recovering since {since}: the registry was lost or restored, so ostler starts, stops and removes \
                     nothing automatically"
                ),
                "`ostler adopt --dry-run` lists the differences, `ostler adopt --all` adopts them all",
            ),
        })
    }

    async fn workspaces(&self) -> StoreResult<Check> {
        let rows = self.0.store.workspaces(Scope::Live).await?;
        let failed: Vec<_> =
            rows.iter().filter(|row| matches!(row.status, Status::Failed(_) | Status::Offline)).collect();
        Ok(if failed.is_empty() {
            ok("workspaces", format!("{}, none failed or offline", rows.len()))
        } else {
            let names: Vec<_> = failed.iter().map(|row| format!("{} ({})", row.name, row.status)).collect();
            warn(
                "workspaces",
                names.join(", "),
                "`ostler why NAME` shows the reason, `ostler start NAME` tries again",
            )
        })
    }

    async fn agents(&self) -> StoreResult<Check> {
        let mut refusing = Vec::new();
        for (id, fields) in self.0.store.refusing() {
            if let Some(row) = self.0.store.workspace(id).await? {
                refusing.push(format!("{}: {fields}", row.name));
            }
        }
        refusing.sort();
        Ok(if refusing.is_empty() {
            ok("agents", "all fields that agents send are accepted")
        } else {
            warn(
                "agents",
                format!("agents with rejected fields: {}", refusing.join("; ")),
                "correct the values that the agent sends; until then the last valid values of these fields stay stored",
            )
        })
    }

    async fn held(&self) -> StoreResult<Check> {
        let mut held = Vec::new();
        for pass in sweep::all() {
            if let Some(plan) =
                self.0.store.held_plan(pass.name()).await?.filter(|plan| plan.approved_at.is_none())
            {
                held.push(format!("{}: {}", plan.pass, plan.reason));
            }
        }
        Ok(if held.is_empty() {
            ok("sweeps", "no plan is held")
        } else {
            warn(
                "sweeps",
                held.join("; "),
                "`ostler sweep show PASS`, then `ostler sweep approve PASS PLAN_ID`",
            )
        })
    }

    async fn trash(&self) -> StoreResult<Check> {
        let entries = self.0.store.trash().await?;
        let open = entries.iter().filter(|entry| entry.state != TrashState::Kept).count();
        let found = match entries.len() {
            1 => format!("1 entry, {open} in progress"),
            count => format!("{count} entries, {open} in progress"),
        };
        if entries.is_empty() {
            return Ok(ok("trash", found));
        }
        Ok(match self.0.engine.disk_usage().await {
            Ok(usage) => {
                let bytes: u64 = entries.iter().map(|entry| usage.of(&entry.contents)).sum();
                ok("trash", format!("{found}, {} MiB of disk", bytes.div_ceil(1 << 20)))
            }
            Err(_) => ok("trash", format!("{found}; the engine does not report their disk use")),
        })
    }
}

/// Maximum number of unknown workspaces that one check names.
const MOST_UNKNOWN: usize = 20;

/// Warns of workspaces that have containers or volumes of this instance in the engine, but neither a row nor a trash
/// entry. `None` if there are no such workspaces.
fn unknown(inventory: &Inventory, rows: &[SweepRow], entries: &[TrashEntry]) -> Option<Check> {
    let known: BTreeSet<_> =
        rows.iter().map(|row| row.id).chain(entries.iter().map(|entry| entry.workspace)).collect();
    let unknown: Vec<_> = inventory.workspaces().into_iter().filter(|id| !known.contains(id)).collect();
    if unknown.is_empty() {
        return None;
    }
    let named = unknown.iter().take(MOST_UNKNOWN).map(|id| {
        let own = inventory.containers.get(id).into_iter().flatten().map(|(_, container)| container);
        let trashed = inventory.trashed.get(id).into_iter().flatten().map(|(_, container)| container);
        let name = own.chain(trashed).find_map(|container| LabelledSpec::of(&container.labels));
        let name = name.map_or_else(|| id.to_string(), |spec| spec.name.to_string());
        match inventory.newest_of(*id) {
            Some(TrashContents { container: Some(_), .. }) => name,
            Some(_) => format!("{name} (volumes only)"),
            None => format!("{name} (its container is in the trash, but has no trash entry)"),
        }
    });
    let named: Vec<_> = named.collect();
    let more = match unknown.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(warn(
        "unknown",
        format!("in Podman with ostler's labels, but not in the registry: {}{more}", named.join(", ")),
        "`ostler adopt NAME` adopts a workspace that has a container outside the trash. Workspaces that are not \
         adopted are moved to the trash after `sweep.unknown_grace`, but not while the registry is recovering; `ostler \
         trash restore NAME` restores them",
    ))
}

/// Warns of containers that an operator paused with `podman pause`; `None` if there are none.
fn paused(inventory: &Inventory, rows: &[SweepRow]) -> Option<Check> {
    let paused = inventory.with_paused();
    let names: Vec<_> = rows
        .iter()
        .filter(|row| paused.contains(&row.id))
        .filter_map(|row| {
            Some(format!("{} (`podman unpause {}`)", row.name, row.container.as_ref()?.short()))
        })
        .collect();
    (!names.is_empty()).then(|| {
        warn(
            "paused",
            format!("paused with `podman pause`: {}", names.join(", ")),
            "`podman unpause` resumes them; `ostler restart NAME` restarts one instead. Until then they do not \
             answer, and ostler does not restart them for missing heartbeats",
        )
    })
}

/// Checks that the engine answers and that it can enforce resource limits.
pub async fn engine(engine: &dyn Engine) -> Check {
    match engine.describe().await {
        Ok(info) => {
            let found = format!(
                "{} at {}{}",
                info.version,
                info.address,
                if info.rootless { ", rootless" } else { "" }
            );
            match info.limits_note() {
                None => ok("engine", found),
                Some(note) => warn(
                    "engine",
                    format!("{found}; {note}"),
                    "one workspace can use all of the machine's resources. Rootless limits need cgroup v2 with the \
                     controllers delegated to the user (systemd: `Delegate=yes` for user@.service)",
                ),
            }
        }
        Err(error) => {
            fail("engine", error.to_string(), format!("start Podman's service: {}", engine.commands().start))
        }
    }
}

/// Checks CPU and memory use of the engine's own process; `None` if they cannot be read.
async fn engine_use(engine: &dyn Engine) -> Option<Check> {
    let EngineUse { process, memory_bytes, cores } = engine.process_use().await.ok()??;
    let found = format!(
        "Podman's service (process {process}) uses {:.0} % of a core and {} MiB of memory",
        cores * 100.0,
        memory_bytes >> 20
    );
    Some(if cores > BUSY_ENGINE_CORES || memory_bytes > LARGE_ENGINE_BYTES {
        warn(
            "engine use",
            found,
            format!(
                "if this persists, restart Podman's service (containers keep running): {}",
                engine.commands().restart
            ),
        )
    } else {
        ok("engine use", found)
    })
}

/// Checks free space and free inodes in the file system of `data_dir`.
#[must_use]
pub fn disk(data_dir: &std::path::Path) -> Check {
    match rustix::fs::statvfs(data_dir) {
        Ok(space) => {
            let free = space.f_bavail * space.f_frsize;
            // File systems without an inode table (Btrfs) report 0 inodes in total.
            let no_inodes = space.f_files > 0 && space.f_favail == 0;
            room(free, no_inodes, &data_dir.display().to_string())
        }
        Err(error) => fail("disk", format!("{}: {error}", data_dir.display()), "check the data directory"),
    }
}

fn room(free: u64, no_inodes: bool, location: &str) -> Check {
    let found = format!("{} MiB free in {location}", free >> 20);
    if no_inodes {
        fail("disk", format!("{found}, but no free inodes"), "delete files that are not needed")
    } else if free < FULL_DISK_BYTES {
        fail("disk", found, "free some disk space: no change can be stored")
    } else if free < LOW_DISK_BYTES {
        warn("disk", found, "free some disk space: on a full disk no change can be stored")
    } else {
        ok("disk", found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_check_fails_when_disk_or_inodes_are_exhausted() {
        for (free, no_inodes, verdict) in [
            (0, false, "fail"),
            (FULL_DISK_BYTES - 1, false, "fail"),
            (FULL_DISK_BYTES, false, "warn"),
            (LOW_DISK_BYTES, false, "ok"),
            (LOW_DISK_BYTES, true, "fail"),
        ] {
            assert_eq!(
                room(free, no_inodes, "/data").verdict,
                verdict,
                "{free} bytes, no inodes: {no_inodes}"
            );
        }
    }
}
