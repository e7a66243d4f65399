//! The rules of ostler, as plain data and pure functions.
//!
//! No code of this module performs IO, waits or reads a clock, so a test can check every decision with constructed rows
//! and listings. The layers above collect the input and apply the result without making further decisions. `--dry-run`
//! therefore needs no code of its own: it computes the same plan and does not apply it.

pub mod access;
pub mod action;
pub mod activity;
pub mod address;
pub mod bounds;
pub mod breaker;
pub mod budget;
pub mod delegation;
pub mod duration;
pub mod event;
pub mod heartbeat;
pub mod ids;
pub mod inventory;
pub mod lenient;
pub mod liveness;
pub mod memory;
pub mod naming;
pub mod observed;
pub mod operation;
pub mod plan;
pub mod ports;
pub mod presence;
pub mod recovery;
pub mod runtime;
pub mod spec;
pub mod status;
pub mod sweep_row;
pub mod text;
pub mod time;
pub mod token;
pub mod trash;
pub mod workspace;
