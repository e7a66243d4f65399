//! In-memory state of every live workspace (the roster): token digests, position in the tree, and last report.
//!
//! With this state, a heartbeat is a single narrow UPDATE: no statement looks up a token or reads the previous report.
//! Only the writer changes the roster, after a commit and before any caller is answered. It reads the changed entries
//! from the tables inside the same transaction, so the roster is older than the tables only between a commit and its
//! answers. A revoked token is removed from the roster before the caller who revoked it is answered.
//!
//! An event marks its workspace as changed, and `Tx::touch` does so for a change without an event. The writer reads the
//! entries of all marked workspaces again. A test compares the roster with the tables.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, Row};

use super::{error::StoreResult, row};
use crate::domain::{
    access::{STEPS_MAX, Tree},
    heartbeat::Fields,
    ids::{Incarnation, TokenId, WorkspaceId},
    status::Status,
    time::Timestamp,
    token::{Proof, TokenDigest, TokenKind},
    workspace::{Delivery, Kind},
};

/// Data of a live workspace that is needed for heartbeats, token checks and the tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub(super) key: i64,
    /// Parent in the tree; `None` for a root.
    pub parent: Option<WorkspaceId>,
    /// Container or external.
    pub kind: Kind,
    /// Never `removed`.
    pub status: Status,
    /// Workspace whose pause paused this one too.
    pub paused_with: Option<WorkspaceId>,
    /// Current incarnation.
    pub incarnation: Incarnation,
    /// Port on 127.0.0.1 that its container publishes.
    pub host_port: Option<u16>,
    /// URL of an external agent.
    pub url: Option<Arc<str>>,
    /// How messages reach its agent.
    pub delivery: Delivery,
    /// Last report of its agent.
    pub last_report: LastReport,
    tokens: Vec<TokenDigest>,
    /// Those of `tokens` that the workspace's agent may hold, with their expiry. A container's agent holds the instance
    /// token in its volume; an external agent may hold any API token of its workspace.
    held: Vec<(TokenDigest, Option<Timestamp>)>,
}

impl Member {
    /// Returns the proofs that a request comes from ostler, one for each live token that the agent may hold.
    ///
    /// Empty if all these tokens are revoked or expired; the agent cannot authenticate to ostler then either.
    #[must_use]
    pub fn proofs(&self, now: Timestamp) -> Vec<Proof> {
        let live = self.held.iter().filter(|(_, expires_at)| expires_at.is_none_or(|end| end > now));
        live.map(|(digest, _)| digest.proof()).collect()
    }
}

/// Whether a pause prevents a workspace from running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Neither the workspace nor an ancestor is paused.
    None,
    /// An accepted start is about to end the pause.
    Ends,
    /// The workspace or an ancestor is paused, and no accepted start is about to end that pause.
    Lasts,
}

/// Last report of an agent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LastReport {
    /// Number of tasks the agent works on.
    pub active_tasks: u32,
    /// Description of the current task; empty for none.
    pub current_task: Arc<str>,
    /// Example of a recent error; empty for none.
    pub sample_error: Arc<str>,
    /// State reported by the runtime, in the agent's own words; empty for none.
    pub runtime_state: Arc<str>,
    /// Metadata of the runtime, as JSON.
    pub metadata: Option<Arc<str>>,
    /// Whether the runtime determines its own health.
    pub manages_status: bool,
    /// Longest time, in seconds, for which the agent may send nothing during a response, as announced in its metadata.
    pub idle_timeout_seconds: Option<u32>,
    /// Fields of the last heartbeat and the last registration that could not be used.
    pub refused: Fields,
    /// When its event allowance is full again, see [`crate::domain::bounds::next_agent_event`].
    pub events_full_at: Option<Timestamp>,
    /// When the last heartbeat was received.
    pub heartbeat_at: Option<Timestamp>,
    /// When the use of its instance token was last written.
    pub token_used_at: Option<Timestamp>,
}

