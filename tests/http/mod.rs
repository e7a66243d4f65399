//! The wire protocol, row by row, against a running daemon over real sockets.
//!
//! Each test is named for the row it holds ostler to. Statuses and bodies are compared to the byte wherever the
//! protocol says what they are, because the runtimes in the field compare texts.

mod activity;
mod agent;
mod auth;
mod beats;
mod changes;
mod containers;
mod delegations;
mod doctor;
mod events;
mod failing;
mod hostile;
mod keys;
mod load;
mod memories;
mod notify;
mod peers;
mod poll;
mod proxy;
mod reports;
mod workspaces;
