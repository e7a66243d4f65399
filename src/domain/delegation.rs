//! Delegations: tasks that one workspace hands to another.

use std::time::Duration;

/// Maximum age of a delegation without a result. After that it is marked as failed.
pub const DEADLINE: Duration = Duration::from_hours(6);

/// Time limit for the answer of an agent to which ostler sends a task.
pub const ANSWER_LIMIT: Duration = Duration::from_mins(30);

/// Delay before a task is sent again if the agent could not be reached.
pub const RETRY_AFTER: Duration = Duration::from_secs(8);

/// Maximum number of bytes of the agent's answer that are shown for a delegation.
pub const PREVIEW_BYTES: usize = 300;

/// State of a delegation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelegationStatus {
    /// Not sent yet.
    Pending,
    /// Sent, or about to be sent.
    Dispatched,
    /// Stored for an agent that polls.
    Queued,
    /// Answered by the agent.
    Completed,
    /// Ended without an answer.
    Failed,
}

impl DelegationStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Dispatched, Self::Queued, Self::Completed, Self::Failed];

    /// The form in the database and on the wire.
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

    /// Parses the output of `DelegationStatus::as_str`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Whether it is final: completed or failed.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}
