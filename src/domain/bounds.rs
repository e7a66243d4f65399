//! Limits on every text that an agent can set, in one table.
//!
//! ostler stores text from agents, returns it to other agents and shows it to operators. Without a limit on each text,
//! one agent could fill the disk, and make every response that contains its text too large.

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
/// Number of bytes of an agent's report that are used. The bytes after that are received and discarded, see
/// [`REPORT_DISCARDED_MAX_BYTES`].
pub const REPORT_MAX_BYTES: usize = 64 << 10;
/// Maximum number of bytes of a report that are received. If the report is longer, ostler answers without waiting for
/// the rest.
pub const REPORT_DISCARDED_MAX_BYTES: usize = 1 << 20;

/// Maximum size of the event history, in bytes of payload plus [`EVENT_OVERHEAD_BYTES`] per event. If the history is
/// larger, the oldest events of the workspace with the most bytes are deleted.
pub const HISTORY_MAX_BYTES: i64 = 16 << 20;
/// Number of bytes that an event needs in addition to its payload: for its row and two index entries.
pub const EVENT_OVERHEAD_BYTES: usize = 128;
/// Number of events that the agent of a workspace may cause at once. No further events are written until the allowance
/// refills.
pub const AGENT_EVENTS_BURST: i64 = 20;
/// Time in which the allowance refills by one event, in milliseconds.
pub const AGENT_EVENT_EVERY_MS: i64 = 5 * 60 * 1000;

/// How much longer than an empty allowance needs to refill a stored time must be in the future, in milliseconds, to show
/// that the clock was set back. Less can be due to concurrent reports that are stored in reverse order of their times.
const SET_BACK_MS: i64 = 60 * 1000;

/// Takes one event from the allowance of a workspace's agent. Returns the time at which the allowance will be full
/// again; `None` if the allowance is used up.
///
/// The caller stores this time, from which the current allowance can be computed (generic cell rate algorithm). A
/// stored time that is much further in the future than an empty allowance needs to refill was stored before the clock was
/// set back. It then counts as an allowance of one event. After that event the caller stores a time near the present,
/// and the agent's events are not suppressed until the clock reaches the old time.
#[must_use]
pub fn next_agent_event(full_at_ms: Option<i64>, now_ms: i64) -> Option<i64> {
    let latest = now_ms.saturating_add(AGENT_EVENTS_BURST * AGENT_EVENT_EVERY_MS);
    let full_at = match full_at_ms {
        Some(full_at) if full_at > latest.saturating_add(SET_BACK_MS) => {
            latest.saturating_sub(AGENT_EVENT_EVERY_MS)
        }
        known => known.unwrap_or(now_ms).max(now_ms),
    };
    let next = full_at.saturating_add(AGENT_EVENT_EVERY_MS);
    (next <= latest).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_events_are_limited_to_a_burst_and_one_per_5_minutes() {
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
