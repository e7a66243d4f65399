//! Where statements are carried out: one lane writes, others only read.
//!
//! In the daemon a lane is a thread. The writing one takes a job, drains what has queued meanwhile,
//! commits once, and only then answers: waiting callers share one fsync, and nobody hears of a change
//! that a power cut could still undo. In the simulator the same batches run on a [`Stage`], so that a
//! seed decides when each takes effect.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use rusqlite::Connection;
use tokio::sync::{broadcast, oneshot};

use super::{StoreError, StoreResult, events::append};
use crate::{
    domain::event::{Event, EventKind},
    domain::{ids::WorkspaceId, time::Timestamp},
    tasks::Stage,
};

/// The most jobs one transaction holds, so that its first caller does not wait for ever.
const BATCH_MAX: usize = 256;

/// An open transaction, and the events it will have told once it is committed.
pub(super) struct Tx<'c> {
    pub(super) sql: &'c Connection,
    told: Vec<Event>,
}

impl Tx<'_> {
    /// Records what happened, in the same transaction as the change.
    pub(super) fn tell(
        &mut self,
        at: Timestamp,
        kind: EventKind,
        workspace: Option<WorkspaceId>,
        payload: serde_json::Value,
        swept_by: Option<&str>,
    ) -> StoreResult<()> {
        self.told.push(append(self.sql, at, kind, workspace, payload, swept_by)?);
        Ok(())
    }
}

/// One caller's work inside a batch.
pub(super) trait Job: Send {
    fn run(&mut self, tx: &mut Tx<'_>) -> StoreResult<()>;
    fn answer(self: Box<Self>, committed: StoreResult<()>);
}

struct Asked<F, T> {
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
        }
        Ok(())
    }

    fn answer(self: Box<Self>, committed: StoreResult<()>) {
        let Self { done, reply, .. } = *self;
        let answer =
            committed.and_then(|()| done.ok_or_else(|| StoreError::new("the statement was not run")));
        // A caller that no longer waits does not undo what was committed.
        let _gone = reply.send(answer);
    }
}

/// The state machine that writes: batches in, answers and events out.
pub(super) struct Writer {
    sql: Connection,
    feed: broadcast::Sender<Event>,
}

impl Writer {
    pub(super) fn new(sql: Connection, feed: broadcast::Sender<Event>) -> Self {
        Self { sql, feed }
    }

    #[cfg(test)]
    pub(super) fn sql(&self) -> &Connection {
        &self.sql
    }

    /// Runs a batch in one transaction. A job that fails is undone alone; a commit that fails is
    /// everybody's failure.
    fn turn(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        let mut results = Vec::with_capacity(jobs.len());
        let committed = self.commit(&mut jobs, &mut results);
        match committed {
            Ok(told) => {
                for (job, result) in jobs.into_iter().zip(results) {
                    job.answer(result);
                }
                for event in told {
                    // Nobody listening is no fault: the event is stored.
                    let _listeners = self.feed.send(event);
                }
            }
            Err(error) => {
                for job in jobs {
                    job.answer(Err(error.clone()));
                }
            }
        }
    }

    fn commit(
        &mut self,
        jobs: &mut [Box<dyn Job>],
        results: &mut Vec<StoreResult<()>>,
    ) -> StoreResult<Vec<Event>> {
        let sql = &self.sql;
        if !sql.is_autocommit() {
            // A batch that panicked has left its transaction open.
            sql.execute_batch("ROLLBACK")?;
        }
        sql.execute_batch("BEGIN IMMEDIATE")?;
        let mut tx = Tx { sql, told: Vec::new() };
        for job in jobs {
            let told_before = tx.told.len();
            sql.execute_batch("SAVEPOINT job")?;
            let result = job.run(&mut tx);
            if sql.is_autocommit() {
                // A full disk or an I/O error makes SQLite roll back the whole transaction by itself.
                return Err(result.err().unwrap_or_else(|| StoreError::new("the transaction was lost")));
            }
            if result.is_err() {
                tx.told.truncate(told_before);
                sql.execute_batch("ROLLBACK TO job")?;
            }
            sql.execute_batch("RELEASE job")?;
            results.push(result);
        }
        if let Err(error) = sql.execute_batch("COMMIT") {
            if !sql.is_autocommit() {
                sql.execute_batch("ROLLBACK")?;
            }
            return Err(error.into());
        }
        Ok(tx.told)
    }
}

/// One job of a reading lane.
type ReadJob = Box<dyn FnOnce(&Connection) + Send>;

/// The lanes of a store.
pub(super) enum Lanes {
    /// One writing thread, some reading ones.
    Threads { write: mpsc::Sender<Box<dyn Job>>, read: mpsc::Sender<ReadJob> },
    /// Everything on one connection, when the stage says so.
    Staged { writer: Arc<Mutex<Writer>>, stage: Arc<dyn Stage> },
}

impl Lanes {
    /// Starts the threads. They end when the store is dropped.
    pub(super) fn threads(writer: Writer, readers: Vec<Connection>) -> std::io::Result<Self> {
        let (write, jobs) = mpsc::channel();
        thread::Builder::new().name("store-writer".into()).spawn(move || write_all(writer, &jobs))?;
        let (read, jobs) = mpsc::channel::<ReadJob>();
        let jobs = Arc::new(Mutex::new(jobs));
        for (number, sql) in readers.into_iter().enumerate() {
            let jobs = Arc::clone(&jobs);
            thread::Builder::new()
                .name(format!("store-reader-{number}"))
                .spawn(move || read_all(&sql, &jobs))?;
        }
        Ok(Self::Threads { write, read })
    }

    pub(super) async fn write<T: Send + 'static>(
        &self,
        label: &'static str,
        work: impl FnOnce(&mut Tx<'_>) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let (reply, answer) = oneshot::channel();
        let job: Box<dyn Job> = Box::new(Asked { work: Some(work), done: None, reply });
        match self {
            Self::Threads { write, .. } => write.send(job).map_err(|_| StoreError::closed())?,
            Self::Staged { writer, stage } => {
                let writer = Arc::clone(writer);
                stage.submit(label, Box::new(move || unpoisoned(&writer).turn(vec![job])));
            }
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::closed()))
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
                read.send(job).map_err(|_| StoreError::closed())?;
            }
            Self::Staged { writer, stage } => {
                let writer = Arc::clone(writer);
                stage.submit(label, Box::new(move || drop(reply.send(work(&unpoisoned(&writer).sql)))));
            }
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::closed()))
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No timer gathers a batch: the commit in progress is what lets the next one grow.
fn write_all(mut writer: Writer, jobs: &mpsc::Receiver<Box<dyn Job>>) {
    while let Ok(first) = jobs.recv() {
        let mut batch = vec![first];
        batch.extend(jobs.try_iter().take(BATCH_MAX - 1));
        // A panicking job drops its batch's answers; the callers hear that, and the lane lives on.
        if catch_unwind(AssertUnwindSafe(|| writer.turn(batch))).is_err() {
            tracing::error!("a statement panicked; its batch was rolled back");
        }
    }
}

fn read_all(sql: &Connection, jobs: &Mutex<mpsc::Receiver<ReadJob>>) {
    loop {
        let next = unpoisoned(jobs).recv();
        let Ok(job) = next else { return };
        if catch_unwind(AssertUnwindSafe(|| job(sql))).is_err() {
            tracing::error!("a query panicked");
        }
    }
}
