//! All of ostler except its external interfaces, on a simulated machine; `executor.rs` states the guarantees.

mod commands;
#[allow(dead_code, reason = "shared with tests/assurance, which uses more of it")]
pub(crate) mod copies;
pub(crate) mod crash;
mod events;
pub(crate) mod executor;
mod faults;
mod found;
pub(crate) mod installation;
#[allow(dead_code, reason = "shared with tests/assurance, which uses more of it")]
pub(crate) mod invariants;
#[allow(dead_code, reason = "shared with tests/assurance, which uses more of it")]
pub(crate) mod outside;
#[allow(dead_code, reason = "shared with tests/assurance, which uses more of it")]
pub(crate) mod pairs;
#[allow(dead_code, reason = "shared with tests/assurance, which uses more of it")]
pub(crate) mod race;
#[allow(dead_code, reason = "shared with tests/assurance, which uses more of it")]
pub(crate) mod scenario;
mod search;
