//! Asks for a pass before its turn.
//!
//! Whoever changes something that a pass will have to see to says so here, and when: the driver wakes for it once,
//! instead of looking every second. A wake that is lost costs a period, never the work: passes find what is to be
//! done by themselves.

use std::time::Duration;

use tokio::sync::mpsc;

/// A pass, and after how long it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The pass.
    pub pass: &'static str,
    /// After how long.
    pub after: Duration,
}

/// Asks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Wake(Option<mpsc::UnboundedSender<Call>>);

impl Wake {
    /// One that somebody hears, and where it is heard.
    #[must_use]
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Call>) {
        let (calls, heard) = mpsc::unbounded_channel();
        (Self(Some(calls)), heard)
    }

    /// One that nobody hears: for plans that are never carried out.
    #[must_use]
    pub fn unheard() -> Self {
        Self(None)
    }

    /// Asks for a pass after so long.
    pub fn after(&self, pass: &'static str, after: Duration) {
        if let Some(calls) = &self.0 {
            // A driver that has ended has nothing to wake for.
            let _ended = calls.send(Call { pass, after });
        }
    }
}
