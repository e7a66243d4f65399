//! Concurrent writers to a store, and a ledger of the answers.
//!
//! Every disk fault test compares the database with the ledger. Changes that were answered as done must be present.
//! Changes that were certainly refused must be absent. Changes without an answer may be present or absent, but never
//! incomplete.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use ostler::{
    domain::{
        heartbeat::Heartbeat,
        ids::{InstanceId, TokenId, WorkspaceId},
        spec::WorkspaceSpec,
        time::Timestamp,
        token::{Token, TokenDigest},
        workspace::{Delivery, Kind},
    },
    store::{
        CreateResult, NewApiToken, NewWorkspace, Registry, ReportResult, Store, StoreError, TokenIssue,
        TokenSubject,
    },
};
use rusqlite::Connection;
use uuid::Uuid;

/// Start time of the run.
const T0: i64 = 1_700_000_000_000;
/// Numbers of tasks that send heartbeats, that create workspaces, and that issue tokens.
const AGENTS: usize = 6;
const CREATORS: usize = 2;
const ISSUERS: usize = 2;

/// A number that is unique in this process.
fn next() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

fn uuid() -> Uuid {
    Uuid::from_u128(0xD15C_0000_0000_4000_8000_0000_0000_0000 | u128::from(next()))
}

fn now() -> Timestamp {
    Timestamp(T0 + i64::try_from(next()).expect("a small number"))
}

fn token() -> TokenIssue {
    let mut bytes = [11; 32];
    bytes[..8].copy_from_slice(&next().to_be_bytes());
    let token = Token::from_random(bytes);
    TokenIssue { id: TokenId(uuid()), digest: token.digest(), prefix: token.prefix() }
}

/// The result of a requested change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// No answer yet, or an answer that does not state whether the change was made.
    Open,
    Done,
    /// Refused, and the message states that nothing was changed.
    Refused,
}

/// Heartbeats of one agent. Each heartbeat carries its number, and is sent when the previous one was answered.
#[derive(Clone, Debug, Default)]
struct Heartbeats {
    sent: i64,
    answered: i64,
    refused: BTreeSet<i64>,
}

/// All answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    workspaces: BTreeMap<Uuid, Fate>,
    tokens: BTreeMap<Uuid, Fate>,
    heartbeats: BTreeMap<Uuid, Heartbeats>,
    /// Number of writes answered as done.
    pub(crate) answered: u64,
    /// Each refusal's text, and how often it occurred.
    pub(crate) refusals: BTreeMap<String, u64>,
    /// Unexpected answers.
    pub(crate) strange: Vec<String>,
}

impl Ledger {
    pub(crate) fn refused(&self) -> u64 {
        self.refusals.values().sum()
    }

    /// Records a refusal; returns what it implies about the change.
    fn refuse(&mut self, error: &StoreError) -> Fate {
        let error_text = error.to_string();
        let fate = if error_text.to_lowercase().contains("nothing was changed") {
            Fate::Refused
        } else {
            Fate::Open
        };
        if !advises(&error_text) {
            self.strange.push(format!("a refusal without advice: {error_text}"));
        }
        *self.refusals.entry(error_text).or_default() += 1;
        fate
    }
}

/// Whether a message about a disk advises what to do next.
pub(crate) fn advises(error_text: &str) -> bool {
    let other = ["kernel log", "Make the data directory writable", "the directory exists and is writable"];
    advises_space(error_text) || other.iter().any(|advice| error_text.contains(advice))
}

/// Whether a message advises to look for free space. On a full disk, other advice misleads.
pub(crate) fn advises_space(error_text: &str) -> bool {
    ["Free some disk space", "check `df`"].iter().any(|advice| error_text.contains(advice))
}

/// The agents and other writers of a registry.
#[derive(Clone)]
pub(crate) struct Crowd {
    members: Arc<Vec<(WorkspaceId, TokenDigest)>>,
    ledger: Arc<Mutex<Ledger>>,
    /// Size of the text in a new workspace, in bytes; decides how fast a disk fills.
    ballast: usize,
}

impl Crowd {
    /// Founds a registry in a new store, with agents that can send heartbeats.
    pub(crate) async fn found(store: &Store, ballast: usize) -> Result<Self, StoreError> {
        let registry = Registry {
            instance: InstanceId(uuid()),
            generation: 0,
            recovering_since: None,
            engine_accepted_at: None,
        };
        store.found_registry(registry).await?;
        let mut members = Vec::new();
        let mut ledger = Ledger::default();
        for number in 0..AGENTS {
            let issue = token();
            let mut new = workspace(&format!("agent-{number}"), 0);
            new.kind = Kind::External;
            new.token = Some(issue.clone());
            members.push((new.id, issue.digest));
            ledger.workspaces.insert(new.id.0, Fate::Done);
            ledger.tokens.insert(issue.id.0, Fate::Done);
            ledger.heartbeats.insert(new.id.0, Heartbeats::default());
            let made = store.create_workspace(new, now()).await?;
            assert!(matches!(made, CreateResult::Created(_)), "an initial agent was not created: {made:?}");
        }
        Ok(Self { members: Arc::new(members), ledger: Arc::new(Mutex::new(ledger)), ballast })
    }

