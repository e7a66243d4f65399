//! Operator commands to workspaces, over the daemon's ordinary routes, and what must hold after their answers.

use std::collections::BTreeMap;

use ostler::domain::{ids::WorkspaceId, status::Status};
use serde_json::{Value, json};

/// A command to a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Start,
    StartWithNewVolume,
    Stop,
    Restart,
    Recreate,
    Remove,
    Purge,
    Undelete,
    Hibernate,
    HibernateAnyway,
    Wake,
}

pub(super) const COMMANDS: [Command; 14] = [
    Command::Start,
    Command::Start,
    Command::StartWithNewVolume,
    Command::Stop,
    Command::Stop,
    Command::Restart,
    Command::Restart,
    Command::Recreate,
    Command::Remove,
    Command::Purge,
    Command::Undelete,
    Command::Hibernate,
    Command::HibernateAnyway,
    Command::Wake,
];

/// Commands in quick succession.
pub(super) const HURRIED: &[&[Command]] = &[
    &[Command::Purge, Command::Undelete, Command::Remove],
    &[Command::Remove, Command::Undelete, Command::Start],
    &[Command::Stop, Command::Start, Command::Stop],
    &[Command::Recreate, Command::Restart],
];

impl Command {
    /// Whether the command may end a pause by an operator, or a parking by the restart budget.
    pub(super) fn may_end_rest(self) -> bool {
        match self {
            Self::Start | Self::StartWithNewVolume | Self::Restart | Self::Recreate => true,
            Self::Stop
            | Self::Remove
            | Self::Purge
            | Self::Undelete
            | Self::Hibernate
            | Self::HibernateAnyway
            | Self::Wake => false,
        }
    }

    /// Its HTTP method, path and body.
    pub(super) fn request(self, id: WorkspaceId) -> (&'static str, String, Option<Value>) {
        let to = |verb: &str| format!("/workspaces/{id}{verb}");
        match self {
            Self::Start => ("POST", to("/start"), None),
            Self::StartWithNewVolume => ("POST", to("/start"), Some(json!({ "new_volume": true }))),
            Self::Stop => ("POST", to("/stop"), None),
            Self::Restart => ("POST", to("/restart"), None),
            Self::Recreate => ("POST", to("/recreate"), None),
            Self::Remove => ("DELETE", to("?confirm=true"), None),
            Self::Purge => ("DELETE", to("?confirm=true&purge=true"), None),
            Self::Undelete => ("POST", to("/undelete"), None),
            Self::Hibernate => ("POST", to("/hibernate"), None),
            Self::HibernateAnyway => ("POST", to("/hibernate?force=true"), None),
            Self::Wake => ("POST", to("/wake"), None),
        }
    }

    /// Whether an answer reports that the command was carried out. The answer "nothing was done" does not: another
    /// operation came first, and the resulting status is not guaranteed. An operation that is only accepted waits for the
    /// engine.
    pub(super) fn is_granted_by(status: u16, body: &Value) -> bool {
        let nothing = body["detail"].as_str().is_some_and(|detail| detail.starts_with("nothing was done"));
        status < 300 && !nothing && body["accepted"] != true
    }

    /// Whether a workspace may have this status if this command was granted and no other was given since.
    fn is_kept_by(self, status: Status) -> bool {
        match self {
            Self::Stop => status == Status::Paused,
            Self::Remove | Self::Purge => status == Status::Removed,
            Self::Undelete => status != Status::Removed,
            // A workspace that was woken may have become idle and hibernated again since.
            Self::Start | Self::StartWithNewVolume | Self::Restart | Self::Recreate | Self::Wake => {
                status != Status::Paused
            }
            Self::Hibernate | Self::HibernateAnyway => status == Status::Hibernated,
        }
    }
}

/// A command that was given to a workspace.
#[derive(Clone, Copy, Debug)]
pub(super) struct GivenCommand {
    pub(super) number: u64,
    pub(super) command: Command,
    /// Check number at which it was given.
    pub(super) begun: usize,
    /// Once the command was answered: whether it was granted, and the number of the last command given until then.
    pub(super) answer: Option<(bool, u64)>,
    /// Check number at which it was answered.
    pub(super) ended: Option<usize>,
}

