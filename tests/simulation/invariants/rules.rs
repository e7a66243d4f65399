//! The table of rules: name, promise of the design, and statement of each.

use std::fmt::Display;

/// Description of a violation. Begins with the rule's name, if it concerns a [`Rule`].
pub(crate) type Broken = String;

/// Declares the rules with their names and promises in one place.
macro_rules! rules {
    ($($rule:ident, $name:literal, $promise:literal, $says:literal;)*) => {
        /// The invariants.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Rule { $(#[doc = $says] $rule,)* }

        impl Rule {
            /// Every rule with its name, the promise of the design that it guards, and its statement.
            pub(crate) const ALL: &[(Self, &'static str, &'static str, &'static str)] =
                &[$((Self::$rule, $name, $promise, $says),)*];
        }
    };
}

rules! {
    LiveVolumesStay, "live-volumes-stay", "1 nothing is lost", "no volume of a live workspace is deleted or lies in the trash, and its work volume is there";
    TreesAreRestored, "trees-come-back", "1 nothing is lost", "what a removal took along does not stay removed with one that is back";
    DeletionIsOrdered, "deletion-is-ordered", "1 nothing is lost", "a volume is deleted on a person's word, not taken back since, and by nobody else before its retention";
    DeletedStaysDeleted, "deleted-is-gone", "3 what you see is what is", "what is said to be deleted for good is there no more";
    DeathsAreReal, "deaths-are-real", "3 what you see is what is", "nobody is called offline whose container was seen to run, or was not seen";
    TokensSpeakTrue, "tokens-speak-true", "2 no holder loses its token", "what an agent says counts if, and only if, its token is valid when it is written down";
    TrashIsWhole, "trash-is-whole", "1 nothing is lost", "at rest, whatever a removed workspace owned lies in the trash";
    LossIsNotHidden, "loss-is-not-hidden", "1 nothing is lost", "no empty work volume takes the place of one that is gone, but on a person's word";
    ForeignIsUntouched, "foreign-is-untouched", "1 nothing is lost", "what is not ours by label and name, a neighbour's or a person's, stays as it was found";
    OwnersKeepTokens, "holders-keep-tokens", "2 no holder loses its token", "no sweep revokes the token of the current incarnation while its container exists";
    OnlineHoldsToken, "online-holds-token", "2 no holder loses its token", "the process of whoever is online holds the token that the store takes, and its file says the same";
    OneTokenOwner, "one-holder", "2 no holder loses its token", "when a start issues a token, no process of an older one runs";
    OneLiveToken, "one-live-token", "2 no holder loses its token", "a workspace has at most one live instance token, that of its current incarnation";
    OperatorTokensStay, "persons-tokens-stay", "2 no holder loses its token", "a token made by a person ends by a person's word or its expiry";
    ChangesAreReported, "changes-are-told", "3 what you see is what is", "each status is the one that the events tell of last";
    ChangesAreLegal, "changes-are-legal", "3 what you see is what is", "every move is in the table of moves; nothing but an undelete brings a removed one back";
    SequenceIsWhole, "sequence-is-whole", "3 what you see is what is", "the sequence of events has no gap";
    MemoryIsTrue, "memory-is-true", "3 what you see is what is", "what is kept in memory is what the tables say";
    SleepersDoNotRun, "sleepers-do-not-run", "3 what you see is what is", "when it is said that a workspace sleeps, none of its containers runs";
    AnswersAreTrue, "answers-are-true", "3 what you see is what is", "an answer tells of a status that the row had while it was asked";
    LastCommandWins, "last-word-counts", "3 what you see is what is", "who was told that an order was carried out, and gave no other since, finds it so";
    MessagesArrive, "messages-arrive", "3 what you see is what is", "a message reaches the container of its own target, only from whom the tree lets speak, and is not given up before its hold ends while its agent does not listen yet";
    RestIsKept, "rest-is-kept", "4 it heals, and stops and asks", "what a person put to rest or the budget parked stays so until a person says otherwise";
    BreakerHolds, "breaker-holds", "4 it heals, and stops and asks", "within an hour sweeps hit no more workspaces than the limit, what a person approved aside";
    RunsAreBounded, "runs-are-bounded", "4 it heals, and stops and asks", "one run of a pass takes away no more than five things";
    LivenessWindowsHold, "nobody-is-blamed", "4 it heals, and stops and asks", "nobody is called silent, slow or idle in less time than ostler has listened";
    RestartsAreOnTime, "restarts-are-on-time", "4 it heals, and stops and asks", "a driven daemon restarts what exited within 250 ms of its due time";
    RebootsAreFree, "reboots-are-free", "4 it heals, and stops and asks", "an exit with the host is not charged to the restart budget";
    HistoryIsBounded, "history-is-bounded", "5 it costs nothing when idle", "events older than the retention are forgotten, and what an agent does over and over costs few of them";
    IdsAreNoNames, "ids-are-no-names", "3 what you see is what is", "a whole id leads to its workspace, however another is named";
    MemoryIsBounded, "memory-is-bounded", "5 it costs nothing when idle", "what the daemon remembers of workspaces is bounded by the registered ones";
    ItHeals, "it-heals", "4 it heals, and stops and asks", "once faults stop, what should run runs, once, with a token that process, file and store agree on, and what should not does not";
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
#[derive(Clone, Copy, Default)]
pub(crate) struct Coverage(pub(crate) [u64; Rule::ALL.len()]);

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
