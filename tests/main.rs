//! Everything that needs more than one module, in one binary: it links once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "the whole crate is tests; clippy knows only functions marked so"
)]

mod agents;
mod architecture;
mod cli;
mod faults;
mod field;
mod http;
mod keeper;
mod podman;
mod simulation;
mod store;
mod support;
mod sweep;
