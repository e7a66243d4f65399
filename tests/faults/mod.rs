//! What goes wrong around ostler: the real binary, the real Podman, and a fault between the two.
//!
//! Every test ends in the same question, asked in `support/truth.rs`: does what ostler says agree with what
//! Podman has, and does every process hold the token that the store takes?

mod bad_input;
mod contention;
mod crashes;
mod engine_away;
mod engine_lost;
mod identity;
mod late_starts;
mod odd_files;
mod unheard_ends;

use crate::support::{
    hasty::{HASTY, creation, make, run_by_hand},
    truth,
};
