//! Everything that needs more than one module: tests against the real Podman, and what they share.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "the whole crate is tests; clippy knows only functions marked so"
)]

mod house;
mod podman;
mod store;
mod support;
