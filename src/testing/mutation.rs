//! Deliberate defects, each of which disables one rule of ostler. The simulator is run with each defect, to prove that
//! its checks detect it.
//!
//! Only builds with the feature `assurance` contain the defects. In other builds [`is`] is always `false`, and the
//! compiler removes the code it guards. A defect is active on one thread only, because the simulator runs each scenario
//! on a thread of its own.

/// A defect: one rule that is disabled or broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutation {
    /// The UPDATE that revokes stale tokens does not check their age.
    RevokeWithoutAge,
    /// The sweep also revokes tokens that the operator issued.
    RevokeAnyKind,
    /// A start leaves the tokens of older incarnations valid.
    KeepOlderTokens,
    /// A status change excludes forbidden source statuses instead of listing the allowed ones.
    DenyList,
    /// The status change after a container's exit emits no event.
    SilentChange,
    /// An undelete restores a workspace whose permanent deletion has begun.
    UndeleteDeleted,
    /// An undelete does not restore the descendants that the same removal included.
    UndeleteAlone,
    /// A heartbeat counts even if its token or incarnation became invalid in the meantime.
    AcceptAnyIncarnation,
    /// A move to the trash begins without checking the row again.
    ClaimUnguarded,
    /// A purge deletes trash entries without checking that it is still ordered.
    PurgeEverything,
    /// The in-memory copy of the rows is not updated after a commit.
    ForgetMemory,
    /// A listing is trusted although the sentinel is missing.
    TrustAnyEngine,
    /// Containers of every installation count as this instance's.
    ForgetInstance,
    /// A container counts as ostler's by its labels alone, whatever its name.
    LabelsAreEnough,
    /// The circuit breaker never holds a plan.
    NoBreaker,
    /// Restarts after missing heartbeats do not count towards the circuit breaker.
    SilenceIsFree,
    /// An interrupted move to the trash is never completed.
    LeaveClaimsOpen,
    /// A start that a crash interrupted is never repeated.
    LeaveInterrupted,
    /// The number of removals in one run of a pass is not limited.
    NoCap,
    /// Missing heartbeats count even for times in which ostler could not receive any.
    CountOwnDowntime,
    /// A start does not verify that the old process has stopped.
    LetOldProcessRun,
    /// A start that finds the container running counts as successful.
    AnyStartIsMine,
    /// The token file is not read back after writing.
    NoReadBack,
    /// A missing work volume is silently recreated.
    VolumesOnTheFly,
    /// An engine that does not answer is treated as a missing container.
    UnknownIsGone,
    /// A workspace is marked hibernated before its container was verified as stopped.
    HibernatedBeforeStop,
    /// A deletion counts as done without checking that the accepted engine reported it.
    BelieveAnyEngine,
    /// A trash entry that cannot be restored stays in the state `restoring`.
    RestoreForever,
    /// An interrupted move to the trash is completed only for listed workspaces.
    FinishListedClaims,
    /// A container whose start was interrupted is started again, and never replaced.
    KeepHalfStarted,
    /// The driver ignores wake-ups: a pass runs at its regular intervals only.
    LoseWakeUps,
    /// A late tick of the driver does not start a new liveness epoch.
    IgnoreLateTicks,
    /// An exit while the daemon was not running is charged to the restart budget.
    ChargeForReboots,
    /// A message fails at the first refused connection instead of trying again.
    GiveUpAtFirstRefusal,
    /// Only creations of workspaces raise the generation stored in the mirror.
    MirrorCreationsOnly,
    /// The sweeps and wake-ups act although the registry is recovering.
    ActWhileRecovering,
    /// A workspace's container is not recognised by its id after a user has renamed it.
    NamesAreProof,
    /// An engine is recognised only by its sentinel, never by the containers that it lists.
    SentinelOnly,
    /// A workspace with missing heartbeats is restarted although a user paused its container in Podman.
    RestartPaused,
    /// Stops that a row's status requires count as destructive.
    StopsAreDestructive,
    /// The number of events that the reports of one agent cause is not limited.
    ReportEveryFlip,
    /// Events are never deleted.
    KeepAllHistory,
    /// A workspace's name takes precedence over a matching id of another.
    NamesBeforeIds,
    /// A new daemon does not continue the open operations of the previous one.
    ForgetOperations,
    /// An operation is recorded as done before it is carried out.
    DoneTooEarly,
    /// A start goes on although its operation was cancelled.
    CancelledGoesOn,
    /// An operation runs at once although another one of its workspace runs.
    TwoAtOnce,
}

