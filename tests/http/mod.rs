//! The wire protocol, row by row, against a running daemon over real sockets.
//!
//! Each test is named for the row it holds ostler to. Statuses and bodies are compared to the byte wherever the
//! protocol says what they are, because the runtimes in the field compare texts.

mod agent;
mod auth;
mod beats;
mod containers;
mod events;
mod failing;
mod hostile;
mod load;
mod peers;
mod proxy;
mod reports;
mod workspaces;
