//! The dependencies of passes, and the snapshot of the engine that passes share if they run at the same time.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{error::SweepError, reservations::Reservations};
use crate::{
    domain::{
        ids::{InstanceId, WorkspaceId},
        inventory::Inventory,
        presence::Presence,
        runtime::Readiness,
        time::{Awake, Timestamp},
    },
    engine::{
        Engine,
        trusted::{self, TrustedListing, Untrusted},
    },
    ops::{Limits, Ops, OwnContainers},
    runtime::{
        clock::SharedClock,
        entropy::SharedEntropy,
        epoch::{Listening, jumped, offset},
    },
    store::{Store, StoreError},
};

/// The snapshot that a run decides on: the clocks and, if the pass requires the engine, a container listing.
#[derive(Clone, Debug)]
pub struct Snapshot {
    asked_at: Timestamp,
    awake: Awake,
    /// Number of the liveness epoch, read before the listing was requested from the engine.
    epoch: u64,
    seen: Option<ListingView>,
}

/// One trusted listing, and the history of earlier ones.
#[derive(Clone, Debug)]
pub struct ListingView {
    /// The listing.
    pub listing: TrustedListing,
    /// The same listing, grouped by owner.
    pub inventory: Inventory,
    /// For each container, volume and workspace: since when the listings have shown it or have not shown it.
    pub presence: Presence,
}

impl Snapshot {
    /// Wall-clock time of the snapshot, read before the listing was requested from the engine.
    #[must_use]
    pub fn asked_at(&self) -> Timestamp {
        self.asked_at
    }

    /// Time of the awake clock, read before the listing was requested from the engine.
    #[must_use]
    pub fn awake(&self) -> Awake {
        self.awake
    }

    /// The listing. A missing listing is an error, so that it cannot be mistaken for an empty one.
    ///
    /// # Errors
    /// If the snapshot was taken without the engine.
    pub fn seen(&self) -> Result<&ListingView, SweepError> {
        self.seen.as_ref().ok_or(SweepError::NoListing)
    }
}

/// The dependencies of `Sweeper`.
pub struct SweeperParts {
    /// The registry.
    pub store: Store,
    /// The engine; every call has a time limit.
    pub engine: Arc<dyn Engine>,
    /// Carries out orders.
    pub ops: Ops,
    /// Wall clock and awake clock.
    pub clock: SharedClock,
    /// Randomness for the ids of held plans.
    pub entropy: SharedEntropy,
    /// The instance whose containers and volumes are swept.
    pub instance: InstanceId,
    /// The liveness epochs.
    pub listening: Listening,
}

/// A position in the sequence of listings. The owner of a ticket may use only a listing that was requested after the
/// ticket was drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket(u64);

/// The last listing taken, for as long as a run uses it.
#[derive(Default)]
struct LastSnapshot {
    number: u64,
    snapshot: Option<Result<Weak<Snapshot>, Untrusted>>,
}

#[derive(Default)]
struct Memory {
    presence: Presence,
    /// Number of the liveness epoch in which `presence` was recorded.
    epoch: u64,
}

/// Runs passes. Shared by the driver, the CLI's dry run and the tests.
pub struct Sweeper {
    pub(super) store: Store,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) ops: Ops,
    pub(super) clock: SharedClock,
    pub(super) entropy: SharedEntropy,
    pub(super) instance: InstanceId,
    listening: Listening,
    memory: Mutex<Memory>,
    /// Number of listings that were begun.
    snapshots_begun: AtomicU64,
    /// Locked while a listing is taken, because two concurrent listings could be recorded in the wrong order.
    last_snapshot: tokio::sync::Mutex<LastSnapshot>,
    pub(super) reservations: Reservations,
    /// See [`Sweeper::revoking_without_age`].
    pub(super) without_age: bool,
}

