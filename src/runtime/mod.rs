//! Everything that is not deterministic, as parameters: the clock, the liveness epoch, randomness, tasks and wake-ups. The
//! simulator passes its own.

pub mod clock;
pub mod entropy;
pub mod epoch;
#[cfg(test)]
pub(crate) mod manual_clock;
pub mod tasks;
pub mod wake;
