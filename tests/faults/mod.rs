//! Faults in the environment: the real binary, the real Podman, and a fault between the two.
//!
//! Every test ends with the check in `support/truth.rs`: ostler's output agrees with Podman, and every process has the
//! token that the store accepts.

mod bad_input;
mod contention;
mod crashes;
mod engine_away;
mod engine_lost;
mod identity;
mod late_starts;
mod lost_exits;
mod odd_files;

use crate::support::{
    hasty::{HASTY, creation, make, run_manually},
    truth,
};
