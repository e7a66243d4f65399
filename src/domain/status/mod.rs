//! Workspace statuses, and every legal transition between them.

mod transition;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use transition::{Cause, MOVES};

/// Why a workspace is `failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The workspace was not online within its runtime's limit. A late heartbeat of the same incarnation still sets it
    /// online.
    ProvisionTimeout,
    /// The start cannot succeed with the present image, port or volume.
    StartError,
    /// The restart budget is used up; only an operator can start it again.
    Parked,
}

impl Failure {
    /// Every failure, for tests and for the CHECK constraint of the store.
    pub const ALL: [Self; 3] = [Self::ProvisionTimeout, Self::StartError, Self::Parked];

    /// The form in the database and in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProvisionTimeout => "provision_timeout",
            Self::StartError => "start_error",
            Self::Parked => "parked",
        }
    }
}

/// Status of a workspace as last observed or ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Is being created or started.
    Provisioning,
    /// Up, and no problem is reported.
    Online,
    /// Up, but the agent reports errors, is stalled, or misses heartbeats.
    Degraded,
    /// The container is gone or has exited.
    Offline,
    /// A start failed, or the restart budget is used up.
    Failed(Failure),
    /// Stopped by an operator.
    Paused,
    /// Its container is being stopped because it is idle or an operator ordered it.
    Hibernating,
    /// Stopped until a message or an operator wakes it.
    Hibernated,
    /// External, and without a recent heartbeat.
    AwaitingAgent,
    /// Removed; its container and volumes stay in the trash until their retention ends.
    Removed,
}

impl Status {
    /// Every status, with `failed` once per failure.
    pub const ALL: [Self; 12] = [
        Self::Provisioning,
        Self::Online,
        Self::Degraded,
        Self::Offline,
        Self::Failed(Failure::ProvisionTimeout),
        Self::Failed(Failure::StartError),
        Self::Failed(Failure::Parked),
        Self::Paused,
        Self::Hibernating,
        Self::Hibernated,
        Self::AwaitingAgent,
        Self::Removed,
    ];

    /// The word in the API and the database; the same word, `failed`, for all failures.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Online => "online",
            Self::Degraded => "degraded",
            Self::Offline => "offline",
            Self::Failed(_) => "failed",
            Self::Paused => "paused",
            Self::Hibernating => "hibernating",
            Self::Hibernated => "hibernated",
            Self::AwaitingAgent => "awaiting_agent",
            Self::Removed => "removed",
        }
    }

    /// The failure of a `failed` status.
    #[must_use]
    pub fn failure(self) -> Option<Failure> {
        if let Self::Failed(failure) = self { Some(failure) } else { None }
    }

    /// Parses the output of [`Status::as_str`] and [`Failure::as_str`].
    #[must_use]
    pub fn parse(status: &str, failure: Option<&str>) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == status && s.failure().map(Failure::as_str) == failure)
    }

    /// Whether this status forbids the workspace's container to run. `settle` stops a container that runs nevertheless.
    #[must_use]
    pub fn forbids_running(self) -> bool {
        match self {
            Self::Paused
            | Self::Hibernating
            | Self::Hibernated
            | Self::Failed(Failure::Parked | Failure::StartError)
            | Self::Removed => true,
            Self::Provisioning
            | Self::Online
            | Self::Degraded
            | Self::Offline
            | Self::Failed(Failure::ProvisionTimeout)
            | Self::AwaitingAgent => false,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => write!(f, "failed({})", failure.as_str()),
            Self::Provisioning
            | Self::Online
            | Self::Degraded
            | Self::Offline
            | Self::Paused
            | Self::Hibernating
            | Self::Hibernated
            | Self::AwaitingAgent
            | Self::Removed => f.write_str(self.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_failure_words_parse_to_the_same_status() {
        for status in Status::ALL {
            let failure = status.failure().map(Failure::as_str);
            assert_eq!(Status::parse(status.as_str(), failure), Some(status));
        }
        assert_eq!(Status::parse("failed", None), None);
        assert_eq!(Status::parse("online", Some("parked")), None);
    }
}
