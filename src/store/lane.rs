//! Execution of statements in lanes. A lane has one connection and runs one job at a time; one lane writes, the others
//! only read.
//!
//! In the daemon a lane is a thread. The writing lane takes a job, drains the jobs queued meanwhile, commits once, and
//! only then answers. Waiting callers share one fsync, and no caller learns of a change that a power cut could still
//! undo. In the simulator the jobs run on a [`Stage`], so that the random seed decides when each job takes effect.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{broadcast, oneshot};

use super::{
    Mirror, StoreError, StoreResult,
    events::append,
    log::OpenFile,
    roster::{self, Fresh, LastReport, Member, Roster, SharedRoster},
};
use crate::{
    domain::event::{Event, EventKind, TransientEvent},
    domain::{ids::WorkspaceId, time::Timestamp, token::TokenDigest},
    runtime::tasks::Stage,
    testing::{
        crash_point,
        mutation::{Mutation, is},
    },
};

/// The most jobs in one transaction, so that the caller of the first job does not wait indefinitely.
const BATCH_MAX: usize = 256;

/// An open transaction, and the work to do once it is committed.
pub(super) struct Tx<'c> {
    pub(super) sql: &'c Connection,
    roster: &'c SharedRoster,
    new_events: Vec<Event>,
    /// Workspaces whose roster entries have to be read again.
    touched: BTreeSet<WorkspaceId>,
    admins_touched: bool,
    last_reports: Vec<(WorkspaceId, LastReport)>,
    transient: Vec<TransientEvent>,
    /// Whether there are subscribers to transient events.
    next_transient: bool,
    /// The registry's generation before and after this transaction raised it; `None` if it did not.
    raised: Option<(i64, i64)>,
    /// Whether the last batch that changed or tried to change something could not be written.
    pub(super) was_refused: bool,
}

/// A workspace's roster entry as of this transaction.
pub(super) struct Known {
    pub(super) member: Member,
    /// Whether the given digest is one of its valid tokens.
    pub(super) holds: bool,
}

