//! The doctor: runs diagnostic checks and reports for each what it found and what to do about it.
//!
//! It changes nothing. Checks are independent: one that cannot be completed does not hide the others.

mod agents;
mod configuration;
mod disk;
mod engine;
mod listing;
mod network;
mod paused;
mod registry;
mod sweeps;
mod trash;
mod unknown;
mod work;
mod workspaces;

use std::{path::PathBuf, sync::Arc};

use crate::{
    api::doctor::{Check, DoctorReport},
    domain::ids::InstanceId,
    engine::Engine,
    runtime::clock::SharedClock,
    store::{Store, StoreError},
};
pub use configuration::{BuiltIn, Configured};
pub use disk::disk;
pub use engine::engine;
use engine::engine_use;
pub use network::{AskBound, AskReach, Network, Reach, registry_mark};

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
}
