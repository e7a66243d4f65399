//! Execution of statements in lanes. A lane has one connection and runs one job at a time; one lane writes, the others
//! only read.
//!
//! In the daemon a lane is a thread. The writing lane takes a job, drains the jobs queued meanwhile, commits once, and
//! only then answers. Waiting callers share one fsync, and no caller learns of a change that a power cut could still
//! undo. In the simulator the jobs run on a [`Stage`], so that the random seed decides when each job takes effect.

mod job;
mod tx;
mod writer;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use self::job::{Asked, Job};
use super::{StoreError, StoreResult};
use crate::runtime::tasks::Stage;

pub(super) use tx::{Known, Tx};
pub(super) use writer::{FEED_CAPACITY, Writer};

/// The most jobs in one transaction, so that the caller of the first job does not wait indefinitely.
const BATCH_MAX: usize = 256;

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
    use super::super::Store;
    use super::*;
    use crate::domain::{event::EventKind, time::Timestamp};

    const AT: Timestamp = Timestamp(1_700_000_000_000);

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
