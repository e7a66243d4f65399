//! The limit of open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of open files that the daemon should be allowed: enough for all connections of two listening addresses, and
/// for forwarded and pooled connections.
const DESCRIPTORS: u64 = 10_240;

/// Raises the soft limit of open files towards the hard limit, to at most `DESCRIPTORS`.
///
/// The default soft limit is 1024. Unauthenticated connections would exhaust it long before they reach the daemon's own
/// limit of connections. The daemon could then neither accept connections from agents nor connect to the engine.
pub(super) fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if current.is_some_and(|current| current < wanted) {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
        if let Err(error) = raised {
            tracing::warn!(%error, "could not raise the limit of open files; many connections may exhaust it");
        }
    }
    if wanted < DESCRIPTORS {
        tracing::warn!(
            limit = wanted,
            "low hard limit of open files, many connections may exhaust it: raise it to {DESCRIPTORS} \
             (`LimitNOFILE` in a systemd unit, `--ulimit nofile` for a container)"
        );
    }
}
