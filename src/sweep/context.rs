//! What a pass may touch, and the look at the engine that due passes share.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{SweepError, hits::Hits};
use crate::{
    clock::SharedClock,
    domain::{
        ids::{InstanceId, WorkspaceId},
        plan::Inventory,
        presence::Presence,
        runtime::Readiness,
        time::{Awake, Timestamp},
    },
    engine::{
        Engine,
        trusted::{self, TrustedListing, Untrusted},
    },
    entropy::SharedEntropy,
    listening::{Listening, jumped, offset},
    ops::{Limits, Ops, OwnContainers},
    store::{Store, StoreError},
};

/// The moment on which a run decides: the clocks, and what the engine showed, if the pass has to see it.
#[derive(Clone, Debug)]
pub struct Look {
    asked_at: Timestamp,
    awake: Awake,
    /// Which spell of listening it was taken in, read before anything was asked.
    spell: u64,
    seen: Option<Seen>,
}

/// One trusted listing, and what the ones before it have shown.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The listing.
    pub listing: TrustedListing,
    /// The same, sorted by whose things it shows.
    pub inventory: Inventory,
    /// What was seen before.
    pub presence: Presence,
}

impl Look {
    /// The wall clock before anything was asked.
    #[must_use]
    pub fn asked_at(&self) -> Timestamp {
        self.asked_at
    }

    /// The awake clock before anything was asked.
    #[must_use]
    pub fn awake(&self) -> Awake {
        self.awake
    }

    /// What the engine showed. There is no listing that could be taken for an empty one where nobody looked.
    ///
    /// # Errors
    /// When nobody did.
    pub fn seen(&self) -> Result<&Seen, SweepError> {
        self.seen.as_ref().ok_or(SweepError::NoListing)
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
    /// Since when ostler listens.
    pub listening: Listening,
}

/// A place in the sequence of listings: only those that were requested after it was drawn count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket(u64);

/// The last listing that was taken, as long as a run still uses it.
#[derive(Default)]
struct LastLook {
    number: u64,
    look: Option<Result<Weak<Look>, Untrusted>>,
}

#[derive(Default)]
struct Memory {
    presence: Presence,
    /// The spell of listening in which it was gathered.
    spell: u64,
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
    /// How many listings were begun.
    looks: AtomicU64,
    /// Locked while a listing is taken: two at once could be remembered in the wrong order.
    last_look: tokio::sync::Mutex<LastLook>,
    pub(super) hits: Hits,
    /// See [`Sweeper::revoking_whatever_the_age`].
    pub(super) without_age: bool,
}

impl Sweeper {
    /// Puts the parts together.
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
            looks: AtomicU64::default(),
            last_look: tokio::sync::Mutex::default(),
            hits: Hits::default(),
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

