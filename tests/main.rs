//! All tests that use more than one module, in one binary, so that it is linked once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "the whole crate is tests; clippy exempts only functions with #[test]"
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
