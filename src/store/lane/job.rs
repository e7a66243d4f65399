//! A job of the writing lane: the work of one caller inside a batch, and its answer.

use tokio::sync::oneshot;

use super::Tx;
use crate::{
    store::{StoreError, StoreResult},
    testing::crash_point,
};

/// Work of one caller inside a batch.
pub(in crate::store) trait Job: Send {
    fn run(&mut self, tx: &mut Tx<'_>) -> StoreResult<()>;
    fn answer(self: Box<Self>, committed: StoreResult<()>);
}

pub(super) struct Asked<F, T> {
    pub(super) label: &'static str,
    pub(super) work: Option<F>,
    pub(super) done: Option<T>,
    pub(super) reply: oneshot::Sender<StoreResult<T>>,
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
