//! The whole of ostler but its edges, on a machine in a box: `executor.rs` says what that is worth.

pub(crate) mod crash;
mod events;
pub(crate) mod executor;
mod faults;
mod found;
pub(crate) mod house;
pub(crate) mod invariants;
mod pairs;
mod people;
mod race;
mod search;
pub(crate) mod story;
