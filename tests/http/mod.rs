//! Tests of the wire protocol against a running daemon over real sockets.
//!
//! The first line of most files names the section of the protocol (§) that the file tests. Statuses and bodies that the
//! protocol specifies are compared byte for byte, because existing runtimes compare the text.

mod activity;
mod agent;
mod auth;
mod changes;
mod containers;
mod delegations;
mod doctor;
mod events;
mod failing;
mod heartbeats;
mod hostile;
mod keys;
mod load;
mod memories;
mod notify;
mod operations;
mod peers;
mod poll;
mod proxy;
mod reports;
mod workspaces;