    /// The answers so far.
    pub(crate) fn ledger(&self) -> Ledger {
        self.open().clone()
    }

    fn open(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no holder of the lock panics")
    }

    /// Writes with all tasks until `stop` is set, or until the tasks that create rows were refused `refusals` times.
    pub(crate) async fn write(&self, store: &Store, stop: &Arc<AtomicBool>, refusals: u32) {
        let mut senders = Vec::new();
        for index in 0..AGENTS {
            let (crowd, store, stop) = (self.clone(), store.clone(), Arc::clone(stop));
            senders.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    crowd.heartbeat(&store, index).await;
                }
            }));
        }
        let mut makers = Vec::new();
        for index in 0..CREATORS + ISSUERS {
            let (crowd, store, stop) = (self.clone(), store.clone(), Arc::clone(stop));
            makers.push(tokio::spawn(async move {
                let mut refused = 0;
                while refused < refusals && !stop.load(Ordering::Relaxed) {
                    let done = if index < CREATORS {
                        crowd.create(&store).await
                    } else {
                        crowd.issue(&store, index).await
                    };
                    refused += u32::from(!done);
                }
            }));
        }
        for maker in makers {
            maker.await.expect("the task does not panic");
        }
        stop.store(true, Ordering::Relaxed);
        for sender in senders {
            sender.await.expect("the task does not panic");
        }
    }

    /// Makes one write of each kind; all must be answered as done.
    pub(crate) async fn write_once(&self, store: &Store) -> Result<(), String> {
        let refused = self.open().refused();
        for index in 0..AGENTS {
            self.heartbeat(store, index).await;
        }
        self.create(store).await;
        self.issue(store, 0).await;
        let ledger = self.open();
        if ledger.refused() == refused { Ok(()) } else { Err(format!("{:?}", ledger.refusals)) }
    }

    pub(super) async fn heartbeat(&self, store: &Store, index: usize) {
        let (id, digest) = self.members[index];
        let number = {
            let mut ledger = self.open();
            let heartbeats = ledger.heartbeats.get_mut(&id.0).expect("it is a member");
            heartbeats.sent += 1;
            heartbeats.sent
        };
        let at = now();
        let Some(TokenSubject::Workspace(token_owner)) = store.token_subject(&digest, at) else {
            self.open().strange.push(format!("the token of agent {index} is not accepted any more"));
            return;
        };
        // The number and the task text are in different tables. If only one of them is stored, the heartbeat is
        // incomplete.
        let heartbeat =
            Heartbeat { uptime_seconds: number, current_task: task(number), ..Heartbeat::default() };
        let answer = store.record_heartbeat(token_owner, heartbeat, at).await;
        let mut ledger = self.open();
        match answer {
            Ok(ReportResult::Noted) => {
                ledger.answered += 1;
                let heartbeats = ledger.heartbeats.get_mut(&id.0).expect("it is a member");
                heartbeats.answered = number;
                heartbeats.refused.clear();
            }
            Ok(other) => {
                ledger.strange.push(format!("a heartbeat of agent {index} was answered with {other:?}"));
            }
            Err(error) => {
                if ledger.refuse(&error) == Fate::Refused {
                    ledger.heartbeats.get_mut(&id.0).expect("it is a member").refused.insert(number);
                }
            }
        }
    }

    pub(super) async fn create(&self, store: &Store) -> bool {
        let new = workspace(&format!("made-{}", next()), self.ballast);
        let id = new.id.0;
        self.open().workspaces.insert(id, Fate::Open);
        let answer = store.create_workspace(new, now()).await;
        let mut ledger = self.open();
        let fate = match answer {
            Ok(CreateResult::Created(_)) => Fate::Done,
            Ok(other) => {
                ledger.strange.push(format!("a creation was answered with {other:?}"));
                Fate::Open
            }
            Err(error) => ledger.refuse(&error),
        };
        ledger.answered += u64::from(fate == Fate::Done);
        ledger.workspaces.insert(id, fate);
        fate == Fate::Done
    }

    pub(super) async fn issue(&self, store: &Store, index: usize) -> bool {
        let issue = token();
        let id = issue.id.0;
        self.open().tokens.insert(id, Fate::Open);
        let new = NewApiToken { token: issue, expires_at: None };
        let answer = store.issue_api_token(self.members[index % AGENTS].0, new, u32::MAX, now()).await;
        let mut ledger = self.open();
        let fate = match answer {
            Ok(true) => Fate::Done,
            Ok(false) => {
                ledger.strange.push("a token was not issued to a live workspace".into());
                Fate::Open
            }
            Err(error) => ledger.refuse(&error),
        };
        ledger.answered += u64::from(fate == Fate::Done);
        ledger.tokens.insert(id, fate);
        fate == Fate::Done
    }
}

