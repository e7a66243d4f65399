//! Requests a pass before its regular time.
//!
//! Code that changes something that a pass must handle requests the pass here, with a delay. The driver then wakes once
//! for it, instead of polling every second. A lost request delays the work by one period at most, because passes find
//! their work by themselves.

use std::time::Duration;

use tokio::sync::mpsc;

/// A request for a pass, with its delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Name of the pass.
    pub pass: &'static str,
    /// How long after the request the pass is to run.
    pub after: Duration,
}

/// Sends requests for passes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Wake(Option<mpsc::UnboundedSender<Call>>);

impl Wake {
    /// Creates a sender and the driver's receiver.
    #[must_use]
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Call>) {
        let (calls, wake_ups) = mpsc::unbounded_channel();
        (Self(Some(calls)), wake_ups)
    }

    /// Creates a sender that drops all requests: for plans that are never carried out.
    #[must_use]
    pub fn disconnected() -> Self {
        Self(None)
    }

    /// Requests a pass after this delay.
    pub fn after(&self, pass: &'static str, after: Duration) {
        if let Some(calls) = &self.0 {
            // The driver has ended, and no pass will run.
            let _ended = calls.send(Call { pass, after });
        }
    }
}
