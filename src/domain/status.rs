//! The statuses of a workspace and every legal move between them.
//!
//! One table, [`MOVES`], and nothing else decides what may follow what. It is an allow-list on purpose:
//! lists of states that must *not* be touched always miss one, and that is how removed workspaces come
//! back to life. The store writes a status only by [`Cause`], and takes the sources from here.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::workspace::Kind;

/// Why a workspace is `failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// It did not come online within its runtime's limit. A late beat of the same incarnation rescues it.
    ProvisionTimeout,
    /// The start cannot succeed as things are: image, port, volume.
    StartError,
    /// The restart budget is spent; only a person starts it again.
    Parked,
}

impl Failure {
    /// Every failure, for tests and for the store's CHECK.
    pub const ALL: [Self; 3] = [Self::ProvisionTimeout, Self::StartError, Self::Parked];

    /// The stored and shown form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProvisionTimeout => "provision_timeout",
            Self::StartError => "start_error",
            Self::Parked => "parked",
        }
    }
}

/// What a workspace is, as far as ostler knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Being created or started.
    Provisioning,
    /// Up and well.
    Online,
    /// Up, but unwell: errors, wedged or silent.
    Degraded,
    /// Its container is gone or has ended.
    Offline,
    /// A person, or the budget, has to look.
    Failed(Failure),
    /// A person stopped it.
    Paused,
    /// On its way to sleep.
    Hibernating,
    /// Asleep; a message wakes it.
    Hibernated,
    /// External, and not heard from.
    AwaitingAgent,
    /// Gone; what it owned lies in the trash for a while.
    Removed,
}

impl Status {
    /// Every status with every failure.
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

    /// The word used on the wire and in the store; failures share one.
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

    /// The failure behind a `failed`.
    #[must_use]
    pub fn failure(self) -> Option<Failure> {
        if let Self::Failed(failure) = self { Some(failure) } else { None }
    }

    /// Reads what [`Status::as_str`] and [`Failure::as_str`] wrote.
    #[must_use]
    pub fn parse(status: &str, failure: Option<&str>) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == status && s.failure().map(Failure::as_str) == failure)
    }

    /// Whether no container of this workspace may run: `settle` stops one that does.
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