impl GivenCommand {
    fn was_answered_before(self, later: Self) -> bool {
        self.answer.is_some_and(|(_, last)| last < later.number)
    }
}

/// All commands given.
#[derive(Default)]
pub(super) struct CommandHistory {
    pub(super) given: BTreeMap<WorkspaceId, Vec<GivenCommand>>,
    pub(super) orders: u64,
    /// For each message to a workspace, the number of the last command given when it was answered.
    pub(super) messages: BTreeMap<WorkspaceId, Vec<Option<u64>>>,
}

impl CommandHistory {
    /// Records the beginning of a command; returns its number.
    pub(super) fn begin(&mut self, id: WorkspaceId, command: Command, checks: usize) -> u64 {
        self.orders += 1;
        let given = GivenCommand { number: self.orders, command, begun: checks, answer: None, ended: None };
        self.given.entry(id).or_default().push(given);
        self.orders
    }

    /// Records its answer and returns the command.
    pub(super) fn answer(
        &mut self,
        id: WorkspaceId,
        number: u64,
        granted: bool,
        checks: usize,
    ) -> Option<GivenCommand> {
        let orders = self.orders;
        let given = self.given.entry(id).or_default().iter_mut().find(|given| given.number == number)?;
        given.answer = Some((granted, orders));
        given.ended = Some(checks + 1);
        Some(*given)
    }

    /// Records the command for another workspace that its answer also reports as affected.
    pub(super) fn along(&mut self, id: WorkspaceId, given: GivenCommand) {
        let history = self.given.entry(id).or_default();
        let later = history.partition_point(|other| other.number < given.number);
        history.insert(later, given);
    }

    /// Records that the daemon was killed: commands without an answer count as not granted, and end now.
    pub(super) fn interrupt(&mut self, checks: usize) {
        let orders = self.orders;
        for given in self.given.values_mut().flatten() {
            given.answer.get_or_insert((false, orders));
            given.ended.get_or_insert(checks + 1);
        }
    }

    /// Records that a message is sent; returns its index among the workspace's messages.
    pub(super) fn send(&mut self, to: WorkspaceId) -> usize {
        let messages = self.messages.entry(to).or_default();
        messages.push(None);
        messages.len() - 1
    }

    /// Records the answer to a message.
    pub(super) fn answer_message(&mut self, to: WorkspaceId, index: usize) {
        let orders = self.orders;
        if let Some(over) = self.messages.entry(to).or_default().get_mut(index) {
            *over = Some(orders);
        }
    }

    /// Whether a command that ends a pause or a parking was given, since that check, to a workspace in this line of
    /// ancestors.
    pub(super) fn rest_was_ended(&self, line: &[WorkspaceId], since: usize) -> bool {
        let mut given = line.iter().filter_map(|id| self.given.get(id)).flatten();
        given.any(|given| given.command.may_end_rest() && given.ended.is_none_or(|ended| ended >= since))
    }

    /// The last command to a workspace, if it was granted and no other command to it or to an ancestor was given
    /// meanwhile or since. Overlapping commands may have been carried out in either order: a start reads the tree
    /// before it queues, and a stop given meanwhile may queue first. `sweep::starts` tests that a stop ends a start
    /// that has queued.
    pub(super) fn last_granted(&self, id: WorkspaceId, above: &[WorkspaceId]) -> Option<GivenCommand> {
        let (last, before) = self.given.get(&id)?.split_last()?;
        let mut others = above.iter().filter_map(|id| self.given.get(id)).flatten().chain(before);
        let alone = others.all(|given| given.was_answered_before(*last));
        // A message wakes a hibernated workspace.
        let hibernates = matches!(last.command, Command::Hibernate | Command::HibernateAnyway);
        let mut messages = self.messages.get(&id).into_iter().flatten();
        let alone =
            alone && (!hibernates || messages.all(|over| over.is_some_and(|over| over < last.number)));
        (alone && last.answer.is_some_and(|(granted, _)| granted)).then_some(*last)
    }
}

impl GivenCommand {
    /// Whether a workspace may have this status if this command was the last one.
    pub(super) fn is_kept_by(self, status: Status) -> bool {
        self.command.is_kept_by(status)
    }
}
