//! What people say to workspaces, over the routes that everybody uses, and what they may rely on afterwards.

use std::collections::BTreeMap;

use ostler::domain::{ids::WorkspaceId, status::Status};
use serde_json::{Value, json};

/// What a person says to a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
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

pub(super) const WORDS: [Word; 14] = [
    Word::Start,
    Word::Start,
    Word::StartWithNewVolume,
    Word::Stop,
    Word::Stop,
    Word::Restart,
    Word::Restart,
    Word::Recreate,
    Word::Remove,
    Word::Purge,
    Word::Undelete,
    Word::Hibernate,
    Word::HibernateAnyway,
    Word::Wake,
];

/// What is said in a hurry.
pub(super) const HURRIED: &[&[Word]] = &[
    &[Word::Purge, Word::Undelete, Word::Remove],
    &[Word::Remove, Word::Undelete, Word::Start],
    &[Word::Stop, Word::Start, Word::Stop],
    &[Word::Recreate, Word::Restart],
];

impl Word {
    /// Whether it may end what a person or the budget has put to rest.
    pub(super) fn rouses(self) -> bool {
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

    /// How it is said: method, path and body.
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

    /// Whether an answer says that it was carried out. "Nothing was done" says that something else came first: no
    /// promise was made.
    pub(super) fn is_granted_by(status: u16, body: &Value) -> bool {
        let nothing = body["detail"].as_str().is_some_and(|detail| detail.starts_with("nothing was done"));
        status < 300 && !nothing
    }

    /// Whether a status is one that somebody finds to whom this was granted last.
    fn is_kept_by(self, status: Status) -> bool {
        match self {
            Self::Stop => status == Status::Paused,
            Self::Remove | Self::Purge => status == Status::Removed,
            Self::Undelete => status != Status::Removed,
            // Who was woken may have been idle since.
            Self::Start | Self::StartWithNewVolume | Self::Restart | Self::Recreate | Self::Wake => {
                status != Status::Paused
            }
            Self::Hibernate | Self::HibernateAnyway => status == Status::Hibernated,
        }
    }
}

/// Something a person said to a workspace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) number: u64,
    pub(super) word: Word,
    /// How often everything had been looked at when it was said.
    pub(super) begun: usize,
    /// Once it was answered: whether it was granted, and which was the last order given by then.
    pub(super) answer: Option<(bool, u64)>,
    /// And how often everything had been looked at by then.
    pub(super) ended: Option<usize>,
}

impl Said {
    fn was_over_before(self, later: Self) -> bool {
        self.answer.is_some_and(|(_, last)| last < later.number)
    }
}

/// Everything that was said.
#[derive(Default)]
pub(super) struct Words {
    pub(super) said: BTreeMap<WorkspaceId, Vec<Said>>,
    pub(super) orders: u64,
    /// Messages to each workspace: which was the last order given when each was answered.
    pub(super) messages: BTreeMap<WorkspaceId, Vec<Option<u64>>>,
}

impl Words {
    /// Begins to say something; answers its number.
    pub(super) fn begin(&mut self, id: WorkspaceId, word: Word, looks: usize) -> u64 {
        self.orders += 1;
        let said = Said { number: self.orders, word, begun: looks, answer: None, ended: None };
        self.said.entry(id).or_default().push(said);
        self.orders
    }

    /// It was answered; gives what was said back.
    pub(super) fn answer(
        &mut self,
        id: WorkspaceId,
        number: u64,
        granted: bool,
        looks: usize,
    ) -> Option<Said> {
        let orders = self.orders;
        let said = self.said.entry(id).or_default().iter_mut().find(|said| said.number == number)?;
        said.answer = Some((granted, orders));
        said.ended = Some(looks + 1);
        Some(*said)
    }

    /// The answer to what was said says that it was carried out for this one too.
    pub(super) fn along(&mut self, id: WorkspaceId, said: Said) {
        let words = self.said.entry(id).or_default();
        let later = words.partition_point(|other| other.number < said.number);
        words.insert(later, said);
    }

    /// Who was not answered was promised nothing.
    pub(super) fn interrupt(&mut self, looks: usize) {
        let orders = self.orders;
        for said in self.said.values_mut().flatten() {
            said.answer.get_or_insert((false, orders));
            said.ended.get_or_insert(looks + 1);
        }
    }

    /// A message to a workspace is sent; answers which of its messages it is.
    pub(super) fn send(&mut self, to: WorkspaceId) -> usize {
        let messages = self.messages.entry(to).or_default();
        messages.push(None);
        messages.len() - 1
    }

    /// It was answered.
    pub(super) fn answer_message(&mut self, to: WorkspaceId, which: usize) {
        let orders = self.orders;
        if let Some(over) = self.messages.entry(to).or_default().get_mut(which) {
            *over = Some(orders);
        }
    }

    /// Whether somebody in this line said a word, since that look, that ends a rest.
    pub(super) fn roused(&self, line: &[WorkspaceId], since: usize) -> bool {
        let mut said = line.iter().filter_map(|id| self.said.get(id)).flatten();
        said.any(|said| said.word.rouses() && said.ended.is_none_or(|ended| ended >= since))
    }

    /// The last word to a workspace, where it was granted, and nothing else was said meanwhile or since, to it or to
    /// anybody above it. Orders that overlapped may have been carried out either way round: a start looks at the tree
    /// before it queues, and a stop given meanwhile may queue first. That a stop ends a start which has queued is
    /// `sweep::starts`' to hold.
    pub(super) fn last_granted(&self, id: WorkspaceId, above: &[WorkspaceId]) -> Option<Said> {
        let (last, before) = self.said.get(&id)?.split_last()?;
        let mut others = above.iter().filter_map(|id| self.said.get(id)).flatten().chain(before);
        let alone = others.all(|said| said.was_over_before(*last));
        // A message wakes whoever sleeps.
        let sleeps = matches!(last.word, Word::Hibernate | Word::HibernateAnyway);
        let mut messages = self.messages.get(&id).into_iter().flatten();
        let alone = alone && (!sleeps || messages.all(|over| over.is_some_and(|over| over < last.number)));
        (alone && last.answer.is_some_and(|(granted, _)| granted)).then_some(*last)
    }
}

impl Said {
    /// Whether a status is one that whoever said this last may find.
    pub(super) fn is_kept_by(self, status: Status) -> bool {
        self.word.is_kept_by(status)
    }
}
