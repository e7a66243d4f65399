//! Existing clients and servers, imitated against a running daemon over real sockets.
//!
//! `agents.rs` holds servers and `clients.rs` programs that poll and report, each reduced to the observed behaviour.
//! `sdk.rs` runs the official SDK itself, unmodified, in real containers.

mod agents;
mod cards;
mod clients;
mod sdk;
