//! The rules, as plain data and pure functions.
//!
//! Nothing here does IO, waits, or asks for the time: every decision ostler takes can be called in a
//! test with made-up rows and a made-up listing. The layers above observe the world, hand it in, and
//! carry out what comes back without choosing again. That split is what makes `--dry-run` free and
//! keeps a sweep from deciding on one state and acting on another.

pub mod access;
pub mod activity;
pub mod address;
pub mod beat;
pub mod bounds;
pub mod breaker;
pub mod budget;
pub mod delegation;
pub mod event;
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