/// Minimum time between two writes of an API token's use. Its row is wider than a row of `pulse`, so it is written less
/// often.
const API_USE_NOTED_EVERY: Duration = Duration::from_mins(5);

/// Principal that a token authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSubject {
    /// A principal with all permissions.
    Admin,
    /// A workspace's agent.
    Workspace(TokenOwner),
}

/// A workspace's token and its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenOwner {
    /// Workspace that owns the token.
    pub workspace: WorkspaceId,
    /// Id of the token's row.
    pub token: TokenId,
    /// Instance or API token.
    pub kind: TokenKind,
    /// Digest of the token; checked again in the transaction that acts on it.
    pub digest: TokenDigest,
    last_used_at: Option<Timestamp>,
}

impl TokenOwner {
    /// Returns whether the use of an API token is to be written again: when the last written use is five minutes old.
    #[must_use]
    pub fn is_due(&self, at: Timestamp) -> bool {
        self.last_used_at.is_none_or(|last| at.since(last) >= API_USE_NOTED_EVERY)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    token_subject: TokenSubject,
    expires_at: Option<Timestamp>,
}

/// The in-memory state; see the module documentation.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Roster {
    pub(super) members: HashMap<WorkspaceId, Member>,
    tokens: HashMap<TokenDigest, Known>,
    /// Digests of all admin tokens. They are removed from `tokens` when the admin tokens are replaced.
    admins: Vec<TokenDigest>,
}

impl Tree for Roster {
    fn parent(&self, of: WorkspaceId) -> Option<Option<WorkspaceId>> {
        self.members.get(&of).map(|member| member.parent)
    }
}

impl Roster {
    /// Reads all live workspaces and their tokens, and the admin tokens.
    pub(super) fn load(sql: &Connection) -> StoreResult<Self> {
        let mut roster = Self::default();
        let mut query = sql.prepare_cached(&format!("{MEMBERS} WHERE w.status <> 'removed'"))?;
        for read in query.query_map([], member)? {
            let (id, member) = read?;
            roster.members.insert(id, member);
        }
        // Join from the live rows to their tokens: removed rows may have a thousand times as many.
        let live = TOKENS.replace(
            "tokens t JOIN workspaces w ON",
            "workspaces w INDEXED BY workspaces_live CROSS JOIN tokens t INDEXED BY tokens_of_workspace ON",
        );
        let mut query =
            sql.prepare_cached(&format!("{live} WHERE t.revoked_at IS NULL AND w.status <> 'removed'"))?;
        for read in query.query_map([], token)? {
            let (digest, known) = read?;
            roster.add_token(digest, known);
        }
        roster.replace_admins(admins(sql)?);
        Ok(roster)
    }

    fn add_token(&mut self, digest: TokenDigest, known: Known) {
        if let TokenSubject::Workspace(token_owner) = known.token_subject
            && let Some(member) = self.members.get_mut(&token_owner.workspace)
        {
            member.tokens.push(digest);
            let of_agent = match member.kind {
                Kind::Container => TokenKind::Instance,
                Kind::External => TokenKind::Api,
            };
            if token_owner.kind == of_agent {
                member.held.push((digest, known.expires_at));
            }
            self.tokens.insert(digest, known);
        }
    }

    /// Replaces a workspace's entry by the state that a transaction has read; `None` removes the entry.
    pub(super) fn replace(&mut self, id: WorkspaceId, fresh: Option<Fresh>) {
        if let Some(old) = self.members.remove(&id) {
            for digest in old.tokens {
                self.tokens.remove(&digest);
            }
        }
        if let Some(Fresh { member, tokens }) = fresh {
            self.members.insert(id, member);
            for (digest, known) in tokens {
                self.add_token(digest, known);
            }
        }
    }

