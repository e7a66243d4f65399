//! Registration, heartbeats and discovery of agents (wire protocol, §4).
//!
//! A runtime ignores the response to its heartbeat; the responses are for other clients. If the store cannot write, the
//! response is 503. This failure never leads to a 4xx response or to a change of the workspace's status.

mod access;
mod body;
mod card;
mod discover;
mod fields;
mod heartbeat;
mod peers;
mod register;
mod report;

pub(in crate::http) use access::check_access;
pub(in crate::http) use card::update_card;
pub(in crate::http) use discover::{discover, proxy_url};
pub(in crate::http) use heartbeat::heartbeat;
pub(in crate::http) use peers::peers;
pub(in crate::http) use register::register;