impl Sweeper {
    /// Builds a sweeper from its dependencies.
    #[must_use]
    pub fn new(parts: SweeperParts) -> Self {
        let SweeperParts { store, engine, ops, clock, entropy, instance, listening } = parts;
        Self {
            store,
            engine,
            ops,
            clock,
            entropy,
            instance,
            listening,
            memory: Mutex::default(),
            snapshots_begun: AtomicU64::default(),
            last_snapshot: tokio::sync::Mutex::default(),
            reservations: Reservations::default(),
            without_age: false,
        }
    }

    /// For the test of the race between a revocation and a start. The UPDATE then does not check the token's age, which
    /// proves that the test detects this defect.
    #[doc(hidden)]
    #[must_use]
    pub fn revoking_without_age(mut self) -> Self {
        self.without_age = true;
        self
    }

    /// Draws a ticket for [`Sweeper::snapshot_after`].
    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.snapshots_begun.load(Ordering::SeqCst))
    }

    /// Returns a snapshot that was begun after the ticket was drawn. Shares the last snapshot if a run still uses it;
    /// otherwise takes a new one.
    pub(super) async fn snapshot_after(&self, ticket: Ticket) -> Result<Arc<Snapshot>, Untrusted> {
        let mut last = self.last_snapshot.lock().await;
        if last.number > ticket.0 {
            match &last.snapshot {
                Some(Ok(snapshot)) => {
                    if let Some(snapshot) = snapshot.upgrade() {
                        return Ok(snapshot);
                    }
                }
                Some(Err(why)) => return Err(why.clone()),
                None => {}
            }
        }
        last.number = self.snapshots_begun.fetch_add(1, Ordering::SeqCst) + 1;
        last.snapshot = None;
        let snapshot = self.snapshot().await.map(Arc::new);
        if let Err(why) = &snapshot {
            tracing::warn!(error = %why, "no trusted container listing; passes that require one do nothing");
        }
        last.snapshot = Some(snapshot.as_ref().map(Arc::downgrade).map_err(Untrusted::clone));
        snapshot
    }

    /// Takes a snapshot that passes may act on. An untrusted listing restarts all grace periods, because time without
    /// a trusted listing must not count.
    ///
    /// # Errors
    /// Why there is no trusted listing.
    pub async fn snapshot(&self) -> Result<Snapshot, Untrusted> {
        let epoch = self.current_epoch();
        let (listing, inventory) = match self.list().await {
            Ok(listed) => listed,
            Err(untrusted) => {
                self.memory().presence.forget();
                return Err(untrusted);
            }
        };
        self.ops.note_paused(inventory.with_paused());
        // Observations of an earlier liveness epoch do not count. The epoch was read before the request: if a new one
        // began before the answer, this listing belongs to the earlier epoch, and the next listing discards it.
        let mut memory = self.memory();
        if memory.epoch != epoch {
            memory.presence.forget();
            memory.epoch = epoch;
        }
        let items = listing.observed().containers.iter().map(|container| container.id.as_str());
        let volumes = listing.observed().volumes.iter().map(|volume| volume.name.as_str());
        let running: Vec<_> = inventory
            .containers
            .iter()
            .filter(|(_, containers)| containers.iter().any(|(_, container)| container.state.may_run()))
            .map(|(workspace, _)| *workspace)
            .collect();
        self.ops.note_running(&running);
        memory.presence.note(
            listing.awake(),
            items.chain(volumes),
            inventory.with_container().into_iter(),
            running.into_iter(),
        );
        memory.presence.keep_only(&|workspace| self.store.is_live(workspace));
        let presence = memory.presence.clone();
        drop(memory);
        let (asked_at, awake) = (listing.asked_at(), listing.awake());
        Ok(Snapshot { asked_at, awake, epoch, seen: Some(ListingView { listing, inventory, presence }) })
    }

    /// Lists the containers and volumes in the engine. Rows are read after the listing. Since a row is always written
    /// before its container is created, the row of every listed container is then visible.
    async fn list(&self) -> Result<(TrustedListing, Inventory), Untrusted> {
        let own = OwnContainers(&self.store);
        let listing = trusted::snapshot(&*self.engine, &*self.clock, self.instance, &own).await?;
        let mut inventory = Inventory::of(self.instance, listing.observed());
        let named = inventory.named_by_foreign();
        if !named.is_empty() {
            let failed = |error: StoreError| Untrusted::RegistryFailed(error.to_string());
            let entries = self.store.trash_of(named.clone()).await.map_err(failed)?;
            inventory.recognise(&self.store.sweep_rows(named).await.map_err(failed)?, &entries);
        }
        Ok((listing, inventory))
    }

    /// A snapshot of the clocks only, for passes that do not require the engine.
    #[must_use]
    pub fn clock_snapshot(&self) -> Snapshot {
        let epoch = self.current_epoch();
        let (asked_at, awake) = (self.clock.now(), self.clock.awake());
        Snapshot { asked_at, awake, epoch, seen: None }
    }

    /// Number of the current liveness epoch, after a reading of the clocks.
    pub(super) fn liveness_epoch(&self) -> u64 {
        self.current_epoch()
    }

    /// Records when the driver wakes next. If the clock shows a much later time and the driver has not woken, the
    /// process was stopped.
    pub(super) fn expect_tick(&self, at: Awake) {
        self.listening.expect_tick(at);
    }

    /// Number of the current liveness epoch. The clock is read first, because this detects jumps and starts a new
    /// epoch.
    fn current_epoch(&self) -> u64 {
        let _now = self.clock.now();
        self.listening.number()
    }

    /// How long a state has lasted at the time of a snapshot, counting only time in which heartbeats could be
    /// received.
    #[must_use]
    pub(super) fn lasted(&self, since: Timestamp, snapshot: &Snapshot) -> Duration {
        self.listening.lasted(since, snapshot.asked_at(), snapshot.awake())
    }

    /// Whether the clocks have jumped since a snapshot was taken, even if they jumped back. Decisions that depend on
    /// the times of that snapshot must not be applied then.
    #[must_use]
    pub(super) fn jumped_since(&self, snapshot: &Snapshot) -> bool {
        let then = offset(snapshot.asked_at(), snapshot.awake());
        self.current_epoch() != snapshot.epoch || jumped(then, offset(self.clock.now(), self.clock.awake()))
    }

    /// The parent of a live workspace.
    pub(super) fn parent(&self, workspace: WorkspaceId) -> Option<WorkspaceId> {
        self.store.member(workspace).and_then(|member| member.parent)
    }

    /// Number of entries that are kept in memory between runs; bounded by the registered workspaces and the listing.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.memory().presence.size() + self.ops.remembered()
    }

    /// The current grace periods and retentions. A run reads them once.
    pub(super) fn limits(&self) -> Limits {
        self.ops.settings().limits
    }

    /// Returns the readiness of a runtime. The result is `Heartbeat` if the runtime is no longer configured: with this
    /// value, a running container alone never changes a status.
    pub(super) fn readiness(&self, runtime: &str) -> Readiness {
        self.ops.settings().runtimes.get(runtime).map_or(Readiness::Heartbeat, |runtime| runtime.readiness)
    }

    /// How long a start with this runtime may take until the first heartbeat; `None` if the runtime has no heartbeats.
    pub(super) fn provisioning_limit(&self, runtime: &str) -> Option<Duration> {
        let settings = self.ops.settings();
        let runtime = settings.runtimes.get(runtime)?;
        (runtime.readiness == Readiness::Heartbeat).then_some(runtime.provisioning_limit)
    }

    /// Whether the registry is recovering: actions that change containers, volumes or tokens then wait for an operator.
    pub(super) async fn is_recovering(&self) -> Result<bool, SweepError> {
        Ok(self.store.registry().await?.is_some_and(|registry| registry.recovering_since.is_some()))
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