    pub(super) fn replace_admins(&mut self, fresh: Admins) {
        for digest in self.admins.drain(..) {
            self.tokens.remove(&digest);
        }
        for (digest, expires_at) in fresh.0 {
            self.admins.push(digest);
            self.tokens.insert(digest, Known { token_subject: TokenSubject::Admin, expires_at });
        }
    }

    pub(super) fn set_last_report(&mut self, id: WorkspaceId, last_report: LastReport) {
        if let Some(member) = self.members.get_mut(&id) {
            member.last_report = last_report;
        }
    }

    pub(super) fn member(&self, id: WorkspaceId) -> Option<&Member> {
        self.members.get(&id)
    }

    pub(super) fn refusing(&self) -> Vec<(WorkspaceId, Fields)> {
        let refusing = self.members.iter().filter(|(_, member)| !member.last_report.refused.is_empty());
        refusing.map(|(id, member)| (*id, member.last_report.refused)).collect()
    }

    /// See [`super::Store::pause`].
    pub(super) fn pause(&self, id: WorkspaceId, starts: &dyn Fn(WorkspaceId) -> bool) -> Pause {
        let mut pause = Pause::None;
        let mut at = Some(id);
        for _ in 0..STEPS_MAX {
            let Some((id, member)) = at.and_then(|id| Some((id, self.members.get(&id)?))) else { break };
            if member.status == Status::Paused {
                if !starts(id) && !member.paused_with.is_some_and(starts) {
                    return Pause::Lasts;
                }
                pause = Pause::Ends;
            }
            at = member.parent;
        }
        pause
    }

    pub(super) fn token_subject(&self, digest: &TokenDigest, now: Timestamp) -> Option<TokenSubject> {
        let known = self.tokens.get(digest)?;
        known.expires_at.is_none_or(|end| end > now).then_some(known.token_subject)
    }
}

/// A workspace's state at the end of a transaction.
pub(super) struct Fresh {
    pub(super) member: Member,
    tokens: Vec<(TokenDigest, Known)>,
}

impl Fresh {
    pub(super) fn read(sql: &Connection, id: WorkspaceId) -> StoreResult<Option<Self>> {
        let mut query =
            sql.prepare_cached(&format!("{MEMBERS} WHERE w.id = ?1 AND w.status <> 'removed'"))?;
        let Some((_, member)) = query.query_row([id], member).optional()? else { return Ok(None) };
        let mut query =
            sql.prepare_cached(&format!("{TOKENS} WHERE t.workspace = ?1 AND t.revoked_at IS NULL"))?;
        let tokens = query.query_map([member.key], token)?.collect::<Result<_, _>>()?;
        Ok(Some(Self { member, tokens }))
    }

    /// Whether this digest belongs to a valid token of the workspace.
    pub(super) fn holds(&self, digest: &TokenDigest, now: Timestamp) -> bool {
        self.tokens.iter().any(|(of, known)| of == digest && known.expires_at.is_none_or(|end| end > now))
    }
}

/// The admin tokens at the end of a transaction.
pub(super) struct Admins(Vec<(TokenDigest, Option<Timestamp>)>);

pub(super) fn admins(sql: &Connection) -> StoreResult<Admins> {
    let mut query = sql.prepare_cached("SELECT digest, expires_at FROM admin_tokens")?;
    let read = query.query_map([], |row| Ok((TokenDigest(row.get(0)?), row.get(1)?)))?;
    Ok(Admins(read.collect::<Result<_, _>>()?))
}

const MEMBERS: &str = "SELECT w.id, w.key, w.parent_id, w.kind, w.status, w.failure, w.incarnation, p.active_tasks, \
     r.current_task, r.sample_error, r.runtime_state, r.runtime_metadata, p.last_heartbeat_at, p.token_used_at, w.host_port, w.url, \
     r.refused, r.events_full_at, w.delivery_mode, w.paused_with \
     FROM workspaces w LEFT JOIN pulse p ON p.workspace = w.key LEFT JOIN reports r ON r.workspace = w.key";

