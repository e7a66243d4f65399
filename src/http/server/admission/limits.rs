//! Limits on requests and bytes in flight.

/// Most messages of one workspace in flight. Enough for an agent that delegates to all its peers at once.
pub(super) const MESSAGES: usize = 32;
/// Most messages of all workspaces in flight.
pub(super) const MESSAGES_IN_ALL: usize = 1024;
/// Most other requests of one workspace in flight.
pub(super) const OTHERS: usize = 32;
/// Most bytes that one workspace may have in memory: two messages of the largest size.
pub(super) const BYTES: usize = 24 << 20;
/// Most bytes that all workspaces together may have in memory.
pub(super) const BYTES_IN_ALL: usize = 64 << 20;
/// Delay after which a refused client may retry, in seconds.
pub(super) const RETRY_AFTER: u64 = 2;
