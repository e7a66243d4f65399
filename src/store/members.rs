//! Queries that the roster answers, from memory.

use super::{
    Store,
    error::StoreResult,
    roster::{Member, Pause, Roster, TokenSubject},
};
use crate::domain::{access, ids::WorkspaceId, time::Timestamp, token::TokenDigest};

impl Store {
    /// Returns the principal of a token, from memory. `None` means that the token is not valid; no query of the tables
    /// is needed.
    #[must_use]
    pub fn token_subject(&self, digest: &TokenDigest, now: Timestamp) -> Option<TokenSubject> {
        self.roster.read().token_subject(digest, now)
    }

    /// Returns the in-memory state of a live workspace.
    #[must_use]
    pub fn member(&self, id: WorkspaceId) -> Option<Member> {
        self.roster.read().member(id).cloned()
    }

    /// Whether a row with this id exists and is not removed.
    #[must_use]
    pub fn is_live(&self, id: WorkspaceId) -> bool {
        self.roster.read().members.contains_key(&id)
    }

    /// Whether a workspace or one of its ancestors is paused.
    ///
    /// `starts` returns whether a workspace is about to be started. Such a start also ends the pause of the workspaces
    /// that were paused with that workspace.
    #[must_use]
    pub fn pause(&self, id: WorkspaceId, starts: impl Fn(WorkspaceId) -> bool) -> Pause {
        self.roster.read().pause(id, &starts)
    }

    /// Whether two workspaces may communicate (wire protocol, §4).
    #[must_use]
    pub fn may_communicate(&self, one: WorkspaceId, other: WorkspaceId, root_siblings: bool) -> bool {
        access::may_communicate(&*self.roster.read(), one, other, root_siblings)
    }

    /// Compares the in-memory state with the tables; for the tests and the simulator.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn memory_is_true(&self) -> StoreResult<bool> {
        let roster = self.roster.clone();
        self.lanes
            .write("verify memory", move |tx| {
                let mut tables = Roster::load(tx.sql)?;
                let mut memory = roster.write();
                tables.tidy();
                memory.tidy();
                Ok(tables == *memory)
            })
            .await
    }
}
