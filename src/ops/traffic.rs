//! Requests on their way to agents: who talks with whom right now, and when it last happened.
//!
//! Kept in memory, because every message would cost two writes otherwise: what a crash loses is only how recently
//! somebody was active, and after a start every idle window begins anew anyway. A workspace that is about to be put
//! to sleep is *closed* under the same lock that counts its requests, so no request slips in between the look at the
//! counter and the stop of the container: it waits, and wakes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    clock::SharedClock,
    domain::{ids::WorkspaceId, time::Timestamp},
    engine::ExecId,
};

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    open: u32,
    /// By how many claims for sleep it is closed.
    closed: u32,
    active_at: Option<Timestamp>,
    sent_at: Option<Timestamp>,
    /// When a request of the proxy last began or ended.
    passed_at: Option<Timestamp>,
    /// Whether `active_at` is newer than what is written down.
    fresh: bool,
}

/// See the module page. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Traffic {
    flows: Arc<Mutex<HashMap<WorkspaceId, Flow>>>,
    /// Commands that have been prepared and not been started yet.
    prepared: Arc<Mutex<HashMap<ExecId, (WorkspaceId, Timestamp)>>>,
    clock: SharedClock,
}

/// A request on its way. It has ended when this is dropped.
pub struct Passage {
    traffic: Traffic,
    from: Option<WorkspaceId>,
    to: WorkspaceId,
}

/// The workspace is being put to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the workspace is going to sleep. `ostler wake` it, then run the command again")]
pub struct FallingAsleep;

/// Why a workspace is not closed to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stir {
    /// This many requests are in flight.
    Open(u32),
    /// Something happened there since.
    Recent,
}

impl Traffic {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { flows: Arc::default(), prepared: Arc::default(), clock }
    }

    /// Lets a request through, or not: `None` while its target is being put to sleep.
    #[must_use]
    pub fn begin(&self, from: Option<WorkspaceId>, to: WorkspaceId) -> Option<Passage> {
        let now = self.clock.now();
        let mut flows = self.lock();
        let target = flows.entry(to).or_default();
        if target.closed > 0 {
            return None;
        }
        target.open += 1;
        target.touch(now);
        target.passed_at = Some(now);
        if let Some(from) = from {
            let sender = flows.entry(from).or_default();
            sender.open += 1;
            sender.sent_at = Some(now);
            sender.touch(now);
        }
        Some(Passage { traffic: self.clone(), from, to })
    }

    /// Remembers the workspace of a command until it is started. One that never is, is forgotten after an hour.
    pub fn prepare(&self, exec: &ExecId, id: WorkspaceId) {
        let now = self.clock.now();
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.retain(|_, (_, at)| self.is_recent(*at));
        prepared.insert(exec.clone(), (id, now));
    }

    /// Counts a command as an open request for as long as the answer is held. `None` for a command that was prepared
    /// before this daemon started.
    ///
    /// # Errors
    /// `FallingAsleep` while its workspace is being put to sleep.
    pub fn run(&self, exec: &ExecId) -> Result<Option<Passage>, FallingAsleep> {
        let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).remove(exec);
        match prepared {
            Some((id, _)) => self.begin(None, id).map(Some).ok_or(FallingAsleep),
            None => Ok(None),
        }
    }

    /// When a request of the proxy last began or ended, as far as is remembered.
    #[must_use]
    pub fn passed_at(&self, id: WorkspaceId) -> Option<Timestamp> {
        self.lock().get(&id).and_then(|flow| flow.passed_at)
    }

    /// Notes that somebody works in a workspace: a shell, a command.
    pub fn note(&self, id: WorkspaceId) {
        let now = self.clock.now();
        self.lock().entry(id).or_default().touch(now);
    }

    /// How many requests are on their way from or to it.
    #[must_use]
    pub fn open(&self, id: WorkspaceId) -> u32 {
        self.lock().get(&id).map_or(0, |flow| flow.open)
    }

    /// When something last happened there, as far as is remembered.
    #[must_use]
    pub fn active_at(&self, id: WorkspaceId) -> Option<Timestamp> {
        self.lock().get(&id).and_then(|flow| flow.active_at)
    }

    /// When it last sent something.
    #[must_use]
    pub fn sent_at(&self, id: WorkspaceId) -> Option<Timestamp> {
        self.lock().get(&id).and_then(|flow| flow.sent_at)
    }

    /// Closes a workspace to requests, if none is on its way and, where given, nothing happened since.
    pub(super) fn close_if_quiet(&self, id: WorkspaceId, idle_since: Option<Timestamp>) -> Result<(), Stir> {
        let now = self.clock.now();
        let mut flows = self.lock();
        let flow = flows.entry(id).or_default();
        let active = |since| flow.active_at.is_some_and(|at| at > since && !at.is_ahead_of(now));
        let active = idle_since.is_some_and(active);
        if flow.open > 0 {
            return Err(Stir::Open(flow.open));
        }
        if active {
            return Err(Stir::Recent);
        }
        flow.closed += 1;
        Ok(())
    }

    /// Takes one claim back. While another one is undecided, no request comes through.
    pub(super) fn unclose(&self, id: WorkspaceId) {
        if let Some(flow) = self.lock().get_mut(&id) {
            flow.closed = flow.closed.saturating_sub(1);
        }
    }

    /// Lets requests through again; what they find is for the row to say.
    pub(super) fn reopen(&self, id: WorkspaceId) {
        if let Some(flow) = self.lock().get_mut(&id) {
            flow.closed = 0;
        }
    }

    /// What happened since this was last asked, to be written down.
    #[must_use]
    pub fn take_fresh(&self) -> Vec<(WorkspaceId, Timestamp)> {
        let mut flows = self.lock();
        let fresh = flows
            .iter_mut()
            .filter_map(|(id, flow)| {
                flow.active_at.filter(|_| std::mem::take(&mut flow.fresh)).map(|at| (*id, at))
            })
            .collect();
        // Who is quiet and written down costs no memory for ever.
        flows.retain(|_, flow| {
            flow.open > 0 || flow.closed > 0 || flow.active_at.is_some_and(|at| self.is_recent(at))
        });
        fresh
    }

    fn is_recent(&self, at: Timestamp) -> bool {
        self.clock.now().since(at) < std::time::Duration::from_hours(1)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WorkspaceId, Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flow {
    fn touch(&mut self, now: Timestamp) {
        self.active_at = Some(now);
        self.fresh = true;
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let now = self.traffic.clock.now();
        let mut flows = self.traffic.lock();
        for id in self.from.into_iter().chain([self.to]) {
            let flow = flows.entry(id).or_default();
            flow.open = flow.open.saturating_sub(1);
            flow.touch(now);
            flow.passed_at = Some(now);
        }
    }
}
