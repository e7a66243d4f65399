//! Activity: what a workspace did and received, in the rows that clients of the field poll.

use super::{ids::ActivityId, time::Timestamp};

/// Every `activity_type` there is, in the order in which a refusal lists them.
pub const TYPES: [&str; 7] =
    [SENT, RECEIVED, "task_update", "agent_log", "skill_promotion", "memory_write", "error"];

/// A message that the agent reports as sent.
pub const SENT: &str = "a2a_send";

/// A message to the workspace; also a notice of the agent to its user, which clients find by its method.
pub const RECEIVED: &str = "a2a_receive";

/// The method of a notice of an agent to its user.
pub const NOTIFY: &str = "notify";

/// Rows that `limit` gives when it is absent or invalid.
pub const LIMIT_DEFAULT: u32 = 100;

/// The most rows that one answer holds.
pub const LIMIT_MAX: u32 = 500;

/// The most bytes that are kept of a message or an answer that was passed on. One that is larger is replaced by a
/// note of its size: the row is history, the message itself was delivered.
pub const BODY_KEPT_BYTES: usize = 16 << 10;

/// Who sent a message: a user, or a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// No workspace: `source_id` is null.
    User,
    /// A workspace.
    Agent,
}

/// Which rows are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivityQuery {
    /// Exactly this type.
    pub activity_type: Option<String>,
    /// Sent by a user, or by a workspace.
    pub sender: Option<Sender>,
    /// This workspace is source or target.
    pub peer: Option<String>,
    /// Written at this time or later.
    pub since: Option<Timestamp>,
    /// Written before this time.
    pub before: Option<Timestamp>,
    /// After this row, and oldest first; newest first without.
    pub after: Option<ActivityId>,
    /// At most so many.
    pub limit: u32,
    /// Asked by the agent itself: messages that wait for it are left out of no page for their age.
    pub is_poll: bool,
}

impl ActivityQuery {
    /// Whether a message has to be a user's, if that matters.
    #[must_use]
    pub fn from_user(&self) -> Option<bool> {
        self.sender.map(|sender| sender == Sender::User)
    }
}

impl Default for ActivityQuery {
    fn default() -> Self {
        Self {
            activity_type: None,
            sender: None,
            peer: None,
            since: None,
            before: None,
            after: None,
            limit: LIMIT_DEFAULT,
            is_poll: false,
        }
    }
}

/// The `limit` of a query: capped, and the default where it is no positive number.
#[must_use]
pub fn limit(text: Option<&str>) -> u32 {
    let asked = text.and_then(|text| text.trim().parse::<u64>().ok()).filter(|limit| *limit > 0);
    asked.map_or(LIMIT_DEFAULT, |limit| u32::try_from(limit).unwrap_or(LIMIT_MAX).min(LIMIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_capped_and_defaults_when_invalid() {
        for (text, expected) in [
            (None, 100),
            (Some(""), 100),
            (Some("abc"), 100),
            (Some("-1"), 100),
            (Some("0"), 100),
            (Some("1"), 1),
            (Some("500"), 500),
            (Some("501"), 500),
            (Some("99999999999"), 500),
        ] {
            assert_eq!(limit(text), expected, "{text:?}");
        }
    }
}
