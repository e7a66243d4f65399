//! Limits on every text that an agent can set, in one table.
//!
//! Text from an agent is stored, returned to its peers and shown to the operator. Without a limit on each text, one
//! agent could fill the disk and every answer that contains it.

/// Maximum length of a workspace name, in characters.
pub const NAME_MAX_CHARS: usize = 63;
/// Maximum length of a role, in bytes; longer ones are refused.
pub const ROLE_MAX_BYTES: usize = 1 << 10;
/// Maximum size of an agent card, in bytes of JSON; larger ones are refused.
pub const CARD_MAX_BYTES: usize = 64 << 10;
/// Maximum length of an external agent's url, in bytes; longer ones are refused.
pub const URL_MAX_BYTES: usize = 2 << 10;
/// Maximum length of `current_task` and `sample_error`, in bytes; longer ones are truncated (wire protocol, §4).
pub const TEXT_MAX_BYTES: usize = 2 << 10;
/// Maximum length of `runtime_state`, in bytes; longer ones are truncated.
pub const STATE_MAX_BYTES: usize = 64;
/// Maximum size of `runtime_metadata`, in bytes of JSON; larger ones are refused.
pub const METADATA_MAX_BYTES: usize = 16 << 10;
/// Number of bytes of an agent's report that are read. The rest is discarded, see [`REPORT_DISCARDED_MAX_BYTES`].
pub const REPORT_MAX_BYTES: usize = 64 << 10;
/// Total number of bytes of a report that are received. Beyond it the answer is sent without waiting for the rest.
pub const REPORT_DISCARDED_MAX_BYTES: usize = 1 << 20;

/// Maximum size of the event history, in bytes of payload plus [`EVENT_OVERHEAD_BYTES`] per event. Beyond it the oldest
/// events of the workspace with the largest history are deleted.
pub const HISTORY_MAX_BYTES: i64 = 16 << 20;
/// Bytes of an event besides its payload: its row and two index entries.
pub const EVENT_OVERHEAD_BYTES: usize = 128;
/// Number of consecutive events that a workspace's agent may cause before they are coalesced.
pub const AGENT_EVENTS_BURST: i64 = 20;
/// Time after which it may cause one more event, in milliseconds.
pub const AGENT_EVENT_EVERY_MS: i64 = 5 * 60 * 1000;

/// The time at which a workspace's allowance of events is full again after one more event; `None` if it is used up.
///
/// Stored as one number, as in the generic cell rate algorithm. A stored time further in the future than a full
/// allowance comes from a clock that was set back. It counts as an allowance with one event left: the caller stores a
/// time near the new clock then, so that the agent's events are not suppressed until the clock has caught up.
#[must_use]
pub fn next_agent_event(full_at_ms: Option<i64>, now_ms: i64) -> Option<i64> {
    let latest = now_ms.saturating_add(AGENT_EVENTS_BURST * AGENT_EVENT_EVERY_MS);
    let full_at = match full_at_ms {
        Some(full_at) if full_at > latest => latest.saturating_sub(AGENT_EVENT_EVERY_MS),
        known => known.unwrap_or(now_ms).max(now_ms),
    };
    let next = full_at.saturating_add(AGENT_EVENT_EVERY_MS);
    (next <= latest).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_events_are_limited_to_burst_then_one_per_5_minutes() {
        let (mut full_at, mut now, mut count) = (None, 1_000_000, 0);
        for _second in 0..3600 {
            if let Some(next) = next_agent_event(full_at, now) {
                (full_at, count) = (Some(next), count + 1);
            }
            now += 1000;
        }
        assert_eq!(count, AGENT_EVENTS_BURST + 3_600_000 / AGENT_EVENT_EVERY_MS - 1);
    }

    #[test]
    fn agent_event_allowance_recovers_after_clock_is_set_back() {
        let a_day = 24 * 60 * 60 * 1000;
        let mut full_at = None;
        while let Some(next) = next_agent_event(full_at, a_day) {
            full_at = Some(next);
        }
        let after =
            next_agent_event(full_at, 0).expect("one event is permitted, so that the time is stored again");
        assert_eq!(next_agent_event(Some(after), 0), None, "no more than one event is permitted at once");
        assert!(next_agent_event(Some(after), AGENT_EVENT_EVERY_MS).is_some(), "the allowance refills");
    }
}