impl Mutation {
    /// Every defect with its command-line name and a description.
    pub const ALL: &[(Self, &'static str, &'static str)] = &[
        (
            Self::RevokeWithoutAge,
            "revoke-without-age",
            "the UPDATE that revokes stale tokens does not check their age",
        ),
        (Self::RevokeAnyKind, "revoke-any-kind", "the sweep also revokes tokens that the operator issued"),
        (Self::KeepOlderTokens, "keep-older-tokens", "a start leaves the tokens of older incarnations valid"),
        (
            Self::DenyList,
            "deny-list",
            "a status change excludes forbidden source statuses instead of listing the allowed ones",
        ),
        (Self::SilentChange, "silent-change", "the status change after a container's exit emits no event"),
        (
            Self::UndeleteDeleted,
            "undelete-deleted",
            "an undelete restores a workspace whose permanent deletion has begun",
        ),
        (
            Self::UndeleteAlone,
            "undelete-alone",
            "an undelete does not restore the descendants that the same removal included",
        ),
        (
            Self::AcceptAnyIncarnation,
            "accept-any-incarnation",
            "a heartbeat counts even if its token or incarnation became invalid meanwhile",
        ),
        (
            Self::ClaimUnguarded,
            "claim-unguarded",
            "a move to the trash begins without checking the row again",
        ),
        (
            Self::PurgeEverything,
            "purge-everything",
            "a purge deletes trash entries without checking that it is still ordered",
        ),
        (Self::ForgetMemory, "forget-memory", "the in-memory copy of the rows is not updated after a commit"),
        (Self::TrustAnyEngine, "trust-any-engine", "a listing is trusted although the sentinel is missing"),
        (
            Self::ForgetInstance,
            "forget-instance",
            "containers of every installation count as this instance's",
        ),
        (
            Self::LabelsAreEnough,
            "labels-are-enough",
            "a container counts as ostler's by its labels alone, whatever its name",
        ),
        (Self::NoBreaker, "no-breaker", "the circuit breaker never holds a plan"),
        (
            Self::SilenceIsFree,
            "silence-is-free",
            "restarts after missing heartbeats do not count towards the circuit breaker",
        ),
        (Self::LeaveClaimsOpen, "leave-claims-open", "an interrupted move to the trash is never completed"),
        (Self::LeaveInterrupted, "leave-interrupted", "a start that a crash interrupted is never repeated"),
        (Self::NoCap, "no-cap", "the number of removals in one run of a pass is not limited"),
        (
            Self::CountOwnDowntime,
            "count-own-downtime",
            "missing heartbeats count even for times in which ostler could not receive any",
        ),
        (
            Self::LetOldProcessRun,
            "let-old-process-run",
            "a start does not verify that the old process has stopped",
        ),
        (
            Self::AnyStartIsMine,
            "any-start-counts",
            "a start that finds the container running counts as successful",
        ),
        (Self::NoReadBack, "no-read-back", "the token file is not read back after writing"),
        (Self::VolumesOnTheFly, "recreate-volumes", "a missing work volume is silently recreated"),
        (
            Self::UnknownIsGone,
            "unknown-is-gone",
            "an engine that does not answer is treated as a missing container",
        ),
        (
            Self::HibernatedBeforeStop,
            "hibernated-before-stop",
            "a workspace is marked hibernated before its container was verified as stopped",
        ),
        (
            Self::BelieveAnyEngine,
            "believe-any-engine",
            "a deletion counts as done without checking that the accepted engine reported it",
        ),
        (
            Self::RestoreForever,
            "restore-forever",
            "a trash entry that cannot be restored stays in the state `restoring`",
        ),
        (
            Self::FinishListedClaims,
            "finish-listed-claims",
            "an interrupted move to the trash is completed only for listed workspaces",
        ),
        (
            Self::KeepHalfStarted,
            "keep-half-started",
            "a container whose start was interrupted is started again, and never replaced",
        ),
        (
            Self::LoseWakeUps,
            "lose-wake-ups",
            "the driver ignores wake-ups: a pass runs at its regular intervals only",
        ),
        (
            Self::IgnoreLateTicks,
            "ignore-late-ticks",
            "a late tick of the driver does not start a new liveness epoch",
        ),
        (
            Self::ChargeForReboots,
            "charge-for-reboots",
            "an exit while the daemon was not running is charged to the restart budget",
        ),
        (
            Self::GiveUpAtFirstRefusal,
            "give-up-at-first-refusal",
            "a message fails at the first refused connection instead of trying again",
        ),
        (
            Self::MirrorCreationsOnly,
            "mirror-creations-only",
            "only creations of workspaces raise the generation stored in the mirror",
        ),
        (
            Self::ActWhileRecovering,
            "act-while-recovering",
            "the sweeps and wake-ups act although the registry is recovering",
        ),
        (
            Self::NamesAreProof,
            "names-are-proof",
            "a workspace's container is not recognised by its id after a user has renamed it",
        ),
        (
            Self::SentinelOnly,
            "sentinel-only",
            "an engine is recognised only by its sentinel, never by the containers that it lists",
        ),
        (
            Self::RestartPaused,
            "restart-paused",
            "a workspace with missing heartbeats is restarted although a user paused its container in Podman",
        ),
        (
            Self::StopsAreDestructive,
            "stops-are-destructive",
            "stops that a row's status requires count as destructive",
        ),
        (
            Self::ReportEveryFlip,
            "report-every-flip",
            "the number of events that the reports of one agent cause is not limited",
        ),
        (Self::KeepAllHistory, "keep-all-history", "events are never deleted"),
        (
            Self::NamesBeforeIds,
            "names-before-ids",
            "a workspace's name takes precedence over a matching id of another",
        ),
        (
            Self::ForgetOperations,
            "forget-operations",
            "a new daemon does not continue the open operations of the previous one",
        ),
        (Self::DoneTooEarly, "done-too-early", "an operation is recorded as done before it is carried out"),
        (Self::CancelledGoesOn, "cancelled-goes-on", "a start goes on although its operation was cancelled"),
        (
            Self::TwoAtOnce,
            "two-at-once",
            "an operation runs at once although another one of its workspace runs",
        ),
    ];
}

/// Whether this defect is active on the current thread.
#[cfg(not(feature = "assurance"))]
#[must_use]
#[inline]
pub const fn is(_mutation: Mutation) -> bool {
    false
}

#[cfg(feature = "assurance")]
mod in_force {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static IN_FORCE: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Whether this defect is active on the current thread.
    #[must_use]
    pub fn is(mutation: Mutation) -> bool {
        IN_FORCE.get() == Some(mutation)
    }

    /// Activates a defect on the current thread; `None` deactivates it.
    pub fn put_in_force(mutation: Option<Mutation>) {
        IN_FORCE.set(mutation);
    }
}

#[cfg(feature = "assurance")]
pub use in_force::{is, put_in_force};
