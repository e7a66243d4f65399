//! The rules of ostler, as plain data and pure functions.
//!
//! Nothing here performs IO, waits or reads a clock: a test can call every decision with constructed rows and listings.
//! The layers above collect the input and apply the result without making further decisions. This separation makes
//! `--dry-run` free, and a sweep cannot decide on one state and act on another.

pub mod access;
pub mod activity;
pub mod address;
pub mod bounds;
pub mod breaker;
pub mod budget;
pub mod delegation;
pub mod event;
pub mod heartbeat;
pub mod ids;
pub mod lenient;
pub mod liveness;
pub mod memory;
pub mod naming;
pub mod observed;
pub mod plan;
pub mod ports;
pub mod presence;
pub mod recovery;
pub mod runtime;
pub mod spec;
pub mod status;
pub mod text;
pub mod time;
pub mod token;
pub mod trash;
pub mod workspace;
