//! Checks whether workspaces reach ostler, where ostler listens, and which packets pass between workspaces.

mod address;
pub(super) mod description;
#[cfg(test)]
mod fixture;
mod inside;
mod limits;
mod listen;
mod ports;
mod reached;
mod tree;

use super::parts::Doctor;
use crate::{
    api::doctor::Check,
    runtime::clock::within,
    store::{Scope, StoreResult},
};
use address::outdated_addresses;
pub use description::{AskBound, AskReach, Network, Reach};
pub use inside::registry_mark;
use limits::DEADLINE;
use listen::{Proof, listen_check};
use reached::ask_rank;
use tree::between;

impl Doctor {
    /// Checks whether workspaces reach ostler, where it listens, and which packets pass between workspaces.
    pub(super) async fn network(&self) -> StoreResult<Vec<Check>> {
        let network = &self.0.network;
        let rows = self.0.store.describe_all(Scope::Live).await?;
        let (reach, reached, not_listening, attached, bound) = tokio::join!(
            within(&*self.0.clock, DEADLINE, (network.reach)()),
            self.reached(&rows),
            self.not_listening(&rows),
            self.attached(&rows),
            (network.bound)(),
        );
        let reach = reach.unwrap_or_else(|| Err("the engine does not answer".into()));
        let proof = if reached.verdict == "ok" && self.newest_heartbeat(&rows).is_some() {
            Proof::Reached
        } else if rows.iter().any(|one| ask_rank(one).is_some()) {
            Proof::Missing
        } else {
            Proof::NoneRunning
        };
        let mut checks = vec![reached, listen_check(network, &reach, &bound, proof)];
        checks.extend(reach.as_ref().ok().and_then(|reach| outdated_addresses(&rows, &reach.outdated)));
        checks.extend(not_listening);
        let rootless = reach.is_ok_and(|reach| reach.rootless);
        checks.push(between(network, rootless, self.0.instance, &attached));
        Ok(checks)
    }
}
