//! Processes that Podman reports on, looked at on this host.
//!
//! Podman hears of a container's end from conmon, the process that holds it. Where conmon was killed nobody ever
//! tells it: the container is called running, or stopping for ever, and neither a stop nor a start gets it out of
//! that. That the process is gone can be seen from here only if this process sees the same processes, and even then
//! it is only a suspicion, which [`super`] has Podman's runtime confirm.

use std::fs;

/// Whether a process is there and has not ended.
pub(super) fn is_alive(process: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The second field is the name, in brackets, and may hold spaces and brackets: count from behind it.
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    state.is_some_and(|state| !matches!(state, "Z" | "X"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_no_process_is_not() {
        assert!(is_alive(i64::from(std::process::id())));
        assert!(!is_alive(0));
        assert!(!is_alive(i64::MAX));
    }
}