/// What moves a status. Each has exactly one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A beat or a register of the current incarnation.
    AgentHeard,
    /// The container has run long enough, for runtimes whose readiness is `container`.
    ContainerReady,
    /// Not online within the runtime's limit.
    ProvisioningTimedOut,
    /// A start that cannot succeed as things are.
    StartImpossible,
    /// Errors, wedged or silent.
    Unwell,
    /// The container is gone or has ended.
    ContainerGone,
    /// An external agent is silent.
    ExternalSilent,
    /// A start or restart after a fault, by the budget or a person.
    Restart,
    /// A person starts what only a person may.
    StartByPerson,
    /// Start or resume of what was put to rest.
    Resume,
    /// A message, or a person, wakes what sleeps. Never what was paused.
    Wake,
    /// Resume of a paused external workspace: its agent is waited for again.
    AwaitAgain,
    /// The budget is spent.
    BudgetSpent,
    /// A person pauses or stops it.
    Pause,
    /// Idle for long enough, or a person sends it to sleep.
    BeginHibernation,
    /// The container has been seen stopped.
    FinishHibernation,
    /// A person removes it.
    Remove,
    /// A person takes the removal back.
    Undelete,
    /// A person adopts the running container of a row that a restored registry knows as down.
    Adopt,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 19] = [
        Self::AgentHeard,
        Self::ContainerReady,
        Self::ProvisioningTimedOut,
        Self::StartImpossible,
        Self::Unwell,
        Self::ContainerGone,
        Self::ExternalSilent,
        Self::Restart,
        Self::StartByPerson,
        Self::Resume,
        Self::Wake,
        Self::AwaitAgain,
        Self::BudgetSpent,
        Self::Pause,
        Self::BeginHibernation,
        Self::FinishHibernation,
        Self::Remove,
        Self::Undelete,
        Self::Adopt,
    ];

    /// Where this cause leads.
    #[must_use]
    pub fn target(self) -> Status {
        self.row().1
    }

    /// The only statuses this cause may move from.
    #[must_use]
    pub fn sources(self) -> &'static [Status] {
        self.row().2
    }

    /// The kind of workspace this cause speaks of, where it is only one: nothing is known of an external
    /// agent's container, and only an external agent is waited for.
    #[must_use]
    pub fn only_kind(self) -> Option<Kind> {
        match self {
            Self::ContainerReady
            | Self::ProvisioningTimedOut
            | Self::StartImpossible
            | Self::ContainerGone
            | Self::Restart
            | Self::StartByPerson
            | Self::Resume
            | Self::Wake
            | Self::BudgetSpent
            | Self::BeginHibernation
            | Self::FinishHibernation
            | Self::Adopt => Some(Kind::Container),
            Self::ExternalSilent | Self::AwaitAgain => Some(Kind::External),
            Self::AgentHeard | Self::Unwell | Self::Pause | Self::Remove | Self::Undelete => None,
        }
    }

    /// Whether a copy of the registry made before it must not take it back unnoticed: what was ordered, or decided by
    /// ostler, as opposed to what was only observed.
    #[must_use]
    pub fn is_decision(self) -> bool {
        match self {
            Self::AgentHeard
            | Self::ContainerReady
            | Self::ProvisioningTimedOut
            | Self::StartImpossible
            | Self::Unwell
            | Self::ContainerGone
            | Self::ExternalSilent
            | Self::FinishHibernation => false,
            Self::Restart
            | Self::StartByPerson
            | Self::Resume
            | Self::Wake
            | Self::AwaitAgain
            | Self::BudgetSpent
            | Self::Pause
            | Self::BeginHibernation
            | Self::Remove
            | Self::Undelete
            | Self::Adopt => true,
        }
    }

    fn row(self) -> &'static (Self, Status, &'static [Status]) {
        // The table has a row per cause: the test below holds it to that.
        MOVES.iter().find(|row| row.0 == self).unwrap_or(&MOVES[0])
    }
}

use Failure::{Parked, ProvisionTimeout, StartError};
use Status::{
    AwaitingAgent, Degraded, Failed, Hibernated, Hibernating, Offline, Online, Paused, Provisioning, Removed,
};

