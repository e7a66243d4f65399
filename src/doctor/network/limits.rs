//! Limits of the checks of the network.

use std::time::Duration;

/// Time limit of the requests from inside containers, for all containers together. The HTTP client in a container stops
/// after 5 s.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// A heartbeat that is not older than this also proves that a workspace reaches ostler.
pub(super) const RECENT_HEARTBEAT: Duration = Duration::from_mins(2);
