//! The field: clients and servers as they behave, against a running daemon over real sockets.
//!
//! `agents.rs` are servers, `clients.rs` are programs that poll and report, each in its smallest form and written from
//! what was observed. `sdk.rs` runs the official SDK itself, unmodified, in real containers.

mod agents;
mod cards;
mod clients;
mod sdk;
