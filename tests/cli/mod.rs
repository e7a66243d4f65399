//! The command line: the real binary against a fake daemon with fixed answers.
//!
//! Whole transcripts are stored as snapshots. The snapshots of `--json` output are a contract: users' scripts depend on
//! this format.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed setup fails the test")]

mod answers;
mod configuration;
mod exec;
mod exits;
mod fixtures;
mod help;
mod orders;
mod reload;
mod streams;
mod terminals;
