//! The only composition root. The daemon, the dry run, the tests, the benchmarks and the simulator build the same app
//! from different parts.
//!
//! Building starts nothing: no task, no listener, no call to the engine. The caller determines the order of the start,
//! and calls [`App::driver`] only when passes may become due.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::mpsc;

use crate::{
    doctor::{Configured, Doctor, DoctorParts, Network},
    domain::ids::InstanceId,
    engine::Engine,
    http::{Api, ApiParts, Dial},
    ops::{self, Ops, Settings},
    runtime::{
        clock::SharedClock,
        entropy::SharedEntropy,
        epoch::Listening,
        tasks::SharedSpawn,
        wake::{Call, Wake},
    },
    store::{Mirror, Store},
    sweep::{Driver, DriverHandle, Pass, Sweeper, SweeperParts, Watch},
};

/// The two backends, as one side of the app uses them.
#[derive(Clone)]
pub struct Backends {
    /// The registry's database.
    pub store: Store,
    /// The engine, with deadlines on its calls.
    pub engine: Arc<dyn Engine>,
}

/// The backends of each side of the app. The simulator gives each side backends of its own, so that it can distinguish
/// their effects.
pub struct Sides {
    /// The backends of the use cases.
    pub ops: Backends,
    /// The backends of the passes and of the subscription to the engine's events.
    pub sweeps: Backends,
    /// The backends of the routes and the doctor.
    pub routes: Backends,
}

impl Sides {
    /// All sides share these backends.
    #[must_use]
    pub fn shared(backends: Backends) -> Self {
        Self { ops: backends.clone(), sweeps: backends.clone(), routes: backends }
    }
}

/// The dependencies of an [`App`].
pub struct Parts {
    /// Store and engine.
    pub sides: Sides,
    /// Wall clock, awake clock and timers. The app watches it for jumps: see [`App::clock`].
    pub clock: SharedClock,
    /// Source of ids and tokens.
    pub entropy: SharedEntropy,
    /// Spawns tasks that the caller drains at shutdown.
    pub spawn: SharedSpawn,
    /// The mirror file that is kept beside the database.
    pub mirror: Arc<Mirror>,
    /// The configuration of the use cases, with the instance that the app serves.
    pub settings: Settings,
}

/// The dependencies of the routes that the app does not contain: the surroundings in which it is served.
pub struct Surroundings {
    /// The directory that contains the database.
    pub data_dir: PathBuf,
    /// Directory of the locks on instance identities.
    pub runtime_dir: PathBuf,
    /// Where the app listens for agents, and how workspaces reach it.
    pub network: Network,
    /// The configuration in force, and the file it came from.
    pub configuration: Arc<dyn Configured>,
    /// How connections to agents are opened.
    pub dial: Dial,
}

/// Everything that is built from [`Parts`].
pub struct App {
    /// Carries out orders.
    pub ops: Ops,
    /// Runs passes.
    pub sweeper: Arc<Sweeper>,
    /// The registry's database, as the routes use it.
    pub store: Store,
    /// The clock of all parts. Each reading is checked for jumps and late ticks.
    pub clock: SharedClock,
    /// The liveness epochs.
    pub listening: Listening,
    /// Spawns tasks.
    pub spawn: SharedSpawn,
    instance: InstanceId,
    sweeps: Backends,
    routes_engine: Arc<dyn Engine>,
    entropy: SharedEntropy,
    mirror: Arc<Mirror>,
}

impl App {
    /// Builds the use cases and the sweeper. Also returns the requests for passes, which belong to the driver.
    #[must_use]
    pub fn new(parts: Parts) -> (Self, mpsc::UnboundedReceiver<Call>) {
        let (wake, calls) = Wake::new();
        (Self::with_wake(parts, wake), calls)
    }

    /// Like [`App::new`], for plans that are never carried out: requests for passes are discarded.
    #[must_use]
    pub fn without_driver(parts: Parts) -> Self {
        Self::with_wake(parts, Wake::disconnected())
    }

    fn with_wake(parts: Parts, wake: Wake) -> Self {
        let Parts { sides, clock, entropy, spawn, mirror, settings } = parts;
        let Sides { ops, sweeps, routes } = sides;
        let instance = settings.instance;
        let (listening, clock) = Listening::begin(clock);
        let ops = Ops::new(ops::Parts {
            store: ops.store,
            engine: ops.engine,
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            spawn: Arc::clone(&spawn),
            mirror: Arc::clone(&mirror),
            settings,
            wake,
        });
        let sweeper = Arc::new(Sweeper::new(SweeperParts {
            store: sweeps.store.clone(),
            engine: Arc::clone(&sweeps.engine),
            ops: ops.clone(),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            instance,
            listening: listening.clone(),
        }));
        let Backends { store, engine: routes_engine } = routes;
        Self {
            ops,
            sweeper,
            store,
            clock,
            listening,
            spawn,
            instance,
            sweeps,
            routes_engine,
            entropy,
            mirror,
        }
    }

    /// Builds the driver of these passes, and its handle. Every pass is due from now on.
    #[must_use]
    pub fn driver(
        &self,
        passes: Vec<Arc<dyn Pass>>,
        calls: mpsc::UnboundedReceiver<Call>,
    ) -> (Driver, DriverHandle) {
        let (clock, spawn) = (Arc::clone(&self.clock), Arc::clone(&self.spawn));
        Driver::new(Arc::clone(&self.sweeper), passes, clock, spawn, calls)
    }

    /// Builds the subscription to the engine's container events.
    #[must_use]
    pub fn watch(&self, sweeps: DriverHandle) -> Watch {
        let Backends { store, engine } = self.sweeps.clone();
        Watch {
            store,
            engine,
            ops: self.ops.clone(),
            sweeps,
            clock: Arc::clone(&self.clock),
            spawn: Arc::clone(&self.spawn),
            instance: self.instance,
        }
    }

    /// Builds the doctor and the state of the routes.
    #[must_use]
    pub fn api(&self, sweeps: DriverHandle, surroundings: Surroundings) -> Api {
        let Surroundings { data_dir, runtime_dir, network, configuration, dial } = surroundings;
        let doctor = Doctor::new(DoctorParts {
            store: self.store.clone(),
            engine: Arc::clone(&self.routes_engine),
            clock: Arc::clone(&self.clock),
            instance: self.instance,
            data_dir,
            network,
            configuration,
        });
        Api::new(ApiParts {
            store: self.store.clone(),
            engine: Arc::clone(&self.routes_engine),
            ops: self.ops.clone(),
            sweeps,
            doctor,
            clock: Arc::clone(&self.clock),
            spawn: Arc::clone(&self.spawn),
            mirror: Arc::clone(&self.mirror),
            runtime_dir,
            entropy: Arc::clone(&self.entropy),
            listening: self.listening.clone(),
            dial,
        })
    }
}