    /// Draws a ticket for [`Sweeper::look_after`].
    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.looks.load(Ordering::SeqCst))
    }

    /// A look that was begun after the ticket was drawn: one that another run waited for as well, or a new one.
    pub(super) async fn look_after(&self, ticket: Ticket) -> Result<Arc<Look>, Untrusted> {
        let mut last = self.last_look.lock().await;
        if last.number > ticket.0 {
            match &last.look {
                Some(Ok(look)) => {
                    if let Some(look) = look.upgrade() {
                        return Ok(look);
                    }
                }
                Some(Err(why)) => return Err(why.clone()),
                None => {}
            }
        }
        last.number = self.looks.fetch_add(1, Ordering::SeqCst) + 1;
        last.look = None;
        let look = self.look().await.map(Arc::new);
        if let Err(why) = &look {
            tracing::warn!(error = %why, "no sweep of containers acts: there is no listing to trust");
        }
        last.look = Some(look.as_ref().map(Arc::downgrade).map_err(Untrusted::clone));
        look
    }

    /// Takes a look that passes may act on. An untrusted one begins every grace anew: what happened
    /// while nobody could see is held against no one.
    ///
    /// # Errors
    /// Why there is nothing to act on.
    pub async fn look(&self) -> Result<Look, Untrusted> {
        let spell = self.current_spell();
        let (listing, inventory) = match self.list().await {
            Ok(listed) => listed,
            Err(untrusted) => {
                self.memory().presence.forget();
                return Err(untrusted);
            }
        };
        self.ops.note_paused(inventory.with_paused());
        // What was asked in one spell is no look of the next, even where that began before the answer came.
        let mut memory = self.memory();
        if memory.spell != spell {
            memory.presence.forget();
            memory.spell = spell;
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
        Ok(Look { asked_at, awake, spell, seen: Some(Seen { listing, inventory, presence }) })
    }

    /// The rows are read after the listing: a row is always written before its container is made.
    async fn list(&self) -> Result<(TrustedListing, Inventory), Untrusted> {
        let own = OwnContainers(&self.store);
        let listing = trusted::look(&*self.engine, &*self.clock, self.instance, &own).await?;
        let mut inventory = Inventory::of(self.instance, listing.observed());
        let named = inventory.named_by_foreign();
        if !named.is_empty() {
            let failed = |error: StoreError| Untrusted::RegistryFailed(error.to_string());
            let entries = self.store.trash_of(named.clone()).await.map_err(failed)?;
            inventory.recognise(&self.store.known_rows(named).await.map_err(failed)?, &entries);
        }
        Ok((listing, inventory))
    }

    /// Looks at the clocks only, for passes that need no engine.
    #[must_use]
    pub fn glance(&self) -> Look {
        let spell = self.current_spell();
        let (asked_at, awake) = (self.clock.now(), self.clock.awake());
        Look { asked_at, awake, spell, seen: None }
    }

    /// The number of the liveness epoch, by the clocks right now.
    pub(super) fn liveness_epoch(&self) -> u64 {
        self.current_spell()
    }

    /// Announces when the driver wakes next. A reading of the clock well after that, before it did, shows that the
    /// process was stopped.
    pub(super) fn expect_tick(&self, at: Awake) {
        self.listening.expect_tick(at);
    }

    /// The spell of listening that the clocks show right now.
    fn current_spell(&self) -> u64 {
        let _looked_at = self.clock.now();
        self.listening.number()
    }

    /// How long something has lasted at a look, as far as ostler listened.
    #[must_use]
    pub(super) fn lasted(&self, since: Timestamp, look: &Look) -> Duration {
        self.listening.lasted(since, look.asked_at(), look.awake())
    }

    /// Whether time has jumped since a look was taken, there and back again perhaps: what was decided on its clock is
    /// void then.
    #[must_use]
    pub(super) fn jumped_since(&self, look: &Look) -> bool {
        let then = offset(look.asked_at(), look.awake());
        self.current_spell() != look.spell || jumped(then, offset(self.clock.now(), self.clock.awake()))
    }

    /// The workspace above a live one.
    pub(super) fn parent(&self, workspace: WorkspaceId) -> Option<WorkspaceId> {
        self.store.member(workspace).and_then(|member| member.parent)
    }

    /// How many things are remembered between runs: bounded by what is registered and listed.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.memory().presence.size() + self.ops.remembered()
    }

    /// The graces and retentions in force. A run reads them once.
    pub(super) fn limits(&self) -> Limits {
        self.ops.settings().limits
    }

    /// The readiness of a runtime; of one that the configuration no longer has, the one that never
    /// moves a status by itself.
    pub(super) fn readiness(&self, runtime: &str) -> Readiness {
        self.ops.settings().runtimes.get(runtime).map_or(Readiness::Heartbeat, |runtime| runtime.readiness)
    }

    /// How long a start of that runtime may take until it is heard; none where nobody waits for a beat.
    pub(super) fn provisioning_limit(&self, runtime: &str) -> Option<Duration> {
        let settings = self.ops.settings();
        let runtime = settings.runtimes.get(runtime)?;
        (runtime.readiness == Readiness::Heartbeat).then_some(runtime.provisioning_limit)
    }

    /// Whether unknown things are held until a person has decided.
    pub(super) async fn is_recovering(&self) -> Result<bool, SweepError> {
        Ok(self.store.registry().await?.is_some_and(|registry| registry.recovering_since.is_some()))
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
