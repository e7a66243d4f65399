//! Activity: messages and actions of a workspace, stored in rows that clients poll.

use super::{ids::ActivityId, time::Timestamp};

/// Every `activity_type`, in the order in which an error message lists them.
pub const TYPES: [&str; 7] =
    [SENT, RECEIVED, "task_update", "agent_log", "skill_promotion", "memory_write", "error"];

/// A message that the agent has sent, according to its own report.
pub const SENT: &str = "a2a_send";

/// A message to the workspace, or a notice of the agent to its user. Clients recognise a notice by its method,
/// [`NOTIFY`].
pub const RECEIVED: &str = "a2a_receive";

/// The method of an agent's notice to its user.
pub const NOTIFY: &str = "notify";

/// Maximum number of rows in one answer if `limit` is absent or invalid.
pub const LIMIT_DEFAULT: u32 = 100;

/// Upper limit of `limit`.
pub const LIMIT_MAX: u32 = 500;

/// Maximum size of a forwarded message or answer that is stored, in bytes. A larger one is delivered, but the row
/// contains only its size instead of its content.
pub const BODY_KEPT_BYTES: usize = 16 << 10;

/// Sender of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A user. Such rows have no `source_id`.
    User,
    /// A workspace.
    Agent,
}

/// Filter of an activity query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivityQuery {
    /// Only rows of this type.
    pub activity_type: Option<String>,
    /// Only messages from a user, or only messages from a workspace.
    pub sender: Option<Sender>,
    /// Only rows with this workspace as source or target.
    pub peer: Option<String>,
    /// Only rows written at or after this time.
    pub since: Option<Timestamp>,
    /// Only rows written before this time.
    pub before: Option<Timestamp>,
    /// Only rows after this one, the oldest first. If `None`, the newest come first.
    pub after: Option<ActivityId>,
    /// Maximum number of rows.
    pub limit: u32,
    /// Whether the workspace's own agent polls. Messages that wait for it are then included, whatever their age.
    pub is_poll: bool,
}

impl ActivityQuery {
    /// `true` if messages must come from a user, `false` if they must come from a workspace, `None` if both are
    /// included.
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

/// Parses the `limit` of a query: capped at `LIMIT_MAX`, and `LIMIT_DEFAULT` if it is not a positive number.
#[must_use]
pub fn limit(text: Option<&str>) -> u32 {
    let asked = text.and_then(|text| text.trim().parse::<u64>().ok()).filter(|limit| *limit > 0);
    asked.map_or(LIMIT_DEFAULT, |limit| u32::try_from(limit).unwrap_or(LIMIT_MAX).min(LIMIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activity_limit_is_capped_and_defaults_when_invalid() {
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
