//! The world outside of the daemon: the engine's state, where its socket leads, and the faults.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ostler::{domain::observed::ContainerEvent, engine::ErrorKind};

use super::{
    events::EventFault,
    faults::{Call, Fault, FaultHook},
    state::State,
};

/// The engine's state, which outlives a daemon.
#[derive(Default)]
pub(crate) struct World {
    state: Mutex<State>,
    /// State of the different engine that the socket leads to; `None` while the socket leads to this engine.
    elsewhere: Mutex<Option<State>>,
    faults: Mutex<Option<FaultHook>>,
}

impl World {
    /// State of this engine. A test can read it, and change it without ostler's knowledge.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the socket lead to another, empty engine. This simulates another user's engine, another storage, or a disk
    /// that is not mounted.
    pub(crate) fn lead_elsewhere(&self) {
        let here = self.state();
        // A real engine creates random ids, so an id of the other engine must not occur in this one.
        let mut there =
            State { images: here.images.clone(), made: here.made + (1 << 64), ..State::default() };
        // Both engines share the ports of one host.
        there.busy_ports.clone_from(&here.busy_ports);
        there.busy_ports.extend(here.ports());
        drop(here);
        *self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner) = Some(there);
    }

    /// Makes the socket lead to this engine again.
    pub(crate) fn lead_here(&self) {
        let there = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(there) = there {
            self.state().made = there.made;
        }
    }

    /// Whether the socket leads to another engine.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Applies a call's effect to the engine that the socket leads to now.
    pub(super) fn reached<T>(&self, effect: impl FnOnce(&mut State) -> T) -> T {
        let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *elsewhere {
            Some(state) => effect(state),
            None => effect(&mut self.state()),
        }
    }

    /// Sets the hook that selects the fault of every following call.
    pub(crate) fn inject(&self, hook: impl FnMut(&Call) -> Fault + Send + 'static) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(hook));
    }

    /// Sets the hook that selects the fault of every event, called once for each listener. The hook must not access the
    /// world: its state is locked during the call.
    pub(crate) fn inject_into_events(
        &self,
        hook: impl FnMut(&ContainerEvent) -> EventFault + Send + 'static,
    ) {
        self.state().news.faults = Some(Box::new(hook));
    }

    /// Ends every event stream, with this error or without one, after the events in transit.
    pub(crate) fn end_events(&self, kind: Option<ErrorKind>) {
        self.state().news.end(kind);
    }

    /// Removes all faults.
    pub(crate) fn heal(&self) {
        self.state().news.faults = None;
        self.lead_here();
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn fault(&self, call: &Call) -> Fault {
        let mut hook = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        hook.as_mut().map_or(Fault::None, |hook| hook(call))
    }
}