fn task(number: i64) -> String {
    format!("task {number} {}", "of many words ".repeat(usize::try_from(number % 60).unwrap_or(0)))
}

fn workspace(name: &str, ballast: usize) -> NewWorkspace {
    NewWorkspace {
        id: WorkspaceId(uuid()),
        name: name.parse().expect("a good name"),
        kind: Kind::Container,
        delivery: Delivery::Push,
        spec: WorkspaceSpec {
            runtime: "plain".into(),
            image: "example.org/agent:1".into(),
            config: Some("c".repeat(ballast)),
            ..WorkspaceSpec::default()
        },
        token: None,
    }
}

/// Returns the errors of a database. It must contain every change that is answered in the ledger `before`, and no
/// change that was not requested by the time of the ledger `after`. Changes between the two were in flight.
pub(crate) fn wrongs(sql: &Connection, before: &Ledger, after: &Ledger) -> Vec<String> {
    read_wrongs(sql, before, after)
        .unwrap_or_else(|error| vec![format!("the database cannot be read: {error}")])
}

fn read_wrongs(sql: &Connection, before: &Ledger, after: &Ledger) -> rusqlite::Result<Vec<String>> {
    let tx = sql.unchecked_transaction()?;
    let mut wrongs = Vec::new();
    let check: String = tx.query_row("PRAGMA integrity_check(3)", [], |row| row.get(0))?;
    if check != "ok" {
        wrongs.push(format!("corrupt: {check}"));
    }
    for (noun, requested, answered) in
        [("workspaces", &after.workspaces, &before.workspaces), ("tokens", &after.tokens, &before.tokens)]
    {
        let mut query = tx.prepare(&format!("SELECT id FROM {noun}"))?;
        let there: BTreeSet<Uuid> =
            query.query_map([], |row| Ok(Uuid::from_bytes(row.get(0)?)))?.collect::<Result<_, _>>()?;
        let lost = answered.iter().filter(|(id, fate)| **fate == Fate::Done && !there.contains(id)).count();
        let applied =
            requested.iter().filter(|(id, fate)| **fate == Fate::Refused && there.contains(id)).count();
        let unrequested = there.iter().filter(|id| !requested.contains_key(id)).count();
        for (count, what) in [
            (lost, "acknowledged and are missing"),
            (applied, "refused and are present"),
            (unrequested, "never requested and are present"),
        ] {
            if count > 0 {
                wrongs.push(format!("{count} {noun} were {what}"));
            }
        }
    }
    for (id, heartbeats) in &after.heartbeats {
        let (found, stored_task): (i64, String) = tx.query_row(
            "SELECT p.uptime_seconds, COALESCE(r.current_task, '') FROM workspaces w
             JOIN pulse p ON p.workspace = w.key LEFT JOIN reports r ON r.workspace = w.key WHERE w.id = ?1",
            [id.as_bytes().as_slice()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let least = before.heartbeats.get(id).map_or(0, |known| known.answered);
        if found < least || found > heartbeats.sent {
            wrongs.push(format!(
                "heartbeat {found} is stored, but {least} was acknowledged and {} sent",
                heartbeats.sent
            ));
        }
        if heartbeats.refused.contains(&found) {
            wrongs.push(format!("heartbeat {found} was refused and is stored"));
        }
        if found > 0 && stored_task != task(found) {
            wrongs.push(format!("heartbeat {found} is stored with the task of another: {stored_task:.20}"));
        }
    }
    // Changes of one transaction must be present together.
    for (query, what) in [
        (
            "SELECT (SELECT generation FROM registry) - (SELECT count(*) FROM workspaces)
               - (SELECT count(*) FROM events WHERE event_type = 'TOKEN_ISSUED')",
            "the generation differs from the number of rows and tokens created",
        ),
        (
            "SELECT count(*) FROM workspaces w WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.workspace = w.id)
               OR NOT EXISTS (SELECT 1 FROM pulse p WHERE p.workspace = w.key)",
            "a workspace has no event or no row in `pulse`",
        ),
        (
            "SELECT (SELECT count(*) FROM tokens) - (SELECT count(*) FROM workspaces WHERE kind = 'external')
               - (SELECT count(*) FROM events WHERE event_type = 'TOKEN_ISSUED')",
            "tokens and their events differ",
        ),
        ("SELECT count(*) - COALESCE(max(sequence), 0) FROM events", "the event sequence has a gap"),
        ("SELECT count(*) FROM pragma_foreign_key_check", "a foreign key is violated"),
    ] {
        if tx.query_row(query, [], |row| row.get::<_, i64>(0))? != 0 {
            wrongs.push(what.into());
        }
    }
    Ok(wrongs)
}
