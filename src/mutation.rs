//! Deliberate defects, each of which disables one rule. They prove that the simulator detects the defect.
//!
//! Only builds with the feature `assurance` contain them. In other builds [`is`] is always `false`, and the compiler
//! removes the code it guards. A defect is active for one thread, because the simulator runs each scenario on its own
//! thread.

/// A rule that is disabled.
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
    /// An undelete restores what is being deleted.
    UndeleteDeleted,
    /// An undelete leaves in the trash what the same removal moved there.
    UndeleteAlone,
    /// A heartbeat counts even if its token or incarnation became invalid in the meantime.
    AcceptAnyIncarnation,
    /// A move to the trash begins without checking the row again.
    ClaimUnguarded,
    /// A purge deletes everything that the workspace has in the trash at that time.
    PurgeEverything,
    /// The in-memory copy is not updated after a commit.
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
    /// Missing heartbeats count although ostler was not receiving any.
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
    /// A reported deletion is believed without checking which engine reported it.
    BelieveAnyEngine,
    /// An entry that cannot be restored stays in the state `restoring`.
    RestoreForever,
    /// A claim is completed only while something of its workspace is listed.
    FinishListedClaims,
    /// A container whose start was interrupted is started again, and never replaced.
    KeepHalfStarted,
    /// The driver ignores wake-ups: a pass runs at its regular intervals only.
    LoseWakeUps,
    /// A late tick of the driver does not start a new liveness epoch.
    IgnoreLateTicks,
    /// An exit while the daemon was not running is charged to the restart budget.
    ChargeForReboots,
    /// A message is given up at the first refused connection.
    GiveUpAtFirstRefusal,
    /// Only creations raise the generation stored in the mirror.
    MirrorCreationsOnly,
    /// The sweeps act on known workspaces while the registry is recovering.
    ActWhileRecovering,
    /// A row's own container counts only if it has the name that ostler gives it.
    NamesAreProof,
    /// An engine is recognised only by its sentinel, never by the containers that it lists.
    SentinelOnly,
    /// A workspace with missing heartbeats is restarted although its container was paused by hand.
    RestartPaused,
    /// Stops that a row demands count as destructive.
    StopsAreDestructive,
    /// Every recovery of a flapping agent emits an event.
    ReportEveryFlip,
    /// Events are never deleted.
    KeepAllHistory,
    /// A name takes precedence over a complete id.
    NamesBeforeIds,
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
        (Self::UndeleteDeleted, "undelete-deleted", "an undelete restores what is being deleted"),
        (
            Self::UndeleteAlone,
            "undelete-alone",
            "an undelete leaves in the trash what the same removal moved there",
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
            "a purge deletes everything that the workspace has in the trash at that time",
        ),
        (Self::ForgetMemory, "forget-memory", "the in-memory copy is not updated after a commit"),
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
            "missing heartbeats count although ostler was not receiving any",
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
            "a reported deletion is believed without checking which engine reported it",
        ),
        (
            Self::RestoreForever,
            "restore-forever",
            "an entry that cannot be restored stays in the state `restoring`",
        ),
        (
            Self::FinishListedClaims,
            "finish-listed-claims",
            "a claim is completed only while something of its workspace is listed",
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
            "a message is given up at the first refused connection",
        ),
        (
            Self::MirrorCreationsOnly,
            "mirror-creations-only",
            "only creations raise the generation stored in the mirror",
        ),
        (
            Self::ActWhileRecovering,
            "act-while-recovering",
            "the sweeps act on known workspaces while the registry is recovering",
        ),
        (
            Self::NamesAreProof,
            "names-are-proof",
            "a row's own container counts only if it has the name that ostler gives it",
        ),
        (
            Self::SentinelOnly,
            "sentinel-only",
            "an engine is recognised only by its sentinel, never by the containers that it lists",
        ),
        (
            Self::RestartPaused,
            "restart-paused",
            "a workspace with missing heartbeats is restarted although its container was paused by hand",
        ),
        (Self::StopsAreDestructive, "stops-are-destructive", "stops that a row demands count as destructive"),
        (Self::ReportEveryFlip, "report-every-flip", "every recovery of a flapping agent emits an event"),
        (Self::KeepAllHistory, "keep-all-history", "events are never deleted"),
        (Self::NamesBeforeIds, "names-before-ids", "a name takes precedence over a complete id"),
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
