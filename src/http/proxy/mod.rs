//! Messages between agents (wire protocol, §6): checks each message, holds it while its target wakes, and forwards it.
//!
//! A caller's request is held rather than queued. Existing agent runtimes cannot handle an "accepted" response, and a
//! queue could lose a message after its sender was informed that it was accepted. The sender gets either the agent's
//! own response or an error. The target's state is read again, from memory, after every change; no earlier state is
//! reused.

pub(super) mod agent_url;
mod connect;
mod deliver;
pub(super) mod dial;
mod error;
pub(super) mod handler;
mod headers;
mod hold;
mod limits;
pub(super) mod listeners;
mod mailbox;
pub(super) mod message;
mod pool;
mod proof;
mod request;
pub(super) mod resolver;
mod stream;
mod target;
#[cfg(test)]
mod testing;
pub(super) mod transport;
mod undelivered;
mod upstream;
pub(super) mod wake;
