//! The doctor: runs diagnostic checks and reports for each what it found and what to do about it.
//!
//! It changes nothing. Checks are independent: one that cannot be completed does not hide the others.

mod agents;
mod configuration;
mod disk;
mod engine;
mod listing;
mod network;
mod parts;
mod paused;
mod registry;
mod sweeps;
mod trash;
mod unknown;
mod verdict;
mod work;
mod workspaces;

use crate::api::doctor::DoctorReport;
pub use configuration::{BuiltIn, Configured};
pub use disk::disk;
pub use engine::engine;
use engine::engine_use;
pub use network::{AskBound, AskReach, Network, Reach, registry_mark};
pub use parts::{Doctor, DoctorParts};
use verdict::store_fails;
pub use verdict::{fail, ok, warn};

impl Doctor {
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
}
