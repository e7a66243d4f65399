//! Delegations: a task that one workspace hands to another.

use std::time::Duration;

/// How long an open delegation waits for a result before it counts as failed.
pub const DEADLINE: Duration = Duration::from_hours(6);

/// How long ostler waits for the agent's answer.
pub const ANSWER_LIMIT: Duration = Duration::from_mins(30);

/// How long ostler waits before it sends a task again whose agent could not be reached.
pub const RETRY_AFTER: Duration = Duration::from_secs(8);

/// The most bytes of an answer that a delegation shows.
pub const PREVIEW_BYTES: usize = 300;

/// What has become of a delegation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelegationStatus {
    /// Not sent yet.
    Pending,
    /// Sent, or about to be.
    Dispatched,
    /// Stored for an agent that polls.
    Queued,
    /// The agent has answered.
    Completed,
    /// It has ended without an answer.
    Failed,
}

impl DelegationStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Dispatched, Self::Queued, Self::Completed, Self::Failed];

    /// The stored and sent form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Dispatched => "dispatched",
            Self::Queued => "queued",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// The status of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Whether nothing follows.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}
