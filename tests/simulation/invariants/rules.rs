//! The table of rules: name, promise of the design, and statement of each.

use std::fmt::Display;

/// Description of a violation. Begins with the rule's name, if it concerns a [`Rule`].
pub(crate) type Broken = String;

/// Declares the rules with their names and promises in one place.
macro_rules! rules {
    ($($rule:ident, $name:literal, $promise:literal, $statement:literal;)*) => {
        /// The invariants.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Rule { $(#[doc = $statement] $rule,)* }

        impl Rule {
            /// Every rule with its name, the promise of the design that it guards, and its statement.
            pub(crate) const ALL: &[(Self, &'static str, &'static str, &'static str)] =
                &[$((Self::$rule, $name, $promise, $statement),)*];
        }
    };
}

rules! {
    LiveVolumesStay, "live-volumes-stay", "1 nothing is lost", "no volume of a live workspace is deleted or in the trash, and its work volume exists";
    TreesAreRestored, "trees-are-restored", "1 nothing is lost", "an undelete restores every descendant that the same removal included";
    DeletionIsOrdered, "deletion-is-ordered", "1 nothing is lost", "a volume is deleted before its retention ends only if an operator ordered a purge and has not undone it";
    DeletedStaysDeleted, "deleted-stays-deleted", "3 what you see is what is", "objects reported as permanently deleted do not exist";
    DeathsAreReal, "deaths-are-real", "3 what you see is what is", "no workspace is reported offline while its container was seen running, or without an inspection of it";
    ReportsNeedAValidToken, "reports-need-a-valid-token", "2 no token owner loses its token", "an agent's report is recorded if, and only if, its token is valid at the time of the write";
    TrashIsWhole, "trash-is-whole", "1 nothing is lost", "at rest, everything that a removed workspace owned is in the trash";
    LossIsNotHidden, "loss-is-not-hidden", "1 nothing is lost", "an empty work volume replaces a lost one only if an operator requested it";
    ForeignIsUntouched, "foreign-is-untouched", "1 nothing is lost", "containers without this installation's label and name are not changed";
    OwnersKeepTokens, "owners-keep-tokens", "2 no token owner loses its token", "no sweep revokes the token of the current incarnation while its container exists";
    OnlineHoldsToken, "online-holds-token", "2 no token owner loses its token", "the process of an online workspace holds the token that the store accepts, and its token file contains the same one";
    OneTokenOwner, "one-token-owner", "2 no token owner loses its token", "when a start issues a token, no process of an older incarnation runs";
    OneLiveToken, "one-live-token", "2 no token owner loses its token", "a workspace has at most one live instance token, that of its current incarnation";
    OperatorTokensStay, "operator-tokens-stay", "2 no token owner loses its token", "a token that an operator issued stays valid until an operator revokes it or it expires";
    ChangesAreReported, "changes-are-reported", "3 what you see is what is", "each status is the one in the last event about it";
    ChangesAreLegal, "changes-are-legal", "3 what you see is what is", "every status change is in the transition table; only an undelete ends `removed`";
    SequenceIsWhole, "sequence-is-whole", "3 what you see is what is", "the sequence of events has no gap";
    MemoryIsTrue, "memory-is-true", "3 what you see is what is", "the in-memory state equals the tables";
    HibernatedDoesNotRun, "hibernated-does-not-run", "3 what you see is what is", "when a workspace is reported hibernated, none of its containers runs";
    AnswersAreTrue, "answers-are-true", "3 what you see is what is", "an answer reports a status that the row had during the request";
    LastCommandWins, "last-command-wins", "3 what you see is what is", "if a command was granted and no other was given since, the row agrees with it";
    MessagesArrive, "messages-arrive", "3 what you see is what is", "a message reaches only the container of its target, only from senders that the tree allows, and is held until its agent listens or its hold ends";
    RestIsKept, "rest-is-kept", "4 it heals, and stops and asks", "a workspace that an operator paused or the restart budget parked stays so until an operator acts";
    BreakerHolds, "breaker-holds", "4 it heals, and stops and asks", "within an hour, sweeps affect no more workspaces than the limit, not counting approved plans";
    RunsAreBounded, "runs-are-bounded", "4 it heals, and stops and asks", "one run of a pass takes at most five destructive actions";
    LivenessWindowsHold, "liveness-windows-hold", "4 it heals, and stops and asks", "no workspace is reported silent, slow or idle before ostler has received heartbeats for the full window";
    RestartsAreOnTime, "restarts-are-on-time", "4 it heals, and stops and asks", "a daemon with a driver restarts exited containers within 250 ms of their due time";
    RebootsAreFree, "reboots-are-free", "4 it heals, and stops and asks", "an exit with the host is not charged to the restart budget";
    HistoryIsBounded, "history-is-bounded", "5 it costs nothing when idle", "events older than the retention are deleted, and repeated actions of an agent emit few events";
    OperationsEnd, "operations-end", "3 what you see is what is", "once faults stop, every operation has ended, also those that a killed daemon left open";
    OneOperation, "one-operation", "3 what you see is what is", "at most one operation of a workspace runs at a time";
    DoneIsDone, "done-is-done", "3 what you see is what is", "when a stop is recorded as done, no container of its workspaces runs";
    CancelledBeginsNothing, "cancelled-begins-nothing", "3 what you see is what is", "an operation whose cancellation was granted starts nothing";
    IdsAreNoNames, "ids-are-no-names", "3 what you see is what is", "a full id addresses its workspace, even if another has that id as its name";
    MemoryIsBounded, "memory-is-bounded", "5 it costs nothing when idle", "the number of in-memory entries per workspace is bounded";
    ItHeals, "it-heals", "4 it heals, and stops and asks", "once faults stop, every workspace that should run has one running container and one token, the same in process, file and store; no other runs";
}

impl Rule {
    /// The rule's name in reports, in kebab case.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Describes a violation of this rule.
    pub(crate) fn broken(self, how: impl Display) -> Broken {
        format!("[{}] {how}", self.name())
    }
}

/// How often each rule had a case to check.
#[derive(Clone, Copy)]
pub(crate) struct Coverage(pub(crate) [u64; Rule::ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; Rule::ALL.len()])
    }
}

impl Coverage {
    pub(crate) fn count(&mut self, rule: Rule, times: usize) {
        self.0[rule as usize] += times as u64;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}
