//! The whole of ostler but its edges, on a machine in a box: `executor.rs` says what that is worth.

mod crash;
mod executor;
mod house;
mod invariants;
mod race;
mod smoke;
