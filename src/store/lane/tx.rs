//! An open transaction of the writing lane, and what it publishes after its commit.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension};

use crate::{
    domain::{
        event::{Event, EventKind, TransientEvent},
        ids::WorkspaceId,
        time::Timestamp,
        token::TokenDigest,
    },
    store::{
        StoreError, StoreResult,
        history::append,
        roster::{self, Fresh, LastReport, Member, SharedRoster},
    },
};

/// An open transaction, and the work to do once it is committed.
pub(in crate::store) struct Tx<'c> {
    pub(in crate::store) sql: &'c Connection,
    pub(super) roster: &'c SharedRoster,
    pub(super) new_events: Vec<Event>,
    /// Workspaces whose roster entries have to be read again.
    pub(super) touched: BTreeSet<WorkspaceId>,
    pub(super) admins_touched: bool,
    pub(super) last_reports: Vec<(WorkspaceId, LastReport)>,
    pub(super) transient: Vec<TransientEvent>,
    /// Whether there are subscribers to transient events.
    pub(super) next_transient: bool,
    /// The registry's generation before and after this transaction raised it; `None` if it did not.
    pub(super) raised: Option<(i64, i64)>,
    /// Whether the last batch that changed or tried to change something could not be written.
    pub(in crate::store) was_refused: bool,
}

/// A workspace's roster entry as of this transaction.
pub(in crate::store) struct Known {
    pub(in crate::store) member: Member,
    /// Whether the given digest is one of its valid tokens.
    pub(in crate::store) holds: bool,
}

impl Tx<'_> {
    /// Marks a workspace whose status, tokens or position changed without an event.
    pub(in crate::store) fn touch(&mut self, workspace: WorkspaceId) {
        self.touched.insert(workspace);
    }

    pub(in crate::store) fn touch_admins(&mut self) {
        self.admins_touched = true;
    }

    /// Returns a live workspace's state: from memory, or from the tables if this transaction has changed it.
    pub(in crate::store) fn known(
        &self,
        id: WorkspaceId,
        digest: &TokenDigest,
        now: Timestamp,
    ) -> StoreResult<Option<Known>> {
        if self.touched.contains(&id) {
            let fresh = Fresh::read(self.sql, id)?;
            return Ok(fresh.map(|fresh| Known { holds: fresh.holds(digest, now), member: fresh.member }));
        }
        let roster = self.roster.read();
        let Some(member) = roster.member(id) else { return Ok(None) };
        let mut member = member.clone();
        if let Some((_, last_report)) = self.last_reports.iter().rev().find(|(of, _)| *of == id) {
            member.last_report = last_report.clone();
        }
        let subject = roster.token_subject(digest, now);
        let holds = matches!(subject, Some(roster::TokenSubject::Workspace(owner)) if owner.workspace == id);
        Ok(Some(Known { member, holds }))
    }

    /// Raises the registry's generation. Called for every change that must not be undone unnoticed when an older copy
    /// of the database is restored.
    ///
    /// The mirror is updated before any caller is answered. Returns the new generation; `None` if the database has no
    /// identity yet.
    pub(in crate::store) fn raise(&mut self) -> StoreResult<Option<i64>> {
        let raised: Option<i64> = self
            .sql
            .prepare_cached("UPDATE registry SET generation = generation + 1 RETURNING generation")?
            .query_row([], |row| row.get(0))
            .optional()?;
        if let Some(now) = raised {
            self.raised = Some((self.raised.map_or(now - 1, |(before, _)| before), now));
        }
        Ok(raised)
    }

    /// Like `raise`, but returns an error if the database has no identity yet.
    pub(in crate::store) fn raise_known(&mut self) -> StoreResult<i64> {
        self.raise()?.ok_or_else(|| StoreError::new("the database has no instance id yet"))
    }

    /// Returns a live workspace as of this transaction.
    pub(in crate::store) fn member(&self, id: WorkspaceId) -> StoreResult<Option<Member>> {
        if self.touched.contains(&id) {
            return Ok(Fresh::read(self.sql, id)?.map(|fresh| fresh.member));
        }
        Ok(self.roster.read().member(id).cloned())
    }

    /// Sets an agent's last report in the roster after the commit.
    pub(in crate::store) fn set_last_report(&mut self, workspace: WorkspaceId, last_report: LastReport) {
        self.last_reports.push((workspace, last_report));
    }

    /// Sends a transient event, which is not stored, to current subscribers after the commit.
    pub(in crate::store) fn pass(
        &mut self,
        at: Timestamp,
        kind: EventKind,
        workspace: WorkspaceId,
        payload: impl FnOnce() -> serde_json::Value,
    ) {
        if self.next_transient {
            self.transient.push(TransientEvent {
                kind,
                workspace_id: workspace,
                payload: payload(),
                created_at: at,
            });
        }
    }

    /// Stores an event in the transaction of the change, and marks its workspace as touched.
    pub(in crate::store) fn emit(
        &mut self,
        at: Timestamp,
        kind: EventKind,
        workspace: Option<WorkspaceId>,
        payload: serde_json::Value,
        swept_by: Option<&str>,
    ) -> StoreResult<()> {
        self.new_events.push(append(self.sql, at, kind, workspace, payload, swept_by)?);
        self.touched.extend(workspace);
        Ok(())
    }
}