fn member(row: &Row<'_>) -> rusqlite::Result<(WorkspaceId, Member)> {
    let kind: String = row.get(3)?;
    let (status, failure): (String, Option<String>) = (row.get(4)?, row.get(5)?);
    let text = |index| row.get::<_, Option<String>>(index).map(|text| Arc::from(text.unwrap_or_default()));
    let metadata: Option<String> = row.get(11)?;
    let delivery: String = row.get(18)?;
    let member = Member {
        key: row.get(1)?,
        parent: row.get(2)?,
        kind: row::word("kind", &kind, Kind::ALL.into_iter().find(|k| k.as_str() == kind))?,
        status: row::word("status", &status, Status::parse(&status, failure.as_deref()))?,
        incarnation: row.get(6)?,
        paused_with: row.get(19)?,
        host_port: row.get(14)?,
        url: row.get::<_, Option<String>>(15)?.map(Arc::from),
        delivery: row::word("delivery_mode", &delivery, Delivery::parse(&delivery))?,
        last_report: LastReport {
            active_tasks: row.get::<_, Option<u32>>(7)?.unwrap_or(0),
            current_task: text(8)?,
            sample_error: text(9)?,
            runtime_state: text(10)?,
            manages_status: metadata.as_deref().and_then(manages_status) == Some(true),
            idle_timeout_seconds: metadata.as_deref().and_then(idle_timeout_seconds),
            metadata: metadata.map(Arc::from),
            refused: row.get::<_, Option<String>>(16)?.map(|text| Fields::parse(&text)).unwrap_or_default(),
            events_full_at: row.get(17)?,
            heartbeat_at: row.get(12)?,
            token_used_at: row.get(13)?,
        },
        tokens: Vec::new(),
        held: Vec::new(),
    };
    Ok((row.get(0)?, member))
}

/// Whether a runtime's metadata declares that the runtime determines its own health. `None` if `metadata` is not JSON.
#[must_use]
pub fn manages_status(metadata: &str) -> Option<bool> {
    let value = serde_json::from_str::<serde_json::Value>(metadata).ok()?;
    Some(value["capabilities"]["status_mgmt"] == serde_json::Value::Bool(true))
}

/// Returns the longest time, in seconds, for which the agent may send nothing during a response. `None` if the
/// runtime's metadata contains no such limit.
#[must_use]
pub(super) fn idle_timeout_seconds(metadata: &str) -> Option<u32> {
    let read = serde_json::from_str::<serde_json::Value>(metadata).ok()?;
    read["idle_timeout_seconds"].as_u64().and_then(|seconds| u32::try_from(seconds).ok()).filter(|s| *s > 0)
}

const TOKENS: &str = "SELECT t.digest, w.id, t.id, t.kind, t.expires_at, t.last_used_at \
     FROM tokens t JOIN workspaces w ON w.key = t.workspace";

fn token(row: &Row<'_>) -> rusqlite::Result<(TokenDigest, Known)> {
    let kind: String = row.get(3)?;
    let digest = TokenDigest(row.get(0)?);
    let token_owner = TokenOwner {
        workspace: row.get(1)?,
        token: row.get(2)?,
        kind: row::word("kind", &kind, TokenKind::ALL.into_iter().find(|k| k.as_str() == kind))?,
        digest,
        last_used_at: row.get(5)?,
    };
    Ok((digest, Known { token_subject: TokenSubject::Workspace(token_owner), expires_at: row.get(4)? }))
}

/// The roster of a store, shared between its clones.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedRoster(Arc<RwLock<Roster>>);

impl SharedRoster {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Roster> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Roster> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Roster {
    /// Sorts the unordered lists, so that two rosters can be compared.
    pub(super) fn tidy(&mut self) {
        for member in self.members.values_mut() {
            member.tokens.sort_by_key(|digest| digest.0);
            member.held.sort_by_key(|(digest, _)| digest.0);
        }
        self.admins.sort_by_key(|digest| digest.0);
    }
}
