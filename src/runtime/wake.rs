//! Requests a pass before its regular time.
//!
//! Code whose change must be handled by a pass requests a run of that pass here, with a delay. The driver then runs the
//! pass at that time and does not have to poll every second. If a request is lost, the work is delayed by one period at
//! most: a scheduled run finds the same work in the store and in the listing.

use std::time::Duration;

use tokio::sync::mpsc;

/// A request for a pass, with its delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Name of the pass.
    pub pass: &'static str,
    /// Delay between the request and the run.
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

    /// Creates a sender that discards all requests. Used where plans are computed and never carried out.
    #[must_use]
    pub fn disconnected() -> Self {
        Self(None)
    }

    /// Requests a pass after this delay.
    pub fn after(&self, pass: &'static str, after: Duration) {
        if let Some(calls) = &self.0 {
            // Sending fails only if the driver has ended; no pass runs any more then.
            let _ended = calls.send(Call { pass, after });
        }
    }
}
