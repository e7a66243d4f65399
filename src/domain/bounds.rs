//! The bounds on every text that an agent can set, in one table.
//!
//! Whatever an agent writes is stored, answered to its peers and shown to the operator. Without a bound on each text
//! one agent fills the disk and every answer that carries it.

/// The longest name, in characters.
pub const NAME_MAX_CHARS: usize = 63;
/// The longest role, in bytes. A longer one is refused.
pub const ROLE_MAX_BYTES: usize = 1 << 10;
/// The largest agent card, in bytes of JSON. A larger one is refused.
pub const CARD_MAX_BYTES: usize = 64 << 10;
/// The longest url of an external agent, in bytes. A longer one is refused.
pub const URL_MAX_BYTES: usize = 2 << 10;
/// The longest `current_task` and `sample_error`, in bytes. Longer ones are cut (wire protocol, §4).
pub const TEXT_MAX_BYTES: usize = 2 << 10;
/// The longest `runtime_state`, in bytes. A longer one is cut.
pub const STATE_MAX_BYTES: usize = 64;
/// The largest `runtime_metadata`, in bytes of JSON. Larger ones are refused.
pub const METADATA_MAX_BYTES: usize = 16 << 10;
/// The largest body of an agent's report that is read. What comes after it is discarded, see
/// [`REPORT_DISCARDED_MAX_BYTES`].
pub const REPORT_MAX_BYTES: usize = 64 << 10;
/// How much of a report is received in all. After so many bytes the answer does not wait for the rest.
pub const REPORT_DISCARDED_MAX_BYTES: usize = 1 << 20;

/// How large the history of events may become, in bytes of payload, each event counted with
/// [`EVENT_OVERHEAD_BYTES`] more. Beyond it the workspace with the largest history loses the oldest part of it.
pub const HISTORY_MAX_BYTES: i64 = 16 << 20;
/// What an event costs beside its payload: its row and its two index entries.
pub const EVENT_OVERHEAD_BYTES: usize = 128;
/// How many events a workspace's agent may cause in a row before they are coalesced.
pub const AGENT_EVENTS_BURST: i64 = 20;
/// After this time it may cause one more, in milliseconds.
pub const AGENT_EVENT_EVERY_MS: i64 = 5 * 60 * 1000;

/// When a workspace's allowance of events is full again, after one more event; `None` when it is used up.
///
/// Kept as one number, as in the generic cell rate algorithm. A stored moment further away than a whole allowance comes
/// from a clock that was set back, and counts as an empty allowance.
#[must_use]
pub fn next_agent_event(full_at_ms: Option<i64>, now_ms: i64) -> Option<i64> {
    let whole = AGENT_EVENTS_BURST * AGENT_EVENT_EVERY_MS;
    let full_at = full_at_ms.unwrap_or(now_ms).clamp(now_ms, now_ms.saturating_add(whole));
    let next = full_at.saturating_add(AGENT_EVENT_EVERY_MS);
    (next - now_ms <= whole).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_events_are_a_burst_and_then_one_every_five_minutes() {
        let (mut full_at, mut now, mut told) = (None, 1_000_000, 0);
        for _second in 0..3600 {
            if let Some(next) = next_agent_event(full_at, now) {
                (full_at, told) = (Some(next), told + 1);
            }
            now += 1000;
        }
        assert_eq!(told, AGENT_EVENTS_BURST + 3_600_000 / AGENT_EVENT_EVERY_MS - 1);
    }

    #[test]
    fn a_clock_set_back_costs_no_more_than_one_allowance() {
        let far = Some(i64::MAX / 2);
        assert_eq!(next_agent_event(far, 0), None);
        assert!(next_agent_event(None, 0).is_some());
    }
}
