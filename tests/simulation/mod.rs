//! The whole of ostler but its edges, on a machine in a box: `executor.rs` says what that is worth.

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
