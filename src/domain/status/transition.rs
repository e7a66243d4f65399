//! Every legal transition between statuses, and its cause.
//!
//! Only the table [`MOVES`] defines which status may follow which. It lists the allowed transitions. A list of the
//! forbidden ones would be unsafe: with one missing entry, a removed workspace could become online again. The store
//! changes a status only for a [`Cause`], and takes the allowed source statuses from this table.

use super::{
    Failure::{Parked, ProvisionTimeout, StartError},
    Status::{
        self, AwaitingAgent, Degraded, Failed, Hibernated, Hibernating, Offline, Online, Paused,
        Provisioning, Removed,
    },
};
use crate::domain::workspace::Kind;

/// Cause of a status change. Each cause leads to exactly one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A heartbeat or register of the current incarnation.
    HeartbeatReceived,
    /// The container has run long enough, for runtimes with readiness `container`.
    ContainerReady,
    /// The workspace was not online within the runtime's limit.
    ProvisioningTimedOut,
    /// The start cannot succeed with the present image, port or volume.
    StartImpossible,
    /// The agent reports errors or `wedged`, or misses heartbeats.
    ReportedDegraded,
    /// The container is gone or has exited.
    ContainerGone,
    /// An external agent misses heartbeats.
    ExternalSilent,
    /// Start or restart after a fault, by the restart budget or an operator.
    Restart,
    /// An operator starts a workspace that is never started automatically.
    StartByOperator,
    /// Start or resume of a paused or hibernated workspace.
    Resume,
    /// A message or an operator wakes a hibernated workspace. Paused workspaces are never woken.
    Wake,
    /// An operator resumes a paused external workspace. It then awaits its agent.
    AwaitAgain,
    /// The restart budget is used up.
    BudgetSpent,
    /// An operator pauses or stops the workspace.
    Pause,
    /// The workspace was idle for long enough, or an operator hibernates it.
    BeginHibernation,
    /// The container was verified to be stopped.
    FinishHibernation,
    /// An operator removes the workspace.
    Remove,
    /// An operator undoes the removal.
    Undelete,
    /// An operator adopts a running container. Its row was restored from a backup, with a status that is neither online
    /// nor degraded.
    Adopt,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 19] = [
        Self::HeartbeatReceived,
        Self::ContainerReady,
        Self::ProvisioningTimedOut,
        Self::StartImpossible,
        Self::ReportedDegraded,
        Self::ContainerGone,
        Self::ExternalSilent,
        Self::Restart,
        Self::StartByOperator,
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

    /// The status that this cause leads to.
    #[must_use]
    pub fn target(self) -> Status {
        self.row().1
    }

    /// The only statuses from which this cause may change a workspace.
    #[must_use]
    pub fn sources(self) -> &'static [Status] {
        self.row().2
    }

    /// The kind of workspace that this cause is limited to, or `None` if it applies to both kinds. An external
    /// workspace has no container, and only an external workspace awaits its agent.
    #[must_use]
    pub fn only_kind(self) -> Option<Kind> {
        match self {
            Self::ContainerReady
            | Self::ProvisioningTimedOut
            | Self::StartImpossible
            | Self::ContainerGone
            | Self::Restart
            | Self::StartByOperator
            | Self::Resume
            | Self::Wake
            | Self::BudgetSpent
            | Self::BeginHibernation
            | Self::FinishHibernation
            | Self::Adopt => Some(Kind::Container),
            Self::ExternalSilent | Self::AwaitAgain => Some(Kind::External),
            Self::HeartbeatReceived
            | Self::ReportedDegraded
            | Self::Pause
            | Self::Remove
            | Self::Undelete => None,
        }
    }

    /// True for orders of an operator and decisions of ostler, false for observations. Decisions raise the generation
    /// in the mirror, so that their loss is detected when an older backup of the registry is restored.
    #[must_use]
    pub fn is_decision(self) -> bool {
        match self {
            Self::HeartbeatReceived
            | Self::ContainerReady
            | Self::ProvisioningTimedOut
            | Self::StartImpossible
            | Self::ReportedDegraded
            | Self::ContainerGone
            | Self::ExternalSilent
            | Self::FinishHibernation => false,
            Self::Restart
            | Self::StartByOperator
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
        // A test checks that the table has one row per cause, so the fallback is never used.
        MOVES.iter().find(|row| row.0 == self).unwrap_or(&MOVES[0])
    }
}

/// The complete state machine: (cause, target, allowed sources).
///
/// Only external workspaces have the status `awaiting_agent`; the store adds [`Cause::only_kind`] to the conditions of
/// a change. `ContainerReady` is also allowed from `offline`: a user may start the container in Podman, and a workspace
/// whose container runs must not be shown as offline.
pub const MOVES: &[(Cause, Status, &[Status])] = &[
    (
        Cause::HeartbeatReceived,
        Online,
        &[Provisioning, Failed(ProvisionTimeout), Offline, Degraded, AwaitingAgent],
    ),
    (Cause::ContainerReady, Online, &[Provisioning, Failed(ProvisionTimeout), Offline]),
    (Cause::ProvisioningTimedOut, Failed(ProvisionTimeout), &[Provisioning]),
    (Cause::StartImpossible, Failed(StartError), &[Provisioning]),
    (Cause::ReportedDegraded, Degraded, &[Online]),
    (Cause::ContainerGone, Offline, &[Online, Degraded, Provisioning]),
    (Cause::ExternalSilent, AwaitingAgent, &[Online, Degraded]),
    (Cause::Restart, Provisioning, &[Offline, Online, Degraded, Failed(ProvisionTimeout)]),
    (Cause::StartByOperator, Provisioning, &[Failed(StartError), Failed(Parked)]),
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

    /// The state machine of the design, written independently of `MOVES` and in another form: by source and target.
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
            // Adoption of a running container whose row was restored from a backup.
            (Paused | Hibernating | Hibernated | Failed(StartError | Parked), Online) => true,
            _ => false,
        }
    }

    #[test]
    fn every_cause_has_exactly_one_transition_row() {
        for cause in Cause::ALL {
            assert_eq!(MOVES.iter().filter(|row| row.0 == cause).count(), 1, "{cause:?}");
        }
        assert_eq!(MOVES.len(), Cause::ALL.len());
    }

    #[test]
    fn table_allows_exactly_the_designed_transitions() {
        for from in Status::ALL {
            for to in Status::ALL {
                let allowed = Cause::ALL.iter().any(|c| c.target() == to && c.sources().contains(&from));
                assert_eq!(allowed, designed(from, to), "{from} -> {to}");
            }
        }
    }

    #[test]
    fn removed_status_is_left_only_by_undelete() {
        for cause in Cause::ALL {
            assert_eq!(cause.sources().contains(&Removed), cause == Cause::Undelete, "{cause:?}");
        }
    }

    #[test]
    fn parked_and_start_error_are_never_left_automatically() {
        for failure in [Parked, StartError] {
            for cause in [Cause::Restart, Cause::HeartbeatReceived, Cause::ContainerReady, Cause::Resume] {
                assert!(!cause.sources().contains(&Failed(failure)), "{cause:?} leaves {failure:?}");
            }
        }
    }
}
