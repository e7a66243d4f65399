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
    /// A claim for the trash does not check the row again.
    ClaimUnguarded,
    /// A purge deletes everything that the workspace has in the trash at that time.
    PurgeWhateverIsThere,
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
    /// An interrupted claim for the trash is never completed.
    LeaveClaimsOpen,
    /// A start that a crash interrupted is never repeated.
    LeaveInterrupted,
    /// The number of removals in one run of a pass is not limited.
    NoCap,
    /// Missing heartbeats count although ostler was not receiving any.
    CountOurSleep,
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
    StopsAreDestruction,
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
            "the age of a token is left out of the UPDATE that revokes it",
        ),
        (Self::RevokeAnyKind, "revoke-any-kind", "the sweep revokes tokens that a person made, too"),
        (Self::KeepOlderTokens, "keep-older-tokens", "a start leaves the tokens of older incarnations alive"),
        (
            Self::DenyList,
            "deny-list",
            "a change of status names what it may not move, instead of what it may",
        ),
        (Self::SilentChange, "silent-change", "a container that ended moves its status without an event"),
        (Self::UndeleteDeleted, "undelete-what-is-deleted", "an undelete takes back what is being deleted"),
        (
            Self::UndeleteAlone,
            "undelete-alone",
            "an undelete leaves in the trash what the removal took along",
        ),
        (
            Self::AcceptAnyIncarnation,
            "hear-any-incarnation",
            "a beat counts whatever became of its token and incarnation on the way",
        ),
        (Self::ClaimUnguarded, "claim-unguarded", "a claim for the trash does not look at the row again"),
        (
            Self::PurgeWhateverIsThere,
            "purge-whatever-is-there",
            "a purge deletes whatever its workspace has in the trash when its turn comes",
        ),
        (
            Self::ForgetMemory,
            "forget-memory",
            "what is kept in memory is not brought up to date after a commit",
        ),
        (Self::TrustAnyEngine, "trust-any-engine", "a listing counts although the sentinel is not there"),
        (Self::ForgetInstance, "forget-instance", "containers of every installation are taken for ours"),
        (Self::LabelsAreEnough, "labels-are-enough", "a container is ours by its labels, whatever its name"),
        (Self::NoBreaker, "no-breaker", "the breaker never holds"),
        (
            Self::SilenceIsFree,
            "silence-is-free",
            "restarts of silent agents do not count against the breaker",
        ),
        (
            Self::LeaveClaimsOpen,
            "leave-claims-open",
            "what was claimed for the trash and interrupted is never finished",
        ),
        (Self::LeaveInterrupted, "leave-interrupted", "a start that a crash interrupted is never begun anew"),
        (Self::NoCap, "no-cap", "one run of a pass takes away as much as it likes"),
        (Self::CountOurSleep, "blame-for-our-sleep", "silence counts although ostler did not listen"),
        (Self::LetOldProcessRun, "let-old-holder-run", "a start does not see the old process stopped first"),
        (
            Self::AnyStartIsMine,
            "any-start-is-mine",
            "a start that finds the container running counts as done",
        ),
        (Self::NoReadBack, "no-read-back", "the token file is not read back"),
        (Self::VolumesOnTheFly, "volumes-on-the-fly", "a work volume that is gone is made anew in silence"),
        (
            Self::UnknownIsGone,
            "unknown-is-gone",
            "an engine that gives no answer is taken for a container that is gone",
        ),
        (
            Self::HibernatedBeforeStop,
            "say-asleep-first",
            "a workspace is called asleep before its container was seen stopped",
        ),
        (
            Self::BelieveAnyEngine,
            "believe-whoever-answers",
            "a deletion is believed whoever the engine was that said so",
        ),
        (Self::RestoreForever, "restore-for-ever", "what cannot go back stays on its way back"),
        (
            Self::FinishListedClaims,
            "finish-claims-in-sight",
            "a claim is finished only while something of its workspace is listed",
        ),
        (
            Self::KeepHalfStarted,
            "keep-half-started",
            "a container whose start was broken off is started again, and never another",
        ),
        (
            Self::LoseWakeUps,
            "lose-wake-ups",
            "the driver ignores wake-ups: a pass runs at its regular turns only",
        ),
        (
            Self::IgnoreLateTicks,
            "ignore-late-ticks",
            "a tick of the driver that comes late starts no new liveness epoch",
        ),
        (
            Self::ChargeForReboots,
            "charge-for-reboots",
            "an exit while the daemon was not running is charged to the restart budget",
        ),
        (
            Self::GiveUpAtFirstRefusal,
            "give-up-at-first-refusal",
            "a message whose connection is refused is given up at once",
        ),
        (
            Self::MirrorCreationsOnly,
            "mirror-creations-only",
            "only creations raise the generation that the mirror holds",
        ),
        (
            Self::ActWhileRecovering,
            "act-while-recovering",
            "the sweeps act on known workspaces while the registry is recovering",
        ),
        (
            Self::NamesAreProof,
            "names-are-proof",
            "a row's own container counts only under ostler's name for it",
        ),
        (
            Self::SentinelOnly,
            "sentinel-only",
            "an engine is recognised by its sentinel only, never by the containers it shows",
        ),
        (
            Self::RestartPaused,
            "restart-what-is-paused",
            "a silent workspace is restarted although its container is paused by hand",
        ),
        (Self::StopsAreDestruction, "stops-are-destruction", "stops that a row demands count as destruction"),
        (Self::ReportEveryFlip, "tell-every-flip", "every recovery of an agent that flaps is an event"),
        (Self::KeepAllHistory, "keep-all-history", "events are never forgotten"),
        (Self::NamesBeforeIds, "names-before-ids", "a name is looked up before a whole id"),
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
