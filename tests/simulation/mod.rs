//! All of ostler except its external interfaces, on a simulated machine; `executor.rs` states the guarantees.

#[allow(dead_code, reason = "shared with tests/assurance, which asks for more of it")]
pub(crate) mod copies;
pub(crate) mod crash;
mod events;
pub(crate) mod executor;
mod faults;
mod found;
pub(crate) mod house;
#[allow(dead_code, reason = "shared with tests/assurance, which asks for more of it")]
pub(crate) mod invariants;
#[allow(dead_code, reason = "shared with tests/assurance, which asks for more of it")]
pub(crate) mod outside;
mod pairs;
mod people;
mod race;
mod search;
#[allow(dead_code, reason = "shared with tests/assurance, which asks for more of it")]
pub(crate) mod story;
