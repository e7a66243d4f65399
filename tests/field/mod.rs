//! Existing clients and servers, imitated against a running daemon over real sockets.
//!
//! `agents.rs` imitates servers, and `clients.rs` imitates programs that poll and report. Each imitation is reduced to
//! the observed behaviour. `sdk.rs` runs the official SDK itself, unmodified, in real containers.

mod agents;
mod cards;
mod clients;
mod sdk;
