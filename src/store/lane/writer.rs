//! The state of the writing lane: it commits a batch of jobs, then publishes the result and answers the callers.

use std::{collections::BTreeSet, sync::Arc};

use rusqlite::Connection;
use tokio::sync::broadcast;

use super::{Tx, job::Job};
use crate::{
    domain::{
        event::{Event, TransientEvent},
        ids::WorkspaceId,
    },
    store::{
        Mirror, StoreError, StoreResult,
        log::OpenFile,
        roster::{self, Fresh, LastReport, Roster, SharedRoster},
    },
    testing::mutation::{Mutation, is},
};

/// Number of events that a subscriber may lag behind. A slower subscriber misses events; it can read missed events from
/// the store, except transient ones.
pub(in crate::store) const FEED_CAPACITY: usize = 1024;

/// Data that is published after a batch is committed: events, and changes of the roster.
struct Committed {
    new_events: Vec<Event>,
    transient: Vec<TransientEvent>,
    last_reports: Vec<(WorkspaceId, LastReport)>,
    fresh: Vec<(WorkspaceId, Option<Fresh>)>,
    admins: Option<roster::Admins>,
}

/// State of the writing lane. It commits batches of jobs, then answers their callers and sends their events.
pub(in crate::store) struct Writer {
    pub(super) sql: Connection,
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
    pub(in crate::store) fn new(
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

    pub(in crate::store) fn with_mirror(mut self, mirror: Arc<Mirror>) -> Self {
        self.mirror_to(mirror);
        self
    }

    pub(in crate::store) fn mirror_to(&mut self, mirror: Arc<Mirror>) {
        self.mirror = Some(mirror);
    }

    pub(in crate::store) fn with_file(mut self, file: OpenFile) -> Self {
        self.file = Some(file);
        self
    }

    /// Checks that the database is still the file at its path; otherwise saves a copy of it.
    pub(super) fn check_location(&mut self) -> StoreResult<()> {
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
    pub(super) fn close(self) {
        if let Some(file) = &self.file {
            file.close(&self.sql);
        }
    }

    #[cfg(test)]
    pub(in crate::store) fn sql(&self) -> &Connection {
        &self.sql
    }

    /// Returns the event channels and the roster, which the writer shares with its store.
    pub(in crate::store) fn surroundings(
        &self,
    ) -> (broadcast::Sender<Event>, broadcast::Sender<TransientEvent>, SharedRoster) {
        (self.feed.clone(), self.transient.clone(), self.roster.clone())
    }

    /// Copies all committed data into another database.
    pub(in crate::store) fn copy_to(&self, target: &mut Connection) -> StoreResult<()> {
        let copy = rusqlite::backup::Backup::new(&self.sql, target)?;
        Ok(copy.run_to_completion(1024, std::time::Duration::ZERO, None)?)
    }

    /// Empties every table and replaces the event channels and the roster.
    pub(in crate::store) fn wipe(&mut self) -> StoreResult<()> {
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
        self.feed = broadcast::channel(FEED_CAPACITY).0;
        self.transient = broadcast::channel(FEED_CAPACITY).0;
        self.roster = SharedRoster::default();
        Ok(())
    }

    /// Lets the database grow by at most `free_pages` pages; `None` removes the limit.
    #[expect(clippy::expect_used, reason = "a database in memory cannot fail here")]
    pub(in crate::store) fn limit_to(&self, free_pages: Option<u32>) {
        let size = self.sql.pragma_query_value(None, "page_count", |row| row.get::<_, u32>(0));
        let most = free_pages.map_or(u32::MAX - 1, |free| size.expect("page count is readable") + free);
        self.sql
            .pragma_update_and_check(None, "max_page_count", most, |_| Ok(()))
            .expect("page limit can be set");
    }

    /// Returns how many rows this connection has changed since it was opened.
    pub(in crate::store) fn changes(&self) -> u64 {
        self.sql.total_changes()
    }

    /// Reads the roster from the tables, as a new process does.
    pub(in crate::store) fn load_roster(&self) -> StoreResult<()> {
        *self.roster.write() = Roster::load(&self.sql)?;
        Ok(())
    }

    /// Runs a batch in one transaction. If a job fails, only its own changes are rolled back. If the commit fails,
    /// every job of the batch fails.
    pub(super) fn turn(&mut self, mut jobs: Vec<Box<dyn Job>>) {
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

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::job::Asked;
    use super::*;
    use crate::{
        domain::{event::EventKind, time::Timestamp},
        store::{
            FILE_NAME,
            connection::{open_reader, tests::file},
        },
    };

    const AT: Timestamp = Timestamp(1_700_000_000_000);

    fn count(sql: &Connection) -> u32 {
        sql.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap()
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
}
