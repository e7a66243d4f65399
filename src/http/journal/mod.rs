//! The message journal: one row of activity per message that reached the proxy, listed under its target.
//!
//! Rows are collected in memory and written together, so that a message never waits for the disk. Before activity is
//! read, the collected rows are written. A crash loses the latest rows, but no message. (Messages to an agent that
//! polls are not in this journal: each is stored before its sender gets a response.)

mod exchange;
mod rows;
mod write;

pub(super) use exchange::Exchange;
pub(super) use rows::{Journal, cut, method_of};
