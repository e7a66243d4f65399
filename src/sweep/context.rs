//! What a pass may touch, and the look at the engine that due passes share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::SweepError;
use crate::{
    clock::SharedClock,
    domain::{
        ids::InstanceId,
        plan::Inventory,
        presence::Presence,
        runtime::{Readiness, Runtime},
        time::{Awake, Timestamp},
    },
    engine::{
        Engine,
        trusted::{self, TrustedListing, Untrusted},
    },
    entropy::SharedEntropy,
    ops::Ops,
    store::Store,
};

/// How far the wall clock may drift from the awake clock between two looks before every grace begins
/// anew: more is a suspend or a clock that was set.
const JUMP: Duration = Duration::from_secs(10);

/// The sweeps' numbers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a container has to be absent before tokens are stale.
    pub absence_grace: Duration,
    /// How long something unknown has to be seen before it is put away.
    pub unknown_grace: Duration,
    /// How long removed rows are remembered.
    pub removed_retention: Duration,
    /// How long events are kept.
    pub event_retention: Duration,
}

/// One trusted look, and what the ones before it have shown.
#[derive(Clone, Debug)]
pub struct Look {
    /// The listing.
    pub listing: TrustedListing,
    /// The same, sorted by whose things it shows.
    pub inventory: Inventory,
    /// What was seen before.
    pub presence: Presence,
}

impl Look {
    /// The wall clock before the engine was asked.
    #[must_use]
    pub fn asked_at(&self) -> Timestamp {
        self.listing.asked_at()
    }

    /// The awake clock before the engine was asked.
    #[must_use]
    pub fn awake(&self) -> Awake {
        self.listing.awake()
    }
}

/// What the sweeps are made of.
pub struct SweeperParts {
    /// The registry.
    pub store: Store,
    /// The engine, bounded.
    pub engine: Arc<dyn Engine>,
    /// The orders.
    pub ops: Ops,
    /// The clock.
    pub clock: SharedClock,
    /// Randomness, for plans' ids.
    pub entropy: SharedEntropy,
    /// Whose things.
    pub instance: InstanceId,
    /// The numbers.
    pub limits: Limits,
    /// Runtimes by name.
    pub runtimes: BTreeMap<String, Runtime>,
}

#[derive(Default)]
struct Memory {
    presence: Presence,
    /// Wall clock less awake clock at the last look: it changes when time jumps.
    offset: Option<i64>,
}

/// Runs passes. Shared by the driver, the CLI's dry run and the tests.
pub struct Sweeper {
    pub(super) store: Store,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) ops: Ops,
    pub(super) clock: SharedClock,
    pub(super) entropy: SharedEntropy,
    pub(super) instance: InstanceId,
    pub(super) limits: Limits,
    runtimes: BTreeMap<String, Runtime>,
    memory: Mutex<Memory>,
    /// See [`Sweeper::revoking_whatever_the_age`].
    pub(super) without_age: bool,
}

impl Sweeper {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: SweeperParts) -> Self {
        let SweeperParts { store, engine, ops, clock, entropy, instance, limits, runtimes } = parts;
        Self {
            store,
            engine,
            ops,
            clock,
            entropy,
            instance,
            limits,
            runtimes,
            memory: Mutex::default(),
            without_age: false,
        }
    }

    /// A mutant for the test of the race: it leaves the token's age out of the UPDATE, so that the test can
    /// show that it would notice.
    #[doc(hidden)]
    #[must_use]
    pub fn revoking_whatever_the_age(mut self) -> Self {
        self.without_age = true;
        self
    }

    /// Takes a look that passes may act on. An untrusted one begins every grace anew: what happened
    /// while nobody could see is held against no one.
    ///
    /// # Errors
    /// Why there is nothing to act on.
    pub async fn look(&self) -> Result<Look, Untrusted> {
        let listing = match trusted::look(&*self.engine, &*self.clock, self.instance).await {
            Ok(listing) => listing,
            Err(untrusted) => {
                self.memory().presence.forget();
                return Err(untrusted);
            }
        };
        let inventory = Inventory::of(self.instance, listing.observed());
        let mut memory = self.memory();
        if memory.jumped(&listing) {
            tracing::warn!("time jumped (a suspend, or the clock was set): graces begin anew");
            memory.presence.forget();
        }
        let items = listing.observed().containers.iter().map(|container| container.id.as_str());
        let volumes = listing.observed().volumes.iter().map(|volume| volume.name.as_str());
        let running = inventory
            .containers
            .iter()
            .filter(|(_, containers)| containers.iter().any(|(_, container)| container.state.may_run()));
        memory.presence.note(
            listing.awake(),
            items.chain(volumes),
            inventory.with_container().into_iter(),
            running.map(|(workspace, _)| *workspace),
        );
        let presence = memory.presence.clone();
        drop(memory);
        Ok(Look { listing, inventory, presence })
    }

    /// Whether time has jumped since a look was taken: what was decided on its clock is void then.
    #[must_use]
    pub(super) fn jumped_since(&self, look: &Look) -> bool {
        let then = offset(look.asked_at(), look.awake());
        then.abs_diff(offset(self.clock.now(), self.clock.awake())) > jump_ms()
    }

    /// The readiness of a runtime; of one that the configuration no longer has, the one that never
    /// moves a status by itself.
    pub(super) fn readiness(&self, runtime: &str) -> Readiness {
        self.runtimes.get(runtime).map_or(Readiness::Heartbeat, |runtime| runtime.readiness)
    }

    /// Whether unknown things are held until a person has decided.
    pub(super) async fn is_recovering(&self) -> Result<bool, SweepError> {
        Ok(self.store.registry().await?.is_some_and(|registry| registry.recovering_since.is_some()))
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn jumped(&mut self, listing: &TrustedListing) -> bool {
        let now = offset(listing.asked_at(), listing.awake());
        let before = self.offset.replace(now);
        before.is_some_and(|before| before.abs_diff(now) > jump_ms())
    }
}

fn offset(wall: Timestamp, awake: Awake) -> i64 {
    wall.0 - i64::try_from(awake.0).unwrap_or(i64::MAX)
}

fn jump_ms() -> u64 {
    u64::try_from(JUMP.as_millis()).unwrap_or(u64::MAX)
}
