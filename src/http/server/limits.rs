//! Limits on connections and on their durations.

use std::time::Duration;

use super::owner::Owner;

/// Limits on connections and on their durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionLimits {
    /// Most connections in total.
    pub(super) in_all: usize,
    /// Most connections of one address without a valid token. For IPv6 this applies to a /64 network, because one host
    /// can use all its addresses.
    pub(super) per_address: usize,
    /// Most connections of one workspace, identified by its token. Higher than the limit on its requests in flight.
    pub(super) per_workspace: usize,
    /// Longest time without a request: until the first head is complete, and from the end of a response until the next
    /// head is complete. Agents send a heartbeat every 30 s on one connection, so this limit must be far above 30 s.
    pub(super) idle: Duration,
    /// Time for requests in flight to finish after the stop signal.
    pub(super) drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            in_all: 4096,
            per_address: 512,
            per_workspace: 64,
            idle: Duration::from_secs(75),
            drain: Duration::from_secs(5),
        }
    }
}

impl ConnectionLimits {
    pub(super) fn of(&self, owner: Owner) -> usize {
        match owner {
            Owner::Workspace(_) => self.per_workspace,
            Owner::Address(_) | Owner::Admin => self.per_address,
        }
    }
}
