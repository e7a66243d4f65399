//! What happened in a life, and what was said: shared with the tasks that make it happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ostler::domain::{ids::WorkspaceId, token::Token};

use super::super::{
    invariants::{Broken, MayGo},
    people::Words,
};

/// What happened, shared with the tasks that make it happen.
#[derive(Default)]
pub(super) struct Book {
    pub(super) history: Vec<String>,
    pub(super) words: Words,
    /// How often each thing was done to it.
    pub(super) done: BTreeMap<&'static str, u64>,
    pub(super) running_passes: Vec<&'static str>,
    pub(super) looks: usize,
    /// Tokens that were once seen: of agents that ran, and of external ones.
    pub(super) tokens: Vec<Token>,
    /// Tokens that a person made, and to whose workspace they belong.
    pub(super) persons: Vec<(WorkspaceId, Token)>,
    /// What broke in a task.
    pub(super) broken: Option<Broken>,
    /// Messages that were sent, by the word that names them: from whom, to whom.
    pub(super) sent: BTreeMap<String, (Option<WorkspaceId>, WorkspaceId)>,
    /// Whom a person wanted to have in the place of lost work.
    pub(super) new_volumes: BTreeSet<WorkspaceId>,
    /// What a person said may go for good.
    pub(super) may_go: Vec<MayGo>,
    /// What was told of a status, and since when it was asked.
    pub(super) told: Vec<(WorkspaceId, String, usize)>,
    pub(super) arrived: u64,
    pub(super) runs_that_took: usize,
    pub(super) words_heard: usize,
    pub(super) whole_listings: usize,
}

pub(super) type Shared = Arc<Mutex<Book>>;

pub(super) fn open(book: &Shared) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    pub(super) fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    pub(super) fn note(&mut self, what: impl Into<String>) {
        self.history.push(what.into());
    }

    /// A person says that what is in the trash of these may go for good; answers which such word it is.
    pub(super) fn let_go(&mut self, said: MayGo) -> usize {
        self.may_go.push(said);
        self.may_go.len() - 1
    }

    /// That was answered: an undelete that comes later takes it back. What was refused was never said.
    pub(super) fn has_gone(&mut self, which: usize, status: u16) {
        let said = &mut self.may_go[which];
        said.answered = Some(self.looks + 1);
        if (400..500).contains(&status) {
            (said.tree, said.whom) = (None, BTreeSet::new());
        }
    }

    /// What has not been answered by now never will be: the daemon was killed.
    pub(super) fn cut_off(&mut self) {
        self.words.interrupt(self.looks);
        for said in &mut self.may_go {
            said.answered.get_or_insert(self.looks + 1);
        }
    }

    pub(super) fn broke(&mut self, how: Broken) {
        self.broken.get_or_insert(how);
    }
}
