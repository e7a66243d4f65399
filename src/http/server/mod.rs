//! Listens on TCP and on the local socket, and serves the router on their connections.
//!
//! Untrusted peers can connect on TCP. axum's own accept loop has no limits. That is sufficient for a socket that only
//! the owner can open. On TCP, a peer could hold connections without end, or send a header at one byte an hour. The
//! loop in `serve.rs` counts connections, limits request heads, and closes a connection on which no request begins for
//! `ConnectionLimits::idle`. A request costs two counter updates, one clock reading and one lock of its own connection.
//!
//! When the table is full, an existing connection is evicted so that the new one can be accepted: first connections
//! that have shown no valid token, then those of the owner with the most connections. Once a connection has carried a
//! valid token, it is counted under the workspace, not under the address: with rootless Podman all containers share one
//! address, and one agent must not use up the connections of the others.

mod accept;
mod activity;
pub(super) mod admission;
mod bind;
mod connection;
mod limits;
mod local;
mod log_limit;
mod owner;
mod rest_of_body;
mod serve;
mod slots;
#[cfg(test)]
mod tests;

pub use bind::bind;
pub use local::serve_local;
pub(super) use owner::Owner;
pub use serve::{serve_agents, serve_agents_of_this_host};
pub(super) use slots::Carrier;