impl Tx<'_> {
    /// Marks a workspace whose status, tokens or position changed without an event.
    pub(super) fn touch(&mut self, workspace: WorkspaceId) {
        self.touched.insert(workspace);
    }

    pub(super) fn touch_admins(&mut self) {
        self.admins_touched = true;
    }

    /// Returns a live workspace's state: from memory, or from the tables if this transaction has changed it.
    pub(super) fn known(
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
    pub(super) fn raise(&mut self) -> StoreResult<Option<i64>> {
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
    pub(super) fn raise_known(&mut self) -> StoreResult<i64> {
        self.raise()?.ok_or_else(|| StoreError::new("the database has no instance id yet"))
    }

    /// Returns a live workspace as of this transaction.
    pub(super) fn member(&self, id: WorkspaceId) -> StoreResult<Option<Member>> {
        if self.touched.contains(&id) {
            return Ok(Fresh::read(self.sql, id)?.map(|fresh| fresh.member));
        }
        Ok(self.roster.read().member(id).cloned())
    }

    /// Sets an agent's last report in the roster after the commit.
    pub(super) fn set_last_report(&mut self, workspace: WorkspaceId, last_report: LastReport) {
        self.last_reports.push((workspace, last_report));
    }

    /// Sends a transient event, which is not stored, to current subscribers after the commit.
    pub(super) fn pass(
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
    pub(super) fn emit(
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

/// Work of one caller inside a batch.
pub(super) trait Job: Send {
    fn run(&mut self, tx: &mut Tx<'_>) -> StoreResult<()>;
    fn answer(self: Box<Self>, committed: StoreResult<()>);
}

struct Asked<F, T> {
    label: &'static str,
    work: Option<F>,
    done: Option<T>,
    reply: oneshot::Sender<StoreResult<T>>,
}

impl<F, T> Job for Asked<F, T>
where
    F: FnOnce(&mut Tx<'_>) -> StoreResult<T> + Send,
    T: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> StoreResult<()> {
        if let Some(work) = self.work.take() {
            self.done = Some(work(tx)?);
            crash_point::before(self.label);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, committed: StoreResult<()>) {
        let Self { label, done, reply, .. } = *self;
        let answer =
            committed.and_then(|()| done.ok_or_else(|| StoreError::new("the statement was not executed")));
        if answer.is_ok() {
            crash_point::after(label);
        }
        // Sending fails if the caller no longer waits; the committed change stays.
        let _gone = reply.send(answer);
    }
}

/// Data that is published after a batch is committed: events, and changes of the roster.
struct Committed {
    new_events: Vec<Event>,
    transient: Vec<TransientEvent>,
    last_reports: Vec<(WorkspaceId, LastReport)>,
    fresh: Vec<(WorkspaceId, Option<Fresh>)>,
    admins: Option<roster::Admins>,
}

/// State of the writing lane. It commits batches of jobs, then answers their callers and sends their events.
pub(super) struct Writer {
    sql: Connection,
    feed: broadcast::Sender<Event>,
    transient: broadcast::Sender<TransientEvent>,
    roster: SharedRoster,
    /// Where the generation is stored a second time, outside the database.
    mirror: Option<Arc<Mirror>>,
    /// Whether a commit raised the generation and the mirror could not be updated after it.
    mirror_is_behind: bool,
    /// Whether the last batch that changed or tried to change something could not be written.
    was_refused: bool,
    /// File of the database; `None` in memory.
    file: Option<OpenFile>,
}

impl Writer {
    pub(super) fn new(
        sql: Connection,
        feed: broadcast::Sender<Event>,
        transient: broadcast::Sender<TransientEvent>,
        roster: SharedRoster,
    ) -> Self {
        Self {
            sql,
            feed,
            transient,
            roster,
            mirror: None,
            mirror_is_behind: false,
            was_refused: false,
            file: None,
        }
    }

    pub(super) fn with_mirror(mut self, mirror: Arc<Mirror>) -> Self {
        self.mirror_to(mirror);
        self
    }

    pub(super) fn mirror_to(&mut self, mirror: Arc<Mirror>) {
        self.mirror = Some(mirror);
    }

    pub(super) fn with_file(mut self, file: OpenFile) -> Self {
        self.file = Some(file);
        self
    }

    /// Checks that the database is still the file at its path; otherwise saves a copy of it.
    fn check_location(&mut self) -> StoreResult<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let checked = file.check_location();
        if checked.is_err() {
            if !self.sql.is_autocommit() {
                self.sql.execute_batch("ROLLBACK")?;
            }
            file.rescue(&self.sql);
        }
        checked
    }

    /// Ends the lane: closes the database file.
    fn close(self) {
        if let Some(file) = &self.file {
            file.close(&self.sql);
        }
    }

    #[cfg(test)]
    pub(super) fn sql(&self) -> &Connection {
        &self.sql
    }

    /// Returns the event channels and the roster, which the writer shares with its store.
    pub(super) fn surroundings(
        &self,
    ) -> (broadcast::Sender<Event>, broadcast::Sender<TransientEvent>, SharedRoster) {
        (self.feed.clone(), self.transient.clone(), self.roster.clone())
    }

    /// Copies all committed data into another database.
    pub(super) fn copy_to(&self, target: &mut Connection) -> StoreResult<()> {
        let copy = rusqlite::backup::Backup::new(&self.sql, target)?;
        Ok(copy.run_to_completion(1024, std::time::Duration::ZERO, None)?)
    }

    /// Empties every table and replaces the event channels and the roster.
    pub(super) fn wipe(&mut self) -> StoreResult<()> {
        if !self.sql.is_autocommit() {
            self.sql.execute_batch("ROLLBACK")?;
        }
        self.limit_to(None);
        let tables: Vec<String> = self
            .sql
            .prepare_cached("SELECT name FROM sqlite_schema WHERE type = 'table'")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        // The order of the tables does not matter: deleting a row also deletes the rows that refer to it. The pragma
        // that defers foreign key checks is not used, because it would make SQLite prepare every cached statement
        // again.
        self.sql.execute_batch("BEGIN")?;
        for table in tables {
            self.sql.prepare_cached(&format!("DELETE FROM {table}"))?.execute([])?;
        }
        self.sql.execute_batch("COMMIT")?;
        // Subscribers of the previous run must not receive events of the next one.
        self.feed = broadcast::channel(super::FEED_CAPACITY).0;
        self.transient = broadcast::channel(super::FEED_CAPACITY).0;
        self.roster = SharedRoster::default();
        Ok(())
    }

    /// Lets the database grow by at most `free_pages` pages; `None` removes the limit.
    #[expect(clippy::expect_used, reason = "a database in memory cannot fail here")]
    pub(super) fn limit_to(&self, free_pages: Option<u32>) {
        let size = self.sql.pragma_query_value(None, "page_count", |row| row.get::<_, u32>(0));
        let most = free_pages.map_or(u32::MAX - 1, |free| size.expect("page count is readable") + free);
        self.sql
            .pragma_update_and_check(None, "max_page_count", most, |_| Ok(()))
            .expect("page limit can be set");
    }

    /// Returns how many rows this connection has changed since it was opened.
    pub(super) fn changes(&self) -> u64 {
        self.sql.total_changes()
    }

    /// Reads the roster from the tables, as a new process does.
    pub(super) fn load_roster(&self) -> StoreResult<()> {
        *self.roster.write() = Roster::load(&self.sql)?;
        Ok(())
    }

    /// Runs a batch in one transaction. If a job fails, only its own changes are rolled back. If the commit fails,
    /// every job of the batch fails.
    fn turn(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        let mut results = Vec::with_capacity(jobs.len());
        let before = self.changes();
        match self.commit(&mut jobs, &mut results) {
            Ok(committed) => {
                self.was_refused &= self.changes() == before;
                // The roster is updated before any caller is answered: a caller that has revoked a token may rely on
                // its refusal.
                self.remember(committed.last_reports, committed.fresh, committed.admins);
                for (job, result) in jobs.into_iter().zip(results) {
                    job.answer(result);
                }
                for event in committed.new_events {
                    // Sending fails without subscribers; that is no error, because the event is stored.
                    let _listeners = self.feed.send(event);
                }
                for event in committed.transient {
                    let _listeners = self.transient.send(event);
                }
            }
            Err(error) => {
                self.was_refused = true;
                for job in jobs {
                    job.answer(Err(error.clone()));
                }
            }
        }
    }

    fn remember(
        &self,
        last_reports: Vec<(WorkspaceId, LastReport)>,
        fresh: Vec<(WorkspaceId, Option<Fresh>)>,
        admins: Option<roster::Admins>,
    ) {
        if last_reports.is_empty() && fresh.is_empty() && admins.is_none() {
            return;
        }
        let mut roster = self.roster.write();
        for (workspace, last_report) in last_reports {
            roster.set_last_report(workspace, last_report);
        }
        // Replaced after the reports are set: these entries were read at the end of the transaction and are newer.
        for (workspace, fresh) in fresh.into_iter().filter(|_| !is(Mutation::ForgetMemory)) {
            roster.replace(workspace, fresh);
        }
        if let Some(admins) = admins {
            roster.replace_admins(admins);
        }
    }

    fn commit(
        &mut self,
        jobs: &mut [Box<dyn Job>],
        results: &mut Vec<StoreResult<()>>,
    ) -> StoreResult<Committed> {
        // Changes to a file that is no longer at its path would be lost at the next start.
        self.check_location()?;
        let sql = &self.sql;
        if !sql.is_autocommit() {
            // A batch that panicked left its transaction open.
            sql.execute_batch("ROLLBACK")?;
        }
        run(sql, "BEGIN IMMEDIATE")?;
        let mut tx = Tx {
            sql,
            roster: &self.roster,
            new_events: Vec::new(),
            touched: BTreeSet::new(),
            admins_touched: false,
            last_reports: Vec::new(),
            transient: Vec::new(),
            next_transient: self.transient.receiver_count() > 0,
            raised: None,
            was_refused: self.was_refused,
        };
        for job in jobs {
            let before = (tx.new_events.len(), tx.last_reports.len(), tx.transient.len(), tx.raised);
            run(sql, "SAVEPOINT job")?;
            let result = job.run(&mut tx);
            if sql.is_autocommit() {
                // A full disk or an I/O error makes SQLite roll back the whole transaction by itself.
                return Err(result
                    .err()
                    .unwrap_or_else(|| StoreError::new("SQLite rolled back the transaction")));
            }
            if result.is_err() {
                tx.new_events.truncate(before.0);
                tx.last_reports.truncate(before.1);
                tx.transient.truncate(before.2);
                tx.raised = before.3;
                run(sql, "ROLLBACK TO job")?;
            }
            run(sql, "RELEASE job")?;
            results.push(result);
        }
        let raised = tx.raised;
        let committed = complete(tx).and_then(|committed| {
            // The new mirror is written to a second file before the commit, and renamed to the mirror's name after it.
            // So the mirror's generation is never higher than the database's, and without space for the second file the
            // change is rolled back. A crash between commit and rename leaves the mirror with a lower generation; no
            // caller was answered then.
            let prepared = self.mirror.as_ref().zip(raised).map(|(mirror, (before, now))| {
                if self.mirror_is_behind {
                    mirror.note_generation(before)?;
                }
                mirror.prepare_generation(now)
            });
            let prepared = prepared.transpose().map_err(|error| StoreError::mirror(&error))?.flatten();
            run(sql, "COMMIT")?;
            Ok((committed, prepared))
        });
        match committed {
            Ok((committed, prepared)) => {
                if let Some(prepared) = prepared {
                    let published = prepared.publish();
                    if let Err(error) = &published {
                        tracing::error!(
                            %error,
                            "mirror file is older than the database: operations are refused until it can be written"
                        );
                    }
                    self.mirror_is_behind = published.is_err();
                }
                if let Some(file) = &mut self.file {
                    file.after_commit(sql);
                }
                Ok(committed)
            }
            Err(error) => {
                if !sql.is_autocommit() {
                    sql.execute_batch("ROLLBACK")?;
                }
                Err(error)
            }
        }
    }
}

/// Reads the changed roster entries before the commit, when a failure can still roll back the change.
fn complete(tx: Tx<'_>) -> StoreResult<Committed> {
    let Tx {
        sql,
        roster: _,
        new_events,
        touched,
        admins_touched,
        last_reports,
        transient,
        next_transient: _,
        raised: _,
        was_refused: _,
    } = tx;
    let read = |id| Ok((id, Fresh::read(sql, id)?));
    let fresh = touched.into_iter().map(read).collect::<StoreResult<_>>()?;
    let admins = admins_touched.then(|| roster::admins(sql)).transpose()?;
    Ok(Committed { new_events, transient, last_reports, fresh, admins })
}

/// Runs a statement without parameters that begins, ends or rolls back a transaction or savepoint; it is prepared only
/// once.
fn run(sql: &Connection, statement: &'static str) -> StoreResult<()> {
    sql.prepare_cached(statement)?.execute([])?;
    Ok(())
}

/// Job of a reading lane.
type ReadJob = Box<dyn FnOnce(&Connection) + Send>;

/// Message to the writing lane.
pub(super) enum WriteCall {
    Job(Box<dyn Job>),
    /// Checks that the database is still the file at its path.
    CheckLocation(oneshot::Sender<StoreResult<()>>),
    /// Ends the lane.
    End(oneshot::Sender<()>),
}

/// Message to a reading lane.
pub(super) enum ReadCall {
    Job(ReadJob),
    /// Ends the lane that receives it.
    End(oneshot::Sender<()>),
}

/// All lanes of a store.
pub(super) enum Lanes {
    /// One writing thread, and reading threads.
    Threads { write: mpsc::Sender<WriteCall>, read: mpsc::Sender<ReadCall>, readers: usize },
    /// All jobs run on one connection; the stage decides when.
    Staged { writer: Arc<Mutex<Writer>>, stage: Arc<dyn Stage> },
}

impl Lanes {
    /// Starts the threads. They end when the store is dropped.
    pub(super) fn threads(writer: Writer, readers: Vec<Connection>) -> std::io::Result<Self> {
        let (write, jobs) = mpsc::channel();
        thread::Builder::new().name("store-writer".into()).spawn(move || write_all(writer, &jobs))?;
        let (read, jobs) = mpsc::channel::<ReadCall>();
        let jobs = Arc::new(Mutex::new(jobs));
        let count = readers.len();
        for (number, sql) in readers.into_iter().enumerate() {
            let jobs = Arc::clone(&jobs);
            thread::Builder::new()
                .name(format!("store-reader-{number}"))
                .spawn(move || read_all(sql, &jobs))?;
        }
        Ok(Self::Threads { write, read, readers: count })
    }

    /// Ends the readers before the writer: only the last open connection can move the whole log into the database file.
    pub(super) async fn close(&self) {
        let Self::Threads { write, read, readers } = self else { return };
        for _ in 0..*readers {
            let (ended, end) = oneshot::channel();
            // If the lane has ended already, the sender of the answer is dropped, and the wait ends.
            if read.send(ReadCall::End(ended)).is_ok() {
                let _ended = end.await;
            }
        }
        let (ended, end) = oneshot::channel();
        if write.send(WriteCall::End(ended)).is_ok() {
            let _ended = end.await;
        }
    }

    pub(super) async fn check_location(&self) -> StoreResult<()> {
        let Self::Threads { write, .. } = self else { return Ok(()) };
        let (reply, answer) = oneshot::channel();
        write.send(WriteCall::CheckLocation(reply)).map_err(|_| StoreError::closed())?;
        answer.await.unwrap_or_else(|_| Err(StoreError::unanswered()))
    }

    pub(super) async fn write<T: Send + 'static>(
        &self,
        label: &'static str,
        work: impl FnOnce(&mut Tx<'_>) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let (reply, answer) = oneshot::channel();
        let job: Box<dyn Job> = Box::new(Asked { label, work: Some(work), done: None, reply });
        match self {
            Self::Threads { write, .. } => {
                write.send(WriteCall::Job(job)).map_err(|_| StoreError::closed())?;
            }
            Self::Staged { writer, stage } => {
                let writer = Arc::clone(writer);
                stage.submit(label, Box::new(move || unpoisoned(&writer).turn(vec![job])));
            }
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::unanswered()))
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        label: &'static str,
        work: impl FnOnce(&Connection) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let (reply, answer) = oneshot::channel();
        match self {
            Self::Threads { read, .. } => {
                let job: ReadJob = Box::new(move |sql| drop(reply.send(work(sql))));
                read.send(ReadCall::Job(job)).map_err(|_| StoreError::closed())?;
            }
            Self::Staged { writer, stage } => {
                let writer = Arc::clone(writer);
                stage.submit(label, Box::new(move || drop(reply.send(work(&unpoisoned(&writer).sql)))));
            }
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::unanswered()))
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the writing lane until it is ended. A batch consists of the jobs that were queued during the previous commit,
/// so that no timer is needed.
fn write_all(mut writer: Writer, calls: &mpsc::Receiver<WriteCall>) {
    while let Ok(first) = calls.recv() {
        let mut batch = Vec::new();
        let mut last = None;
        for call in std::iter::once(first).chain(calls.try_iter()) {
            match call {
                WriteCall::Job(job) => batch.push(job),
                call @ (WriteCall::CheckLocation(_) | WriteCall::End(_)) => last = Some(call),
            }
            if last.is_some() || batch.len() == BATCH_MAX {
                break;
            }
        }
        // A panicking job drops the reply channels of its batch: all their callers get an error, and the lane
        // continues.
        if !batch.is_empty() && catch_unwind(AssertUnwindSafe(|| writer.turn(batch))).is_err() {
            tracing::error!("statement panicked; its batch was rolled back");
        }
        match last {
            Some(WriteCall::CheckLocation(reply)) => drop(reply.send(writer.check_location())),
            Some(WriteCall::End(ended)) => {
                writer.close();
                // A caller that no longer waits does not need the answer.
                let _gone = ended.send(());
                return;
            }
            Some(WriteCall::Job(_)) | None => {}
        }
    }
}

fn read_all(sql: Connection, calls: &Mutex<mpsc::Receiver<ReadCall>>) {
    loop {
        let next = unpoisoned(calls).recv();
        let job = match next {
            Ok(ReadCall::Job(job)) => job,
            Ok(ReadCall::End(ended)) => {
                drop(sql);
                let _gone = ended.send(());
                return;
            }
            Err(_) => return,
        };
        if catch_unwind(AssertUnwindSafe(|| job(&sql))).is_err() {
            tracing::error!("query panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FILE_NAME, Store, StoreError, configure, migrate, open_reader};
    use super::*;

    const AT: Timestamp = Timestamp(1_700_000_000_000);

    fn count(sql: &Connection) -> u32 {
        sql.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap()
    }

    fn file(dir: &std::path::Path) -> Connection {
        let path = dir.join(FILE_NAME);
        let sql = Connection::open(&path).unwrap();
        configure(&sql, &path).unwrap();
        migrate::prepare(&sql, Some(&path)).unwrap();
        sql
    }

    #[test]
    fn reader_connection_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let writer = file(dir.path());
        let reader = open_reader(&dir.path().join(FILE_NAME)).unwrap();
        for statement in [
            "INSERT INTO registry (only_row, instance, generation) VALUES (1, randomblob(16), 0)",
            "PRAGMA user_version = 9",
            "CREATE TABLE notes (text TEXT) STRICT",
            "PRAGMA query_only = off; DELETE FROM events",
        ] {
            let refused = reader.execute_batch(statement);
            assert!(
                refused.is_err_and(|error| error.to_string().contains("readonly")),
                "{statement} was allowed"
            );
        }
        assert_eq!(writer.query_row("SELECT count(*) FROM registry", [], |row| row.get(0)), Ok(0));
    }

    /// A limit on the number of pages makes SQLite fail as on a full disk.
    #[tokio::test]
    async fn batch_fails_as_a_whole_on_full_disk_and_next_one_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let sql = file(dir.path());
        let reader = open_reader(&dir.path().join(FILE_NAME)).unwrap();
        let pages: u32 = sql.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        sql.pragma_update(None, "max_page_count", pages + 2).unwrap();
        let (feed, mut events) = broadcast::channel(64);
        let mut writer = Writer::new(sql, feed, broadcast::channel(1).0, SharedRoster::default());
        let (answers, jobs): (Vec<_>, Vec<_>) = (0..8).map(|_| new_events(4096)).unzip();
        writer.turn(jobs);
        for answer in answers {
            let error = answer.await.unwrap().unwrap_err().to_string();
            assert!(error.contains("full") && error.contains("nothing was changed"), "{error}");
        }
        assert_eq!(count(&reader), 0, "part of a failed batch was stored");
        assert!(events.try_recv().is_err(), "an event of a rolled-back change was sent");

        assert!(writer.was_refused, "the refused write was not recorded");
        writer.sql.pragma_update(None, "max_page_count", 1_000_000).unwrap();
        let (answer, job) = new_events(4096);
        writer.turn(vec![job]);
        assert_eq!(answer.await.unwrap(), Ok(()));
        assert_eq!(count(&reader), 1);
        assert!(!writer.was_refused, "the record of the refused write was not cleared");
    }

    fn new_events(length: usize) -> (oneshot::Receiver<StoreResult<()>>, Box<dyn Job>) {
        let (reply, answer) = oneshot::channel();
        let work = move |tx: &mut Tx<'_>| {
            let payload = serde_json::json!({ "text": "x".repeat(length) });
            tx.emit(AT, EventKind::ContainerStopped, None, payload, None)
        };
        (answer, Box::new(Asked { label: "emit event", work: Some(work), done: None, reply }))
    }

    #[tokio::test]
    async fn panicking_statement_fails_its_caller_and_lanes_continue() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let broken = store.lanes.write::<()>("broken", |tx| {
            tx.emit(AT, EventKind::ContainerStopped, None, serde_json::json!({}), None)?;
            panic!("intended panic after a change")
        });
        assert_eq!(broken.await, Err(StoreError::unanswered()));
        for _ in 0..4 {
            let broken = store.lanes.read::<()>("broken", |_| panic!("intended panic while reading"));
            assert_eq!(broken.await, Err(StoreError::unanswered()));
        }
        store.emit(AT, EventKind::ContainerStopped, None, serde_json::json!({}), None).await.unwrap();
        let events = store.events_after(0, 10).await.unwrap();
        assert_eq!(
            events.iter().map(|event| event.id).collect::<Vec<_>>(),
            [1],
            "a change of a panicked statement was stored"
        );
    }
}
