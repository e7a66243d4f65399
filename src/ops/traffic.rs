//! In-flight requests to agents, and when each workspace was last active.
//!
//! Kept in memory, because otherwise every message would need two writes. A crash loses only the times of recent
//! activity, and idle windows start over after a start anyway. A workspace that is about to hibernate is *closed* under
//! the same lock that counts its requests, so no request is admitted between reading the counter and stopping the
//! container: the request waits, and wakes the workspace.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    domain::{ids::WorkspaceId, time::Timestamp},
    engine::ExecId,
    runtime::clock::SharedClock,
};

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    open: u32,
    /// Number of hibernation attempts that keep the workspace closed to requests.
    closed: u32,
    active_at: Option<Timestamp>,
    sent_at: Option<Timestamp>,
    /// When a request or command to or from this workspace last began or ended.
    passed_at: Option<Timestamp>,
    /// Whether `active_at` is newer than its stored value.
    fresh: bool,
}

/// In-flight requests and last activity of all workspaces. Cheap to clone; all clones share their state.
#[derive(Clone)]
pub struct Traffic {
    flows: Arc<Mutex<HashMap<WorkspaceId, Flow>>>,
    /// Commands that have been prepared and not been started yet.
    prepared: Arc<Mutex<HashMap<ExecId, (WorkspaceId, Timestamp)>>>,
    clock: SharedClock,
}

/// An in-flight request. It ends when this is dropped.
pub struct InFlightRequest {
    traffic: Traffic,
    from: Option<WorkspaceId>,
    to: WorkspaceId,
}

/// The workspace is going into hibernation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the workspace is hibernating. Wake it with `ostler wake`, then run the command again")]
pub struct BeingHibernated;

/// Why a workspace cannot be closed to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseRefusal {
    /// This many requests are in flight.
    Open(u32),
    /// The workspace was active after the given time.
    Recent,
}

impl Traffic {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { flows: Arc::default(), prepared: Arc::default(), clock }
    }

    /// Admits a request; `None` while its target is going into hibernation.
    #[must_use]
    pub fn begin(&self, from: Option<WorkspaceId>, to: WorkspaceId) -> Option<InFlightRequest> {
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
        Some(InFlightRequest { traffic: self.clone(), from, to })
    }

    /// Remembers the workspace of a command until the command is started. A command that is never started is forgotten
    /// after an hour.
    pub fn prepare(&self, exec: &ExecId, id: WorkspaceId) {
        let now = self.clock.now();
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.retain(|_, (_, at)| self.is_recent(*at));
        prepared.insert(exec.clone(), (id, now));
    }

    /// Counts a command as an in-flight request until the result is dropped. `None` for a command that was prepared
    /// before this daemon started.
    ///
    /// # Errors
    /// `BeingHibernated` while its workspace is going into hibernation.
    pub fn run(&self, exec: &ExecId) -> Result<Option<InFlightRequest>, BeingHibernated> {
        let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).remove(exec);
        match prepared {
            Some((id, _)) => self.begin(None, id).map(Some).ok_or(BeingHibernated),
            None => Ok(None),
        }
    }

    /// When a request or command to or from a workspace last began or ended, if known.
    #[must_use]
    pub fn passed_at(&self, id: WorkspaceId) -> Option<Timestamp> {
        self.lock().get(&id).and_then(|flow| flow.passed_at)
    }

    /// Records activity of a user in a workspace: a shell, a command.
    pub fn note(&self, id: WorkspaceId) {
        let now = self.clock.now();
        self.lock().entry(id).or_default().touch(now);
    }

    /// Number of in-flight requests from or to a workspace.
    #[must_use]
    pub fn open(&self, id: WorkspaceId) -> u32 {
        self.lock().get(&id).map_or(0, |flow| flow.open)
    }

    /// When a workspace was last active, if known.
    #[must_use]
    pub fn active_at(&self, id: WorkspaceId) -> Option<Timestamp> {
        self.lock().get(&id).and_then(|flow| flow.active_at)
    }

    /// When a workspace last sent a request, if known.
    #[must_use]
    pub fn sent_at(&self, id: WorkspaceId) -> Option<Timestamp> {
        self.lock().get(&id).and_then(|flow| flow.sent_at)
    }

    /// Closes a workspace to requests, unless one is in flight or, with `idle_since`, it was active after that time.
    pub(super) fn close_if_quiet(
        &self,
        id: WorkspaceId,
        idle_since: Option<Timestamp>,
    ) -> Result<(), CloseRefusal> {
        let now = self.clock.now();
        let mut flows = self.lock();
        let flow = flows.entry(id).or_default();
        let active = |since| flow.active_at.is_some_and(|at| at > since && !at.is_ahead_of(now));
        let active = idle_since.is_some_and(active);
        if flow.open > 0 {
            return Err(CloseRefusal::Open(flow.open));
        }
        if active {
            return Err(CloseRefusal::Recent);
        }
        flow.closed += 1;
        Ok(())
    }

    /// Releases one hibernation attempt. While another one is undecided, no request is admitted.
    pub(super) fn release(&self, id: WorkspaceId) {
        if let Some(flow) = self.lock().get_mut(&id) {
            flow.closed = flow.closed.saturating_sub(1);
        }
    }

    /// Admits requests again, even if hibernation attempts are in progress. The row's status then decides how requests
    /// are handled.
    pub(super) fn reopen(&self, id: WorkspaceId) {
        if let Some(flow) = self.lock().get_mut(&id) {
            flow.closed = 0;
        }
    }

    /// Returns the activity since the last call of this method. The caller has to store it.
    #[must_use]
    pub fn take_fresh(&self) -> Vec<(WorkspaceId, Timestamp)> {
        let mut flows = self.lock();
        let fresh = flows
            .iter_mut()
            .filter_map(|(id, flow)| {
                flow.active_at.filter(|_| std::mem::take(&mut flow.fresh)).map(|at| (*id, at))
            })
            .collect();
        // Drops entries of inactive workspaces after an hour, so that memory does not grow.
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

impl Drop for InFlightRequest {
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