/// The whole state machine: (cause, target, allowed sources).
///
/// `awaiting_agent` is only ever a source of moves that an external workspace can make; the store adds
/// [`Cause::only_kind`] to its guard. A container seen ready also lifts `offline`: somebody started it by hand, and
/// a running container must not be called offline.
pub const MOVES: &[(Cause, Status, &[Status])] = &[
    (Cause::AgentHeard, Online, &[Provisioning, Failed(ProvisionTimeout), Offline, Degraded, AwaitingAgent]),
    (Cause::ContainerReady, Online, &[Provisioning, Failed(ProvisionTimeout), Offline]),
    (Cause::ProvisioningTimedOut, Failed(ProvisionTimeout), &[Provisioning]),
    (Cause::StartImpossible, Failed(StartError), &[Provisioning]),
    (Cause::Unwell, Degraded, &[Online]),
    (Cause::ContainerGone, Offline, &[Online, Degraded, Provisioning]),
    (Cause::ExternalSilent, AwaitingAgent, &[Online, Degraded]),
    (Cause::Restart, Provisioning, &[Offline, Online, Degraded, Failed(ProvisionTimeout)]),
    (Cause::StartByPerson, Provisioning, &[Failed(StartError), Failed(Parked)]),
    (Cause::Resume, Provisioning, &[Paused, Hibernated]),
    (Cause::Wake, Provisioning, &[Hibernated]),
    (Cause::AwaitAgain, AwaitingAgent, &[Paused]),
    (Cause::BudgetSpent, Failed(Parked), &[Offline]),
    (
        Cause::Pause,
        Paused,
        &[
            Provisioning,
            Online,
            Degraded,
            Offline,
            Failed(ProvisionTimeout),
            Failed(StartError),
            Failed(Parked),
            Hibernating,
            Hibernated,
            AwaitingAgent,
        ],
    ),
    (Cause::BeginHibernation, Hibernating, &[Online, Degraded]),
    (Cause::FinishHibernation, Hibernated, &[Hibernating]),
    (
        Cause::Remove,
        Removed,
        &[
            Provisioning,
            Online,
            Degraded,
            Offline,
            Failed(ProvisionTimeout),
            Failed(StartError),
            Failed(Parked),
            Paused,
            Hibernating,
            Hibernated,
            AwaitingAgent,
        ],
    ),
    (Cause::Undelete, Paused, &[Removed]),
    (
        Cause::Adopt,
        Online,
        &[
            Provisioning,
            Offline,
            Failed(ProvisionTimeout),
            Failed(StartError),
            Failed(Parked),
            Paused,
            Hibernating,
            Hibernated,
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the design, written a second time and the other way round: by (from, to).
    #[expect(clippy::match_same_arms, reason = "a row per line of the design's table")]
    fn designed(from: Status, to: Status) -> bool {
        match (from, to) {
            (Removed, to) => to == Paused,
            (_, Removed) => true,
            (from, Paused) => from != Paused,
            (Provisioning, Online | Failed(ProvisionTimeout | StartError) | Offline) => true,
            (Failed(ProvisionTimeout) | Offline | Degraded | AwaitingAgent, Online) => true,
            (Online, Degraded | Offline | AwaitingAgent | Hibernating) => true,
            (Degraded, Offline | AwaitingAgent | Hibernating) => true,
            (Offline | Online | Degraded | Failed(_) | Paused | Hibernated, Provisioning) => true,
            (Offline, Failed(Parked)) => true,
            (Hibernating, Hibernated) => true,
            (Paused, AwaitingAgent) => true,
            // Adopting a running container of a row that a restored registry knows as down.
            (Paused | Hibernating | Hibernated | Failed(StartError | Parked), Online) => true,
            _ => false,
        }
    }

    #[test]
    fn every_cause_has_exactly_one_row() {
        for cause in Cause::ALL {
            assert_eq!(MOVES.iter().filter(|row| row.0 == cause).count(), 1, "{cause:?}");
        }
        assert_eq!(MOVES.len(), Cause::ALL.len());
    }

    #[test]
    fn the_table_allows_exactly_the_designed_moves() {
        for from in Status::ALL {
            for to in Status::ALL {
                let allowed = Cause::ALL.iter().any(|c| c.target() == to && c.sources().contains(&from));
                assert_eq!(allowed, designed(from, to), "{from} -> {to}");
            }
        }
    }

    #[test]
    fn nothing_but_undelete_leaves_removed() {
        for cause in Cause::ALL {
            assert_eq!(cause.sources().contains(&Removed), cause == Cause::Undelete, "{cause:?}");
        }
    }

    #[test]
    fn parked_and_start_error_wait_for_a_person() {
        for failure in [Parked, StartError] {
            for cause in [Cause::Restart, Cause::AgentHeard, Cause::ContainerReady, Cause::Resume] {
                assert!(!cause.sources().contains(&Failed(failure)), "{cause:?} lifts {failure:?}");
            }
        }
    }

    #[test]
    fn words_round_trip() {
        for status in Status::ALL {
            let failure = status.failure().map(Failure::as_str);
            assert_eq!(Status::parse(status.as_str(), failure), Some(status));
        }
        assert_eq!(Status::parse("failed", None), None);
        assert_eq!(Status::parse("online", Some("parked")), None);
    }
}
