//! The command line as its users see it: the real binary, in front of a daemon that was told its answers.
//!
//! Whole transcripts are kept as snapshots. Those of `--json` are a contract: a change that breaks one
//! breaks somebody's script.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up has failed")]

mod answers;
mod configuration;
mod exec;
mod exits;
mod help;
mod orders;
mod reload;
mod streams;
mod terminals;
mod things;
